"""Read tables of images: CSV files of any encoding and delimiter, manifests, and ``fer2013.csv``."""

import codecs
import contextlib
import csv
import functools
import itertools
import logging
import math
import operator
import os
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

import numpy as np

from ferkit.core.console import some
from ferkit.core.errors import DataError
from ferkit.core.files import csv_text
from ferkit.datasets.archives import ArraySource, changed_ns
from ferkit.datasets.dataset import (
    Box,
    Dataset,
    ImageSource,
    Sample,
    class_name,
    composed,
    is_known_expression,
    is_missing,
    split_named,
    split_of,
)
from ferkit.datasets.images import HEIF_SUFFIXES, SUFFIXES
from ferkit.datasets.object_store import file_source

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
_CORNERS = (
    BOX, ("xmin", "ymin", "xmax", "ymax"), ("minx", "miny", "maxx", "maxy"), ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
)  # fmt: skip
_CORNER_AND_SIZE = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
BOX_SPELLINGS = tuple(
    tuple(prefix + name for name in four)
    for spellings in (_CORNERS, _CORNER_AND_SIZE)
    for prefix in ("", "bbox", "box", "face")
    for four in spellings
)
"""Names of the four columns of a face's box in pixels, the ones that a manifest uses first."""


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
        n_columns: so many have a name; 0 where there is no header.
    """

    table: Path
    path: int
    label: int | None = None
    split: int | None = None
    group: int | None = None
    box: tuple[int, ...] | None = None
    box_has_size: bool = False
    attributes: tuple[tuple[str, int], ...] = ()
    n_columns: int = 0

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
        points = len({"x0", "x1", "x2", "x3"}.intersection(names)) > 2  # x1, y1, x2, y2, x3 … of a face
        fours = (four for four in BOX_SPELLINGS if set(four) <= set(names))
        four = next((four for four in fours if not (points and four[0][-1].isdigit())), ())
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
            example = f"{missing}={(unknown or [cell.strip() for cell in header] or ['NAME'])[0][:40]}"
            say = f"; say which column is what, for instance --columns {example} (label= for none; also split=, group=)"
            if missing == "label" and sum(map(is_known_expression, unknown)) > 1:
                say = "; classes in columns of their own are not read: write that of each image into one column, label"
            raise DataError(f"expected a column '{missing}' in {table}, found {_shown(header)}{say}")
        path = found["path"]
        assert path is not None
        kinds = found["label"], found["split"], found["group"]
        box_has_size = bool(four) and four[2].endswith(("w", "width"))
        return Columns(table, path, *kinds, box or None, box_has_size, rest, len(names))

    def sample(self, row: Sequence[str]) -> Sample:
        """What a row says, which has a cell for every column.

        Raises:
            DataError: no path, a split of no known name, or a box that is none.
        """
        path = _path(row[self.path])
        if any(row[self.n_columns or len(row) :]) and not _is_image_name(path):
            raise DataError("more cells than columns: a name that holds the sign between cells needs quotes")
        return Sample(
            path,
            None if self.label is None else _name(row[self.label]),
            None if self.split is None else _split(row[self.split], self.table),
            None if self.group is None else _name(row[self.group]),
            None if self.box is None else self._box([row[at] for at in self.box]),
            {name: value for name, at in self.attributes if (value := _value(row[at]))},
        )

    def _box(self, cells: list[str]) -> Box | None:
        if all(map(is_missing, cells)):
            return None
        try:
            left, top, right, bottom = map(number, cells)
        except ValueError:
            raise DataError(f"expected four numbers as box: found {', '.join(map(repr, cells))}") from None
        if self.box_has_size:
            right, bottom = left + right, top + bottom
        shown = f"{left:g}, {top:g}, {right:g}, {bottom:g}"
        if not (left < right and top < bottom and all(map(math.isfinite, (left, top, right, bottom)))):
            raise DataError(f"expected a box with left < right and top < bottom: found {shown}")
        if min(left, top) >= 0 and max(right, bottom) <= 1:
            raise DataError(f"expected a box in pixels, found shares of the image: {shown}")
        return left, top, right, bottom


def _path(cell: str) -> str:
    path = cell.strip().replace("\\", "/")
    if not path:
        raise DataError("no path")
    if "\0" in path:
        raise DataError("a damaged row, with zero bytes")
    if "://" not in path:
        return os.path.expanduser(path) if path[:2] == "~/" else path
    if path[:4].lower() == "http":
        raise DataError("an address, which no table can hold: fetch the images, and name the files")
    return unquote(path[7:]) if path[:8].lower() == "file:///" else path


@functools.lru_cache(maxsize=100_000)  # tables repeat the same few words in many rows
def _name(cell: str) -> str | None:
    """A class or person. Names typed on a Mac hold Hangul as single jamo; they must have one name everywhere.

    A number is written as a whole one: programs make ``3.0`` of a column of numbers in which one is missing.
    """
    return None if is_missing(cell) else re.sub(r"^(-?\d+)\.0+$", r"\1", class_name(cell))


@functools.lru_cache(maxsize=100_000)
def _value(cell: str) -> str:
    return cell.strip()


_split = functools.lru_cache(maxsize=1000)(split_of)


def plain(name: str) -> str:
    """A column's name without case, blanks and signs: ``Image_Path`` and ``image path`` are ``imagepath``."""
    return "".join(c for c in unicodedata.normalize("NFKC", composed(name)).casefold() if c.isalnum())


def _has_meaning(name: str) -> bool:
    return any(plain(name) in names for names in MEANINGS.values())


def is_unknown(name: str) -> bool:
    """Whether nobody knows what a column of this name says."""
    folded = plain(name)
    known = folded in _NOTES or _has_meaning(name) or any(folded in four for four in BOX_SPELLINGS)
    return bool(folded) and not known and not folded.startswith("ferplus")


def number(cell: str) -> float:
    """A number with a point or a comma; of several signs the last. Raises ValueError if it is none."""
    whole, sign, part = cell.rpartition(max(",.", key=cell.rfind))
    return float(re.sub("[,.]", "", whole) + sign.replace(",", ".") + part if sign not in whole else cell)


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
    raise DataError(f"expected a column {name!r} in {table}, found {_shown(header)}")


def _shown(header: Sequence[str]) -> str:
    return some([cell.strip()[:40] for cell in header], 12)


logger = logging.getLogger(__name__)

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".tab", ".txt", ".lst"})
"""File names that count as tables, in lower case."""

_BLOCK = 1 << 20
_LOOKED_AT = 20
"""Lines that tell the delimiter."""

_FER2013_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
"""What 0..6 mean in fer2013.csv: not the alphabet's order, which folders of the same images have. The table of CK+
that has the same form has 7 too."""


@dataclass(frozen=True)
class TableRows:
    """What the rows of a table say.

    Attributes:
        columns: what was read as what.
        samples: one a row, several of an image allowed.
        left_out: path and reason of the rows that cannot be used.
    """

    columns: Columns
    samples: list[Sample]
    left_out: list[tuple[str, str]]


def read_table(path: Path, columns: Mapping[str, str] | None = None, images: Path | None = None) -> Dataset:
    """Read a table (UTF-8, UTF-16, CP949; any delimiter; a header or none) or FER2013's ``emotion,pixels,Usage``.

    Paths are relative to the table or to ``images``, or absolute. Columns are known by their usual names, also in
    Korean; left, top, right and bottom are the face's box in pixels, and what has no meaning of its own becomes an
    attribute. Without a header the columns are path, label and split. Rows that cannot be used are left out and
    listed; of several rows of one image that with the largest box counts, or else the first. The data set that
    :func:`ferkit.datasets.export.write_manifest` wrote comes back as it was.

    Args:
        path: the table.
        columns: name of the column by meaning, where a table calls them something else.
        images: the folder that paths start from; None is that of the table.

    Raises:
        DataError: not a readable table, columns that are not there or that nobody knows, or no row that can be used.
    """
    names = set(map(plain, _first(path, columns)[1]))
    if "pixels" in names and names.isdisjoint(MEANINGS["path"]):  # FER2013 and what looks like it
        return _read_pixels(path, columns)
    rows = parse_table(path, columns, images)
    folder = path.parent if images is None else images
    here = f"{folder.absolute()}/"
    by_path: dict[str, Sample] = {}
    for sample in rows.samples:
        before = by_path.setdefault(name := _one_name(sample.path, here), sample)
        if before is not sample:
            differs = sample.label != before.label and sample.box in (None, before.box)
            other = f", with another class: {sample.label}" if differs else ""
            rows.left_out.append((sample.path, f"another row of the same image{other}"))
            if sample.area > before.area:
                by_path[name] = sample
    if not by_path and rows.left_out:
        first = ": ".join(rows.left_out[0]) + "; --columns says which column is what (split= for none)"
        raise DataError(f"none of {len(rows.left_out):,} rows of {path} can be used; the first, {first}")
    source = file_source(folder)
    if by_path and not any(_is_there(source, name) for name in itertools.islice(by_path, _LOOKED_AT)):
        logger.warning(
            "no image that %s names is in %s, the first: %s; --images DIR says where they are",
            path, folder, next(iter(by_path)),
        )  # fmt: skip
    return Dataset(path.stem, path, tuple(by_path.values()), source, tuple(rows.left_out))


def _one_name(path: str, here: str) -> str:
    """``a.png`` for ``./a.png`` and ``/data/a.png`` too, of a table in ``/data``."""
    path = path.removeprefix(here)
    return os.path.normpath(path) if "./" in path or "//" in path else path


def _is_there(source: ImageSource, path: str) -> bool:
    try:
        return source.stamp(path).size >= 0
    except OSError:
        return False


def parse_table(path: Path, named: Mapping[str, str] | None = None, folder: Path | None = None) -> TableRows:
    """Read a table of images row by row.

    Args:
        path: the table.
        named: name of the column by meaning, see :meth:`Columns.from_header`.
        folder: that paths are relative to; None takes that of the table.

    Raises:
        DataError: not a readable table, or columns that are not there or that nobody knows.
    """
    above, first = _first(path, named)
    folder = path.parent if folder is None else folder
    columns, has_header = _columns(first, path, named, folder)
    if has_header and above:
        logger.info("rows above the header of %s, not read: %d", path, above)
    while True:
        numbered = itertools.islice(enumerate(table_rows(path), 1), above + has_header, None)
        samples: list[Sample] = []
        left_out: list[tuple[str, str]] = []
        for number, row in numbered:
            if not any(row):
                continue
            row += [""] * (len(first) - len(row))  # cells that are missing at the end are empty
            try:
                if has_header and row == first:
                    raise DataError("the header once more")
                samples.append(columns.sample(row))
            except DataError as error:
                shown = row[columns.path].strip()
                sign = ", " if ": " in str(error) else ": "
                left_out.append((shown or path.name, f"{error}{sign}row {number}"))
        if columns.split is None or samples or not left_out or (named or {}).get("split"):
            break
        if has_header and plain(first[columns.split]) in ("split", "usage"):
            break
        logger.info("the column %r of %s names no parts and is kept as it is", first[columns.split], path)
        rest = ((first[columns.split].strip(), columns.split),) if has_header else ()
        columns = replace(columns, split=None, attributes=(*columns.attributes, *rest))
    if kept := [name for name, _ in columns.attributes if is_unknown(name) or _has_meaning(name)]:
        logger.info(
            "columns of %s that are kept as attributes: %s (--columns split=NAME,group=NAME gives them a meaning)",
            path, ", ".join(kept),
        )  # fmt: skip
    return TableRows(columns, _moved(samples, folder, path), left_out)


def _moved(samples: list[Sample], folder: Path, table: Path) -> list[Sample]:
    """The samples; where none is there, without the folders that the images had where the table was made."""
    source = file_source(folder)
    looked = [sample.path for sample in samples[:_LOOKED_AT]]
    if not looked or any(_is_there(source, path) for path in looked):
        return samples
    parts = looked[0].split("/")
    for n in range(1, len(parts)):
        prefix = "/".join(parts[:n]) + "/"
        there = [path.startswith(prefix) and _is_there(source, path[len(prefix) :]) for path in looked]
        if 2 * sum(there) > len(looked):
            logger.warning("the images of %s are not at %s; they are read below %s", table, prefix, folder)
            return [replace(one, path=one.path.removeprefix(prefix)) for one in samples]
    return samples


def table_columns(path: Path, named: Mapping[str, str] | None = None) -> Columns:
    """What the columns of a table are. Raises DataError, see :func:`parse_table`."""
    return _columns(_first(path, named)[1], path, named, path.parent)[0]


def _first(path: Path, named: Mapping[str, str] | None) -> tuple[int, list[str]]:
    """How many rows are titles above the header, and the header; or the first row where none is known as one."""
    words = {*MEANINGS["path"], "pixels", plain((named or {}).get("path", "path"))}
    rows = list(itertools.islice(table_rows(path), _LOOKED_AT))
    filled = [(at, row) for at, row in enumerate(rows) if any(map(str.strip, row))]
    if not filled:
        raise DataError(f"expected a table, found nothing in {path}")
    for at, row in filled:
        if any(_is_image_name(cell.strip()) for cell in row):
            break
        if not words.isdisjoint(map(plain, row)) and (len(row) > 1 or at == filled[0][0]):
            below = [row for _, row in filled if row[0].strip().isdecimal()]
            if below and all(len(one) == len(row) + 1 and one[-1].strip() for one in below):
                row = ["", *row]  # R numbers the rows and gives that column no name
            return at, row
    return filled[0]


def _columns(
    first: Sequence[str], path: Path, named: Mapping[str, str] | None, folder: Path
) -> tuple[Columns, bool]:
    """The columns by the first row, and whether it is a header: whether it names columns, or holds no image."""
    words = {word for words in MEANINGS.values() for word in words}
    names = [plain(cell) for cell in first]
    images = [i for i, cell in enumerate(first) if _may_be_image(cell, folder)]
    if not images or names[0] in words or (images[0] > 0 and not words.isdisjoint(names)):
        return Columns.from_header(first, path, named), True
    if named:
        numbers = [str(i) for i in range(1, len(first) + 1)]
        return replace(Columns.from_header(numbers, path, named), attributes=()), False
    others = list(range(images[0] + 1, len(first))) or list(range(images[0]))
    label = others[0] if others else None
    split = next((i for i in others[1:] if split_named(first[i])), None)
    if unread := [i + 1 for i in range(len(first)) if i not in (images[0], label, split)]:
        logger.info("%s has no header, and its column %s is not read; --columns path=1,label=2,group=3 names columns "
                    "by number", path, ", ".join(map(str, unread)))  # fmt: skip
    return Columns(path, images[0], label, split), False


def _may_be_image(cell: str, folder: Path) -> bool:
    name = cell.strip().replace("\\", "/")
    if _is_image_name(name):
        return True
    with contextlib.suppress(OSError, ValueError):
        return bool(name) and (folder / name).is_file()
    return False


def _is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES | HEIF_SUFFIXES


def _read_pixels(path: Path, named: Mapping[str, str] | None) -> Dataset:
    above, first = _first(path, named)
    columns = Columns.from_header(first, path, {**(named or {}), "path": "pixels"})
    samples, images, left_out = [], [], []
    rows = (row for row in itertools.islice(table_rows(path), above + 1, None) if any(row))
    start = list(itertools.islice(rows, _LOOKED_AT))
    lengths = Counter(len(_pixels(row[columns.path])) for row in start if columns.path < len(row))
    side = math.isqrt(max(lengths, key=lengths.__getitem__, default=0))
    for number, row in enumerate(itertools.chain(start, rows)):
        try:
            sample = columns.sample(row + [""] * (len(first) - len(row)))
            label = sample.label if columns.label is None else _emotion(sample.label)
            image = np.array(_pixels(row[columns.path]), np.uint8).reshape(side, side)
        except (DataError, ValueError, LookupError, OverflowError) as error:
            why = f"expected an emotion, {side}x{side} pixels and a usage: {error}, row {above + number + 2}"
            left_out.append((path.name, why))
            continue
        samples.append(replace(sample, path=f"{sample.split or 'all'}/{number:06d}", label=label))
        images.append(image)
    if not images:
        why = f"none that can be used; the first, {': '.join(left_out[0])}" if left_out else "only a header"
        raise DataError(f"expected images in {path}, found {why}")
    stored = {sample.path: i for i, sample in enumerate(samples)}
    source = ArraySource(changed_ns(path), np.stack(images), stored)
    return Dataset(path.stem, path, tuple(samples), source, tuple(left_out))


def _pixels(cell: str) -> list[str]:
    return cell.strip("[] ").replace(",", " ").split()


def _emotion(label: str | None) -> str:
    label = label or "-1"
    return dict(enumerate(_FER2013_EMOTIONS))[int(label)] if label.lstrip("-").isdecimal() else label


def table_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a table in UTF-8, UTF-16 or CP949, the header too; the file may be larger than the memory.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    try:
        if not path.is_file() and path.exists():
            raise DataError(f"expected a table, found what is not a regular file at {path}")
        status = path.stat()
        encoding = _encoding(path, status.st_mtime_ns, status.st_size)
        # newline="" leaves the ends of lines to the CSV reader: a quoted name may hold one.
        file = path.open(encoding=encoding, errors=_errors(encoding), newline="")
    except OSError as error:
        raise DataError(f"the table {path} cannot be read: {error.strerror}") from error
    return _parsed(file, path)


@functools.lru_cache(maxsize=16)  # a table is opened several times, and its whole content tells
def _encoding(path: Path, changed_ns: int, size: int) -> str:
    """Of ``utf-8-sig`` and ``utf-16`` (the file says so itself), ``utf-8`` and ``cp949`` the one that it is in."""
    decoders = {name: codecs.getincrementaldecoder(name)() for name in ("utf-8", "cp949")}
    # cp949 contains EUC-KR, what Korean Excel writes.
    with path.open("rb") as file:
        block = file.read(_BLOCK)
        if block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-32" if block[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) else "utf-16"
        if block.count(0) * 20 > len(block):  # a few are damage of a few rows
            if (wide := _unmarked_utf16(block)) is not None:
                return wide
            raise DataError(f"expected a CSV table, found binary data in {path}; save it as 'CSV UTF-8'")
        marked, header = block.startswith(codecs.BOM_UTF8), block.splitlines()[0] if block else b""
        while decoders:
            for name, decoder in list(decoders.items()):
                try:
                    decoder.decode(block, final=not block)
                except UnicodeDecodeError:
                    del decoders[name]
            if not block:
                break
            block = file.read(_BLOCK)
    bad_rows = not decoders and "\ufffd" not in header.decode("utf-8", "replace")
    if marked or bad_rows or ("utf-8" not in decoders and _holds_utf8(path)):
        return "utf-8-sig"  # rows of another encoding, put below those of UTF-8, are kept as they are
    if not decoders:
        raise DataError(
            f"expected {path} in UTF-8, UTF-16 or CP949, found none of these; save it as 'CSV UTF-8'"
        )
    return next(iter(decoders))


def _holds_utf8(path: Path) -> bool:
    """Whether some lines are Hangul in UTF-8, which CP949 may take for signs of its own."""
    with path.open("rb") as file:
        texts = (line.decode("utf-8", "replace") for line in file if not line.isascii())
        return any("\ufffd" not in text and re.search("[가-힣]", text) for text in texts)


def _unmarked_utf16(block: bytes) -> str | None:
    """The order of bytes in which there are most signs that tables have; None where a zero stays."""
    signs = {}
    for encoding in ("utf-16-le", "utf-16-be"):
        text = block[: len(block) // 2 * 2].decode(encoding, "replace")
        signs[encoding] = 0 if "\0" in text else sum(map(text.count, ",;\t|\r\n./"))
    best = max(signs, key=signs.__getitem__)
    return best if signs[best] else None


def _errors(encoding: str) -> str:
    # What is no UTF-8 in a file that says it is are names of files, kept as the bytes they are.
    return {"utf-8-sig": "surrogateescape", "utf-8": "strict", "cp949": "strict"}.get(encoding, "replace")


def _parsed(file: TextIO, path: Path) -> Iterator[list[str]]:
    with file:
        try:
            head = list(itertools.islice(file, _LOOKED_AT))
            named = re.fullmatch(r"sep=(.)\s*", head[0]) if head else None  # what Excel writes and reads
            head = head[1:] if named else head
            # Marks of tables that were put together, and DOS's sign of the end.
            lines = map(operator.methodcaller("strip", "\ufeff\x1a"), itertools.chain(head, file))
            rows = _rows(lines, named[1] if named else _delimiter(head, path.suffix.lower()))
            yield from (list(map(csv_text, row)) for row in rows)
        except OSError as error:
            raise DataError(f"the table {path} cannot be read: {error.strerror}") from error


def _rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Parse rows; where quotes do not match, the line is taken by itself."""
    read: list[str] = []
    again: deque[str] = deque()

    def kept() -> Iterator[str]:
        while line := again.popleft() if again else next(lines, ""):
            read.append(line)
            yield line

    while True:
        try:
            for row in csv.reader(
                kept(), delimiter=delimiter, strict=True, skipinitialspace=delimiter == " "
            ):
                read.clear()
                yield row
            return
        except csv.Error:
            matched = read[0].count('"') % 2 == 0
            try:
                if matched:
                    yield next(csv.reader(read[:1], delimiter=delimiter))
                else:
                    row = next(csv.reader(read[:1], delimiter=delimiter, quoting=csv.QUOTE_NONE))
                    yield [cell.strip('"') for cell in row]
            except csv.Error as error:
                yield ["", f"{error}: {read[0][:40]!r}"]
            again.extendleft(reversed(read[1:]))
            read.clear()


def _delimiter(lines: list[str], suffix: str) -> str:
    """The sign that all lines have equally often and that makes cells of names or images, or else the first one."""
    plain_lines = [re.sub(r'"[^"]*"', "", line) for line in lines if line.strip()]
    counts = {sign: [line.count(sign) for line in plain_lines] for sign in "\t;,|"}
    if suffix in (".txt", ".lst"):
        counts[" "] = [line.strip().count(" ") for line in plain_lines]
    even = [sign for sign, found in counts.items() if found and min(found) == max(found) > 0]

    def told(sign: str) -> tuple[int, int, bool]:
        says = sum(map(_says_something, itertools.chain(*(line.split(sign) for line in lines))))
        return says, next(iter(counts[sign]), 0), sign == ","

    return max(even or counts, key=told)


def _says_something(cell: str) -> bool:
    return _is_image_name(cell.strip('" \n\r')) or _has_meaning(cell)


SOURCE = "source"
"""The attribute that says which data set an image came from."""
