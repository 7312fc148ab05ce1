"""Drawing in face coordinates: a layer to paint on, and the shapes and colours to paint with."""

import cv2
import numpy as np

Colour = tuple[int, int, int]
"""Red, green and blue, each 0..255."""

T = np.linspace(-1.0, 1.0, 25)
"""Parameter along a curve, from one end to the other."""

BOW = 1.0 - T**2
"""Height of an arc over ``T``: 0 at both ends, 1 in the middle."""

_SHIFT = 4  # OpenCV takes corners as integers; four of their bits hold the fraction of a pixel


class Layer:
    """A picture (height, width, 3) uint8 that is drawn on through an affine map (2, 3) to its pixels."""

    def __init__(self, pixels: np.ndarray, to_pixels: np.ndarray) -> None:
        self.pixels = pixels
        self._to_pixels = to_pixels
        self._scale = float(np.hypot(*to_pixels[:, 1]))

    def fill(self, polygon: np.ndarray, colour: Colour) -> None:
        """Fill a polygon given as corners (n, 2)."""
        cv2.fillPoly(self.pixels, [self._corners(polygon)], colour, cv2.LINE_AA, _SHIFT)

    def stroke(self, line: np.ndarray, colour: Colour, width: float, *, closed: bool = False) -> None:
        """Draw a line through points (n, 2); lines thinner than a pixel become one pixel wide."""
        thickness = max(1, round(width * self._scale))
        cv2.polylines(self.pixels, [self._corners(line)], closed, colour, thickness, cv2.LINE_AA, _SHIFT)

    def _corners(self, points: np.ndarray) -> np.ndarray:
        pixels = points @ self._to_pixels[:, :2].T + self._to_pixels[:, 2]
        return np.rint(pixels * 2**_SHIFT).astype(np.int32)


def curve(x: np.ndarray, y: np.ndarray | float) -> np.ndarray:
    """Points (n, 2) at the given x and y."""
    return np.column_stack(np.broadcast_arrays(x, y))


def band(x: np.ndarray, top: np.ndarray | float, bottom: np.ndarray | float) -> np.ndarray:
    """Polygon between two curves over the same x."""
    return np.vstack([curve(x, top), curve(x, bottom)[::-1]])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    """Polygon (28, 2) close to an ellipse."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)])


def clip_between(polygon: np.ndarray, x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Push a polygon's corners to between two curves over increasing x: an iris between the lids."""
    inside_x = np.clip(polygon[:, 0], x[0], x[-1])
    low, high = np.interp(inside_x, x, top), np.interp(inside_x, x, bottom)
    return np.column_stack([inside_x, np.clip(polygon[:, 1], low, high)])


def mix(first: Colour, second: Colour, weight: float) -> Colour:
    """Colour between ``first`` (weight 0) and ``second`` (weight 1)."""
    red, green, blue = (round(a + weight * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def dark(colour: Colour, factor: float) -> Colour:
    """Colour dimmed to ``factor`` of its brightness."""
    return mix((0, 0, 0), colour, factor)
