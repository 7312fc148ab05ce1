"""Giving every picture its part: train, val or test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.deal import deal
from ferkit.datasets.sample import strata_of
from ferkit.datasets.split import numbered

PARTS = ("train", "val", "test")
_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class AssignSettings:
    """How pictures are divided.

    Attributes:
        val, test: shares of the pictures, 0 to 1; training gets the rest.
        by: attributes that are kept in proportion beside the classes, such as ``source``.
        by_group: keep all pictures of one person in one part, where persons are known.
        within: divide only the pictures that are in this part now, and leave the others where they are.
        held_out: values of ``source`` all of whose pictures go to the test part.
        seed: the same seed divides the same.
    """

    val: float = 0.0
    test: float = 0.2
    by: tuple[str, ...] = ()
    by_group: bool = True
    within: str | None = None
    held_out: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise DataError(
                f"expected shares of val and test that leave something for training, found {self.val} and {self.test}"
            )
        if self.val + self.test == 0 and not self.held_out:
            raise DataError("expected a share for val or test, or a source that is held out, found none")

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part that has one."""
        shares = {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}
        return {part: share for part, share in shares.items() if share > 0}


@dataclass(frozen=True)
class Assigned:
    """A data set whose pictures all have a part.

    Attributes:
        dataset: the same pictures.
        counts: pictures of each class in each part, by class and part.
        persons: known persons in each part.
        shared_persons: persons in more than one part, which only parts that were given before can cause, or
            ``by_group=False``.
    """

    dataset: Dataset
    counts: Mapping[str, Mapping[str, int]]
    persons: Mapping[str, int]
    shared_persons: tuple[str, ...]


def assign(dataset: Dataset, settings: AssignSettings) -> Assigned:
    """Divide a data set.

    Raises:
        DataError: persons or pictures are too few for every class to be in every part, or there is nothing to
            divide.
    """
    chosen = [i for i, s in enumerate(dataset.samples) if settings.within in (None, s.split)]
    if not chosen:
        raise DataError(f"expected pictures in the part {settings.within!r} of {dataset.root}, found none")
    parts: list[str | None] = [sample.split for sample in dataset.samples]
    free = []
    for i in chosen:
        if dataset.samples[i].attributes.get("source") in settings.held_out:
            parts[i] = "test"
        else:
            free.append(i)
    _check_sources(dataset, settings)
    if free:
        names = list(settings.shares)
        for i, number in zip(
            free, _divided([dataset.samples[i] for i in free], dataset, settings), strict=True
        ):
            parts[i] = names[number]
    samples = [
        s if s.split == part else Sample(s.path, s.label, part, s.group, s.box, s.attributes)
        for s, part in zip(dataset.samples, parts, strict=True)
    ]
    return _described(dataset.subset(samples))


def _divided(samples: Sequence[Sample], dataset: Dataset, settings: AssignSettings) -> list[int]:
    y = numbered(sample.label for sample in samples)
    strata = numbered(strata_of(samples, settings.by, dataset))
    persons = numbered(sample.group if settings.by_group else None for sample in samples)
    classes = sorted({sample.label for sample in samples} - {None}, key=str)
    shares = list(settings.shares.values())
    _check_enough(y, persons, [str(cls) for cls in classes], list(settings.shares))
    for attempt in range(_ATTEMPTS):
        part = deal(strata, persons, shares, settings.seed + 1000 * attempt)
        missing = [cls for k, cls in enumerate(classes) if len(np.unique(part[y == k])) < len(shares)]
        if not missing and len(np.unique(part)) == len(shares):
            return part.tolist()
    raise DataError(
        f"no division found that has {', '.join(map(str, missing)) or 'pictures'} in all of "
        f"{', '.join(settings.shares)} with every person in one part; add persons, make the small parts larger, or "
        "divide without regard to persons (--no-group)"
    )


def _check_enough(y: np.ndarray, persons: np.ndarray, classes: list[str], parts: list[str]) -> None:
    for k, cls in enumerate(classes):
        rows = persons[y == k]
        n = len(np.unique(rows[rows >= 0])) + int((rows < 0).sum())
        if n < len(parts):
            what = "person" if (rows >= 0).any() else "picture"
            raise DataError(
                f"class {cls!r} has only {n} {what}{'s' if n != 1 else ''}, but {', '.join(parts)} need one each; add "
                f"{what}s, leave the class out (fer dataset map), or make fewer parts"
            )


def _check_sources(dataset: Dataset, settings: AssignSettings) -> None:
    if settings.held_out:
        known = {sample.attributes.get("source") for sample in dataset.samples} - {None}
        if unknown := sorted(set(settings.held_out) - known):
            found = ", ".join(sorted(map(str, known))) or "none"
            raise DataError(f"no picture has the source {', '.join(unknown)}; known sources: {found}")


def _described(dataset: Dataset) -> Assigned:
    counts: dict[str, dict[str, int]] = {}
    parts_of: dict[str, set[str]] = {}
    for sample in dataset.samples:
        row = counts.setdefault(sample.label or "", {})
        part = sample.split or ""
        row[part] = row.get(part, 0) + 1
        if sample.group is not None:
            parts_of.setdefault(sample.group, set()).add(part)
    persons = {part: sum(part in parts for parts in parts_of.values()) for part in PARTS}
    shared = tuple(sorted(group for group, parts in parts_of.items() if len(parts) > 1))
    return Assigned(dataset, dict(sorted(counts.items())), persons, shared)
