"""Read, cut and rewrite ONNX graphs before an engine runs them, and keep what engines make of them."""

import contextlib
import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferkit.core.errors import FerkitError, WeightsError

if TYPE_CHECKING:
    import onnx

_BLOCKED = frozenset({"Conv", "BatchNormalization"})
"""What ONNX Runtime computes in its blocked layout, of the operators that a PReLU follows."""

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_QUANTIZED = (*_WEIGHTED, "Add", "AveragePool", "MaxPool", "Relu")


def load_graph(path: Path) -> "onnx.ModelProto":
    """The network in ``path``.

    Raises:
        WeightsError: missing, or no ONNX network.
    """
    import onnx

    if not path.is_file():
        raise WeightsError(f"expected an ONNX file at {path}, found none; correct the path")
    try:
        refuse_external_data(path.read_bytes(), path.name)
        model = onnx.load(path)
    except WeightsError:
        raise
    except Exception as error:  # protobuf's own errors
        raise WeightsError(f"expected an ONNX network, but {path.name} cannot be read: {error}") from None
    if not model.graph.node or not model.graph.output:
        raise WeightsError(f"expected an ONNX network, found none in {path.name}; the file may be damaged")
    return model


def refuse_external_data(content: bytes, name: str, error: type[FerkitError] = WeightsError) -> None:
    """Let no network take its numbers out of other files: it could name any.

    Args:
        content: of an ONNX file.
        name: what messages call it.
        error: what to raise.

    Raises:
        FerkitError: it does, or it is no ONNX network; of the kind ``error``.
    """
    if b"location" not in content:  # the key under which a tensor says where it lies
        return
    import onnx

    try:
        model = onnx.load_from_string(content)
    except Exception as reason:  # protobuf's own errors
        raise error(f"expected an ONNX network, but {name} cannot be read: {reason}") from None
    if _has_external_data(model):
        raise error(
            f"{name} keeps numbers in other files; save it as one file (onnx.save with all data inside)"
        )


def _has_external_data(message: Any) -> bool:
    if message.DESCRIPTOR.name == "TensorProto" and message.data_location == 1:
        return True
    for field, value in message.ListFields():
        if field.message_type is not None:
            values = [value] if hasattr(value, "ListFields") else value
            if any(_has_external_data(inner) for inner in values):
                return True
    return False


def input_names(model: "onnx.ModelProto") -> list[str]:
    """What has to be fed; older exporters list the weights among the inputs, these are left out."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


def constant_names(model: "onnx.ModelProto") -> set[str]:
    """Tensors that do not depend on the input."""
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if set(consumed(node)) <= constants:
            constants.update(node.output)
    return constants - {""}


def consumed(node: "onnx.NodeProto") -> Iterator[str]:
    """Names that a node reads, also those that graphs inside it (loops, branches) read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from consumed(inner)


def cut(model: "onnx.ModelProto", tensors: Sequence[str], channels_last: Sequence[str] = ()) -> None:
    """Make ``tensors`` the outputs of ``model``, in place, and drop what they do not need.

    Args:
        model: the network.
        tensors: names of tensors that it computes.
        channels_last: those among them that are (n, h, w, c); they become (n, c, h, w).
    """
    from onnx import TensorProto, helper

    outputs = []
    for name in tensors:
        if name in channels_last:
            model.graph.node.append(
                helper.make_node("Transpose", [name], [f"{name}/nchw"], perm=[0, 3, 1, 2])
            )
            name = f"{name}/nchw"
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    _prune(model)


def split_prelu(model: "onnx.ModelProto") -> int:
    """Write each PReLU of a convolution as ``slope * x + (1 - slope) * relu(x)``, in place; returns how many.

    ONNX Runtime computes convolutions on x86 in a blocked layout. It has no PReLU there and converts every
    such tensor back and forth; scaling per channel, ReLU and sums it has. Also found is what tf2onnx makes of
    a PReLU, ``max(x, 0) + slope * min(x, 0)``. The numbers stay equal up to rounding.
    """
    from onnx import helper, numpy_helper

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return 0
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    n_split = 0
    for node in model.graph.node:
        x, slope_name = _prelu_operands(node, producers, weights)
        slope = None if slope_name is None else numpy_helper.to_array(weights[slope_name])
        if x is None or slope is None or producers[x].op_type not in _BLOCKED or not _per_channel(slope):
            nodes.append(node)
            continue
        n_split += 1
        slope, out = slope.reshape(-1), node.output[0]
        constants = {"slope": slope, "rest": 1 - slope, "zero": 0 * slope, "one": 0 * slope + 1}
        for key, values in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(values, f"{out}/{key}"))
        for source, factor, product in ((x, "slope", "linear"), (f"{out}/relu", "rest", "bent")):
            if source != x:
                nodes.append(helper.make_node("Relu", [x], [source]))
            operands = [source, *(f"{out}/{key}" for key in (factor, "zero", "zero", "one"))]
            nodes.append(helper.make_node("BatchNormalization", operands, [f"{out}/{product}"], epsilon=0.0))
        nodes.append(helper.make_node("Add", [f"{out}/linear", f"{out}/bent"], [out]))
    if n_split:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        _prune(model)
    return n_split


def _prelu_operands(
    node: "onnx.NodeProto", producers: "dict[str, onnx.NodeProto]", weights: "dict[str, onnx.TensorProto]"
) -> tuple[str | None, str | None]:
    """What a PReLU, in one node or in four, is applied to, and the name of its slopes; else None, None."""
    if node.op_type == "PRelu" and node.input[1] in weights and node.input[0] in producers:
        return node.input[0], node.input[1]
    if node.op_type != "Add":
        return None, None
    by_type = {producers[name].op_type: producers[name] for name in node.input if name in producers}
    if set(by_type) != {"Max", "Mul"}:
        return None, None
    slope, lower = _constant_and_other(by_type["Mul"], weights)
    zero, x = _constant_and_other(by_type["Max"], weights)
    if slope is None or zero is None or lower not in producers or producers[lower].op_type != "Min":
        return None, None
    zero_below, x_below = _constant_and_other(producers[lower], weights)
    if x_below != x or x not in producers or not (_is_zero(weights, zero) and _is_zero(weights, zero_below)):
        return None, None
    return x, slope


def _constant_and_other(
    node: "onnx.NodeProto", weights: "dict[str, onnx.TensorProto]"
) -> tuple[str | None, str | None]:
    if len(node.input) != 2 or (node.input[0] in weights) == (node.input[1] in weights):
        return None, None
    constant = 0 if node.input[0] in weights else 1
    return node.input[constant], node.input[1 - constant]


def _is_zero(weights: "dict[str, onnx.TensorProto]", name: str | None) -> bool:
    from onnx import numpy_helper

    return name is not None and not np.any(numpy_helper.to_array(weights[name]))


def _per_channel(slope: np.ndarray) -> bool:
    """float32, one for each channel of (n, c, h, w)."""
    shape = (1,) * (4 - slope.ndim) + slope.shape
    return slope.dtype == np.float32 and len(shape) == 4 and shape[1] == slope.size > 1


def _prune(model: "onnx.ModelProto") -> None:
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed.update(consumed(node))
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    for values in (model.graph.initializer, model.graph.value_info):
        wanted = [value for value in values if value.name in needed]
        if len(wanted) < len(values):
            del values[:]
            values.extend(wanted)


def quantized_tensors(model: "onnx.ModelProto") -> list[str]:
    """The float tensors whose ranges :func:`quantize` has to know, in the order of the graph."""
    weights = {tensor.name for tensor in model.graph.initializer} | {""}
    nodes = (node for node in model.graph.node if node.op_type in _QUANTIZED)
    return list(dict.fromkeys(t for n in nodes for t in (*n.input, *n.output) if t not in weights))


def quantize(model: "onnx.ModelProto", ranges: Mapping[str, tuple[float, float]]) -> "onnx.ModelProto":
    """The network in int8, per channel, its first and its last layer in float32.

    Weights have seven bits: processors without VNNI add products of eight in sixteen and would overflow.

    Args:
        model: constants and batch normalisations folded; is changed.
        ranges: the least and the largest value of each of :func:`quantized_tensors`.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node{i}"
    weighted = [node.name for node in model.graph.node if node.op_type in _WEIGHTED]
    known = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, known),
        nodes_to_quantize=[],
        nodes_to_exclude=[*weighted[:1], *weighted[-1:]],
        op_types_to_quantize=list(_QUANTIZED),
        extra_options={},
    )
    quantizer.quantize_model()
    return quantizer.model.model


SMALLEST_KEPT, LARGEST_KEPT = 1 << 18, 1 << 26
"""Bytes of graphs that are kept: smaller ones are made at once, larger ones take the disk."""

CACHE_BYTES = 1 << 29
"""Bytes of all files together; those that were used longest ago go first."""

_FORMAT = "1"


@dataclass(frozen=True)
class KeptFile:
    """A place in the cache.

    Attributes:
        path: the file; None where there is none yet.
        target: where to write it; None where it is there, or is not to be kept.
    """

    path: Path | None
    target: Path | None


@contextlib.contextmanager
def kept_file(content: bytes, made_with: Sequence[str]) -> Iterator[KeptFile]:
    """What was made of a graph, or a place for it: what was written there when the block ends is kept.

    Args:
        content: of the graph.
        made_with: all else that the file depends on.
    """
    folder = _folder()
    if not SMALLEST_KEPT <= len(content) <= LARGEST_KEPT or folder is None:
        yield KeptFile(None, None)
        return
    digest = hashlib.sha256("\n".join((_FORMAT, *made_with, "")).encode())
    digest.update(content)
    path = folder / f"{digest.hexdigest()[:32]}.onnx"
    if path.is_file():
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used now
        yield KeptFile(path, None)
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as temporary:
        target = Path(temporary) / path.name
        yield KeptFile(None, target)
        with contextlib.suppress(OSError):  # a full disk costs the next start a moment, and nothing else
            if target.is_file():
                os.replace(target, path)
                _drop_oldest(folder)


def kept(content: bytes, made_with: Sequence[str], make: Callable[[], bytes]) -> bytes:
    """The same for content that ``make`` gives."""
    with kept_file(content, made_with) as file:
        if file.path is not None:
            return file.path.read_bytes()
        made = make()
        if file.target is not None:
            file.target.write_bytes(made)
    return made


@functools.cache
def processor() -> str:
    """What a graph for this processor depends on."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _folder() -> Path | None:
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("ferkit", appauthor=False)) / "graphs"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def _drop_oldest(folder: Path) -> None:
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.onnx"))
    left = sum(size for _, size, _ in files)
    for _, size, path in files:
        if left <= CACHE_BYTES:
            return
        path.unlink(missing_ok=True)
        left -= size
