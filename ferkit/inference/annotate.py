"""Boxes and labels on images."""

import re
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


def draw_boxes(
    rgb: np.ndarray,
    xyxy: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[RGB],
    painter: TextPainter,
    taken: Sequence[tuple[int, int, int, int]] = (),
) -> None:
    """Draw boxes with labels into ``rgb``; labels lie next to each other, and not on faces where there is room.

    Args:
        rgb: uint8 (H, W, 3).
        xyxy: float (n, 4), pixels.
        labels, colors: n of them.
        painter: writes.
        taken: rectangles (left, top, right, bottom) that are to stay free of labels.
    """
    line, pad = max(2, painter.height // 9), max(2, painter.height // 6)
    boxes = np.round(xyxy).astype(int).reshape(-1, 4)
    for (x0, y0, x1, y1), color in zip(boxes.tolist(), colors, strict=True):
        cv2.rectangle(rgb, (x0, y0), (x1, y1), color, line, cv2.LINE_AA)
    placed = [np.array(rectangle) for rectangle in taken]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for i in np.argsort(-areas, kind="stable").tolist():
        # Where a label finds no room, its name alone may; the colour of the box says it in any case.
        for text in dict.fromkeys((labels[i], re.sub(r" \d+%$", "", labels[i]))):
            size_wh = painter.width(text) + 2 * pad, painter.height + 2 * pad
            spot = _free_spot(rgb.shape, boxes, i, size_wh, placed, line)
            if spot is not None:
                left, top, right, bottom = spot.tolist()
                cv2.rectangle(rgb, (left, top), (right - 1, bottom - 1), colors[i], cv2.FILLED)
                painter.draw(rgb, text, (left + pad, top + pad), ink_on(colors[i]))
                placed.append(spot)
                break


def _free_spot(
    shape: tuple[int, ...],
    boxes: np.ndarray,
    i: int,
    size_wh: tuple[int, int],
    placed: list[np.ndarray],
    line: int,
) -> np.ndarray | None:
    """Where the label of box ``i`` covers no other label and the least of faces: above it, below it or within."""
    (height, width), (w, h) = shape[:2], size_wh
    x0, y0, x1, y1 = boxes[i].tolist()
    above, below = y0 - line // 2 - h, y1 + line // 2 + 1
    spots = []
    for top in (above, below, y0, y1 - h, above - h, below + h):
        for left in (x0 - line // 2, x1 + line // 2 + 1 - w, (x0 + x1 - w) // 2):
            top_inside = top if 0 <= top <= height - h else None
            if top_inside is not None or top == y0:
                left, top = int(np.clip(left, 0, max(0, width - w))), int(np.clip(top, 0, max(0, height - h)))
                spots.append((left, top, left + w, top + h))
    best, least = None, np.inf
    others = np.delete(boxes, i, axis=0)
    for rank, spot in enumerate(map(np.array, spots)):
        if placed and shared_area(spot, np.array(placed)).any():
            continue
        cost = shared_area(spot, others).sum() + 0.2 * shared_area(spot, boxes[i : i + 1]).sum() + rank
        if cost < least:
            best, least = spot, cost
    return best


def shared_area(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that ``box`` (4,) has in common with each of ``others`` (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=1)


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
    """Draw all faces of one image into ``rgb``."""
    if whole:
        draw_caption(rgb, labels[0], colors[0], painter)
    else:
        draw_boxes(rgb, xyxy, labels, colors, painter)
