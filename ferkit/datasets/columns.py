"""What the columns of a table of pictures mean, and how a row becomes a sample."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Sample
from ferkit.datasets.folder import split_of

MEANINGS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"),
    "label": ("label", "emotion", "expression", "class", "category", "target"),
    "split": ("split", "usage", "subset", "partition", "fold"),
    "group": ("group", "person", "subject", "person_id", "subject_id", "identity"),
}
"""Names of columns, in lower case, the one that a manifest uses first."""

BOX = ("left", "top", "right", "bottom")
BOX_SPELLINGS = (
    BOX,
    ("xmin", "ymin", "xmax", "ymax"),
    ("minx", "miny", "maxx", "maxy"),
    ("x0", "y0", "x1", "y1"),
)
"""Names of the four columns of a face's box in pixels, in lower case, the ones that a manifest uses first."""


class Memo(dict[str, str | None]):
    """Remembers what a function made of a cell: tables repeat the same few words in many rows."""

    def __init__(self, function: Callable[[str], str | None]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, cell: str) -> str | None:
        value = self[cell] = self._function(cell)
        return value


@dataclass(frozen=True)
class Columns:
    """Where a table keeps what, by column number.

    Attributes:
        table: the file, for messages and for :func:`ferkit.datasets.folder.split_of`.
        path: of the picture.
        label, split, group: None where there is no such column.
        box: left, top, right, bottom; None where there are not all four.
        attributes: name and column of everything else.
    """

    table: Path
    path: int
    label: int | None = None
    split: int | None = None
    group: int | None = None
    box: tuple[int, int, int, int] | None = None
    attributes: tuple[tuple[str, int], ...] = ()
    _labels: Memo = field(init=False, repr=False, compare=False)
    _splits: Memo = field(init=False, repr=False, compare=False)
    _values: Memo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Names typed on a Mac hold Hangul as single jamo; classes and persons must have one name everywhere.
        object.__setattr__(
            self, "_labels", Memo(lambda cell: unicodedata.normalize("NFC", cell.strip()) or None)
        )
        object.__setattr__(self, "_splits", Memo(lambda cell: split_of(cell, self.table)))
        object.__setattr__(self, "_values", Memo(lambda cell: cell.strip() or None))

    @staticmethod
    def of(header: Sequence[str], table: Path) -> "Columns | None":
        """The columns that ``header`` names; None if no column is called like a path."""
        names = [cell.strip().lower() for cell in header]
        found = {
            meaning: next((names.index(name) for name in spellings if name in names), None)
            for meaning, spellings in MEANINGS.items()
        }
        if found["path"] is None:
            return None
        spelling = next((four for four in BOX_SPELLINGS if set(four) <= set(names)), ())
        box = tuple(names.index(name) for name in spelling)
        taken = {*found.values(), *box}
        rest = tuple((cell.strip(), i) for i, cell in enumerate(header) if i not in taken and cell.strip())
        return Columns(table, found["path"], found["label"], found["split"], found["group"],
                       box if len(box) == 4 else None, rest)  # fmt: skip

    def sample(self, row: Sequence[str]) -> Sample:
        """What a row says; cells that are missing at its end count as empty.

        Raises:
            DataError: no path, a split of no known name, or a box that is none.
        """
        n = len(row)
        path = row[self.path].strip().replace("\\", "/") if self.path < n else ""
        if not path:
            raise DataError("expected a path in every row, found none")
        label, split, group = self.label, self.split, self.group
        return Sample(
            path,
            self._labels[row[label]] if label is not None and label < n else None,
            self._splits[row[split]] if split is not None and split < n else None,
            self._labels[row[group]] if group is not None and group < n else None,
            None if self.box is None else box_of([row[i] if i < n else "" for i in self.box]),
            {name: value for name, i in self.attributes if i < n and (value := self._values[row[i]])},
        )


def box_of(cells: Sequence[str]) -> tuple[float, float, float, float] | None:
    """A face's box from the text of left, top, right and bottom; None if all four are empty.

    Raises:
        DataError: not four numbers, or a box without an inside.
    """
    if not any(cell.strip() for cell in cells):
        return None
    try:
        left, top, right, bottom = (float(cell) for cell in cells)
    except ValueError:
        raise DataError(f"expected four numbers as box, found {', '.join(map(repr, cells))}") from None
    if not (left < right and top < bottom and all(map(math.isfinite, (left, top, right, bottom)))):
        raise DataError(f"expected a box with left < right and top < bottom, found {', '.join(cells)}")
    return left, top, right, bottom
