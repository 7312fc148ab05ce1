"""What came out, as tables: ``labels.csv`` of the crops for other commands, ``crops.csv`` of everything for people."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ferkit.core.files import csv_cell, write_atomically
from ferkit.datasets.annotations.annotated import Annotated
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource
from ferkit.datasets.manifest import write_manifest
from ferkit.faces.crop_run.journal import Journal
from ferkit.faces.crop_run.outcome import Status
from ferkit.faces.crop_run.plan import PlannedPicture

COLUMNS = (
    "path", "output", "status", "reason", "left", "top", "right", "bottom", "score", "sharpness", "label",
)  # fmt: skip
ORIGINAL = "original"
"""The attribute of a crop that says which picture it was cut from."""


def write_tables(annotated: Annotated, plan: list[PlannedPicture], journal: Journal) -> tuple[Path, Path]:
    """Write both into the journal's folder; without any crop there is no ``labels.csv``.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    table, report = journal.out / "labels.csv", journal.out / "crops.csv"
    crops: list[Sample] = []
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path, reason in sorted(annotated.problems):
        writer.writerow([csv_cell(path), "", Status.ANNOTATION.value, csv_cell(reason), *[""] * 7])
    for picture in plan:
        for row, crop in _faces(picture, journal):
            writer.writerow(row)
            if crop is not None:
                crops.append(crop)
    content = buffer.getvalue().encode("utf-8", "surrogateescape")
    write_atomically(report, lambda file: file.write(content))
    if crops:
        write_manifest(table, Dataset(journal.out.name, journal.out, tuple(crops), FileSource(journal.out)))
    else:
        table.unlink(missing_ok=True)
    return table, report


def _faces(picture: PlannedPicture, journal: Journal) -> Iterator[tuple[list[object], Sample | None]]:
    """A row for the report, and the sample of the crop if there is one, of each face of a picture."""
    for number, face in enumerate(journal.records[picture.path].faces):
        outcome, planned = face.outcome, picture.face(face.outcome.mark, number)
        sample = planned.sample
        reason = "; ".join(filter(None, (outcome.reason, planned.note if face.output else "")))
        box = outcome.box or ("",) * 4
        row = [
            csv_cell(picture.path), csv_cell(face.output), outcome.status.value, csv_cell(reason), *box,
            outcome.score, outcome.sharpness, csv_cell(sample.label),
        ]  # fmt: skip
        if face.output is None:
            yield row, None
            continue
        attributes = {**sample.attributes, ORIGINAL: picture.path}
        yield row, Sample(face.output, sample.label, sample.split, sample.group, None, attributes)
