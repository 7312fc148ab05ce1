"""Annotated images of any kind, by looking at what is there."""

import codecs
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import AIHUB_PERSON
from ferkit.datasets.formats.aihub import ANNOTATORS, read_aihub
from ferkit.datasets.formats.annotated import Annotated, annotated, checked_box, files_below
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
    """Read images with whatever is known of the faces in them.

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
    rows = parse_table(table, columns, box=checked_box)
    if rows.columns.box is None:
        found = ", ".join(name for name, _ in rows.columns.attributes)
        raise DataError(
            f"expected four columns of a box in {table} (left, top, right, bottom, or x, y, width, height), "
            f"found {found or 'none'}"
        )
    faces, sizes_wh = [], {}
    for sample in rows.samples:
        rest = dict(sample.attributes)
        size = [rest.pop(name, "") for name in ("width", "height")]
        if all(cell.isdecimal() and int(cell) for cell in size):
            sizes_wh[sample.path] = int(size[0]), int(size[1])
        faces.append(replace(sample, attributes=rest))
    return annotated(table, table.parent, faces, rows.left_out, sizes_wh)


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
