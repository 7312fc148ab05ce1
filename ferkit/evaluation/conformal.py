"""Sets of expressions that hold the true one as often as promised, whatever the classifier.

Split conformal prediction, the sets of MAPIE: a threshold is found on some rows, and the promise is checked on
others. It holds on average over images like those, not for each class by itself; the per-class coverage shows which
classes pay for the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.evaluation.crossfit import check_probabilities, fitting_parts, units_of
from ferkit.evaluation.intervals import effective_units, positive_interval, share_interval
from ferkit.evaluation.metrics import Figure

METHODS = ("lac", "aps")
LEVELS = (0.9, 0.95)
_TINY = 1e-8


@dataclass(frozen=True)
class ConformalResult:
    """Prediction sets of one method at one level, each row's by a threshold that did not see it.

    Attributes:
        method: ``lac``, least ambiguous sets (Sadinle et al., 2019): all classes above one threshold, the smallest
            sets; or ``aps``, adaptive sets (Romano et al., 2020): larger where the image is harder.
        level: share of the sets that were to hold the true class.
        coverage: share that do.
        mean_size: classes in a set.
        sizes: share of the sets with 0, 1, … k classes, (k + 1,).
        per_class: coverage of each class's images, (k,), NaN without images.
    """

    method: str
    level: float
    coverage: Figure
    mean_size: Figure
    sizes: np.ndarray
    per_class: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "method": self.method,
            "level": self.level,
            "coverage": self.coverage.to_dict(),
            "mean_size": self.mean_size.to_dict(),
            "sizes": self.sizes.tolist(),
            "per_class": [None if np.isnan(value) else float(value) for value in self.per_class],
        }


def prediction_sets(
    truth: np.ndarray,
    proba: np.ndarray,
    new: np.ndarray,
    *,
    method: str = "lac",
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> np.ndarray:
    """Which classes are in the set of each new row, bool (m, k, len(levels)).

    Args:
        truth: int (n,), column of the true class of the rows to find the thresholds on.
        proba: float (n, k), theirs.
        new: float (m, k).
        method: ``lac`` or ``aps``; the latter is randomised, so that it covers as often as promised and not more.
        levels: share of the sets that shall hold the true class.
        seed: of ``aps``.

    Raises:
        DataError: shapes or values that do not fit, too few rows for a level, or ``aps`` with two classes.
    """
    truth, proba = check_probabilities(truth, proba)
    _, new = check_probabilities(np.zeros(len(new), int), new)
    k, least = proba.shape[1], int(np.ceil(max(levels) / (1 - max(levels)) - 1e-9))
    if method == "aps" and k < 3:
        raise DataError("adaptive prediction sets need three classes or more; use lac")
    if len(truth) < least:
        raise DataError(
            f"sets that hold the truth in {max(levels):.0%} need at least {least} labelled images to find the "
            f"threshold on, found {len(truth)}"
        )
    rows, cumulated = np.arange(len(truth)), _cumulated(proba)
    if method == "lac":
        scores, of_new = 1 - proba[rows, truth], 1 - new
    else:
        u = np.random.RandomState(seed).uniform(size=len(truth))
        scores, of_new = cumulated[rows, truth] - u * proba[rows, truth], _cumulated(new)
    sets = np.empty((*new.shape, len(levels)), bool)
    for i, level in enumerate(levels):
        # The place of the threshold among n scores that makes the promise hold; in decimals, as levels are written.
        place = np.ceil((len(scores) + 1) * (1 - float(1 - Decimal(str(level)))))
        threshold = np.sort(scores)[int(place) - 1]
        if method == "lac":
            sets[..., i] = of_new - threshold <= _TINY
        else:
            sets[..., i] = _adaptive_sets(new, of_new, threshold, seed)
    return sets


def judge_conformal(
    truth: np.ndarray,
    proba: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> tuple[ConformalResult, ...]:
    """Every method at every level, thresholds and judged rows of different persons.

    Args:
        truth: int (n,), column of the true class.
        proba: float (n, k).
        groups: who is shown, (n,), None where unknown: intervals are then over persons.
        levels: share of the sets that shall hold the true class.
        seed: of the parts and of ``aps``.

    Raises:
        DataError: shapes or values that do not fit, or too few rows.
    """
    truth, proba = check_probabilities(truth, proba)
    parts = fitting_parts(truth, groups, seed)
    units = units_of(groups, len(truth))
    k, results = proba.shape[1], []
    for method in METHODS if k > 2 else ("lac",):
        sets = np.empty((*proba.shape, len(levels)), bool)
        for fitted, judged in parts:
            sets[judged] = prediction_sets(
                truth[fitted], proba[fitted], proba[judged], method=method, levels=levels, seed=seed
            )
        for i, level in enumerate(levels):
            covered, size = sets[np.arange(len(truth)), truth, i], sets[..., i].sum(axis=1)
            count = np.bincount(truth, minlength=k)
            hits = np.bincount(truth, covered, minlength=k)
            coverage, mean_size = _means(covered, size, units)
            results.append(
                ConformalResult(
                    method,
                    level,
                    coverage,
                    mean_size,
                    np.bincount(size, minlength=k + 1) / len(truth),
                    np.divide(hits, count, out=np.full(k, np.nan), where=count > 0),
                )
            )
    return tuple(results)


def _means(covered: np.ndarray, size: np.ndarray, units: np.ndarray) -> tuple[Figure, Figure]:
    """Share of the sets that hold the truth, and their mean size, with intervals over units."""
    images = np.bincount(units).astype(float)
    n_units = len(images)
    figures = []
    for values, interval in ((covered, share_interval), (size, positive_interval)):
        mean = np.array([values.mean()])
        if n_units < 2:
            figures.append(Figure(float(mean[0])))
            continue
        # What the bootstrap's standard error of a mean over whole units tends to, without drawing any.
        error = np.sqrt(((np.bincount(units, values) - mean * images) ** 2).sum()) / len(units)
        low, high = interval(mean, np.array([error]), np.array([n_units]), effective_units(images))
        figures.append(Figure(float(mean[0]), float(low[0]), float(high[0])))
    return figures[0], figures[1]


def _cumulated(proba: np.ndarray) -> np.ndarray:
    """For each class its probability and that of all that are more probable, (n, k)."""
    order = np.argsort(proba, axis=1)[:, ::-1]
    summed = np.cumsum(np.take_along_axis(proba, order, axis=1), axis=1)
    return np.take_along_axis(summed, np.argsort(order, axis=1), axis=1)


def _adaptive_sets(proba: np.ndarray, cumulated: np.ndarray, threshold: float, seed: int) -> np.ndarray:
    """The most probable classes up to the threshold, bool (n, k); the last one by chance, as far as it goes over."""
    rows = np.arange(len(proba))
    last = np.where(cumulated - threshold >= -_TINY, cumulated, np.inf).argmin(axis=1)
    least = np.where(proba > _TINY, proba, np.inf).min(axis=1)
    of_last = np.where(proba[rows, last] > _TINY, proba[rows, last], least)
    sets = proba - of_last[:, None] >= -_TINY
    over = (cumulated[rows, last] - threshold) / of_last
    sets[rows, last] = over - np.random.RandomState(seed).uniform(size=len(proba)) <= _TINY
    return sets
