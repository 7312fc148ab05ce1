"""Boxes and labels on pictures."""

from collections.abc import Sequence

import cv2
import numpy as np

from ferkit.inference.colors import RGB, ink_on
from ferkit.inference.text import TextPainter

SMALLEST_SIDE = 240
"""Copies of smaller pictures are enlarged, so that a label fits."""


def text_size(rgb: np.ndarray) -> int:
    """Height of letters in pixels that can be read on a picture of this size."""
    return int(np.clip(round(max(rgb.shape[:2]) / 40), 15, 44))


def enlarged(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy, enlarged by the whole factor that is returned too, if the picture is small."""
    factor = -(-SMALLEST_SIDE // min(rgb.shape[:2]))
    if factor <= 1:
        return rgb.copy(), 1
    return cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), factor


def draw_face(rgb: np.ndarray, xyxy: np.ndarray, label: str, color: RGB, painter: TextPainter) -> None:
    """Draw one box with its label above it, or below or inside where there is no room, into ``rgb``."""
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = np.round(xyxy).astype(int).tolist()
    line = max(2, painter.height // 9)
    cv2.rectangle(rgb, (x0, y0), (x1, y1), color, line, cv2.LINE_AA)
    pad = max(2, painter.height // 6)
    box_w, box_h = painter.width(label) + 2 * pad, painter.height + 2 * pad
    top = y0 - line // 2 - box_h
    if top < 0:
        top = y1 + line // 2 + 1 if y1 + box_h < height else max(0, y0)
    left = int(np.clip(x0 - line // 2, 0, max(0, width - box_w)))
    cv2.rectangle(rgb, (left, top), (left + box_w, top + box_h), color, cv2.FILLED)
    painter.draw(rgb, label, (left + pad, top + pad), ink_on(color))


def draw_caption(rgb: np.ndarray, label: str, color: RGB, painter: TextPainter) -> None:
    """Draw a label across the lower edge of ``rgb``: for a picture that is a face as a whole."""
    height, width = rgb.shape[:2]
    pad = max(2, painter.height // 6)
    top = height - painter.height - 2 * pad
    rgb[max(0, top) :] = color
    painter.draw(rgb, label, (max(pad, (width - painter.width(label)) // 2), top + pad), ink_on(color))


def draw_picture(
    rgb: np.ndarray,
    xyxy: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[RGB],
    painter: TextPainter,
    *,
    whole: bool = False,
) -> None:
    """Draw all faces of one picture into ``rgb``, the largest last, so that its label is on top."""
    if whole:
        draw_caption(rgb, labels[0], colors[0], painter)
        return
    for box, label, color in sorted(zip(xyxy, labels, colors, strict=True), key=lambda face: _area(face[0])):
        draw_face(rgb, box, label, color, painter)


def _area(xyxy: np.ndarray) -> float:
    return float((xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]))
