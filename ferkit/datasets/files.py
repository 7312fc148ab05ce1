"""Images in files below a folder: what is there, what is left out and why."""

import errno
import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import read_regular
from ferkit.datasets.dataset import ImageSource, Stamp
from ferkit.datasets.images import HEAD_BYTES, SUFFIXES, decode_image, why_no_image

NO_MEDIA = ".nomedia"
"""Name of an empty file that says that a folder's images are not data."""

_SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found"}
)  # fmt: skip

LeftOut = tuple[tuple[str, str], ...]
"""Path and reason of each file or row that was found and not taken; what follows a colon in a reason is detail."""


@dataclass(frozen=True)
class FileSource:
    """Images below a folder, each in a file of its own; see :class:`ferkit.datasets.dataset.ImageSource`.

    Names are found however Hangul is composed in them and, where only one fits, in upper or lower case.
    """

    root: Path
    _folders: dict[str, dict[str, list[str]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def stamp(self, path: str) -> Stamp:
        """Give the size and the time of the last change."""
        _, status = self._found(path)
        # The later of the two: copying an old file over a new one sets back the one, but not the other.
        return Stamp(status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))

    def read(self, path: str) -> bytes:
        """Give the content of the file."""
        return read_regular(self.file(path))

    def decode(self, content: bytes) -> np.ndarray:
        """Give uint8 RGB (H, W, 3)."""
        return decode_image(content)

    def file(self, path: str) -> Path:
        """Give the file of an image.

        Raises:
            FileNotFoundError: there is none, or several differ from ``path`` only in case.
        """
        return self._found(path)[0]

    def _found(self, path: str) -> tuple[Path, os.stat_result]:
        file = self.root / path
        try:
            return file, os.stat(file)
        except FileNotFoundError:
            file = self.root / self.on_disk(path)
            return file, os.stat(file)

    def on_disk(self, path: str) -> str:
        """Spell ``path`` as the disk does. Raises FileNotFoundError, see :meth:`file`."""
        found, parts = ("/", path[1:].split("/")) if path[:1] == "/" else ("", path.split("/"))
        for part in parts:
            if part not in ("", ".", ".."):
                if found not in self._folders:
                    self._folders[found] = _names_in(self.root / found)
                alike = self._folders[found].get(composed(part).casefold(), [])
                same = [name for name in alike if name == part] or [
                    name for name in alike if composed(name) == composed(part)
                ]
                if len(same or alike) != 1:
                    reason = (
                        "several files differ from it only in case" if alike else "No such file or directory"
                    )
                    raise FileNotFoundError(errno.ENOENT, reason, path)
                part = (same or alike)[0]
            found += f"{part}/"
        return found[:-1]


@dataclass(frozen=True)
class Listing:
    """The images of a place.

    Attributes:
        paths: relative to the place, folder by folder, sorted in each.
        left_out: the other files.
        source: reads them.
    """

    paths: list[str]
    left_out: LeftOut
    source: ImageSource


def list_folder(root: Path) -> Listing:
    """List the images below a folder, by their suffix or, where that tells nothing, by their content.

    Links are followed, but never in a circle. Hidden and system files are passed over silently, as is a folder with a
    file ``.nomedia``, as on Android: its images are not data. Pipes, devices and sockets are left out unopened.

    Raises:
        DataError: ``root`` or a folder below it cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    paths: list[str] = []
    left_out: list[tuple[str, str]] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        folder = root / prefix
        try:
            status = os.stat(folder)
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"the folder {folder} cannot be read ({error.strerror}); correct its permissions"
            ) from None
        if (status.st_dev, status.st_ino) in visited or any(entry.name == NO_MEDIA for entry in listed):
            continue
        visited.add((status.st_dev, status.st_ino))
        below = []
        for entry in listed:
            name = entry.name
            if name[0] == "." or name.lower() in _SYSTEM_NAMES:
                continue
            try:
                is_file = entry.is_file()
                if not is_file and entry.is_dir():
                    below.append(f"{prefix}{name}/")
                    continue
            except OSError:
                is_file = False
            reason: str | None
            if not is_file and os.path.exists(entry):
                reason = "not a regular file"
            elif os.path.splitext(name)[1].lower() in SUFFIXES:
                reason = None  # also of a link that leads nowhere: an image that cannot be read
            else:
                reason = why_no_image(name, functools.partial(read_regular, entry.path, HEAD_BYTES))
            if reason is None:
                paths.append(prefix + name)
            else:
                left_out.append((prefix + name, reason))
        pending += reversed(below)
    return Listing(paths, tuple(left_out), FileSource(root))


def is_hidden(path: str) -> bool:
    """Whether a part of a path is the name of a hidden or system file."""
    return any(part[:1] == "." or part.lower() in _SYSTEM_NAMES for part in path.split("/"))


def left_out_counts(left_out: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Count by reason, the most frequent first; without the detail after a colon."""
    return dict(Counter(reason.partition(": ")[0] for _, reason in left_out).most_common())


def left_out_line(left_out: LeftOut, what: str = "files") -> str:
    """Say in one line how many were left out and why: ``3 files not read: .heic 3 (how to mend it)``."""
    counts = left_out_counts(left_out)
    reasons = []
    for reason, n in list(counts.items())[:6]:
        word, bracket, remedy = reason.partition(" (")
        reasons.append(f"{word} {n:,}{bracket}{remedy}")
    more = f" and {len(counts) - 6} other reasons" if len(counts) > 6 else ""
    one = len(left_out) == 1
    example = f", {left_out[0][0]}" if one else f"; the first is {left_out[0][0]}"
    return f"{len(left_out):,} {what.removesuffix('s') if one else what} not read: {', '.join(reasons)}{more}{example}"


def composed(name: str) -> str:
    """Give a name in composed Unicode (NFC); bytes that are not UTF-8 are read as CP949 where that gives Hangul."""
    if name.isascii():
        return name
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        try:
            text = name.encode("utf-8", "surrogateescape").decode("cp949")
        except UnicodeDecodeError:
            return name
        name = text if any("가" <= letter <= "힣" for letter in text) else name
    return unicodedata.normalize("NFC", name)


def class_name(name: str) -> str:
    """Give the name of a class or person, see :func:`composed`.

    Raises:
        DataError: it is in an encoding that nobody knows; no model could be saved with it.
    """
    name = composed(name)
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError(
            f"expected names in UTF-8 or CP949, found {name!r}; rename it, for instance with: "
            "convmv -r -f ENCODING -t utf-8 --notest FOLDER"
        )
    return name


def _names_in(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by their composed form in lower case."""
    alike: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            alike.setdefault(composed(name).casefold(), []).append(name)
    except OSError:
        pass
    return alike
