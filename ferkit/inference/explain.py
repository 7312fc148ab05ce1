"""Explain a prediction: occlusion and Grad-CAM maps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from ferkit.core.errors import DataError, ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.style import HINT, can_draw, drawable_names, open_font
from ferkit.core.texts import Translations
from ferkit.core.types import ExpressionClassifier, check_crops
from ferkit.embedder.engines import Session, open_session
from ferkit.faces.drawing import TextPainter, label_colors

if TYPE_CHECKING:
    import onnx


_MAPS = frozenset({
    "Conv", "Relu", "Add", "Mul", "BatchNormalization", "Clip", "LeakyRelu", "PRelu", "Concat", "MaxPool", "HardSwish",
    "Elu", "Selu",
})  # fmt: skip
"""Operators whose results are maps (n, c, h, w) where they have four dimensions."""


class OnnxClassifier(Protocol):
    """What :class:`ferkit.classifiers.kinds.NetworkClassifier` has."""

    onnx: bytes
    labels: LabelSet
    input_size_wh: tuple[int, int]


MIRRORED = "/mirrored"
"""How tensors are called that a network computes from the mirrored crop, see ``benchmarks/two_outputs.py``."""


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
    from ferkit.classifiers.kinds import PROBABILITIES

    names = [value.name for value in model.graph.output]
    return PROBABILITIES if PROBABILITIES in names else names[0]


_BATCH = 32


_PATCH = 0.22
"""Side of the patch that is blurred away, as a share of the crop's."""

_STEPS = 14
"""Places along each side; so many squared crops are classified."""


def occlusion_map(classifier: ExpressionClassifier, crop: np.ndarray, target: int) -> np.ndarray:
    """How much the log-odds of a class fall when a patch around each place is blurred away (after Zeiler and
    Fergus, ECCV 2014, who covered it in gray: blur hides what is there without adding an edge).

    Works for any classifier, since it only asks.

    Args:
        classifier: takes the crop.
        crop: uint8 RGB (h, w, 3) of the classifier's input size.
        target: position of the class.

    Returns:
        float32 (h, w): positive where the class is supported, negative where something speaks against it.

    Raises:
        DataError: a crop of another size, or no such class.
    """
    check_crops(crop[None], classifier.input_size_wh)
    if not 0 <= target < len(classifier.labels):
        raise DataError(f"expected a class from 0 to {len(classifier.labels) - 1}, found {target}")
    height, width = crop.shape[:2]
    radius = _PATCH * max(height, width) / 2
    hidden = cv2.GaussianBlur(crop, (0, 0), radius, borderType=cv2.BORDER_REPLICATE)
    masks = _soft_patches(height, width, radius)
    drops = []
    whole = _log_odds(classifier.predict_proba(crop[None]))[0, target]
    for first in range(0, len(masks), _BATCH):
        part = masks[first : first + _BATCH, ..., None]
        covered = np.round(crop * (1 - part) + hidden * part).astype(np.uint8)
        drops.append(whole - _log_odds(classifier.predict_proba(covered))[:, target])
    weights = np.concatenate(drops)
    total = np.tensordot(weights, masks, axes=1)
    return (total / np.maximum(masks.sum(axis=0), 1e-6)).astype(np.float32)


def _soft_patches(height: int, width: int, radius: float) -> np.ndarray:
    """float32 (_STEPS ** 2, height, width), 0..1: round patches with soft edges, over the whole crop."""
    ys, xs = np.linspace(0, height - 1, _STEPS), np.linspace(0, width - 1, _STEPS)
    down = (np.arange(height) - ys[:, None]) ** 2
    across = (np.arange(width) - xs[:, None]) ** 2
    squared = down[:, None, :, None] + across[None, :, None, :]
    return np.exp(-((squared / radius**2) ** 2) / 2).astype(np.float32).reshape(-1, height, width)


def _log_odds(proba: np.ndarray) -> np.ndarray:
    clipped = np.clip(proba.astype(np.float64), 1e-5, 1 - 1e-5)
    return np.log(clipped / (1 - clipped))


def heat(rgb: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """``rgb`` (h, w, 3) with importance (H, W) laid over it: red supports, blue speaks against, gray is neither."""
    size_wh = rgb.shape[1], rgb.shape[0]
    scaled = cv2.resize(importance.astype(np.float32), size_wh, interpolation=cv2.INTER_CUBIC)
    top = float(np.percentile(np.abs(scaled), 99.5))
    share = np.clip(scaled / top, -1, 1)[..., None] if top > 1e-6 else np.zeros((*scaled.shape, 1))
    gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    color = np.where(share > 0, np.array([235, 40, 20]), np.array([30, 90, 240]))
    alpha = 0.6 * np.abs(share)
    return np.clip(gray * (1 - alpha) + color * alpha, 0, 255).astype(np.uint8)


TILE = 336
_PAD = 18
_INK = (32, 34, 38)
_PAPER = (250, 250, 248)


@dataclass(frozen=True)
class Explanation:
    """What is known about one face.

    Attributes:
        crop: uint8 RGB (h, w, 3), as the model sees it.
        proba: (k,).
        target: position of the class that is explained.
        maps: importance by method (``occlusion``, ``gradcam``), each (rows, columns).
    """

    crop: np.ndarray
    proba: np.ndarray
    target: int
    maps: dict[str, np.ndarray]


def draw_explanation(
    explanation: Explanation, labels: LabelSet, language: str = "en"
) -> tuple[np.ndarray, str | None]:
    """The face, its maps and all probabilities side by side.

    Returns:
        uint8 RGB image, and what to tell the user if Hangul could not be drawn (None otherwise).
    """
    words, names = Translations(language, "explain"), drawable_names(labels, language)
    hint = None if can_draw([words("word.face"), *labels.display(language)]) else HINT
    words = Translations("en", "explain") if hint else words
    font = open_font([words("word.face"), *names], 18)
    assert font is not None  # Latin letters always have one
    painter = TextPainter(font)
    height, width = explanation.crop.shape[:2]
    scale = TILE / max(height, width)
    size_wh = round(width * scale), round(height * scale)
    face = cv2.resize(explanation.crop, size_wh, interpolation=cv2.INTER_CUBIC)
    tiles = [(face, words("word.face"))]
    tiles += [
        (heat(face, importance), words(f"word.{method}")) for method, importance in explanation.maps.items()
    ]

    column = max([painter.width(caption) for _, caption in tiles] + [size_wh[0]]) + _PAD
    name_w = max(painter.width(name) for name in names)
    bars_w = name_w + 160 + painter.width("100%") + 4 * _PAD
    top = painter.height + 2 * _PAD
    row = painter.height + 8
    body = max(size_wh[1] + painter.height + 10, row * len(names))
    canvas = np.full((top + body + _PAD, _PAD + column * len(tiles) + bars_w, 3), _PAPER, np.uint8)
    target = f"{names[explanation.target]} {explanation.proba[explanation.target]:.0%}"
    title = words("word.why", label=target)
    painter.draw(canvas, title, (_PAD, _PAD), _INK)
    for i, (tile, caption) in enumerate(tiles):
        x = _PAD + i * column
        canvas[top : top + size_wh[1], x : x + size_wh[0]] = tile
        painter.draw(canvas, caption, (x, top + size_wh[1] + 8), _INK)
    _draw_bars(canvas, explanation, names, labels, painter, (2 * _PAD + column * len(tiles), top), name_w)
    return canvas, hint


def _draw_bars(
    canvas: np.ndarray,
    explanation: Explanation,
    names: tuple[str, ...],
    labels: LabelSet,
    painter: TextPainter,
    xy: tuple[int, int],
    name_w: int,
) -> None:
    row = painter.height + 8
    for line, k in enumerate(np.argsort(-explanation.proba, kind="stable").tolist()):
        y, p = xy[1] + line * row, float(explanation.proba[k])
        painter.draw(canvas, names[k], (xy[0], y), _INK)
        x = xy[0] + name_w + _PAD
        cv2.rectangle(canvas, (x, y + 2), (x + 160, y + painter.height - 2), (226, 226, 222), cv2.FILLED)
        end = x + max(2, round(160 * p))
        cv2.rectangle(canvas, (x, y + 2), (end, y + painter.height - 2), label_colors(labels)[k], cv2.FILLED)
        text = f"{p:.0%}"
        right = x + 160 + _PAD // 2 + painter.width("100%")
        painter.draw(canvas, text, (right - painter.width(text), y), _INK)
