"""Folders and tables as anybody may have them."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ferkit.core.labels import meaning_of
from ferkit.datasets.dataset import AIHUB_PERSON, FileSource, Sample, composed, read_folder, split_named
from ferkit.datasets.formats.annotated import Annotated, annotated
from ferkit.datasets.tables import parse_table

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
    return next((split for part in reversed(path.parent.parts) if (split := split_named(part))), None)


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
    """Read ``root/<class>/…`` or ``root/<split>/<class>/…``; files that are not taken are listed as problems.

    Raises:
        DataError: see :func:`ferkit.datasets.dataset.read_folder`.
    """
    dataset = read_folder(root, naming.person)
    problems = list(dataset.left_out)
    faces = [_named(sample, naming, problems) for sample in dataset.samples]
    return annotated(root, root, [face for face in faces if face is not None], problems)


def read_list(table: Path, naming: Naming, images: Path | None = None) -> Annotated:
    """Read a table with a path and a label in each row, see :func:`ferkit.datasets.tables.read_table`; find its images.

    Names are found however Hangul is composed in them, and in upper or lower case where only one fits. Rows that
    cannot be used are listed as problems: no path, a split of no known name, a box that is none, an image that is not
    there, or a second row of one image.

    Args:
        table: without a header the columns are path and label.
        naming: of columns and classes.
        images: the folder that paths are relative to; None takes that of the table.

    Raises:
        DataError: no such table, columns that are not there, or nothing that can be used.
    """
    folder = table.parent if images is None else images
    rows = parse_table(table, naming.columns, folder)
    source, person = FileSource(folder), re.compile(naming.person)
    faces: dict[str, Sample] = {}
    problems = rows.left_out
    for sample in rows.samples:
        try:
            path = source.on_disk(sample.path)
        except FileNotFoundError as error:
            problems.append((sample.path, f"it is not there: {error.strerror}"))
            continue
        if path in faces:
            problems.append((path, "an earlier row names the same image"))
            continue
        group = sample.group
        if group is None and (found := person.search(composed(path.rpartition("/")[2]))):
            group = found.group(1)
        named = _named(replace(sample, path=path, group=group), naming, problems)
        if named is not None:
            faces[path] = named
    return annotated(table, folder, faces.values(), problems)


def _named(sample: Sample, naming: Naming, problems: list[tuple[str, str]]) -> Sample | None:
    if naming.classes is None or sample.label is None:
        return sample
    label = class_of(sample.label, naming.classes)
    if label is None:
        problems.append((sample.path, f"its class is none of those given: {sample.label!r}"))
        return None
    return replace(sample, label=label)
