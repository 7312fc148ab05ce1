"""FER2013 as folders, with or without the votes of FER+ (Barsoum et al., ICMI 2016)."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ferkit.core.errors import DataError
from ferkit.core.labels import meaning_of
from ferkit.datasets.dataset import Sample, read_folder
from ferkit.datasets.formats.annotated import Annotated, annotated
from ferkit.datasets.tables import table_rows

EMOTIONS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
"""Columns of FER+, in its order; NF says that it is no face."""

_PREFIX = "ferplus_"
_ROW = re.compile(r"^(?:fer)?(\d{5,7})$", re.IGNORECASE)


def read_fer2013(root: Path, votes: Path | None = None, majority: bool = False) -> Annotated:
    """Read ``train/<emotion>/`` and ``test/<emotion>/``, and join the votes of FER+ as attributes ``ferplus_…``.

    Args:
        root: the folder.
        votes: ``fer2013new.csv`` of FER+, for images whose names hold their row in ``fer2013.csv``
            (``fer0000012.png``, ``000012.png``, as ``fer dataset export`` writes them); or a table with a column
            ``path`` and one for each emotion. None takes ``labels.csv`` in the folder, where it is one.
        majority: the label is what most of the ten taggers saw, of eight classes; images on which they are undecided,
            or most saw something unknown or no face, are left out and listed.

    Raises:
        DataError: no such folder, votes that do not belong to it, or ``majority`` without votes.
    """
    if root.is_file():
        raise DataError(
            f"the images of {root} lie inside that file, and a manifest refers to files; say where to write them "
            "with --extract FOLDER"
        )
    dataset = read_folder(root)
    own = root / "labels.csv"
    if votes is None and own.is_file() and _vote_columns(next(table_rows(own), [])):
        votes = own
    if votes is None:
        if majority:
            raise DataError(
                f"expected the votes of FER+ for {root}, found none; give fer2013new.csv with --votes"
            )
        return annotated(root, root, dataset.samples, [])
    table = _read_votes(votes, root)
    problems: list[tuple[str, str]] = []
    faces: list[Sample] = []
    n_found = 0
    for sample in dataset.samples:
        counts = table.get(sample.path) or table.get(_row_of(sample.path)) or {}
        n_found += bool(counts)
        if not counts:
            problems.append((sample.path, f"{votes.name} has no votes for it"))
            if majority:
                continue
        voted = replace(sample, attributes={**sample.attributes, **counts})
        if majority:
            winners, most = _winners(counts)
            if len(winners) > 1 or winners[0] in ("unknown", "NF"):
                why = f"FER+ is undecided or saw no expression: {', '.join(winners)} ({most} votes)"
                problems.append((sample.path, why))
                continue
            attributes = {**sample.attributes, "fer2013": sample.label or "", **counts}
            voted = replace(voted, label=meaning_of(winners[0]), attributes=attributes)
        faces.append(voted)
    if not n_found:
        raise DataError(
            f"{votes} has no votes for any image of {root}: names such as {dataset.samples[0].path} do not tell the "
            "row in fer2013.csv; import fer2013.csv itself with --extract"
        )
    return annotated(root, root, faces, problems)


def _winners(counts: Mapping[str, str]) -> tuple[list[str], int]:
    """The emotions with most votes, and how many they have."""
    numbers = {emotion: int(counts.get(_PREFIX + emotion) or 0) for emotion in EMOTIONS}
    most = max(numbers.values())
    return [emotion for emotion, n in numbers.items() if n == most], most


def _read_votes(votes: Path, root: Path) -> dict[object, dict[str, str]]:
    """Votes by path, or by row number where the table has no paths."""
    rows = table_rows(votes)
    header = next(rows, [])
    columns = _vote_columns(header)
    if not columns:
        raise DataError(
            f"expected columns {', '.join(EMOTIONS)} in {votes}, found {', '.join(header) or 'nothing'}"
        )
    names = [cell.strip().lower() for cell in header]
    path = names.index("path") if "path" in names else None
    table: dict[object, dict[str, str]] = {}
    for number, row in enumerate(rows):
        if len(row) < len(header):
            continue
        counts = {_PREFIX + emotion: row[i].strip() for emotion, i in columns.items()}
        if not all(count.isdecimal() for count in counts.values() if count):
            raise DataError(f"expected whole numbers of votes in {votes}, found {row} in row {number + 2}")
        # Paths are relative to the table, those of the images to the folder.
        key = number if path is None else os.path.relpath(votes.parent / row[path], root).replace(os.sep, "/")
        table[key] = counts if any(count.strip("0") for count in counts.values()) else {}
    return table


def _row_of(path: str) -> int | None:
    found = _ROW.match(PurePosixPath(path).stem)
    return int(found[1]) if found else None


def _vote_columns(header: list[str]) -> dict[str, int]:
    names = [cell.strip().lower().removeprefix(_PREFIX) for cell in header]
    if not {emotion.lower() for emotion in EMOTIONS[:8]} <= set(names):
        return {}
    return {emotion: names.index(emotion.lower()) for emotion in EMOTIONS if emotion.lower() in names}
