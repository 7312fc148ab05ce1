"""Drawn faces with known expressions: material for demonstrations and tests, no substitute for photographs.

The images are cartoons built from the action units that textbooks assign to each expression. They
exercise every step from files to metrics offline, with persons that can be kept apart. A model trained on
them has learnt these drawings; its accuracy says nothing about real people.

Most expressions have several typical forms (a smile with or without teeth, pressed or shouting anger):
a class that always looks the same would make the simulated task trivial.

Coordinates: x to the right and y down, in half face heights, with the middle of the face at (0, 0), the top
of the skull at y = -1 and the chin, while the mouth is closed, at y = 1. ``half`` is -1 for what lies in the
left half of the image and 1 for the right one.
"""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import cv2
import numpy as np

from ferkit.core.errors import DataError

Colour = tuple[int, int, int]
"""Red, green and blue, each 0..255."""

T = np.linspace(-1.0, 1.0, 25)
"""Parameter along a curve, from one end to the other."""

BOW = 1.0 - T**2
"""Height of an arc over ``T``: 0 at both ends, 1 in the middle."""

_SHIFT = 4  # OpenCV takes corners as integers; four of their bits hold the fraction of a pixel


class Layer:
    """An image (height, width, 3) uint8 that is drawn on through an affine map (2, 3) to its pixels."""

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


EXPRESSIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Class names of FER2013, in its order."""

SIMILAR = {
    "angry": ("disgust", "neutral"),
    "disgust": ("angry", "sad"),
    "fear": ("surprise", "sad"),
    "happy": ("neutral", "surprise"),
    "neutral": ("sad", "angry"),
    "sad": ("neutral", "fear"),
    "surprise": ("fear", "happy"),
}
"""The classes that people most often confuse each class with."""


class ActionUnits(NamedTuple):
    """How far each part of the face has moved from rest; 0 is rest and 1 is a strong movement.

    The numbers in the comments are the nearest FACS action units. Fields marked "signed" reach from -1 to 1.
    """

    inner_brow: float = 0.0  # signed: raised (AU1) or lowered (AU4)
    outer_brow: float = 0.0  # signed: raised (AU2) or lowered (AU4)
    furrow: float = 0.0  # brows drawn together (AU4)
    upper_lid: float = 0.0  # signed: raised (AU5) or drooping (AU43)
    lower_lid: float = 0.0  # tightened (AU7)
    nose_wrinkle: float = 0.0  # AU9
    cheek: float = 0.0  # raised (AU6)
    upper_lip: float = 0.0  # raised (AU10)
    mouth_corner: float = 0.0  # signed: pulled up (AU12) or down (AU15)
    mouth_stretch: float = 0.0  # signed: widened (AU20) or narrowed (AU18)
    lip_press: float = 0.0  # AU24
    chin: float = 0.0  # raised, pushing the lower lip up (AU17)
    jaw: float = 0.0  # dropped (AU26)
    teeth: float = 0.0  # how much of an open mouth the teeth fill


NEUTRAL = ActionUnits()

_NOISE = 0.1  # standard deviation; nobody makes the same face twice

# fmt: off
_TYPICAL = {
    # inner_brow, outer_brow, furrow, upper_lid, lower_lid, nose_wrinkle, cheek, upper_lip, mouth_corner, mouth_stretch,
    # lip_press, chin, jaw, teeth
    "angry": (
        (-1, 0.2, 1, 0.2, 0.6, 0.2, 0, 0, -0.35, -0.1, 0.9, 0.4, 0, 0),
        (-1, 0.3, 1, 0.4, 0.5, 0.5, 0, 0.4, -0.35, 0.1, 0, 0, 0.5, 0.9),
    ),
    "disgust": (
        (-0.6, -0.3, 0.5, -0.35, 0.8, 1, 0.5, 0.9, -0.5, 0, 0, 0.3, 0, 0),
        (-0.5, -0.3, 0.4, -0.45, 0.8, 1, 0.6, 1, -0.4, 0, 0, 0, 0.2, 0.8),
    ),
    "fear": (
        (0.9, 0.1, 0.6, 0.9, 0.3, 0, 0, 0, -0.35, 0.7, 0, 0, 0.35, 0.4),
        (0.9, 0.1, 0.7, 0.9, 0.4, 0, 0, 0, -0.3, 0.9, 0, 0, 0.18, 1),
    ),
    "happy": (
        (0, 0, 0, -0.15, 0.5, 0, 0.9, 0, 1, 0.5, 0, 0, 0.25, 1),
        (0, 0, 0, 0, 0.4, 0, 0.6, 0, 0.9, 0.35, 0, 0, 0, 0),
        (0.2, 0.3, 0, -0.5, 0.7, 0, 1, 0, 1, 0.5, 0, 0, 0.6, 0.6),
    ),
    "neutral": ((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),),
    "sad": (
        (0.9, -0.5, 0.4, -0.35, 0, 0, 0, 0, -0.85, -0.1, 0, 0.5, 0, 0),
        (0.8, -0.5, 0.7, -0.65, 0.5, 0, 0.2, 0, -1, 0.2, 0, 0.3, 0.15, 0.5),
    ),
    "surprise": (
        (0.9, 1, 0, 0.9, 0, 0, 0, 0, 0, -0.4, 0, 0, 0.9, 0),
        (1, 1, 0, 0.8, 0, 0, 0, 0, 0, -0.5, 0, 0, 0.45, 0.2),
    ),
}
# fmt: on
FORMS = {name: tuple(ActionUnits(*map(float, form)) for form in forms) for name, forms in _TYPICAL.items()}
"""Typical forms of each expression."""


def sample_units(expression: str, rng: np.random.Generator, intensity: float = 1.0) -> ActionUnits:
    """Draw one occurrence: a random form, scaled by ``intensity``, with noise in every unit."""
    forms = FORMS[expression]
    typical = _blend(NEUTRAL, forms[rng.integers(len(forms))], intensity)
    return ActionUnits(*(np.array(typical) + _NOISE * rng.standard_normal(len(typical))).tolist())


def sample_unclear_units(expression: str, rng: np.random.Generator) -> ActionUnits:
    """Draw an occurrence that people would disagree about: faint, or mixed with a similar expression."""
    if expression != "neutral" and rng.random() < 0.5:
        return sample_units(expression, rng, intensity=rng.uniform(0.4, 0.65))
    similar = SIMILAR[expression]
    other = similar[rng.integers(len(similar))]
    return _blend(sample_units(expression, rng), sample_units(other, rng), weight=rng.uniform(0.2, 0.45))


def _blend(first: ActionUnits, second: ActionUnits, weight: float) -> ActionUnits:
    """Go from ``first`` (weight 0) to ``second`` (weight 1) ; beyond 1 exaggerates ``second``."""
    start, end = np.array(first), np.array(second)
    return ActionUnits(*(start + weight * (end - start)).tolist())


HAIR_STYLES = ("bald", "short", "fringe", "parted", "long", "curly")

# Anchors from light to dark; a person's tone lies between two neighbours.
_SKIN_TONES = np.array([
    (250, 222, 204), (243, 208, 182), (232, 190, 158), (216, 170, 134), (193, 143, 106),
    (160, 112, 80), (124, 83, 57), (92, 60, 42), (66, 44, 33),
])  # fmt: skip
_BLACK_HAIR = ((22, 18, 18), (34, 27, 25), (48, 36, 30))
_OTHER_HAIR = ((74, 48, 32), (112, 74, 44), (168, 124, 74), (214, 180, 120), (150, 66, 36))
_GREY_HAIR = (176, 174, 172)
_DARK_IRIS = ((42, 26, 18), (62, 38, 24))
_OTHER_IRIS = ((84, 58, 34), (74, 104, 132), (84, 110, 82), (110, 120, 126))


@dataclass(frozen=True)
class Identity:
    """One simulated person.

    Lengths are in half face heights (the face reaches from -1 at the top to 1 at the chin) or, where a
    comment says so, factors around 1.
    """

    skin: Colour
    face_width: float
    jaw_width: float  # factor of face_width at the level of the mouth
    eye_spacing: float  # from the middle of the face to the middle of an eye
    eye_size: float  # factor
    eye_opening: float  # factor
    eye_slant: float  # rise of the outer corner
    monolid: bool
    iris: Colour
    brow_thickness: float
    brow_height: float  # above the eye
    nose_length: float  # factor
    nose_width: float
    mouth_width: float
    lip_fullness: float  # factor
    lip_redness: float  # 0 bare .. 1 lipstick
    hair_style: str
    hair: Colour
    hairline: float  # y coordinate of the hairline
    glasses: bool
    beard: float  # 0 none .. 1 full
    age: float  # 0 young adult .. 1 old
    resting_brow: float  # signed habit: some people frown at rest
    resting_mouth: float  # signed habit: some mouths droop at rest

    @classmethod
    def random(cls, rng: np.random.Generator) -> Self:
        """Draw a person; half of them have traits common in East Asia, the others come from everywhere.

        The proportions aim at variety; they describe no real population.
        """
        east_asian = rng.random() < 0.5
        feminine = rng.random() < 0.5
        age = float(rng.beta(1.3, 2.0))
        tone = rng.uniform(0.3, 3.6) if east_asian else rng.uniform(0, len(_SKIN_TONES) - 1)
        dark_traits = east_asian or tone > 4
        style_weights = (0, 0.1, 0.25, 0.25, 0.3, 0.1) if feminine else (0.1, 0.35, 0.2, 0.2, 0.05, 0.1)
        return cls(
            skin=_skin(tone, rng),
            face_width=rng.uniform(0.67, 0.79),
            jaw_width=rng.uniform(0.74, 0.86) if feminine else rng.uniform(0.8, 0.96),
            eye_spacing=rng.uniform(0.29, 0.35),
            eye_size=rng.uniform(0.88, 1.15),
            eye_opening=rng.uniform(0.7, 0.95) if east_asian else rng.uniform(0.85, 1.15),
            eye_slant=rng.uniform(0.0, 0.04) if east_asian else rng.uniform(-0.02, 0.02),
            monolid=bool(rng.random() < (0.6 if east_asian else 0.05)),
            iris=_pick(_DARK_IRIS if dark_traits else _DARK_IRIS + _OTHER_IRIS, rng),
            brow_thickness=rng.uniform(0.035, 0.055) if feminine else rng.uniform(0.05, 0.085),
            brow_height=rng.uniform(0.2, 0.25),
            nose_length=rng.uniform(0.88, 1.12),
            nose_width=rng.uniform(0.13, 0.19),
            mouth_width=rng.uniform(0.26, 0.34),
            lip_fullness=rng.uniform(0.7, 1.35),
            lip_redness=rng.uniform(0.3, 0.9) if feminine else rng.uniform(0.0, 0.25),
            hair_style=str(rng.choice(HAIR_STYLES, p=style_weights)),
            hair=_hair(dark_traits, age, rng),
            hairline=rng.uniform(-0.82, -0.68),
            glasses=bool(rng.random() < 0.2),
            beard=0.0 if feminine or rng.random() < 0.65 else rng.uniform(0.15, 1.0),
            age=age,
            resting_brow=rng.normal(0, 0.12),
            resting_mouth=rng.normal(0, 0.1),
        )


def _pick(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    return colours[rng.integers(len(colours))]


def _skin(tone: float, rng: np.random.Generator) -> Colour:
    anchors = np.arange(len(_SKIN_TONES))
    channels = np.array([np.interp(tone, anchors, _SKIN_TONES[:, channel]) for channel in range(3)])
    red, green, blue = np.clip(channels * rng.normal(1, 0.025, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def _hair(dark: bool, age: float, rng: np.random.Generator) -> Colour:
    if age > 0.6 and rng.random() < 0.6:
        return _GREY_HAIR
    return _pick(_BLACK_HAIR if dark else _BLACK_HAIR + _OTHER_HAIR, rng)


_SUPERSAMPLING = 3
_UNLIT = 200  # level of the shading that leaves a colour as it is; higher brightens, lower darkens
_EYE_Y, _NOSE_Y, _MOUTH_Y = -0.2, 0.24, 0.54
_JAW_TRAVEL = 0.15  # how far a fully dropped jaw moves the chin


def draw_face(identity: Identity, units: ActionUnits, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one image, uint8 RGB (size, size, 3); ``rng`` draws pose, light, background and camera."""
    side = size * _SUPERSAMPLING
    pose = _random_pose(rng, side)
    pixels = paint_face(_background(rng, side), pose, identity, units, rng, side)
    return _photograph(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA), rng)


def paint_face(
    background: np.ndarray,
    pose: np.ndarray,
    identity: Identity,
    units: ActionUnits,
    rng: np.random.Generator,
    face_height: float,
) -> np.ndarray:
    """Paint a head and shoulders onto a square ``background`` (side, side, 3) uint8, in its light.

    Args:
        background: is painted over.
        pose: affine map (2, 3) from face coordinates to pixels.
        identity, units: who is shown, and how they feel.
        rng: draws the clothes.
        face_height: in pixels; light and shadow are as soft as suits a face of this height.

    Returns:
        uint8 RGB (side, side, 3).
    """
    units = _within_anatomy(units)
    canvas = Layer(background, pose)
    _draw_head(canvas, identity, units, rng)
    shading = _shading(identity, units, pose, len(background), face_height)
    canvas.pixels = cv2.multiply(canvas.pixels, shading, scale=1 / _UNLIT)
    for half in (-1, 1):
        _draw_eye(canvas, identity, units, half)
        _draw_brow(canvas, identity, units, half)
    _draw_nostrils(canvas, identity, units)
    _draw_mouth(canvas, identity, units)
    _draw_front_hair(canvas, identity)
    if identity.glasses:
        _draw_glasses(canvas, identity)
    return canvas.pixels


def _within_anatomy(units: ActionUnits) -> ActionUnits:
    """Limit noisy or exaggerated units to what a face can do; only some of them have a negative direction."""
    signed = ("inner_brow", "outer_brow", "upper_lid", "mouth_corner", "mouth_stretch")
    least = [-1.3 if name in signed else 0.0 for name in units._fields]
    return ActionUnits(*np.clip(units, least, 1.3).tolist())


# --- camera ---


def _random_pose(rng: np.random.Generator, side: int) -> np.ndarray:
    """Affine map (2, 3) from face coordinates to pixels: a tight crop, forehead to chin, as in FER2013."""
    roll = rng.normal(0, 0.07)
    zoom = rng.uniform(0.92, 1.06) * side / 2
    turn = rng.uniform(0.94, 1.0)  # a head turned sideways looks narrower
    shift = rng.normal((0.0, -0.03), 0.03) * side / 2
    rotation = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return np.column_stack([zoom * rotation @ np.diag([turn, 1.0]), side / 2 + shift])


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth blotches of colour, like a room out of focus."""
    wall = rng.uniform(30, 225) + rng.normal(0, 18, 3)
    blotches = rng.normal(0, 22, (4, 4, 1)) + rng.normal(0, 10, (4, 4, 3))
    small = np.clip(wall + blotches, 0, 255).astype(np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


def _photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add uneven light, a colour cast, blur and sensor noise."""
    size = len(image)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    gradient = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
    light = rng.uniform(0.75, 1.05) * (1 + rng.uniform(0, 0.25) * gradient)
    cast = rng.normal(1, 0.02, 3).astype(np.float32)
    photo = image * light[..., None].astype(np.float32) * cast
    photo = cv2.GaussianBlur(photo, (0, 0), size / 96 * rng.uniform(0.25, 0.9))
    photo += rng.uniform(1.0, 6.0) * rng.standard_normal(photo.shape, dtype=np.float32)
    return np.clip(photo, 0, 255).astype(np.uint8)


# --- head, hair and light ---


def _outline(identity: Identity, units: ActionUnits) -> np.ndarray:
    """Contour (60, 2) of the face, clockwise from the top."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x, y = np.sin(angle), -np.cos(angle)
    below = np.maximum(y, 0)
    # An ellipse is too round: jaws taper, but their corners stand out, as do those of the skull.
    factor = 1 - (1 - identity.jaw_width) * below + 0.25 * np.abs(x * y)
    return np.column_stack([identity.face_width * factor * x, y + _JAW_TRAVEL * units.jaw * below])


def _draw_head(canvas: Layer, identity: Identity, units: ActionUnits, rng: np.random.Generator) -> None:
    """Everything behind the features: long hair, neck, clothes, ears, skin and beard."""
    width, skin = identity.face_width, identity.skin
    if identity.hair_style == "long":
        canvas.fill(ellipse(0, -0.2, width + 0.2, 1.0), dark(identity.hair, 0.8))
        canvas.fill(band(T * (width + 0.2), -0.2, 2.0), dark(identity.hair, 0.8))
    elif identity.hair_style == "curly":
        canvas.fill(ellipse(0, -0.4, width + 0.3, 0.95), identity.hair)
    elif identity.hair_style != "bald":
        canvas.fill(ellipse(0, -0.35, width + 0.06, 0.78), identity.hair)
    canvas.fill(band(T * 0.62 * width, 0.5, 2.0), dark(skin, 0.7))
    canvas.fill(band(T * 1.6, 1.3 - 0.3 * T**2, 2.5), tuple(rng.integers(30, 220, 3).tolist()))
    for half in (-1, 1):
        canvas.fill(ellipse(half * (width + 0.01), -0.02, 0.1, 0.2), dark(skin, 0.86))
    outline = _outline(identity, units)
    canvas.fill(outline, skin)
    if identity.beard:
        jaw = outline[outline[:, 1] > 0.1]
        jaw = jaw[np.argsort(jaw[:, 0])]
        upper_edge = np.interp(np.abs(jaw[:, 0]), [0, 0.15, 0.4, 0.6], [0.36, 0.37, 0.5, 0.15])
        stubble = mix(skin, identity.hair, 0.1 + 0.75 * identity.beard)
        canvas.fill(band(jaw[:, 0], np.minimum(upper_edge, jaw[:, 1]), jaw[:, 1]), stubble)


def _draw_front_hair(canvas: Layer, identity: Identity) -> None:
    """Hair over the forehead; its lower edge is what tells the styles apart."""
    if identity.hair_style == "bald":
        return
    width, line = identity.face_width, identity.hairline
    x = T * (width + 0.06)
    temples = 0.75 * np.abs(T) ** 5  # the hairline runs down in front of the ears
    edge = {
        "short": line + temples,
        "long": line - 0.05 + 0.9 * np.abs(T) ** 4,
        "curly": line + 0.04 * np.cos(12 * T) + temples,
        "fringe": -0.56 + 0.02 * np.cos(25 * T) + 0.5 * np.abs(T) ** 6,
        "parted": line - 0.06 + 0.3 * np.abs(T + 0.35) ** 1.5 + 0.4 * np.abs(T) ** 6,
    }[identity.hair_style]
    canvas.fill(band(x, -0.45 - 0.68 * np.sqrt(BOW), edge), identity.hair)
    sheen = mix(identity.hair, (255, 255, 255), 0.13)
    canvas.stroke(curve(0.6 * x, -0.92 - 0.06 * BOW), sheen, 0.05)


def _shading(
    identity: Identity, units: ActionUnits, pose: np.ndarray, side: int, face_height: float
) -> np.ndarray:
    """Light and shadow (side, side, 3) on the skin: broad and soft forms, then finer folds of skin."""
    coarse_step = 4  # soft forms need no resolution
    soft = Layer(np.full((side // coarse_step, side // coarse_step, 3), 165, np.uint8), pose / coarse_step)
    width = identity.face_width
    soft.fill(ellipse(0, -0.02, 0.84 * width, 0.86), (_UNLIT,) * 3)
    soft.fill(ellipse(0, -0.55, 0.5 * width, 0.2), (212, 210, 208))
    for half in (-1, 1):
        soft.fill(ellipse(half * identity.eye_spacing, _EYE_Y - 0.06, 0.2, 0.13), (182, 176, 174))
        cheek = round(212 + 14 * units.cheek)
        soft.fill(ellipse(half * 0.4, 0.18 - 0.06 * units.cheek, 0.17, 0.12), (cheek, cheek - 14, cheek - 16))
        soft.fill(ellipse(half * 0.12, 0.08, 0.05, 0.2), (178, 172, 170))
    soft.fill(ellipse(0, 0.05, 0.06, 0.28), (222, 218, 216))
    soft.fill(ellipse(0, _MOUTH_Y + 0.2 + _JAW_TRAVEL * units.jaw, 0.17, 0.05), (178, 174, 172))
    blurred = cv2.GaussianBlur(soft.pixels, (0, 0), 0.045 * (face_height // coarse_step))
    folds = Layer(np.full((side, side, 3), _UNLIT, np.uint8), pose)
    _draw_folds(folds, identity, units)
    blurred_folds = cv2.GaussianBlur(folds.pixels, (0, 0), 0.007 * face_height)
    return cv2.multiply(cv2.resize(blurred, (side, side)), blurred_folds, scale=1 / _UNLIT)


def _draw_folds(folds: Layer, identity: Identity, units: ActionUnits) -> None:
    """Wrinkles; ``depth`` runs from 0 (not there) to 1 (a sharp fold)."""

    def fold(points: np.ndarray, depth: float, width: float = 0.022) -> None:
        if depth > 0.08:
            folds.stroke(points, dark((_UNLIT,) * 3, 1 - 0.42 * min(depth, 1.0)), width)

    age, lift = identity.age, 0.5 * (units.inner_brow + units.outer_brow)
    for level in (-0.62, -0.55):
        fold(curve(0.3 * T, level - 0.03 * BOW), 0.7 * max(lift, 0.0) + 0.35 * age - 0.25)
    for half in (-1, 1):
        fold(np.array([[0.055, -0.42], [0.045, -0.27]]) * (half, 1), 0.9 * units.furrow)
        wing = identity.nose_width + 0.02
        corner_x = identity.mouth_width * (1.3 + 0.35 * units.mouth_stretch)
        smile_fold = 0.4 * units.cheek + 0.3 * units.upper_lip + 0.35 * units.nose_wrinkle + 0.4 * age - 0.15
        s = (T + 1) / 2
        fold(curve(half * (wing + (corner_x - wing) * s + 0.05 * BOW), 0.18 + 0.3 * s), smile_fold, 0.035)
        eye_x = identity.eye_spacing
        bag = _EYE_Y + 0.13 - 0.02 * units.cheek
        fold(curve(half * (eye_x + 0.13 * T), bag + 0.03 * BOW), 0.4 * units.lower_lid + 0.4 * age, 0.018)
        for slope in (-0.05, 0.03):
            crows_foot = np.array([[eye_x + 0.21, _EYE_Y + slope / 2], [eye_x + 0.29, _EYE_Y + 2 * slope]])
            fold(crows_foot * (half, 1), 0.6 * units.cheek + 0.5 * age - 0.2, 0.014)
    for level in (-0.13, -0.06, 0.01):
        fold(curve(0.085 * T, level + 0.035 * BOW), units.nose_wrinkle - 0.15, 0.02)
    fold(curve(0.13 * T, _MOUTH_Y + 0.24 - 0.06 * BOW), 0.8 * units.chin)


# --- features ---


def _draw_eye(canvas: Layer, identity: Identity, units: ActionUnits, half: int) -> None:
    half_width = 0.165 * identity.eye_size
    centre = half * identity.eye_spacing
    x = centre + half_width * T
    middle = _EYE_Y - half * T * identity.eye_slant
    opening = identity.eye_opening * identity.eye_size
    upper = middle - 0.078 * opening * max(1 + 0.75 * units.upper_lid, 0.08) * BOW**0.75
    widened = 1 - 0.6 * units.lower_lid + 0.25 * max(units.upper_lid, 0)
    lower = middle + 0.05 * opening * max(widened, 0.1) * BOW
    canvas.fill(band(x, upper, lower), (236, 231, 226))
    for radius, colour in ((0.076, identity.iris), (0.036, (10, 8, 8))):
        disc = ellipse(centre, _EYE_Y - 0.012, radius * identity.eye_size, radius * identity.eye_size)
        canvas.fill(clip_between(disc, x, upper, lower), colour)
    glint = ellipse(centre + 0.022, _EYE_Y - 0.035, 0.013, 0.013)
    canvas.fill(clip_between(glint, x, upper, lower), (245, 245, 245))
    canvas.stroke(curve(x, lower), dark(identity.skin, 0.62), 0.008)
    canvas.stroke(curve(x, upper), dark(identity.skin, 0.22), 0.024)
    if not identity.monolid:
        canvas.stroke(curve(x, upper - 0.035 - 0.012 * BOW), dark(identity.skin, 0.66), 0.01)


def _draw_brow(canvas: Layer, identity: Identity, units: ActionUnits, half: int) -> None:
    s = (T + 1) / 2  # 0 at the inner end, 1 at the outer one
    inner, outer = units.inner_brow + identity.resting_brow, units.outer_brow
    x = half * (identity.eye_spacing - 0.19 - 0.045 * units.furrow + 0.4 * s)
    lift = 0.11 * ((1 - s) * inner + s * outer)
    y = _EYE_Y - identity.brow_height - lift - 0.045 * np.sin(np.pi * s**1.3) + 0.03 * units.nose_wrinkle
    thickness = 0.5 * identity.brow_thickness * (1.0 - 0.75 * s**2)
    canvas.fill(band(x, y - thickness, y + thickness), mix(identity.hair, identity.skin, 0.15))


def _draw_nostrils(canvas: Layer, identity: Identity, units: ActionUnits) -> None:
    y = _NOSE_Y * identity.nose_length - 0.035 * units.nose_wrinkle
    width = identity.nose_width * (1 + 0.15 * units.nose_wrinkle)
    shadow = dark(identity.skin, 0.6)
    canvas.stroke(curve(0.55 * width * T, y + 0.035 * BOW), shadow, 0.014)
    for half in (-1, 1):
        canvas.fill(ellipse(half * 0.5 * width, y - 0.005, 0.04, 0.018), dark(identity.skin, 0.3))
        canvas.stroke(curve(half * (width - 0.035 * T**2), y - 0.05 + 0.06 * T), shadow, 0.014)


def _draw_mouth(canvas: Layer, identity: Identity, units: ActionUnits) -> None:
    corner = units.mouth_corner + identity.resting_mouth
    x = identity.mouth_width * (1 + 0.28 * units.mouth_stretch + 0.12 * max(corner, 0.0)) * T
    centre = _MOUTH_Y - 0.03 * units.upper_lip - 0.02 * units.chin + 0.03 * corner
    middle = centre + 0.13 * corner * (0.4 - T**2)
    opening = 0.34 * units.jaw
    shape = BOW**0.6
    top = middle - (0.18 * opening + 0.03 * units.upper_lip * units.teeth) * shape
    bottom = middle + 0.82 * opening * shape
    full = identity.lip_fullness * (1 - 0.75 * min(units.lip_press, 1.0))
    bow = 1 - 0.22 * np.exp(-((T / 0.12) ** 2))  # the dip in the middle of the upper lip
    upper_edge = top - (0.058 * full * bow + 0.03 * units.upper_lip) * BOW**0.7
    lower_edge = bottom + 0.078 * full * BOW**0.8
    lips = mix(mix(dark(identity.skin, 0.78), (150, 60, 62), 0.35), (176, 36, 52), 0.8 * identity.lip_redness)
    canvas.fill(band(x, upper_edge, lower_edge), lips)
    canvas.fill(band(x, upper_edge, middle), dark(lips, 0.88))
    if opening > 0.02:
        _draw_mouth_cavity(canvas, x, top, bottom, units.teeth)
    else:
        canvas.stroke(curve(x, middle), dark(lips, 0.42), 0.018)


def _draw_mouth_cavity(
    canvas: Layer, x: np.ndarray, top: np.ndarray, bottom: np.ndarray, teeth: float
) -> None:
    canvas.fill(band(x, top, bottom), (52, 18, 22))
    tongue = ellipse(0, bottom.max(), 0.55 * x[-1], 0.08)
    canvas.fill(clip_between(tongue, x, top, bottom), (168, 74, 78))
    height = min(teeth, 1.0) * (bottom - top)
    canvas.fill(band(0.94 * x, top, top + np.minimum(height, 0.11)), (238, 234, 224))
    canvas.stroke(band(x, top, bottom), (70, 26, 28), 0.012, closed=True)


def _draw_glasses(canvas: Layer, identity: Identity) -> None:
    frame = (36, 32, 34)
    for half in (-1, 1):
        lens = ellipse(half * identity.eye_spacing, _EYE_Y + 0.03, 0.245, 0.19)
        canvas.stroke(lens, frame, 0.028, closed=True)
        hinge, ear = (identity.eye_spacing + 0.24, _EYE_Y - 0.02), (identity.face_width + 0.05, _EYE_Y - 0.06)
        canvas.stroke(np.array([hinge, ear]) * (half, 1), frame, 0.028)
    bridge = identity.eye_spacing - 0.24
    canvas.stroke(curve(bridge * T, _EYE_Y - 0.03 * BOW), frame, 0.028)


DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.7, "test": 0.3}
_UNCLEAR = 0.35
"""Share of images whose expression is faint or mixed with a similar one."""

_SMALLEST, _LARGEST = 24, 1024  # smaller, the eyes vanish; larger, the supersampled canvas passes 28 MB


def render_face(
    identity: Identity, expression: str, rng: np.random.Generator, *, size: int = 96, intensity: float = 1.0
) -> np.ndarray:
    """Draw one tightly cropped face; no two calls with the same ``rng`` give the same image.

    Args:
        identity: who is shown.
        expression: one of ``EXPRESSIONS``.
        rng: draws the form of the expression, head pose, light, background and camera noise.
        size: width and height in pixels, 24..1024.
        intensity: 0 (a neutral face) .. 1 (plain) .. 1.5 (exaggerated).

    Returns:
        uint8 RGB of shape (size, size, 3).

    Raises:
        DataError: an unknown expression, or a size or intensity out of range.
    """
    if expression not in EXPRESSIONS:
        raise DataError(
            f"expected an expression out of {', '.join(EXPRESSIONS)}, found {expression!r}; choose one"
        )
    if not 0 <= intensity <= 1.5:
        raise DataError(f"expected an intensity of 0 to 1.5, found {intensity}; use 1 for a plain expression")
    _check_size(size)
    return draw_face(identity, sample_units(expression, rng, intensity), rng, size)


def write_dataset(
    root: str | os.PathLike[str],
    *,
    n_per_class: int,
    n_persons: int,
    size: int = 96,
    seed: int = 0,
    splits: Mapping[str, float] = DEFAULT_SPLITS,
) -> None:
    """Write drawn faces to ``root/<split>/<expression>/``, in files such as ``p0012_00037.png``.

    A file name starts with the person shown; every person belongs to one split and, if there are images
    enough, shows every expression. Equal arguments and library versions give equal bytes.

    Args:
        root: a folder that is empty or does not exist yet.
        n_per_class: images of each expression, over all splits together.
        n_persons: persons over all splits together.
        size: width and height in pixels, 24..1024.
        seed: 0 or more; the same seed draws the same.
        splits: name of each split and its share of persons and images; the shares add up to 1.

    Raises:
        DataError: an argument out of range, a split left without a person or image, or a folder in use.
    """
    root = Path(root)
    _check_size(size)
    if seed < 0:
        raise DataError(f"expected a seed of 0 or more, found {seed}; choose any such whole number")
    shares = list(splits.values())
    if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise DataError(
            f"expected splits with positive shares that add up to 1, found {dict(splits)}; correct them"
        )
    if root.exists() and any(root.iterdir()):
        raise DataError(
            f"expected an empty or new folder, found files in {root}; choose another one or clear it"
        )
    images_of = _share_out(n_per_class, splits, "n_per_class")
    persons_of = _share_out(n_persons, splits, "n_persons")
    persons = (_Person(seed, number) for number in itertools.count())
    image_numbers = itertools.count()
    for split in splits:
        cast = list(itertools.islice(persons, persons_of[split]))
        for expression in EXPRESSIONS:
            folder = root / split / expression
            folder.mkdir(parents=True)
            for i in range(images_of[split]):
                person = cast[i % len(cast)]
                image = person.image(expression, size)
                _write_image(folder / f"{person.name}_{next(image_numbers):05d}.png", image)


class _Person:
    """A simulated person with a random stream of their own, so that persons do not depend on each other."""

    def __init__(self, seed: int, number: int) -> None:
        self.name = f"p{number:04d}"
        self._rng = np.random.default_rng([seed, number])
        self._identity = Identity.random(self._rng)

    def image(self, expression: str, size: int) -> np.ndarray:
        if self._rng.random() < _UNCLEAR:
            units = sample_unclear_units(expression, self._rng)
        else:
            units = sample_units(expression, self._rng, intensity=self._rng.uniform(0.7, 1.1))
        return draw_face(self._identity, units, self._rng, size)


def _write_image(path: Path, rgb: np.ndarray) -> None:
    # cv2.imwrite cannot open paths with Hangul on Windows; encoding in memory can.
    _, content = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    path.write_bytes(content.tobytes())


def _share_out(total: int, splits: Mapping[str, float], argument: str) -> dict[str, int]:
    """Divide ``total`` by the shares, each split rounded but their sum exact."""
    ends = np.rint(np.cumsum(list(splits.values())) * total).astype(int)
    counts = dict(zip(splits, np.diff(ends, prepend=0).tolist(), strict=True))
    for split, count in counts.items():
        if count < 1:
            raise DataError(
                f"expected at least one of {argument} in each split, found none in {split!r} "
                f"({argument}={total}); raise {argument} or give the split a larger share"
            )
    return counts


def _check_size(size: int) -> None:
    if not _SMALLEST <= size <= _LARGEST:
        raise DataError(
            f"expected a size of {_SMALLEST} to {_LARGEST} pixels, found {size}; 96 suits most uses"
        )
