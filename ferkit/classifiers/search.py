"""Choosing a head's hyper-parameters by cross-validation, persons kept whole."""

import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferkit.classifiers.heads import (
    FittedHead,
    HeadSettings,
    SVMSettings,
    build_head,
    fit_classifier,
    fit_features,
    sample_weights,
)
from ferkit.classifiers.out_of_core import fit_rows
from ferkit.core.console import hidden_progress, progress
from ferkit.core.errors import DataError
from ferkit.core.types import check_features
from ferkit.datasets.split import folds
from ferkit.embedder.shards import ShardRows

_GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "logistic": {"C": (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)},
    "mlp": {
        "hidden": ((64,), (128, 64), (256,), (256, 128)),
        "alpha": (1e-3, 0.1, 1.0, 3.0, 10.0),
        "learning_rate": (3e-4, 1e-3),
    },
    "svm": {"C": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0), "gamma": (0.1, 0.3, 1.0, 3.0)},
    "dummy": {},
}
"""What is tried for each kind; the gammas are multiples of ``scale``."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How much is tried.

    Attributes:
        n_candidates: settings drawn from the grid of the head, besides those that the search starts from.
        k: folds.
        rows: images at most that candidates are compared on; a fourth of them sorts out two thirds first.
        n_jobs: candidates at the same time.
        seed: of what is drawn.
    """

    n_candidates: int = 20
    k: int = 3
    rows: int = 12_000
    n_jobs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_candidates < 1 or self.k < 2 or self.rows < 100 or self.n_jobs < 1:
            raise DataError(
                f"expected at least 1 candidate, 2 folds, 100 rows and 1 job, found {self.n_candidates}, "
                f"{self.k}, {self.rows} and {self.n_jobs}"
            )


@dataclass(frozen=True)
class Candidate:
    """Settings and how they did.

    Attributes:
        settings: what was tried.
        accuracy: mean over the folds, with the head's class weights.
        rows: images that it was tried on.
    """

    settings: HeadSettings
    accuracy: float
    rows: int


def search_head(
    X: np.ndarray,
    y: np.ndarray,
    settings: HeadSettings,
    search: SearchSettings | None = None,
    groups: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
) -> FittedHead:
    """Fit a head with the best settings that :func:`compare_settings` finds, on all rows.

    Arguments and errors are those of :func:`ferkit.classifiers.heads.fit_head`.
    """
    start = time.monotonic()
    candidates = compare_settings(X, y, settings, search, groups)
    best = candidates[0]
    fitted = fit_rows(X, y, best.settings, groups, labels)
    changed = [
        f"{name} {value}"
        for name, value in best.settings.to_dict().items()
        if settings.to_dict()[name] != value
    ]
    note = (
        f"of {len(candidates)} settings {', '.join(changed) or 'those given'} did best: "
        f"{best.accuracy:.1%} in cross-validation on {best.rows:,} images"
    )
    return dataclasses.replace(fitted, notes=(note, *fitted.notes), seconds=time.monotonic() - start)


def compare_settings(
    X: np.ndarray,
    y: np.ndarray,
    settings: HeadSettings,
    search: SearchSettings | None = None,
    groups: np.ndarray | None = None,
) -> list[Candidate]:
    """Candidates, the best first: successive halving (Jamieson & Talwalkar, 2016) in two rounds.

    Scaling and principal components, which do not see labels, are fitted once on the rows compared.

    Raises:
        DataError: NaN, or labels that cannot be cross-validated.
    """
    search = search or SearchSettings()
    if not isinstance(X, ShardRows):
        check_features(X)
    y = np.asarray(y).astype(str)
    n = len(y)
    rows = _sample(y, search.rows, search.seed)
    X, y, groups = np.asarray(X[rows], np.float32), y[rows], None if groups is None else groups[rows]
    steps = [step for step in build_head(settings, *X.shape)[0].steps[:-1] if step[0] != "kernel"]
    Z = fit_features(steps, X, settings)
    tried = _draw(settings, search, _scale(Z))
    few = _sample(y, max(len(y) // 4, 2_000), search.seed)
    if len(few) < len(y) and len(tried) > 3:
        some_groups = None if groups is None else groups[few]
        screened = _evaluate(tried, n, Z[few], y[few], some_groups, search, "screening")
        n_kept = max(3, -(-len(screened) // 3))
        kept = [candidate.settings for candidate in screened[:n_kept]]
        return _evaluate(kept, n, Z, y, groups, search, "comparing") + screened[n_kept:]
    return _evaluate(tried, n, Z, y, groups, search, "comparing")


def _evaluate(
    tried: list[HeadSettings],
    n: int,
    Z: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None,
    search: SearchSettings,
    doing: str,
) -> list[Candidate]:
    from joblib import Parallel, delayed

    parts = folds(y, groups, search.k, search.seed)
    run: Callable[..., Any] = delayed(_score)
    jobs = [
        run(i, _as_for(settings, n), Z, y, groups, train, test)
        for i, settings in enumerate(tried)
        for train, test in parts
    ]
    scores: list[list[float]] = [[] for _ in tried]
    results = Parallel(n_jobs=search.n_jobs, return_as="generator_unordered")(jobs)
    with progress(f"{doing} {len(tried)} settings", len(jobs), unit="fits") as shown:
        for i, score in results:
            scores[i].append(score)
            shown.update(1)
    candidates = [Candidate(s, float(np.mean(one)), len(y)) for s, one in zip(tried, scores, strict=True)]
    return sorted(candidates, key=lambda candidate: -candidate.accuracy)


def _score(
    i: int,
    settings: HeadSettings,
    Z: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None,
    train: np.ndarray,
    test: np.ndarray,
) -> tuple[int, float]:
    from sklearn.metrics import accuracy_score

    # The features are reduced already, and a decision needs no calibration.
    plain = dataclasses.replace(settings, pca=None, calibration="none")
    X_train, X_test = Z[train], Z[test]
    with warnings.catch_warnings(), hidden_progress():
        warnings.simplefilter("ignore")
        (_, *kernel, (_, head)) = build_head(plain, *X_train.shape)[0].steps
        for _, step in kernel:
            step.set_params(gamma=step.gamma or _scale(Z))
            X_train, X_test = step.fit(X_train).transform(X_train), step.transform(X_test)
        inner = None if groups is None else groups[train]
        head = fit_classifier(head, X_train, y[train], plain, inner)[0]
    weights = sample_weights(settings, y[test], np.unique(y))
    return i, float(accuracy_score(y[test], head.predict(X_test), sample_weight=weights))


def _draw(settings: HeadSettings, search: SearchSettings, gamma_scale: float) -> list[HeadSettings]:
    grid = _GRIDS[settings.kind]
    combinations = list(itertools.product(*grid.values()))
    order = np.random.default_rng(search.seed).permutation(len(combinations))[: search.n_candidates]
    tried = [settings]
    for i in order:
        values: dict[str, Any] = dict(zip(grid, combinations[i], strict=True))
        if "gamma" in values:
            values["gamma"] = "scale" if values["gamma"] == 1.0 else values["gamma"] * gamma_scale
        candidate = dataclasses.replace(settings, **values)
        if candidate not in tried:
            tried.append(candidate)
    return tried


def _as_for(settings: HeadSettings, n: int) -> HeadSettings:
    """The settings with the kernel that ``n`` images get, exact or approximated, also on a sample of them."""
    if isinstance(settings, SVMSettings):
        return dataclasses.replace(settings, exact_rows=0 if n > settings.exact_rows else n)
    return settings


def _scale(Z: np.ndarray) -> float:
    return float(1 / (Z.shape[1] * Z.var()))


def _sample(y: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most ``n`` row numbers, ascending, at least four of each class that has so many."""
    if len(y) <= n:
        return np.arange(len(y))
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(y == cls)) for cls in np.unique(y)]
    share = n / len(y)
    return np.sort(np.concatenate([rows[: max(4, round(share * len(rows)))] for rows in chosen]))
