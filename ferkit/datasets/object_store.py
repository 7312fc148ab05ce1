"""Images in object stores and other places that fsspec opens: ``s3://bucket/faces``, ``memory://…``, ``zip://…``."""

import contextlib
import errno
import functools
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError, mask_credentials
from ferkit.core.files import is_local
from ferkit.datasets.dataset import FileSource, ImageSource, Listing, Stamp, is_hidden, list_folder
from ferkit.datasets.images import HEAD_BYTES, why_no_image

THREADS = 32
"""Requests at a time: each waits for tens of milliseconds, and the network of a backbone must not wait for them."""


@dataclass(frozen=True)
class ObjectSource(ImageSource):
    """Images below an address; see :class:`ferkit.datasets.dataset.ImageSource`.

    Attributes:
        root: the address, as a path.
        stamps: of images that were listed.
        tagged: that contents have tags, which tell more surely than times whether they changed.
    """

    root: Path
    stamps: dict[str, Stamp] = field(default_factory=dict, repr=False)
    tagged = True

    def stamp(self, path: str) -> Stamp:
        """Size, time and tag, as listed; what was not listed is asked for once."""
        if path not in self.stamps:
            with _as_os_error(path):
                self.stamps[path] = _stamp(_files(self.root).info(_key(self.root, path)))
        return self.stamps[path]

    def read(self, path: str) -> bytes:
        """The content."""
        with _as_os_error(path):
            return bytes(_files(self.root).cat_file(_key(self.root, path)))


def file_source(folder: Path) -> ImageSource:
    """What reads the images below a folder or an address."""
    return FileSource(folder) if is_local(folder) else ObjectSource(folder)


def list_place(root: Path) -> Listing:
    """List the images below a folder or an address, see :func:`ferkit.datasets.dataset.list_folder`.

    Raises:
        DataError: it cannot be listed.
    """
    return list_folder(root) if is_local(root) else _list_objects(root)


def _list_objects(root: Path) -> Listing:
    files, stamps = _files(root), {}
    try:
        with _as_os_error(str(root)):
            found = files.find(_base(root), detail=True)
    except OSError as error:
        raise DataError(f"{mask_credentials(str(root))} cannot be listed ({error.strerror})") from None
    names = sorted(found)
    left_out: list[tuple[str, str]] = []
    start = len(_base(root)) + 1 if _base(root) else 0
    dark = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == ".nomedia"}
    for name in names:
        path = name[start:]
        if is_hidden(path) or any(name.startswith(f"{folder}/") for folder in dark):
            continue
        reason = why_no_image(path, functools.partial(_head, files, name))
        if reason is None:
            stamps[path] = _stamp(found[name])
        else:
            left_out.append((path, reason))
    return Listing(list(stamps), tuple(left_out), ObjectSource(root, stamps))


def _head(files: Any, name: str) -> bytes:
    with _as_os_error(name):
        return bytes(files.cat_file(name, start=0, end=HEAD_BYTES))


def _files(address: Any) -> Any:
    return address.fs


def _base(address: Any) -> str:
    return str(address.path).rstrip("/")


def _key(root: Path, path: str) -> str:
    return f"{_base(root)}/{path}" if _base(root) else path.lstrip("/")


_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
_TAGS = ("ETag", "etag", "md5Hash", "content_md5")


def _stamp(info: dict[str, Any]) -> Stamp:
    changed: Any = next((info[key] for key in _TIMES if info.get(key)), None)
    if isinstance(changed, str):
        with contextlib.suppress(ValueError):
            changed = datetime.fromisoformat(changed)
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    tag = next((str(info[key]).strip('"') for key in _TAGS if info.get(key)), None)
    known = isinstance(changed, (int, float))
    return Stamp(int(info.get("size") or 0), int(changed * 1e9) if known else time.time_ns(), tag)


@contextlib.contextmanager
def _as_os_error(path: str) -> Iterator[None]:
    """One kind of error for what the packages of the many stores raise, without credentials."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from None
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(errno.EIO, mask_credentials(first), path) from None


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file, which is fetched for the time of the block where it is at an address."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        with _as_os_error(str(path)):
            _files(path).get(_base(path), str(copy), recursive=path.is_dir())
        yield copy


class ReadAhead:
    """Fetches contents by many threads before they are asked for, so that latency does not starve what waits for them.

    Args:
        source: gives the images.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        self._lock = threading.Lock()
        self._begun: dict[str, list[Future[bytes]]] = {}  # several where an image has several boxes

    def begin(self, path: str) -> None:
        """Fetch the content of an image that will be read soon."""
        begun = self._pool.submit(self._source.read, path)
        with self._lock:
            self._begun.setdefault(path, []).append(begun)

    def read(self, path: str) -> bytes:
        """The content. Raises OSError if it cannot be read."""
        with self._lock:
            waiting = self._begun.pop(path, [])
            begun = waiting.pop() if waiting else None
            if waiting:
                self._begun[path] = waiting
        return self._source.read(path) if begun is None else begun.result()

    def stamp(self, path: str) -> Stamp:
        """Size, time and tag."""
        return self._source.stamp(path)

    def decode(self, content: bytes) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        return self._source.decode(content)

    def close(self) -> None:
        """Drop what was not asked for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
