"""Drawn faces with known expressions: material for demonstrations and tests, no substitute for photographs.

The pictures are cartoons built from the action units that textbooks assign to each expression. They
exercise every step from files to metrics offline, with persons that can be kept apart. A model trained on
them has learnt these drawings; its accuracy says nothing about real people.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.synthetic.expressions import EXPRESSIONS, ActionUnits, sample_unclear_units, sample_units
from ferkit.datasets.synthetic.face import draw_face
from ferkit.datasets.synthetic.identity import Identity

__all__ = ["EXPRESSIONS", "Identity", "render_face", "write_dataset"]

DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.7, "test": 0.3}
IMAGE_FORMATS = ("png", "jpg")
_SMALLEST, _LARGEST = 24, 1024  # smaller, the eyes vanish; larger, the supersampled canvas passes 28 MB


def render_face(
    identity: Identity, expression: str, rng: np.random.Generator, *, size: int = 96, intensity: float = 1.0
) -> np.ndarray:
    """Draw one tightly cropped face; no two calls with the same ``rng`` give the same picture.

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
    root: Path,
    *,
    n_per_class: int,
    n_persons: int,
    size: int = 96,
    seed: int = 0,
    image_format: str = "png",
    splits: Mapping[str, float] = DEFAULT_SPLITS,
    ambiguity: float = 0.35,
) -> None:
    """Write drawn faces to ``root/<split>/<expression>/``, in files such as ``p0012_00037.png``.

    A file name starts with the person shown; every person belongs to one split and, if there are pictures
    enough, shows every expression. Equal arguments and library versions give equal bytes.

    Args:
        root: a folder that is empty or does not exist yet.
        n_per_class: pictures of each expression, over all splits together.
        n_persons: persons over all splits together.
        size: width and height in pixels, 24..1024.
        seed: 0 or more.
        image_format: ``png`` or ``jpg``.
        splits: name of each split and its share of persons and pictures; the shares add up to 1.
        ambiguity: share of pictures, 0..1, whose expression is faint or mixed with a similar one.

    Raises:
        DataError: an argument out of range, a split left without a person or picture, or a folder in use.
    """
    root = Path(root)
    _check_size(size)
    _check_dataset_arguments(seed, image_format, splits, ambiguity)
    if root.exists() and any(root.iterdir()):
        raise DataError(
            f"expected an empty or new folder, found files in {root}; choose another one or clear it"
        )
    images_of = _share_out(n_per_class, splits, "n_per_class")
    persons_of = _share_out(n_persons, splits, "n_persons")
    persons = (_Person(seed, number) for number in itertools.count())
    picture_numbers = itertools.count()
    for split in splits:
        cast = list(itertools.islice(persons, persons_of[split]))
        for expression in EXPRESSIONS:
            folder = root / split / expression
            folder.mkdir(parents=True)
            for i in range(images_of[split]):
                person = cast[i % len(cast)]
                image = person.picture(expression, size, ambiguity)
                _write_image(folder / f"{person.name}_{next(picture_numbers):05d}.{image_format}", image)


class _Person:
    """A simulated person with a random stream of their own, so that persons do not depend on each other."""

    def __init__(self, seed: int, number: int) -> None:
        self.name = f"p{number:04d}"
        self._rng = np.random.default_rng([seed, number])
        self._identity = Identity.random(self._rng)

    def picture(self, expression: str, size: int, ambiguity: float) -> np.ndarray:
        return draw_face(self._identity, self._units(expression, ambiguity), self._rng, size)

    def _units(self, expression: str, ambiguity: float) -> ActionUnits:
        if self._rng.random() < ambiguity:
            return sample_unclear_units(expression, self._rng)
        return sample_units(expression, self._rng, intensity=self._rng.uniform(0.7, 1.1))


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


def _check_dataset_arguments(
    seed: int, image_format: str, splits: Mapping[str, float], ambiguity: float
) -> None:
    if seed < 0:
        raise DataError(f"expected a seed of 0 or more, found {seed}; choose any such whole number")
    if image_format not in IMAGE_FORMATS:
        raise DataError(
            f"expected an image_format out of {', '.join(IMAGE_FORMATS)}, found {image_format!r}; use png"
        )
    if not 0 <= ambiguity <= 1:
        raise DataError(f"expected an ambiguity of 0 to 1, found {ambiguity}; 0 makes every expression plain")
    shares = list(splits.values())
    if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise DataError(
            f"expected splits with positive shares that add up to 1, found {dict(splits)}; correct them"
        )
