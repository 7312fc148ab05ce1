"""Plans: what a person decided about each picture, as a CSV file, and what becomes of the samples."""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ferkit.audit.findings import VERBS
from ferkit.core.errors import DataError
from ferkit.core.files import csv_text
from ferkit.datasets.dataset import Dataset, Sample

COLUMNS = ("path", "action", "value", "label", "content", "finding")
"""Of a plan. ``path`` and ``action`` must be there; ``label`` and ``content`` are what was seen in the audit, and are
compared with what is there now; ``finding`` is for the reader."""


@dataclass(frozen=True)
class PlanLine:
    """One decision.

    Attributes:
        number: of the line in the file, from 1, the header being the first.
        path: of the picture.
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


def content_digest(content: bytes) -> str:
    """What :func:`ferkit.datasets.survey.survey` calls a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


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
    except csv.Error as error:
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
            reason = f"line {decided[key].number} decides about this picture already ({decided[key].action})"
        if reason:
            refused.append(Refusal(line, reason))
        else:
            decided[key] = line
            done.append(line)
    samples = []
    for sample in dataset.samples:
        picture, person = decided.get((sample.path, False)), decided.get((sample.path, True))
        if picture is not None and picture.action == "drop":
            continue
        if picture is not None and picture.action == "relabel":
            sample = replace(sample, label=picture.value)
        if person is not None:
            sample = replace(sample, group=person.value)
        samples.append(sample)
    if not samples:
        raise DataError("the plan drops every picture; nothing was written")
    return Applied(tuple(samples), tuple(done), tuple(refused))


def _obstacle(dataset: Dataset, sample: Sample | None, line: PlanLine, labels: set[str]) -> str:
    """Why a line cannot be followed; empty if it can."""
    if line.action not in VERBS:
        return f"expected an action out of {', '.join(VERBS)}, found {line.action or 'none'!r}"
    if sample is None:
        return "the data set has no such picture"
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
