"""Each two contenders on the same pictures: is one better, and what does that mean in words?"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.evaluation.comparison import Comparison, Costs, PairTest
from ferkit.evaluation.metrics import unit_of_row
from ferkit.evaluation.statistics import N_RESAMPLES, holm, paired_bootstrap, retraining_p, sign_flip_p

ALPHA = 0.05
"""The corrected p-value below which two contenders are called different."""

_MEASURABLE = 0.01  # seconds of training, milliseconds of an answer
_WORTH_SAYING = 1.2


def pairs_of(comparison: Comparison, *, with_leaks: bool = True) -> tuple[PairTest, ...]:
    """The tests of all contenders of a comparison that finished; none if fewer than two did.

    Raises:
        DataError: without leaking rows none is left.
    """
    finished = comparison.finished
    if len(finished) < 2:
        return ()
    pooled = {one.name: comparison.pooled(one.name, with_leaks=with_leaks) for one in finished}
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
    n_resamples: int = N_RESAMPLES,
) -> tuple[PairTest, ...]:
    """Test each two contenders on the same rows.

    The verdict is on accuracy, by the sign-flip test over units (with single pictures: McNemar's test), corrected
    by Holm's method. Several repeats are averaged: all rows of one picture belong to one unit. From three
    repeats on, the verdict is on the ways of training and not only on the models at hand: it rests on the larger
    of that p-value and ``PairTest.p_retraining``.

    Args:
        y: class names, (n,).
        proba: float (n, k) of each contender, by name, columns in the order of ``labels``.
        labels: the classes.
        units: what is independent, (n,): the person, or the picture where one occurs several times; None where
            unknown (a row is then a unit of its own), or None for all.
        repeats: which repeat each row belongs to, (n,); None for one.
        costs: of the contenders, for the sentences.
        test_per_train: see :func:`ferkit.evaluation.statistics.retraining_p`.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.

    Returns:
        A test for each two contenders, in their order.

    Raises:
        DataError: shapes that do not fit, or a class that is not one of ``labels``.
    """
    costs = costs or {}
    names = list(proba)
    truth, predicted = _numbers(np.asarray(y).astype(str), proba, labels)
    numbers = None if units is None else unit_of_row(np.asarray(units, object))
    unit = np.arange(len(truth)) if numbers is None else numbers
    repeat = np.zeros(len(truth), int) if repeats is None else np.unique(repeats, return_inverse=True)[1]
    found = paired_bootstrap(truth, predicted, len(labels), unit, seed, n_resamples)
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
            words = f"{pair.a} and {pair.b} gave the same answer to every picture here."
        else:
            words = sentence(pair, costs.get(pair.a, Costs()), costs.get(pair.b, Costs()), len(tests))
        pairs.append(replace(pair, sentence=words))
    return tuple(pairs)


def sentence(pair: PairTest, costs_a: Costs, costs_b: Costs, n_pairs: int) -> str:
    """What a test means.

    Args:
        pair: of two contenders that did not give the same answers throughout.
        costs_a, costs_b: theirs.
        n_pairs: tests that ``pair.p_adjusted`` is corrected for.
    """
    p = _p(pair.p_adjusted) + (f", corrected for {n_pairs} pairs" if n_pairs > 1 else "")
    if np.isnan(pair.low):
        return (
            f"{pair.a} was right {_points(pair.difference)} more often than {pair.b} here, but all pictures "
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
    between = f"95 % interval {_points(low, unit=False)} to {_points(high, unit=False)}"
    by = f"{_points(sign * pair.difference)} of accuracy, {between}, {p}"
    clauses = [f"{one} is {'better than' if different else 'not distinguishable from'} {other} here ({by})"]
    f1 = sign * pair.f1_difference
    if not different and pair.f1_p_adjusted < ALPHA:
        worse = "better" if f1 > 0 else "worse"
        clauses.append(
            f"by macro-F1, which counts every expression alike, it is {worse} ({_points(f1)}, {_p(pair.f1_p_adjusted)})"
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
        f" Mind that {name} was trained on {seen[name]} of the tested pictures."
        for name in (pair.a, pair.b)
        if seen[name]
    )


def _numbers(
    y: np.ndarray, proba: Mapping[str, np.ndarray], labels: LabelSet
) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers of the truth (n,) and of each contender's answers (m, n)."""
    column = {name: i for i, name in enumerate(labels.names)}
    unknown = sorted(set(y) - column.keys())
    if unknown:
        raise DataError(
            f"expected pictures of {', '.join(labels.names)}, found {', '.join(unknown)}; map the labels first"
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


def _points(share: float, unit: bool = True) -> str:
    text = f"{100 * share:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")
    return f"{text} points" if unit else text


def _p(p: float) -> str:
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.095 else f"p = {p:.2g}"
