"""Folders and tables as anybody may have them."""

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ferkit.core.errors import DataError
from ferkit.core.labels import meaning_of
from ferkit.datasets.dataset import AIHUB_PERSON, SPLIT_NAMES, Sample, read_folder
from ferkit.datasets.formats.annotated import Annotated, annotated
from ferkit.datasets.tables import MEANINGS, Columns, box_of, table_rows

_NUMBER = re.compile(r"\d+")


def class_of(text: str, names: Mapping[int, str]) -> str | None:
    """The class that ``text`` names, by its number (``3``, ``class003``, ``3.0``) or in words; None if it is none."""
    folded = unicodedata.normalize("NFC", text).strip()
    try:
        value = float(folded)
        return names.get(int(value)) if value == int(value) else None
    except (ValueError, OverflowError):
        pass
    by_meaning = {meaning_of(name): name for name in names.values()}
    if meaning_of(folded) in by_meaning:
        return by_meaning[meaning_of(folded)]
    found = _NUMBER.findall(folded)
    return names.get(int(found[-1])) if len(found) == 1 else None


def split_in(path: PurePosixPath) -> str | None:
    """``train``, ``val`` or ``test`` after a folder on the way: ``train``, ``val_set``, ``Training``."""
    for part in reversed(path.parent.parts):
        word = part.lower().replace("-", "_")
        split = SPLIT_NAMES.get(word) or SPLIT_NAMES.get(word.split("_")[0])
        if split:
            return split
    return None


_NOT_IMAGES = frozenset({".db", ".ini", ".ds_store"})


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What the words of a layout mean.

    Attributes:
        classes: names by number, where labels or folders are numbers; None where they are names.
        columns: name of the column by meaning (``path``, ``label``, ``split``, ``group``), where a table calls them
            something else.
        person: regular expression whose first group finds the person in a file name.
    """

    classes: Mapping[int, str] | None = None
    columns: Mapping[str, str] | None = None
    person: str = AIHUB_PERSON


def read_folders(root: Path, naming: Naming) -> Annotated:
    """Read ``root/<class>/…`` or ``root/<split>/<class>/…``; files that are no images are listed as problems.

    Raises:
        DataError: see :func:`ferkit.datasets.dataset.read_folder`.
    """
    dataset = read_folder(root, naming.person)
    listed = {sample.path for sample in dataset.samples}
    problems = [
        (path, "it is not called like an image (.jpg, .png, …)")
        for path in _files(root)
        if path not in listed and os.path.splitext(path)[1].lower() not in _NOT_IMAGES
    ]
    faces = [_named(sample, naming, problems) for sample in dataset.samples]
    return annotated(root, root, [face for face in faces if face is not None], problems)


def read_list(table: Path, naming: Naming, images: Path | None = None) -> Annotated:
    """Read a table of any delimiter with a path and a label in each row, and find the images it means.

    Names are found however Hangul is composed in them, and in upper or lower case where only one fits. Rows that
    cannot be used are listed as problems: no path, a split of no known name, a box that is none, an image that is not
    there, or a second row of one image.

    Args:
        table: in UTF-8 or EUC-KR; without a header the columns are path and label.
        naming: of columns and classes.
        images: the folder that paths are relative to; None takes that of the table.

    Raises:
        DataError: no such table, columns that are not there, or nothing that can be used.
    """
    folder = table.parent if images is None else images
    delimiter = _delimiter(table)
    rows = table_rows(table, delimiter)
    header = next(rows, [])
    columns, first = _columns(header, naming, table), 2
    if columns is None:
        columns, first = Columns(table, 0, 1), 1
        rows = table_rows(table, delimiter)
    words, box = replace(columns, box=None), columns.box
    person = re.compile(naming.person)
    disk = _Disk(folder)
    faces: dict[str, Sample] = {}
    problems: list[tuple[str, str]] = []
    for number, row in enumerate(rows, first):
        if not any(row):
            continue
        try:
            sample = words.sample(row)
            path = disk.find(sample.path)
            if path in faces:
                raise DataError("an earlier row names the same image")
        except DataError as error:
            problems.append((row[columns.path] if columns.path < len(row) else "", f"row {number}: {error}"))
            continue
        try:
            face = box_of([row[i] if i < len(row) else "" for i in box]) if box else None
        except DataError as error:
            problems.append((path, f"row {number}: {error}; the image is taken without a box"))
            face = None
        group = sample.group
        if group is None and (found := person.search(unicodedata.normalize("NFC", path.rpartition("/")[2]))):
            group = found.group(1)
        named = _named(replace(sample, path=path, box=face, group=group), naming, problems)
        if named is not None:
            faces[path] = named
    return annotated(table, folder, faces.values(), problems)


def _columns(header: list[str], naming: Naming, table: Path) -> Columns | None:
    """The columns, after those that go by other names are called as they are meant."""
    if not naming.columns:
        columns = Columns.of(header, table)
        if columns is None and (
            {cell.strip().lower() for cell in header} & {*MEANINGS["label"]} or len(header) < 2
        ):
            raise DataError(
                f"expected a column with paths in {table}, found {', '.join(header) or 'nothing'}; name it with "
                "--path-column"
            )
        return columns
    renamed = [cell.strip() for cell in header]
    for meaning, name in naming.columns.items():
        if name not in renamed:
            raise DataError(f"expected a column {name!r} in {table}, found {', '.join(renamed)}")
        at = renamed.index(name)
        # Another column of the plain name keeps its content as an attribute.
        renamed = [
            f"{cell}_" if cell.lower() == meaning and i != at else cell for i, cell in enumerate(renamed)
        ]
        renamed[at] = meaning
    columns = Columns.of(renamed, table)
    if columns is None:
        raise DataError(
            f"expected a column with paths in {table}, found {', '.join(header)}; name it with --path-column"
        )
    return columns


def _named(sample: Sample, naming: Naming, problems: list[tuple[str, str]]) -> Sample | None:
    if naming.classes is None or sample.label is None:
        return sample
    label = class_of(sample.label, naming.classes)
    if label is None:
        problems.append((sample.path, f"its class {sample.label!r} is none of those given"))
        return None
    return replace(sample, label=label)


def _delimiter(table: Path) -> str:
    """Comma, semicolon or tab, whichever the first line has most of."""
    try:
        with table.open("rb") as file:
            first = file.readline(1 << 16)
    except OSError as error:
        raise DataError(f"the table {table} cannot be read: {error.strerror}") from None
    return max(",;\t", key=lambda sign: first.count(sign.encode()))


def _files(root: Path) -> list[str]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name[0] != "."]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in names if name[0] != "."]
    return sorted(found)


class _Disk:
    """Files as they are really called; each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, tuple[set[str], dict[str, list[str]]] | None] = {}

    def find(self, path: str) -> str:
        """``path`` as the disk has it.

        Raises:
            DataError: there is none, or two that differ only in case.
        """
        parent, slash, name = path.rpartition("/")
        parent += slash
        if parent not in self._folders:
            self._folders[parent] = self._list(parent)
        listed = self._folders[parent]
        if listed is None:  # the folder itself may be composed in another way
            real = self._folder(parent.rstrip("/"))
            if real is None:
                raise DataError("its folder is not there")
            return self.find(f"{real}/{name}")
        names, alike = listed
        if name in names:
            return path
        candidates = alike.get(_folded(name), [])
        if len(candidates) != 1:
            raise DataError(
                "it is not there" if not candidates else "several files differ from it only in case"
            )
        return f"{parent}{candidates[0]}"

    def _folder(self, path: str) -> str | None:
        try:
            return self.find(path) if path else None
        except DataError:
            return None

    def _list(self, parent: str) -> tuple[set[str], dict[str, list[str]]] | None:
        try:
            names = os.listdir(self._root / parent)
        except OSError:
            return None
        alike: dict[str, list[str]] = {}
        for name in names:
            alike.setdefault(_folded(name), []).append(name)
        return set(names), alike


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
