"""Train the teachers, and then the students that they teach, on FER2013's training part.

    python benchmarks/edition_two/train.py fer2013/ models/edition-two

``fer2013/`` holds train/<emotion>/*.png, test/<emotion>/*.png (the official PublicTest) and labels.csv with FER+ votes.
Needs Torch (``pip install torch``), which nothing else here does. On one H200 it takes about twelve minutes: 75
seconds for each of three teachers, 420 for three students at a time; ``--seconds-scale`` stretches that, and a
processor needs days. Every network is written when it is finished, and what is there is not made again; a network
goes on from its last minute after an interrupt.

Nothing is trained on PublicTest; it is only reported.
"""

import argparse
import copy
import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from augment import Tables, augment, mix, network_input, normalise
from networks import STUDENT, TEACHERS, Net
from PIL import Image
from torch import nn
from torch.nn import functional

LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
VOTES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TEACHER_SECONDS, STUDENT_SECONDS = 75.0, 420.0
SEEDS = 3


@dataclass(frozen=True)
class Part:
    """Images uint8 (n, 48, 48), labels (n,), votes (n, 7) that sum to 1, and whether the votes count (n,)."""

    x: torch.Tensor
    y: torch.Tensor
    votes: torch.Tensor
    voted: torch.Tensor


def read(data: Path, name: str) -> Part:
    """The part train/ or test/; blank images are left out of train/. Votes for contempt count as disgust."""
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith(f"{name}/")]
    images = np.stack([np.asarray(Image.open(data / row["path"]).convert("L")) for row in rows])
    votes = np.array([[float(row[f"ferplus_{vote}"] or 0) for vote in VOTES] for row in rows], np.float32)
    votes[:, 1] += [float(row["ferplus_contempt"] or 0) for row in rows]
    no_face = np.array([float(row["ferplus_NF"] or 0) for row in rows])
    total = votes.sum(1)
    drawn = images.reshape(len(images), -1).std(1) > 2
    arrays = (
        images,
        np.array([LABELS.index(row["label"]) for row in rows]),
        np.where(total[:, None] > 0, votes / np.maximum(total[:, None], 1), np.float32(1 / 7)),
        ((total > 0) & (no_face < 5) & drawn).astype(np.float32),
    )
    keep = drawn if name == "train" else slice(None)
    return Part(*(torch.tensor(array[keep], device=DEVICE) for array in arrays))


class Learner:
    """A network in training: gradient descent with Nesterov's momentum, and the moving average that counts."""

    def __init__(self, settings: dict, seed: int, rate: float) -> None:
        torch.manual_seed(seed)
        self.channels, self.rate = settings.get("channels", 1), rate
        self.net = Net(**settings).to(DEVICE, memory_format=torch.channels_last)
        self.mean = copy.deepcopy(self.net).eval()
        self._params = list(self.net.parameters())
        self._decayed = [p for p in self._params if p.ndim > 1]
        self._momentum = [torch.zeros_like(p) for p in self._params]
        self._now, self._averaged = (
            [p.detach() for p in net.parameters()] + [b for b in net.buffers() if b.is_floating_point()]
            for net in (self.net, self.mean)
        )

    def __call__(self, x: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(DEVICE.type, torch.bfloat16, cache_enabled=False):
            hard, votes = self.net(network_input(x, self.channels, tables))
        return hard.float(), votes.float()

    def update(self, loss: torch.Tensor, rate: torch.Tensor) -> None:
        for p in self._params:
            p.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._params, 5.0, foreach=True)
        with torch.no_grad():
            gradients = [p.grad for p in self._params]
            torch._foreach_add_([p.grad for p in self._decayed], self._decayed, alpha=5e-4)
            torch._foreach_mul_(self._momentum, 0.9)
            torch._foreach_add_(self._momentum, gradients)
            steps = torch._foreach_mul(self._momentum, 0.9)
            torch._foreach_add_(steps, gradients)
            torch._foreach_mul_(steps, -rate * self.rate)
            torch._foreach_add_(self._params, steps)
            torch._foreach_lerp_(self._averaged, self._now, 0.002)

    def state(self) -> dict:
        return {"net": self.net.state_dict(), "mean": self.mean.state_dict(), "momentum": self._momentum}

    def restore(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.mean.load_state_dict(state["mean"])
        for own, saved in zip(self._momentum, state["momentum"], strict=True):
            own.copy_(saved)


@dataclass(frozen=True)
class Plan:
    """How a run goes: seconds of training, images a step, seed, and where it keeps what it has so far."""

    seconds: float
    batch: int
    seed: int
    checkpoint: Path


def train(
    learners: Sequence[Learner], teachers: Sequence[Net], data: Part, tables: Tables, plan: Plan
) -> None:
    """Train all learners on the same batches for as long as the plan says, by labels and votes, and by what the mean of
    the teachers says of the very same crop. The learning rate falls by a cosine of the time that is used up; wide
    changes and mixtures become fewer towards the end, and there are no mixtures in the last eighth."""
    torch.manual_seed(plan.seed)
    n = len(data.x)
    batch = min(plan.batch, n)
    used = 0.0
    if plan.checkpoint.is_file():
        saved = torch.load(plan.checkpoint, map_location=DEVICE)
        used = saved["used"]
        for learner, state in zip(learners, saved["learners"], strict=True):
            learner.restore(state)
        torch.manual_seed(plan.seed + round(used))
    rate, wide, mixing, trust = (torch.zeros((), device=DEVICE) for _ in range(4))
    rows = torch.zeros(batch, dtype=torch.long, device=DEVICE)
    smooth = 0.0 if teachers else 0.05
    targets = functional.one_hot(data.y, 7).float() * (1 - smooth) + smooth / 7

    def step() -> None:
        x = normalise(augment(data.x[rows], tables, wide))
        x, (hard, votes, voted) = mix(x, [targets[rows], data.votes[rows], data.voted[rows][:, None]], mixing)
        if teachers:
            with torch.no_grad():
                said = [net(_as(net, network_input(x, net.stem[0].in_channels, tables))) for net in teachers]
                for k, given in enumerate((hard, votes)):
                    mean = sum(found[k].float().softmax(1) for found in said) / len(teachers)
                    given.copy_(trust * mean + (1 - trust) * given)
        for learner in learners:
            own_hard, own_votes = learner(x, tables)
            loss = -(hard * own_hard.log_softmax(1)).sum(1).mean()
            loss = loss - 0.7 * (voted[:, 0] * (votes * own_votes.log_softmax(1)).sum(1)).mean()
            learner.update(loss, rate)

    def set_for(progress: float) -> None:
        rate.fill_(min(1.0, progress / 0.04) * (1 + math.cos(math.pi * progress)) / 2 + 1e-4)
        wide.fill_(0.65 if progress < 0.7 else 0.45 if progress < 0.9 else 0.3)
        mixing.fill_(0.6 if progress < 0.7 else 0.3 if progress < 0.88 else 0.0)
        trust.fill_(0.85 if progress < 0.9 else 0.7)

    for learner in learners:
        learner.net.train()
    run = step
    order, at, steps, begin, kept = (
        torch.randperm(n, device=DEVICE),
        0,
        0,
        time.monotonic() - used,
        time.monotonic(),
    )
    while (progress := (time.monotonic() - begin) / plan.seconds) < 1:
        set_for(progress)
        if at + batch > n:
            order, at = torch.randperm(n, device=DEVICE), 0
        rows.copy_(order[at : at + batch])
        if DEVICE.type == "cuda" and steps == 4:
            run = _captured(step)
        run()
        at, steps = at + batch, steps + 1
        if DEVICE.type == "cuda" and steps % 8 == 0:
            torch.cuda.synchronize()
        if time.monotonic() - kept > 60:
            kept = time.monotonic()
            state = {"used": kept - begin, "learners": [learner.state() for learner in learners]}
            torch.save(state, plan.checkpoint.with_suffix(".part"))
            plan.checkpoint.with_suffix(".part").replace(plan.checkpoint)
            print(
                f"  {progress:.0%}, {steps * batch / n:.1f} epochs since the start of this process",
                flush=True,
            )
    wide.fill_(0.3)
    for learner in learners:
        _renew_statistics(learner, data, tables, wide)


def _captured(step):  # type: ignore[no-untyped-def]
    """The same as a CUDA graph: launching hundreds of small kernels costs more than running them."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _as(net: Net, x: torch.Tensor) -> torch.Tensor:
    return x.to(net.hard.weight.dtype)


@torch.no_grad()
def _renew_statistics(learner: Learner, data: Part, tables: Tables, wide: torch.Tensor) -> None:
    """Batch normalisation of the moving average, from crops that are changed little."""
    layers = [module for module in learner.mean.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # type: ignore[assignment]
        layer.train()
    for _ in range(12):
        rows = torch.randint(0, len(data.x), (min(1024, len(data.x)),), device=DEVICE)
        learner.mean(network_input(normalise(augment(data.x[rows], tables, wide)), learner.channels, tables))
    learner.mean.eval()


@torch.no_grad()
def report(name: str, net: Net, data: Part, tables: Tables) -> None:
    """Print the accuracy on PublicTest, of labels and of clear FER+ majorities."""
    found = []
    for start in range(0, len(data.x), 1024):
        x = normalise(data.x[start : start + 1024].float())
        found.append(torch.stack(net(network_input(x, net.stem[0].in_channels, tables)), 1).argmax(2))
    hard, votes = torch.cat(found).T
    clear = (data.votes.max(1).values > 0.5) & (data.voted > 0)
    figures = {
        "labels": (hard == data.y).float().mean().item(),
        "FER+ majority": (votes == data.votes.argmax(1))[clear].float().mean().item(),
    }
    print(name, json.dumps({key: round(value, 4) for key, value in figures.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--seconds-scale", type=float, default=1.0)
    parser.add_argument("--limit", type=int, help="rows of each part, to try it out")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    parts = [read(arguments.data, name) for name in ("train", "test")]
    if arguments.limit:
        parts = [Part(*(values[: arguments.limit] for values in vars(part).values())) for part in parts]
    data, test = parts
    tables = Tables.on(DEVICE)
    for seed, (name, settings) in enumerate(TEACHERS.items(), 10):
        file = arguments.state / f"{name}.pt"
        if not file.is_file():
            learner = Learner(settings, seed, 0.1)
            plan = Plan(TEACHER_SECONDS * arguments.seconds_scale, 256, seed, file.with_suffix(".checkpoint"))
            train([learner], [], data, tables, plan)
            torch.save(learner.mean.state_dict(), file)
            plan.checkpoint.unlink(missing_ok=True)
            report(name, learner.mean, test, tables)
    files = [arguments.state / f"student{seed}.pt" for seed in range(SEEDS)]
    if not all(file.is_file() for file in files):
        teachers = []
        for name, settings in TEACHERS.items():
            net = Net(**settings)
            net.load_state_dict(torch.load(arguments.state / f"{name}.pt", map_location="cpu"))
            net.to(
                DEVICE,
                torch.bfloat16 if DEVICE.type == "cuda" else torch.float32,
                memory_format=torch.channels_last,
            )
            teachers.append(net.eval())
        learners = [Learner(STUDENT, seed, 0.16) for seed in range(SEEDS)]
        plan = Plan(
            STUDENT_SECONDS * arguments.seconds_scale, 512, 103, arguments.state / "students.checkpoint"
        )
        train(learners, teachers, data, tables, plan)
        for file, learner in zip(files, learners, strict=True):
            torch.save(learner.mean.state_dict(), file)
            report(file.stem, learner.mean, test, tables)
        plan.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
