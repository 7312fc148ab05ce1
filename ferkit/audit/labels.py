"""Labels that are probably wrong: confident learning on predictions for pictures that were not trained on."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ferkit.audit.findings import Action, Finding
from ferkit.classifiers.fit import fit_classifier, fit_features
from ferkit.classifiers.heads import HeadSettings, LogisticSettings, MLPSettings, build_head
from ferkit.core.errors import DataError, DependencyError
from ferkit.core.fingerprint import fingerprint
from ferkit.core.progress import Progress
from ferkit.datasets.kept import kept
from ferkit.datasets.split import folds
from ferkit.embedder.table import EmbeddingTable

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """How wrong labels are looked for.

    Attributes:
        head: what predicts the labels from the embeddings.
        folds: each picture is predicted by a head that was fitted on the other folds.
        epochs: of the MLP; more of them learn wrong labels by heart.
        seed: of the folds and the head.
    """

    head: Literal["logistic", "mlp"] = "logistic"
    folds: int = 5
    epochs: int = 15
    seed: int = 0

    def head_settings(self) -> HeadSettings:
        """The head; its few passes are fixed, since choosing them would need clean labels."""
        if self.head == "mlp":
            return MLPSettings(patience=None, max_epochs=self.epochs, seed=self.seed)
        return LogisticSettings(seed=self.seed)


@dataclass(frozen=True)
class Doubts:
    """How far each label is to be believed.

    Attributes:
        classes: (k,) str, sorted.
        proba: float32 (n, k), predicted for each picture by a head that has not seen it, nor a copy or another
            picture of the same person.
        quality: float32 (n,), 0 surely wrong .. 1 right.
        issue: bool (n,), what confident learning calls wrong.
    """

    classes: np.ndarray
    proba: np.ndarray
    quality: np.ndarray
    issue: np.ndarray


def doubt(
    table: EmbeddingTable,
    apart: Sequence[str | None],
    settings: LabelSettings,
    cache_dir: Path | None = None,
    *,
    progress: Progress,
) -> Doubts:
    """Predict each label out of fold, and rank the labels by how little they fit.

    Ranking is by the probability of the given label: of cleanlab's scores the one that finds most labels flipped
    at random on FER2013. How many at the top of the list count as issues is estimated by confident learning
    (Northcutt, Jiang & Chuang, 2021) from how often each class is mistaken for each other.

    Args:
        table: labelled embeddings.
        apart: (n,) rows of one name are kept in one fold; None stands alone.
        settings: of the head and the folds.
        cache_dir: where predictions are kept, in ``predictions/``; None keeps nothing.
        progress: is told of every fold.

    Raises:
        DependencyError: cleanlab is not installed.
        DataError: fewer than two classes, or a class with one picture.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        raise DependencyError(
            "wrong labels are found with cleanlab, which is not installed; pip install 'ferkit[audit]'"
        ) from None
    y = np.array([str(label) for label in table.y])
    classes, given = np.unique(y, return_inverse=True)
    proba = _predictions(table, y, apart, settings, cache_dir, progress)
    quality = get_label_quality_scores(given, proba, method="self_confidence")
    # One process: cleanlab's own would copy the predictions, and it takes seconds for a million rows.
    issue = find_label_issues(given, proba, filter_by="low_self_confidence", n_jobs=1)
    return Doubts(classes, proba, quality.astype(np.float32), np.asarray(issue, bool))


def label_findings(table: EmbeddingTable, rows: np.ndarray, doubts: Doubts) -> list[Finding]:
    """One finding for each label that confident learning calls wrong, the likeliest first.

    Args:
        table: labelled embeddings.
        rows: the row in the data set of each.
        doubts: of :func:`doubt`.
    """
    place = {name: i for i, name in enumerate(doubts.classes)}
    best = doubts.proba.argmax(axis=1)
    findings = []
    for i in np.flatnonzero(doubts.issue):
        given = place[str(table.y[i])]
        if best[i] == given:
            continue
        label = str(doubts.classes[best[i]])
        facts: dict[str, str | float] = {
            "predicted": label,
            "probability": float(doubts.proba[i, best[i]]),
            "of_given": float(doubts.proba[i, given]),
        }
        severity = float(1 - doubts.quality[i])
        findings.append(Finding("wrong_label", (int(rows[i]),), severity, (Action("relabel", label),), facts))
    return findings


def _predictions(
    table: EmbeddingTable,
    y: np.ndarray,
    apart: Sequence[str | None],
    settings: LabelSettings,
    cache_dir: Path | None,
    progress: Progress,
) -> np.ndarray:
    """float32 (n, k), from the cache or made now."""
    names = np.array(list(apart), object)
    file = None
    if cache_dir is not None:
        # Embeddings are long; their sums tell a changed one as well as all their digits would.
        sums = [
            float(table.X[start : start + 4096].astype(np.float64).sum()) for start in range(0, len(y), 4096)
        ]
        key = fingerprint(
            [_FORMAT, settings, table.X.shape, sums, table.paths.tolist(), y.tolist(), names.tolist()]
        )
        file = cache_dir / "predictions" / f"{key[:32]}.npz"
    shape = len(y), len(np.unique(y))
    made, _ = kept(
        file,
        lambda: {"proba": _predict(table.X, y, names, settings, progress)},
        lambda known: known["proba"].shape == shape and bool(np.isfinite(known["proba"]).all()),
    )
    return made["proba"]


def _predict(
    X: np.ndarray, y: np.ndarray, apart: np.ndarray, settings: LabelSettings, progress: Progress
) -> np.ndarray:
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise DataError(
            f"wrong labels are found among two or more classes with two or more pictures each, found "
            f"{dict(Counter(y.tolist()))}; leave rare classes out"
        )
    head_settings = settings.head_settings()
    pipeline, _ = build_head(head_settings, len(X), X.shape[1])
    # Scaling and principal components know nothing of labels, and are the same for all folds.
    Z = fit_features(pipeline.steps[:-1], X, head_settings)
    parts = folds(y, apart, settings.folds, settings.seed)
    proba = np.zeros((len(y), len(classes)), np.float32)
    progress.start(total=len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the passes are few on purpose
        for train, test in parts:
            head: Any = clone(pipeline.steps[-1][1])
            head, _, _ = fit_classifier(head, Z[train], y[train], head_settings, apart[train])
            proba[test] = head.predict_proba(Z[test])
            progress.update(len(test))
    progress.close()
    return proba
