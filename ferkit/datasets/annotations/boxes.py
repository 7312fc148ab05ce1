"""Tables with a box in each row, several rows a picture allowed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.annotations.annotated import Annotated, Box, annotated, checked_box
from ferkit.datasets.columns import Columns
from ferkit.datasets.dataset import Sample
from ferkit.datasets.table import table_rows

_CORNER_AND_SIZE = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
"""Names of columns that give a corner and a size, in lower case."""

_PICTURE_SIZE = ("width", "height")


def read_boxes(table: Path) -> Annotated:
    """Read a CSV file with a path, a box and perhaps label, split, group and more in each row.

    A box is four columns: ``left, top, right, bottom`` (also ``xmin, ymin, xmax, ymax``; ``x0, y0, x1, y1``; ``minX,
    minY, maxX, maxY``), or a corner and a size (``x, y, width, height``). Beside corners, ``width`` and ``height`` are
    the picture's. Paths are relative to the table, or absolute. Rows without a box are pictures whose face has yet to
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
    """Columns of numbers: four of the box, and two of the picture's size where a table has them."""

    box: tuple[int, ...]
    box_has_size: bool
    picture_wh: tuple[int, ...]

    @staticmethod
    def of(names: Sequence[str], columns: Columns) -> "_Numbers":
        if columns.box is not None:
            has_picture = set(_PICTURE_SIZE) <= set(names)
            return _Numbers(columns.box, False, tuple(map(names.index, _PICTURE_SIZE)) if has_picture else ())
        four = next((four for four in _CORNER_AND_SIZE if set(four) <= set(names)), None)
        if four is None:
            raise DataError(
                "expected four columns of a box in "
                f"{columns.table} (left, top, right, bottom, or x, y, width, height), found {list(names)}"
            )
        return _Numbers(tuple(map(names.index, four)), True, ())

    @property
    def all(self) -> set[int]:
        return {*self.box, *self.picture_wh}

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
        cells = [row[i].strip() for i in self.picture_wh if i < len(row)]
        if len(cells) != 2 or not all(cell.isdecimal() and int(cell) for cell in cells):
            return None
        return int(cells[0]), int(cells[1])
