"""``fer fit`` as one function: fit a head on one part of the embeddings, measure it on the other, save it."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.classifiers.artifact import read_model
from ferkit.classifiers.embedding import save_embedding_model
from ferkit.classifiers.fit import FittedHead, Progress, fit_head
from ferkit.classifiers.heads import HeadSettings
from ferkit.classifiers.record import ModelArtifact
from ferkit.classifiers.search import SearchSettings, search_head
from ferkit.core.errors import ModelError
from ferkit.core.fingerprint import fingerprint
from ferkit.core.labels import LabelSet
from ferkit.datasets.split import Split, SplitSettings, make_split
from ferkit.embedder.store import EmbeddingStore
from ferkit.embedder.table import EmbeddingTable
from ferkit.evaluation.metrics import Evaluation, evaluate


@dataclass(frozen=True)
class HeldOutFit:
    """A head, and how it did on rows that it never saw."""

    head: FittedHead
    split: Split
    evaluation: Evaluation


def fit_held_out(
    table: EmbeddingTable,
    settings: HeadSettings,
    split_settings: SplitSettings,
    *,
    search: SearchSettings | None = None,
    progress: Progress | None = None,
) -> HeldOutFit:
    """Fit on the training part of ``table`` and evaluate on its test part.

    Args:
        table: labelled embeddings.
        settings: of the head; what a search starts from.
        split_settings: how the parts are drawn, where the data set does not give them.
        search: choose hyper-parameters by cross-validation within the training part first.
        progress: told how far fitting is.

    Raises:
        DataError: the data cannot be split or fitted.
    """
    split = make_split(table.y, table.groups, table.split, split_settings)
    X, y, groups = table.X[split.train], table.y[split.train], table.groups[split.train]
    if search is None:
        head = fit_head(X, y, settings, groups, progress)
    else:
        head = search_head(X, y, settings, search, groups, progress)
    proba = head.predict_proba(table.X[split.test])
    labels = LabelSet.of(head.classes)
    evaluation = evaluate(table.y[split.test], proba, labels, table.groups[split.test], split_settings.seed)
    return HeldOutFit(head, split, evaluation)


def fit_request(
    table: EmbeddingTable,
    store: EmbeddingStore,
    settings: HeadSettings,
    split_settings: SplitSettings,
    search: SearchSettings | None = None,
) -> str:
    """Return the digest of everything that decides what a fit gives: data, embeddings and settings."""
    rows = [table.paths.tolist(), table.y.tolist(), table.split.tolist(), table.groups.tolist()]
    tried = None if search is None else {**dataclasses.asdict(search), "n_jobs": None}
    embeddings = hashlib.sha256(np.ascontiguousarray(table.X).data).hexdigest()
    made = dataclasses.asdict(store.settings)
    return fingerprint(
        [rows, embeddings, made, settings.to_dict(), dataclasses.asdict(split_settings), tried]
    )


def is_fitted(folder: Path, request: str) -> bool:
    """Whether the model in ``folder`` is what :func:`fit_request` asks for.

    Raises:
        ModelError: it is another one.
    """
    try:
        found = read_model(folder).record.data.get("request")
    except ModelError as error:
        raise ModelError(f"{error}; --overwrite replaces it, another --name keeps it") from None
    if found != request:
        raise ModelError(
            f"the model {folder} exists, fitted on other data or with other settings; --overwrite replaces it, "
            "another --name keeps both"
        )
    return True


def save_fit(
    folder: Path,
    fitted: HeldOutFit,
    store: EmbeddingStore,
    table: EmbeddingTable,
    *,
    overwrite: bool,
    request: str = "",
) -> ModelArtifact:
    """Write a fitted head as a model that knows its embeddings, data, split and figures.

    Args:
        folder: ``models/<name>``.
        fitted: what is written.
        store, table: what it was fitted on.
        overwrite: replace a model that is there.
        request: what :func:`fit_request` gave.

    Raises:
        ModelError: the folder may not be written.
    """
    view = store.view()
    settings = store.settings
    names, counts = np.unique(table.y.astype(str), return_counts=True)
    rows = list(zip(table.paths.tolist(), table.y.tolist(), table.split.tolist(), strict=True))
    return save_embedding_model(
        folder,
        fitted.head,
        table.X[fitted.split.train[:256]],
        embedder_settings=settings.embedder,
        embedder_fingerprint=fingerprint(settings.embedder),
        faces=settings.faces,
        weights=Path(view.weights) if view is not None and view.weights else None,
        licence=view.licence if view is not None else "unknown",
        data={
            "embeddings": store.folder.name,
            "root": view.root if view is not None else "",
            "digest": fingerprint(rows),
            **({"request": request} if request else {}),
            "classes": {str(name): int(n) for name, n in zip(names, counts, strict=True)},
        },
        split=fitted.split.describe(),
        metrics=fitted.evaluation.to_dict(),
        overwrite=overwrite,
    )


def load_labelled(store: EmbeddingStore, say: Callable[[str], None]) -> EmbeddingTable:
    """The labelled embeddings of a store; says what is missing from them.

    Raises:
        DataError: there are none.
        StoreDamagedError: a shard is not what was written.
    """
    # Half precision is enough for taps, and the widest of them fit into memory only so.
    table = store.load("float16" if store.settings.dtype == "float16" and store.dim > 2000 else "float32")
    labelled = table.labelled()
    if len(labelled) < len(table):
        say(f"{len(table) - len(labelled)} pictures have no label and are left out")
    view, n_failed = store.view(), len(store.failures())
    n_listed = view.n_samples if view is not None else len(table)
    if n_failed:
        say(f"{n_failed} pictures could not be embedded and are left out; see 'fer embed'")
    if len(table) + n_failed < n_listed:
        say(
            f"only {len(table) + n_failed} of {n_listed} pictures are embedded yet; run 'fer embed' to its end"
        )
    return labelled
