"""``fer audit`` as one function: every check, one after the other."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ferkit.audit.checks import (
    ImageQualitySettings,
    LabelSettings,
    Part,
    blank_rows,
    cluster_identities,
    copy_findings,
    doubt,
    drift,
    face_confidence,
    image_quality_findings,
    label_findings,
    no_face_findings,
    person_findings,
    unusual_findings,
    unusualness,
)
from ferkit.audit.findings import Audit, Drift, Finding, Note, in_order
from ferkit.core.errors import DataError, DependencyError
from ferkit.core.types import FaceDetector
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.duplicates import Copies, CopySettings, find_copies
from ferkit.datasets.image_stats import ImageStats, image_stats
from ferkit.embedder.store import EmbeddingTable

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What is looked for, and how."""

    copies: CopySettings = field(default_factory=CopySettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    quality: ImageQualitySettings = field(default_factory=ImageQualitySettings)


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a data set, and what they were made with, in words."""

    table: EmbeddingTable
    name: str


def audit(
    dataset: Dataset,
    embedded: Embedded | None,
    settings: AuditSettings,
    *,
    against: tuple[Dataset, Embedded | None] | None = None,
    identities: Embedded | None = None,
    detector: FaceDetector | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> Audit:
    """Run every check that the material allows; what could not be checked is among the notes.

    Args:
        dataset: the images.
        embedded: their embeddings, matched by path; None leaves out wrong labels and unusual images.
        settings: of all checks.
        against: another data set to compare with, and its embeddings by the same network.
        identities: embeddings by a face-recognition network, to guess who is shown where no name tells.
        detector: looks for faces, see :data:`ferkit.audit.checks.LEAST_CONFIDENCE`; None does without.
        cache_dir: where what takes long is kept, so that a second run, or one after an interrupt, is quick.
        workers: threads; one a core if None.

    Raises:
        DataError: the embeddings are of other images.
        FerkitError: the cache cannot be written.
    """
    notes: list[Note] = []
    logger.info("reading the images")
    seen = image_stats(dataset, cache_dir, workers=workers)
    logger.info("looking for copies")
    copies = find_copies(seen, settings.copies, cache_dir=cache_dir, workers=workers)
    blank = blank_rows(seen, settings.quality)
    findings = image_quality_findings(dataset, seen, settings.quality)
    findings += copy_findings(dataset, seen, copies, blank)
    who = [sample.group for sample in dataset.samples]
    if identities is not None:
        who = _guessed(dataset, identities)
        n_persons = len(
            {name for name, sample in zip(who, dataset.samples, strict=True) if name and not sample.group}
        )
        notes.append(Note("guessed_persons", {"n": f"{n_persons:,}", "name": identities.name}))
    findings += person_findings(dataset, who)
    if not any(who):
        notes.append(Note("no_persons"))
    if not any(sample.split for sample in dataset.samples):
        notes.append(Note("no_split"))
    apart = kept_apart(dataset, copies)
    matched, unusual = None, None
    if embedded is None:
        notes.append(Note("no_embeddings"))
    else:
        rows, table = matched = _matched(dataset, embedded.table)
        if len(rows) < len(dataset):
            notes.append(Note("not_embedded", {"n": f"{len(dataset) - len(rows):,}"}))
        logger.info("looking for wrong labels")
        found, note = _wrong_labels(dataset, table, rows, apart, blank, settings.labels, cache_dir)
        findings += found
        notes += note
        logger.info("looking for unusual images")
        unusual = np.full(len(dataset), np.nan)
        unusual[rows] = unusualness(table.X, settings.labels.seed)
    known = blank.copy()
    if detector is None:
        notes.append(Note("no_detector"))
    else:
        logger.info("looking for images without a face")
        confidence = face_confidence(dataset, seen, detector, cache_dir, workers=workers)
        findings += no_face_findings(confidence, blank, unusual)
        known |= confidence == 0
    if unusual is not None:
        findings += unusual_findings(unusual, known, settings.quality)
    drifts = _drifts(dataset, seen, matched, apart)
    if against is not None:
        other, theirs = against
        name = other.name if other.name != dataset.name else str(other.root)
        whole = Part(dataset.name, dataset.samples, seen, None if matched is None else matched[1].X)
        X = None if theirs is None else _matched(other, theirs.table)[1].X
        other_stats = image_stats(other, cache_dir, workers=workers)
        drifts.append(drift(whole, Part(name, other.samples, other_stats, X)))
    return Audit(
        dataset,
        seen,
        in_order(findings),
        tuple(drifts),
        tuple(notes),
        None if embedded is None else embedded.name,
    )


def kept_apart(dataset: Dataset, copies: Copies) -> list[str | None]:
    """For each row, what it must share a fold with: its copies, and all images of the same person."""
    n = len(dataset)
    person: dict[str, int] = {}
    lowest = copies.groups()
    ends = [(row, int(lowest[row])) for row in range(n) if lowest[row] != row]
    for row, sample in enumerate(dataset.samples):
        if sample.group is not None:
            ends.append((row, person.setdefault(sample.group, row)))
    pairs = np.array(ends, np.int64).reshape(-1, 2)
    joined = Copies(np.arange(n), pairs, np.ones(len(pairs), np.float32)).groups()
    size = np.bincount(joined, minlength=n)
    known = np.array([sample.group is not None for sample in dataset.samples])
    return [str(group) if size[group] > 1 or known[row] else None for row, group in enumerate(joined)]


def _guessed(dataset: Dataset, identities: Embedded) -> list[str | None]:
    """Who is shown: the samples' own groups, and clusters of identity embeddings for the others."""
    rows, table = _matched(dataset, identities.table)
    guesses: list[str | None] = [None] * len(dataset)
    for row, guess in zip(rows, cluster_identities(table.X), strict=True):
        guesses[row] = guess
    return [sample.group or guess for sample, guess in zip(dataset.samples, guesses, strict=True)]


def _matched(dataset: Dataset, table: EmbeddingTable) -> tuple[np.ndarray, EmbeddingTable]:
    """Rows of the data set that have an embedding, and these embeddings with the data set's labels."""
    at = {sample.path: row for row, sample in enumerate(dataset.samples)}
    kept = np.array([i for i, path in enumerate(table.paths) if path in at], np.int64)
    if not len(kept):
        raise DataError(
            f"the embeddings are of other images ({table.paths[0]}, …) than the data ({dataset.samples[0].path}, "
            "…); name the same folder as for 'fer embed', or leave --embeddings out"
        )
    rows = np.array([at[table.paths[i]] for i in kept], np.int64)
    label, path, group, split = (
        np.array([getattr(dataset.samples[row], name) for row in rows], object)
        for name in ("label", "path", "group", "split")
    )
    X = table.X if len(kept) == len(table) else table.X[kept]
    return rows, EmbeddingTable(X, label, path, group, split)


def _wrong_labels(
    dataset: Dataset,
    table: EmbeddingTable,
    rows: np.ndarray,
    apart: Sequence[str | None],
    blank: np.ndarray,
    settings: LabelSettings,
    cache_dir: Path | None,
) -> tuple[list[Finding], list[Note]]:
    usable = np.array([table.y[i] is not None and not blank[row] for i, row in enumerate(rows)])
    labels, counts = np.unique(table.y[usable].astype(str), return_counts=True)
    rare = labels[counts < 2]
    usable &= ~np.isin(table.y.astype(str), rare)
    if len(labels) - len(rare) < 2:
        return [], [Note("few_classes")]
    part = table if usable.all() else table[usable]
    try:
        doubts = doubt(part, [apart[row] for row in rows[usable]], settings, cache_dir)
    except (DependencyError, DataError) as error:
        return [], [Note("no_label_check", {"reason": str(error)})]
    right = float((doubts.classes[doubts.proba.argmax(axis=1)] == part.y.astype(str)).mean())
    note = Note("label_check", {"head": settings.head, "share": f"{right:.0%}"})
    return label_findings(part, rows[usable], doubts), [note]


def _drifts(
    dataset: Dataset,
    seen: ImageStats,
    embedded: tuple[np.ndarray, EmbeddingTable] | None,
    apart: Sequence[str | None],
) -> list[Drift]:
    """Between training and each other part."""

    def part(name: str) -> Part:
        rows = np.flatnonzero([sample.split == name for sample in dataset.samples])
        X, names = None, None
        if embedded is not None:
            inside = np.flatnonzero(np.isin(embedded[0], rows))
            X, names = embedded[1].X[inside], [apart[embedded[0][i]] for i in inside]
        return Part(name, [dataset.samples[row] for row in rows], seen[rows], X, names)

    train, *others = (part(name) for name in SPLITS)
    return [drift(train, other) for other in others if train.samples and other.samples]
