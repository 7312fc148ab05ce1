"""One graph that both classifies and embeds: the form in which the package's own network is shipped.

    images ─┬────────> backbone ─> pooled ─┐
            └─ mirror ─> backbone ─> pooled ─┴─ mean = embedding ─> logits / temperature ─> probabilities

Averaging the *features* of a face and of its mirror image is test-time flipping for both outputs at once, and keeps
the classifier a linear head on the embedding: a logistic head fitted on it can do all that the network itself does.
"""

from typing import TYPE_CHECKING

import numpy as np

from ferkit.classifiers.finetune.network import PROBABILITIES
from ferkit.core.errors import ModelError

if TYPE_CHECKING:
    import onnx

EMBEDDING = "embedding"
_MIRRORED = "/mirrored"


def with_embedding(network: bytes, temperature: float = 1.0) -> bytes:
    """The ``network.onnx`` of a run with a second output, its pooled features, over a crop and its mirror image.

    Args:
        network: an ONNX file as :func:`ferkit.classifiers.finetune.export.to_onnx` writes it: float32
            (n, H, W, 3) to softmax probabilities, by one dense layer on pooled features.
        temperature: the logits are divided by it (Guo et al., "On calibration of modern neural networks", 2017).

    Returns:
        An ONNX file with the outputs ``embedding`` (n, features) and ``probabilities`` (n, k), both float32. Its
        weights are stored as float16 and computed with in float32.

    Raises:
        ModelError: the network does not end in one dense layer and a softmax.
    """
    import onnx

    model = onnx.load_from_string(network)
    dense, bias, features = _ending(model)
    _scale(model, [*dense, *bias], 1 / temperature)
    _rename(model, model.graph.output[0].name, PROBABILITIES)
    _average_with_mirror(model, features)
    del model.graph.output[:]
    for name, size in zip((EMBEDDING, PROBABILITIES), _weights(model)[dense[0]].dims, strict=True):
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        model.graph.output.append(info)
    _halve(model)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _ending(model: "onnx.ModelProto") -> tuple[list[str], list[str], str]:
    """Names of the last layer's matrix, of its bias, and of the features that it takes."""
    weights, producers = _weights(model), _producers(model)
    softmax = producers.get(model.graph.output[0].name)
    node = producers.get(softmax.input[0]) if softmax is not None and softmax.op_type == "Softmax" else None
    bias: list[str] = []
    if node is not None and node.op_type == "Add":
        bias = [name for name in node.input if name in weights]
        node = next((producers[name] for name in node.input if name in producers), None)
    if node is None or node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        raise ModelError(
            "expected a network that ends in one dense layer and a softmax, found another ending"
        )
    return [node.input[1]], bias + list(node.input[2:]), node.input[0]


def _average_with_mirror(model: "onnx.ModelProto", features: str) -> None:
    from onnx import helper, numpy_helper

    graph = model.graph
    (images,) = (value.name for value in graph.input)
    producers = _producers(model)
    before = _needed(features, producers)
    mirrored = images + _MIRRORED
    for name, value in (("start", -1), ("stop", np.iinfo(np.int64).min), ("axis", 2), ("step", -1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"{mirrored}/{name}"))
    ends = [f"{mirrored}/{name}" for name in ("start", "stop", "axis", "step")]
    branch = [helper.make_node("Slice", [images, *ends], [mirrored])]
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
    after = [node for node in graph.node if node.output[0] not in own]
    for node in after:
        node.input[:] = [EMBEDDING if name == features else name for name in node.input]
    # The mirrored branch comes first: the last tensor of each resolution, which a tap takes, is then of the picture.
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


def _scale(model: "onnx.ModelProto", names: list[str], factor: float) -> None:
    from onnx import numpy_helper

    for name in names:
        tensor = _weights(model)[name]
        values = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def _rename(model: "onnx.ModelProto", old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _weights(model: "onnx.ModelProto") -> dict[str, "onnx.TensorProto"]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _producers(model: "onnx.ModelProto") -> dict[str, "onnx.NodeProto"]:
    return {output: node for node in model.graph.node for output in node.output}
