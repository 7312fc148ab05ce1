"""Drawing so many pictures of each class, spread over persons."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.split import numbered

Stratum = tuple[str, ...]
"""Class, then the value of each column drawn by; an empty text where unknown."""


@dataclass(frozen=True)
class Drawn:
    """A sample of a data set.

    Attributes:
        dataset: the pictures drawn.
        wanted: how many of each stratum were asked for; 0 for all.
        counts: how many of each stratum there are and were drawn, sorted by stratum.
        persons: known persons in the data set, and among the pictures drawn.
        n_unlabelled: pictures without a label, which are left out.
    """

    dataset: Dataset
    wanted: int
    counts: Mapping[Stratum, tuple[int, int]]
    persons: tuple[int, int]
    n_unlabelled: int

    @property
    def short(self) -> dict[Stratum, int]:
        """Strata that have fewer pictures than were asked for, and how many."""
        return {stratum: n for stratum, (n, _) in self.counts.items() if n < self.wanted}


def draw(dataset: Dataset, per_class: int | None, by: Sequence[str] = (), seed: int = 0) -> Drawn:
    """Draw ``per_class`` pictures of each class, or all where there are fewer, out of those with a label.

    Of every person one picture is taken before a second of anybody is: the sample shows as many persons as it can.

    Args:
        dataset: labelled pictures.
        per_class: pictures of each class; with ``by`` of each class and value; None takes all.
        by: ``split`` or names of attributes such as ``source``: so many of each of their values.
        seed: the same seed draws the same.

    Raises:
        DataError: no labels, or no picture has such an attribute.
    """
    if per_class is not None and per_class < 1:
        raise DataError(f"expected at least one picture of each class, found {per_class}")
    labelled = [sample for sample in dataset.samples if sample.label is not None]
    if not labelled:
        raise DataError(f"expected labelled pictures in {dataset.root}, found none with a label")
    strata = strata_of(labelled, by, dataset)
    names = sorted(set(strata))
    number = {stratum: i for i, stratum in enumerate(names)}
    stratum = np.array([number[s] for s in strata], np.int64)
    person = numbered(sample.group for sample in labelled)
    unknown = person < 0
    person[unknown] = person.max(initial=-1) + 1 + np.arange(unknown.sum())

    chance = np.random.default_rng(seed).random(len(labelled))
    turn = _turns(stratum, person, chance)
    order = np.lexsort((chance, turn, stratum))
    place = _places(stratum[order])
    rows = np.sort(order[place < (len(labelled) if per_class is None else per_class)])
    kept = [labelled[i] for i in rows.tolist()]
    there, drawn = (np.bincount(s, minlength=len(names)).tolist() for s in (stratum, stratum[rows]))
    return Drawn(
        dataset.subset(kept),
        per_class or 0,
        {name: (there[i], drawn[i]) for i, name in enumerate(names)},
        (len({s.group for s in labelled} - {None}), len({s.group for s in kept} - {None})),
        len(dataset) - len(labelled),
    )


def where(dataset: Dataset, wanted: Mapping[str, Collection[str]]) -> Dataset:
    """Only the pictures that have one of the wanted values in each of the columns.

    Args:
        dataset: any.
        wanted: values by ``class``, ``split`` or the name of an attribute; an empty text is for none.

    Raises:
        DataError: no picture has such an attribute, or none has these values.
    """
    keep = np.ones(len(dataset), bool)
    for name, values in wanted.items():
        keep &= [value in values for value in _column(dataset.samples, name, dataset)]
    if not keep.any():
        asked = " and ".join(f"{name} {' or '.join(values)}" for name, values in wanted.items())
        raise DataError(f"no picture of {dataset.root} has {asked}; see 'fer dataset info'")
    return dataset.subset([dataset.samples[i] for i in np.flatnonzero(keep)])


def strata_of(samples: Sequence[Sample], by: Sequence[str], dataset: Dataset) -> list[Stratum]:
    """Class and values of the columns ``by`` of each sample, as text.

    Raises:
        DataError: no sample has a value in such a column.
    """
    columns = [_column(samples, name, dataset) for name in by]
    return list(zip([sample.label or "" for sample in samples], *columns, strict=True))


def _column(samples: Sequence[Sample], name: str, dataset: Dataset) -> list[str]:
    if name == "split":
        column = [sample.split or "" for sample in samples]
    elif name == "class":
        column = [sample.label or "" for sample in samples]
    else:
        column = [sample.attributes.get(name, "") for sample in samples]
    if not any(column):
        known = sorted({key for sample in samples for key in sample.attributes})
        listed = "".join(f", {key}" for key in known)
        raise DataError(f"no picture of {dataset.root} has a {name!r}; known are class, split{listed}")
    return column


def _turns(stratum: np.ndarray, person: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """For each row how many pictures of the same person and stratum come before it, in an order by chance."""
    order = np.lexsort((chance, person, stratum))
    key = stratum[order] * (int(person.max(initial=0)) + 1) + person[order]
    turns = np.empty(len(stratum), np.int64)
    turns[order] = _places(key)
    return turns


def _places(sorted_keys: np.ndarray) -> np.ndarray:
    """Position of each entry among those that are equal to it, which lie side by side."""
    if not len(sorted_keys):
        return np.zeros(0, np.int64)
    begins = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    return np.arange(len(sorted_keys)) - np.repeat(begins, np.diff(np.r_[begins, len(sorted_keys)]))
