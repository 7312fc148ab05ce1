"""Pictures in files: the source behind folders and tables."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Stamp
from ferkit.datasets.images import SUFFIXES, decode_image

_IGNORED_FOLDERS = frozenset({"__MACOSX", "@eaDir"})

NO_MEDIA = ".nomedia"
"""Name of an empty file that says that a folder's pictures are not data."""


@dataclass(frozen=True)
class FileSource:
    """Pictures below a folder, each in a file of its own; see :class:`ferkit.datasets.dataset.ImageSource`."""

    root: Path

    def stamp(self, path: str) -> Stamp:
        status = (self.root / path).stat()
        # The later of the two: copying an old file over a new one sets back the one, but not the other.
        return Stamp(status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))

    def read(self, path: str) -> bytes:
        file = self.root / path
        if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe or a device may never end
            raise OSError("it is no regular file")
        return file.read_bytes()

    def decode(self, content: bytes) -> np.ndarray:
        return decode_image(content)


def picture_paths(root: Path) -> Iterator[PurePosixPath]:
    """Relative paths of the pictures below ``root``, by their suffix; links are followed, but never in a circle.

    A folder with a file ``.nomedia`` is passed over, as on Android: its pictures are not data.

    Raises:
        DataError: ``root`` or a folder below it cannot be listed.
    """
    visited: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise DataError(
            f"the folder {error.filename} cannot be read ({error.strerror}); correct its permissions"
        )

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited or NO_MEDIA in names:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and name not in _IGNORED_FOLDERS)
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in sorted(names):
            if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield relative / name
