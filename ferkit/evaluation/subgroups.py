"""How a candidate does on parts of the images: by sex, age, place, data set, or any other column."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.metrics import (
    LEVEL,
    Figure,
    effective_units,
    evaluate,
    ratio,
    share_interval,
)

FEW_IMAGES, FEW_PERSONS = 30, 5
"""A value with fewer is shown, but takes no part in the gap."""

N_RESAMPLES = 1_000


@dataclass(frozen=True)
class SubgroupRow:
    """The images of one value.

    Attributes:
        value: as in the data: ``female``, ``남`` …
        n: images.
        persons: shown in them; None where persons are unknown.
        accuracy, macro_f1: with 95 % intervals.
        gap: accuracy less that of all other images whose value is known, -1..1, with its 95 % interval; NaN
            where there are none.
        few: too few images or persons to be compared.
    """

    value: str
    n: int
    persons: int | None
    accuracy: Figure
    macro_f1: Figure
    gap: Figure
    few: bool


@dataclass(frozen=True)
class Subgroups:
    """All values of a column.

    Attributes:
        column: its name.
        rows: one a value, most images first.
        missing: images without a value; they are in no row.
        best, worst: values of highest and lowest accuracy among those with images enough; None if fewer than
            two have.
        gap: accuracy of the best less that of the worst, 0..1. The interval holds for whichever two values
            turn out to be furthest apart (Bonferroni over all pairs).
        p: of no difference between any values, by permutation; NaN without a gap.
        notes: what a reader must know.
    """

    column: str
    rows: tuple[SubgroupRow, ...]
    missing: int
    best: str | None
    worst: str | None
    gap: Figure
    p: float
    notes: tuple[str, ...]


def subgroups_of(comparison: Comparison, candidate: str, column: str) -> Subgroups:
    """A candidate of a comparison by a column, over all repeats.

    Raises:
        DataError: no such candidate or column, the candidate failed, or no tested image has a value.
    """
    if column not in comparison.attributes:
        known = ", ".join(comparison.attributes) or "none"
        raise DataError(f"expected a column of these data, found {column!r}; they have {known}")
    pooled = comparison.pooled(candidate)
    return subgroups(
        column,
        comparison.attributes[column][pooled.rows],
        pooled.y_true,
        pooled.proba,
        comparison.labels,
        groups=comparison.groups[pooled.rows],
        images=pooled.rows,
        seed=comparison.protocol.seed,
    )


def subgroups(
    column: str,
    values: np.ndarray,
    y_true: np.ndarray,
    proba: np.ndarray,
    labels: LabelSet,
    *,
    groups: np.ndarray | None = None,
    images: np.ndarray | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Subgroups:
    """Figures of each value of a column, and whether values differ.

    Persons, not images, are resampled and permuted where they are known. The permutation deals the values out
    again: among persons where each has one value (sex), within persons where a person has several (place).

    Args:
        column: its name.
        values: of each row, (n,), None or empty where unknown.
        y_true: class names, (n,).
        proba: float (n, k), columns in the order of ``labels``.
        labels: the classes; rows of other classes are left out.
        groups: who is shown, (n,), None where unknown.
        images: which image each row is, (n,), where one occurs several times; None if none does.
        seed: of resamples and permutations.
        n_resamples: of each.

    Raises:
        DataError: no row of a known class has a value.
    """
    texts = ["" if value is None else str(value).strip() for value in values]
    known = np.array([bool(text) for text in texts], bool)
    keep = known & np.isin(np.asarray(y_true).astype(str), labels.names)
    if not keep.any():
        raise DataError(f"no image has a value of {column!r}; check the column, or leave it out")
    image = np.arange(len(texts)) if images is None else np.asarray(images)
    value = np.array(texts)[keep]
    y, p, image_kept = np.asarray(y_true).astype(str)[keep], np.asarray(proba)[keep], image[keep]
    owner = [None] * len(y) if groups is None else np.asarray(groups, object)[keep].tolist()
    persons_known = any(one is not None for one in owner)
    alone = [f"image {i}" if one is None else str(one) for i, one in zip(image_kept, owner, strict=True)]
    unit = np.unique(alone if persons_known else image_kept, return_inverse=True)[1]
    number_of = {str(name): i for i, (name, _) in enumerate(Counter(sorted(value)).most_common())}
    number = np.array([number_of[name] for name in value])
    hit = np.array(labels.names)[p.argmax(axis=1)] == y
    sampled = _Sampled(number, hit, unit, len(number_of), np.random.default_rng(seed), n_resamples)
    rows = []
    for name, i in number_of.items():
        mine = number == i
        of = unit[mine].astype(str).astype(object)
        evaluation = evaluate(y[mine], p[mine], labels, of, seed, n_resamples)
        n, n_units = len(np.unique(image_kept[mine])), len(np.unique(unit[mine]))
        few = n < FEW_IMAGES or (persons_known and n_units < FEW_PERSONS)
        gap = sampled.difference(i, len(number_of) + i)  # to the rows outside it
        persons = n_units if persons_known else None
        figures = evaluation.figures
        rows.append(SubgroupRow(name, n, persons, figures["accuracy"], figures["macro_f1"], gap, few))
    enough = [i for i, row in enumerate(rows) if not row.few]
    best, worst, gap, chance = None, None, Figure(float("nan")), float("nan")
    if len(enough) > 1:
        first, *_, last = sorted(enough, key=lambda i: -rows[i].accuracy.value)
        pairs = len(enough) * (len(enough) - 1) // 2
        gap = sampled.difference(first, last, 1 - (1 - LEVEL) / pairs)
        best, worst = rows[first].value, rows[last].value
        chance = permutation_p(number, hit, unit, enough, seed, n_resamples)
    missing = len(np.unique(image[~known]))
    return Subgroups(column, tuple(rows), missing, best, worst, gap, chance, _notes(rows, missing, column))


def permutation_p(
    number: np.ndarray, hit: np.ndarray, unit: np.ndarray, compared: list[int], seed: int, n_permutations: int
) -> float:
    """P-value of no difference between the values ``compared``, with the largest difference, each in proportion
    to its precision, as the statistic.

    Args:
        number: of each row's value, (n,).
        hit: whether the row was right, (n,).
        unit: person or image of each row, 0..u-1, (n,).
        compared: numbers of the values.
        seed, n_permutations: of the permutations.
    """
    rows = np.isin(number, compared)
    number, hit = np.searchsorted(np.sort(compared), number[rows]), hit[rows].astype(float)
    unit = np.unique(unit[rows], return_inverse=True)[1]
    lowest, highest = np.full((2, unit.max() + 1), -1)
    order = np.argsort(number, kind="stable")
    highest[unit[order]] = number[order]
    lowest[unit[order[::-1]]] = number[order[::-1]]
    one_value = lowest == highest
    rng = np.random.default_rng(seed)
    inner = np.flatnonzero(~one_value[unit])
    inner = inner[np.argsort(unit[inner], kind="stable")]

    def statistic(number: np.ndarray) -> float:
        n = np.bincount(number, minlength=len(compared))
        share = np.bincount(number, hit, minlength=len(compared)) / np.maximum(n, 1)
        a, b = np.array(list(combinations(np.flatnonzero(n), 2))).reshape(-1, 2).T
        return float((np.abs(share[a] - share[b]) / np.sqrt(1 / n[a] + 1 / n[b])).max(initial=0.0))

    found, reached = statistic(number), 0
    for _ in range(n_permutations):
        dealt = lowest.copy()
        dealt[one_value] = rng.permutation(lowest[one_value])
        shuffled = dealt[unit]
        shuffled[inner] = number[inner[np.lexsort((rng.random(len(inner)), unit[inner]))]]
        reached += statistic(shuffled) >= found - 1e-12
    return (1 + reached) / (1 + n_permutations)


class _Sampled:
    """Accuracies of each of ``v`` values, then of the rows outside each, and their resamples over units."""

    def __init__(
        self, number: np.ndarray, hit: np.ndarray, unit: np.ndarray, v: int, rng: np.random.Generator, r: int
    ) -> None:
        u = int(unit.max()) + 1
        cell = unit * v + number
        n = np.bincount(cell, minlength=u * v).reshape(u, v).astype(float)
        right = np.bincount(cell, hit, minlength=u * v).reshape(u, v)
        self.n = np.hstack([n, n.sum(axis=1, keepdims=True) - n])
        self.right = np.hstack([right, right.sum(axis=1, keepdims=True) - right])
        self.share = ratio(self.right.sum(axis=0), self.n.sum(axis=0))
        self.resampled = np.empty((r, 2 * v))
        for i in range(r):
            times = np.bincount(rng.integers(u, size=u), minlength=u)
            self.resampled[i] = ratio(times @ self.right, times @ self.n)

    def difference(self, a: int, b: int, level: float = LEVEL) -> Figure:
        """From the intervals of both and their correlation (MOVER: Zou, 2007; Newcombe's, 1998, in general)."""
        both = [a, b]
        share, n = self.share[both], self.n[:, both]
        n_units = (n > 0).sum(axis=0)
        drawn = self.resampled[:, both]
        drawn = drawn[np.isfinite(drawn).all(axis=1)]
        if np.isnan(share).any() or len(drawn) < 2:
            return Figure(float(share[0] - share[1]))
        error = drawn.std(axis=0)
        low, high = share_interval(share, error, n_units, effective_units(n), level)
        common = np.mean((drawn[:, 0] - drawn[:, 0].mean()) * (drawn[:, 1] - drawn[:, 1].mean()))
        # Shares of disjoint persons are independent; what resamples show of correlation then is chance.
        shared = (n > 0).all(axis=1).any() and error.min() > 0
        correlation = common / error.prod() if shared else 0.0

        def reach(x: float, y: float) -> float:
            return float(np.sqrt(max(0.0, x**2 + y**2 - 2 * correlation * x * y)))

        gain = float(share[0] - share[1])
        down = reach(share[0] - low[0], high[1] - share[1])
        up = reach(high[0] - share[0], share[1] - low[1])
        return Figure(gain, max(-1.0, gain - down), min(1.0, gain + up))


def _notes(rows: list[SubgroupRow], missing: int, column: str) -> tuple[str, ...]:
    notes = []
    if missing:
        notes.append(f"{missing} images have no {column}, and are in no group")
    few = ", ".join(f"{row.value} ({row.n})" for row in rows if row.few)
    if few:
        fewest = f"fewer than {FEW_IMAGES} images or {FEW_PERSONS} persons"
        notes.append(f"too few to be compared: {few}, with {fewest}")
    return tuple(notes)
