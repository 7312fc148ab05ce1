"""Evaluate one model on labelled images."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ferkit.classifiers.fitting import SearchSettings, fit_rows, search_head
from ferkit.classifiers.heads import FittedHead, HeadSettings
from ferkit.classifiers.kinds import save_embedding_model
from ferkit.classifiers.model import TRAINING_IMAGES, Model, read_model
from ferkit.core.console import free_memory, progress
from ferkit.core.errors import DataError, FerkitError, ModelError
from ferkit.core.files import canonical_json, fingerprint
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier
from ferkit.core.weights import EDITIONS
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.leakage import NEAR_AT_MOST, TrainingCopies, image_key, image_keys, training_copies
from ferkit.datasets.load import load_dataset
from ferkit.datasets.split import Split, SplitSettings, make_split
from ferkit.embedder.store import EmbeddingStore, EmbeddingTable, Snapshot
from ferkit.evaluation.candidates import history_of, size_mb_of, trained_on
from ferkit.evaluation.comparison import (
    CandidateResult,
    Comparison,
    Costs,
    DataUsed,
    Kind,
    ProtocolSettings,
    RepeatResult,
    SplitRows,
    circumstances,
)
from ferkit.evaluation.metrics import Evaluation, evaluate
from ferkit.evaluation.report.page import write_comparison, write_report
from ferkit.evaluation.shared_inputs import attribute_columns, milliseconds
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.reading import apply_network, read_crops, some_crops


@dataclass(frozen=True)
class Scores:
    """Probabilities of the images that could be read.

    Attributes:
        samples: the images, ``m`` of them.
        proba: float32 (m, k), columns in the order of the classifier's labels.
        failures: path and reason of the others.
        sha256: (m,) of each image's content; None where it is not known.
    """

    samples: tuple[Sample, ...]
    proba: np.ndarray
    failures: tuple[tuple[str, str], ...]
    sha256: tuple[str | None, ...] = ()

    @property
    def y_true(self) -> np.ndarray:
        """(m,) str objects, class names."""
        return np.array([sample.label for sample in self.samples], object)

    @property
    def groups(self) -> np.ndarray:
        """(m,) str objects, who is shown; None where unknown."""
        return np.array([sample.group for sample in self.samples], object)


def score(
    dataset: Dataset,
    classifier: ExpressionClassifier,
    cropper: FaceCropper,
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> Scores:
    """Probabilities of every image, the largest face of each.

    Raises:
        DataError: no image could be read.
    """
    rows: list[tuple[Sample, np.ndarray, str | None]] = []
    failures: list[tuple[str, str]] = []
    images = read_crops(dataset.source, dataset.samples, cropper, batch_size=batch_size, workers=workers)
    scored = apply_network(images, classifier.predict_proba, len(classifier.labels), batch_size)
    with progress("evaluating", len(dataset)) as shown:
        for image, proba in scored:
            if image.error is None:
                rows.append((image.sample, proba, image.sha256))
            else:
                failures.append((image.sample.path, image.error))
            shown.update(1, failures=image.error is not None)
    if not rows:
        raise DataError(
            f"none of the {len(dataset)} images could be read; the first: {': '.join(failures[0])}"
        )
    samples, every, digests = zip(*rows, strict=True)
    return Scores(samples, np.concatenate(every), tuple(failures), digests)


def labelled_part(dataset: Dataset, split: str = "auto") -> Dataset:
    """The labelled images of one split; ``auto`` takes ``test`` where there is one, or else all.

    Raises:
        DataError: there are none.
    """
    found = {sample.split for sample in dataset.samples}
    if split == "auto":
        split = "test" if "test" in found else "all"
    keep = [s for s in dataset.samples if s.label is not None and split in ("all", s.split)]
    if not keep:
        names = f"splits: {', '.join(sorted(name or 'none' for name in found))}" if any(found) else "none"
        raise DataError(f"expected labelled images of the split {split!r} in {dataset.root}, found {names}")
    return dataset.subset(keep)


def in_words_of(labels: LabelSet, y: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Class names of other data in the classifier's own words: ``happiness`` becomes ``happy``, ``기쁨`` too.

    Returns:
        The names (n,), unchanged where the classifier has no such class, and what became what.
    """
    names = sorted(set(y))
    known = LabelSet.from_names(names).map_to(labels).labels(names)
    changed = {name: own for name, own in zip(names, known, strict=True) if own not in (None, name)}
    return np.array([changed.get(name, name) for name in y], object), changed


logger = logging.getLogger(__name__)

_HASHED_ROWS = 65_536


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
    store: EmbeddingStore | None = None,
    labels: LabelSet | None = None,
) -> HeldOutFit:
    """Fit on the training part of ``table`` and evaluate on its test part.

    Args:
        table: labelled embeddings.
        settings: of the head; what a search starts from.
        split_settings: how the parts are drawn, where the data set does not give them.
        search: choose hyper-parameters by cross-validation within the training part first.
        store: where ``table`` is from, to look for copies of training images among those of the test part.
        labels: the classes in the order of the probabilities; None sorts them.

    Raises:
        DataError: the data cannot be split or fitted.
    """
    split = make_split(table.y, table.groups, table.split, split_settings)
    X, y, groups = table.X[split.train], table.y[split.train], table.groups[split.train]
    names = None if labels is None else labels.names
    if search is None:
        head = fit_rows(X, y, settings, groups, names)
    else:
        head = search_head(X, y, settings, search, groups, names)
    proba = head.predict_proba(table.X[split.test])
    found = LabelSet.from_names(head.classes)
    evaluation = evaluate(table.y[split.test], proba, found, table.groups[split.test], split_settings.seed)
    if store is not None:
        evaluation = replace(evaluation, copies=_copies_in_fit(table, split, store))
    return HeldOutFit(head, split, evaluation)


def _copies_in_fit(table: EmbeddingTable, split: Split, store: EmbeddingStore) -> TrainingCopies:
    view, keys = store.view(), _keys(table)
    data = None if view is None or len(table) > NEAR_AT_MOST else _at_hand(view.root)
    train, test = (_of_paths(data, table.paths[part]) for part in (split.train, split.test))
    bundled = store.settings.embedder.backbone in EDITIONS
    cache_dir = store.folder.parent
    return training_copies(
        keys[split.train], keys[split.test], train, test, bundled=bundled, cache_dir=cache_dir
    )


def _keys(table: EmbeddingTable) -> np.ndarray:
    return np.zeros(len(table), np.uint64) if table.keys is None else table.keys


def copies_of_training(model: Model, scores: Scores, dataset: Dataset) -> TrainingCopies:
    """Count the images in ``scores`` that are copies of those that a model was trained on.

    Args:
        model: whose training images are known by the keys in its folder, or, without, by its record.
        scores: of the images that were tested.
        dataset: where these are from.
    """
    keys = [np.load(file, allow_pickle=False) for file in sorted(model.folder.rglob(TRAINING_IMAGES))]
    trained = np.concatenate(keys) if keys else None
    root = str(model.record.data.get("root", ""))
    data = dataset if str(dataset.root.resolve()) == root else _at_hand(root)
    train = None if trained is None or data is None else _of_keys(data, trained)
    embedder = model.record.parts.get("embedder", {}).get("settings", {})
    return training_copies(
        trained,
        image_keys(scores.sha256),
        train,
        dataset.subset(scores.samples),
        bundled=not {model.name, embedder.get("backbone")}.isdisjoint(EDITIONS),
    )


def _at_hand(root: str) -> Dataset | None:
    try:
        return load_dataset(root) if root else None
    except FerkitError:
        return None


def _of_keys(dataset: Dataset, keys: np.ndarray) -> Dataset | None:
    """The samples of these contents; None where none is there any more, or it would take too long to see."""
    if len(dataset) > NEAR_AT_MOST:
        return None
    kept, known = [], set(keys.tolist())
    for sample in dataset.samples:
        with contextlib.suppress(FerkitError, OSError):
            if image_key(hashlib.sha256(dataset.source.read(sample.path)).hexdigest()) in known:
                kept.append(sample)
    return dataset.subset(kept) if kept else None


def _of_paths(dataset: Dataset | None, paths: np.ndarray) -> Dataset | None:
    """The samples of these paths; None where one is not there any more."""
    known = {} if dataset is None else {sample.path: sample for sample in dataset.samples}
    if dataset is None or not known.keys() >= set(paths):
        return None
    return dataset.subset([known[path] for path in paths])


def fit_request(
    table: EmbeddingTable,
    store: EmbeddingStore,
    settings: HeadSettings,
    split_settings: SplitSettings,
    search: SearchSettings | None = None,
    labels: LabelSet | None = None,
) -> str:
    """Return the digest of everything that decides what a fit gives: data, embeddings and settings."""
    tried = None if search is None else {**dataclasses.asdict(search), "n_jobs": None}
    embeddings = hashlib.sha256()
    for start in range(0, len(table), _HASHED_ROWS):  # they may be on the disk
        embeddings.update(np.ascontiguousarray(table.X[start : start + _HASHED_ROWS]).data)
    settled: list[Any] = [settings.to_dict(), dataclasses.asdict(split_settings), tried]
    settled += [] if labels is None else [list(labels.names)]
    rest = canonical_json([embeddings.hexdigest(), fingerprint(store.settings), *settled])
    paths, y, split, groups = map(_json_list, (table.paths, table.y, table.split, table.groups))
    return _sha256(itertools.chain("[[", paths, ",", y, ",", split, ",", groups, ["],", rest[1:]]))


def is_fitted(
    folder: Path, request: str, table: EmbeddingTable, store: EmbeddingStore, settings: HeadSettings
) -> bool:
    """Whether the model in ``folder`` is what :func:`fit_request` asks for.

    A model of version 0.1 keeps no request; it is told by its data, embeddings and head.

    Raises:
        ModelError: it is another one.
    """
    try:
        record = read_model(folder).record
    except ModelError as error:
        raise ModelError(f"{error}; --overwrite replaces it, another --name keeps it") from None
    if "request" in record.data:
        same = record.data["request"] == request
    else:
        head = record.parts.get("head", {}).get("settings")
        same = (record.data.get("embeddings"), record.data.get("digest"), head) == (
            store.folder.name,
            _rows_digest(table),
            json.loads(json.dumps(settings.to_dict())),
        )
    if not same:
        raise ModelError(
            f"the model {folder} exists, fitted on other data or with other settings; --overwrite replaces it, "
            "another --name keeps both"
        )
    return True


def _rows_digest(table: EmbeddingTable) -> str:
    return _sha256(_json_list(zip(table.paths, table.y, table.split, strict=True)))


def _class_counts(table: EmbeddingTable) -> dict[str, int]:
    """Rows of each class, sorted by name."""
    return dict(sorted(Counter(map(str, table.y)).items()))


def _json_list(values: Iterable[Any]) -> Iterator[str]:
    """The canonical JSON of a list, piece by piece: in one, millions of rows would take gigabytes."""
    left = iter(values)
    texts = iter(lambda: canonical_json(list(itertools.islice(left, _HASHED_ROWS)))[1:-1], "")
    return itertools.chain("[", [next(texts, "")], (f",{text}" for text in texts), "]")


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def save_fit(
    folder: Path,
    fitted: HeldOutFit,
    store: EmbeddingStore,
    table: EmbeddingTable,
    *,
    overwrite: bool,
    request: str = "",
) -> Model:
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
    view, settings = store.view() or Snapshot("", 0), store.settings
    return save_embedding_model(
        folder,
        fitted.head,
        np.asarray(table.X[fitted.split.train[:256]]),
        embedder_settings=settings.embedder,
        embedder_fingerprint=fingerprint(settings.embedder),
        faces=settings.faces,
        crops=view.crops,
        weights=Path(view.weights) if view.weights else None,
        licence=view.licence,
        cosine=view.cosine,
        data={
            "embeddings": store.folder.name,
            "root": view.root,
            "digest": _rows_digest(table),
            **({"request": request} if request else {}),
            "classes": _class_counts(table),
        },
        split=fitted.split.describe(),
        metrics=fitted.evaluation.to_dict(),
        images=_keys(table)[fitted.split.train],
        overwrite=overwrite,
    )


def write_fit_report(
    model: Model, fitted: HeldOutFit, store: EmbeddingStore, table: EmbeddingTable, language: str = "en"
) -> Path:
    """Write the report of a fitted head on the part held out into ``report`` next to its ``model.json``.

    Args:
        model: the saved model.
        fitted, store, table: what it was made of.
        language: ``en`` or ``ko``.

    Returns:
        The page.

    Raises:
        FerkitError: the folder cannot be written.
    """
    root, known = (store.view() or Snapshot("", 0)).root, store.rows()
    data = _at_hand(root)
    attributes = {} if data is None else {sample.path: sample.attributes for sample in data.samples}
    rows = zip(table.paths, table.y, table.split, table.groups, strict=True)
    samples = [
        Sample(path, label, split, group, known[path].box, attributes.get(path, {}))
        for path, label, split, group in rows
    ]
    source = FileSource(Path(root)) if data is None else data.source
    dataset = Dataset(Path(root).stem or model.name, Path(root), tuple(samples), source)
    evaluation, tested = fitted.evaluation, tuple(samples[i] for i in fitted.split.test)
    scores = Scores(tested, evaluation.proba, (), tuple(known[sample.path].sha256 for sample in tested))
    found = evaluate_model(
        model, dataset, scores, evaluation.y_true, seed=fitted.head.settings.seed, copies=evaluation.copies
    )
    folder = model.folder / "report"
    write_report(evaluation, folder, language)
    return write_comparison(found, folder, language, dataset)[0]


def with_labels(table: EmbeddingTable, labels: LabelSet) -> EmbeddingTable:
    """The rows that have a class in ``labels``, by its name there; says what becomes of the others."""
    counts = _class_counts(table)
    mapping = LabelSet(tuple(counts)).map_to(labels)
    known = dict(zip(counts, mapping.labels(list(counts)), strict=True))
    y = np.array([known[str(name)] for name in table.y], object)
    left_out = [f"{name} {n:,}" for name, n in counts.items() if name in mapping.unmapped]
    if left_out:
        logger.info(f"left out, since --labels does not name their class: {', '.join(left_out)}")
    return replace(table, y=y)[y != None]  # noqa: E711 - of each row


_COPIES = 4
"""Of the embeddings, as float32, that fitting holds at once: all, the training part, and what the head sees of it."""


def load_labelled(store: EmbeddingStore, memory_gb: float | None = None) -> EmbeddingTable:
    """The labelled embeddings of a store; logs what is missing from them.

    Args:
        store: which.
        memory_gb: above this much memory to fit a head, the embeddings stay on the disk, and the head is fitted out of
            core; None for half of what is free.

    Raises:
        DataError: there are none.
        StoreDamagedError: a shard is not what was written.
    """
    # Half precision is enough for layers, and the widest of them fit into memory only so.
    most = free_memory() / 2 if memory_gb is None else memory_gb * 1e9
    needed = _COPIES * 4 * store.dim * store.rows_per_shard * len(store.shards())
    if needed > most:
        logger.info(
            f"fitting in memory would take up to {needed / 1e9:.2g} GB, more than {most / 1e9:.2g}: the embeddings "
            "stay on the disk"
        )
    dtype: Literal["float16", "float32"]
    dtype = "float16" if store.settings.dtype == "float16" and store.dim > 2000 else "float32"
    table = store.load(dtype, mapped=needed > most)
    labelled = table.labelled()
    if len(labelled) < len(table):
        logger.info(f"{len(table) - len(labelled)} images have no label and are left out")
    view, n_failed = store.view(), table.n_failed
    n_listed = view.n_samples if view is not None else len(table)
    if n_failed:
        logger.info(f"{n_failed} images could not be embedded and are left out; see 'fer embed'")
    if len(table) + n_failed < n_listed:
        logger.info(
            f"only {len(table) + n_failed} of {n_listed} images are embedded yet; run 'fer embed' to its end"
        )
    return labelled


_KINDS: dict[str, Kind] = {"embedding": "head", "network": "network", "ensemble": "ensemble"}

N_TIMED = 32


def evaluate_model(
    model: Model,
    dataset: Dataset,
    scores: Scores,
    y_true: np.ndarray,
    *,
    by: Sequence[str] = (),
    seed: int = 0,
    costs: Costs | None = None,
    copies: TrainingCopies | None = None,
) -> Comparison:
    """What a report of one model is made of.

    Its ``seen`` rows are those that its record says it was, or may have been, trained on.

    Args:
        model: that was tested.
        dataset: all images of the data set, also those that were not tested.
        scores: of the images that were tested.
        y_true: (m,) their class names, in the words of the model where it knows them.
        by: columns whose groups are compared.
        seed: of the bootstrap.
        costs: what predicting takes; see :func:`timed`.
        copies: of training images among those tested; see :func:`copies_of_training`.
    """
    samples = scores.samples
    rows = np.arange(len(samples))
    seen, notes = trained_on(model, (dataset,), [(0, sample.path) for sample in samples])
    costs = costs or Costs(size_mb=size_mb_of(model))
    left_out: tuple[str, ...] = () if copies is None else (copies.sentence(),)
    if scores.failures:
        path, reason = scores.failures[0]
        left_out += (
            f"left out because they cannot be read: {len(scores.failures)}; the first: {path}: {reason}",
        )
    facts = [(sample.path, sample.label, sample.group) for sample in samples]
    return Comparison(
        name=dataset.name,
        labels=model.labels,
        y=np.asarray(y_true, object),
        paths=np.array([sample.path for sample in samples], object),
        groups=scores.groups,
        source=np.zeros(len(samples), np.int64),
        data=(DataUsed(dataset.name, str(dataset.root), "test", len(samples), fingerprint(facts)),),
        attributes=attribute_columns(samples),
        protocol=ProtocolSettings(seed=seed, by=tuple(by)),
        splits=(SplitRows(seed, "given", np.zeros(0, np.int64), rows),),
        candidates=(
            CandidateResult(
                model.name,
                _KINDS.get(model.kind, "network"),
                (RepeatResult(0, scores.proba, costs, history_of(model)),),
                seen=seen,
                notes=notes,
            ),
        ),
        notes=left_out,
        **circumstances(),
    )


def timed(model: Model, cropper: FaceCropper, dataset: Dataset) -> Costs:
    """Milliseconds an image on some of the data, and the size of the model's files."""
    crops = [image.found.rgb for image in some_crops(dataset.source, dataset.samples, cropper, N_TIMED)]
    if not crops:
        return Costs(size_mb=size_mb_of(model))
    batch = np.resize(np.concatenate(crops), (N_TIMED, *crops[0].shape[1:]))
    return Costs(
        ms_batch1=milliseconds(model.predict_proba, batch[:1]),
        ms_batch32=milliseconds(model.predict_proba, batch),
        size_mb=size_mb_of(model),
    )
