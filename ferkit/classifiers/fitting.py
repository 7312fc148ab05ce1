"""Fit heads: on rows that need not fit into memory, and with the best of several settings."""

import copy
import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferkit.classifiers.heads import (
    CHUNK_VALUES,
    SAMPLE_ROWS,
    FittedHead,
    HeadSettings,
    LogisticSettings,
    MLPSettings,
    SVMSettings,
    build_head,
    by_accuracy,
    fit_classifier,
    fit_features,
    fit_head,
    look,
    numbers_of,
    rename_classes,
    sample_weights,
    usual_gamma,
    widest,
)
from ferkit.core.console import hidden_progress, progress
from ferkit.core.errors import DataError
from ferkit.core.types import check_features
from ferkit.datasets.split import check_classes, folds
from ferkit.embedder.shards import ShardRows

BLOCK_ROWS = 256
"""Rows that are read together: few enough that a chunk has rows of all classes, which lie one after the other."""
CHUNK_ROWS = 65_536
"""Rows of a chunk at most: blocks from all over the data, shuffled."""
PCA_ROWS = 200_000
"""Rows at most that principal components are computed from."""
HELD_OUT = 20_000
"""Rows at most that decide how long is trained."""
CHECK_ROWS = 1_000_000
"""So many rows, or all where they are fewer, lie between two looks at the rows held out."""


def fit_rows(
    X: "np.ndarray | ShardRows",
    y: np.ndarray,
    settings: HeadSettings,
    groups: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
) -> FittedHead:
    """Fit a head on all rows, in memory or, where they stay on the disk, out of core.

    So few rows as an exact SVM takes are read: landmarks would lose points, and memory is bounded.

    Raises:
        DataError, TrainingError: see :func:`ferkit.classifiers.heads.fit_head`.
    """
    if isinstance(X, np.ndarray) or (isinstance(settings, SVMSettings) and len(X) <= settings.exact_rows):
        return fit_head(np.asarray(X), y, settings, groups, labels)
    return _OutOfCoreFit(X, y, settings, groups, labels).fitted()


class _OutOfCoreFit:
    """Fits a head in a few passes over the disk, in flat memory.

    Scaling and principal components are computed incrementally, the heads by mini-batches of rows drawn from all over
    the data. What is fitted has the same form as in memory: a multinomial logistic regression, a small network, or the
    logistic regression on the landmarks of a kernel.
    """

    def __init__(
        self,
        X: ShardRows,
        y: np.ndarray,
        settings: HeadSettings,
        groups: np.ndarray | None,
        labels: Sequence[str] | None,
    ) -> None:
        if settings.calibration not in ("auto", "none"):
            raise DataError(
                f"{settings.calibration} calibration needs the embeddings in memory; leave calibration out"
            )
        self.classes = np.array(sorted(set(map(str, y))))
        if labels is not None:
            if set(labels) != set(self.classes):
                raise DataError(
                    f"expected images of just the classes {', '.join(labels)}, found some of {', '.join(self.classes)}"
                )
            self.classes = np.array(labels)
        number = {name: i for i, name in enumerate(self.classes)}
        self.codes = np.fromiter((number[str(name)] for name in y), np.int32, len(y))
        check_classes(self.classes, self.codes, "a head")
        self.X, self.settings = X, settings
        self.weights = numbers_of(settings.class_weights, self.codes, [str(name) for name in self.classes])
        self.rng = np.random.default_rng(settings.seed)
        self.held_out = self._draw_held_out(groups)

    def _draw_held_out(self, groups: np.ndarray | None) -> np.ndarray:
        """Mask of the rows that decide how long is trained: whole persons, where persons are known."""
        n = len(self.X)
        person = np.arange(n, dtype=np.int32)
        if groups is not None:
            number: dict[Any, int] = {None: -1}
            codes = np.fromiter((number.setdefault(g, n + len(number)) for g in groups), np.int32, n)
            np.copyto(person, codes, where=codes >= 0)
        mask: np.ndarray = (self.rng.random(int(person.max()) + 1) < min(0.1, HELD_OUT / n))[person]
        for part in (self.codes[mask], self.codes[~mask]):
            if not np.bincount(part, minlength=len(self.classes)).all():
                return np.zeros(n, bool)
        return mask

    def fitted(self) -> FittedHead:
        start, settings = time.monotonic(), self.settings
        n, d = self.X.shape
        if isinstance(settings, SVMSettings):
            settings = dataclasses.replace(settings, exact_rows=0)
        pipeline, notes = build_head(settings, n, d)
        head = pipeline.steps[-1][1]
        self.at_once = _rows_of(widest(pipeline.steps, d))
        self.steps = [step for _, step in pipeline.steps[:-1]]
        self._fit_steps(dict(pipeline.steps[:-1]))
        history: list[dict[str, float]] = []
        if isinstance(settings, MLPSettings):
            patience = settings.patience or settings.max_epochs
            head, history = self._train(head, settings.max_epochs, patience)
        elif isinstance(settings, (LogisticSettings, SVMSettings)):
            head, history = self._train_logistic(head, settings.C)
        else:
            head.fit(np.zeros((n, 1), np.int8), self.codes)
        rename_classes(head, [str(name) for name in self.classes])
        pipeline.steps[-1] = ("head", head)
        notes += (
            f"fitted out of core: {n:,} rows of {d} numbers stay on the disk"
            + (f", {len(history)} looks at {int(self.held_out.sum()):,} rows held out" if history else ""),
        )
        return FittedHead(pipeline, self.settings, d, notes, time.monotonic() - start, tuple(history))

    def _fit_steps(self, steps: dict[str, Any]) -> None:
        for start in range(0, len(self.X), self.at_once):
            chunk = np.asarray(self.X[start : start + self.at_once], np.float32)
            steps["scaler"].partial_fit(check_features(chunk))
        if "pca" in steps:
            self._fit_pca(steps["pca"])
        if (kernel := steps.get("kernel")) is not None:
            Z = self._before(kernel, self._some(SAMPLE_ROWS))
            if kernel.gamma is None:
                kernel.set_params(gamma=usual_gamma(Z))
            kernel.fit(Z)

    def _fit_pca(self, pca: Any) -> None:
        """Fit it incrementally; it keeps the class that saved models may have."""
        from sklearn.decomposition import IncrementalPCA

        rows = self._some(PCA_ROWS)
        incremental = IncrementalPCA(pca.n_components)
        n_batches = max(1, min(len(rows) // (2 * pca.n_components), -(-len(rows) // self.at_once)))
        for part in np.array_split(self.rng.permutation(rows), n_batches):
            incremental.partial_fit(self._before(pca, np.sort(part)))
        for name, value in vars(incremental).items():
            if name.endswith("_") and name not in ("batch_size_", "var_", "n_samples_seen_"):
                setattr(pca, name, value)
        pca.n_samples_, pca._fit_svd_solver = len(rows), "randomized"

    def _some(self, most: int) -> np.ndarray:
        """Row numbers, ascending, at most so many."""
        n = len(self.X)
        return np.arange(n) if n <= most else np.sort(self.rng.choice(n, most, replace=False))

    def _before(self, step: Any, rows: np.ndarray) -> np.ndarray:
        """What the steps before ``step``, or all, make of rows."""
        steps = self.steps if step is None else self.steps[: self.steps.index(step)]
        made = np.empty((0, 0), np.float32)
        for start in range(0, len(rows), self.at_once):
            Z = np.asarray(self.X[rows[start : start + self.at_once]], np.float32)
            for one in steps:
                Z = one.transform(Z)
            if not start:
                made = np.empty((len(rows), Z.shape[1]), np.float32)
            made[start : start + len(Z)] = Z
        return made

    def _batches(self, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pass over the rows not held out, in chunks of at most ``most`` rows: what the head sees, and its classes."""
        blocks = self.rng.permutation(-(-len(self.X) // BLOCK_ROWS))
        seen = next((one.n_components for one in self.steps[:0:-1]), self.X.shape[1])
        per_chunk = max(1, min(most, _rows_of(seen)) // BLOCK_ROWS)
        for first in range(0, len(blocks), per_chunk):
            starts = np.sort(blocks[first : first + per_chunk]) * BLOCK_ROWS
            rows = (starts[:, None] + np.arange(BLOCK_ROWS)).reshape(-1)
            rows = rows[rows < len(self.X)]
            rows = rows[~self.held_out[rows]]
            if len(rows):
                yield self._before(None, rows), self.codes[rows]

    def _train(
        self, head: Any, most: int, patience: int, *, averaged: bool = False
    ) -> tuple[Any, list[dict[str, float]]]:
        """Train a network by mini-batches until the rows held out gain no more; the best one counts.

        Args:
            head: with ``partial_fit``.
            most: looks at most.
            patience: looks without a gain before it ends.
            averaged: take the mean of the weights of the second half of the looks (Polyak & Juditsky, 1992).
        """
        from threadpoolctl import threadpool_limits

        test = np.flatnonzero(self.held_out)
        Z_test, truth = self._before(None, test), self.codes[test]
        scored = None if self.weights is None else self.weights[truth]
        numbers = np.arange(len(self.classes))  # scikit-learn would sort names
        history: list[dict[str, float]] = []
        kept: list[list[np.ndarray]] = []
        best, model, seen, better = 0, head, 0, _by_loss if averaged else by_accuracy
        most = most if len(test) else min(most, 20)
        # The steps of a network are so small that threads mostly wait for each other.
        with progress("fitting", most, unit="looks") as shown, threadpool_limits(1):
            while len(history) < most and len(history) - 1 - best < patience:
                for Z, codes in self._batches(CHECK_ROWS):
                    weight = None if self.weights is None else self.weights[codes]
                    head.partial_fit(Z, codes, classes=numbers, sample_weight=weight)
                    seen += len(Z)
                    del Z  # before the next are made
                    if seen < min(CHECK_ROWS, len(self.X) - len(test)):
                        continue
                    seen = 0
                    looked = head
                    if averaged:
                        kept.append([array.copy() for array in (*head.coefs_, *head.intercepts_)])
                        looked = _mean_of(head, kept)
                    history.append(look(looked, Z_test, truth, scored) if len(test) else {})
                    if len(history) == 1 or not len(test) or better(history[-1]) > better(history[best]):
                        best, model = len(history) - 1, copy.deepcopy(looked)
                    shown.update(1)
                    if len(history) >= most or len(history) - 1 - best >= patience:
                        break
        vars(model).pop("_optimizer", None)
        return model, history if len(test) else []

    def _train_logistic(self, head: Any, C: float) -> tuple[Any, list[dict[str, float]]]:
        """A multinomial logistic regression as a network without hidden layer, which takes mini-batches."""
        from sklearn.neural_network import MLPClassifier

        n = len(self.X) - int(self.held_out.sum())
        batch = int(np.clip(n // 200, 50, 1_000))
        network = MLPClassifier(
            (), alpha=batch / (C * n), batch_size=min(batch, n), learning_rate_init=3e-3,
            random_state=self.settings.seed,
        )  # fmt: skip
        trained, history = self._train(network, 40, 4, averaged=True)
        head.classes_, head.n_features_in_ = self.classes, trained.coefs_[0].shape[0]
        head.coef_ = trained.coefs_[0].T.astype(np.float64)
        head.intercept_ = trained.intercepts_[0].astype(np.float64)
        head.n_iter_ = np.array([max(1, len(history))], np.int32)
        return head, history


def _rows_of(width: int) -> int:
    """How many rows of so many numbers are held at a time."""
    return max(BLOCK_ROWS, min(CHUNK_ROWS, CHUNK_VALUES // width))


def _by_loss(found: dict[str, float]) -> tuple[float, float]:
    return -found["log_loss"], 0.0


def _mean_of(head: Any, kept: list[list[np.ndarray]]) -> Any:
    """A copy of a network with the mean of the weights of the second half of the looks."""
    mean = [np.mean(arrays, axis=0) for arrays in zip(*kept[len(kept) // 2 :], strict=True)]
    averaged = copy.copy(head)
    averaged.coefs_, averaged.intercepts_ = mean[: len(head.coefs_)], mean[len(head.coefs_) :]
    return averaged


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
    tried = _draw(settings, search, usual_gamma(Z))
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
            step.set_params(gamma=step.gamma or usual_gamma(Z))
            X_train, X_test = step.fit(X_train).transform(X_train), step.transform(X_test)
        inner = None if groups is None else groups[train]
        head = fit_classifier(head, X_train, y[train], plain, inner)[0]
    weights = sample_weights(settings, y[test], np.unique(y))
    return i, float(accuracy_score(y[test], head.predict(X_test), sample_weight=weights))


def _draw(settings: HeadSettings, search: SearchSettings, gamma: float) -> list[HeadSettings]:
    grid = _GRIDS[settings.kind]
    combinations = list(itertools.product(*grid.values()))
    order = np.random.default_rng(search.seed).permutation(len(combinations))[: search.n_candidates]
    tried = [settings]
    for i in order:
        values: dict[str, Any] = dict(zip(grid, combinations[i], strict=True))
        if "gamma" in values:
            values["gamma"] = "scale" if values["gamma"] == 1.0 else values["gamma"] * gamma
        candidate = dataclasses.replace(settings, **values)
        if candidate not in tried:
            tried.append(candidate)
    return tried


def _as_for(settings: HeadSettings, n: int) -> HeadSettings:
    """The settings with the kernel that ``n`` images get, exact or approximated, also on a sample of them."""
    if isinstance(settings, SVMSettings):
        return dataclasses.replace(settings, exact_rows=0 if n > settings.exact_rows else n)
    return settings


def _sample(y: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most ``n`` row numbers, ascending, at least four of each class that has so many."""
    if len(y) <= n:
        return np.arange(len(y))
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(y == cls)) for cls in np.unique(y)]
    share = n / len(y)
    return np.sort(np.concatenate([rows[: max(4, round(share * len(rows)))] for rows in chosen]))
