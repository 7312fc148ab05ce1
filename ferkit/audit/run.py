"""``fer audit`` as two functions: every check one after the other, and what was found as a page and files.

On the page a person ticks what should be done; the files are for Label Studio, FiftyOne and other programs.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ferkit.audit.checks import (
    ImageQualitySettings,
    LabelSettings,
    Part,
    blank_rows,
    cluster_identities,
    copy_findings,
    cut_face,
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
from ferkit.audit.findings import Action, Audit, Drift, Finding, Note, findings_text, in_order, text_of
from ferkit.core.errors import DataError, DependencyError
from ferkit.core.files import fingerprint, write_atomically, write_csv, write_json
from ferkit.core.labels import LabelSet
from ferkit.core.texts import LANGUAGES, Translations, text_table, translated
from ferkit.core.types import FaceDetector
from ferkit.datasets.dataset import Dataset, FileSource
from ferkit.datasets.duplicates import Copies, CopySettings, find_copies
from ferkit.datasets.image_stats import ImageStats, image_stats
from ferkit.embedder.store import EmbeddingTable
from ferkit.evaluation.plots import thumbnails

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
    findings = image_quality_findings(seen, settings.quality)
    findings += copy_findings(dataset, seen, copies, blank)
    who = [sample.group for sample in dataset.samples]
    if identities is not None:
        who = _guessed(dataset, identities)
        guessed = {name for name, s in zip(who, dataset.samples, strict=True) if name and not s.group}
        notes.append(Note("guessed_persons", {"n": f"{len(guessed):,}", "name": identities.name}))
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
        found, note = _wrong_labels(table, rows, apart, blank, settings.labels, cache_dir)
        findings += found
        notes.append(note)
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
    guesses = dict(zip(rows.tolist(), cluster_identities(table.X), strict=True))
    return [sample.group or guesses.get(row) for row, sample in enumerate(dataset.samples)]


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
    table: EmbeddingTable,
    rows: np.ndarray,
    apart: Sequence[str | None],
    blank: np.ndarray,
    settings: LabelSettings,
    cache_dir: Path | None,
) -> tuple[list[Finding], Note]:
    usable = np.array([table.y[i] is not None and not blank[row] for i, row in enumerate(rows)])
    labels, counts = np.unique(table.y[usable].astype(str), return_counts=True)
    rare = labels[counts < 2]
    usable &= ~np.isin(table.y.astype(str), rare)
    if len(labels) - len(rare) < 2:
        return [], Note("few_classes")
    part = table if usable.all() else table[usable]
    try:
        doubts = doubt(part, [apart[row] for row in rows[usable]], settings, cache_dir)
    except (DependencyError, DataError) as error:
        return [], Note("no_label_check", {"reason": str(error)})
    right = float((doubts.classes[doubts.proba.argmax(axis=1)] == part.y.astype(str)).mean())
    note = Note("label_check", {"head": settings.head, "share": f"{right:.0%}"})
    return label_findings(part, rows[usable], doubts), note


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


_MOST_IMAGES = 12
"""Of one finding, shown on the page; all are in the table."""


def audit_values(audit: Audit) -> dict[str, Any]:
    """Everything, as plain JSON values; findings refer to images by path."""
    samples = audit.dataset.samples
    labels = Counter(sample.label for sample in samples if sample.label is not None)
    return {
        "name": audit.dataset.name,
        "root": str(audit.dataset.root),
        "pictures": len(samples),
        "persons": len({sample.group for sample in samples if sample.group is not None}),
        "classes": dict(sorted(labels.items())),
        "splits": dict(sorted(Counter(s.split for s in samples if s.split is not None).items())),
        "imbalance": max(labels.values()) / min(labels.values()) if labels else None,
        "embeddings": audit.embeddings,
        "counts": audit.counts(),
        "notes": [findings_text(note) for note in audit.notes],
        "drift": [asdict(drift) for drift in audit.drift],
        "findings": [_finding(audit, finding) for finding in audit.findings],
    }


_COLUMNS = ("finding", "kind", "severity", "path", "label", "split", "group", "suggestion", "value", "facts")


def finding_rows(audit: Audit) -> Iterator[tuple[object, ...]]:
    """A row of ``findings.csv`` for each image of each finding, in the order of the page."""
    for number, finding in enumerate(audit.findings, 1):
        facts = "; ".join(f"{name} {_short(value)}" for name, value in finding.facts.items())
        for row, action in zip(finding.rows, finding.suggested, strict=True):
            s = audit.dataset.samples[row]
            known = (s.path, s.label, s.split, s.group)
            yield number, finding.kind, f"{finding.severity:.4f}", *known, action.verb, action.value, facts


def page_values(audit: Audit, most: int) -> dict[str, Any]:
    """What the page shows: of each kind the ``most`` gravest findings, and the images in these."""
    values = audit_values(audit)
    shown: list[dict[str, Any]] = []
    rows: dict[int, None] = {}
    for kind in values["counts"]:
        for finding in audit.of(kind)[:most]:
            first = finding.rows[:_MOST_IMAGES]
            rows.update(dict.fromkeys(first))
            shown.append({
                "kind": kind,
                "severity": round(finding.severity, 4),
                "facts": _facts_by_language(finding),
                "more": len(finding.rows) - len(first),
                "rows": first,
                "suggested": [[a.verb, a.value] for a in finding.suggested[: len(first)]],
            })  # fmt: skip
    samples, seen = audit.dataset.samples, audit.stats
    names = LabelSet.from_names(values["classes"]) if values["classes"] else None
    return {
        **{key: value for key, value in values.items() if key != "findings"},
        "notes": {
            language: [findings_text(note, language) for note in audit.notes] for language in LANGUAGES
        },
        "shown": shown,
        "rows": {
            row: {
                "path": samples[row].path,
                "label": samples[row].label or "",
                "split": samples[row].split or "",
                "group": samples[row].group or "",
                "content": seen.content[row].decode(),
                "size": f"{seen.size_wh[row, 0]}×{seen.size_wh[row, 1]}",
            }
            for row in rows
        },
        "names": {
            language: dict(zip(names.names, names.display(language), strict=True)) if names else {}
            for language in LANGUAGES
        },
    }


def _finding(audit: Audit, finding: Finding) -> dict[str, Any]:
    samples = audit.dataset.samples
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "paths": [samples[row].path for row in finding.rows],
        "suggested": [asdict(action) for action in finding.suggested],
        "facts": dict(finding.facts),
    }


def _facts_by_language(finding: Finding) -> dict[str, Any]:
    said = {"reason": {one: translated(str(finding.facts.get("reason")), one) for one in LANGUAGES}}
    return {**finding.facts, **said} if "reason" in finding.facts else dict(finding.facts)


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


MOST = 100
"""Findings of a kind that the page shows: more than a person goes through, and a page that still opens at once."""


def write_audit(audit: Audit, folder: Path, language: str = "en", most: int = MOST) -> list[Path]:
    """Write ``audit.html``, ``findings.csv``, ``audit.json`` and what other programs import, over an earlier audit's.

    Returns:
        The files, the page first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    names = "audit.html", "findings.csv", "audit.json", LABEL_STUDIO, FIFTYONE
    page, table, values, label_studio, fiftyone = files = [folder / name for name in names]
    write_json(values, audit_values(audit))
    write_csv(table, _COLUMNS, finding_rows(audit))
    html = render_page(audit, language, most).encode("utf-8", "replace")
    write_atomically(page, lambda file: file.write(html))
    write_json(label_studio, label_studio_tasks(audit))
    write_json(fiftyone, fiftyone_labels(audit))
    return files


def render_page(audit: Audit, language: str = "en", most: int = MOST) -> str:
    """The page; it needs nothing else, and sends nothing anywhere.

    Args:
        audit: what was found.
        language: it opens in, ``en`` or ``ko``; a button changes it.
        most: findings of each kind that are shown, the gravest.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    values, samples = page_values(audit, most), audit.dataset.samples
    values["images"] = thumbnails(values["rows"], lambda row: cut_face(audit.dataset, samples[row]))
    values["labels"] = sorted(values["classes"])
    values["version"] = metadata.version("ferkit")
    # What was ticked is kept by the browser for this audit alone: another one has other findings.
    values["digest"] = fingerprint([values["root"], values["shown"]])[:16]
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(text_of("audit.html")).render(
        language=language,
        title=Translations(language, "audit")("title.page", name=audit.dataset.name),
        css=Markup(text_of("audit.css")),
        script=Markup(text_of("audit.js")),
        values=Markup(_inlined(values)),
        words=Markup(_inlined(text_table()["audit"])),
    )


def _inlined(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


LABEL_STUDIO, FIFTYONE = "label-studio.json", "fiftyone-labels.json"


def label_studio_tasks(audit: Audit) -> list[dict[str, Any]]:
    """A task for each image with a finding, the gravest of its findings first in ``data``.

    The suggested label is a prediction of the choice ``label``. Images are addressed as local files below the folder
    that holds the data set's: Label Studio serves no storage that is its whole document root.
    """
    tasks = []
    source = audit.dataset.source
    folder = (source.root if isinstance(source, FileSource) else audit.dataset.root).resolve().name
    for row, found in _by_image(audit).items():
        sample, (finding, action) = audit.dataset.samples[row], found[0]
        data = {
            "image": f"/data/local-files/?d={quote(f'{folder}/{sample.path}', errors='surrogateescape')}",
            "path": sample.path,
            "label": sample.label,
            "finding": finding.kind,
            "findings": ", ".join(dict.fromkeys(one.kind for one, _ in found)),
            "suggestion": action.verb,
        }
        value = {"choices": [action.value]}
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": value}
        prediction = {"model_version": "ferkit audit", "score": finding.severity, "result": [result]}
        tasks.append({"data": data, "predictions": [prediction] if action.verb == "relabel" else []})
    return tasks


def fiftyone_labels(audit: Audit) -> dict[str, Any]:
    """The labels of a ``FiftyOneImageClassificationDataset``: image without suffix to the gravest finding."""
    labels = {}
    for row, found in _by_image(audit).items():
        sample, (finding, action) = audit.dataset.samples[row], found[0]
        # FiftyOne makes fields of a classification of them, and has its own "label".
        attributes = {"labelled": sample.label or "", "suggestion": action.verb, "value": action.value}
        name = sample.path.removesuffix(Path(sample.path).suffix)
        labels[name] = {"label": finding.kind, "confidence": finding.severity, "attributes": attributes}
    return {"labels": labels}


def _by_image(audit: Audit) -> dict[int, list[tuple[Finding, Action]]]:
    """Row to its findings; they are in order, the gravest first."""
    found: dict[int, list[tuple[Finding, Action]]] = {}
    for finding in audit.findings:
        for row, action in zip(finding.rows, finding.suggested, strict=True):
            found.setdefault(row, []).append((finding, action))
    return found
