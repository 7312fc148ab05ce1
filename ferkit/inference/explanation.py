"""One face and the reasons for its reading, as a picture."""

from dataclasses import dataclass

import cv2
import numpy as np

from ferkit.core.fonts import HINT, open_font
from ferkit.core.labels import LabelSet
from ferkit.inference.colors import label_colors
from ferkit.inference.explain import heat
from ferkit.inference.text import TextPainter

TILE = 336
_PAD = 18
_INK = (32, 34, 38)
_PAPER = (250, 250, 248)

_WORDS = {
    "en": {"face": "what the model sees", "occlusion": "hidden: red speaks for, blue against",
           "gradcam": "Grad-CAM: red speaks for", "why": "why {}?"},
    "ko": {"face": "모델이 보는 얼굴", "occlusion": "가리기: 빨강은 근거, 파랑은 반대",
           "gradcam": "Grad-CAM: 빨강은 근거", "why": "왜 {}?"},
}  # fmt: skip


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
        uint8 RGB picture, and what to tell the user if Hangul could not be drawn (None otherwise).
    """
    hint = None
    words, names = _WORDS[language], labels.display(language)
    if open_font([*words.values(), *names], 18) is None:
        hint, words, names = HINT, _WORDS["en"], labels.display("en")
    font = open_font([*words.values(), *names], 18) or open_font((), 18)
    assert font is not None  # Latin letters always have one
    painter = TextPainter(font)
    height, width = explanation.crop.shape[:2]
    scale = TILE / max(height, width)
    size_wh = round(width * scale), round(height * scale)
    face = cv2.resize(explanation.crop, size_wh, interpolation=cv2.INTER_CUBIC)
    tiles = [(face, words["face"])]
    tiles += [(heat(face, importance), words[method]) for method, importance in explanation.maps.items()]

    column = max([painter.width(caption) for _, caption in tiles] + [size_wh[0]]) + _PAD
    name_w = max(painter.width(name) for name in names)
    bars_w = name_w + 160 + painter.width("100%") + 4 * _PAD
    top = painter.height + 2 * _PAD
    row = painter.height + 8
    body = max(size_wh[1] + painter.height + 10, row * len(names))
    canvas = np.full((top + body + _PAD, _PAD + column * len(tiles) + bars_w, 3), _PAPER, np.uint8)
    title = words["why"].format(f"{names[explanation.target]} {explanation.proba[explanation.target]:.0%}")
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
