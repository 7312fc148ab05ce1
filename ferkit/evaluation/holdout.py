"""``fer fit`` as one function: fit a head on one part of the embeddings, measure it on the other, save it."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.embedding import save_embedding_model
from ferkit.classifiers.fit import FittedHead, fit_head
from ferkit.classifiers.heads import HeadSettings
from ferkit.classifiers.model import Model
from ferkit.classifiers.search import SearchSettings, search_head
from ferkit.core.fingerprint import fingerprint, plain
from ferkit.core.labels import LabelSet
from ferkit.datasets.split import Split, SplitSettings, make_split
from ferkit.embedder.store import EmbeddingStore
from ferkit.embedder.table import EmbeddingTable
from ferkit.evaluation.metrics import Evaluation, evaluate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOutFit:
    """A head, how it did on rows that it never saw, and what was asked for."""

    head: FittedHead
    split: Split
    evaluation: Evaluation
    asked: dict[str, Any]


def fit_held_out(
    table: EmbeddingTable,
    settings: HeadSettings,
    split_settings: SplitSettings,
    *,
    search: SearchSettings | None = None,
) -> HeldOutFit:
    """Fit on the training part of ``table`` and evaluate on its test part.

    Args:
        table: labelled embeddings.
        settings: of the head; what a search starts from.
        split_settings: how the parts are drawn, where the data set does not give them.
        search: choose hyper-parameters by cross-validation within the training part first.

    Raises:
        DataError: the data cannot be split or fitted.
    """
    split = make_split(table.y, table.groups, table.split, split_settings)
    X, y, groups = table.X[split.train], table.y[split.train], table.groups[split.train]
    head = fit_head(X, y, settings, groups) if search is None else search_head(X, y, settings, search, groups)
    proba = head.predict_proba(table.X[split.test])
    labels = LabelSet.of(head.classes)
    evaluation = evaluate(table.y[split.test], proba, labels, table.groups[split.test], split_settings.seed)
    return HeldOutFit(head, split, evaluation, _asked(table, settings, split_settings, search))


def save_fit(
    folder: Path, fitted: HeldOutFit, store: EmbeddingStore, table: EmbeddingTable, *, overwrite: bool
) -> Model:
    """Write a fitted head as a model that knows its embeddings, data, split and figures.

    Raises:
        ModelError: the folder may not be written.
    """
    view = store.view()
    settings = store.settings
    names, counts = np.unique(table.y.astype(str), return_counts=True)
    return save_embedding_model(
        folder,
        fitted.head,
        table.X[fitted.split.train[:256]],
        embedder_settings=settings.embedder,
        embedder_fingerprint=fingerprint(settings.embedder),
        faces=settings.faces,
        crops=view.crops if view is not None else None,
        asked=fitted.asked,
        weights=Path(view.weights) if view is not None and view.weights else None,
        licence=view.licence if view is not None else "unknown",
        data={
            "embeddings": store.folder.name,
            "root": view.root if view is not None else "",
            "digest": rows_digest(table),
            "classes": {str(name): int(n) for name, n in zip(names, counts, strict=True)},
        },
        split=fitted.split.describe(),
        metrics=fitted.evaluation.to_dict(),
        overwrite=overwrite,
    )


def is_unchanged(
    model: Model,
    store: EmbeddingStore,
    table: EmbeddingTable,
    settings: HeadSettings,
    split_settings: SplitSettings,
    search: SearchSettings | None = None,
) -> bool:
    """Whether fitting with these settings would make a model anew that is there."""
    record, parts = model.record, model.record.parts
    if model.kind != "embedding" or parts["embedder"]["fingerprint"] != fingerprint(store.settings.embedder):
        return False
    if record.faces != plain(store.settings.faces) or record.data.get("digest") != rows_digest(table):
        return False
    if parts.get("asked") is not None:
        return bool(parts["asked"] == plain(_asked(table, settings, split_settings, search)))
    # Version 0.1 kept what it used, but neither whether that was searched for nor the images' digests.
    same_split = record.split.get("settings") in (None, plain(split_settings))
    return search is None and same_split and parts["head"]["settings"] == settings.to_dict()


def rows_digest(table: EmbeddingTable) -> str:
    """Of what each row is called, shows and is for."""
    rows = zip(table.paths.tolist(), table.y.tolist(), table.split.tolist(), strict=True)
    return fingerprint(list(rows))


def _asked(
    table: EmbeddingTable, settings: HeadSettings, split: SplitSettings, search: SearchSettings | None
) -> dict[str, Any]:
    return {
        "content": None if table.sha256 is None else fingerprint(table.sha256.tolist()),
        "head": settings.to_dict(),
        "split": asdict(split),
        "search": None if search is None else asdict(search),
    }


def load_labelled(store: EmbeddingStore) -> EmbeddingTable:
    """The labelled embeddings of a store; logs what is missing from them.

    Raises:
        DataError: there are none.
        StoreDamagedError: a shard is not what was written.
    """
    # Half precision is enough for taps, and the widest of them fit into memory only so.
    table = store.load("float16" if store.settings.dtype == "float16" and store.dim > 2000 else "float32")
    labelled = table.labelled()
    if len(labelled) < len(table):
        logger.info(f"{len(table) - len(labelled)} pictures have no label and are left out")
    view, n_failed = store.view(), len(store.failures())
    n_listed = view.n_samples if view is not None else len(table)
    if n_failed:
        logger.info(f"{n_failed} pictures could not be embedded and are left out; see 'fer embed'")
    if len(table) + n_failed < n_listed:
        logger.info(
            f"only {len(table) + n_failed} of {n_listed} pictures are embedded yet; run 'fer embed' to its end"
        )
    return labelled
