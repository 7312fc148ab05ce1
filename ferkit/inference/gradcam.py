"""Grad-CAM (Selvaraju et al., ICCV 2017) for ONNX networks, without the framework that trained them."""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from ferkit.core.arrays import check_crops
from ferkit.core.errors import ModelError
from ferkit.core.labels import LabelSet
from ferkit.embedder.engines import Session, open_session

if TYPE_CHECKING:
    import onnx

_MAPS = frozenset({
    "Conv", "Relu", "Add", "Mul", "BatchNormalization", "Clip", "LeakyRelu", "PRelu", "Concat", "MaxPool", "HardSwish",
    "Elu", "Selu",
})  # fmt: skip
"""Operators whose results are maps (n, c, h, w) where they have four dimensions."""


class OnnxClassifier(Protocol):
    """What :class:`ferkit.classifiers.finetune.network.NetworkClassifier` has."""

    onnx: bytes
    labels: LabelSet
    input_size_wh: tuple[int, int]


MIRRORED = "/mirrored"
"""How tensors are called that a network computes from the mirrored crop, see ``finetune.two_outputs``."""


def grad_cam(classifier: OnnxClassifier, crop: np.ndarray, target: int) -> np.ndarray:
    """Maps of the last layer that has any, weighted by how the class's log-probability grows with each.

    The weight of a map is the mean gradient over its places. That is the derivative along adding one number to
    the whole map, so a difference quotient gives it, and the small rest of the network behind the maps is all
    that has to be run: no gradients, hence no TensorFlow.

    Args:
        classifier: of a fine-tuned network.
        crop: uint8 RGB (h, w, 3) of its input size.
        target: position of the class.

    Returns:
        float32 (rows, columns) of the maps, 0 or more.

    Raises:
        ModelError: the network has no maps to look at.
        DataError: a crop of another size.
    """
    import onnx

    check_crops(crop[None], classifier.input_size_wh)
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(classifier.onnx))
    source = model.graph.input[0].name
    output = _probabilities_of(model)
    images = crop[None].astype(np.float32)
    for tensor in _map_tensors(model):
        # The rest is given the images too: it may ask for their shape, or look at them mirrored as well.
        rest = part_of(model, [tensor, source], [output])
        maps = run_part(part_of(model, [source], [tensor]), {source: images})
        if maps.ndim == 4 and min(maps.shape[2:]) > 1:
            weights = map_weights(rest, {tensor: maps, source: images}, target)
            return np.maximum(np.tensordot(weights, maps[0], axes=1), 0).astype(np.float32)
    raise ModelError("this network has no layer of maps that Grad-CAM could show; use --method occlusion")


def map_weights(rest: "onnx.ModelProto", inputs: dict[str, np.ndarray], target: int) -> np.ndarray:
    """By how much the log-probability of a class grows with each map, (c,).

    Args:
        rest: the part of the network behind the maps.
        inputs: of that part, the maps (1, c, h, w) first.
        target: position of the class.
    """
    session = _session(rest)
    (name, maps), *_ = inputs.items()
    step = 0.05 * float(maps.std()) + 1e-6
    changes = np.zeros((2, maps.shape[1]))
    for row, sign in enumerate((1, -1)):
        for channel in range(maps.shape[1]):
            moved = maps.copy()
            moved[0, channel] += sign * step
            changes[row, channel] = _log_probability(session.run(None, {**inputs, name: moved})[0][0], target)
    return (changes[0] - changes[1]) / (2 * step)


def part_of(model: "onnx.ModelProto", first: list[str], last: list[str]) -> "onnx.ModelProto":
    """What computes the tensors ``last`` from the tensors ``first``; shapes must have been inferred."""
    from onnx.utils import Extractor

    return Extractor(model).extract_model(first, last)


def run_part(part: "onnx.ModelProto", inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a part of a network."""
    return _session(part).run(None, inputs)[0]


def _session(part: "onnx.ModelProto") -> Session:
    return open_session(part.SerializeToString(), "a part of the network", error=ModelError)


def _log_probability(values: np.ndarray, target: int) -> float:
    if len(values) == 1:  # the probability of the second of two classes
        values = np.array([1 - values[0], values[0]])
    return float(np.log(max(float(values[target]), 1e-7)))


def _map_tensors(model: "onnx.ModelProto") -> list[str]:
    """Tensors that may be maps, the last one first."""
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    found = []
    for node in reversed(model.graph.node):
        shape = shapes.get(node.output[0])
        is_map = node.op_type in _MAPS and shape is not None and len(shape) == 4 and 1 not in shape[2:]
        if is_map and not node.output[0].endswith(MIRRORED):
            found.append(node.output[0])
    return found


def _probabilities_of(model: "onnx.ModelProto") -> str:
    from ferkit.classifiers.finetune.network import PROBABILITIES

    names = [value.name for value in model.graph.output]
    return PROBABILITIES if PROBABILITIES in names else names[0]
