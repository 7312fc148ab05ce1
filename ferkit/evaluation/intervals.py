"""95 % intervals from the bootstrap's standard error, honest with few persons and near 0 % or 100 %.

The percentiles of bootstrap resamples, the usual interval, promise too much in both cases: with 30 persons of unequal
numbers of pictures they cover the truth in 84 to 93 % of cases instead of 95 %, and if all pictures were right they say
that nothing else is possible. ``benchmarks/significance.py`` measures what the intervals here cover.
"""

import numpy as np

LEVEL = 0.95


def effective_units(weights: np.ndarray) -> np.ndarray:
    """To how many persons of equal weight some of unequal weight amount, ``sum(w)^2 / sum(w^2)`` (Kish, 1965).

    Args:
        weights: pictures of each person, at least 0, (u,) or (u, f).

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
    value: np.ndarray,
    error: np.ndarray,
    n_units: np.ndarray,
    effective: np.ndarray,
    level: float = LEVEL,
) -> tuple[np.ndarray, np.ndarray]:
    """Of figures between 0 and 1, symmetric on the logit scale; where it ends, Wilson's (1927) over units.

    Args:
        value: of the figures, 0..1 or NaN, (f,).
        error: their bootstrap standard errors, (f,).
        n_units: persons or pictures that each figure is made of, (f,).
        effective: to how many of equal weight they amount, (f,).
        level: how often the interval shall hold the truth, 0..1.

    Returns:
        Lower and upper ends, (f,) each, NaN where the value is.
    """
    value, error, n = (np.asarray(a, np.float64) for a in (value, error, n_units))
    t = t_quantile(effective, level)
    error = _unbiased(error, effective)
    inside = (value > 0) & (value < 1)
    slope = np.where(inside, value * (1 - value), 1.0)
    centre = np.log(np.where(inside, value, 0.5)) - np.log1p(-np.where(inside, value, 0.5))
    low, high = (_logistic(centre + side * t * error / slope) for side in (-1, 1))
    # All right or all wrong: resamples do not vary, but as many further persons could.
    reach = t**2 / (np.maximum(n, 1) + t**2)
    low = np.where(inside, low, np.where(value == 1, 1 - reach, 0.0))
    high = np.where(inside, high, np.where(value == 0, reach, 1.0))
    undefined = np.isnan(value)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


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

    One picture more on which the two disagree is assumed (after Agresti & Min, 2005), so that a few pictures
    on which two contenders happen to agree do not prove them equal.

    Args:
        value: the differences, (f,).
        error: their bootstrap standard errors, (f,).
        n_units: persons or pictures that were resampled.
        effective: to how many of equal weight they amount.
        n_images: pictures.

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


def _logistic(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))
