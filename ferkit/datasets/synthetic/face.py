"""Draw a face from an identity and action units.

Coordinates: x to the right and y down, in half face heights, with the middle of the face at (0, 0), the top
of the skull at y = -1 and the chin, while the mouth is closed, at y = 1. ``half`` is -1 for what lies in the
left half of the picture and 1 for the right one.
"""

import cv2
import numpy as np

from ferkit.datasets.synthetic.canvas import BOW, Layer, T, band, clip_between, curve, dark, ellipse, mix
from ferkit.datasets.synthetic.expressions import ActionUnits
from ferkit.datasets.synthetic.identity import Identity

_SUPERSAMPLING = 3
_UNLIT = 200  # level of the shading that leaves a colour as it is; higher brightens, lower darkens
_EYE_Y, _NOSE_Y, _MOUTH_Y = -0.2, 0.24, 0.54
_JAW_TRAVEL = 0.15  # how far a fully dropped jaw moves the chin


def draw_face(identity: Identity, units: ActionUnits, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one picture, uint8 RGB (size, size, 3); ``rng`` draws pose, light, background and camera."""
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
    return cv2.resize(
        np.clip(wall + blotches, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC
    )


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
