"""Fit heads on few examples: class means, or logistic regression whose penalty is chosen on held-out takes.

However a head was fitted, it is one linear map in the end: numbers that travel between processes and answer without
scikit-learn, and from which the pipeline that a model folder keeps is made again.

:func:`validate` says how well the classes are told apart, and when that cannot be said yet.
Frames of one take are nearly copies of each other: a head that saw one of them knows the next. So takes are kept whole
in cross-validation, or persons where each class has several, the penalty is chosen again inside each training part, and
intervals are over takes, not frames.
"""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ferkit.classifiers.heads import FittedHead, LogisticSettings, build_head
from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.core.types import check_features
from ferkit.datasets.split import folds, numbered
from ferkit.evaluation.calibration import Temperature, fit_temperature
from ferkit.evaluation.metrics import Evaluation, Figure, evaluate

PENALTIES = (1e-3, 1e-2, 0.1)
"""Inverse penalties that are tried, the strongest first."""

USUAL_PENALTY = 1e-2
"""Where there are too few takes to choose."""

FEW = 5
"""A class of fewer examples than this makes all classes be told by their means."""

_ROWS_TO_CHOOSE = 300
_PASSES = 40
_PRIOR_ROWS = 50
_SHARPNESS = 4.0


@dataclass(frozen=True)
class LinearHead:
    """Linear scores of scaled embeddings, and softmax.

    Attributes:
        classes: names, in the order of the probabilities.
        mean, scale: float32 (dim,): an embedding is scaled to ``(x - mean) / scale``.
        coef, intercept: float32 (k, dim) and (k,).
        penalty: inverse penalty that it was fitted with; None for class means.
        unsure_below: a largest probability under this is no answer.
    """

    classes: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    penalty: float | None
    unsure_below: float = 0.0

    @property
    def method(self) -> str:
        """``means`` or ``logistic``."""
        return "means" if self.penalty is None else "logistic"

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, for embeddings (n, dim). Raises DataError for others, or NaN."""
        check_features(X, len(self.mean))
        scores = (X - self.mean) / self.scale @ self.coef.T + self.intercept
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

    def tempered(self, temperature: float, unsure_below: float) -> "LinearHead":
        """The head with its scores divided by a temperature."""
        coef, intercept = self.coef / temperature, self.intercept / temperature
        return replace(self, coef=coef, intercept=intercept, unsure_below=unsure_below)

    def fitted(self) -> FittedHead:
        """The same as a head of scikit-learn, which model folders keep."""
        settings = LogisticSettings(C=self.penalty or USUAL_PENALTY, pca=None, class_weights="balanced")
        pipeline, _ = build_head(settings, len(self.classes), len(self.mean))
        order = np.argsort(self.classes)
        scaler, head = pipeline.named_steps["scaler"], pipeline.named_steps["head"]
        scaler.mean_, scaler.scale_ = self.mean.astype(np.float64), self.scale.astype(np.float64)
        scaler.var_, scaler.n_features_in_ = scaler.scale_**2, len(self.mean)
        scaler.n_samples_seen_ = 1
        coef, intercept = self.coef[order].astype(np.float64), self.intercept[order].astype(np.float64)
        if len(order) == 2:  # scikit-learn keeps the difference alone
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        head.classes_, head.coef_, head.intercept_ = np.array(self.classes)[order], coef, intercept
        head.n_features_in_, head.n_iter_ = len(self.mean), np.array([1], np.int32)
        note = "told by class means"
        if self.penalty is not None:
            note = f"told by penalty {self.penalty:g} chosen on held-out takes"
        return FittedHead(pipeline, settings, len(self.mean), (note,))


def fit_linear(X: np.ndarray, y: np.ndarray, penalty: float | None) -> LinearHead:
    """Fit a head on all rows.

    Args:
        X: embeddings, float32 (n, dim).
        y: class names, (n,).
        penalty: inverse penalty of logistic regression; None tells classes by their means.

    Raises:
        DataError: fewer than two classes.
    """
    classes = tuple(sorted(set(y.astype(str).tolist())))
    if len(classes) < 2:
        raise DataError(
            f"expected examples of at least two classes, found {', '.join(classes) or 'none'}; add another"
        )
    mean, scale = _scaling(X)
    Z = (X - mean) / scale
    if penalty is None:
        # Of equal length: the mean of one or two faces is long or short by chance.
        means = np.stack([Z[y == name].mean(axis=0) for name in classes])
        coef = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
        sharpness = _SHARPNESS / np.sqrt(Z.shape[1])
        return LinearHead(classes, mean, scale, coef * sharpness, np.zeros(len(classes), np.float32), None)
    settings = LogisticSettings(C=penalty, pca=None, class_weights="balanced", max_iter=_PASSES)
    fitted = build_head(settings, *X.shape)[0].named_steps["head"]
    codes = np.searchsorted(classes, y.astype(str))
    weights = len(y) / len(classes) / np.bincount(codes)[codes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: bounded on purpose
        fitted.fit(Z, codes, sample_weight=weights)
    coef, intercept = np.asarray(fitted.coef_, np.float32), np.asarray(fitted.intercept_, np.float32)
    if len(classes) == 2:  # scikit-learn keeps the difference alone
        coef, intercept = np.concatenate([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
    return LinearHead(classes, mean, scale, coef, intercept, penalty)


def usual_penalty(y: np.ndarray, last: float | None = None) -> float | None:
    """The penalty to fit with where none was chosen for these examples: the last one, or None for class means."""
    _, counts = np.unique(y.astype(str), return_counts=True)
    return None if counts.min() < FEW else last or USUAL_PENALTY


def choose_penalty(X: np.ndarray, y: np.ndarray, units: np.ndarray, seed: int = 0) -> float | None:
    """The penalty of least log-loss on held-out takes; None, for class means, where a class has under five examples.

    Args:
        X, y: as of :func:`fit_linear`.
        units: takes or persons, (n,), kept whole.
        seed: of the folds.
    """
    if usual_penalty(y) is None:
        return None
    rows = spread_rows(y, units, _ROWS_TO_CHOOSE, seed)
    X, y, units = X[rows], y[rows].astype(str), units[rows]
    try:
        parts = folds(y, units, 2, seed)
    except DataError:  # a class of one take: nothing is held out that one could choose on
        return USUAL_PENALTY
    loss = np.zeros(len(PENALTIES))
    for train, test in parts:
        for i, penalty in enumerate(PENALTIES):
            head = fit_linear(X[train], y[train], penalty)
            proba = head.predict_proba(X[test])[np.arange(len(test)), np.searchsorted(head.classes, y[test])]
            loss[i] -= np.log(np.clip(proba, 1e-6, 1)).sum()
    return PENALTIES[int(loss.argmin())]


def spread_rows(y: np.ndarray, units: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Rows, ascending and about ``most`` of them, spread over the takes of each class: frames of a burst say little."""
    if len(y) <= most:
        return np.arange(len(y))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    seen: dict[Any, int] = {}
    turn = np.empty(len(y), int)
    for row in order:
        key = y[row], units[row]
        turn[row] = seen[key] = seen.get(key, -1) + 1
    return np.sort(order[np.argsort(turn[order], kind="stable")][:most])


def _scaling(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of each dimension; of few rows, nearly the same spread for all."""
    variance = X.var(axis=0)
    common = float(variance.mean()) or 1.0
    shrunk = (len(X) * variance + _PRIOR_ROWS * common) / (len(X) + _PRIOR_ROWS)
    return X.mean(axis=0).astype(np.float32), np.sqrt(shrunk).astype(np.float32)


ENOUGH_TAKES = 3
"""Takes of each class from which on an accuracy is told."""

_FOLDS = 5
_ROWS_TO_VALIDATE = 1_000
_RESAMPLES = 300
_REPEATS = 2
_REPEATED_BELOW = 200
_SHARES = (0.25, 0.5, 1.0)
_RIGHT = 0.9
_CONFUSED = 0.15
_LISTED = 24
_HIGHER = 1.5  # found on draws of benchmarks/teach.py below number 75


@dataclass(frozen=True)
class Missing:
    """What keeps an accuracy from being told.

    Attributes:
        code: ``class`` (a second one), ``example`` (of ``label``) or ``take`` (another one of ``label``).
        label: the class; empty for ``class``.
        count: takes that it has.
    """

    code: str
    label: str = ""
    count: int = 0

    @property
    def sentence(self) -> str:
        """The remedy, in English."""
        if self.code == "class":
            return "cannot tell yet: add a second class"
        if self.code == "example":
            return f"cannot tell yet: record examples of {self.label}"
        nth = {1: "a second", 2: "a third"}.get(self.count, "another")
        return f"cannot tell yet: record {nth} take of {self.label} in another light"


@dataclass(frozen=True)
class Disagreement:
    """An example that the others, of other takes, would call something else.

    Attributes:
        row: of the example.
        label: what they would call it.
        probability: of that, 0..1.
    """

    row: int
    label: str
    probability: float


@dataclass(frozen=True)
class TeachReport:
    """How well classes are told apart on takes that were not trained on.

    Attributes:
        counts, takes: examples and takes of each class.
        unit: what was kept whole: ``take`` or ``person``.
        missing: why there are no figures; empty where there are.
        evaluation: accuracy with its interval, confusion and the rest; None where nothing can be told.
        confused: pairs of classes and the share of the first, 0..1, that was called the second; the worst first.
        disagreements: examples that do not fit, the gravest first.
        growth: examples a class that heads were trained on, and their accuracy on held-out takes.
        head: fitted on all examples, with the penalty and temperature found; None for less than two classes.
        temperature: what scores are divided by.
    """

    counts: dict[str, int]
    takes: dict[str, int]
    unit: str
    missing: tuple[Missing, ...]
    evaluation: Evaluation | None = field(repr=False)
    confused: tuple[tuple[str, str, float], ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    growth: tuple[tuple[float, float], ...] = ()
    head: LinearHead | None = field(default=None, repr=False)
    temperature: float = 1.0

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in English, the most important first."""
        if self.evaluation is None:
            return tuple(one.sentence for one in self.missing)
        accuracy = self.evaluation.figures["accuracy"]
        chance = max(self.counts.values()) / sum(self.counts.values())
        found = [
            f"{accuracy.value:.0%} right on {self.unit}s that were not trained on (95 % interval {accuracy.low:.0%} "
            f"to {accuracy.high:.0%}, over {self.evaluation.n_groups} {self.unit}s; the most frequent class "
            f"alone: {chance:.0%})"
        ]
        found += [f"{first} is taken for {second} in {share:.0%}" for first, second, share in self.confused]
        if self.disagreements:
            found.append(f"{len(self.disagreements)} examples disagree with the others; look at them")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; of the head only how it was fitted."""
        return {
            "counts": self.counts,
            "takes": self.takes,
            "unit": self.unit,
            "missing": [vars(one) for one in self.missing],
            "sentences": list(self.sentences),
            "accuracy": None if self.evaluation is None else self.evaluation.to_dict()["accuracy"],
            "n_units": None if self.evaluation is None else self.evaluation.n_groups,
            "confusion": None if self.evaluation is None else self.evaluation.confusion.tolist(),
            "labels": [] if self.head is None else list(self.head.classes),
            "confused": [list(pair) for pair in self.confused],
            "disagreements": [vars(one) for one in self.disagreements],
            "growth": [list(point) for point in self.growth],
            "method": None if self.head is None else self.head.method,
            "penalty": None if self.head is None else self.head.penalty,
            "unsure_below": None if self.head is None else self.head.unsure_below,
            "temperature": self.temperature,
        }


def validate(
    X: np.ndarray,
    y: np.ndarray,
    takes: np.ndarray,
    persons: np.ndarray,
    labels: tuple[str, ...] = (),
    *,
    seed: int = 0,
) -> TeachReport:
    """Choose the penalty, cross-validate over takes or persons, and fit on everything.

    Of more than 1,000 examples some of each take are validated on; the head is fitted on all.

    Args:
        X: embeddings, float32 (n, dim).
        y: class names, (n,).
        takes: what each was recorded with, (n,).
        persons: who is shown, (n,); None where unknown.
        labels: all classes, also those without examples; those of ``y`` if empty.
        seed: of folds and resamples.
    """
    y = y.astype(str)
    unit, units = independent_units(y, takes, persons)
    counts = {name: int((y == name).sum()) for name in labels or np.unique(y).tolist()}
    n_units = {name: len(set(units[y == name])) for name in counts}
    report = TeachReport(counts, n_units, unit, _missing(counts, n_units), None)
    if len(np.unique(y)) < 2:
        return report
    head = fit_linear(X, y, choose_penalty(X, y, units, seed))
    report = replace(report, head=head)
    if min(n for n in n_units.values() if n) < 2:
        return report
    rows = spread_rows(y, units, _ROWS_TO_VALIDATE, seed)
    # Of few examples much depends on how they are dealt into folds: that is done several times.
    repeats = _REPEATS if len(rows) < _REPEATED_BELOW else 1
    found = [_out_of_fold(X[rows], y[rows], units[rows], seed + i, grow=i == 0) for i in range(repeats)]
    # Others share their takes with a whole class.
    kept = ~np.isnan([proba[:, 0] for proba, _ in found]).any(axis=0)
    if not kept.any():
        return report
    rows, growth = rows[kept], found[0][1]
    truth = np.searchsorted(head.classes, y[rows])
    every, tiled = np.concatenate([proba[kept] for proba, _ in found]), np.tile(truth, repeats)
    temperature = _temperature(tiled, every, len(set(units[rows])))
    every = Temperature(temperature)(every)
    proba = every[: len(rows)]
    report = replace(
        report,
        head=head.tempered(temperature, unsure_threshold(tiled, every)),
        temperature=temperature,
        disagreements=_disagreements(head.classes, truth, proba, rows),
    )
    if report.missing:
        return report
    names = LabelSet(head.classes)
    evaluation = evaluate(y[rows], proba, names, units[rows], seed, _RESAMPLES)
    figures = evaluation.figures
    if repeats > 1:
        shown, of_units = np.tile(y[rows], repeats), np.tile(units[rows], repeats)
        figures = evaluate(shown, every, names, of_units, seed, _RESAMPLES).figures
    wider = _widened(figures["accuracy"], min(n_units.values()))
    evaluation = replace(evaluation, figures={**figures, "accuracy": wider})
    return replace(report, evaluation=evaluation, confused=_confused(evaluation), growth=growth)


def independent_units(y: np.ndarray, takes: np.ndarray, persons: np.ndarray) -> tuple[str, np.ndarray]:
    """What examples are kept together by: ``person``, where each class is shown by three or more, or else ``take``."""
    known = np.array([person is not None for person in persons], bool)
    if known.all() and len(y):
        fewest = min(len(set(persons[y == name])) for name in np.unique(y))
        if fewest >= ENOUGH_TAKES:
            return "person", persons
    return "take", takes


def unsure_threshold(truth: np.ndarray, proba: np.ndarray) -> float:
    """The least confidence, from ``1 / k`` to 0.9, above which nine of ten held-out examples are right.

    Args:
        truth: int (n,), column of the true class.
        proba: float (n, k), out of fold.
    """
    confidence = proba.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    hit = (proba.argmax(axis=1) == truth)[order]
    right = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))  # equal ones share their accuracy
    enough = ends[right[ends] >= _RIGHT]
    least = confidence[order[enough[-1]]] if len(enough) else 0.9
    # Where all were answered right, a little less sure than the least sure of them is still an answer.
    if len(enough) and enough[-1] == len(hit) - 1:
        least = min(least, 1.25 / proba.shape[1])
    return float(np.clip(least, 1 / proba.shape[1], 0.9))


def _widened(figure: Figure, fewest: int) -> Figure:
    """The interval, wider on the logit scale: cross-validation's heads learnt from fewer takes than the one in use.

    So the truth is rather above than below it, and the upper end is moved further. ``benchmarks/teach.py`` measures how
    often it holds the truth. Where all or none were right it stays as it is.
    """
    if not 0 < figure.value < 1:
        return figure
    ends = np.clip([figure.value, figure.low, figure.high], 1e-9, 1 - 1e-9)
    value, low, high = np.log(ends) - np.log1p(-ends)
    low, high = value + (1 + 1 / fewest) * (low - value), value + _HIGHER * (high - value)
    return Figure(figure.value, float(1 / (1 + np.exp(-low))), float(1 / (1 + np.exp(-high))))


def _missing(counts: dict[str, int], takes: dict[str, int]) -> tuple[Missing, ...]:
    if len(counts) < 2:
        return (Missing("class"),)
    found = [Missing("example", name) for name, n in counts.items() if n == 0]
    return tuple(
        found + [Missing("take", name, n) for name, n in takes.items() if counts[name] and n < ENOUGH_TAKES]
    )


def _out_of_fold(
    X: np.ndarray, y: np.ndarray, units: np.ndarray, seed: int, *, grow: bool
) -> tuple[np.ndarray, tuple[tuple[float, float], ...]]:
    """Probabilities float64 (n, k) of each row by a head that saw none of its take, NaN where there is no such head;
    and, if wanted, the accuracy by the size of the training part.
    """
    names = np.unique(y)
    truth, k = np.searchsorted(names, y), len(names)
    try:
        parts = folds(y, units, _FOLDS, seed)
    except DataError:
        parts = _by_unit(y, units)
    proba = np.full((len(y), k), np.nan)
    points = np.zeros((len(_SHARES), 2))
    for train, test in parts:
        penalty = choose_penalty(X[train], y[train], units[train], seed)
        for i, share in enumerate(_SHARES if grow else (1.0,)):
            rows = train[_first_takes(y[train], units[train], share)]
            found = fit_linear(X[rows], y[rows], usual_penalty(y[rows], penalty)).predict_proba(X[test])
            points[i] += len(rows) / k / len(parts), (found.argmax(axis=1) == truth[test]).sum()
        proba[test] = found
    points[:, 1] /= max((~np.isnan(proba[:, 0])).sum(), 1)
    return proba, tuple({round(n, 1): share for n, share in points.tolist()}.items())


def _by_unit(y: np.ndarray, units: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each unit held out by itself, where every class is left: for takes that are shared by classes in odd ways."""
    numbers = numbered(units)
    parts = [(np.flatnonzero(numbers != i), np.flatnonzero(numbers == i)) for i in np.unique(numbers)]
    return [part for part in parts if len(np.unique(y[part[0]])) == len(np.unique(y))]


def _first_takes(y: np.ndarray, units: np.ndarray, share: float) -> np.ndarray:
    """Rows of a share of each class's takes, one at least."""
    kept = np.zeros(len(y), bool)
    for name in np.unique(y):
        mine = list(dict.fromkeys(units[y == name]))
        chosen = set(mine[: max(1, round(share * len(mine)))])
        kept |= (y == name) & np.array([unit in chosen for unit in units], bool)
    return np.flatnonzero(kept)


def _temperature(truth: np.ndarray, proba: np.ndarray, n_units: int) -> float:
    """The temperature of least loss, but none that is surer on average than so many takes can show."""
    found = fit_temperature(truth, proba).value
    most = (n_units + 1) / (n_units + 2)  # Laplace's rule
    while found < 20 and Temperature(found)(proba).max(axis=1).mean() > most:
        found *= 1.1
    return float(found)


def _confused(evaluation: Evaluation) -> tuple[tuple[str, str, float], ...]:
    counts, names = evaluation.confusion, evaluation.labels.names
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    pairs = [(names[a], names[b], float(shares[a, b])) for a, b in np.argwhere(shares >= _CONFUSED)]
    return tuple(sorted(pairs, key=lambda pair: -pair[2])[:3])


def _disagreements(
    classes: tuple[str, ...], truth: np.ndarray, proba: np.ndarray, rows: np.ndarray
) -> tuple[Disagreement, ...]:
    """Examples that are surely called another class, after confident learning (Northcutt, Jiang & Chuang, 2021).

    A held-out example counts for a class if its probability of it is one that nine of ten of the right ones have. The
    mean of these, as in the paper, would pass over half of the wrong examples where there are few.
    """
    called = proba.argmax(axis=1)
    right = [proba[(truth == c) & (called == c), c] for c in range(len(classes))]
    own = np.array([np.quantile(p, 1 - _RIGHT) if len(p) else 1.0 for p in right])
    found = np.flatnonzero((called != truth) & (proba.max(axis=1) >= own[called]))
    found = found[np.argsort(proba[found, truth[found]], kind="stable")][:_LISTED]
    return tuple(Disagreement(int(rows[i]), classes[called[i]], float(proba[i, called[i]])) for i in found)
