"""Draw a face from an identity and action units.

Coordinates: x to the right and y down, in half face heights, with the middle of the face at (0, 0), the chin of a
closed mouth at y = 1 and the top of the skull at y = -1. ``side`` is -1 for the left half of the picture, 1 for the
right one.
"""

from __future__ import annotations

import cv2
import numpy as np

from ferkit.datasets.synthetic.expressions import ActionUnits
from ferkit.datasets.synthetic.identity import Colour, Identity

_SUPERSAMPLING = 3
_SHIFT = 4  # OpenCV takes polygon corners as integers; four fractional bits keep them smooth
_NEUTRAL_LIGHT = 200  # level of the shading layers that leaves a colour as it is; above it brightens
_T = np.linspace(-1.0, 1.0, 25)  # parameter along every curve, left to right
_BOW = 1.0 - _T**2  # 0 at both ends, 1 in the middle
_EYE_Y, _NOSE_Y, _MOUTH_Y = -0.2, 0.24, 0.54
_JAW_TRAVEL = 0.16  # how far a fully dropped jaw moves the chin


class Layer:
    """A square picture that is drawn on in face coordinates."""

    def __init__(self, pixels: np.ndarray, to_pixels: np.ndarray) -> None:
        self.pixels = pixels
        self._scale = float(np.hypot(*to_pixels[:, 0]))
        self._to_pixels = to_pixels

    def _corners(self, points: np.ndarray) -> np.ndarray:
        pixels = points @ self._to_pixels[:, :2].T + self._to_pixels[:, 2]
        return np.rint(pixels * 2**_SHIFT).astype(np.int32)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.pixels, [self._corners(points)], colour, cv2.LINE_AA, _SHIFT)

    def stroke(self, points: np.ndarray, colour: Colour, width: float) -> None:
        thickness = max(1, round(width * self._scale))
        cv2.polylines(self.pixels, [self._corners(points)], False, colour, thickness, cv2.LINE_AA, _SHIFT)


def draw_face(identity: Identity, units: ActionUnits, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one photograph-like picture: uint8 RGB of shape (size, size, 3). ``rng`` draws pose, light and camera."""
    side = size * _SUPERSAMPLING
    pose = _random_pose(rng, side)
    canvas = Layer(_background(rng, side), pose)
    _paint_head(canvas, identity, units, rng)
    shading = _shading(identity, units, pose, side)
    canvas.pixels = cv2.multiply(canvas.pixels, shading, scale=1 / _NEUTRAL_LIGHT)
    for eye_side in (-1, 1):
        _draw_eye(canvas, identity, units, eye_side)
        _draw_brow(canvas, identity, units, eye_side)
    _draw_nose(canvas, identity, units)
    _draw_mouth(canvas, identity, units)
    _draw_front_hair(canvas, identity, rng)
    if identity.glasses:
        _draw_glasses(canvas, identity)
    return _photograph(cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA), rng)


def _random_pose(rng: np.random.Generator, side: int) -> np.ndarray:
    """Affine matrix (2, 3) from face coordinates to pixels: a tight crop, forehead to chin, as in FER2013."""
    roll = rng.normal(0, 0.07)
    zoom = rng.uniform(0.86, 0.98) * side / 2
    turn = rng.uniform(0.94, 1.0)  # a head turned sideways looks narrower
    shift = rng.normal((0.0, -0.04), 0.03) * side / 2
    rotation = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return np.column_stack([zoom * rotation @ np.diag([turn, 1.0]), side / 2 + shift])


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth blotches of colour, like a room out of focus."""
    blotches = rng.uniform(20, 235, 3) + rng.normal(0, 28, (4, 4, 3))
    return cv2.resize(np.clip(blotches, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)


def _photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add uneven light, a colour cast, blur and sensor noise."""
    size = len(image)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    gradient = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
    light = rng.uniform(0.72, 1.12) * (1 + rng.uniform(0, 0.25) * gradient)
    cast = rng.normal(1, 0.03, 3).astype(np.float32)
    photo = image * light[..., None].astype(np.float32) * cast
    photo = cv2.GaussianBlur(photo, (0, 0), size / 96 * rng.uniform(0.25, 0.9))
    photo += rng.uniform(1.0, 6.0) * rng.standard_normal(photo.shape, dtype=np.float32)
    return np.clip(photo, 0, 255).astype(np.uint8)


# --- geometry and colour helpers ---------------------------------------------------------------------------------


def _curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.column_stack(np.broadcast_arrays(x, y))


def _band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Polygon between two curves over the same x."""
    return np.vstack([_curve(x, top), _curve(x, bottom)[::-1]])


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)])


def _mix(first: Colour, second: Colour, weight: float) -> Colour:
    red, green, blue = (round(a + weight * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _dark(colour: Colour, factor: float) -> Colour:
    return _mix((0, 0, 0), colour, factor)


def _outline(identity: Identity, units: ActionUnits, grow: float = 0.0) -> np.ndarray:
    """Contour of the face; ``grow`` pushes it outwards."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x, y = np.sin(angle), -np.cos(angle)
    below = np.clip(y, 0, 1)
    narrowing = 1 - (1 - identity.jaw_width) * below * 1.6 + 0.16 * below * np.abs(x)
    chin = _JAW_TRAVEL * max(units.jaw, 0.0) * below
    return np.column_stack([x * narrowing * (identity.face_width + grow), y * (1 + grow) + chin])


# --- head, hair and light ----------------------------------------------------------------------------------------


def _paint_head(canvas: Layer, identity: Identity, units: ActionUnits, rng: np.random.Generator) -> None:
    width = identity.face_width
    if identity.hair_style == "long":
        canvas.fill(_ellipse(0, 0.15, width + 0.24, 1.35), _dark(identity.hair, 0.8))
        canvas.fill(_band(_T * (width + 0.24), np.full(25, 0.1), np.full(25, 2.0)), _dark(identity.hair, 0.8))
    canvas.fill(_band(_T * 0.5 * width / 0.75, np.full(25, 0.5), np.full(25, 2.0)), _dark(identity.skin, 0.72))
    clothes = tuple(rng.integers(30, 220, 3).tolist())
    canvas.fill(_band(_T * 1.6, 1.3 - 0.25 * _T**2 + 0.25 * _BOW, np.full(25, 2.5)), clothes)
    if identity.hair_style == "curly":
        canvas.fill(_ellipse(0, -0.35, width + 0.3, 0.95), identity.hair)
    for side in (-1, 1):
        canvas.fill(_ellipse(side * (width + 0.01), -0.02, 0.1, 0.2), _dark(identity.skin, 0.86))
    outline = _outline(identity, units)
    canvas.fill(outline, identity.skin)
    if identity.beard:
        _paint_beard(canvas, identity, units)


def _paint_beard(canvas: Layer, identity: Identity, units: ActionUnits) -> None:
    """Colour the jaw and the upper lip; the mouth is drawn on top later."""
    outline = _outline(identity, units)
    jaw = outline[outline[:, 1] > 0.12]
    jaw = jaw[np.argsort(jaw[:, 0])]
    top = np.interp(jaw[:, 0] / identity.face_width, [-1, -0.8, -0.45, 0, 0.45, 0.8, 1],
                    [0.1, 0.25, 0.45, 0.36, 0.45, 0.25, 0.1])
    colour = _mix(identity.skin, identity.hair, 0.15 + 0.7 * identity.beard)
    canvas.fill(_band(jaw[:, 0], np.minimum(top, jaw[:, 1]), jaw[:, 1]), colour)
