"""What is gained by leaving the least sure images to a human being."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferkit.evaluation.crossfit import check_probabilities, units_of
from ferkit.evaluation.intervals import effective_units, share_interval
from ferkit.evaluation.metrics import Figure

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
            "aurc": self.aurc.to_dict(),
            "left_out": [
                {"share": share, "threshold": self.threshold[share], "accuracy": figure.to_dict()}
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
    low, high = _interval(values, confidence, hit, units_of(groups, len(hit)), shares, seed, n_resamples)
    figures = [Figure(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]
    n = len(truth)
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


def _interval(
    values: np.ndarray,
    confidence: np.ndarray,
    hit: np.ndarray,
    units: np.ndarray,
    shares: Sequence[float],
    seed: int,
    n_resamples: int,
) -> tuple[np.ndarray, np.ndarray]:
    n_units = int(units.max()) + 1
    if n_units < 2 or n_resamples < 1:
        return np.full_like(values, np.nan), np.full_like(values, np.nan)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_resamples):
        times = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)[units]
        found.append(_figures(np.repeat(confidence, times), np.repeat(hit, times), shares)[0])
    # Of those left out nothing is known: a share of the units answers.
    answered = np.array([1.0, *(1 - share for share in shares)])
    effective = effective_units(np.bincount(units)) * answered
    return share_interval(values, np.std(found, axis=0), n_units * answered, effective)


def _answered(n: int, share: float) -> int:
    return max(1, round(n * (1 - share)))
