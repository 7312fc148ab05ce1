"""Measure calibration, abstention and conformal sets.

A correction is fitted on four fifths of the rows and judged on the fifth, five times over, with whole persons on one
side, so that no row is judged by a correction that saw it or its person.

Split conformal prediction (Vovk et al., 2005): a threshold is found on some rows, the promise is checked on others.
It holds on average over images like those, not for each class by itself; the per-class coverage shows which classes
pay for the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import json_values
from ferkit.core.labels import LabelSet
from ferkit.evaluation.metrics import (
    Figure,
    calibration_folds,
    check_probabilities,
    effective_units,
    evaluate,
    positive_interval,
    share_interval,
    units_of,
)

Correction = Callable[[np.ndarray], np.ndarray]
"""Takes and gives probabilities (n, k), rows sum to 1."""

_TINY = 1e-12


@dataclass(frozen=True)
class Temperature:
    """Logits divided by one number (Guo et al., "On calibration of modern neural networks", 2017).

    The order of the classes stays, so accuracy does too.

    Attributes:
        value: above 1 the classifier was surer than it may be, below 1 less sure.
    """

    value: float

    def __call__(self, proba: np.ndarray) -> np.ndarray:
        logits = np.log(np.clip(proba, _TINY, 1)) / self.value
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Isotonic:
    """Each class's probability by a rising step function of its own, then rows scaled to sum 1.

    Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", 2002.
    It corrects more than a temperature can, and wants some thousand rows. The order of the classes may change.
    """

    steps: tuple[Any, ...] = field(repr=False)

    def __call__(self, proba: np.ndarray) -> np.ndarray:
        each = np.stack([step.predict(proba[:, c]) for c, step in enumerate(self.steps)], axis=1)
        return each / each.sum(axis=1, keepdims=True)


def fit_temperature(truth: np.ndarray, proba: np.ndarray) -> Temperature:
    """The temperature of least log-loss, between 0.05 and 20.

    Args:
        truth: int (n,), column of the true class.
        proba: float (n, k).

    Raises:
        DataError: shapes or values that do not fit.
    """
    from scipy.optimize import minimize_scalar

    truth, proba = check_probabilities(truth, proba)
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        mine = Temperature(float(np.exp(log_temperature)))(proba)[rows, truth]
        return float(-np.log(np.clip(mine, _TINY, 1)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return Temperature(float(np.exp(found.x)))


def fit_isotonic(truth: np.ndarray, proba: np.ndarray) -> Isotonic:
    """A step function for each class, fitted one against the rest.

    No probability leaves ``1 / (n + 2) … (n + 1) / (n + 2)``: ``n`` rows do not show more (Laplace's rule), and a
    zero would make one mistake infinitely bad.

    Args:
        truth: int (n,), column of the true class.
        proba: float (n, k).

    Raises:
        DataError: shapes or values that do not fit.
    """
    from sklearn.isotonic import IsotonicRegression

    truth, proba = check_probabilities(truth, proba)
    least = 1 / (len(truth) + 2)
    bounds = {"y_min": least, "y_max": 1 - least, "out_of_bounds": "clip"}
    return Isotonic(
        tuple(IsotonicRegression(**bounds).fit(proba[:, c], truth == c) for c in range(proba.shape[1]))
    )


@dataclass(frozen=True)
class CalibrationResult:
    """Probabilities after one correction, each row by one that did not see it.

    Attributes:
        method: ``none``, ``temperature`` or ``isotonic``.
        accuracy: share of the rows whose likeliest class is the true one.
        log_loss: natural logarithm, probabilities clipped at 1e-7.
        ece: expected calibration error in 15 bins of equal width.
        reliability: for each bin its images, mean confidence and accuracy (NaN where empty), (15, 3).
        temperature: that of all rows, to use from now on; None for the other methods.
        proba: float (n, k).
    """

    method: str
    accuracy: float
    log_loss: float
    ece: float
    reliability: np.ndarray
    temperature: float | None
    proba: np.ndarray = field(repr=False)


def cross_fitted(
    fit: Callable[[np.ndarray, np.ndarray], Correction],
    truth: np.ndarray,
    proba: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Corrected probabilities (n, k), each row by a correction fitted on other persons.

    Args:
        fit: gives a correction from classes and probabilities.
        truth: int (n,), column of the true class.
        proba: float (n, k).
        groups: who is shown, (n,), None where unknown.
        seed: of the parts.

    Raises:
        DataError: shapes or values that do not fit, or too few rows.
    """
    truth, proba = check_probabilities(truth, proba)
    corrected = np.empty_like(proba)
    for fitted, judged in calibration_folds(truth, groups, seed):
        corrected[judged] = fit(truth[fitted], proba[fitted])(proba[judged])
    return corrected


def judge_calibration(
    truth: np.ndarray, proba: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0
) -> tuple[CalibrationResult, ...]:
    """The probabilities as they are, by temperature, and by isotonic regression, all on the same rows.

    Args:
        truth: int (n,), column of the true class.
        proba: float (n, k).
        groups: who is shown, (n,), None where unknown.
        seed: of the parts.

    Raises:
        DataError: shapes or values that do not fit, or too few rows to fit and judge on.
    """
    truth, proba = check_probabilities(truth, proba)
    labels = LabelSet(tuple(map(str, range(proba.shape[1]))))
    candidates = {
        "none": proba,
        "temperature": cross_fitted(fit_temperature, truth, proba, groups, seed),
        "isotonic": cross_fitted(fit_isotonic, truth, proba, groups, seed),
    }
    results = []
    for method, corrected in candidates.items():
        found = evaluate(truth.astype(str), corrected, labels, n_resamples=0)
        results.append(
            CalibrationResult(
                method=method,
                accuracy=found.figures["accuracy"].value,
                log_loss=found.figures["log_loss"].value,
                ece=found.figures["ece"].value,
                reliability=found.reliability,
                temperature=fit_temperature(truth, proba).value if method == "temperature" else None,
                proba=corrected,
            )
        )
    return tuple(results)


LEFT_OUT = (0.1, 0.2, 0.3)
_CURVE_POINTS = 100


@dataclass(frozen=True)
class Abstention:
    """Accuracy over the share of images that are answered, the surest first.

    Attributes:
        curve: float (m, 2), coverage in (0, 1] rising, and the accuracy on that share.
        aurc: area under the risk-coverage curve, the mean error over all coverages, the less the better
            (Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017).
        left_out: accuracy on the rest if this share, the least sure, is left out.
        threshold: of confidence, for each share in ``left_out``: who answers only above it leaves that share out.
    """

    curve: np.ndarray
    aurc: Figure
    left_out: dict[float, Figure]
    threshold: dict[float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "aurc": json_values(self.aurc),
            "left_out": [
                {"share": share, "threshold": self.threshold[share], "accuracy": json_values(figure)}
                for share, figure in self.left_out.items()
            ],
            "curve": self.curve.tolist(),
        }


def abstention(
    truth: np.ndarray,
    proba: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    shares: Sequence[float] = LEFT_OUT,
    seed: int = 0,
    n_resamples: int = 300,
) -> Abstention:
    """Order the images by confidence, the largest probability, and see how right the surest are.

    Images of equal confidence share their accuracy, so that the order of the rows does not count.

    Args:
        truth: int (n,), column of the true class.
        proba: float (n, k).
        groups: who is shown, (n,), None where unknown: intervals are then over persons.
        shares: left out, each 0 to below 1.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.

    Raises:
        DataError: shapes or values that do not fit.
    """
    truth, proba = check_probabilities(truth, proba)
    confidence, hit = proba.max(axis=1), (proba.argmax(axis=1) == truth).astype(float)
    values, accuracy = _figures(confidence, hit, shares)
    low = high = np.full_like(values, np.nan)
    units = units_of(groups, len(hit))
    n, n_units = len(truth), int(units.max()) + 1
    if n_units > 1 and n_resamples > 0:
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(n_resamples):
            times = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)[units]
            found.append(_figures(np.repeat(confidence, times), np.repeat(hit, times), shares)[0])
        # Of those left out nothing is known: a share of the units answers.
        answered = np.array([1.0, *(1 - share for share in shares)])
        effective = effective_units(np.bincount(units)) * answered
        low, high = share_interval(values, np.std(found, axis=0), n_units * answered, effective)
    figures = [Figure(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]
    shown = np.unique(np.ceil(np.linspace(1 / _CURVE_POINTS, 1, _CURVE_POINTS) * n).astype(int))
    falling = np.sort(confidence)[::-1]
    return Abstention(
        curve=np.stack([shown / n, accuracy[shown - 1]], axis=1),
        aurc=figures[0],
        left_out=dict(zip(shares, figures[1:], strict=True)),
        threshold={share: float(falling[_answered(n, share) - 1]) for share in shares},
    )


def _figures(
    confidence: np.ndarray, hit: np.ndarray, shares: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The area, then the accuracy for each share; and the accuracy on the i surest, (n,)."""
    order = np.argsort(-confidence, kind="stable")
    _, tie, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    even = (np.bincount(tie, hit[order]) / size)[tie]
    accuracy = np.cumsum(even) / np.arange(1, len(hit) + 1)
    at = [accuracy[_answered(len(hit), share) - 1] for share in shares]
    return np.array([1 - accuracy.mean(), *at]), accuracy


def _answered(n: int, share: float) -> int:
    return max(1, round(n * (1 - share)))


METHODS = ("lac", "aps")
LEVELS = (0.9, 0.95)


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


def prediction_sets(
    truth: np.ndarray,
    proba: np.ndarray,
    new: np.ndarray,
    *,
    method: str = "lac",
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> np.ndarray:
    """Say which classes are in the set of each new row, bool (m, k, len(levels)).

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
    rng = np.random.default_rng(seed)
    strange = (lambda p: 1 - p) if method == "lac" else (lambda p: _mass_before(p, rng.random((len(p), 1))))
    of_truth = np.sort(strange(proba)[np.arange(len(truth)), truth])
    ranks = [min(len(truth), int(np.ceil((len(truth) + 1) * level - 1e-9))) for level in levels]
    return strange(new)[..., None] <= of_truth[np.array(ranks) - 1]


def _mass_before(proba: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Sum the probabilities of the likelier classes, and ``share`` (n, 1) of each class's own, (n, k)."""
    order = np.argsort(-proba, axis=1, kind="stable")
    falling = np.take_along_axis(proba, order, axis=1)
    mass = np.empty_like(proba)
    np.put_along_axis(mass, order, falling.cumsum(axis=1) - falling + share * falling, axis=1)
    return mass


def judge_conformal(
    truth: np.ndarray,
    proba: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> tuple[ConformalResult, ...]:
    """Every method at every level, thresholds and judged rows of different persons.

    Args:
        truth: int (n,), column of the true class.
        proba: float (n, k).
        groups: who is shown, (n,), None where unknown: intervals are then over persons.
        seed: of the parts and of ``aps``.

    Raises:
        DataError: shapes or values that do not fit, or too few rows.
    """
    truth, proba = check_probabilities(truth, proba)
    parts = calibration_folds(truth, groups, seed)
    units = units_of(groups, len(truth))
    k, results = proba.shape[1], []
    for method in METHODS if k > 2 else ("lac",):
        sets = np.empty((*proba.shape, len(LEVELS)), bool)
        for fitted, judged in parts:
            sets[judged] = prediction_sets(
                truth[fitted], proba[fitted], proba[judged], method=method, levels=LEVELS, seed=seed
            )
        for i, level in enumerate(LEVELS):
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
