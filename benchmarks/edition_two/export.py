"""Make ``network.onnx`` of the best student: what the package carries.

    python benchmarks/edition_two/export.py fer2013/ models/edition-two

One graph from RGB crops 0..255 to ``embedding`` and ``probabilities``; its inner maps are layers like any network's.
Of the students the one with the highest accuracy on PublicTest is taken. Probabilities mix both heads, mostly the one
of FER2013's labels. The embedding joins three stages, averaged to 3x3, and the last layer, scaled, projected onto their
principal components on training crops, partly whitened and rotated, so that a head's own scaling does not lift
noise to the height of what matters. Weights are float16, the projection int8; arithmetic is float32.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from networks import STUDENT, Net
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional
from train import LABELS, SEEDS, read

VOTES_SHARE = 0.15
"""Share of the votes' head in the logits. Voters see more neutral and less fear than FER2013's labels do, as do the
labels of other data sets; every tenth costs 0.4 points of accuracy on the former and brings 2 on FER+ majorities."""

GRID, STAGES, NUMBERS, WHITENING, LAST_WEIGHT = 3, (0, 1, 2), 512, 0.5, 3.0
CROPS = 5000
LICENCE = "MIT, as ferkit; trained by this project on FER2013, which was given out for research"
VERSION = "2.0"


class Shipped(nn.Module):
    """A student from RGB crops (n, 48, 48, 3), 0..255, on."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("luma", torch.tensor([[0.299], [0.587], [0.114]]))
        share = VOTES_SHARE
        self.last = nn.Linear(net.hard.in_features, len(LABELS))
        with torch.no_grad():
            self.last.weight.copy_((1 - share) * net.hard.weight + share * net.votes.weight)
            self.last.bias.copy_((1 - share) * net.hard.bias + share * net.votes.bias)
        self.project: nn.Linear | None = None

    def joined(self, maps: list[torch.Tensor], pooled: torch.Tensor) -> torch.Tensor:
        """What the projection takes."""
        grids = [functional.adaptive_avg_pool2d(maps[k], GRID).flatten(1) for k in STAGES]
        return torch.cat([*grids, pooled], 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gray = (images @ self.luma).permute(0, 3, 1, 2)
        centred = gray - gray.mean((1, 2, 3), keepdim=True)
        maps = self.net.maps(centred / torch.sqrt((centred * centred).mean((1, 2, 3), keepdim=True) + 1.0))
        pooled = maps[-1].mean((2, 3))
        joined = self.joined(maps, pooled)
        return joined if self.project is None else self.project(joined), self.last(pooled).softmax(1)


def fit_projection(shipped: Shipped, crops: np.ndarray) -> nn.Linear:
    """Fit scaling, components, whitening and rotation on uint8 gray ``crops`` (n, 48, 48), without labels."""
    X = np.concatenate([found.numpy() for found, _ in run(shipped, crops)]).astype(np.float64)
    sizes = [shipped.net.stages[k][-1].b[0].out_channels * GRID**2 for k in STAGES]
    sizes.append(X.shape[1] - sum(sizes))
    mean, spread = X.mean(0), X.std(0) + 1e-3 * X.std()
    # Each stage counts as much as the other, however large it is, and the last layer more.
    weights = [*(1 / np.sqrt(size) for size in sizes[:-1]), LAST_WEIGHT / np.sqrt(sizes[-1])]
    spread = spread / np.repeat(weights, sizes)
    Z = (X - mean) / spread
    values, vectors = np.linalg.eigh(Z.T @ Z / len(Z))
    values, vectors = values[::-1][:NUMBERS], vectors[:, ::-1][:, :NUMBERS]
    matrix = vectors / np.maximum(values, values[0] * 1e-6) ** (WHITENING / 2)
    matrix /= np.sqrt((values ** (1 - WHITENING)).mean())
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(NUMBERS, NUMBERS)))[0]
    matrix = matrix @ rotation / spread[:, None]
    layer = nn.Linear(X.shape[1], NUMBERS)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(matrix.T))
        layer.bias.copy_(torch.tensor(-mean @ matrix))
    return layer


def run(shipped: Shipped, crops: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Both outputs, batch by batch."""
    with torch.no_grad():
        batches = [torch.tensor(crops[i : i + 64]) for i in range(0, len(crops), 64)]
        return [shipped(batch[..., None].expand(-1, -1, -1, 3).float()) for batch in batches]


def shrink(model: onnx.ModelProto) -> None:
    """Keep large weights as float16, the projection as int8 with a scale for each of its inputs, in place."""
    casts = []
    for tensor in list(model.graph.initializer):
        size = int(np.prod(tensor.dims))
        if tensor.data_type != TensorProto.FLOAT or size <= 64:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if size == max(int(np.prod(t.dims)) for t in model.graph.initializer):
            axis = list(tensor.dims).index(NUMBERS)
            scale = np.abs(values).max(axis=axis, keepdims=True) / 127
            whole = np.rint(values / scale).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(whole, f"{name}/int8"))
            model.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}/scale"))
            casts += [
                helper.make_node("Cast", [f"{name}/int8"], [f"{name}/whole"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}/whole", f"{name}/scale"], [name]),
            ]
        else:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/float16"))
            casts.append(helper.make_node("Cast", [f"{name}/float16"], [name], to=TensorProto.FLOAT))
    rest = [type(node).FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*casts, *rest])


def describe(model: onnx.ModelProto, student: str) -> None:
    """What the file says of itself."""
    model.producer_name, model.producer_version = "ferkit", VERSION
    model.doc_string = "Seven expressions of a face, and 512 numbers for other heads; see MODEL_CARD.md."
    facts = {
        "version": VERSION,
        "labels": ",".join(LABELS),
        "input": "float32 (n, 48, 48, 3), one face a crop, 0..255",
        "input_size_wh": "48,48",
        "color": "RGB; brought to gray, one mean and one spread inside",
        "licence": LICENCE,
        "trained_on": "FER2013, training part, with FER+ votes",
        "student": student,
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)


def fit_on_train(shipped: Shipped, data: Path) -> Shipped:
    """Give it the projection that some training crops make."""
    train = read(data, "train").x.cpu().numpy()
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:CROPS])
    shipped.project = fit_projection(shipped, train[rows])
    return shipped


def save(shipped: Shipped, student: str, target: Path) -> None:
    """Write ``network.onnx``."""
    whole = target.with_suffix(".part")
    torch.onnx.export(
        shipped, (torch.zeros(2, 48, 48, 3),), str(whole), input_names=["images"],
        output_names=["embedding", "probabilities"], dynamic_axes={"images": {0: "n"}, "embedding": {0: "n"},
        "probabilities": {0: "n"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    model = onnx.load(whole)
    shrink(model)
    describe(model, student)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, whole)
    whole.replace(target)
    print(f"{target}: {student}, {target.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--student", help="one of them, instead of the best on PublicTest")
    arguments = parser.parse_args()
    test = read(arguments.data, "test")
    crops, y = test.x.cpu().numpy(), test.y.cpu()
    found: dict[str, tuple[float, Shipped]] = {}
    names = [arguments.student] if arguments.student else [f"student{seed}" for seed in range(SEEDS)]
    for name in names:
        net = Net(**STUDENT)
        saved = torch.load(arguments.state / f"{name}.pt", map_location="cpu")
        net.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in saved.items()}
        )
        shipped = Shipped(net).eval()
        said = torch.cat([proba for _, proba in run(shipped, crops)]).argmax(1)
        found[name] = ((said == y).float().mean().item(), shipped)
        print(f"{name}: {found[name][0]:.2%} on PublicTest", flush=True)
    best = max(found, key=lambda name: found[name][0])
    save(fit_on_train(found[best][1], arguments.data), best, arguments.state / "network.onnx")


if __name__ == "__main__":
    main()
