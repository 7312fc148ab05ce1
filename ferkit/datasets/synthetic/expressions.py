"""Facial expressions as a few numbers, in the spirit of the Facial Action Coding System (FACS).

Most expressions have several typical forms (a smile with or without teeth, pressed or shouting anger):
a class that always looks the same would make the simulated task trivial.
"""

from typing import NamedTuple

import numpy as np

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
FORMS: dict[str, tuple[ActionUnits, ...]] = {
    "angry": (
        ActionUnits(inner_brow=-1.0, outer_brow=0.2, furrow=1.0, upper_lid=0.2, lower_lid=0.6,
            nose_wrinkle=0.2, mouth_corner=-0.35, mouth_stretch=-0.1, lip_press=0.9, chin=0.4),
        ActionUnits(inner_brow=-1.0, outer_brow=0.3, furrow=1.0, upper_lid=0.4, lower_lid=0.5,
            nose_wrinkle=0.5, upper_lip=0.4, mouth_corner=-0.35, mouth_stretch=0.1, jaw=0.5, teeth=0.9),
    ),
    "disgust": (
        ActionUnits(inner_brow=-0.6, outer_brow=-0.3, furrow=0.5, upper_lid=-0.35, lower_lid=0.8,
            nose_wrinkle=1.0, cheek=0.5, upper_lip=0.9, mouth_corner=-0.5, chin=0.3),
        ActionUnits(inner_brow=-0.5, outer_brow=-0.3, furrow=0.4, upper_lid=-0.45, lower_lid=0.8,
            nose_wrinkle=1.0, cheek=0.6, upper_lip=1.0, mouth_corner=-0.4, jaw=0.2, teeth=0.8),
    ),
    "fear": (
        ActionUnits(inner_brow=0.9, outer_brow=0.1, furrow=0.6, upper_lid=0.9, lower_lid=0.3,
            mouth_corner=-0.35, mouth_stretch=0.7, jaw=0.35, teeth=0.4),
        ActionUnits(inner_brow=0.9, outer_brow=0.1, furrow=0.7, upper_lid=0.9, lower_lid=0.4,
            mouth_corner=-0.3, mouth_stretch=0.9, jaw=0.18, teeth=1.0),
    ),
    "happy": (
        ActionUnits(lower_lid=0.5, cheek=0.9, upper_lid=-0.15, mouth_corner=1.0, mouth_stretch=0.5,
            jaw=0.25, teeth=1.0),
        ActionUnits(lower_lid=0.4, cheek=0.6, mouth_corner=0.9, mouth_stretch=0.35),
        ActionUnits(inner_brow=0.2, outer_brow=0.3, upper_lid=-0.5, lower_lid=0.7, cheek=1.0,
            mouth_corner=1.0, mouth_stretch=0.5, jaw=0.6, teeth=0.6),
    ),
    "neutral": (NEUTRAL,),
    "sad": (
        ActionUnits(inner_brow=0.9, outer_brow=-0.5, furrow=0.4, upper_lid=-0.35, mouth_corner=-0.85,
            mouth_stretch=-0.1, chin=0.5),
        ActionUnits(inner_brow=0.8, outer_brow=-0.5, furrow=0.7, upper_lid=-0.65, lower_lid=0.5, cheek=0.2,
            mouth_corner=-1.0, mouth_stretch=0.2, jaw=0.15, teeth=0.5, chin=0.3),
    ),
    "surprise": (
        ActionUnits(inner_brow=0.9, outer_brow=1.0, upper_lid=0.9, mouth_stretch=-0.4, jaw=0.9),
        ActionUnits(inner_brow=1.0, outer_brow=1.0, upper_lid=0.8, mouth_stretch=-0.5, jaw=0.45, teeth=0.2),
    ),
}
# fmt: on


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
