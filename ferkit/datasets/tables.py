"""Read and write tables of images: CSV files, arrays and manifests.

One row an image, sorted by path, in UTF-8, so that git can hold and compare it::

    path,label,split,group,left,top,right,bottom,source,sex
    ../aihub/기쁨/a.jpg,happy,train,aihub/3f…,412,220,1180,1004,aihub,female
    ../fer2013/train/sad/b.png,sad,train,,,,,,fer2013,

Paths are relative to the manifest where that is possible, and columns that would be empty are left out.
:func:`ferkit.datasets.tables.read_table` reads it.
"""

import codecs
import csv
import io
import math
import os
import posixpath
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import csv_cell, csv_text, write_atomically
from ferkit.datasets.dataset import Dataset, FileSource, Sample, Stamp, split_of

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
        table: the file, for messages and for :func:`ferkit.datasets.dataset.split_of`.
        path: of the image.
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


_IMAGES = ("images", "x", "X", "data")
_LABELS = ("labels", "y", "Y", "target")


@dataclass(frozen=True)
class ArraySource:
    """Images of one size in memory; see :class:`ferkit.datasets.dataset.ImageSource`.

    Attributes:
        file: where they were read from; its time of change is that of every image.
        images: uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3).
        index: position of each path.
    """

    file: Path
    images: np.ndarray
    index: Mapping[str, int]

    def stamp(self, path: str) -> Stamp:
        status = self.file.stat()
        return Stamp(self.images[0].size, max(status.st_mtime_ns, status.st_ctime_ns))

    def read(self, path: str) -> bytes:
        return self.images[self.index[path]].tobytes()

    def decode(self, content: bytes) -> np.ndarray:
        height, width = self.images.shape[1:3]
        image = np.frombuffer(content, np.uint8).reshape(height, width, -1)
        return np.ascontiguousarray(np.broadcast_to(image, (height, width, 3)))


def read_npz(path: Path) -> Dataset:
    """Read an ``.npz`` file of images and labels.

    Either ``images`` and ``labels`` (also ``x``, ``y``), with ``split``, ``groups`` and ``class_names`` where known,
    or one pair a split: ``x_train``/``y_train`` or ``train_images``/``train_labels``. Images are uint8, or floats
    in 0..1; labels are names, or numbers into ``class_names``, one an image.

    Raises:
        DataError: not such a file.
    """
    arrays = _load(path)
    samples: list[Sample] = []
    parts: list[np.ndarray] = []
    for split, images, labels in _pairs(arrays, path):
        parts.append(_as_bytes(images, path))
        n = len(images)
        names = _names(arrays, "class_names", None, path)
        known_labels = [None] * n if labels is None else _labels(labels, n, names, path)
        splits = _names(arrays, "split", n, path) if split is None else None
        groups = _names(arrays, "groups", n, path) if split is None else None
        for i, label in enumerate(known_labels):
            own_split = split if splits is None else split_of(splits[i], path)
            group = None if groups is None else groups[i] or None
            samples.append(Sample(f"{own_split or 'all'}/{len(samples):06d}", label, own_split, group))
    if len({part.shape[1:] for part in parts}) != 1:
        raise DataError(f"expected images of one size in {path}, found {[part.shape[1:] for part in parts]}")
    index = {sample.path: i for i, sample in enumerate(samples)}
    return Dataset(path.stem, path, tuple(samples), ArraySource(path, np.concatenate(parts), index))


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array, not an archive of named ones")
        with file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise DataError(f"expected an .npz file of plain arrays at {path}: {error}") from None


def _pairs(
    arrays: dict[str, np.ndarray], path: Path
) -> list[tuple[str | None, np.ndarray, np.ndarray | None]]:
    images = next((arrays[key] for key in _IMAGES if key in arrays), None)
    if images is not None:
        return [(None, images, next((arrays[key] for key in _LABELS if key in arrays), None))]
    pairs: list[tuple[str | None, np.ndarray, np.ndarray | None]] = []
    for split in ("train", "val", "test"):
        for x, y in (
            (f"x_{split}", f"y_{split}"),
            (f"X_{split}", f"y_{split}"),
            (f"{split}_images", f"{split}_labels"),
        ):
            if x in arrays:
                pairs.append((split, arrays[x], arrays.get(y)))
    if not pairs:
        raise DataError(
            f"expected arrays 'images' and 'labels' (or x_train, y_train, …) in {path}, found {list(arrays)}"
        )
    return pairs


def _as_bytes(images: np.ndarray, path: Path) -> np.ndarray:
    shape_is_right = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if not shape_is_right or not images.size:
        raise DataError(f"expected images of shape (n, H, W[, 1 or 3]) in {path}, found {images.shape}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.number) or not np.isfinite(images).all():
        raise DataError(
            f"expected uint8 or float images in {path}, found {images.dtype} with values that are no pixels"
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        raise DataError(f"expected pixels in 0..255 or 0..1 in {path}, found {low:g}..{high:g}")
    scale = 255.0 if high <= 1.0 and np.issubdtype(images.dtype, np.floating) else 1.0
    return np.rint(images * scale).astype(np.uint8)


def _labels(labels: np.ndarray, n: int, names: list[str] | None, path: Path) -> list[str | None]:
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(
            f"expected one label for each of {n} images in {path}, found labels of shape {labels.shape}"
        )
    values = labels.reshape(-1)
    if not np.issubdtype(values.dtype, np.number):
        return [text or None for text in _texts(values)]
    with np.errstate(invalid="ignore"):  # NaN becomes some number, and differs from it
        numbers = values.astype(np.int64)
    if not np.array_equal(numbers, values):
        raise DataError(
            f"expected names or whole numbers as labels in {path}, found {values.dtype} with other values"
        )
    if names is None:
        return [str(number) for number in numbers]
    if n and not 0 <= numbers.min() <= numbers.max() < len(names):
        found = f"{numbers.min()}..{numbers.max()}"
        raise DataError(f"expected labels 0..{len(names) - 1} for the class_names of {path}, found {found}")
    return [names[number] for number in numbers]


def _names(arrays: dict[str, np.ndarray], key: str, n: int | None, path: Path) -> list[str] | None:
    if key not in arrays:
        return None
    if arrays[key].ndim != 1 or n not in (None, len(arrays[key])):
        raise DataError(f"expected '{key}' of shape ({n or 'n'},) in {path}, found {arrays[key].shape}")
    return _texts(arrays[key])


def _texts(values: np.ndarray) -> list[str]:
    """Array entries as text; byte strings are UTF-8."""
    plain = (
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in values.tolist()
    )
    return [unicodedata.normalize("NFC", text) for text in plain]


_BLOCK = 1 << 20

_FER2013_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
"""What 0..6 mean in fer2013.csv: not the alphabet's order, which folders of the same images have. The table of CK+
that has the same form has 7 too."""


def read_table(path: Path) -> Dataset:
    """Read a CSV file (UTF-8 or EUC-KR; with or without header) or FER2013's ``emotion,pixels,Usage``.

    Paths are relative to the CSV file, or absolute. Columns called left, top, right and bottom are the face's box
    in pixels, and what has no meaning of its own becomes an attribute. Without a header the columns are path and
    label. The data set that :func:`ferkit.datasets.tables.write_manifest` wrote comes back as it was.

    Raises:
        DataError: not a readable table, or the columns are not there.
    """
    rows = table_rows(path)
    header = next(rows, [])
    names = [cell.strip().lower() for cell in header]
    if {"emotion", "pixels"} <= set(names):
        return _read_fer2013(path, rows, names)
    columns, first = Columns.of(header, path), 2
    if columns is None:
        if "label" in names or len(names) < 2:
            raise DataError(
                f"expected a column 'path' (and 'label', 'split', 'group') in {path}, found {names or 'nothing'}"
            )
        columns, first = Columns(path, 0, 1), 1
        rows = table_rows(path)  # the first line is data

    samples = []
    for number, row in enumerate(rows, first):
        if not any(row):
            continue
        try:
            samples.append(columns.sample(row))
        except DataError as error:
            raise DataError(
                f"row {number} of {path}: {error}; correct it, or let 'fer dataset import csv' leave such rows out"
            ) from None
    return Dataset(path.stem, path, tuple(samples), FileSource(path.parent))


def _read_fer2013(path: Path, rows: Iterator[list[str]], header: list[str]) -> Dataset:
    emotion, pixels = header.index("emotion"), header.index("pixels")
    usage = header.index("usage") if "usage" in header else None
    names = dict(enumerate(_FER2013_EMOTIONS))
    samples, images = [], []
    for number, row in enumerate(row for row in rows if any(row)):
        try:
            label = names[int(row[emotion])]
            image = np.array(row[pixels].split(), np.uint8).reshape(48, 48)
        except (ValueError, LookupError, OverflowError) as error:
            raise DataError(
                f"expected an emotion 0..7 and 48x48 pixels in row {number + 1} of {path}: {error}"
            ) from None
        split = split_of(row[usage], path) if usage is not None and usage < len(row) else None
        samples.append(Sample(f"{split or 'all'}/{number:06d}", label, split))
        images.append(image)
    if not images:
        raise DataError(f"expected images in {path}, found only a header")
    stored = {sample.path: i for i, sample in enumerate(samples)}
    return Dataset(path.stem, path, tuple(samples), ArraySource(path, np.stack(images), stored))


def table_rows(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """The rows of a CSV file in UTF-8 or EUC-KR, the header too; the file may be larger than the memory.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    try:
        encoding = _encoding(path)
        # newline="" leaves the ends of lines to the CSV reader: a quoted name may hold one.
        file = path.open(encoding=encoding, errors=_errors(encoding), newline="")
    except OSError as error:
        raise DataError(f"the table {path} cannot be read: {error.strerror}") from error
    return _parsed(file, path, delimiter)


def _encoding(path: Path) -> str:
    """Of ``utf-8-sig`` (the file says so itself), ``utf-8`` and ``cp949`` the first that the whole file is in."""
    decoders = {name: codecs.getincrementaldecoder(name)() for name in ("utf-8", "cp949")}
    # cp949 contains EUC-KR, what Korean Excel writes.
    with path.open("rb") as file:
        marked = file.read(3) == codecs.BOM_UTF8
        file.seek(0)
        while decoders:
            block = file.read(_BLOCK)
            if b"\0" in block:
                raise DataError(f"expected a CSV table, found binary data in {path}")
            for name, decoder in list(decoders.items()):
                try:
                    decoder.decode(block, final=not block)
                except UnicodeDecodeError:
                    del decoders[name]
            if not block:
                break
    if marked:
        return "utf-8-sig"
    if not decoders:
        raise DataError(f"expected {path} in UTF-8 or EUC-KR, found neither; save it as 'CSV UTF-8'")
    return next(iter(decoders))


def _errors(encoding: str) -> str:
    # What is no UTF-8 in a file that says it is are names of files, kept as the bytes they are.
    return "surrogateescape" if encoding == "utf-8-sig" else "strict"


def _parsed(file: TextIO, path: Path, delimiter: str) -> Iterator[list[str]]:
    with file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            yield from (list(map(csv_text, row)) for row in reader)
        except csv.Error as error:
            raise DataError(
                f"expected a CSV table in {path}, found damage in line {reader.line_num}: {error}"
            ) from None
        except OSError as error:
            raise DataError(f"the table {path} cannot be read: {error.strerror}") from error


SOURCE = "source"
"""The attribute that says which data set an image came from."""


def write_manifest(path: Path, dataset: Dataset) -> None:
    """Write ``dataset`` as a manifest; the images stay where they are.

    Args:
        path: the file, ``.csv``; an older manifest there is replaced.
        dataset: of images in files: a folder, a table, or another manifest.

    Raises:
        DataError: the images lie in an array, a name cannot stand in a table, or ``path`` holds something else.
        FerkitError: the disk is full or the folder cannot be written.
    """
    if path.suffix.lower() != ".csv":
        raise DataError(f"expected a name that ends in .csv for a manifest, found {path}")
    if path.is_file() and path.stat().st_size and not next(table_rows(path), [""])[0].startswith("path"):
        raise DataError(f"{path} is there and is no manifest; choose another name, or move it away")
    samples = sorted(relocated(dataset, path.parent), key=lambda sample: sample.path)
    # Names of files that are not UTF-8 stay the bytes they are; a mark tells the reader what the rest is.
    encoding = "utf-8" if all(_is_unicode(sample.path) for sample in samples) else "utf-8-sig"

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
        write_rows(samples, text)
        text.flush()
        text.detach()

    write_atomically(path, write)


def relocated(dataset: Dataset, folder: Path) -> list[Sample]:
    """The samples of ``dataset`` with paths relative to ``folder``, or absolute ones on another drive.

    Below ``folder`` the way a user named the data is kept, symbolic links and all; from elsewhere the way leads
    through real folders, since ``..`` after a link goes somewhere else.

    Raises:
        DataError: the images lie in an array.
    """
    if not isinstance(dataset.source, FileSource):
        raise DataError(
            f"the images of {dataset.root} lie inside that one file, and a manifest refers to files; "
            f"write them out first: fer dataset export {dataset.root} -o FOLDER"
        )
    root = dataset.source.root
    real = _way(folder.resolve(), root.resolve())
    named = _way(Path(os.path.abspath(folder)), Path(os.path.abspath(root)))
    if named.split("/")[0] == ".." or os.path.isabs(named):
        named = real
    seen_from_folder: dict[str, str] = {}
    samples = []
    for sample in dataset.samples:
        parent, slash, name = sample.path.rpartition("/")
        if parent not in seen_from_folder:
            way = real if ".." in parent.split("/") else named
            joined = posixpath.normpath(posixpath.join(way, parent + slash or "."))
            seen_from_folder[parent] = "" if joined == "." else joined.rstrip("/") + "/"
        samples.append(at_path(sample, seen_from_folder[parent] + name))
    return samples


def at_path(sample: Sample, path: str) -> Sample:
    """The same sample under another path."""
    # dataclasses.replace would take longer than all else that is done with a row.
    return Sample(path, sample.label, sample.split, sample.group, sample.box, sample.attributes)


def write_rows(samples: Sequence[Sample], file: TextIO) -> None:
    """Write samples in their order as CSV; columns that would be empty are left out.

    Raises:
        DataError: a path that a table would not give back, or an attribute called like a column.
    """
    names = attribute_names(samples)
    reserved = {"path", "label", "split", "group", *BOX}
    if clashes := reserved & {name.lower() for name in names}:
        raise DataError(f"expected other names for attributes than {sorted(clashes)}; rename them")
    lower = {name.lower() for name in names}
    # A column is also written where an attribute would be taken for it, as 'subject' would be for a missing group.
    with_label, with_split, with_group = (
        any(getattr(sample, meaning) for sample in samples) or not lower.isdisjoint(MEANINGS[meaning])
        for meaning in ("label", "split", "group")
    )
    with_box = any(s.box is not None for s in samples) or any(set(four) <= lower for four in BOX_SPELLINGS)
    present = zip(("label", "split", "group"), (with_label, with_split, with_group), strict=True)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            "path",
            *(meaning for meaning, there in present if there),
            *(BOX if with_box else ()),
            *map(csv_cell, names),
        ]
    )
    for sample in samples:
        path = sample.path
        if path != path.strip() or "\\" in path:
            raise DataError(
                f"the name {path!r} begins or ends with a blank or holds a backslash, which tables do not keep; "
                "rename the file"
            )
        row: list[str | None] = [csv_cell(path)]
        if with_label:
            row.append(csv_cell(sample.label))
        if with_split:
            row.append(csv_cell(sample.split))
        if with_group:
            row.append(csv_cell(sample.group))
        if with_box:
            row += (None,) * 4 if sample.box is None else (f"{value:.7g}" for value in sample.box)
        row += (csv_cell(sample.attributes.get(name)) for name in names)
        writer.writerow(row)


def attribute_names(samples: Iterable[Sample]) -> list[str]:
    """Names of all attributes, ``source`` first, then as they first appear."""
    names: dict[str, None] = {}
    for sample in samples:
        if not sample.attributes.keys() <= names.keys():
            names.update(dict.fromkeys(sample.attributes))
    return sorted(names, key=lambda name: name != SOURCE)


def _way(start: Path, goal: Path) -> str:
    """POSIX path from one folder to another, absolute where they lie on different drives."""
    try:
        return Path(os.path.relpath(goal, start)).as_posix()
    except ValueError:
        return goal.as_posix()


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
