"""What makes one simulated person look different from another, whatever the expression."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ferkit.datasets.synthetic.canvas import Colour

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
    if dark:
        return _pick(_BLACK_HAIR, rng)
    return _pick(_BLACK_HAIR + _OTHER_HAIR, rng)
