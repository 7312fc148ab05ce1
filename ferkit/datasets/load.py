"""One way in: what a user names as data, and the images that a caller means by paths, addresses, arrays and more."""

import contextlib
import functools
import glob
import ipaddress
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import numpy as np

from ferkit.core.console import some
from ferkit.core.errors import DataError, ImageError, mask_credentials
from ferkit.core.files import as_path, is_local
from ferkit.core.labels import same_meaning
from ferkit.core.types import check_image
from ferkit.datasets.archives import ARCHIVE_SUFFIXES, list_archive, read_npz, read_webdataset, tars_in
from ferkit.datasets.dataset import (
    AIHUB_PERSON,
    Dataset,
    FileSource,
    ImageSource,
    Listing,
    Sample,
    Stamp,
    composed,
    is_hidden,
    labelled_by_folders,
    left_out_line,
    list_folder,
    person_in,
    place_name,
)
from ferkit.datasets.images import REMEDIES, decode_image
from ferkit.datasets.object_store import file_source, list_place, local_copy
from ferkit.datasets.tables import TABLE_SUFFIXES, read_table

if TYPE_CHECKING:
    import http.client

logger = logging.getLogger(__name__)

KINDS = "a folder, a .zip or .tar file, a table (.csv, .tsv, .txt) or an .npz file"


def load_dataset(
    path: str | os.PathLike[str],
    person_pattern: str | None = None,
    columns: Mapping[str, str] | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read a folder of images, a zip or tar of one, a table (``fer2013.csv`` too) or an ``.npz`` file.

    What is not taken is logged in one line, with the reasons, and stands in ``left_out``; several spellings of one
    class and class folders without images are logged too.

    Args:
        path: what to read.
        person_pattern: regular expression that finds the person in a file name, for folders, archives, and tables
            that do not name the person; None knows AI Hub's names.
        columns: for tables, name of the column by meaning (``path``, ``label``, ``split``, ``group``).
        images: for tables, the folder that their paths start from; None is that of the table.

    Raises:
        DataError: nothing there, or nothing that is understood.
    """
    path = as_path(path)
    dataset = _read(path, person_pattern or AIHUB_PERSON, columns, images)
    if dataset.left_out:
        logger.warning("%s", left_out_line(dataset.left_out, _kind(path)))
    if is_local(path) and path.is_dir() and (empty := _empty_folders(path, dataset)):
        logger.warning("no images in the folders %s; their classes are left out", some(empty))
    if spellings := same_meaning(dataset.class_counts()):
        pairs = "; ".join(" and ".join(names) for names in spellings.values())
        logger.warning("%s mean the same; make them one class: fer dataset map %s -o merged.csv", pairs, path)
    return dataset


def open_source(path: Path, columns: Mapping[str, str] | None = None) -> tuple[str, ImageSource]:
    """The name of a data set, and what gives its images; a folder is not listed for it.

    Raises:
        DataError: nothing there, or nothing that is understood.
    """
    if path.is_dir() and not tars_in(path):
        return place_name(path), file_source(path)
    dataset = _read(path, AIHUB_PERSON, columns, None)
    return dataset.name, dataset.source


def list_source(path: Path) -> Listing:
    """List the images of a folder or archive, to read them without labels; what is left out is logged.

    Raises:
        DataError: it cannot be listed, or holds no image.
    """
    listing = list_folder(path) if path.is_dir() else list_archive(path)
    if listing.left_out:
        logger.warning("%s", left_out_line(listing.left_out))
    if not listing.paths:
        raise DataError(f"expected images in {path}, found none")
    return listing


def find_paths(given: Path) -> list[Path]:
    """The paths that a name or a pattern such as ``photos/*.jpg`` means, sorted; a name that is there means itself.

    Raises:
        DataError: a pattern that fits nothing.
    """
    if os.path.lexists(given) or not glob.has_magic(str(given)):
        return [given]
    found = sorted(glob.glob(str(given), recursive=True))
    if not found:
        raise DataError(f"expected files of the pattern {given}, found none")
    return [Path(name) for name in found]


def _read(path: Path, person_pattern: str, columns: Mapping[str, str] | None, images: Path | None) -> Dataset:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"expected {KINDS}, found nothing at {path}; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or mask_credentials(str(error))
        raise DataError(f"{path} cannot be read ({reason}); check the path and its permissions") from None
    suffix = path.suffix.lower()
    if (columns or images) and (suffix not in TABLE_SUFFIXES or stat.S_ISDIR(mode)):
        logger.warning("names of columns and the folder of images are for tables: not used for %s", path)
    if stat.S_ISDIR(mode):
        if tars := tars_in(path):
            return read_webdataset(path, tars)
        return labelled_by_folders(path, list_place(path), person_pattern)
    if not stat.S_ISREG(mode):
        raise DataError(f"expected {KINDS}, found what is not a regular file at {path}")
    if suffix in TABLE_SUFFIXES:
        table = read_table(path, columns, images)
        return replace(table, samples=tuple(_with_person(s, person_pattern) for s in table.samples))
    if suffix == ".npz":
        with local_copy(path) as file:
            return replace(read_npz(file), name=path.stem, root=path)
    if suffix in ARCHIVE_SUFFIXES:
        return labelled_by_folders(path, list_archive(path), person_pattern)
    remedy = next((do for do, of in _REMEDIES.items() if suffix in of.split()), "give the folder of images")
    if suffix in REMEDIES:
        remedy = f"{REMEDIES[suffix]} first, and give the folder"
    raise DataError(f"expected {KINDS}, found {path}; {remedy}")


def _with_person(sample: Sample, pattern: str) -> Sample:
    person = None if sample.group else person_in(sample.path, pattern)
    return sample if person is None else replace(sample, group=person)


_REMEDIES = {
    "save it as 'CSV UTF-8', and give that": ".xls .xlsx .xlsm .ods .numbers .parquet .feather .arrow .jsonl .ndjson",
    "save images and labels with numpy.savez, and give that": ".npy .h5 .hdf5 .mat .pkl .pickle .pt",
    "make a table of COCO's with 'fer dataset import coco', and give that": ".json",
}


def _empty_folders(root: Path, dataset: Dataset) -> list[str]:
    """The folders without images next to those of classes."""
    classes = {PurePosixPath(sample.path).parent for sample in dataset.samples if sample.label is not None}
    filled = {composed(str(folder)) for one in classes for folder in (one, *one.parents)}
    empty: set[str] = set()
    for parent in {one.parent for one in classes if one != PurePosixPath(".")}:
        with contextlib.suppress(OSError), os.scandir(root / parent) as entries:
            found = [composed(str(parent / e.name)) for e in entries if e.is_dir() and not is_hidden(e.name)]
            empty |= set(found) - filled
    return sorted(empty)


def _kind(path: Path) -> str:
    return "rows" if path.suffix.lower() in TABLE_SUFFIXES and path.is_file() else "files"


_CHUNK = 65_536
_ASCII = "".join(map(chr, range(128))).replace(" ", "")
"""What the path of an address may hold; blanks and all else are sent as their bytes in hexadecimal."""

_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class FetchLimits:
    """What is fetched at most.

    Attributes:
        max_bytes: of one image's file.
        max_s: from the first connection to the last byte, in seconds.
        max_redirects: from one address to the next.
        private_hosts: also fetch from this machine and its own network.
    """

    max_bytes: int = 50_000_000
    max_s: float = 30.0
    max_redirects: int = 5
    private_hosts: bool = False


def is_http(text: str) -> bool:
    """Whether a text is an http or https address."""
    return text.lower().startswith(("http://", "https://"))


def fetch_image(address: str, limits: FetchLimits | None = None) -> bytes:
    """Fetch the file at an address; whether it is an image is seen when it is decoded.

    Names are resolved once, and the connection goes to the address that was checked.

    Raises:
        ImageError: the host is not public or does not answer, or a limit is passed; one sentence says which.
    """
    import http.client  # brings ssl and email with it, which a start with a file does not need

    limits = limits or FetchLimits()
    deadline = time.monotonic() + limits.max_s
    for _ in range(limits.max_redirects + 1):
        try:
            parts = urlsplit(address)
            found = _get(parts, limits, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = isinstance(error, TimeoutError) or time.monotonic() >= deadline
            why = f"it takes more than {limits.max_s:g} s" if late else str(error) or type(error).__name__
            raise ImageError(f"it cannot be fetched: {why}") from None
        if isinstance(found, bytes):
            return found
        target = urljoin(address, found)
        if not is_http(target) or (parts.scheme == "https" and urlsplit(target).scheme != "https"):
            raise ImageError("it cannot be fetched: it leads from https to another kind of address")
        address = target
    raise ImageError(f"it cannot be fetched: more than {limits.max_redirects} redirects")


def _get(parts: SplitResult, limits: FetchLimits, deadline: float) -> bytes | str:
    """The content, or where the address leads."""
    import http.client

    if parts.username is not None or not parts.hostname:
        raise ValueError("expected an address without user name and with a host")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(parts.hostname, port)
    connection.sock = sock = _connect(parts, port, limits, deadline)
    # A host may send a byte now and then for ever: no time-out of one read ends that.
    end = threading.Timer(max(0.1, deadline - time.monotonic()), lambda: sock.shutdown(socket.SHUT_RDWR))
    end.daemon = True
    end.start()
    try:
        query = f"?{parts.query}" if parts.query else ""
        host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
        path = quote(parts.path or "/", safe=_ASCII)
        headers = {"Host": host, "User-Agent": "ferkit", "Accept": "image/*", "Connection": "close"}
        connection.request("GET", path + query, headers=headers)
        response = connection.getresponse()
        if response.status in _REDIRECTS and (location := response.getheader("Location")):
            return location
        if response.status != 200:
            raise ValueError(f"the host answers {response.status} {response.reason}")
        return _received(response, limits)
    finally:
        end.cancel()
        connection.close()


def _connect(parts: SplitResult, port: int, limits: FetchLimits, deadline: float) -> socket.socket:
    host = parts.hostname or ""
    resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = [str(entry[4][0]) for entry in resolved]
    if not limits.private_hosts and not all(map(_is_public, numbers)):
        raise ValueError(f"{host} is in a private network, which is only asked on request (private_hosts)")
    timeout_s = max(0.1, min(10.0, deadline - time.monotonic()))
    sock = socket.create_connection((numbers[0], port), timeout_s)
    if parts.scheme == "https":
        import ssl

        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    return sock


def _is_public(number: str) -> bool:
    found = ipaddress.ip_address(number.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_global and not found.is_multicast


def _received(response: "http.client.HTTPResponse", limits: FetchLimits) -> bytes:
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > limits.max_bytes:
            raise ValueError(f"the file has more than {limits.max_bytes / 1e6:g} MB")
    if response.length:
        raise ValueError(f"the file ends {response.length} bytes early")
    return bytes(content)


ImagesLike: TypeAlias = "str | os.PathLike[str] | np.ndarray | Sequence[Any] | Any"
"""A file, folder, glob or http(s) address; a uint8 RGB array (H, W, 3) or (n, H, W, 3); a PIL image; or a list, array
or column of them."""

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
        self._own: dict[str, Callable[[], bytes]] = {}
        self.names: list[str] = []
        images: Any = given.to_numpy() if hasattr(given, "to_numpy") else given  # a table's column
        if isinstance(images, np.ndarray):
            named = images.dtype.kind in "OUT" and images.size == max(images.shape, default=1)
            images = images.ravel().tolist() if named else list(images) if images.ndim == 4 else [images]
        for one in images if isinstance(images, (list, tuple)) else [images]:
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
        if path in self._own:
            return self._own[path]()
        if is_http(path):
            return fetch_image(path, self._limits)
        if Path(path).suffix.lower() in VIDEO_SUFFIXES:
            raise ImageError(f"it is a video, which 'fer video {path}' reads")
        return self._files.read(path)

    def decode(self, content: bytes) -> np.ndarray:
        """uint8 RGB (H, W, 3). Raises ImageError if it is no image."""
        return content.rgb if isinstance(content, _Pixels) else decode_image(content)

    def _add(self, one: Any) -> None:
        if isinstance(one, (str, os.PathLike)):
            self._add_path(os.fsdecode(one))
            return
        if isinstance(one, tuple) and len(one) == 2 and isinstance(one[1], bytes):
            self._own[one[0]] = functools.partial(bytes, one[1])
            self.names.append(one[0])
            return
        # By Pillow, which need not be imported for it.
        opened = hasattr(one, "convert") and hasattr(one, "size")
        if not (opened or isinstance(one, np.ndarray)):
            raise DataError(f"expected {_EXPECTED}; found {type(one).__name__}")
        if opened:
            with contextlib.suppress(Exception):  # it is said when it is decoded
                one.load()
        pixels = functools.partial(_Pixels, one if opened else check_image(one))
        self._own[name := f"image-{len(self.names) + 1}"] = pixels
        self.names.append(name)

    def _add_path(self, text: str) -> None:
        if is_http(text):
            self.names.append(text)
            return
        for path in find_paths(Path(text) if text else as_path(text)):  # which refuses it
            if not path.is_dir() and path.suffix.lower() not in ARCHIVE_SUFFIXES:
                self.names.append(str(path))
                continue
            listing = list_source(path)
            for inner in listing.paths:
                self.names.append(name := str(path / inner))
                self._own[name] = functools.partial(listing.source.read, inner)


class _Pixels(bytes):
    """The pixels of an array or opened image, which are their own content."""

    rgb: np.ndarray

    def __new__(cls, image: Any) -> "_Pixels":
        rgb = image if isinstance(image, np.ndarray) else decode_image(image)
        made = super().__new__(cls, np.ascontiguousarray(rgb).tobytes())
        made.rgb = rgb
        return made
