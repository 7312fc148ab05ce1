"""Annotated pictures of any kind, by looking at what is there."""

import codecs
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.annotations.aihub import ANNOTATORS, read_aihub
from ferkit.datasets.annotations.annotated import Annotated
from ferkit.datasets.annotations.boxes import read_boxes
from ferkit.datasets.annotations.coco import read_coco
from ferkit.datasets.annotations.join import files_below
from ferkit.datasets.annotations.voc import read_voc
from ferkit.datasets.columns import Columns
from ferkit.datasets.folder import AIHUB_PERSON
from ferkit.datasets.load import load_dataset
from ferkit.datasets.table import table_rows

KINDS = ("auto", "aihub", "voc", "coco", "csv", "none")


def read_annotated(
    path: Path, kind: str = "auto", pictures: Path | None = None, person_pattern: str = AIHUB_PERSON
) -> Annotated:
    """Read pictures with whatever is known of the faces in them.

    Args:
        path: a folder, a table, or COCO's JSON file.
        kind: one of :data:`KINDS`; ``none`` takes no boxes but those of a manifest; ``auto`` takes a ``.json`` file for
            COCO's, a table with the columns of a box for boxes, a folder with XML files for VOC's, and one with JSON
            files that name AI Hub's annotators for AI Hub's.
        pictures: for COCO, the folder of the pictures.
        person_pattern: finds the person in a file name.

    Raises:
        DataError: nothing there, or nothing that is understood.
    """
    if kind == "auto":
        kind = _kind_of(path)
    if kind == "coco":
        return read_coco(path, pictures, person_pattern)
    if kind == "aihub":
        return read_aihub(path)
    if kind == "voc":
        return read_voc(path, person_pattern)
    if kind == "csv":
        return read_boxes(path)
    if kind == "none":
        return Annotated(load_dataset(path, person_pattern))
    raise DataError(f"expected a kind of annotations out of {', '.join(KINDS)}, found {kind!r}")


def _kind_of(path: Path) -> str:
    if path.is_dir():
        if any(_is_aihub(path / file) for file in files_below(path, ".json")[:20]):
            return "aihub"
        return "voc" if files_below(path, ".xml") else "none"
    if path.suffix.lower() == ".json":
        return "coco"
    if path.suffix.lower() == ".csv" and path.is_file():
        columns = Columns.of(next(table_rows(path), []), path)
        return "csv" if columns is not None and columns.box is not None else "none"
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
