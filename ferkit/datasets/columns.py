"""What the columns of a table of images mean, and how a row becomes a sample."""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Sample
from ferkit.datasets.files import class_name
from ferkit.datasets.folder import is_missing, split_of

_NAMES = {
    "path": "path file filename filepath image imagepath imagefile imagename img imgpath imgname photo picture pth "
    "subdirectoryfilepath 경로 파일 파일명 파일이름 파일경로 이미지 이미지경로 이미지명 이미지파일 사진 사진경로 "
    "사진파일",
    "label": "label labels emotion emotions expression expressions facialexpression class classname category target "
    "감정 표정 라벨 레이블 클래스 분류 정서 감정라벨",
    "split": "split usage subset partition fold set datasplit 구분 분할 세트 용도 데이터구분",
    "group": "group person subject personid subjectid identity participant participantid 인물 사람 피험자 대상자 "
    "참가자 피사체 개인 인물번호 인물아이디",
}
MEANINGS = {meaning: tuple(names.split()) for meaning, names in _NAMES.items()}
"""Names of columns as :func:`_plain` gives them, the one that a manifest uses first."""

_NOTE_NAMES = (
    "source sex gender age place uploader professional votes boxvotes width height sequence frame pose truncated "
    "original score sharpness difficult occluded valence arousal annotation race relfcs facelandmarks faciallandmarks "
    "fer2013 confidence lossless index no id 성별 나이 연령 장소 출처 번호"
)
_NOTES = frozenset(_NOTE_NAMES.split())
"""Columns that are known to say something else."""

BOX = ("left", "top", "right", "bottom")
_CORNERS = (BOX, ("xmin", "ymin", "xmax", "ymax"), ("minx", "miny", "maxx", "maxy"), ("x0", "y0", "x1", "y1"))
_CORNER_AND_SIZE = (
    ("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"),
    ("facex", "facey", "facewidth", "faceheight"),
)  # fmt: skip
BOX_SPELLINGS = (*_CORNERS, *_CORNER_AND_SIZE)
"""Names of the four columns of a face's box in pixels, the ones that a manifest uses first."""


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
        table: the file, for messages.
        path: of the image.
        label, split, group: None where there is no such column.
        box: left, top, right, bottom, or left, top, width, height; None where there are not all four.
        box_has_size: whether the latter.
        attributes: name and column of everything else.
    """

    table: Path
    path: int
    label: int | None = None
    split: int | None = None
    group: int | None = None
    box: tuple[int, ...] | None = None
    box_has_size: bool = False
    attributes: tuple[tuple[str, int], ...] = ()
    _labels: Memo = field(init=False, repr=False, compare=False)
    _splits: Memo = field(init=False, repr=False, compare=False)
    _values: Memo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Names typed on a Mac hold Hangul as single jamo; classes and persons must have one name everywhere.
        object.__setattr__(
            self, "_labels", Memo(lambda cell: None if is_missing(cell) else class_name(cell.strip()))
        )
        object.__setattr__(self, "_splits", Memo(lambda cell: split_of(cell, self.table)))
        object.__setattr__(self, "_values", Memo(lambda cell: cell.strip() or None))

    @staticmethod
    def from_header(header: Sequence[str], table: Path, named: Mapping[str, str] | None = None) -> "Columns":
        """The columns that ``header`` names.

        Args:
            header: the cells of the first row.
            table: the file.
            named: name (or number, from 1) of the column by meaning: ``path``, ``label``, ``split``, ``group``; an
                empty name says that there is none.

        Raises:
            DataError: no column of paths, or none of labels although there are columns that nobody knows, or a name
                that is none of the header.
        """
        names = [plain(cell) for cell in header]
        found = {
            meaning: next((names.index(name) for name in spellings if name in names), None)
            for meaning, spellings in MEANINGS.items()
        }
        chosen = {meaning: _chosen(name, header, table) for meaning, name in (named or {}).items()}
        for meaning, at in found.items():  # a column that the user gave another meaning has lost its own
            if meaning not in chosen and at in chosen.values():
                found[meaning] = None
        found |= chosen
        corners = next((four for four in _CORNERS if set(four) <= set(names)), None)
        four = corners or next((four for four in _CORNER_AND_SIZE if set(four) <= set(names)), ())
        box = tuple(names.index(name) for name in four)
        taken = {*found.values(), *box}
        reserved = {*MEANINGS, *BOX}  # a manifest has one column of each of these names
        rest = tuple(
            (f"{name}_" if name.lower() in reserved else name, i)
            for i, name in enumerate(map(str.strip, header))
            if i not in taken and name
        )
        unknown = [cell for cell, _ in rest if is_unknown(cell)]
        missing = "path" if found["path"] is None else "label"
        if found[missing] is None and (missing == "path" or ("label" not in chosen and unknown)):
            example = f"{missing}={(unknown or [cell.strip() for cell in header] or ['NAME'])[0]}"
            raise DataError(
                f"expected a column '{missing}' in {table}, found {', '.join(map(str.strip, header)) or 'nothing'}; "
                f"say which column is what, for instance --columns {example} (label= for none; also split=, group=)"
            )
        path = found["path"]
        assert path is not None
        return Columns(
            table, path, found["label"], found["split"], found["group"], box or None, corners is None, rest
        )

    def sample(self, row: Sequence[str], box: "CheckBox | None" = None) -> Sample:
        """What a row says; cells that are missing at its end count as empty.

        Args:
            row: the cells.
            box: checks and gives a box from four numbers; :func:`box_of` by default.

        Raises:
            DataError: no path, a split of no known name, or a box that is none.
        """
        n = len(row)
        path = row[self.path].strip().replace("\\", "/") if self.path < n else ""
        if not path:
            raise DataError("no path")
        label, split, group = self.label, self.split, self.group
        return Sample(
            path,
            self._labels[row[label]] if label is not None and label < n else None,
            self._splits[row[split]] if split is not None and split < n else None,
            self._labels[row[group]] if group is not None and group < n else None,
            None
            if self.box is None
            else self._box([row[i] if i < n else "" for i in self.box], box or box_of),
            {name: value for name, i in self.attributes if i < n and (value := self._values[row[i]])},
        )

    def _box(self, cells: Sequence[str], check: "CheckBox") -> tuple[float, float, float, float] | None:
        if all(map(is_missing, cells)):
            return None
        try:
            a, b, c, d = map(number, cells)
        except ValueError:
            raise DataError(f"expected four numbers as box: found {', '.join(map(repr, cells))}") from None
        return check(a, b, a + c, b + d) if self.box_has_size else check(a, b, c, d)


CheckBox = Callable[[float, float, float, float], tuple[float, float, float, float]]


def plain(name: str) -> str:
    """A column's name without case, blanks and signs: ``Image_Path`` and ``image path`` are ``imagepath``."""
    return "".join(c for c in unicodedata.normalize("NFC", name).casefold() if c.isalnum())


def is_unknown(name: str) -> bool:
    """Whether nobody knows what a column of this name says."""
    folded = plain(name)
    known = folded in _NOTES or any(folded in names for names in (*MEANINGS.values(), *BOX_SPELLINGS))
    return bool(folded) and not known and not folded.startswith("ferplus")


def number(cell: str) -> float:
    """A number with a point or a comma. Raises ValueError if it is none."""
    return float(cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell)


def box_of(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    """A face's box. Raises DataError if it has no inside."""
    if not (left < right and top < bottom and all(map(math.isfinite, (left, top, right, bottom)))):
        shown = f"{left:g}, {top:g}, {right:g}, {bottom:g}"
        raise DataError(f"expected a box with left < right and top < bottom: found {shown}")
    return left, top, right, bottom


def parse_columns(text: str) -> dict[str, str]:
    """Read ``path=이미지,label=표정,split=세트,group=인물``.

    Raises:
        DataError: it is not of this form.
    """
    named = {}
    for pair in text.split(","):
        meaning, sign, name = (part.strip() for part in pair.partition("="))
        if not sign or meaning not in MEANINGS:
            raise DataError(
                f"expected --columns like path=NAME,label=NAME,split=NAME,group=NAME, found {pair.strip()!r}"
            )
        named[meaning] = name
    return named


def _chosen(name: str, header: Sequence[str], table: Path) -> int | None:
    if not name:
        return None
    for form in (str.strip, plain):
        wanted, names = form(name), [form(cell) for cell in header]
        if wanted in names:
            return names.index(wanted)
    if name.isdecimal() and 1 <= int(name) <= len(header):
        return int(name) - 1
    raise DataError(f"expected a column {name!r} in {table}, found {', '.join(map(str.strip, header))}")
