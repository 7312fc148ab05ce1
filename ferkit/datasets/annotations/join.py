"""Which picture a record of annotations is about: found by name, wherever both lie."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ferkit.core.errors import DataError
from ferkit.core.fingerprint import file_sha256
from ferkit.datasets.files import composed, list_folder


class PictureIndex:
    """Pictures below a folder by their names.

    Names are compared composed (NFC), so that names typed on a Mac are found; upper and lower case count only where
    they tell two pictures apart.

    Args:
        root: the folder.

    Raises:
        DataError: it is no folder, or it cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"expected a folder of pictures, found nothing at {root}; check the path")
        self._root = root
        listing = list_folder(root)
        self.paths = listing.paths
        # What lies next to images is known by the readers, but for images that nobody can read.
        self.left_out = [
            (path, reason) for path, reason in listing.left_out if reason[:1] != "." or "(" in reason
        ]
        self._by_name: dict[str, list[str]] = {}
        for path in self.paths:
            self._by_name.setdefault(_name(path).casefold(), []).append(path)

    def find(self, name: str, near: str = "") -> str:
        """Path of the picture called ``name``, relative to the root.

        Args:
            name: a file name, or a path whose folders help to choose between pictures of one name.
            near: path of the file that speaks of it, relative to the root: of several pictures of one name the one
                whose folders share most words with it is meant.

        Raises:
            DataError: there is none, or it cannot be told which of several different ones.
        """
        name = name.replace("\\", "/")
        wanted = _name(name)
        candidates = self._by_name.get(wanted.casefold(), [])
        candidates = [path for path in candidates if _name(path) == wanted] or candidates
        if not candidates:
            raise DataError("there is no picture of this name")
        if len(candidates) == 1:
            return candidates[0]
        hints = _words(name.rpartition("/")[0]) | _words(near)
        shared = [len(hints & _words(path.rpartition("/")[0])) for path in candidates]
        best = [path for path, n in zip(candidates, shared, strict=True) if n == max(shared)]
        if len(best) > 1 and not self._same_content(best):
            raise DataError(f"several different pictures have this name: {', '.join(best[:3])}")
        return best[0]

    def _same_content(self, paths: Iterable[str]) -> bool:
        files = [self._root / path for path in paths]
        if len({file.stat().st_size for file in files}) > 1:
            return False
        return len({file_sha256(file) for file in files}) == 1


def files_below(root: Path, suffix: str) -> list[str]:
    """Relative POSIX paths of the files with this suffix (lower case, with its dot) below ``root``, sorted."""
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=False):
        subfolders[:] = [name for name in subfolders if name[0] != "." and name != "__MACOSX"]
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found += [
            (relative / name).as_posix() for name in names if name[0] != "." and name.lower().endswith(suffix)
        ]
    return sorted(found)


def _name(path: str) -> str:
    return composed(path.rpartition("/")[2])


def _words(path: str) -> set[str]:
    """Words of a path: ``Training/[라벨]EMOIMG_기쁨_TRAIN`` has training, 라벨, emoimg, 기쁨, train."""
    return set(re.findall(r"[^\W_]+", composed(path).casefold()))
