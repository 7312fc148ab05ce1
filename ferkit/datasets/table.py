"""CSV tables: ``path,label[,split][,group][,box][,attributes]``, and FER2013's own with its pixels inside."""

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import csv_text
from ferkit.datasets.arrays import ArraySource
from ferkit.datasets.columns import Columns
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource
from ferkit.datasets.folder import split_of

_BLOCK = 1 << 20

_FER2013_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
"""What 0..6 mean in fer2013.csv: not the alphabet's order, which folders of the same pictures have. The table of CK+
that has the same form has 7 too."""


def read_table(path: Path) -> Dataset:
    """Read a CSV file (UTF-8 or EUC-KR; with or without header) or FER2013's ``emotion,pixels,Usage``.

    Paths are relative to the CSV file, or absolute. Columns called left, top, right and bottom are the face's box
    in pixels, and what has no meaning of its own becomes an attribute. Without a header the columns are path and
    label. The data set that :func:`ferkit.datasets.manifest.write_manifest` wrote comes back as it was.

    Raises:
        DataError: not a readable table, or the columns are not there.
    """
    rows = table_rows(path)
    header = next(rows, [])
    names = [cell.strip().lower() for cell in header]
    if {"emotion", "pixels"} <= set(names):
        return _read_fer2013(path, rows, names)
    columns, first = Columns.of(header, path), 2
    if columns is None:
        if "label" in names or len(names) < 2:
            raise DataError(
                f"expected a column 'path' (and 'label', 'split', 'group') in {path}, found {names or 'nothing'}"
            )
        columns, first = Columns(path, 0, 1), 1
        rows = table_rows(path)  # the first line is data

    samples = []
    for number, row in enumerate(rows, first):
        if not any(row):
            continue
        try:
            samples.append(columns.sample(row))
        except DataError as error:
            raise DataError(
                f"row {number} of {path}: {error}; correct it, or let 'fer dataset import csv' leave such rows out"
            ) from None
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
                f"expected an emotion 0..7 and 48x48 pixels in row {number + 1} of {path}: {error}"
            ) from None
        split = split_of(row[usage], path) if usage is not None and usage < len(row) else None
        samples.append(Sample(f"{split or 'all'}/{number:06d}", label, split))
        images.append(image)
    if not images:
        raise DataError(f"expected pictures in {path}, found only a header")
    stored = {sample.path: i for i, sample in enumerate(samples)}
    return Dataset(path.stem, path, tuple(samples), ArraySource(path, np.stack(images), stored))


def table_rows(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """The rows of a CSV file in UTF-8 or EUC-KR, the header too; the file may be larger than the memory.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    try:
        encoding = _encoding(path)
        # newline="" leaves the ends of lines to the CSV reader: a quoted name may hold one.
        file = path.open(encoding=encoding, errors=_errors(encoding), newline="")
    except OSError as error:
        raise DataError(f"the table {path} cannot be read: {error.strerror}") from error
    return _parsed(file, path, delimiter)


def _encoding(path: Path) -> str:
    """Of ``utf-8-sig`` (the file says so itself), ``utf-8`` and ``cp949`` the first that the whole file is in."""
    decoders = {name: codecs.getincrementaldecoder(name)() for name in ("utf-8", "cp949")}
    # cp949 contains EUC-KR, what Korean Excel writes.
    with path.open("rb") as file:
        marked = file.read(3) == codecs.BOM_UTF8
        file.seek(0)
        while decoders:
            block = file.read(_BLOCK)
            if b"\0" in block:
                raise DataError(f"expected a CSV table, found binary data in {path}")
            for name, decoder in list(decoders.items()):
                try:
                    decoder.decode(block, final=not block)
                except UnicodeDecodeError:
                    del decoders[name]
            if not block:
                break
    if marked:
        return "utf-8-sig"
    if not decoders:
        raise DataError(f"expected {path} in UTF-8 or EUC-KR, found neither; save it as 'CSV UTF-8'")
    return next(iter(decoders))


def _errors(encoding: str) -> str:
    # What is no UTF-8 in a file that says it is are names of files, kept as the bytes they are.
    return "surrogateescape" if encoding == "utf-8-sig" else "strict"


def _parsed(file: TextIO, path: Path, delimiter: str) -> Iterator[list[str]]:
    with file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            yield from (list(map(csv_text, row)) for row in reader)
        except csv.Error as error:
            raise DataError(
                f"expected a CSV table in {path}, found damage in line {reader.line_num}: {error}"
            ) from None
        except OSError as error:
            raise DataError(f"the table {path} cannot be read: {error.strerror}") from error
