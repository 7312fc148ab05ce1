"""Inner tensors of a network that an embedding can be taken from.

A network trained to tell persons apart is trained to overlook their expression: its last layer has lost it,
its middle layers still hold it. A *stage* is the part of a network with one spatial stride, ``stage1`` with
stride 1, ``stage2`` with 2, ``stage3`` with 4 and so on; its end is the richest tensor of that size.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ferkit.core.errors import DataError, WeightsError
from ferkit.embedder.graph import constant_names, consumed, input_names

if TYPE_CHECKING:
    import onnx

LARGEST_POOL = 7
"""Maps are averaged to at most this many rows and columns unless another size is asked for."""

JOIN = "+"
"""Between the names of layers that make up one embedding, laid out one behind the other."""

LARGEST_JOINED_POOL = 4
"""The same where several layers are joined, which adds up."""


@dataclass(frozen=True)
class Tap:
    """One place to take the embedding from.

    Attributes:
        name: ``stage2`` …, ``last`` for the network's own output, or the tensor's own name.
        tensor: name of the tensor in the graph.
        shape: of one picture: (channels, height, width), or (dim,).
        channels_last: whether the tensor itself is (n, height, width, channels).
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    channels_last: bool = False

    @property
    def default_pool_hw(self) -> tuple[int, int] | None:
        """Rows and columns that the maps are averaged to if nobody says otherwise; None for vectors."""
        if len(self.shape) != 3:
            return None
        return self.fitting_pool_hw((LARGEST_POOL, LARGEST_POOL))

    def fitting_pool_hw(self, pool_hw: tuple[int, int]) -> tuple[int, int] | None:
        """``pool_hw``, or as much of it as the maps have; None for vectors."""
        if len(self.shape) != 3:
            return None
        return min(self.shape[1], pool_hw[0]), min(self.shape[2], pool_hw[1])


def list_taps(model: "onnx.ModelProto", input_size_wh: tuple[int, int]) -> list[Tap]:
    """The ends of all stages and the network's own output, from the input to the output.

    The end of a stage is its last residual sum, which is before the expansion to the next stage; in stages
    without residual sums the last convolution, activation or the like.
    """
    layout = _Layout(model, input_size_wh)
    ends: dict[int, str] = {}
    sums: dict[int, str] = {}
    for node in model.graph.node:
        tensor = node.output[0]
        stage = layout.stage_of(tensor)
        if stage is None or node.op_type in _KEEPS_VALUES or not layout.is_learnt(tensor):
            continue
        ends[stage] = tensor
        if layout.is_residual_sum(node):
            sums[stage] = tensor
    stages = [layout.tap(f"stage{stage}", sums.get(stage, end)) for stage, end in sorted(ends.items())]
    return [*stages, layout.tap("last", model.graph.output[0].name)]


def find_tap(model: "onnx.ModelProto", input_size_wh: tuple[int, int], name: str) -> Tap:
    """The tap called ``name``: a stage, ``last``, or any tensor of the network.

    Raises:
        DataError: there is none, or it cannot be an embedding.
    """
    taps = list_taps(model, input_size_wh)
    for tap in taps:
        if tap.name == name:
            return tap
    layout = _Layout(model, input_size_wh)
    if name not in layout.shapes or len(layout.shapes[name]) < 2:
        known = ", ".join(f"{tap.name} ({tap.tensor})" for tap in taps)
        raise DataError(f"expected a tap or tensor of the network, found {name!r}; taps: {known}")
    return layout.tap(name, name)


def find_layers(model: "onnx.ModelProto", input_size_wh: tuple[int, int], names: str) -> list[Tap]:
    """The layers that ``names`` joins: one, as :func:`find_tap` takes it, or several with + between them.

    Raises:
        DataError: one of them does not exist, cannot be an embedding, or is named twice.
    """
    if JOIN not in names or names in _Layout(model, input_size_wh).shapes:
        return [find_tap(model, input_size_wh, names)]
    layers = [find_tap(model, input_size_wh, name.strip()) for name in names.split(JOIN)]
    if len({layer.tensor for layer in layers}) < len(layers):
        raise DataError(f"expected different layers joined by {JOIN}, found {names!r}; name each once")
    return layers


_KEEPS_VALUES = frozenset(
    {"Pad", "Transpose", "Reshape", "Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Unsqueeze", "Slice"}
)
_ELEMENTWISE = frozenset(
    {"Min", "Max", "Mul", "Div", "Sub", "Neg", "Abs", "Relu", "LeakyRelu", "Clip", "Sigmoid"}
)
_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class _Layout:
    """Shapes and meanings of the tensors of a graph, for one picture of the given size."""

    def __init__(self, model: "onnx.ModelProto", input_size_wh: tuple[int, int]) -> None:
        self._height = input_size_wh[1]
        self._constants = constant_names(model)
        self._producers = {output: node for node in model.graph.node for output in node.output}
        self.shapes = _inferred_shapes(model, input_size_wh)
        (first,) = input_names(model)
        self._channels_last = {first} if self.shapes[first][3] in (1, 3) else set()
        self._learnt: set[str] = set()
        for node in model.graph.node:
            self._follow(node)

    def _follow(self, node: "onnx.NodeProto") -> None:
        sources = [name for name in consumed(node) if name not in self._constants]
        if node.op_type in ("Conv", "Gemm", "MatMul") or any(name in self._learnt for name in sources):
            self._learnt.update(node.output)
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        if node.op_type == "Transpose" and perm in (_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST):
            last = perm == _TO_CHANNELS_LAST
        else:
            last = node.op_type != "Conv" and any(name in self._channels_last for name in sources)
        if last:
            self._channels_last.update(node.output)

    def is_learnt(self, tensor: str) -> bool:
        """Whether weights have had a part in it."""
        return tensor in self._learnt

    def tap(self, name: str, tensor: str) -> Tap:
        shape = self.shapes.get(tensor, (1, 0))[1:]
        last = tensor in self._channels_last and len(shape) == 3
        return Tap(name, tensor, (shape[2], *shape[:2]) if last else shape, last)

    def stage_of(self, tensor: str) -> int | None:
        """1 for stride 1, 2 for stride 2, 3 for 4, …; None for what is no map. Odd sizes are rounded."""
        shape = self.shapes.get(tensor, ())
        if len(shape) != 4:
            return None
        height, width = shape[1:3] if tensor in self._channels_last else shape[2:]
        if height * width <= 1 or height > self._height:
            return None
        return round(math.log2(self._height / height)) + 1

    def is_residual_sum(self, node: "onnx.NodeProto") -> bool:
        """A sum of two branches that differ in more than elementwise arithmetic; a PReLU in parts is none."""
        branches = [name for name in node.input if name not in self._constants]
        if node.op_type not in ("Add", "Sum") or len(branches) < 2:
            return False
        return len({self._source(name) for name in branches}) > 1

    def _source(self, tensor: str) -> str:
        """Back through elementwise arithmetic with constants."""
        while (node := self._producers.get(tensor)) is not None and node.op_type in _ELEMENTWISE:
            varying = [name for name in node.input if name and name not in self._constants]
            if len(varying) != 1:
                break
            tensor = varying[0]
        return tensor


def _inferred_shapes(model: "onnx.ModelProto", input_size_wh: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors whose shape can be known, for a batch of one picture."""
    import onnx

    names = input_names(model)
    if len(names) != 1:
        raise WeightsError(
            f"expected a network with one input, found {', '.join(names)}; taps need one picture"
        )
    light = _without_large_weights(model)
    for value in light.graph.input:
        if value.name == names[0]:
            dims = value.type.tensor_type.shape.dim
            height, width = (1, 2) if dims[3].dim_value in (1, 3) else (2, 3)
            dims[0].dim_value, dims[height].dim_value, dims[width].dim_value = (
                1,
                input_size_wh[1],
                input_size_wh[0],
            )
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    values: Iterable[onnx.ValueInfoProto] = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    return {name: shape for name, shape in shapes.items() if shape and all(shape)}


def _without_large_weights(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The same graph with its weights as inputs: their shapes are enough, and copying them takes time."""
    from onnx import ModelProto, helper

    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = "shapes"
    light.graph.node.extend(model.graph.node)
    known = {value.name for value in model.graph.input}
    light.graph.input.extend(model.graph.input)
    for value in model.graph.output:
        light.graph.output.append(
            helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)
        )
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= 64:  # targets of Reshape, axes and the like are needed by value
            light.graph.initializer.append(tensor)
        elif tensor.name not in known:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light
