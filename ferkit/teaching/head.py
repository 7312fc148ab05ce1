"""Heads for few examples: class means, or logistic regression whose penalty is chosen on held-out takes.

However a head was fitted, it is one linear map in the end: numbers that travel between processes and answer without
scikit-learn, and from which the pipeline that a model folder keeps is made again.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ferkit.classifiers.heads import FittedHead, LogisticSettings, build_head
from ferkit.core.errors import DataError
from ferkit.core.types import check_features
from ferkit.datasets.split import folds

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

    def fitted(self, seconds: float = 0.0) -> FittedHead:
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
        told_by = (
            "class means" if self.penalty is None else f"penalty {self.penalty:g} chosen on held-out takes"
        )
        return FittedHead(pipeline, settings, len(self.mean), (f"told by {told_by}",), seconds)


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
        return LinearHead(
            tuple(classes), mean, scale, coef * sharpness, np.zeros(len(classes), np.float32), None
        )
    settings = LogisticSettings(C=penalty, pca=None, class_weights="balanced", max_iter=_PASSES)
    fitted = build_head(settings, *X.shape)[0].named_steps["head"]
    codes = np.searchsorted(classes, y.astype(str))
    weights = len(y) / len(classes) / np.bincount(codes)[codes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: bounded on purpose
        fitted.fit(Z, codes, sample_weight=weights)
    coef, intercept = _of_each_class(fitted)
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


def _of_each_class(head: Any) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, dim) and intercepts (k,), for two classes too."""
    coef, intercept = np.asarray(head.coef_, np.float32), np.asarray(head.intercept_, np.float32)
    if len(head.classes_) == 2:
        return np.concatenate([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
    return coef, intercept
