"""One pass over all images: what each is, in a few numbers and a thumbnail, kept so that it is made once."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.console import Progress, map_ahead, progress
from ferkit.core.errors import DataError
from ferkit.core.files import Arrays, cached_arrays, fingerprint
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.images import resized

SIDE = 48
"""Width and height of a thumbnail, in pixels."""

COLOR_SIDE = 12
"""The same of what is kept of the colours."""

_FORMAT = 2
_ROWS = 2048
"""Images a file of the cache: the most that an interrupt can lose."""

_COLUMNS = ("content", "pixels", "thumbs", "colors", "size_wh", "contrast", "sharpness")


@dataclass(frozen=True)
class ImageStats:
    """What ``n`` images are, row by row in the order of the data set; 2.8 kB an image.

    Attributes:
        content: (n,) S32, digest of the file's bytes; empty where it could not be read.
        pixels: (n,) S32, digest of size and pixels; empty where it could not be decoded.
        thumbs: uint8 (n, SIDE, SIDE), gray, the whole image stretched; zeros where it could not be decoded.
        colors: int8 (n, COLOR_SIDE, COLOR_SIDE, 2), a* and b* of CIELAB, likewise.
        size_wh: int32 (n, 2), pixels.
        contrast: float32 (n,), standard deviation of the thumbnail's gray levels, 0..128.
        sharpness: float32 (n,), standard deviation of the Laplacian of the image at ``SIDE`` pixels, over
            its contrast.
        errors: row number to the reason why there is no image.
    """

    content: np.ndarray
    pixels: np.ndarray
    thumbs: np.ndarray
    colors: np.ndarray
    size_wh: np.ndarray
    contrast: np.ndarray
    sharpness: np.ndarray
    errors: dict[int, str]

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, rows: np.ndarray) -> "ImageStats":
        """The rows at these positions."""
        at = {int(row): i for i, row in enumerate(rows)}
        errors = {at[row]: reason for row, reason in self.errors.items() if row in at}
        return ImageStats(**{name: getattr(self, name)[rows] for name in _COLUMNS}, errors=errors)

    def joined(self, other: "ImageStats") -> "ImageStats":
        """These rows and then those of ``other``."""
        errors = {**self.errors, **{row + len(self): reason for row, reason in other.errors.items()}}
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS}
        return ImageStats(**columns, errors=errors)

    @property
    def digest(self) -> str:
        """Of all the images' pixels, in their order."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


def image_stats(dataset: Dataset, cache_dir: Path | None = None, *, workers: int | None = None) -> ImageStats:
    """Look at every image once.

    Args:
        dataset: the images.
        cache_dir: where what was seen is kept, in ``images/``; images that have not been touched since are
            not read again. None keeps nothing.
        workers: threads that read; one a core if None.

    Raises:
        FerkitError: the cache cannot be written.
    """

    def file_of(rows: np.ndarray) -> Path | None:
        if cache_dir is None:
            return None
        return cache_dir / "pictures" / f"{_key(dataset, [dataset.samples[row] for row in rows])}.npz"

    joined = cached_rows(
        len(dataset),
        _ROWS,
        f"reading {dataset.name}",
        file_of,
        functools.partial(_look, dataset, workers),
        _fits,
    )
    reasons = joined.pop("errors")
    return ImageStats(**joined, errors={int(i): str(reasons[i]) for i in np.flatnonzero(reasons != "")})


def content_digest(content: bytes) -> str:
    """What tells contents apart, 32 letters."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def cached_rows(
    n: int,
    size: int,
    doing: str,
    file_of: Callable[[np.ndarray], Path | None],
    make: Callable[[np.ndarray, Progress], Arrays],
    fits: Callable[[np.ndarray, Arrays], bool],
    unit: str = "images",
) -> dict[str, np.ndarray]:
    """Make arrays for ``n`` rows part by part, each part kept in a file of its own: an interrupt loses one at most.

    Args:
        n: how many rows there are, 1 or more.
        size: rows of a part.
        doing, unit: what is done and counted, for the progress that is shown.
        file_of: where the part of these rows is kept; None keeps nothing.
        make: makes the part of these rows, and counts them.
        fits: whether what a file held is the part of these rows.

    Returns:
        The arrays of all parts, one after the other.

    Raises:
        FerkitError: a file cannot be written.
    """
    parts = []
    with progress(doing, n, unit=unit) as shown:
        for start in range(0, n, size):
            rows = np.arange(start, min(start + size, n))
            part, was_there = cached_arrays(
                file_of(rows), functools.partial(make, rows, shown), functools.partial(fits, rows)
            )
            if was_there:
                shown.update(len(rows))
            parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _key(dataset: Dataset, samples: list[Sample]) -> str:
    stamps = []
    for sample in samples:
        try:
            stamp = dataset.source.stamp(sample.path)
            stamps.append([sample.path, stamp.size, stamp.changed_ns])
        except OSError:
            stamps.append([sample.path, -1, -1])
    return fingerprint([_FORMAT, SIDE, str(dataset.root.resolve()), stamps])[:32]


def _look(dataset: Dataset, workers: int | None, rows: np.ndarray, shown: Progress) -> Arrays:
    n = len(rows)
    samples = [dataset.samples[row] for row in rows]
    part = {
        "content": np.zeros(n, "S32"),
        "pixels": np.zeros(n, "S32"),
        "thumbs": np.zeros((n, SIDE, SIDE), np.uint8),
        "colors": np.zeros((n, COLOR_SIDE, COLOR_SIDE, 2), np.int8),
        "size_wh": np.zeros((n, 2), np.int32),
        "contrast": np.zeros(n, np.float32),
        "sharpness": np.zeros(n, np.float32),
    }
    reasons = [""] * n
    see = functools.partial(_see, dataset)
    for i, (image, reason) in enumerate(map_ahead(see, samples, workers=workers)):
        for name, value in image.items():
            part[name][i] = value
        reasons[i] = reason
        shown.update(1, failures=bool(reason))
    return {**part, "errors": np.array(reasons, np.str_)}


def _see(dataset: Dataset, sample: Sample) -> tuple[dict[str, object], str]:
    """What the columns get, and the reason if there is no image."""
    seen: dict[str, object] = {}
    try:
        content = dataset.source.read(sample.path)
        seen["content"] = content_digest(content)
        rgb = dataset.source.decode(content)
    except DataError as error:
        return seen, str(error)
    except OSError as error:
        return seen, f"cannot be read: {error.strerror or error}"
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    thumb = resized(gray, (SIDE, SIDE))
    contrast = float(thumb.std())
    seen |= {
        "pixels": content_digest(np.array(rgb.shape, np.int64).tobytes() + rgb.tobytes()),
        "thumbs": thumb,
        "colors": _colors(rgb),
        "size_wh": (rgb.shape[1], rgb.shape[0]),
        "contrast": contrast,
        "sharpness": float(cv2.Laplacian(thumb, cv2.CV_32F).std()) / max(contrast, 1.0),
    }
    return seen, ""


def _colors(rgb: np.ndarray) -> np.ndarray:
    small = cv2.resize(rgb, (COLOR_SIDE, COLOR_SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.clip(np.rint(lab[..., 1:]), -127, 127).astype(np.int8)


def _fits(rows: np.ndarray, part: Arrays) -> bool:
    return part.keys() == {*_COLUMNS, "errors"} and all(len(column) == len(rows) for column in part.values())
