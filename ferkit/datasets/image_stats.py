"""One pass over all images: what each is, in a few numbers and a thumbnail, kept so that it is made once."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.console import Progress, map_ahead, progress
from ferkit.core.errors import DataError
from ferkit.core.files import Arrays, cached_arrays, fingerprint
from ferkit.datasets.dataset import Dataset, Sample

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
    parts = []
    with progress(f"reading {dataset.name}", len(dataset)) as shown:
        for start in range(0, len(dataset), _ROWS):
            samples = dataset.samples[start : start + _ROWS]
            file = None if cache_dir is None else cache_dir / "pictures" / f"{_key(dataset, samples)}.npz"
            look = functools.partial(_look, dataset, samples, workers, shown)
            part, was_there = cached_arrays(file, look, functools.partial(_fits, len(samples)))
            if was_there:
                shown.update(len(samples))
            parts.append(part)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    reasons = joined.pop("errors")
    return ImageStats(**joined, errors={int(i): str(reasons[i]) for i in np.flatnonzero(reasons != "")})


def _key(dataset: Dataset, samples: tuple[Sample, ...]) -> str:
    stamps = []
    for sample in samples:
        try:
            stamp = dataset.source.stamp(sample.path)
            stamps.append([sample.path, stamp.size, stamp.changed_ns])
        except OSError:
            stamps.append([sample.path, -1, -1])
    return fingerprint([_FORMAT, SIDE, str(dataset.root.resolve()), stamps])[:32]


def _look(
    dataset: Dataset, samples: tuple[Sample, ...], workers: int | None, shown: Progress
) -> dict[str, np.ndarray]:
    n = len(samples)
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
    for i, seen in enumerate(map_ahead(functools.partial(_see, dataset), samples, workers=workers)):
        content, image, reason = seen
        part["content"][i], reasons[i] = content, reason
        if image is not None:
            for name, value in image.items():
                part[name][i] = value
        shown.update(1, failures=bool(reason))
    return {**part, "errors": np.array(reasons, np.str_)}


def _see(dataset: Dataset, sample: Sample) -> tuple[bytes, dict[str, object] | None, str]:
    """Digest of the content, what the columns get, and the reason if there is no image."""
    content_digest = b""
    try:
        content = dataset.source.read(sample.path)
        content_digest = _digest(content)
        rgb = dataset.source.decode(content)
    except DataError as error:
        return content_digest, None, str(error)
    except OSError as error:
        return content_digest, None, f"cannot be read: {error.strerror or error}"
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = gray.shape[0] >= SIDE and gray.shape[1] >= SIDE
    thumb = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA if small else cv2.INTER_LINEAR)
    contrast = float(thumb.std())
    image = {
        "pixels": _digest(np.array(rgb.shape, np.int64).tobytes() + rgb.tobytes()),
        "thumbs": thumb,
        "colors": _colors(rgb),
        "size_wh": (rgb.shape[1], rgb.shape[0]),
        "contrast": contrast,
        "sharpness": float(cv2.Laplacian(thumb, cv2.CV_32F).std()) / max(contrast, 1.0),
    }
    return content_digest, image, ""


def _colors(rgb: np.ndarray) -> np.ndarray:
    small = cv2.resize(rgb, (COLOR_SIDE, COLOR_SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.clip(np.rint(lab[..., 1:]), -127, 127).astype(np.int8)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _fits(n: int, part: Arrays) -> bool:
    return part.keys() == {*_COLUMNS, "errors"} and all(len(column) == n for column in part.values())
