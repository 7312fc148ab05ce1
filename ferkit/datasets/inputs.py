"""List the images that a caller means: files, folders, globs, addresses, arrays and PIL images."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ferkit.core.errors import DataError, ImageError
from ferkit.core.types import check_image
from ferkit.datasets.archives import ARCHIVE_SUFFIXES
from ferkit.datasets.dataset import FileSource, Stamp
from ferkit.datasets.images import decode_image
from ferkit.datasets.load import find_paths, list_source
from ferkit.datasets.remote import FetchLimits, fetch_image, is_http

ImagesLike: TypeAlias = "str | os.PathLike[str] | np.ndarray | Sequence[Any] | Any"
"""A file, folder, glob or http(s) address; a uint8 RGB array (H, W, 3) or (n, H, W, 3); a PIL image; or a list."""

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts")

_EXPECTED = (
    "an image as a path, folder, glob, http(s) address, uint8 RGB array or PIL image, or a list of them"
)


class GivenImages:
    """Images as a caller gave them; an :class:`ferkit.datasets.dataset.ImageSource`.

    Args:
        given: see :data:`ImagesLike`; in a list, also pairs of a name and a file's content in bytes.
        limits: of what is fetched from addresses.

    Attributes:
        names: one for each image, in the order given: the path, the address, or ``image-1`` for an array.

    Raises:
        DataError: something else was given, or there is nothing.
    """

    def __init__(self, given: ImagesLike, limits: FetchLimits | None = None) -> None:
        self._limits = limits
        self._files = FileSource(Path())
        self._own: dict[str, tuple[Any, str]] = {}
        self.names: list[str] = []
        for one in _each(given):
            self._add(one)
        if not self.names:
            raise DataError(f"expected {_EXPECTED}, found nothing")

    def stamp(self, path: str) -> Stamp:
        """Size and time of the last change, of a file."""
        return self._files.stamp(path)

    def read(self, path: str) -> bytes:
        """The content of a file or address, or the pixels of an array.

        Raises:
            OSError, ImageError: it cannot be read or fetched.
        """
        if path not in self._own:
            if is_http(path):
                return fetch_image(path, self._limits)
            if Path(path).suffix.lower() in VIDEO_SUFFIXES:
                raise ImageError(f"it is a video, which 'fer video {path}' reads")
            return self._files.read(path)
        source, name = self._own[path]
        if isinstance(source, np.ndarray):
            return _Pixels(source)
        return source if isinstance(source, bytes) else bytes(source.read(name))

    def decode(self, content: bytes) -> np.ndarray:
        """uint8 RGB (H, W, 3). Raises ImageError if it is no image."""
        return content.rgb if isinstance(content, _Pixels) else decode_image(content)

    def _add(self, one: Any) -> None:
        if isinstance(one, (str, os.PathLike)):
            self._add_path(os.fspath(one))
            return
        if isinstance(one, tuple) and len(one) == 2 and isinstance(one[1], bytes):
            self._own[one[0]] = (one[1], "")
            self.names.append(one[0])
            return
        rgb = np.asarray(one.convert("RGB")) if hasattr(one, "convert") and hasattr(one, "size") else one
        if not isinstance(rgb, np.ndarray):
            raise DataError(f"expected {_EXPECTED}; found {type(one).__name__}")
        self._own[name := f"image-{len(self.names) + 1}"] = (check_image(rgb), "")
        self.names.append(name)

    def _add_path(self, text: Any) -> None:
        if not isinstance(text, str):
            text = os.fsdecode(text)
        if is_http(text):
            self.names.append(text)
            return
        for path in find_paths(Path(text)):
            if not path.is_dir() and path.suffix.lower() not in ARCHIVE_SUFFIXES:
                self.names.append(str(path))
                continue
            listing = list_source(path)
            for inner in listing.paths:
                self.names.append(name := str(path / inner))
                self._own[name] = (listing.source, inner)


class _Pixels(bytes):
    """The pixels of an array, which are their own content."""

    rgb: np.ndarray

    def __new__(cls, rgb: np.ndarray) -> "_Pixels":
        made = super().__new__(cls, np.ascontiguousarray(rgb).tobytes())
        made.rgb = rgb
        return made


def _each(given: Any) -> Iterator[Any]:
    if (isinstance(given, np.ndarray) and given.ndim == 4) or isinstance(given, (list, tuple)):
        yield from given
    else:
        yield given
