"""Pictures in arrays: ``.npz`` files and whatever decodes into memory as a whole."""

import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, Sample, Stamp
from ferkit.datasets.folder import split_of

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
        raise DataError(
            f"expected pictures of one size in {path}, found {[part.shape[1:] for part in parts]}"
        )
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
