"""Pictures in arrays: ``.npz`` files and whatever decodes into memory as a whole."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, Sample, Stamp

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
    in 0..1; labels are names, or numbers into ``class_names``.

    Raises:
        DataError: not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"expected an .npz file of plain arrays at {path}: {error}") from None

    names = arrays.get("class_names")
    samples: list[Sample] = []
    parts: list[np.ndarray] = []
    for split, images, labels in _pairs(arrays, path):
        parts.append(_as_bytes(images, path))
        if labels is not None and len(labels) != len(images):
            raise DataError(f"expected as many labels as pictures in {path}, found {len(labels)} and {len(images)}")
        splits = arrays.get("split") if split is None else None
        groups = arrays.get("groups") if split is None else None
        for i in range(len(images)):
            own_split = str(splits[i]) if splits is not None else split
            samples.append(
                Sample(
                    path=f"{own_split or 'all'}/{len(samples):06d}",
                    label=None if labels is None else _label(labels[i], names),
                    split=own_split,
                    group=None if groups is None else str(groups[i]),
                )
            )
    if len({part.shape[1:] for part in parts}) != 1:
        raise DataError(f"expected pictures of one size in {path}, found {[part.shape[1:] for part in parts]}")
    index = {sample.path: i for i, sample in enumerate(samples)}
    return Dataset(path.stem, path, tuple(samples), ArraySource(path, np.concatenate(parts), index))


def _pairs(arrays: dict[str, np.ndarray], path: Path) -> list[tuple[str | None, np.ndarray, np.ndarray | None]]:
    images = next((arrays[key] for key in _IMAGES if key in arrays), None)
    if images is not None:
        return [(None, images, next((arrays[key] for key in _LABELS if key in arrays), None))]
    pairs: list[tuple[str | None, np.ndarray, np.ndarray | None]] = []
    for split in ("train", "val", "test"):
        for x, y in ((f"x_{split}", f"y_{split}"), (f"X_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")):
            if x in arrays:
                pairs.append((split, arrays[x], arrays.get(y)))
    if not pairs:
        raise DataError(f"expected arrays 'images' and 'labels' (or x_train, y_train, …) in {path}, found {list(arrays)}")
    return pairs


def _as_bytes(images: np.ndarray, path: Path) -> np.ndarray:
    shape_is_right = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if not shape_is_right or not images.size:
        raise DataError(f"expected pictures of shape (n, H, W[, 1 or 3]) in {path}, found {images.shape}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.number) or not np.isfinite(images).all():
        raise DataError(f"expected uint8 or float pictures in {path}, found {images.dtype} with values that are no pixels")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        raise DataError(f"expected pixels in 0..255 or 0..1 in {path}, found {low:g}..{high:g}")
    scale = 255.0 if high <= 1.0 and np.issubdtype(images.dtype, np.floating) else 1.0
    return np.rint(images * scale).astype(np.uint8)


def _label(value: np.ndarray, names: np.ndarray | None) -> str:
    value = np.asarray(value).reshape(-1)[0]
    if names is not None and np.issubdtype(value.dtype, np.integer):
        return str(names[int(value)])
    return str(value)
