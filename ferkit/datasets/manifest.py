"""Manifests: a data set as a small CSV file that refers to pictures and copies none.

One row a picture, sorted by path, in UTF-8, so that git can hold and compare it::

    path,label,split,group,left,top,right,bottom,source,sex
    ../aihub/기쁨/a.jpg,happy,train,aihub/3f…,412,220,1180,1004,aihub,female
    ../fer2013/train/sad/b.png,sad,train,,,,,,fer2013,

Paths are relative to the manifest where that is possible, and columns that would be empty are left out.
:func:`ferkit.datasets.table.read_table` reads it.
"""

import csv
import io
import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TextIO

from ferkit.core.errors import DataError
from ferkit.core.files import csv_cell, write_atomically
from ferkit.datasets.columns import BOX, BOX_SPELLINGS, MEANINGS
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource
from ferkit.datasets.table import table_rows

SOURCE = "source"
"""The attribute that says which data set a picture came from."""


def write_manifest(path: Path, dataset: Dataset) -> None:
    """Write ``dataset`` as a manifest; the pictures stay where they are.

    Args:
        path: the file, ``.csv``; an older manifest there is replaced.
        dataset: of pictures in files: a folder, a table, or another manifest.

    Raises:
        DataError: the pictures lie in an array, a name cannot stand in a table, or ``path`` holds something else.
        FerkitError: the disk is full or the folder cannot be written.
    """
    if path.suffix.lower() != ".csv":
        raise DataError(f"expected a name that ends in .csv for a manifest, found {path}")
    if path.is_file() and path.stat().st_size and not next(table_rows(path), [""])[0].startswith("path"):
        raise DataError(f"{path} is there and is no manifest; choose another name, or move it away")
    samples = sorted(relocated(dataset, path.parent), key=lambda sample: sample.path)
    # Names of files that are not UTF-8 stay the bytes they are; a mark tells the reader what the rest is.
    encoding = "utf-8" if all(_is_unicode(sample.path) for sample in samples) else "utf-8-sig"

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
        write_rows(samples, text)
        text.flush()
        text.detach()

    write_atomically(path, write)


def relocated(dataset: Dataset, folder: Path) -> list[Sample]:
    """The samples of ``dataset`` with paths relative to ``folder``, or absolute ones on another drive.

    Below ``folder`` the way a user named the data is kept, symbolic links and all; from elsewhere the way leads
    through real folders, since ``..`` after a link goes somewhere else.

    Raises:
        DataError: the pictures lie in an array.
    """
    if not isinstance(dataset.source, FileSource):
        raise DataError(
            f"the pictures of {dataset.root} lie inside that one file, and a manifest refers to files; "
            f"write them out first: fer dataset export {dataset.root} -o FOLDER"
        )
    root = dataset.source.root
    real = _way(folder.resolve(), root.resolve())
    named = _way(Path(os.path.abspath(folder)), Path(os.path.abspath(root)))
    if named.split("/")[0] == ".." or os.path.isabs(named):
        named = real
    seen_from_folder: dict[str, str] = {}
    samples = []
    for sample in dataset.samples:
        parent, slash, name = sample.path.rpartition("/")
        if parent not in seen_from_folder:
            way = real if ".." in parent.split("/") else named
            joined = posixpath.normpath(posixpath.join(way, parent + slash or "."))
            seen_from_folder[parent] = "" if joined == "." else joined.rstrip("/") + "/"
        samples.append(at_path(sample, seen_from_folder[parent] + name))
    return samples


def at_path(sample: Sample, path: str) -> Sample:
    """The same sample under another path."""
    # dataclasses.replace would take longer than all else that is done with a row.
    return Sample(path, sample.label, sample.split, sample.group, sample.box, sample.attributes)


def write_rows(samples: Sequence[Sample], file: TextIO) -> None:
    """Write samples in their order as CSV; columns that would be empty are left out.

    Raises:
        DataError: a path that a table would not give back, or an attribute called like a column.
    """
    names = attribute_names(samples)
    reserved = {"path", "label", "split", "group", *BOX}
    if clashes := reserved & {name.lower() for name in names}:
        raise DataError(f"expected other names for attributes than {sorted(clashes)}; rename them")
    lower = {name.lower() for name in names}
    # A column is also written where an attribute would be taken for it, as 'subject' would be for a missing group.
    with_label, with_split, with_group = (
        any(getattr(sample, meaning) for sample in samples) or not lower.isdisjoint(MEANINGS[meaning])
        for meaning in ("label", "split", "group")
    )
    with_box = any(s.box is not None for s in samples) or any(set(four) <= lower for four in BOX_SPELLINGS)
    present = zip(("label", "split", "group"), (with_label, with_split, with_group), strict=True)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            "path",
            *(meaning for meaning, there in present if there),
            *(BOX if with_box else ()),
            *map(csv_cell, names),
        ]
    )
    for sample in samples:
        path = sample.path
        if path != path.strip() or "\\" in path:
            raise DataError(
                f"the name {path!r} begins or ends with a blank or holds a backslash, which tables do not keep; "
                "rename the file"
            )
        row: list[str | None] = [csv_cell(path)]
        if with_label:
            row.append(csv_cell(sample.label))
        if with_split:
            row.append(csv_cell(sample.split))
        if with_group:
            row.append(csv_cell(sample.group))
        if with_box:
            row += (None,) * 4 if sample.box is None else (f"{value:.7g}" for value in sample.box)
        row += (csv_cell(sample.attributes.get(name)) for name in names)
        writer.writerow(row)


def attribute_names(samples: Iterable[Sample]) -> list[str]:
    """Names of all attributes, ``source`` first, then as they first appear."""
    names: dict[str, None] = {}
    for sample in samples:
        if not sample.attributes.keys() <= names.keys():
            names.update(dict.fromkeys(sample.attributes))
    return sorted(names, key=lambda name: name != SOURCE)


def _way(start: Path, goal: Path) -> str:
    """POSIX path from one folder to another, absolute where they lie on different drives."""
    try:
        return Path(os.path.relpath(goal, start)).as_posix()
    except ValueError:
        return goal.as_posix()


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
