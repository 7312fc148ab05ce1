"""Tests of two contenders on the same pictures. Arrays in, numbers out.

What is independent is the *unit*: a person, or a picture where persons are unknown. A picture that several repeats
tested, and all pictures of one person, count as one unit, so that copies of evidence are never taken for more of it.
"""

from dataclasses import dataclass
from math import log2

import numpy as np

from ferkit.core.errors import DataError
from ferkit.evaluation.intervals import difference_interval, effective_units

N_RESAMPLES = 2_000
FEW_UNITS = 25
"""Below so many units that disagree, the test is exact; from there on, mid-p."""

_SMALLEST_P = 1e-12  # the distribution is exact to about this
_CHUNK = 2_000_000  # weights at a time


@dataclass(frozen=True)
class Differences:
    """Accuracy and macro-F1 of contenders, pair by pair, by a paired bootstrap over units.

    Attributes:
        accuracy, macro_f1: of each contender, (m,).
        low, high, p: of the accuracy of one less that of another, (m, m); NaN with fewer than two units.
        f1_low, f1_high, f1_p: the same of macro-F1.
    """

    accuracy: np.ndarray
    macro_f1: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    f1_low: np.ndarray
    f1_high: np.ndarray
    f1_p: np.ndarray


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p-value that one of two contenders is right as often as the other, on persons like these.

    If it is, either of the two could have had the answers of the other in each unit: the sign of each
    difference is a coin's. The distribution of their sum is computed exactly, by its Fourier transform. With
    units of one picture this *is* McNemar's test (1947) in its exact form, or with the mid-p of Fagerland,
    Lydersen & Laake (2013); with persons it is its clustered counterpart (Obuchowski, 1998; Durkalski et al.,
    2003) calibrated by permutation instead of a chi-square.

    Args:
        differences: of each unit, pictures that the first got right less those that the second got right;
            whole numbers, (u,).

    Returns:
        0..1; exact (never too small) below ``FEW_UNITS`` units that differ, mid-p from there on; 1 if none does.
    """
    sizes = np.abs(np.asarray(differences, np.int64))
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return 1.0
    total, found = int(sizes.sum()), abs(int(np.sum(differences)))
    # The sum of n signs lies in -total..total: on a circle of more places than that nothing overlaps.
    places = 1 << int(log2(2 * total + 1)) + 1
    frequency = np.arange(places // 2 + 1)
    characteristic = np.ones(len(frequency))
    for value, times in zip(*np.unique(sizes, return_counts=True), strict=True):
        characteristic *= np.cos(2 * np.pi / places * (value * frequency % places)) ** times
    chances = np.fft.irfft(characteristic, places).clip(0, 1)
    at = chances[found]
    beyond = chances[found + 1 : total + 1].sum()
    tails = 2 * (beyond + at) if found else 1.0
    if len(sizes) >= FEW_UNITS:
        tails -= at
    return float(np.clip(tails, _SMALLEST_P, 1.0))


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values corrected for their number, so that in 95 % of comparisons none below 0.05 is false (Holm, 1979).

    Args:
        p_values: 0..1, (m,); NaN are no tests, and stay.
    """
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p_values))
    order = tests[np.argsort(p_values[tests], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def retraining_p(gains: np.ndarray, images: np.ndarray, test_per_train: float) -> float:
    """Two-sided p-value that one of two ways of training is as good as the other, on persons like these.

    Persons vary and trainings vary, and a verdict on methods, not on the two models at hand, must count both.
    The covariance of the repeats' differences that persons bring about is computed from what each person
    contributes to each repeat; by how much the repeats vary beyond it is the trainings'. Since training parts
    of drawn repeats overlap, their variance shrinks less than one by the number of repeats (Nadeau & Bengio,
    2003); degrees of freedom are Satterthwaite's (1946).

    Args:
        gains: of each unit in each repeat, pictures that the first contender got right less those that the
            second got right, (u, r).
        images: pictures of each unit in each repeat, (u, r); at least one in each repeat.
        test_per_train: test rows a training row; 0 where all repeats have the same parts, and only the seed
            of training changes.

    Returns:
        0..1; NaN with fewer than three repeats, which say next to nothing of trainings, or fewer than two units.
    """
    from scipy.special import stdtr

    gains, images = np.asarray(gains, np.float64), np.asarray(images, np.float64)
    units, r = gains.shape
    if r < 3 or units < 2:
        return float("nan")
    total = images.sum(axis=0)
    each = gains.sum(axis=0) / total
    influence = (gains - images * each) / total
    covariance = influence.T @ influence * units / (units - 1)
    of_units = covariance.sum() / r**2
    expected = (np.trace(covariance) - covariance.sum() / r) / (r - 1)
    of_trainings = max(0.0, each.var(ddof=1) - expected) * (1 / r + test_per_train)
    variance = of_units + of_trainings
    if variance == 0:
        return 1.0 if each.mean() == 0 else 0.0
    df_units = max(float(effective_units(images.sum(axis=1))) - 1, 1.0)
    df = variance**2 / (of_units**2 / df_units + of_trainings**2 / (r - 1))
    return float(2 * stdtr(df, -abs(each.mean()) / np.sqrt(variance)))


def paired_bootstrap(
    truth: np.ndarray,
    predicted: np.ndarray,
    k: int,
    units: np.ndarray | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Differences:
    """Differences between contenders on the same resamples of whole units.

    Args:
        truth: class numbers 0..k-1, (n,).
        predicted: class numbers of each contender, (m, n).
        k: classes.
        units: 0..u-1, (n,); None if each row is one.
        seed: of the resamples.
        n_resamples: how many.

    Raises:
        DataError: no rows, or shapes that do not fit.
    """
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    if predicted.ndim != 2 or truth.shape != predicted.shape[1:] or not len(truth):
        raise DataError(
            f"expected predictions of at least one picture, (contenders, {len(truth)}), found {predicted.shape}"
        )
    m = len(predicted)
    units = np.arange(len(truth)) if units is None else np.asarray(units, np.int64)
    n_units = int(units.max()) + 1

    def count(of: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        cells = np.bincount(units[rows] * k + of[rows], minlength=n_units * k)
        return cells.reshape(n_units, k).astype(np.float32)

    # For each unit: pictures of each class, then of each contender its hits of each class, then its calls.
    columns = [count(truth)]
    columns += [count(truth, truth == one) for one in predicted]
    columns += [count(one) for one in predicted]
    counts = np.hstack(columns)
    accuracy, macro_f1 = _figures(counts.sum(axis=0, keepdims=True, dtype=np.float64), m, k)
    rng = np.random.default_rng(seed)
    drawn = []
    step = max(1, min(n_resamples, _CHUNK // n_units))
    for start in range(0, n_resamples, step):
        times = _resamples(rng, min(step, n_resamples - start), n_units)
        drawn.append(_figures((times @ counts).astype(np.float64), m, k))
    effective = float(effective_units(counts[:, :k].sum(axis=1)))
    parts: list[np.ndarray] = []
    resampled = (np.concatenate(part) for part in zip(*drawn, strict=True))
    for values, resamples in zip((accuracy[0], macro_f1[0]), resampled, strict=True):
        covariance = np.cov(resamples.T, bias=True).reshape(m, m)
        variance = np.diag(covariance)
        error = np.sqrt((variance[:, None] + variance[None] - 2 * covariance).clip(0))
        gains = values[:, None] - values[None]
        parts += difference_interval(gains, error, n_units, effective, len(truth))
    return Differences(accuracy[0], macro_f1[0], *parts)


def _resamples(rng: np.random.Generator, r: int, n_units: int) -> np.ndarray:
    """How often each of ``r`` resamples drew each unit, float32 (r, n_units)."""
    drawn = rng.integers(n_units, size=(r, n_units)) + n_units * np.arange(r)[:, None]
    return np.bincount(drawn.ravel(), minlength=r * n_units).reshape(r, n_units).astype(np.float32)


def _figures(counts: np.ndarray, m: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and macro-F1, (r, m) each, of the counts of ``r`` resamples."""
    true, rest = counts[:, None, :k], counts[:, k:].reshape(len(counts), 2, m, k)
    hits, called = rest[:, 0], rest[:, 1]
    there = np.broadcast_to(true > 0, hits.shape)
    f1 = np.divide(2 * hits, true + called, out=np.zeros(hits.shape), where=there)
    return hits.sum(axis=2) / true.sum(axis=2), f1.sum(axis=2) / there.sum(axis=2)
