"""Teach the exported network to say of a turned face what it says of the upright one, and export it again.

    python benchmarks/edition_two/tune.py fer2013/ models/edition-two

The network is its own teacher: what it gives for a crop and its mirror image, not turned, is 85 % of the target for the
same crop, changed in the same way, turned by up to 32 degrees; the rest is the label (and votes). Half an hour on two
processor cores, by bfloat16. It goes on from its last checkpoint, and is not made again where ``upright.onnx``, the
network before, differs from ``network.onnx``.
"""

import argparse
import math
import os
from pathlib import Path

import numpy as np
import onnx
import torch
from augment import Tables, augment, normalise
from export import VOTES_SHARE, Shipped, fit_on_train, save
from networks import STUDENT, Net
from onnx import numpy_helper
from torch import nn
from torch.nn import functional
from train import DEVICE, Part, read

EPOCHS, BATCH, RATE, TURN, WIDE, TRUST = 7.2, 128, 3e-4, 32.0, 0.6, 0.85


def folded(model: onnx.ModelProto) -> Net:
    """The network of an exported file; batch normalisation is part of its convolutions there."""
    tensors = {
        tensor.name.removesuffix("/float16").removeprefix("net."): torch.tensor(
            numpy_helper.to_array(tensor).astype(np.float32)
        )
        for tensor in model.graph.initializer
    }
    net = Net(**{**STUDENT, "drop": 0.0})
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            for i, (conv, norm) in enumerate(zip(list(module), list(module)[1:], strict=False)):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[i] = nn.Conv2d(
                        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
                    )
                    module[i + 1] = nn.Identity()
    convolutions = [net.stem[0]]
    for block in (block for stage in net.stages for block in stage):
        convolutions += [block.a[0], block.b[0]]
        convolutions += [layer for layer in block.short.modules() if isinstance(layer, nn.Conv2d)]
    found = sorted((name for name in tensors if name.startswith("onnx::Conv")), key=lambda n: int(n[11:]))
    with torch.no_grad():
        for conv, weight, bias in zip(convolutions, found[::2], found[1::2], strict=True):
            conv.weight.copy_(tensors[weight])
            conv.bias.copy_(tensors[bias])
        for name, own in net.state_dict().items():
            if ".se." in name:
                own.copy_(tensors[name])
        for head in (net.hard, net.votes):  # mixed there
            head.weight.copy_(tensors["last.weight"])
            head.bias.copy_(tensors["last.bias"])
    return net.to(DEVICE, memory_format=torch.channels_last)


def tune(teacher: Net, net: Net, mean: Net, data: Part, checkpoint: Path) -> None:
    """Train ``net``; ``mean`` becomes the moving average of its weights."""
    hard = functional.one_hot(data.y, 7).float()
    targets = (1 - VOTES_SHARE) * hard + VOTES_SHARE * torch.where(data.voted[:, None] > 0, data.votes, hard)
    tables, wide = Tables.on(DEVICE), torch.tensor(WIDE, device=DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    steps, start = int(EPOCHS * len(data.x) / BATCH), 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=DEVICE)
        net.load_state_dict(saved["net"])
        mean.load_state_dict(saved["mean"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (min(1, step / 50) * (1 + math.cos(math.pi * step / steps)) / 2 + 0.01)
        torch.manual_seed(step)
        rows = torch.randint(0, len(data.x), (BATCH,), device=DEVICE)
        crops = []
        for turn in (0.0, TURN):  # the same draws
            torch.manual_seed(step)
            crops.append(normalise(augment(data.x[rows], tables, wide, turn))[:, None])
        upright, turned = (x.contiguous(memory_format=torch.channels_last) for x in crops)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            with torch.no_grad():
                said = teacher(torch.cat([upright, upright.flip(3)]))[0].float().softmax(1)
            own = net(turned)[0]
        target = TRUST * (said[:BATCH] + said[BATCH:]) / 2 + (1 - TRUST) * targets[rows]
        loss = -(target * own.float().log_softmax(1)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            kept = min(0.998, (step + 1) / (step + 21))
            torch._foreach_lerp_(list(mean.parameters()), [p.detach() for p in net.parameters()], 1 - kept)
        if step % 100 == 99:
            state = {"net": net.state_dict(), "mean": mean.state_dict(), "step": step + 1}
            torch.save({**state, "optimizer": optimizer.state_dict()}, checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)
            print(f"{step + 1} of {steps} steps, loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("state", type=Path)
    arguments = parser.parse_args()
    network, upright = arguments.state / "network.onnx", arguments.state / "upright.onnx"
    if upright.is_file() and upright.read_bytes() != network.read_bytes():
        return
    upright.write_bytes(network.read_bytes())
    model = onnx.load(network)
    teacher, net, mean = (folded(model) for _ in range(3))
    checkpoint = arguments.state / "tuned.checkpoint"
    tune(teacher.eval(), net, mean, read(arguments.data, "train"), checkpoint)
    student = {entry.key: entry.value for entry in model.metadata_props}["student"]
    mean.votes.load_state_dict(mean.hard.state_dict())
    save(fit_on_train(Shipped(mean.cpu().eval()), arguments.data), student, network)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
