"""Networks with random weights, for tests and benchmarks where the real ones cannot be had."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """An ONNX graph, a node at a time; every method returns the name of what it computes."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        output = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, n_in: int, n_out: int, side: int = 3, stride: int = 1) -> str:
        """Without bias, He-initialised, padded to keep the size at stride 1."""
        weights = self.random.normal(0, np.sqrt(2 / (n_in * side * side)), (n_out, n_in, side, side))
        pad = side // 2
        return self.add("Conv", x, self.constant(weights), strides=[stride, stride], pads=[pad] * 4)

    def batch_norm(self, x: str, n: int, scale: float = 1.0) -> str:
        """With statistics near those of white noise, so that signals neither vanish nor explode."""
        factor, shift, mean = (self.random.normal(middle, 0.05, n) for middle in (scale, 0, 0))
        values = factor, shift, mean, self.random.uniform(0.8, 1.2, n)
        return self.add("BatchNormalization", x, *map(self.constant, values), epsilon=2e-5)

    def prelu(self, x: str, n: int) -> str:
        return self.add("PRelu", x, self.constant(self.random.uniform(0.1, 0.4, (n, 1, 1))))

    def save(self, path: Path, output: str, dim: int, input_shape: Sequence[int | str]) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(input_shape))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [input_shape[0], dim])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path


def arcface_resnet34(path: Path, seed: int = 0) -> Path:
    """The network of DeepFace's ArcFace with random weights, written to ``path``.

    (n, 112, 112, 3) channels last to (n, 512); pre-activation residual units (3, 4, 6, 3) up to 512 channels.
    """
    g = GraphBuilder(seed)
    x = g.add("Transpose", "input", perm=[0, 3, 1, 2])
    x = g.prelu(g.batch_norm(g.conv(x, 3, 64), 64), 64)
    n_in = 64
    for n_out, units in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for unit in range(units):
            stride = 2 if unit == 0 else 1
            shortcut = g.batch_norm(g.conv(x, n_in, n_out, side=1, stride=2), n_out) if unit == 0 else x
            y = g.conv(g.batch_norm(x, n_in), n_in, n_out)
            y = g.conv(g.prelu(g.batch_norm(y, n_out), n_out), n_out, n_out, stride=stride)
            x = g.add("Add", shortcut, g.batch_norm(y, n_out, scale=0.5))
            n_in = n_out
    x = g.add("Flatten", g.batch_norm(x, 512))
    dense = g.constant(g.random.normal(0, np.sqrt(1 / 25088), (25088, 512)))
    x = g.batch_norm(g.add("MatMul", x, dense), 512)
    return g.save(path, x, 512, ["batch", 112, 112, 3])


def small_network(
    path: Path,
    *,
    size_wh: tuple[int | str, int | str] = (32, 24),
    channels_first: bool = False,
    n_channels: int = 3,
    batch: int | str = "batch",
    dim: int = 8,
) -> Path:
    """A residual network of a few thousand weights with strides 2 and 4, written to ``path``."""
    g = GraphBuilder()
    x = "input" if channels_first else g.add("Transpose", "input", perm=[0, 3, 1, 2])
    n_in = n_channels
    for n_out in (8, 16):
        x = g.add("Relu", g.conv(x, n_in, n_out, stride=2))
        x = g.add("Add", x, g.batch_norm(g.conv(x, n_out, n_out), n_out))
        n_in = n_out
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    x = g.add("MatMul", x, g.constant(g.random.normal(0, 0.3, (n_in, dim))))
    width, height = size_wh
    shape = [batch, n_channels, height, width] if channels_first else [batch, height, width, n_channels]
    return g.save(path, x, dim, shape)
