"""Hold a data set, its samples and where their bytes come from, and list a folder of images."""

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.images import SUFFIXES, decode_image


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: its name within the data set: a POSIX path below the root, or ``train/000123`` for array data.
        label: class name, or None if unknown.
        split: ``train``, ``val`` or ``test``, or None if the data set makes no difference.
        group: who is shown, so that one person never lies on both sides of a split; None if unknown.
        box: the face as left, top, right, bottom in pixels of the image; None if unknown, or a crop.
        attributes: what else is known, by column name: ``sex``, ``age``, ``place``, ``source`` …
    """

    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None
    box: tuple[float, float, float, float] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells cheaply whether content may have changed: its size in bytes, and when it last changed."""

    size: int
    changed_ns: int


class ImageSource(Protocol):
    """Where the pixels of samples come from."""

    def stamp(self, path: str) -> Stamp:
        """Size and time of the last change. Raises OSError if the content is gone."""
        ...

    def read(self, path: str) -> bytes:
        """The content, for hashing and decoding. Raises OSError if it cannot be read."""
        ...

    def decode(self, content: bytes) -> np.ndarray:
        """uint8 RGB (H, W, 3) of what :meth:`read` gave. Raises ImageError if it is no image."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Samples sorted by path, and their pixels.

    Attributes:
        name: short name for folders and tables.
        root: the folder or file it was read from.
        samples: sorted by path, paths distinct.
        source: gives the pixels.

    Raises:
        DataError: no samples, or two of one path.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    source: ImageSource

    def __post_init__(self) -> None:
        if not self.samples:
            raise DataError(
                f"expected images in {self.root}, found none; see 'fer embed --help' for the layouts"
            )
        object.__setattr__(self, "samples", tuple(sorted(self.samples, key=lambda sample: sample.path)))
        for a, b in zip(self.samples, self.samples[1:], strict=False):
            if a.path == b.path:
                raise DataError(
                    f"expected distinct images in {self.root}, found {a.path} twice; remove one entry"
                )

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, sample: Sample) -> np.ndarray:
        """uint8 RGB (H, W, 3).

        Raises:
            ImageError: it is no image.
            OSError: it cannot be read.
        """
        return self.source.decode(self.source.read(sample.path))

    def class_counts(self) -> dict[str, int]:
        """Number of samples of each class, classes sorted by name; samples without label are not counted."""
        return dict(sorted(Counter(s.label for s in self.samples if s.label is not None).items()))

    def subset(self, keep: "list[Sample] | tuple[Sample, ...]") -> "Dataset":
        """The same data set with only these samples."""
        return Dataset(self.name, self.root, tuple(keep), self.source)


_IGNORED_FOLDERS = frozenset({"__MACOSX", "@eaDir"})

NO_MEDIA = ".nomedia"
"""Name of an empty file that says that a folder's images are not data."""


@dataclass(frozen=True)
class FileSource:
    """Images below a folder, each in a file of its own; see :class:`ferkit.datasets.dataset.ImageSource`."""

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


def image_paths(root: Path) -> Iterator[PurePosixPath]:
    """Relative paths of the images below ``root``, by their suffix; links are followed, but never in a circle.

    A folder with a file ``.nomedia`` is passed over, as on Android: its images are not data.

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


SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "publictest": "val",
    "test": "test", "testing": "test", "privatetest": "test",
}  # fmt: skip
"""Folder names, table and array entries that name a split, in lower case."""

AIHUB_PERSON = r"^([0-9a-f]{64})_"
"""AI Hub's file names begin with who is shown."""


def split_of(name: str, source: Path) -> str | None:
    """``train``, ``val`` or ``test`` for a name that ``source`` uses; None if it is empty.

    Raises:
        DataError: it is no name of a split.
    """
    try:
        return SPLIT_NAMES[name.strip().lower()] if name.strip() else None
    except KeyError:
        raise DataError(f"expected train, val or test as split in {source}, found {name!r}") from None


def read_folder(root: Path, person_pattern: str = AIHUB_PERSON) -> Dataset:
    """Read ``root/<class>/…`` or ``root/<split>/<class>/…``; images right in ``root`` have no label.

    Args:
        root: the folder.
        person_pattern: regular expression that is searched in each file name; its first group is the person.

    Raises:
        DataError: no folder, no images, unreadable, a mix of the two layouts, or an unusable pattern.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of images, found nothing at {root}; check the path")
    person = _compiled(person_pattern)
    paths = list(image_paths(root))
    nested = [path for path in paths if len(path.parts) > 1]
    splits = {path.parts[0] for path in nested if path.parts[0].lower() in SPLIT_NAMES}
    others = {path.parts[0] for path in nested} - splits
    if splits and others:
        raise DataError(
            f"{root} holds split folders ({', '.join(sorted(splits))}) beside other folders with images "
            f"({', '.join(sorted(others)[:5])}); name the split folder itself, or move the others away"
        )
    samples = []
    for path in paths:
        parts = path.parts[1:] if splits and len(path.parts) > 1 else path.parts
        # Names typed on a Mac hold Hangul as single jamo; class and person must have one name everywhere.
        label = unicodedata.normalize("NFC", parts[0]) if len(parts) > 1 else None
        found = person.search(unicodedata.normalize("NFC", path.name))
        samples.append(
            Sample(
                path=path.as_posix(),
                label=label,
                split=SPLIT_NAMES[path.parts[0].lower()] if len(parts) < len(path.parts) else None,
                group=found.group(1) if found else None,
            )
        )
    return Dataset(root.resolve().name, root, tuple(samples), FileSource(root))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"expected a regular expression as person pattern, found {pattern!r}: {error}"
        ) from None
    if compiled.groups < 1:
        raise DataError(
            f"expected a group in the person pattern, found {pattern!r}; put the person in parentheses"
        )
    return compiled
