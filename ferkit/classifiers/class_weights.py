"""Weigh classes against each other: what a user says, and the numbers that follow."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import meaning_of

ClassWeights: TypeAlias = bool | str | Mapping[str, float]
"""How much the images of each class count.

``False`` weighs all alike, ``True`` each class by the inverse of its frequency, a mapping as it says: its keys are
names of classes, or else their numbers from 0, and classes that it leaves out weigh 1. A text says the same:
``none``, ``balanced``, or ``약올리기=2,비약올리기=1``.
"""

_WORDS = {"none": False, "false": False, "balanced": True, "true": True}


def read_class_weights(asked: ClassWeights) -> bool | dict[str, float]:
    """The weights that a user asks for, as False, True or numbers by class.

    Raises:
        DataError: they are not what :data:`ClassWeights` says.
    """
    if isinstance(asked, str):
        word = asked.strip().lower()
        if word in _WORDS:
            return _WORDS[word]
    if isinstance(asked, bool):
        return asked
    pairs = [part.rpartition("=")[::2] for part in asked.split(",")] if isinstance(asked, str) else asked
    try:
        weights = {str(name).strip(): float(value) for name, value in dict(pairs).items()}
    except (AttributeError, TypeError, ValueError):
        weights = {}
    if not weights or "" in weights or not all(0 < w < math.inf for w in weights.values()):
        raise DataError(
            "expected class weights as 'balanced', 'none' or CLASS=WEIGHT,… with numbers above 0, such as 1=2, found "
            f"{asked!r}"
        )
    return weights


def numbers_of(asked: ClassWeights, y: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """The weight of each class, float64 (k,); None where all weigh alike.

    Args:
        asked: what was asked for.
        y: class numbers (n,) of the images; balanced weights have mean 1 over them.
        names: the k classes.

    Raises:
        DataError: weights of a class that is not there.
    """
    asked = read_class_weights(asked)
    if asked is False:
        return None
    if asked is True:
        return len(y) / (len(names) * np.maximum(np.bincount(y, minlength=len(names)), 1))
    place = {str(i): i for i in range(len(names))}
    place |= {meaning_of(name): i for i, name in enumerate(names)}
    place |= {unicodedata.normalize("NFC", name): i for i, name in enumerate(names)}
    weights = np.ones(len(names))
    for key, value in asked.items():
        name = unicodedata.normalize("NFC", key)
        i = place.get(name, place.get(meaning_of(name)))
        if i is None:
            known = ", ".join(f"{name} or {i}" for i, name in enumerate(names))
            raise DataError(f"no class {key!r} to weigh; expected {known}")
        weights[i] = value
    return weights
