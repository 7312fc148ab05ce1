"""Run ONNX networks: cut the graph at a layer, embed in batches.

A network trained to tell persons apart is trained to overlook their expression: its last layer has lost it,
its middle layers still hold it. A *stage* is the part of a network with one spatial stride, ``stage1`` with
stride 1, ``stage2`` with 2, ``stage3`` with 4 and so on; its end is the richest tensor of that size.
"""

import dataclasses
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferkit.core.errors import DataError, WeightsError
from ferkit.embedder.engines import CPU, PROVIDERS, Engine, Session, fold, open_session, requested_engines
from ferkit.embedder.onnx_graph import (
    constant_names,
    consumed,
    cut,
    input_names,
    load_graph,
    quantized_tensors,
)
from ferkit.embedder.settings import Embedder, EmbedderSettings, network_input, resize_crops

if TYPE_CHECKING:
    import onnx


_CALIBRATION_BATCH = 16

LARGEST_POOL = 7
"""Maps are averaged to at most this many rows and columns unless another size is asked for."""

JOIN = "+"
"""Between the names of layers that make up one embedding, laid out one behind the other."""

LARGEST_JOINED_POOL = 4
"""The same where several layers are joined, which adds up."""


@dataclass(frozen=True)
class Layer:
    """One place to take the embedding from.

    Attributes:
        name: ``stage2`` …, ``last`` for the network's own output, or the tensor's own name.
        tensor: name of the tensor in the graph.
        shape: of one image: (channels, height, width), or (dim,).
        channels_last: whether the tensor itself is (n, height, width, channels).
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    channels_last: bool = False

    @property
    def default_pool_hw(self) -> tuple[int, int] | None:
        """Rows and columns that the maps are averaged to if nobody says otherwise; None for vectors."""
        return self.fitting_pool_hw((LARGEST_POOL, LARGEST_POOL))

    def fitting_pool_hw(self, pool_hw: tuple[int, int]) -> tuple[int, int] | None:
        """``pool_hw``, or as much of it as the maps have; None for vectors."""
        if len(self.shape) != 3:
            return None
        return min(self.shape[1], pool_hw[0]), min(self.shape[2], pool_hw[1])


def list_layers(model: "onnx.ModelProto", input_size_wh: tuple[int, int]) -> list[Layer]:
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
        if stage is None or node.op_type in _KEEPS_VALUES or tensor not in layout.learnt:
            continue
        ends[stage] = tensor
        if layout.is_residual_sum(node):
            sums[stage] = tensor
    stages = [layout.layer(f"stage{stage}", sums.get(stage, end)) for stage, end in sorted(ends.items())]
    return [*stages, layout.layer("last", model.graph.output[0].name)]


def find_layer(model: "onnx.ModelProto", input_size_wh: tuple[int, int], name: str) -> Layer:
    """The layer called ``name``: a stage, ``last``, or any tensor of the network.

    Raises:
        DataError: there is none, or it cannot be an embedding.
    """
    layers = {layer.name: layer for layer in list_layers(model, input_size_wh)}
    if name in layers:
        return layers[name]
    layout = _Layout(model, input_size_wh)
    if len(layout.shapes.get(name, ())) < 2:
        known = ", ".join(f"{layer.name} ({layer.tensor})" for layer in layers.values())
        raise DataError(f"expected a layer or tensor of the network, found {name!r}; layers: {known}")
    return layout.layer(name, name)


def find_layers(model: "onnx.ModelProto", input_size_wh: tuple[int, int], names: str) -> list[Layer]:
    """The layers that ``names`` joins: one, as :func:`find_layer` takes it, or several with + between them.

    Raises:
        DataError: one of them does not exist, cannot be an embedding, or is named twice.
    """
    if JOIN not in names or names in _Layout(model, input_size_wh).shapes:
        return [find_layer(model, input_size_wh, names)]
    layers = [find_layer(model, input_size_wh, name.strip()) for name in names.split(JOIN)]
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
    """Shapes and meanings of the tensors of a graph, for one image of the given size."""

    def __init__(self, model: "onnx.ModelProto", input_size_wh: tuple[int, int]) -> None:
        self._height = input_size_wh[1]
        self._constants = constant_names(model)
        self._producers = {output: node for node in model.graph.node for output in node.output}
        self.shapes = _inferred_shapes(model, input_size_wh)
        (first,) = input_names(model)
        self._channels_last = {first} if self.shapes[first][3] in (1, 3) else set()
        self.learnt: set[str] = set()
        """Tensors in which weights have had a part."""
        for node in model.graph.node:
            self._follow(node)

    def _follow(self, node: "onnx.NodeProto") -> None:
        sources = [name for name in consumed(node) if name not in self._constants]
        if node.op_type in ("Conv", "Gemm", "MatMul") or any(name in self.learnt for name in sources):
            self.learnt.update(node.output)
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        if node.op_type == "Transpose" and perm in (_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST):
            last = perm == _TO_CHANNELS_LAST
        else:
            last = node.op_type != "Conv" and any(name in self._channels_last for name in sources)
        if last:
            self._channels_last.update(node.output)

    def layer(self, name: str, tensor: str) -> Layer:
        shape = self.shapes.get(tensor, (1, 0))[1:]
        last = tensor in self._channels_last and len(shape) == 3
        return Layer(name, tensor, (shape[2], *shape[:2]) if last else shape, last)

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
    """Shapes of all tensors whose shape can be known, for a batch of one image."""
    import onnx

    names = input_names(model)
    if len(names) != 1:
        raise WeightsError(
            f"expected a network with one input, found {', '.join(names)}; layers need one image"
        )
    light = _without_large_weights(model)
    image = next(value for value in light.graph.input if value.name == names[0])
    n, *sides = image.type.tensor_type.shape.dim
    height, width = sides[:2] if sides[2].dim_value in (1, 3) else sides[1:]
    n.dim_value, width.dim_value, height.dim_value = 1, *input_size_wh
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


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputFormat:
    """What a network takes, as far as its graph says.

    Attributes:
        name: of the input tensor.
        channels_first: (n, c, height, width) instead of (n, height, width, c).
        n_channels: 1 or 3.
        size_wh: width and height in pixels, None where the graph takes any.
        batch_size: how many images a run takes, None for any number.
    """

    name: str
    channels_first: bool
    n_channels: int
    size_wh: tuple[int, int] | None
    batch_size: int | None


class NetworkEmbedder(Embedder):
    """An ONNX network as embedder; made by :func:`open_network`.

    Attributes:
        engine: what runs it; the settings name another where that one is not here.
    """

    def __init__(
        self,
        settings: EmbedderSettings,
        runner: "BatchRunner",
        pools: Sequence[tuple[int, int] | None],
        weights_path: Path,
        licence: str,
    ) -> None:
        self.engine = runner.engine
        self._runner, self._pools = runner, pools
        blank = np.zeros((1, *settings.input_size_wh[::-1], 3), np.uint8)
        super().__init__(settings, self._features(blank, settings).shape[1], weights_path, licence)
        self.at_once = runner.at_once
        self.batch_size = 256 if self.engine.name in PROVIDERS else 32

    def __reduce__(self) -> tuple[Any, ...]:  # sessions cannot be pickled
        return open_network, (self.weights_path, self.settings, self.licence)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, H, W, 3); other sizes are brought to the input size.

        Raises:
            DataError: crops of another shape or type.
        """
        crops = resize_crops(crops, self.input_size_wh, self.resize)
        return self._features(crops, self.settings) if len(crops) else np.empty((0, self.dim), np.float32)

    def _features(self, crops: np.ndarray, settings: EmbedderSettings) -> np.ndarray:
        outputs = self._runner.run(crops)
        # A network may have more outputs than the first, which is its embedding.
        layers = [
            pool_features(output, pool_hw) for output, pool_hw in zip(outputs, self._pools, strict=False)
        ]
        features = layers[0] if len(layers) == 1 else np.concatenate(layers, axis=1)
        return l2_normalized(features) if settings.l2_normalize else features


class BatchRunner:
    """Crops of the input size in, the network's outputs out.

    Args:
        session: of the network.
        network_format: what it takes.
        settings: how crops become that.
    """

    def __init__(self, session: Session, network_format: InputFormat, settings: EmbedderSettings) -> None:
        self.engine, self.at_once = session.engine, session.at_once
        self._session = session
        self._format = network_format
        self._settings = settings

    def run(self, crops: np.ndarray) -> list[np.ndarray]:
        """Every output, float32 (n, …), for uint8 RGB ``crops`` (n, height, width, 3), n at least 1."""
        values = network_input(crops, self._settings, self._format.channels_first)
        size = self._format.batch_size
        if size is None:
            return self._run(values)
        batches = [values[start : start + size] for start in range(0, len(values), size)]
        missing = size - len(batches[-1])  # a fixed batch size wants the last one filled up
        batches[-1] = np.concatenate([batches[-1], np.zeros((missing, *values.shape[1:]), np.float32)])
        parts = [self._run(batch) for batch in batches]
        return [np.concatenate(outputs)[: len(values)] for outputs in zip(*parts, strict=True)]

    def _run(self, values: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {self._format.name: values})


def open_network(
    path: Path,
    settings: EmbedderSettings,
    licence: str,
    threads: int | None = None,
    engines: Sequence[Engine] | None = None,
) -> NetworkEmbedder:
    """An ONNX file as embedder.

    Args:
        path: the file.
        settings: what is put in and taken out; ``layer`` may be the name of a stage, or of several joined by +, and
            its ``pool_hw`` None: the embedder's own settings then say which tensors and pooling that is.
        licence: of the weights, for model cards.
        threads: see :func:`ferkit.embedder.engines.open_session`.
        engines: to try for new embeddings, the best first: the embedder's own settings then name the one that was
            taken. None takes the settings' own, or where that is not here, another.

    Raises:
        WeightsError: no ONNX network, or it takes another size or colour than the settings say.
        DataError: no such layer, or a pooling that it does not allow.
    """
    source, network_format, settings, pools = _cut_at_layers(path, settings)
    session = open_session(
        source, path.name, engines or engines_of(settings), threads=threads, ranges=settings.ranges
    )
    if engines is not None:
        name, precision = session.engine.name, session.engine.precision
        ranges = settings.ranges if precision == "int8" else None
        settings = dataclasses.replace(settings, engine=name, precision=precision, ranges=ranges)
    runner = BatchRunner(session, network_format, settings)
    return NetworkEmbedder(settings, runner, pools, path, licence)


def _cut_at_layers(
    path: Path, settings: EmbedderSettings
) -> tuple[Path | bytes, InputFormat, EmbedderSettings, list[tuple[int, int] | None]]:
    """The network with the layers of the settings as its outputs, settings that name tensors, the pooling of each."""
    model = load_graph(path)
    network_format = input_format(model)
    _check_fits(settings, network_format, path)
    if settings.layer == "last":
        settings = dataclasses.replace(settings, layer=None)
    if settings.layer is None:
        return path, network_format, settings, [settings.pool_hw]
    layers = find_layers(model, settings.input_size_wh, settings.layer)
    if len(layers) == 1:
        pools = [settings.pool_hw or layers[0].default_pool_hw]
        settings = dataclasses.replace(settings, layer=layers[0].tensor, pool_hw=pools[0])
    else:
        largest = settings.pool_hw or (LARGEST_JOINED_POOL, LARGEST_JOINED_POOL)
        pools = [layer.fitting_pool_hw(largest) for layer in layers]
        tensors = JOIN.join(layer.tensor for layer in layers)
        settings = dataclasses.replace(settings, layer=tensors, pool_hw=largest)
    cut(model, [layer.tensor for layer in layers], [layer.tensor for layer in layers if layer.channels_last])
    return model.SerializeToString(), network_format, settings, pools


def calibrated(path: Path, settings: EmbedderSettings, crops: np.ndarray) -> EmbedderSettings:
    """The settings with the ranges that a network's tensors have on some images, for int8.

    Args:
        path: the network.
        settings: of an embedder in float32.
        crops: uint8 RGB (n, H, W, 3), some dozens.
    """
    import onnx

    source, network_format, settings, _ = _cut_at_layers(path, settings)
    content = source.read_bytes() if isinstance(source, Path) else source
    graph = onnx.load_from_string(fold(content))
    inner = [name for name in quantized_tensors(graph) if name != network_format.name]
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in inner)
    session = open_session(graph.SerializeToString(), path.name)
    runner = BatchRunner(session, network_format, settings)
    crops = resize_crops(crops, settings.input_size_wh, settings.resize)
    extremes: dict[str, tuple[float, float]] = {}
    for first in range(0, len(crops), _CALIBRATION_BATCH):
        batch = crops[first : first + _CALIBRATION_BATCH]
        values = network_input(batch, settings, network_format.channels_first)
        for name, value in zip([network_format.name, *inner], [values, *runner.run(batch)], strict=True):
            low, high = extremes.get(name, (0.0, 0.0))  # zero has to be among them: images are padded with it
            extremes[name] = min(low, float(value.min())), max(high, float(value.max()))
    ranges = tuple((name, low, high) for name, (low, high) in extremes.items())
    return dataclasses.replace(settings, precision="int8", ranges=ranges)


def engines_of(settings: EmbedderSettings) -> list[Engine]:
    """What to run a network with whose embeddings were made with ``settings``, the best first."""
    asked = requested_engines(Engine(settings.engine, settings.precision))
    return asked if CPU in asked else [*asked, CPU]


def input_format(model: "onnx.ModelProto") -> InputFormat:
    """What a network takes.

    Raises:
        WeightsError: it does not take one batch of images in float32.
    """
    names = input_names(model)
    values = [value for value in model.graph.input if value.name in names]
    shapes = [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values]
    floats = [value.type.tensor_type.elem_type == 1 for value in values]
    if len(values) != 1 or len(shapes[0]) != 4 or not floats[0]:
        found = ", ".join(f"{n} of shape {s}" for n, s in zip(names, shapes, strict=True)) or "none"
        raise WeightsError(f"expected a network with one float32 input of four dimensions, found {found}")
    shape = shapes[0]
    if shape[3] in (1, 3):
        height, width, channels = shape[1:]
    elif shape[1] in (1, 3):
        channels, height, width = shape[1:]
    else:
        raise WeightsError(f"expected a network that takes 1 or 3 colour channels, found an input of {shape}")
    size_wh = (width, height) if width > 0 and height > 0 else None
    return InputFormat(
        names[0], shape[3] not in (1, 3), channels, size_wh, shape[0] if shape[0] > 0 else None
    )


def pool_features(output: np.ndarray, pool_hw: tuple[int, int] | None) -> np.ndarray:
    """Vectors float32 (n, dim) of an output: (n, dim) as it is, (n, c, h, w) averaged and laid out flat.

    Args:
        output: float (n, …).
        pool_hw: rows and columns that h and w are averaged to; None keeps them all.

    Raises:
        DataError: it has no batch dimension, or there is less to average than is asked for.
    """
    if output.ndim < 2:
        raise DataError(f"expected an output of shape (n, …), found {output.shape}; name another tensor")
    if pool_hw is not None:
        if output.ndim != 4:
            raise DataError(
                f"expected maps to average, found an output of shape {output.shape}; leave --pool out"
            )
        output = _average(output, pool_hw)
    return np.ascontiguousarray(output.reshape(len(output), -1), np.float32)


def l2_normalized(features: np.ndarray) -> np.ndarray:
    """Each row divided by its Euclidean length; rows of zeros stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)


def _average(maps: np.ndarray, pool_hw: tuple[int, int]) -> np.ndarray:
    """(n, c, h, w) to (n, c, *pool_hw): each target cell is the mean of the source cells that it covers."""
    rows, columns = (_averaging(side, cells) for side, cells in zip(maps.shape[2:], pool_hw, strict=True))
    return rows @ (maps @ columns.T)


def _averaging(side: int, cells: int) -> np.ndarray:
    """float32 (cells, side), rows sum to 1: cell k covers what lies between k/cells and (k+1)/cells, as in
    adaptive pooling."""
    if cells > side:
        raise DataError(
            f"expected at least {cells} rows and columns to average, found {side}; use a smaller --pool"
        )
    matrix = np.zeros((cells, side), np.float32)
    for k in range(cells):
        start, end = k * side // cells, -(-(k + 1) * side // cells)
        matrix[k, start:end] = 1 / (end - start)
    return matrix


def _check_fits(settings: EmbedderSettings, found: InputFormat, path: Path) -> None:
    wanted_channels = 1 if settings.channels == "gray" else 3
    if found.n_channels != wanted_channels:
        raise WeightsError(
            f"{path.name} takes {found.n_channels} colour channels, the settings say {settings.channels} "
            f"({wanted_channels}); give other --channels"
        )
    if found.size_wh is not None and found.size_wh != settings.input_size_wh:
        raise WeightsError(
            f"{path.name} takes {found.size_wh[0]}x{found.size_wh[1]} pixels, the settings say "
            f"{settings.input_size_wh[0]}x{settings.input_size_wh[1]}; leave --input-size out"
        )
