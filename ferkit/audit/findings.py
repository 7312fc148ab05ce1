"""What an audit finds, and what is done about it: the vocabulary of its checks, and the plan that a person edits."""

import csv
import functools
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from ferkit.core.errors import DataError, FerkitError
from ferkit.core.files import (
    csv_text,
    exclusive_lock,
    parse_json,
    read_regular,
    write_atomically,
    write_json,
)
from ferkit.core.texts import Translations
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.export import write_manifest
from ferkit.datasets.image_stats import ImageStats, content_digest
from ferkit.datasets.load import load_dataset

Kind = Literal[
    "unreadable", "label_conflict", "split_copy", "split_person", "wrong_label", "blank", "not_a_face",
    "exact_copy", "near_copy", "outlier", "blurred", "tiny",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds, the gravest first: what falsifies a score, then what spoils training, then what is merely poor."""

Verb = Literal["keep", "drop", "relabel", "same-person"]
VERBS: tuple[Verb, ...] = get_args(Verb)


@dataclass(frozen=True, slots=True)
class Action:
    """What may be done to one image.

    Attributes:
        verb: ``keep`` leaves it as it is; ``drop`` leaves it out of the manifest, the file stays; ``relabel``
            gives it the label ``value``; ``same-person`` gives it the group ``value``.
        value: label or group.
    """

    verb: Verb
    value: str = ""


KEEP = Action("keep")
DROP = Action("drop")


@dataclass(frozen=True)
class Finding:
    """One thing to decide, about one image or several that belong together.

    Attributes:
        kind: what is wrong.
        rows: positions in the data set's samples.
        severity: 0..1, comparable within a kind.
        suggested: what to do about each row.
        facts: what a person needs to know to decide: numbers and names.
    """

    kind: Kind
    rows: tuple[int, ...]
    severity: float
    suggested: tuple[Action, ...]
    facts: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """How far two parts of the data differ in one respect.

    Attributes:
        what: ``pictures`` (can a classifier tell the parts apart from the embeddings?), ``label``, ``width``,
            ``height``, ``brightness``, ``contrast``, ``sharpness``, or the name of an attribute.
        measure: ``AUC``, ``KS`` (Kolmogorov-Smirnov) or ``TV`` (total variation).
        value: 0.5..1 for AUC, 0..1 for the others.
        p: of a test that there is no difference; no correction for the number of tests.
        detail: what differs most, in words.
    """

    what: str
    measure: Literal["AUC", "KS", "TV"]
    value: float
    p: float
    detail: str = ""


@dataclass(frozen=True)
class Drift:
    """How two parts, or two data sets, differ; what tells most comes first."""

    first: str
    second: str
    n_first: int
    n_second: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Note:
    """What a reader must know to judge the findings; :func:`ferkit.audit.findings.findings_text` puts it into words.

    Attributes:
        key: of the words.
        fields: what is filled in.
    """

    key: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """Everything that was found.

    Attributes:
        dataset: what was looked at.
        stats: its images.
        findings: by kind, the gravest first, and by severity within a kind.
        drift: between parts of the data set, or to another one.
        notes: what was not looked at, and why; what the findings rest on.
        embeddings: what they were computed with; None without any.
    """

    dataset: Dataset
    stats: ImageStats
    findings: tuple[Finding, ...]
    drift: tuple[Drift, ...] = ()
    notes: tuple[Note, ...] = ()
    embeddings: str | None = None

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def counts(self) -> dict[Kind, int]:
        """Number of findings of each kind, the gravest kind first."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS}


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """By kind, severity and first image."""
    place = {kind: i for i, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda f: (place[f.kind], -f.severity, f.rows)))


def findings_text(note: Note, language: str = "en") -> str:
    """A note as a reader of ``language`` (``en`` or ``ko``) reads it."""
    return Translations(language, "audit")(f"note.{note.key}", **note.fields)


@functools.cache
def text_of(name: str) -> str:
    """One of the files that the page is made of."""
    return resources.files("ferkit.audit.templates").joinpath(name).read_text(encoding="utf-8")


COLUMNS = ("path", "action", "value", "label", "content", "finding")
"""Of a plan. ``path`` and ``action`` must be there; ``label`` and ``content`` are what was seen in the audit, and are
compared with what is there now; ``finding`` is for the reader."""


@dataclass(frozen=True)
class PlanLine:
    """One decision.

    Attributes:
        number: of the line in the file, from 1, the header being the first.
        path: of the image.
        action: ``keep``, ``drop``, ``relabel`` or ``same-person``.
        value: the label or the person.
        label: what it was in the audit; empty if that does not matter.
        content: digest of the content in the audit; empty if that does not matter.
    """

    number: int
    path: str
    action: str
    value: str = ""
    label: str = ""
    content: str = ""


@dataclass(frozen=True)
class Refusal:
    """A line that cannot be followed, and why."""

    line: PlanLine
    reason: str


@dataclass(frozen=True)
class Applied:
    """What became of the samples.

    Attributes:
        samples: the ones that stay, with their new labels and groups.
        done: lines that were followed.
        refused: lines that were not.
    """

    samples: tuple[Sample, ...]
    done: tuple[PlanLine, ...]
    refused: tuple[Refusal, ...]

    def count(self, action: str) -> int:
        """Lines with this action that were followed."""
        return sum(line.action == action for line in self.done)


def read_plan(path: Path) -> list[PlanLine]:
    """The lines of a plan.

    Raises:
        DataError: no CSV file in UTF-8, or without the columns ``path`` and ``action``.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise DataError(f"the plan {path} cannot be read: {error.strerror}") from None
    except csv.Error as error:  # a torn plan is not half followed
        raise DataError(f"expected a plan as CSV in {path}: {error}; export it from the page again") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not {"path", "action"} <= set(header):
        raise DataError(
            f"expected the columns path and action in {path}, found {', '.join(header) or 'nothing'}; "
            "export the plan from the page again"
        )
    place = {name: header.index(name) for name in COLUMNS[:5] if name in header}
    lines = []
    for number, row in enumerate(rows[1:], 2):
        if any(row):
            cells = {name: csv_text(row[i].strip()) if i < len(row) else "" for name, i in place.items()}
            lines.append(PlanLine(number, **cells))
    return lines


def follow(dataset: Dataset, lines: Iterable[PlanLine]) -> Applied:
    """Apply a plan to samples; a line that cannot be followed is refused, and the others are not.

    Raises:
        DataError: nothing would stay.
    """
    at = {sample.path: sample for sample in dataset.samples}
    labels = {sample.label for sample in dataset.samples if sample.label is not None}
    decided: dict[tuple[str, bool], PlanLine] = {}
    done, refused = [], []
    for line in lines:
        reason = _obstacle(dataset, at.get(line.path), line, labels)
        key = (line.path, line.action == "same-person")
        if not reason and key in decided:
            reason = f"line {decided[key].number} decides about this image already ({decided[key].action})"
        if reason:
            refused.append(Refusal(line, reason))
        else:
            decided[key] = line
            done.append(line)
    samples = []
    for sample in dataset.samples:
        image, person = decided.get((sample.path, False)), decided.get((sample.path, True))
        if image is not None and image.action == "drop":
            continue
        if image is not None and image.action == "relabel":
            sample = replace(sample, label=image.value)
        if person is not None:
            sample = replace(sample, group=person.value)
        samples.append(sample)
    if not samples:
        raise DataError("the plan drops every image; nothing was written")
    return Applied(tuple(samples), tuple(done), tuple(refused))


def _obstacle(dataset: Dataset, sample: Sample | None, line: PlanLine, labels: set[str]) -> str:
    """Why a line cannot be followed; empty if it can."""
    if line.action not in VERBS:
        return f"expected an action out of {', '.join(VERBS)}, found {line.action or 'none'!r}"
    if sample is None:
        return "the data set has no such image"
    try:
        content = dataset.source.read(sample.path)
    except OSError as error:
        return f"the file cannot be read: {error.strerror or error}"
    if line.content and content_digest(content) != line.content:
        return "the file was changed since the audit"
    if line.label and line.label != (sample.label or ""):
        return f"the label was {line.label} in the audit and is {sample.label or 'empty'} now"
    if line.action == "relabel" and line.value not in labels:
        return f"expected a label out of {', '.join(sorted(labels))}, found {line.value or 'none'!r}"
    if line.action == "same-person" and not line.value:
        return "it does not say which person"
    return ""


_FORMAT = 1


@dataclass(frozen=True)
class Fix:
    """A plan that was followed, and the manifest that it led to."""

    manifest: Path
    undo: Path
    applied: Applied


def default_manifest(data: Path) -> Path:
    """Where a fix of ``data`` goes: next to it, or into it if it is the manifest of an earlier fix."""
    if data.suffix.lower() == ".csv" and undo_record(data).is_file():
        return data
    return next_to(data, "-audited.csv")


def next_to(data: Path, ending: str) -> Path:
    """A path next to a data set, called like it: ``faces-audited.csv`` for ``faces/`` and ``faces.npz``."""
    resolved = data.resolve()
    parent = resolved.parent if data.name in ("", "..") else data.parent
    return parent / f"{resolved.stem if resolved.is_file() else resolved.name}{ending}"


def undo_record(manifest: Path) -> Path:
    """The file that knows what a manifest was before."""
    return manifest.with_name(manifest.name + ".undo.json")


def fix(dataset: Dataset, plan: Path, manifest: Path) -> Fix:
    """Follow a plan and write what stays as a manifest.

    The undo record is written first and the manifest is replaced at once: after a crash either all of the plan was
    followed or nothing.

    Args:
        dataset: what the plan is about.
        plan: of :func:`ferkit.audit.findings.read_plan`.
        manifest: where the result goes; another file than ``dataset`` was read from must not be there yet.

    Raises:
        DataError: no plan, nothing in it can be followed, or another manifest is in the way.
        StoreLockedError: another process is fixing the same manifest.
        FerkitError: the disk is full or the folder cannot be written.
    """
    record = undo_record(manifest)
    with exclusive_lock(record.with_name(f".{record.name}.lock"), "fixing a manifest in"):
        before = manifest.read_bytes() if manifest.exists() else None
        if before is not None:
            _check_unchanged(dataset, manifest)
        applied = follow(dataset, read_plan(plan))
        if not applied.done:
            refused = applied.refused
            why = f"; line {refused[0].line.number}: {refused[0].reason}" if refused else ""
            raise DataError(f"nothing in {plan} can be followed ({len(refused)} lines refused){why}")
        mended = Dataset(dataset.name, dataset.root, applied.samples, dataset.source)
        # Written next to it first: its digest must be in the undo record before it takes its place.
        draft = manifest.with_name(f".{manifest.stem}.draft.csv")
        try:
            write_manifest(draft, mended)
            content = draft.read_bytes()
        finally:
            draft.unlink(missing_ok=True)
        step = {
            "plan": plan.name,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "before": None if before is None else before.decode("utf-8", "surrogateescape"),
            "after_sha256": hashlib.sha256(content).hexdigest(),
            "done": [asdict(line) for line in applied.done],
        }
        write_json(record, {"format": _FORMAT, "steps": [*_steps(record), step]})
        write_atomically(manifest, lambda file: file.write(content))
    return Fix(manifest, record, applied)


def _check_unchanged(dataset: Dataset, manifest: Path) -> None:
    """Refuse to follow a plan from what a manifest was before somebody else's fix. Raises DataError."""
    if manifest.resolve() != dataset.root.resolve():
        raise DataError(
            f"{manifest} is there already and may hold an earlier fix: give that file itself as DATA to go on "
            "from it, take it back with --undo, or choose another place with --out"
        )
    now = {sample.path: (sample.label, sample.group) for sample in load_dataset(manifest).samples}
    then = {sample.path: (sample.label, sample.group) for sample in dataset.samples}
    if now.keys() != then.keys() or any(
        label != then[path][0] or group not in (None, then[path][1]) for path, (label, group) in now.items()
    ):
        raise DataError(f"{manifest} was changed since it was read, maybe by another fix; run it again")


def undo(manifest: Path) -> tuple[int, str]:
    """Take back the last fix of a manifest.

    Returns:
        How many earlier fixes can still be taken back, and what was done, in a sentence.

    Raises:
        DataError: there is nothing to take back, or the manifest was changed since.
        FerkitError: the folder cannot be written.
    """
    record = undo_record(manifest)
    with exclusive_lock(record.with_name(f".{record.name}.lock"), "fixing a manifest in"):
        steps = _steps(record)
        if not steps:
            raise DataError(f"there is no fix of {manifest} to take back")
        step = steps.pop()
        now = manifest.read_bytes() if manifest.exists() else None
        before = None if step["before"] is None else step["before"].encode("utf-8", "surrogateescape")
        if now == before:
            done = "the fix was recorded but never written"  # the machine went down in between
        elif now is None or hashlib.sha256(now).hexdigest() != step["after_sha256"]:
            raise DataError(
                f"{manifest} was changed after the fix, and taking it back would lose that; move the file away first"
                if now is not None
                else f"{manifest} is gone; put it back, or delete {record.name}"
            )
        elif before is None:
            manifest.unlink()
            done = f"{manifest} is removed; the data it was made from was never changed"
        else:
            write_atomically(manifest, lambda file: file.write(before))
            done = f"{manifest} is as it was before {step['plan']} ({step['when']})"
        if steps:
            write_json(record, {"format": _FORMAT, "steps": steps})
        else:
            record.unlink()
    return len(steps), done


def _steps(record: Path) -> list[dict[str, Any]]:
    if not record.exists():
        return []
    try:
        values = parse_json(read_regular(record))
        steps = values["steps"]
        whole = values["format"] <= _FORMAT and all(
            {"before", "after_sha256"} <= step.keys() for step in steps
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise FerkitError(f"{record} is not what was written; move it away to go on without undo")
    return list(steps)
