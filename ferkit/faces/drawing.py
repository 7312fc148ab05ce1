"""Draw boxes, labels and text on images, Hangul too."""

import colorsys
import functools
import re
from collections.abc import Sequence
from itertools import chain, count

import cv2
import numpy as np

from ferkit.core.labels import LabelSet, meaning_of
from ferkit.core.style import Font
from ferkit.faces.tracking import shared_area

RGB = tuple[int, int, int]

UNSURE_COLOR: RGB = (170, 170, 170)

_BY_MEANING: dict[str, RGB] = {
    "angry": (226, 74, 66),
    "contempt": (178, 117, 66),
    "disgust": (116, 166, 56),
    "fear": (158, 104, 205),
    "happy": (250, 196, 44),
    "neutral": (148, 172, 186),
    "sad": (72, 134, 220),
    "surprise": (246, 137, 48),
    "embarrassed": (240, 126, 168),
    "anxious": (176, 126, 222),
    "uneasy": (206, 128, 200),
    "hurt": (92, 110, 190),
    "distressed": (96, 120, 200),
    "positive": (90, 190, 100),
    "negative": (214, 84, 90),
    "teasing": (214, 84, 90),
    "non-teasing": (90, 190, 100),
}

_OTHERS: tuple[RGB, ...] = (
    (78, 178, 180), (214, 126, 92), (140, 186, 86), (196, 112, 196), (104, 148, 214), (222, 178, 76),
)  # fmt: skip


def label_colors(labels: LabelSet) -> tuple[RGB, ...]:
    """A colour for each class, no two alike: by its meaning where that is known."""
    colors: list[RGB] = []
    others = chain(_OTHERS, map(_further, count()))
    for name in labels.names:
        color = _BY_MEANING.get(meaning_of(name))
        while color is None or color in colors:
            color = next(others)
        colors.append(color)
    return tuple(colors)


def _further(i: int) -> RGB:
    """Hues as far apart as any number of them can be, now darker, now lighter."""
    red, green, blue = colorsys.hls_to_rgb(i * 0.618 % 1, (0.42, 0.7, 0.55)[i % 3], 0.5)
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(background: RGB) -> RGB:
    """Black or white, whichever can be read on ``background`` (relative luminance of ITU-R BT.709)."""
    luminance = 0.2126 * background[0] + 0.7152 * background[1] + 0.0722 * background[2]
    return (20, 20, 20) if luminance > 135 else (255, 255, 255)


_KEPT = 512


class TextPainter:
    """Draws lines of text with one font.

    Args:
        font: see :func:`ferkit.core.style.open_font`.
    """

    def __init__(self, font: Font) -> None:
        self._font = font
        self._mask = functools.lru_cache(_KEPT)(self._drawn)
        # Hangul and letters with descenders alike, so that all lines sit at one height.
        top, bottom = zip(*(font.getbbox(text)[1::2] for text in ("Ág|", "gjpqy")), strict=True)
        self._top = int(min(top))
        self.height = int(np.ceil(max(bottom))) - self._top

    def width(self, text: str) -> int:
        """Width of ``text`` in pixels."""
        return self._mask(text).shape[1]

    def draw(self, rgb: np.ndarray, text: str, xy: tuple[int, int], color: RGB) -> None:
        """Draw into ``rgb`` (H, W, 3) uint8, the left upper corner at ``xy``; what is outside is cut off."""
        mask = self._mask(text)
        x, y = xy
        height, width = rgb.shape[:2]
        x0, y0, x1, y1 = max(0, x), max(0, y), min(width, x + mask.shape[1]), min(height, y + mask.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        part = rgb[y0:y1, x0:x1]
        alpha = mask[y0 - y : y1 - y, x0 - x : x1 - x, None]
        part[:] = part + alpha * (np.array(color, np.float32) - part)

    def _drawn(self, text: str) -> np.ndarray:
        """float32 (height, width), 0..1."""
        from PIL import Image, ImageDraw

        width = max(1, int(np.ceil(self._font.getlength(text))))
        image = Image.new("L", (width, self.height))
        ImageDraw.Draw(image).text((0, -self._top), text, fill=255, font=self._font)
        return np.asarray(image, np.float32) / 255


SMALLEST_SIDE = 240
"""Copies of smaller images are enlarged, so that a label fits."""


def text_size(rgb: np.ndarray) -> int:
    """Height of letters in pixels that can be read on an image of this size."""
    return int(np.clip(round(max(rgb.shape[:2]) / 40), 15, 44))


def enlarged(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy, enlarged by the whole factor that is returned too, if the image is small."""
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
    tops = [t for t in (above, below, y0, y1 - h, above - h, below + h) if 0 <= t <= height - h or t == y0]
    lefts = x0 - line // 2, x1 + line // 2 + 1 - w, (x0 + x1 - w) // 2
    corners = np.array([(left, top) for top in tops for left in lefts])
    corners = np.maximum(np.minimum(corners, (width - w, height - h)), 0)
    spots = np.hstack([corners, corners + np.array([w, h])])
    cost = np.arange(len(spots)) + 0.2 * shared_area(spots, boxes[i : i + 1])[:, 0]
    if len(boxes) > 1:
        cost = cost + shared_area(spots, np.delete(boxes, i, axis=0)).sum(axis=1)
    if placed:
        cost = np.where(shared_area(spots, np.array(placed)).any(axis=1), np.inf, cost)
    best = int(cost.argmin())
    return spots[best] if np.isfinite(cost[best]) else None


def draw_caption(rgb: np.ndarray, label: str, color: RGB, painter: TextPainter) -> None:
    """Draw a label across the lower edge of ``rgb``: for an image that is a face as a whole."""
    height, width = rgb.shape[:2]
    pad = max(2, painter.height // 6)
    top = height - painter.height - 2 * pad
    rgb[max(0, top) :] = color
    painter.draw(rgb, label, (max(pad, (width - painter.width(label)) // 2), top + pad), ink_on(color))
