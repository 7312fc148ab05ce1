"""One graph that both classifies and embeds: the form in which the package's own network is shipped.

    images ─> light ─┬──────────> backbone ─> pooled ─┐
                     └─ mirror ─> backbone ─> pooled ─┴─ mean = embedding ─> logits ─> probabilities

Averaging the *features* of a face and of its mirror image is test-time flipping for both outputs at once, and keeps
the classifier a linear head on the embedding: a logistic head fitted on it can do all that the network itself does.
Bringing every crop to the brightness and contrast that training images have on average costs well-lit faces
nothing and saves dark ones.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ferkit.classifiers.kinds import PROBABILITIES
from ferkit.core.errors import ModelError

if TYPE_CHECKING:
    import onnx

EMBEDDING = "embedding"
_MIRRORED = "/mirrored"
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Light:
    """The brightness that every crop is brought to, in gray levels of 0..255: mean and standard deviation."""

    mean: float
    spread: float


@dataclass(frozen=True)
class LastLayer:
    """Embedding to logits: ``embedding @ matrix + biases``.

    Attributes:
        matrix: float (features, k).
        biases: float (k,).
    """

    matrix: np.ndarray
    biases: np.ndarray

    def __truediv__(self, temperature: float) -> "LastLayer":
        """The same with all logits divided (Guo et al., "On calibration of modern neural networks", 2017)."""
        return LastLayer(self.matrix / temperature, self.biases / temperature)


def with_embedding(network: bytes, last_layer: LastLayer | None = None, light: Light | None = None) -> bytes:
    """The ``network.onnx`` of a run with a second output, its pooled features, over a crop and its mirror image.

    Args:
        network: an ONNX file as :func:`ferkit.classifiers.finetune.export.to_onnx` writes it: float32
            (n, H, W, 3) to softmax probabilities, by one dense layer on pooled features.
        last_layer: takes the place of the network's own, for the same classes; None keeps that.
        light: what crops are brought to first; None leaves them as they are.

    Returns:
        An ONNX file with the outputs ``embedding`` (n, features) and ``probabilities`` (n, k), both float32. Its
        weights are stored as float16 and computed with in float32.

    Raises:
        ModelError: the network does not end in one dense layer with a bias for each class, and a softmax; or the
            new last layer has another shape.
    """
    import onnx

    model = onnx.load_from_string(network)
    dense, bias, features = _ending(model)
    if last_layer is not None:
        _replace(model, dense, last_layer.matrix)
        _replace(model, bias, last_layer.biases)
    _rename(model, model.graph.output[0].name, PROBABILITIES)
    prelude, crops = _adjusted(model, light)
    _average_with_mirror(model, features, prelude, crops)
    del model.graph.output[:]
    for name, size in zip((EMBEDDING, PROBABILITIES), _weights(model)[dense].dims, strict=True):
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        model.graph.output.append(info)
    _halve(model)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _ending(model: "onnx.ModelProto") -> tuple[str, str, str]:
    """Names of the last layer's matrix, of its bias, and of the features that it takes."""
    weights, producers = _weights(model), _producers(model)
    softmax = producers.get(model.graph.output[0].name)
    node = producers.get(softmax.input[0]) if softmax is not None and softmax.op_type == "Softmax" else None
    biases: list[str] = []
    if node is not None and node.op_type == "Add":
        biases = [name for name in node.input if name in weights]
        node = next((producers[name] for name in node.input if name in producers), None)
    if node is not None and node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
        biases += node.input[2:]
        if len(biases) == 1:
            return node.input[1], biases[0], node.input[0]
    raise ModelError(
        "expected a network that ends in a dense layer with biases and a softmax, found another ending"
    )


def _adjusted(model: "onnx.ModelProto", light: Light | None) -> tuple[list["onnx.NodeProto"], str]:
    """Nodes that bring the images to ``light``, and the name of what comes out of them."""
    from onnx import helper, numpy_helper

    (images,) = (value.name for value in model.graph.input)
    if light is None:
        return [], images

    def constant(name: str, values: float | tuple[float, ...]) -> str:
        array = np.array(values, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array[:, None] if array.ndim else array, name))
        return name

    def node(op: str, sources: list[str], output: str, **attributes: Any) -> "onnx.NodeProto":
        return helper.make_node(op, sources, [f"light/{output}"], **attributes)

    luma, mean = constant("light/luma", _LUMA), constant("light/to", light.mean)
    whole = {"axes": [1, 2, 3]}
    nodes = [
        node("MatMul", [images, luma], "gray"),
        node("ReduceMean", ["light/gray"], "mean", **whole),
        node("Sub", ["light/gray", "light/mean"], "centred"),
        node("Mul", ["light/centred", "light/centred"], "squared"),
        node("ReduceMean", ["light/squared"], "variance", **whole),
        # One gray level squared more: an even surface stays even.
        node("Add", ["light/variance", constant("light/one", 1.0)], "safe"),
        node("Sqrt", ["light/safe"], "spread"),
        node("Div", [constant("light/wanted", light.spread), "light/spread"], "gain"),
        node("Sub", [images, "light/mean"], "from_mean"),
        node("Mul", ["light/from_mean", "light/gain"], "scaled"),
        node("Add", ["light/scaled", mean], "crops"),
    ]
    return nodes, "light/crops"


def _average_with_mirror(
    model: "onnx.ModelProto", features: str, prelude: list["onnx.NodeProto"], crops: str
) -> None:
    from onnx import helper, numpy_helper

    graph = model.graph
    (images,) = (value.name for value in graph.input)
    producers = _producers(model)
    before = _needed(features, producers)
    mirrored = crops + _MIRRORED
    for name, value in (("start", -1), ("stop", np.iinfo(np.int64).min), ("axis", 2), ("step", -1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"{mirrored}/{name}"))
    ends = [f"{mirrored}/{name}" for name in ("start", "stop", "axis", "step")]
    branch = [*prelude, helper.make_node("Slice", [crops, *ends], [mirrored])]
    made = {images: mirrored} | {output: output + _MIRRORED for node in before for output in node.output}
    for node in before:
        twin = type(node)()
        twin.CopyFrom(node)
        twin.name = node.name + _MIRRORED
        twin.input[:] = [made.get(name, name) for name in node.input]
        twin.output[:] = [made[name] for name in node.output]
        branch.append(twin)
    graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    join = [
        helper.make_node("Add", [features, made[features]], ["doubled_embedding"]),
        helper.make_node("Mul", ["doubled_embedding", "half"], [EMBEDDING]),
    ]
    own = {node.output[0] for node in before}
    for node in before:
        node.input[:] = [crops if name == images else name for name in node.input]
    after = [node for node in graph.node if node.output[0] not in own]
    for node in after:
        node.input[:] = [EMBEDDING if name == features else name for name in node.input]
    # The mirrored branch comes first: the last tensor of each resolution, which a tap takes, is then of the image.
    nodes = [*branch, *before, *join, *after]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]


def _needed(tensor: str, producers: dict[str, "onnx.NodeProto"]) -> list["onnx.NodeProto"]:
    """The nodes that compute ``tensor``, in an order in which they can run."""
    found: dict[str, onnx.NodeProto] = {}

    def visit(name: str) -> None:
        node = producers.get(name)
        if node is None or node.output[0] in found:
            return
        for source in node.input:
            visit(source)
        found[node.output[0]] = node

    visit(tensor)
    return list(found.values())


def _halve(model: "onnx.ModelProto") -> None:
    """Keep float32 weights as float16 and cast them when the session is opened, which computes in float32."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 64:
            name, values = tensor.name, numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/float16"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    rest = [type(node).FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*casts, *rest])


def _replace(model: "onnx.ModelProto", name: str, values: np.ndarray) -> None:
    from onnx import numpy_helper

    tensor = _weights(model)[name]
    if values.shape != tuple(tensor.dims):
        raise ModelError(f"expected a last layer of shape {tuple(tensor.dims)}, found {values.shape}")
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def _rename(model: "onnx.ModelProto", old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _weights(model: "onnx.ModelProto") -> dict[str, "onnx.TensorProto"]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _producers(model: "onnx.ModelProto") -> dict[str, "onnx.NodeProto"]:
    return {output: node for node in model.graph.node for output in node.output}
