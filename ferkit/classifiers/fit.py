"""Fitting heads: from embeddings and labels to a pipeline with probabilities, in bounded memory.

The embeddings may be memory-mapped and of half precision: they are read in chunks, and what the classifier
itself sees is float32 of few dimensions.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferkit.classifiers.heads import HeadSettings, MLPSettings, SVMSettings, build_head
from ferkit.core.arrays import check_features
from ferkit.core.errors import DataError, TrainingError
from ferkit.core.progress import progress
from ferkit.datasets.split import SplitSettings, folds, holdout

CHUNK_VALUES = 2**25
"""Values of a chunk: 128 MB as float32."""

SAMPLE_ROWS = 20_000
"""Rows that principal components and kernel landmarks are computed from."""


@dataclass(frozen=True)
class FittedHead:
    """A head that gives probabilities.

    Attributes:
        pipeline: fitted scikit-learn pipeline of scaler, further steps and classifier, with ``classes_``.
        settings: what it was made with.
        dim: dimensions of the embeddings it takes.
        notes: sentences about what was chosen by itself.
        seconds: how long fitting took.
        history: for the MLP, held-out log-loss and accuracy after each pass; empty for others.
    """

    pipeline: Any
    settings: HeadSettings
    dim: int
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    history: tuple[dict[str, float], ...] = field(default=(), repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the columns of :meth:`predict_proba`."""
        return tuple(str(name) for name in self.pipeline.classes_)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """float32 (n, k) for embeddings (n, dim), which may be memory-mapped.

        Raises:
            DataError: embeddings of another number of dimensions, or NaN.
        """
        check_features(X, self.dim)
        parts = [self.pipeline.predict_proba(chunk) for chunk in _chunks(X)]
        return (
            np.concatenate(parts).astype(np.float32)
            if parts
            else np.zeros((0, len(self.classes)), np.float32)
        )


def fit_head(
    X: np.ndarray,
    y: np.ndarray,
    settings: HeadSettings,
    groups: np.ndarray | None = None,
) -> FittedHead:
    """Fit a head on all rows given.

    Args:
        X: embeddings, float (n, d).
        y: class names, (n,).
        settings: of the head.
        groups: who is shown, (n,), None where unknown: whatever is chosen on held-out rows (passes of the
            MLP, calibration) then holds out whole persons.

    Raises:
        DataError: NaN, fewer than two classes, or a class with one image.
        TrainingError: the numbers overflowed.
    """
    start = time.monotonic()
    check_features(X)
    y = np.asarray(y).astype(str)
    if len(y) != len(X):
        raise DataError(
            f"expected one label for each embedding, found {len(y)} labels and {len(X)} embeddings"
        )
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"expected at least two classes to tell apart, found {', '.join(classes) or 'none'}")
    if counts.min() < 2:
        rare = ", ".join(classes[counts < 2])
        raise DataError(
            f"expected at least 2 images of each class, found 1 of {rare}; add images or leave it out"
        )
    pipeline, notes = build_head(settings, *X.shape)
    if settings.calibration == "none" and not hasattr(pipeline.steps[-1][1], "predict_proba"):
        raise DataError("the exact SVM has no probabilities of its own; choose another calibration than none")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of convergence: bounded on purpose, and said in the notes where it matters
        Z = fit_features(pipeline.steps[:-1], X, settings)
        with _threads_for(settings):
            head, more, history = fit_classifier(pipeline.steps[-1][1], Z, y, settings, groups)
    pipeline.steps[-1] = ("head", head)
    return FittedHead(pipeline, settings, X.shape[1], notes + more, time.monotonic() - start, history)


def fit_features(steps: list[tuple[str, Any]], X: np.ndarray, settings: HeadSettings) -> np.ndarray:
    """Fit the steps before the classifier and give what it sees: float32 (n, dimensions left)."""
    (_, scaler), *rest = steps
    for chunk in _chunks(X):
        scaler.partial_fit(chunk)
    sample = scaler.transform(_sample(X, settings.seed))
    for name, step in rest:
        if name == "kernel" and step.gamma is None:
            step.set_params(gamma=float(1 / (sample.shape[1] * sample.var())))
        sample = step.fit(sample).transform(sample)
    Z = np.empty((len(X), sample.shape[1]), np.float32)
    start = 0
    for chunk in _chunks(X):
        for _, step in steps:
            chunk = step.transform(chunk)
        Z[start : start + len(chunk)] = chunk
        start += len(chunk)
    return Z


def fit_classifier(
    head: Any,
    Z: np.ndarray,
    y: np.ndarray,
    settings: HeadSettings,
    groups: np.ndarray | None = None,
) -> tuple[Any, tuple[str, ...], tuple[dict[str, float], ...]]:
    """Fit, and calibrate, the classifier on what the steps before it gave.

    Returns:
        The fitted classifier, notes, and the MLP's history.
    """
    from sklearn.utils.class_weight import compute_sample_weight

    notes: tuple[str, ...] = ()
    history: tuple[dict[str, float], ...] = ()
    weights = compute_sample_weight("balanced", y) if settings.balanced else None
    if isinstance(settings, MLPSettings) and settings.patience is not None:
        epochs, notes, history = choose_epochs(head, Z, y, settings, groups)
        head.set_params(max_iter=epochs, n_iter_no_change=epochs + 1)
    method = settings.calibration
    if method == "auto":
        exact = isinstance(settings, SVMSettings) and not hasattr(head, "predict_proba")
        method = "temperature" if exact else "none"
    # The dummy's frequencies are exact already, and it has no scores to correct.
    if method != "none" and settings.kind != "dummy":
        from sklearn.calibration import CalibratedClassifierCV

        parts = folds(y, groups, k=5 if len(y) <= 5_000 else 3, seed=settings.seed)
        head = CalibratedClassifierCV(head, method=method, cv=parts, ensemble=False)
        notes += (f"probabilities are calibrated ({method}) on {len(parts)} held-out folds",)
    _fit(head, Z, y, weights)
    if hasattr(head, "cv"):
        head.set_params(cv=len(head.cv))  # the row numbers themselves would go into the saved model
    for network in (head, *(part.estimator for part in getattr(head, "calibrated_classifiers_", ()))):
        # Adam's moments are twice the size of the network, and of no use to it any more.
        vars(network).pop("_optimizer", None)
    return head, notes, history


def choose_epochs(
    head: Any,
    Z: np.ndarray,
    y: np.ndarray,
    settings: MLPSettings,
    groups: np.ndarray | None = None,
) -> tuple[int, tuple[str, ...], tuple[dict[str, float], ...]]:
    """How many passes serve best on held-out rows: the one with the highest accuracy, ties by log-loss."""
    from sklearn.base import clone
    from sklearn.utils.class_weight import compute_sample_weight

    try:
        train, test = holdout(
            y, groups, SplitSettings(test_size=0.1 if len(y) >= 1_000 else 0.2, seed=settings.seed)
        )
    except DataError:
        epochs = min(settings.max_epochs, 50)
        return epochs, (f"too few images to choose the number of passes on: {epochs} passes",), ()
    model, classes = clone(head), np.unique(y)
    weights = compute_sample_weight("balanced", y[train]) if settings.balanced else None
    truth = np.searchsorted(classes, y[test])
    scored = compute_sample_weight("balanced", y[test]) if settings.balanced else np.ones(len(test))
    Z_train, y_train, Z_test = Z[train], y[train], Z[test]
    history: list[dict[str, float]] = []
    best = 0
    with progress("choosing the number of passes", settings.max_epochs, unit="passes") as shown:
        for epoch in range(settings.max_epochs):
            model.partial_fit(Z_train, y_train, classes=classes, sample_weight=weights)
            proba = model.predict_proba(Z_test)
            if not np.isfinite(proba).all():
                raise TrainingError(
                    "training diverged: probabilities are not numbers; lower the learning rate"
                )
            hit = np.average(proba.argmax(axis=1) == truth, weights=scored)
            loss = -np.average(np.log(proba[np.arange(len(truth)), truth] + 1e-12), weights=scored)
            history.append({"accuracy": float(hit), "log_loss": float(loss)})
            if (hit, -loss) > (history[best]["accuracy"], -history[best]["log_loss"]):
                best = epoch
            shown.update(1)
            if epoch - best >= (settings.patience or settings.max_epochs):
                break
    return (
        best + 1,
        (f"{best + 1} passes, the best of {len(history)} on {len(test):,} held-out images",),
        tuple(history),
    )


def _fit(head: Any, Z: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> None:
    try:
        head.fit(Z, y, sample_weight=weights)
    except (ValueError, FloatingPointError) as error:
        raise TrainingError(f"the head could not be fitted: {error}") from error


def _threads_for(settings: HeadSettings) -> AbstractContextManager[Any]:
    """One thread for the MLP: its steps are so small that threads mostly wait for each other."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1) if isinstance(settings, MLPSettings) else nullcontext()


def _chunks(X: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, CHUNK_VALUES // X.shape[1])
    for start in range(0, len(X), rows):
        yield np.asarray(X[start : start + rows], np.float32)


def _sample(X: np.ndarray, seed: int) -> np.ndarray:
    if len(X) <= SAMPLE_ROWS:
        return np.asarray(X, np.float32)
    rows = np.random.default_rng(seed).choice(len(X), SAMPLE_ROWS, replace=False)
    return np.asarray(X[np.sort(rows)], np.float32)
