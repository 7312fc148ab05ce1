"""Files that hold images: zip files and tars, WebDataset, ``.npz`` arrays; only a compressed tar is unpacked."""

import bz2
import contextlib
import functools
import gzip
import itertools
import json
import logging
import lzma
import math
import os
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ferkit.core.console import some
from ferkit.core.errors import DataError
from ferkit.core.files import as_path, is_local
from ferkit.datasets.dataset import (
    SPLIT_NAMES,
    Dataset,
    ImageSource,
    Listing,
    Sample,
    Stamp,
    class_name,
    composed,
    is_hidden,
    is_missing,
    place_name,
    split_named,
    split_of,
)
from ferkit.datasets.images import HEAD_BYTES, why_no_image

logger = logging.getLogger(__name__)

_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b\x08": gzip.open, b"BZh": bz2.open, b"\xfd7z": lzma.open}
"""What opens a file that begins so; names are not trusted, since browsers unpack and keep the name."""

ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz"})
"""File names that count as archives, in lower case."""

MAX_FILE_BYTES = 256 * 2**20
"""No image is larger; what claims to be is not read."""

_LARGE = 2 * 2**30
_MOST_TIMES = 200
"""An archive that unpacks to more than :data:`_LARGE` and so many times its size is a bomb."""

_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class ArchiveSource(ImageSource):
    """Images in a zip file or tar; see :class:`ferkit.datasets.dataset.ImageSource`."""

    root: Path

    def stamp(self, path: str) -> Stamp:
        """Give the size of the image and the time of the archive's last change."""
        now_ns = changed_ns(self.root)
        return Stamp(_member(self.root, now_ns, path).size, now_ns)

    def read(self, path: str) -> bytes:
        """Give the content of the image."""
        archive = _open(str(self.root), changed_ns(self.root))
        return archive.read(_member(self.root, archive.changed_ns, path), MAX_FILE_BYTES)


def list_archive(path: Path) -> Listing:
    """List the images in a zip file or tar (also ``.tar.gz``, ``.bz2``, ``.xz``).

    Names in a zip without the mark of UTF-8 are read as UTF-8 or CP949.

    Raises:
        DataError: it cannot be read, is encrypted, a piece of a split archive, or unpacks to an absurd size.
    """
    try:
        archive = _open(str(path), changed_ns(path))
    except (OSError, *_ERRORS) as error:
        raise DataError(
            f"{path} cannot be read as an archive ({error}); if it came in pieces, join them first: "
            f"cat {path.name}.* > whole.zip, or zip -s 0 {path.name} --out whole.zip; if not, fetch it again, or "
            "unpack it and give the folder"
        ) from None
    paths: list[str] = []
    left_out = list(archive.left_out)
    for name, member in sorted(archive.members.items()):
        reason = why_no_image(name, functools.partial(archive.read, member, HEAD_BYTES))
        if reason is None and member.encrypted:
            raise DataError(f"{path} is encrypted; unpack it with its password, and give the folder")
        if reason is None and member.size > MAX_FILE_BYTES:
            reason = f"larger than {MAX_FILE_BYTES // 2**20} MB"
        if reason is None:
            paths.append(name)
        else:
            left_out.append((name, reason))
    size = sum(archive.members[name].size for name in paths)
    if size > max(_LARGE, _MOST_TIMES * path.stat().st_size):
        raise DataError(
            f"{path} would unpack to {size / 2**30:,.0f} GB, {size // max(1, path.stat().st_size):,} times its size; "
            "if you trust it, unpack it and give the folder"
        )
    return Listing(paths, tuple(left_out), ArchiveSource(path))


@dataclass(frozen=True)
class _Member:
    """A regular file in an archive: its name there, and its size in bytes when unpacked."""

    stored: str
    size: int
    encrypted: bool = False


class _Archive:
    """An open archive; reading takes turns."""

    def __init__(self, path: str, changed_ns: int) -> None:
        import fsspec

        self.changed_ns = changed_ns
        self.members: dict[str, _Member] = {}
        self.left_out: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._file = _unpacked(as_path(path))
        kind = "zip" if zipfile.is_zipfile(self._file) else "tar"
        self._file.seek(0)
        with contextlib.suppress(AttributeError):
            self._file.raw.name = "whole.tar"  # fsspec would take the kind of compression from it
        self._files: Any = fsspec.filesystem(kind, fo=self._file, skip_instance_cache=True)
        if kind == "zip":
            for entry in self._files.zip.infolist():
                mode = entry.external_attr >> 16
                regular = not entry.is_dir() and (stat.S_ISREG(mode) or not stat.S_IFMT(mode))
                self._add(_zip_name(entry), entry.filename, entry.file_size, entry.is_dir(), regular,
                          bool(entry.flag_bits & 1))  # fmt: skip
        else:
            for item in self._files.tar.getmembers():
                self._add(item.name, item.name, item.size, item.isdir(), item.isreg())

    def read(self, member: _Member, most: int) -> bytes:
        """Give the first ``most`` bytes. Raises OSError if they cannot be read."""
        try:
            with self._lock, self._files.open(member.stored) as file:
                return file.read(most)
        except NotImplementedError:  # zipfile's word for Deflate64 and its like
            raise OSError(
                "packed as Windows packs large files; unpack the archive, give the folder"
            ) from None
        except _ERRORS as error:
            raise OSError(f"damaged in the archive ({error or type(error).__name__})") from None

    def _add(
        self, name: str, stored: str, size: int, is_folder: bool, is_regular: bool, encrypted: bool = False
    ) -> None:
        shown = composed(name.replace("\\", "/")).removeprefix("./")
        if is_folder or is_hidden(shown.lstrip("/").replace("../", "")):
            return
        if not is_regular:
            self.left_out.append((shown, "not a regular file"))
        elif shown[:1] == "/" or shown[1:3] == ":/" or ".." in shown.split("/"):
            self.left_out.append((shown, "name that leads out of the archive"))
        else:
            if shown in self.members:
                self.left_out.append((shown, "there twice, the last counts"))
            self.members[shown] = _Member(stored, size, encrypted)


@functools.lru_cache(maxsize=4)
def _open(path: str, changed_ns: int) -> _Archive:
    return _Archive(path, changed_ns)


def changed_ns(path: Path) -> int:
    """When a file, here or in a store, was changed, in nanoseconds."""
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns) if is_local(path) else int(status.st_mtime * 1e9)


def _member(path: Path, changed_ns: int, name: str) -> _Member:
    try:
        return _open(str(path), changed_ns).members[name]
    except KeyError:
        raise FileNotFoundError(2, "No such file in the archive", name) from None
    except _ERRORS as error:
        raise OSError(f"the archive cannot be read ({error})") from None


def _unpacked(path: Path) -> Any:
    """The archive as a file that can be read at any place: a compressed tar goes to a nameless file first."""
    with path.open("rb") as file:
        opened = _COMPRESSED.get(file.read(3))
    if opened is None:
        return path.open("rb")
    most = max(_LARGE, _MOST_TIMES * path.stat().st_size)
    whole: Any = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the archive
    with opened(path, "rb") as file:
        while block := file.read(1 << 20):
            if whole.tell() + len(block) > most:
                raise ValueError(f"it unpacks to more than {most / 2**30:.0f} GB")
            whole.write(block)
    whole.seek(0)
    return whole


def _zip_name(entry: zipfile.ZipInfo) -> str:
    if entry.flag_bits & 0x800 or entry.filename.isascii():
        return entry.filename
    raw = entry.filename.encode("cp437")  # as Python reads what has no mark
    return raw.decode("utf-8", "surrogateescape")


_SIDECARS = (".cls", ".txt", ".json")
_LABELS = ("label", "emotion", "expression", "class", "cls")
_PERSONS = ("group", "person", "subject", "identity")


@dataclass(frozen=True)
class TarsSource(ImageSource):
    """Images in the tars of a folder; see :class:`ferkit.datasets.dataset.ImageSource`."""

    root: Path
    tagged = True

    def stamp(self, path: str) -> Stamp:
        """Size of the image; time of its tar."""
        source, inner = self._within(path)
        return source.stamp(inner)

    def read(self, path: str) -> bytes:
        """The content of the image."""
        source, inner = self._within(path)
        return source.read(inner)

    def _within(self, path: str) -> tuple[ArchiveSource, str]:
        tar, _, inner = path.partition(".tar/")
        return ArchiveSource(self.root / f"{tar}.tar"), inner


def tars_in(root: Path) -> list[str]:
    """Names of the tars right in a folder or address, sorted; none where most of what lies there is something else."""
    with contextlib.suppress(OSError):  # it is named when it is listed
        paths = root.iterdir()
        first = [path.name for path in itertools.islice(paths, 64)]
        if any(name.endswith(".tar") for name in first):
            names = sorted(n for n in (*first, *(path.name for path in paths)) if not n.startswith("."))
            tars = [name for name in names if name.endswith(".tar")]
            return tars if 2 * len(tars) >= len(names) else []
    return []


def read_webdataset(root: Path, tars: list[str]) -> Dataset:
    """Read tars of samples: the label is what ``.cls``, ``.txt`` or the ``.json`` next to an image says.

    A split is what the name of a tar begins with, as in ``train-0000.tar``.

    Raises:
        DataError: a tar cannot be read, or holds no image.
    """
    samples: list[Sample] = []
    left_out: list[tuple[str, str]] = []
    for tar in tars:
        listing = list_archive(root / tar)
        notes = {path for path, _ in listing.left_out if path.endswith(_SIDECARS)}
        left_out += [(f"{tar}/{path}", reason) for path, reason in listing.left_out if path not in notes]
        split = split_named(tar.rpartition(".")[0].split("-")[0])
        for path in listing.paths:
            label, group = _noted(listing.source, path.rpartition(".")[0], notes)
            samples.append(Sample(f"{tar}/{path}", label, split, group))
    return Dataset(place_name(root), root, tuple(samples), TarsSource(root), tuple(left_out))


def _noted(source: object, key: str, notes: set[str]) -> tuple[str | None, str | None]:
    assert isinstance(source, ArchiveSource)
    label = group = None
    for suffix in _SIDECARS:
        if key + suffix not in notes:
            continue
        text = source.read(key + suffix).decode("utf-8", "replace").strip()
        if suffix != ".json":
            label = label or (class_name(text) if text else None)
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise DataError(f"{key}.json in {source.root} is no JSON") from None
        if isinstance(values, dict):
            label = label or next(
                (class_name(str(values[k])) for k in _LABELS if values.get(k) is not None), None
            )
            group = next((class_name(str(values[k])) for k in _PERSONS if values.get(k) is not None), None)
    return label, group


_ARRAYS = {
    "images": "images x image imgs data pixels", "labels": "labels y label target targets emotions",
    "split": "split splits usage subset", "groups": "groups group person persons subject subjects",
    "class_names": "classnames classes labelnames targetnames",
}  # fmt: skip
_ROLES = {
    form: (what, split)
    for what, words in _ARRAYS.items()
    for word in words.split()
    for name, split in (("", None), *SPLIT_NAMES.items())
    for form in (word + name, name + word)
}
"""What an array of a name holds, and of which split: ``X_train``, ``train_images``, ``y_valid``, …"""


@dataclass(frozen=True)
class ArraySource:
    """Images of one size in memory; see :class:`ferkit.datasets.dataset.ImageSource`.

    Attributes:
        changed_ns: when their file was changed, which is said of every image.
        images: uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3).
        index: position of each path.
    """

    changed_ns: int
    images: np.ndarray
    index: Mapping[str, int]

    def stamp(self, path: str) -> Stamp:
        return Stamp(self.images[0].size, self.changed_ns)

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
    in 0..1, the channels first or last; labels are names, numbers into ``class_names``, or one-hot, one an image.

    Raises:
        DataError: not such a file.
    """
    loaded, left_out = _load(path)
    roles = {key: _ROLES.get("".join(filter(str.isalnum, key.casefold())), ("", key)) for key in loaded}
    arrays = {roles[key]: array for key, array in loaded.items()}
    if unread := [key for key, role in roles.items() if not role[0] or arrays[role] is not loaded[key]]:
        logger.info("arrays of %s that are not read: %s", path, some(unread))
    if not any(what == "images" for what, _ in arrays):
        found = list(loaded)
        raise DataError(f"expected arrays 'images' and 'labels' (or x_train, …) in {path}, found {found}")
    samples: list[Sample] = []
    parts: list[np.ndarray] = []
    start = 0
    names = _names(arrays.get(("class_names", None)), "class_names", None, path)
    for split in (split for split in (None, "train", "val", "test") if ("images", split) in arrays):
        parts.append(_as_bytes(arrays["images", split], path))
        n, labels = len(parts[-1]), arrays.get(("labels", split))
        known_labels = [None] * n if labels is None else _labels(labels, n, names, path)
        splits, groups = (
            _names(None if split else arrays.get((key, None)), key, n, path) for key in ("split", "groups")
        )
        for i, label in enumerate(known_labels):
            try:
                own_split = split if splits is None else split_of(splits[i], path)
            except DataError as error:
                left_out.append((f"image {start + i}", str(error)))
                continue
            group = None if groups is None or is_missing(groups[i]) else groups[i]
            samples.append(Sample(f"{own_split or 'all'}/{start + i:06d}", label, own_split, group))
        start += n
    if len({part.shape[1:] for part in parts}) != 1:
        raise DataError(f"expected images of one size in {path}, found {[part.shape[1:] for part in parts]}")
    index = {sample.path: int(sample.path.rpartition("/")[2]) for sample in samples}
    source = ArraySource(changed_ns(path), np.concatenate(parts), index)
    return Dataset(path.stem, path, tuple(samples), source, tuple(left_out))


def _load(path: Path) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """The arrays by name, and the members that are none."""
    left_out = []
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    if not _is_array(file, member.filename, member.file_size):
                        left_out.append((member.filename, "not an array"))
        foreign = {name.removesuffix(".npy") for name, _ in left_out}
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key not in foreign}, left_out
    except (OSError, MemoryError, *_ERRORS) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"expected an .npz file of plain arrays at {path}: {reason}") from None


def _is_array(file: IO[bytes], name: str, size: int) -> bool:
    """Whether it is one; ValueError where it holds less than its header claims, or more than there is memory."""
    if file.read(6) != np.lib.format.MAGIC_PREFIX:
        return False
    version = tuple(file.read(2))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    claimed = dtype.itemsize * math.prod(shape)  # Python's numbers do not overflow
    if dtype.hasobject:
        raise ValueError(f"its member {name} holds Python objects; save it with .astype(str), or numpy.stack")
    if claimed > size - file.tell():
        raise ValueError(f"its member {name} claims {claimed:,} bytes and has {size - file.tell():,}")
    if hasattr(os, "sysconf") and claimed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise ValueError(f"its member {name} has {claimed:,} bytes, more than there is memory")
    return True


def _as_bytes(images: np.ndarray, path: Path) -> np.ndarray:
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = np.moveaxis(images, 1, 3)
    shape_is_right = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if not shape_is_right or not images.size:
        raise DataError(f"expected images of shape (n, H, W[, 1 or 3]) in {path}, found {images.shape}")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "uif" or not np.isfinite(images).all():
        raise DataError(
            f"expected uint8 or float images in {path}, found {images.dtype} with values that are no pixels"
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        raise DataError(f"expected pixels in 0..255 or 0..1 in {path}, found {low:g}..{high:g}")
    scale = 255.0 if high <= 1.0 and np.issubdtype(images.dtype, np.floating) else 1.0
    return np.rint(images * scale).astype(np.uint8)


def _labels(labels: np.ndarray, n: int, names: list[str] | None, path: Path) -> list[str | None]:
    is_table = labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "buif"
    if is_table and (labels.sum(axis=1) == 1).all() and np.isin(labels, (0, 1)).all():
        labels = labels.argmax(axis=1)  # one-hot
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(
            f"expected one label for each of {n} images in {path}, found labels of shape {labels.shape}"
        )
    values = labels.reshape(-1)
    if not np.issubdtype(values.dtype, np.number):
        return [None if is_missing(text) else text for text in _texts(values)]
    unknown = np.isnan(values) if np.issubdtype(values.dtype, np.floating) else np.zeros(n, bool)
    values = np.where(unknown, 0, values)
    with np.errstate(invalid="ignore"):  # infinity becomes some number, and differs from it
        numbers = values.astype(np.int64)
    if not np.array_equal(numbers, values):
        raise DataError(
            f"expected names or whole numbers as labels in {path}, found {values.dtype} with other values"
        )
    if names is None:
        return [None if nan else str(number) for number, nan in zip(numbers, unknown, strict=True)]
    if n and not 0 <= numbers.min() <= numbers.max() < len(names):
        found = f"{numbers.min()}..{numbers.max()}"
        raise DataError(f"expected labels 0..{len(names) - 1} for the class_names of {path}, found {found}")
    return [None if nan else names[number] for number, nan in zip(numbers, unknown, strict=True)]


def _names(array: np.ndarray | None, key: str, n: int | None, path: Path) -> list[str] | None:
    if array is None:
        return None
    if array.ndim != 1 or n not in (None, len(array)):
        raise DataError(f"expected '{key}' of shape ({n or 'n'},) in {path}, found {array.shape}")
    return _texts(array)


def _texts(values: np.ndarray) -> list[str]:
    """Array entries as text; byte strings are UTF-8 or CP949."""
    return [
        class_name(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))
        for value in values.tolist()
    ]
