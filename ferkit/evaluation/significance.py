"""Test differences between models: paired bootstrap, McNemar, corrections for many comparisons.

What is independent is the *unit*: a person, or an image where persons are unknown. An image that several repeats
tested, and all images of one person, count as one unit, so that copies of evidence are never taken for more of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import log2

import numpy as np

from ferkit.core.console import some
from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.core.texts import points
from ferkit.evaluation.comparison import Comparison, Costs, PairTest
from ferkit.evaluation.metrics import difference_interval, effective_units, unit_of_row

N_RESAMPLES = 2_000
FEW_UNITS = 25
"""Below so many units that disagree, the test is exact; from there on, mid-p."""

_SMALLEST_P = 1e-12  # the distribution is exact to about this
_CHUNK = 2_000_000  # weights at a time


@dataclass(frozen=True)
class Differences:
    """Accuracy and macro-F1 of candidates, pair by pair, by a paired bootstrap over units.

    Attributes:
        accuracy, macro_f1: of each candidate, (m,).
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
    """Two-sided p-value that one of two candidates is right as often as the other, on persons like these.

    If it is, either of the two could have had the answers of the other in each unit: the sign of each
    difference is a coin's. The distribution of their sum is computed exactly, by its Fourier transform. With
    units of one image this *is* McNemar's test (1947) in its exact form, or with the mid-p of Fagerland,
    Lydersen & Laake (2013); with persons it is its clustered counterpart (Obuchowski, 1998; Durkalski et al.,
    2003) calibrated by permutation instead of a chi-square.

    Args:
        differences: of each unit, images that the first got right less those that the second got right;
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
        gains: of each unit in each repeat, images that the first candidate got right less those that the
            second got right, (u, r).
        images: images of each unit in each repeat, (u, r); at least one in each repeat.
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
    """Differences between candidates on the same resamples of whole units.

    Args:
        truth: class numbers 0..k-1, (n,).
        predicted: class numbers of each candidate, (m, n).
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
            f"expected predictions of at least one image, (candidates, {len(truth)}), found {predicted.shape}"
        )
    m = len(predicted)
    units = np.arange(len(truth)) if units is None else np.asarray(units, np.int64)
    n_units = int(units.max()) + 1

    def count(of: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        cells = np.bincount(units[rows] * k + of[rows], minlength=n_units * k)
        return cells.reshape(n_units, k).astype(np.float32)

    # For each unit: images of each class, then of each candidate its hits of each class, then its calls.
    columns = [count(truth)]
    columns += [count(truth, truth == one) for one in predicted]
    columns += [count(one) for one in predicted]
    counts = np.hstack(columns)
    accuracy, macro_f1 = _figures(counts.sum(axis=0, keepdims=True, dtype=np.float64), m, k)
    rng = np.random.default_rng(seed)
    drawn = []
    step = max(1, min(n_resamples, _CHUNK // n_units))
    for start in range(0, n_resamples, step):
        r = min(step, n_resamples - start)
        rows = rng.integers(n_units, size=(r, n_units)) + n_units * np.arange(r)[:, None]
        # How often each resample drew each unit.
        times = np.bincount(rows.ravel(), minlength=r * n_units).reshape(r, n_units).astype(np.float32)
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


def _figures(counts: np.ndarray, m: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and macro-F1, (r, m) each, of the counts of ``r`` resamples."""
    true, rest = counts[:, None, :k], counts[:, k:].reshape(len(counts), 2, m, k)
    hits, called = rest[:, 0], rest[:, 1]
    there = np.broadcast_to(true > 0, hits.shape)
    f1 = np.divide(2 * hits, true + called, out=np.zeros(hits.shape), where=there)
    return hits.sum(axis=2) / true.sum(axis=2), f1.sum(axis=2) / there.sum(axis=2)


ALPHA = 0.05
"""The corrected p-value below which two candidates are called different."""

_MEASURABLE = 0.01  # seconds of training, milliseconds of an answer
_WORTH_SAYING = 1.2


def pairs_of(comparison: Comparison) -> tuple[PairTest, ...]:
    """The tests of all candidates of a comparison that finished; none if fewer than two did."""
    finished = comparison.finished
    if len(finished) < 2:
        return ()
    pooled = {one.name: comparison.pooled(one.name) for one in finished}
    first = pooled[finished[0].name]
    same_parts = all(np.array_equal(split.test, comparison.splits[0].test) for split in comparison.splits)
    ratios = [len(split.test) / max(1, len(split.train)) for split in comparison.splits]
    pairs = compare_pairs(
        first.y_true,
        {name: one.proba for name, one in pooled.items()},
        comparison.labels,
        units=first.units,
        repeats=first.repeats,
        costs={one.name: one.costs for one in finished},
        test_per_train=0.0 if same_parts else float(np.mean(ratios)),
        seed=comparison.protocol.seed,
    )
    seen = {one.name: int(np.isin(first.rows, one.seen).sum()) for one in finished}
    return tuple(replace(pair, sentence=pair.sentence + _memory(pair, seen)) for pair in pairs)


def compare_pairs(
    y: np.ndarray,
    proba: Mapping[str, np.ndarray],
    labels: LabelSet,
    *,
    units: np.ndarray | None = None,
    repeats: np.ndarray | None = None,
    costs: Mapping[str, Costs] | None = None,
    test_per_train: float = 0.0,
    seed: int = 0,
) -> tuple[PairTest, ...]:
    """Test each two candidates on the same rows.

    The verdict is on accuracy, by the sign-flip test over units (with single images: McNemar's test), corrected
    by Holm's method. Several repeats are averaged: all rows of one image belong to one unit. From three
    repeats on, the verdict is on the ways of training and not only on the models at hand: it rests on the larger
    of that p-value and ``PairTest.p_retraining``.

    Args:
        y: class names, (n,).
        proba: float (n, k) of each candidate, by name, columns in the order of ``labels``.
        labels: the classes.
        units: what is independent, (n,): the person, or the image where one occurs several times; None where
            unknown (a row is then a unit of its own), or None for all.
        repeats: which repeat each row belongs to, (n,); None for one.
        costs: of the candidates, for the sentences.
        test_per_train: see :func:`ferkit.evaluation.significance.retraining_p`.
        seed: of the bootstrap.

    Returns:
        A test for each two candidates, in their order.

    Raises:
        DataError: shapes that do not fit, or a class that is not one of ``labels``.
    """
    costs = costs or {}
    names = list(proba)
    truth, predicted = _numbers(np.asarray(y).astype(str), proba, labels)
    numbers = None if units is None else unit_of_row(np.asarray(units, object))
    unit = np.arange(len(truth)) if numbers is None else numbers
    repeat = np.zeros(len(truth), int) if repeats is None else np.unique(repeats, return_inverse=True)[1]
    found = paired_bootstrap(truth, predicted, len(labels), unit, seed)
    right = predicted == truth
    shape = int(unit.max()) + 1, int(repeat.max()) + 1
    cell = unit * shape[1] + repeat
    images = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    tests = []
    for i, j in combinations(range(len(names)), 2):
        gain = right[i].astype(int) - right[j]
        per_unit = np.rint(np.bincount(unit, gain)).astype(int)
        gains = np.bincount(cell, gain, minlength=images.size).reshape(images.shape)
        tests.append((i, j, sign_flip_p(per_unit), retraining_p(gains, images, test_per_train)))
    adjusted = holm(np.array([np.fmax(p, retrained) for _, _, p, retrained in tests]))
    f1_adjusted = holm(np.array([found.f1_p[i, j] for i, j, _, _ in tests]))
    pairs = []
    for (i, j, p, retrained), p_adjusted, f1_p in zip(tests, adjusted, f1_adjusted, strict=True):
        pair = PairTest(
            a=names[i],
            b=names[j],
            difference=float(found.accuracy[i] - found.accuracy[j]),
            low=float(found.low[i, j]),
            high=float(found.high[i, j]),
            p_mcnemar=p,
            p_bootstrap=float(found.p[i, j]),
            p_adjusted=float(p_adjusted),
            sentence="",
            f1_difference=float(found.macro_f1[i] - found.macro_f1[j]),
            f1_low=float(found.f1_low[i, j]),
            f1_high=float(found.f1_high[i, j]),
            f1_p_adjusted=float(f1_p),
            p_retraining=retrained,
        )
        if (predicted[i] == predicted[j]).all():
            words = f"{pair.a} and {pair.b} gave the same answer to every image here."
        else:
            words = pair_sentence(pair, costs.get(pair.a, Costs()), costs.get(pair.b, Costs()), len(tests))
        pairs.append(replace(pair, sentence=words))
    return tuple(pairs)


def pair_sentence(pair: PairTest, costs_a: Costs, costs_b: Costs, n_pairs: int) -> str:
    """What a test means.

    Args:
        pair: of two candidates that did not give the same answers throughout.
        costs_a, costs_b: theirs.
        n_pairs: tests that ``pair.p_adjusted`` is corrected for.
    """
    p = _p(pair.p_adjusted) + (f", corrected for {n_pairs} pairs" if n_pairs > 1 else "")
    if np.isnan(pair.low):
        return (
            f"{pair.a} was right {points(pair.difference)} points more often than {pair.b} here, but all images "
            "show one person, which says nothing about others."
        )
    different = pair.p_adjusted < ALPHA
    # The better of two is spoken of, or, if neither is, the one that is trained sooner.
    cheaper_b = (costs_b.train_s or np.inf) < (costs_a.train_s or np.inf)
    turned = pair.difference < 0 if different else cheaper_b
    if turned:
        costs_a, costs_b = costs_b, costs_a
    one, other = (pair.b, pair.a) if turned else (pair.a, pair.b)
    sign = -1 if turned else 1
    low, high = sorted((sign * pair.low, sign * pair.high))
    between = f"95 % interval {points(low)} to {points(high)}"
    by = f"{points(sign * pair.difference)} points of accuracy, {between}, {p}"
    clauses = [f"{one} is {'better than' if different else 'not distinguishable from'} {other} here ({by})"]
    f1 = sign * pair.f1_difference
    if not different and pair.f1_p_adjusted < ALPHA:
        worse = "better" if f1 > 0 else "worse"
        clauses.append(
            f"by macro-F1, which counts every expression alike, it is {worse} ({points(f1)} points, "
            f"{_p(pair.f1_p_adjusted)})"
        )
    times = (
        _ratio(costs_a.train_s, costs_b.train_s, "trains {} times faster", "takes {} times as long to train"),
        _ratio(costs_a.ms_batch1, costs_b.ms_batch1, "answers {} times faster", "takes {} times as long to answer"),
    )  # fmt: skip
    if any(times):
        both = "it " + " and ".join(filter(None, times))
        clauses.append(both.replace(" and takes ", " and ") if times[0].startswith("takes") else both)
    if not different and pair.p_mcnemar < ALPHA <= pair.p_retraining:
        leader = pair.a if pair.difference > 0 else pair.b
        clauses.append(
            f"as trained here, {leader} was ahead ({_p(pair.p_mcnemar)}), but by no more than another training may undo"
        )
    return "; ".join(clauses) + "."


def _memory(pair: PairTest, seen: Mapping[str, int]) -> str:
    """Who was trained elsewhere on what was tested here."""
    return "".join(
        f" Mind that {name} was trained on {seen[name]} of the tested images."
        for name in (pair.a, pair.b)
        if seen[name]
    )


def _numbers(
    y: np.ndarray, proba: Mapping[str, np.ndarray], labels: LabelSet
) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers of the truth (n,) and of each candidate's answers (m, n)."""
    column = {name: i for i, name in enumerate(labels.names)}
    unknown = sorted(set(y) - column.keys())
    if unknown:
        raise DataError(
            f"expected images of {', '.join(labels.names)}, found {some(unknown, 20)}; map the labels first"
        )
    for name, one in proba.items():
        if np.shape(one) != (len(y), len(labels)):
            raise DataError(
                f"expected probabilities of {name} of shape {(len(y), len(labels))}, found {np.shape(one)}"
            )
    answers = [np.asarray(one).argmax(axis=1) for one in proba.values()]
    return np.array([column[name] for name in y], int), np.array(answers, int).reshape(len(proba), len(y))


def _ratio(mine: float | None, other: float | None, faster: str, slower: str) -> str:
    """How times compare, in words; nothing where they are unknown, too short to be measured, or alike."""
    if mine is None or other is None or min(mine, other) < _MEASURABLE:
        return ""
    ratio = max(mine, other) / min(mine, other)
    if ratio < _WORTH_SAYING:
        return ""
    times = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
    return (faster if mine < other else slower).format(times)


def _p(p: float) -> str:
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.095 else f"p = {p:.2g}"
