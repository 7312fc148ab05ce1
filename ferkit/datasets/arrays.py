"""Pictures in arrays: ``.npz`` files and whatever decodes into memory as a whole."""

import os
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, Sample, Stamp
from ferkit.datasets.files import class_name
from ferkit.datasets.folder import is_missing, split_of

_IMAGES = ("images", "x", "X", "data")
_LABELS = ("labels", "y", "Y", "target")


@dataclass(frozen=True)
class ArraySource:
    """Pictures of one size in memory; see :class:`ferkit.datasets.dataset.ImageSource`.

    Attributes:
        file: where they were read from; its time of change is that of every picture.
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
    """Read an ``.npz`` file of pictures and labels.

    Either ``images`` and ``labels`` (also ``x``, ``y``), with ``split``, ``groups`` and ``class_names`` where known,
    or one pair a split: ``x_train``/``y_train`` or ``train_images``/``train_labels``. Pictures are uint8, or floats
    in 0..1; labels are names, or numbers into ``class_names``, one a picture.

    Raises:
        DataError: not such a file.
    """
    arrays, left_out = _load(path)
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
            group = None if groups is None or is_missing(groups[i]) else groups[i]
            samples.append(Sample(f"{own_split or 'all'}/{len(samples):06d}", label, own_split, group))
    if len({part.shape[1:] for part in parts}) != 1:
        raise DataError(
            f"expected pictures of one size in {path}, found {[part.shape[1:] for part in parts]}"
        )
    index = {sample.path: i for i, sample in enumerate(samples)}
    return Dataset(path.stem, path, tuple(samples), ArraySource(path, np.concatenate(parts), index), left_out)


def _load(path: Path) -> tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]:
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
            return {key: file[key] for key in file.files if key not in foreign}, tuple(left_out)
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        RuntimeError,
        MemoryError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"expected an .npz file of plain arrays at {path}: {reason}") from None


def _is_array(file: IO[bytes], name: str, size: int) -> bool:
    """Whether it is one; ValueError where it holds less than its header claims, or more than there is memory."""
    if file.read(6) != np.lib.format.MAGIC_PREFIX:
        return False
    version = tuple(file.read(2))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    claimed = dtype.itemsize
    for length in shape:  # Python's numbers do not overflow
        claimed *= int(length)
    if claimed > size - file.tell() and not dtype.hasobject:
        raise ValueError(f"its member {name} claims {claimed:,} bytes and has {size - file.tell():,}")
    if hasattr(os, "sysconf") and claimed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise ValueError(f"its member {name} has {claimed:,} bytes, more than there is memory")
    return True


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
        raise DataError(f"expected pictures of shape (n, H, W[, 1 or 3]) in {path}, found {images.shape}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.number) or not np.isfinite(images).all():
        raise DataError(
            f"expected uint8 or float pictures in {path}, found {images.dtype} with values that are no pixels"
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        raise DataError(f"expected pixels in 0..255 or 0..1 in {path}, found {low:g}..{high:g}")
    scale = 255.0 if high <= 1.0 and np.issubdtype(images.dtype, np.floating) else 1.0
    return np.rint(images * scale).astype(np.uint8)


def _labels(labels: np.ndarray, n: int, names: list[str] | None, path: Path) -> list[str | None]:
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(
            f"expected one label for each of {n} pictures in {path}, found labels of shape {labels.shape}"
        )
    values = labels.reshape(-1)
    if not np.issubdtype(values.dtype, np.number):
        return [None if is_missing(text) else class_name(text) for text in _texts(values)]
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
