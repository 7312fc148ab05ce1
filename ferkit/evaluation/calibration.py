"""Whether probabilities mean what they say, and what a correction of them would give.

A correction is fitted on four fifths of the rows and judged on the fifth, five times over, with whole persons on one
side, so that no row is judged by a correction that saw it or its person.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferkit.core.labels import LabelSet
from ferkit.evaluation.crossfit import check_probabilities, fitting_parts
from ferkit.evaluation.metrics import evaluate

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

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single rows, as JSON values."""
        reliability = [[None if np.isnan(v) else v for v in row] for row in self.reliability.tolist()]
        return {
            "method": self.method,
            **{name: getattr(self, name) for name in ("accuracy", "log_loss", "ece")},
            "temperature": self.temperature,
            "reliability": reliability,
        }


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
    for fitted, judged in fitting_parts(truth, groups, seed):
        corrected[judged] = fit(truth[fitted], proba[fitted])(proba[judged])
    return corrected


def judge_calibration(
    truth: np.ndarray,
    proba: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
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
