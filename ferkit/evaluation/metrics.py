"""Figures of merit of probabilities against the truth, with intervals.

The percentiles of bootstrap resamples, the usual interval, promise too much in both cases: with 30 persons of unequal
numbers of images they cover the truth in 84 to 93 % of cases instead of 95 %, and if all images were right they say
that nothing else is possible. ``benchmarks/significance.py`` measures what the intervals here cover.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferkit.core.console import some
from ferkit.core.errors import DataError
from ferkit.core.files import json_values
from ferkit.core.labels import LabelSet
from ferkit.datasets.leakage import TrainingCopies
from ferkit.datasets.split import folds, n_groups

LEVEL = 0.95

FEW_FOR_RESAMPLES = 5
"""Below so many units, a difference's interval is :func:`few_units_interval`."""


def effective_units(weights: np.ndarray) -> np.ndarray:
    """To how many persons of equal weight some of unequal weight amount, ``sum(w)^2 / sum(w^2)`` (Kish, 1965).

    Args:
        weights: images of each person, at least 0, (u,) or (u, f).

    Returns:
        Between 1 and ``u``, () or (f,); 0 where all weights are 0.
    """
    weights = np.asarray(weights, np.float64)
    square = (weights**2).sum(axis=0)
    return np.divide(weights.sum(axis=0) ** 2, square, out=np.zeros(np.shape(square)), where=square > 0)


def t_quantile(effective: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """What a standard error is multiplied by: Student's t, its degrees of freedom the effective units less one."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.maximum(np.asarray(effective, np.float64) - 1, 1), (1 + level) / 2))


def share_interval(
    value: np.ndarray, error: np.ndarray, n_units: np.ndarray, effective: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Of figures between 0 and 1, symmetric on the logit scale; where it ends, Wilson's (1927) over units.

    Args:
        value: of the figures, 0..1 or NaN, (f,).
        error: their bootstrap standard errors, (f,).
        n_units: persons or images that each figure is made of, (f,).
        effective: to how many of equal weight they amount, (f,).
        level: how often the interval shall hold the truth, 0..1.

    Returns:
        Lower and upper ends, (f,) each, NaN where the value is.
    """
    from scipy.special import expit, logit

    value, n = np.asarray(value, np.float64), np.asarray(n_units, np.float64)
    t = t_quantile(effective, level)
    error = _unbiased(error, effective)
    inside = (value > 0) & (value < 1)
    slope = np.where(inside, value * (1 - value), 1.0)
    centre = logit(np.where(inside, value, 0.5))
    low, high = (expit(centre + side * t * error / slope) for side in (-1, 1))
    # All right, all wrong, or one person only: resamples do not vary, but as many further persons could.
    varies = inside & (error > 1e-9)
    least, most = wilson_interval(value.clip(0, 1), np.maximum(n, 1), t)
    undefined = np.isnan(value)
    low, high = np.where(varies, low, least), np.where(varies, high, most)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def wilson_interval(
    value: np.ndarray, n: np.ndarray, quantile: np.ndarray | float = 1.96
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of Wilson's interval (1927) of shares.

    Args:
        value: the shares, 0..1, (f,).
        n: units they are of, at least 1, (f,) or one number.
        quantile: what a standard error is multiplied by.
    """
    square = quantile**2 / n
    reach = np.sqrt(square * (value * (1 - value) + square / 4))
    return (value + square / 2 - reach) / (1 + square), (value + square / 2 + reach) / (1 + square)


def few_units_interval(a: float, b: float, effective: float) -> tuple[float, float]:
    """Ends of the 95 % interval of ``a - b``, two shares of the same few units: Newcombe's score interval (1998).

    Of fewer than ``FEW_FOR_RESAMPLES`` units resamples say next to nothing: from one none, from two to four that the
    difference lies between -1 and 1. This interval takes the shares for unrelated, and the images of a unit for one,
    so that it is rather too wide than too narrow.

    Args:
        a, b: the shares, 0..1.
        effective: units, of equal weight.
    """
    low, high = wilson_interval(np.array([a, b]), np.array(effective))
    down, up = np.hypot(a - low[0], high[1] - b), np.hypot(high[0] - a, b - low[1])
    return max(-1.0, float(a - b - down)), min(1.0, float(a - b + up))


def positive_interval(
    value: np.ndarray, error: np.ndarray, n_units: np.ndarray, effective: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of figures above 0 without upper end, such as a loss: symmetric on the logarithmic scale.

    Arguments and result as of :func:`share_interval`.
    """
    value = np.asarray(value, np.float64)
    relative = np.divide(_unbiased(error, effective), value, out=np.zeros_like(value), where=value > 0)
    factor = np.exp(t_quantile(effective) * relative)
    return value / factor, value * factor


def difference_interval(
    value: np.ndarray, error: np.ndarray, n_units: int, effective: float, n_images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of differences between shares, -1..1, and the two-sided p-value of no difference that goes with it.

    One image more on which the two disagree is assumed (after Agresti & Min, 2005), so that a few images
    on which two candidates happen to agree do not prove them equal.

    Args:
        value: the differences, (f,).
        error: their bootstrap standard errors, (f,).
        n_units: persons or images that were resampled.
        effective: to how many of equal weight they amount.
        n_images: images.

    Returns:
        Lower ends, upper ends, p-values, (f,) each; NaN with fewer than two units.
    """
    from scipy.special import stdtr

    value = np.asarray(value, np.float64)
    if n_units < 2:
        nothing = np.full(value.shape, np.nan)
        return nothing, nothing, nothing
    error = np.hypot(_unbiased(error, np.array(effective)), 1 / n_images)
    reach = t_quantile(np.array(effective)) * error
    p = 2 * stdtr(max(effective - 1, 1), -np.abs(value) / error)
    return np.clip(value - reach, -1, 1), np.clip(value + reach, -1, 1), p


def _unbiased(error: np.ndarray, effective: np.ndarray) -> np.ndarray:
    """Resamples of ``n`` persons vary less than ``n`` other persons would, the more so if some dominate."""
    error, n = np.asarray(error, np.float64), np.maximum(np.asarray(effective, np.float64), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, error * np.sqrt(n / (n - 1)), 0.0)


N_BINS = 15
"""Of equal width from 0 to 1, for the calibration error (Guo et al., 2017)."""

N_RESAMPLES = 1_000


@dataclass(frozen=True)
class Figure:
    """A number and its 95 % interval.

    Attributes:
        value: NaN where it is not defined.
        low, high: from the bootstrap's standard error (``ferkit.evaluation.metrics``); NaN where there is none.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class ClassFigures:
    """One class's figures.

    Attributes:
        support: its images in the test data.
        precision: of the images called so, the share that is; not defined if none was called so.
        recall: of its images, the share called so; not defined without images.
        f1: ``2 * hits / (images + called so)``; 0 if it has images but none was called so.
    """

    support: int
    precision: Figure
    recall: Figure
    f1: Figure


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did on labelled images.

    All figures are over the images whose class the classifier knows. Images of other classes are counted in
    ``unknown_classes``, have rows of their own in the confusion matrix, and count as mistakes in
    ``accuracy_with_unknown``.

    Attributes:
        labels: the classifier's classes.
        n: images of these classes.
        n_groups: persons that the intervals are drawn over; None if over images.
        figures: ``accuracy``; ``balanced_accuracy`` (mean recall) and ``macro_f1``, both over the classes
            that the test data have; ``top2``, the share whose class is among the two likeliest; ``log_loss``
            (natural logarithm, probabilities clipped at 1e-7); ``ece``, the expected calibration error in 15
            bins of equal width, without interval, since resampling biases it.
        per_class: by class name.
        confusion: int64 (true, predicted); a row for each name of ``rows``, a column for each of ``labels``.
        rows: the classifier's classes, then the unknown ones.
        unknown_classes: images of each class that the classifier lacks.
        accuracy_with_unknown: with those counted as mistakes.
        reliability: for each bin its images, mean confidence and accuracy (NaN where empty), (15, 3).
        notes: what a reader must know of how the figures came about.
        y_true: class names of all images.
        proba: float (n, k) of all images.
        copies: how many of the images the classifier was trained on; None where that was not asked.
    """

    labels: LabelSet
    n: int
    n_groups: int | None
    figures: dict[str, Figure]
    per_class: dict[str, ClassFigures]
    confusion: np.ndarray
    rows: tuple[str, ...]
    unknown_classes: dict[str, int]
    accuracy_with_unknown: float
    reliability: np.ndarray
    notes: tuple[str, ...]
    y_true: np.ndarray = field(repr=False)
    proba: np.ndarray = field(repr=False)
    copies: TrainingCopies | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single images, as JSON values; None for what is not defined."""
        values = json_values(self)
        values |= values.pop("figures")
        values["labels"] = list(self.labels.names)
        values["confusion"] = {"rows": values.pop("rows"), "counts": values["confusion"]}
        copies = values.pop("copies")
        return values if copies is None else {**values, "training_copies": copies}


def evaluate(
    y_true: np.ndarray,
    proba: np.ndarray,
    labels: LabelSet,
    groups: np.ndarray | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Evaluation:
    """Score probabilities.

    Args:
        y_true: class names, (n,).
        proba: float (n, k), columns in the order of ``labels``.
        labels: the classifier's classes.
        groups: who is shown, (n,), None where unknown: intervals are then drawn over persons, since images of
            one person are not independent; a row without person counts as one of its own.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.

    Raises:
        DataError: shapes that do not fit, NaN, or no image of a class that the classifier knows.
    """
    y_true, proba = np.asarray(y_true).astype(str), np.asarray(proba, np.float64)
    if proba.shape != (len(y_true), len(labels)):
        expected = (len(y_true), len(labels))
        raise DataError(f"expected probabilities of shape {expected}, found {proba.shape}")
    if not np.isfinite(proba).all():
        raise DataError("expected probabilities, found NaN or infinity; check the classifier")
    column = {name: i for i, name in enumerate(labels.names)}
    truth = np.array([column.get(name, -1) for name in y_true], int)
    known = truth >= 0
    if not known.any():
        found = some(sorted(set(y_true)), 20) or "no images"
        raise DataError(f"expected images of {', '.join(labels.names)}, found {found}; map the labels first")
    unknown = sorted(set(y_true[~known]))
    statistics = _Statistics(truth[known], proba[known], len(labels))
    units = None if groups is None else unit_of_row(np.asarray(groups, object)[known])
    values, low, high = statistics.with_intervals(units, seed, n_resamples)
    k = len(labels)

    def figure(i: int) -> Figure:
        return Figure(float(values[i]), float(low[i]), float(high[i]))

    figures = {name: figure(i) for i, name in enumerate(_SUMMARY)}
    figures["ece"] = Figure(statistics.ece())
    support = np.bincount(truth[known], minlength=k)
    per_class = {
        name: ClassFigures(int(support[c]), *(figure(len(_SUMMARY) + part * k + c) for part in range(3)))
        for c, name in enumerate(labels.names)
    }
    predicted = proba.argmax(axis=1)
    foreign = [np.bincount(predicted[y_true == name], minlength=k) for name in unknown]
    n_unknown = {name: int((y_true == name).sum()) for name in unknown}
    hits = float((predicted[known] == truth[known]).sum())
    return Evaluation(
        labels=labels,
        n=int(known.sum()),
        n_groups=None if units is None else int(units.max()) + 1,
        figures=figures,
        per_class=per_class,
        confusion=np.vstack([statistics.confusion(), *foreign]).astype(np.int64),
        rows=(*labels.names, *unknown),
        unknown_classes=n_unknown,
        accuracy_with_unknown=hits / len(y_true),
        reliability=statistics.reliability(),
        notes=_notes(labels, per_class, n_unknown),
        y_true=y_true,
        proba=proba,
    )


_SUMMARY = ("accuracy", "balanced_accuracy", "macro_f1", "top2", "log_loss")


class _Statistics:
    """What the figures are made of, row by row, so that resamples only need to weight the rows."""

    def __init__(self, truth: np.ndarray, proba: np.ndarray, k: int) -> None:
        self.k = k
        rows = np.arange(len(truth))
        predicted = proba.argmax(axis=1)
        self.confidence, self.hit = proba[rows, predicted], predicted == truth
        mine = proba[rows, truth]
        # The first of equal probabilities comes first, as in argmax.
        before = (proba > mine[:, None]).sum(axis=1)
        before += ((proba == mine[:, None]) & (np.arange(k) < truth[:, None])).sum(axis=1)
        self.loss = -np.log(np.clip(mine, 1e-7, 1.0))
        self.cell = (truth * k + predicted) * 2 + (before < 2)

    def figures(self, weight: np.ndarray | None = None) -> np.ndarray:
        """The summary, then precision, recall and F1 of each class; NaN where not defined."""
        cells = np.bincount(self.cell, weight, minlength=2 * self.k**2).reshape(self.k, self.k, 2)
        confusion = cells.sum(axis=2)
        total, hits = confusion.sum(), np.diag(confusion)
        true, called = confusion.sum(axis=1), confusion.sum(axis=0)
        precision, recall = ratio(hits, called), ratio(hits, true)
        f1 = np.where(true > 0, ratio(2 * hits, true + called), np.nan)
        loss = self.loss.mean() if weight is None else weight @ self.loss / total
        summary = [hits.sum() / total, np.nanmean(recall), np.nanmean(f1), cells[..., 1].sum() / total, loss]
        return np.concatenate([summary, precision, recall, f1])

    def with_intervals(
        self, units: np.ndarray | None, seed: int, n_resamples: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The figures, and the ends of their intervals from resamples of whole units."""
        values = self.figures()
        if units is None:
            units = np.arange(len(self.cell))
        n_units = int(units.max()) + 1
        if n_units < 2 or n_resamples < 1:
            return values, np.full_like(values, np.nan), np.full_like(values, np.nan)
        rng = np.random.default_rng(seed)
        resampled = np.empty((n_resamples, len(values)))
        for i in range(n_resamples):
            times = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units).astype(float)
            resampled[i] = self.figures(times[units])
        # A class may be missing from a resample: its figures are then over the others.
        error = np.zeros(len(values))
        defined = ~np.isnan(resampled).all(axis=0) & ~np.isnan(values)
        error[defined] = np.nanstd(resampled[:, defined], axis=0)
        images = self._images_of_units(units, n_units)
        n, effective = (images > 0).sum(axis=0), effective_units(images)
        low, high = share_interval(values, error, n, effective)
        loss = [_SUMMARY.index("log_loss")]
        low[loss], high[loss] = positive_interval(values[loss], error[loss], n[loss], effective[loss])
        return values, low, high

    def _images_of_units(self, units: np.ndarray, n_units: int) -> np.ndarray:
        """How many images each unit gives to each figure, (units, figures)."""
        truth, predicted = np.divmod(self.cell // 2, self.k)
        called, true = (
            np.bincount(units * self.k + of, minlength=n_units * self.k).reshape(n_units, self.k)
            for of in (predicted, truth)
        )
        return np.hstack([np.repeat(true.sum(axis=1)[:, None], len(_SUMMARY), axis=1), called, true, true])

    def confusion(self) -> np.ndarray:
        return np.bincount(self.cell // 2, minlength=self.k**2).reshape(self.k, self.k)

    def reliability(self) -> np.ndarray:
        index = np.minimum((self.confidence * N_BINS).astype(int), N_BINS - 1)
        count = np.bincount(index, minlength=N_BINS).astype(float)
        confidence = ratio(np.bincount(index, self.confidence, minlength=N_BINS), count)
        return np.stack(
            [count, confidence, ratio(np.bincount(index, self.hit, minlength=N_BINS), count)], axis=1
        )

    def ece(self) -> float:
        count, confidence, accuracy = self.reliability().T
        return float(np.nansum(count * np.abs(confidence - accuracy)) / count.sum())


def unit_of_row(groups: np.ndarray) -> np.ndarray | None:
    """A number for each person, and one for each row without; None if no person is known."""
    known = np.array([group is not None for group in groups], bool)
    if not known.any():
        return None
    units = np.empty(len(groups), int)
    names, units[known] = np.unique(groups[known].astype(str), return_inverse=True)
    units[~known] = len(names) + np.arange((~known).sum())
    return units


def _notes(labels: LabelSet, per_class: dict[str, ClassFigures], unknown: dict[str, int]) -> tuple[str, ...]:
    notes = []
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in unknown.items())
        notes.append(f"the model lacks classes of these data, left out of the figures: {listed}")
    absent = [name for name in labels.names if per_class[name].support == 0]
    if absent:
        notes.append(f"these data have no images of {', '.join(absent)}, left out of the means")
    never = [name for name, one in per_class.items() if one.support and np.isnan(one.precision.value)]
    if never:
        notes.append(f"never predicted: {', '.join(never)}; precision is not defined, F1 counts as 0")
    return tuple(notes)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where there is nothing."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


N_FOLDS = 5


def check_probabilities(truth: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``truth`` as int64 (n,) and ``proba`` as float64 (n, k) whose rows sum to 1.

    Raises:
        DataError: other shapes, no rows, a class that has no column, or values that are no probabilities.
    """
    truth, proba = np.asarray(truth), np.asarray(proba, np.float64)
    if proba.ndim != 2 or truth.shape != proba.shape[:1] or not len(truth):
        raise DataError(
            f"expected classes (n,) and probabilities (n, k), found {truth.shape} and {proba.shape}"
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= proba.shape[1]:
        raise DataError(f"expected classes as columns 0 to {proba.shape[1] - 1}, found {truth.dtype} {truth}")
    total = proba.sum(axis=1, keepdims=True)
    if not np.isfinite(total).all() or (proba < 0).any() or (total <= 0).any():
        raise DataError("expected probabilities, found negative or missing ones; check the classifier")
    return truth.astype(np.int64), proba / total


def units_of(groups: np.ndarray | None, n: int) -> np.ndarray:
    """A number for each person, int (n,), a row without person being one of its own: what intervals are over."""
    units = None if groups is None else unit_of_row(np.asarray(groups, object))
    return np.arange(n) if units is None else units


def calibration_folds(
    truth: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Up to five pairs of rows to fit on and rows to judge on; the latter together are all rows, each once.

    Stratified as far as that goes: a class of fewer persons than parts is dealt with the most frequent one, since
    a correction of probabilities, unlike a classifier, need not see every class.

    Args:
        truth: int (n,), column of the true class.
        groups: who is shown, (n,), None where unknown.
        seed: of the draw.

    Raises:
        DataError: a single class, or too few rows or persons for two parts.
    """
    classes = np.unique(truth)
    rows = np.arange(len(truth)) if groups is None else groups  # without persons each image counts as one
    persons = np.array([n_groups(rows[truth == c]) for c in classes])
    strata = np.where(np.isin(truth, classes[persons < N_FOLDS]), classes[persons.argmax()], truth)
    if len(np.unique(strata)) < 2:
        raise DataError(
            f"expected two classes with {N_FOLDS} images (of {N_FOLDS} persons, where persons are known) each, "
            f"found {(persons >= N_FOLDS).sum()}; add labelled images"
        )
    return folds(strata.astype(str), groups, N_FOLDS, seed)


HISTOGRAM_BINS = 20


def histograms(truth: np.ndarray, proba: np.ndarray) -> list[dict[str, Any]]:
    """For each class, the shares of its own and of other images with each probability of it.

    Args:
        truth: int (n,), columns of ``proba``.
        proba: float (n, k).
    """
    each = []
    for c in range(proba.shape[1]):
        index = np.minimum((proba[:, c] * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        parts = {}
        for part, rows in (("own", truth == c), ("others", truth != c)):
            count = np.bincount(index[rows], minlength=HISTOGRAM_BINS)
            parts[part] = (count / max(1, count.sum())).tolist()
        each.append(parts)
    return each
