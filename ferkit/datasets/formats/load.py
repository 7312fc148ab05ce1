"""Images with annotations of any kind: by looking at what is there, or as folders and tables that anybody may have."""

import codecs
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import AIHUB_PERSON, FileSource, Sample, read_folder
from ferkit.datasets.formats.aihub import ANNOTATORS, read_aihub
from ferkit.datasets.formats.annotated import (
    Annotated,
    annotated,
    checked_box,
    class_of,
    files_below,
    person_in,
)
from ferkit.datasets.formats.coco_voc import read_coco, read_voc
from ferkit.datasets.load import load_dataset
from ferkit.datasets.tables import TABLE_SUFFIXES, parse_table, table_columns

KINDS = ("auto", "aihub", "voc", "coco", "csv", "none")


def read_annotated(
    path: Path,
    kind: str = "auto",
    images: Path | None = None,
    person_pattern: str = AIHUB_PERSON,
    columns: Mapping[str, str] | None = None,
) -> Annotated:
    """Read images with all that is known of the faces in them.

    Args:
        path: a folder, a table, or COCO's JSON file.
        kind: one of :data:`KINDS`; ``none`` takes no boxes but those of a manifest; ``auto`` takes a ``.json`` file for
            COCO's, a table with the columns of a box for boxes, a folder with XML files for VOC's, and one with JSON
            files that name AI Hub's annotators for AI Hub's.
        images: for COCO, the folder of the images.
        person_pattern: finds the person in a file name.
        columns: for tables, name of the column by meaning.

    Raises:
        DataError: nothing there, or nothing that is understood.
    """
    if kind == "auto":
        kind = _kind_of(path, columns)
    if kind == "coco":
        return read_coco(path, images, person_pattern)
    if kind == "aihub":
        return read_aihub(path)
    if kind == "voc":
        return read_voc(path, person_pattern)
    if kind == "csv":
        return read_boxes(path, columns)
    if kind == "none":
        dataset = load_dataset(path, person_pattern, columns)
        return Annotated(dataset, dataset.left_out)
    raise DataError(f"expected a kind of annotations out of {', '.join(KINDS)}, found {kind!r}")


def read_boxes(table: Path, columns: Mapping[str, str] | None = None) -> Annotated:
    """Read a table with a path, a box and perhaps label, split, group and more in each row, several rows an image.

    A box is four columns: ``left, top, right, bottom`` (also ``xmin, ymin, xmax, ymax``; ``x0, y0, x1, y1``; ``minX,
    minY, maxX, maxY``), or a corner and a size (``x, y, width, height``). Next to corners, ``width`` and ``height`` are
    the image's. Paths are relative to the table, or absolute. Rows without a box are images whose face has yet to be
    found.

    Raises:
        DataError: not a readable table, or the columns are not there.
    """
    rows = parse_table(table, columns)
    if rows.columns.box is None:
        found = ", ".join(name for name, _ in rows.columns.attributes)
        raise DataError(
            f"expected four columns of a box in {table} (left, top, right, bottom, or x, y, width, height), "
            f"found {found or 'none'}"
        )
    faces, sizes_wh = [], {}
    for sample in rows.samples:
        try:
            box = None if sample.box is None else checked_box(*sample.box)
        except DataError as error:
            rows.left_out.append((sample.path, str(error)))
            continue
        rest = dict(sample.attributes)
        size = [rest.pop(name, "") for name in ("width", "height")]
        if all(cell.isdecimal() and int(cell) for cell in size):
            sizes_wh[sample.path] = int(size[0]), int(size[1])
        faces.append(replace(sample, box=box, attributes=rest))
    return annotated(table, table.parent, faces, rows.left_out, sizes_wh)


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
    source = FileSource(folder)
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
        group = sample.group or person_in(path, naming.person)
        named = _named(replace(sample, path=path, group=group), naming, problems)
        if named is not None:
            faces[path] = named
    return annotated(table, folder, faces.values(), problems)


def _named(sample: Sample, naming: Naming, problems: list[tuple[str, str]]) -> Sample | None:
    if naming.classes is None or sample.label is None:
        return sample
    try:
        why = f"its class is none of those given: {sample.label!r}"
        return replace(sample, label=class_of(sample.label, naming.classes, why))
    except DataError as error:
        problems.append((sample.path, str(error)))
        return None


def _kind_of(path: Path, columns: Mapping[str, str] | None) -> str:
    if path.is_dir():
        if any(_is_aihub(path / file) for file in files_below(path, ".json")[:20]):
            return "aihub"
        return "voc" if files_below(path, ".xml") else "none"
    if path.suffix.lower() == ".json":
        return "coco"
    if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
        with contextlib.suppress(DataError):  # load_dataset says what is wrong with it
            return "none" if table_columns(path, columns).box is None else "csv"
    return "none"


def _is_aihub(file: Path) -> bool:
    """Whether the beginning names an annotator; where that is broken, the other files decide."""
    try:
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
    except OSError:
        return False
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = head[: len(head) // 2 * 2].decode("utf-16" if wide else "latin-1", "replace")
    return any(f'"{name}"' in text for name in ANNOTATORS)
