"""CSV tables: ``path,label[,split][,group]``, and FER2013's own with its pixels inside."""

import csv
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.arrays import ArraySource
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource
from ferkit.datasets.folder import split_of

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"),
    "label": ("label", "emotion", "expression", "class", "category", "target"),
    "split": ("split", "usage", "subset", "partition", "fold"),
    "group": ("group", "person", "subject", "person_id", "subject_id", "identity"),
}

_FER2013_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""What 0..6 mean in fer2013.csv: not the alphabet's order, which folders of the same pictures have."""


def read_table(path: Path) -> Dataset:
    """Read a CSV file (UTF-8 or EUC-KR; with or without header) or FER2013's ``emotion,pixels,Usage``.

    Paths are relative to the CSV file, or absolute. Without a header the columns are path and label.

    Raises:
        DataError: not a readable table, or the columns are not there.
    """
    rows = _rows(path)
    header = [cell.strip().lower() for cell in next(rows, [])]
    if {"emotion", "pixels"} <= set(header):
        return _read_fer2013(path, rows, header)
    columns = {
        meaning: next((header.index(name) for name in names if name in header), None)
        for meaning, names in _COLUMNS.items()
    }
    if columns["path"] is None:
        if "label" in header or len(header) < 2:
            raise DataError(
                f"expected a column 'path' (and 'label', 'split', 'group') in {path}, found {header or 'nothing'}"
            )
        columns = {"path": 0, "label": 1, "split": None, "group": None}
        rows = _rows(path)  # the first line is data

    samples = []
    for number, row in enumerate(rows, 1):
        if not any(row):
            continue
        cells = {}
        for meaning, column in columns.items():
            cells[meaning] = row[column].strip() if column is not None and column < len(row) else ""
        if not cells["path"]:
            raise DataError(f"expected a path in every row of {path}, found none in row {number}: {row}")
        samples.append(
            Sample(
                path=cells["path"].replace("\\", "/"),
                label=unicodedata.normalize("NFC", cells["label"]) or None,
                split=split_of(cells["split"], path),
                group=unicodedata.normalize("NFC", cells["group"]) or None,
            )
        )
    return Dataset(path.stem, path, tuple(samples), FileSource(path.parent))


def _read_fer2013(path: Path, rows: Iterator[list[str]], header: list[str]) -> Dataset:
    emotion, pixels = header.index("emotion"), header.index("pixels")
    usage = header.index("usage") if "usage" in header else None
    names = dict(enumerate(_FER2013_EMOTIONS))
    samples, images = [], []
    for number, row in enumerate(row for row in rows if any(row)):
        try:
            label = names[int(row[emotion])]
            image = np.array(row[pixels].split(), np.uint8).reshape(48, 48)
        except (ValueError, LookupError, OverflowError) as error:
            raise DataError(
                f"expected an emotion 0..6 and 48x48 pixels in row {number + 1} of {path}: {error}"
            ) from None
        split = split_of(row[usage], path) if usage is not None and usage < len(row) else None
        samples.append(Sample(f"{split or 'all'}/{number:06d}", label, split))
        images.append(image)
    if not images:
        raise DataError(f"expected pictures in {path}, found only a header")
    stored = {sample.path: i for i, sample in enumerate(samples)}
    return Dataset(path.stem, path, tuple(samples), ArraySource(path, np.stack(images), stored))


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"the table {path} cannot be read: {error.strerror}") from error
    for encoding in ("utf-8-sig", "cp949"):  # cp949 contains EUC-KR, what Korean Excel writes
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise DataError(f"expected {path} in UTF-8 or EUC-KR, found neither; save it as 'CSV UTF-8'")
    if "\0" in text:
        raise DataError(f"expected a CSV table, found binary data in {path}")
    return _parsed(text, path)


def _parsed(text: str, path: Path) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(
            f"expected a CSV table in {path}, found damage in line {reader.line_num}: {error}"
        ) from None
