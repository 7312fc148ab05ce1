"""Annotated images of any kind, by looking at what is there."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import AIHUB_PERSON, Sample
from ferkit.datasets.formats.aihub import ANNOTATORS, read_aihub
from ferkit.datasets.formats.annotated import Annotated, Box, annotated, checked_box, files_below
from ferkit.datasets.formats.coco_voc import read_coco, read_voc
from ferkit.datasets.load import load_dataset
from ferkit.datasets.tables import Columns, table_rows

_CORNER_AND_SIZE = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
"""Names of columns that give a corner and a size, in lower case."""

_IMAGE_SIZE = ("width", "height")


def read_boxes(table: Path) -> Annotated:
    """Read a CSV file with a path, a box and perhaps label, split, group and more in each row.

    A box is four columns: ``left, top, right, bottom`` (also ``xmin, ymin, xmax, ymax``; ``x0, y0, x1, y1``; ``minX,
    minY, maxX, maxY``), or a corner and a size (``x, y, width, height``). Beside corners, ``width`` and ``height`` are
    the image's. Paths are relative to the table, or absolute. Rows without a box are images whose face has yet to
    be found.

    Raises:
        DataError: not a readable table, or the columns are not there.
    """
    rows = table_rows(table)
    header = next(rows, [])
    columns = Columns.of(header, table)
    if columns is None:
        raise DataError(
            f"expected columns 'path', 'left', 'top', 'right' and 'bottom' in {table}, found {header}"
        )
    numbers = _Numbers.of([cell.strip().lower() for cell in header], columns)
    # Boxes are read here, where one that is wrong costs its row and not the table.
    words = replace(
        columns, box=None, attributes=tuple(pair for pair in columns.attributes if pair[1] not in numbers.all)
    )
    faces: list[Sample] = []
    problems: list[tuple[str, str]] = []
    sizes_wh: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(rows, 2):
        if not any(row):
            continue
        try:
            sample = words.sample(row)
            faces.append(replace(sample, box=numbers.read_box(row)))
        except DataError as error:
            shown = row[columns.path].strip() if columns.path < len(row) else ""
            problems.append((shown or table.name, f"row {number}: {error}"))
            continue
        if (size := numbers.read_size(row)) is not None:
            sizes_wh[sample.path] = size
    return annotated(table, table.parent, faces, problems, sizes_wh)


@dataclass(frozen=True)
class _Numbers:
    """Columns of numbers: four of the box, and two of the image's size where a table has them."""

    box: tuple[int, ...]
    box_has_size: bool
    image_wh: tuple[int, ...]

    @staticmethod
    def of(names: Sequence[str], columns: Columns) -> "_Numbers":
        if columns.box is not None:
            has_image = set(_IMAGE_SIZE) <= set(names)
            return _Numbers(columns.box, False, tuple(map(names.index, _IMAGE_SIZE)) if has_image else ())
        four = next((four for four in _CORNER_AND_SIZE if set(four) <= set(names)), None)
        if four is None:
            raise DataError(
                "expected four columns of a box in "
                f"{columns.table} (left, top, right, bottom, or x, y, width, height), found {list(names)}"
            )
        return _Numbers(tuple(map(names.index, four)), True, ())

    @property
    def all(self) -> set[int]:
        return {*self.box, *self.image_wh}

    def read_box(self, row: Sequence[str]) -> Box | None:
        cells = [row[i].strip() if i < len(row) else "" for i in self.box]
        if not any(cells):
            return None
        try:
            a, b, c, d = map(float, cells)
        except ValueError:
            raise DataError(f"expected four numbers as box, found {cells}") from None
        return checked_box(a, b, a + c, b + d) if self.box_has_size else checked_box(a, b, c, d)

    def read_size(self, row: Sequence[str]) -> tuple[int, int] | None:
        cells = [row[i].strip() for i in self.image_wh if i < len(row)]
        if len(cells) != 2 or not all(cell.isdecimal() and int(cell) for cell in cells):
            return None
        return int(cells[0]), int(cells[1])


KINDS = ("auto", "aihub", "voc", "coco", "csv", "none")


def read_annotated(
    path: Path, kind: str = "auto", images: Path | None = None, person_pattern: str = AIHUB_PERSON
) -> Annotated:
    """Read images with whatever is known of the faces in them.

    Args:
        path: a folder, a table, or COCO's JSON file.
        kind: one of :data:`KINDS`; ``none`` takes no boxes but those of a manifest; ``auto`` takes a ``.json`` file for
            COCO's, a table with the columns of a box for boxes, a folder with XML files for VOC's, and one with JSON
            files that name AI Hub's annotators for AI Hub's.
        images: for COCO, the folder of the images.
        person_pattern: finds the person in a file name.

    Raises:
        DataError: nothing there, or nothing that is understood.
    """
    if kind == "auto":
        kind = _kind_of(path)
    if kind == "coco":
        return read_coco(path, images, person_pattern)
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
