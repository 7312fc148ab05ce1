"""What every reader of annotations gives: a data set with boxes, and a list of what could not be used."""

import contextlib
import filecmp
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from ferkit.core.errors import DataError
from ferkit.core.labels import meaning_of
from ferkit.datasets.dataset import Box, Dataset, FileSource, Sample, composed, list_folder, split_named


@dataclass(frozen=True)
class Annotated:
    """Annotated images.

    Attributes:
        dataset: one sample an image: of several marked faces the largest.
        problems: (path, reason) of everything that was found and not used, or used in part; the path is that of a
            image, of a file of annotations, or a name in one.
        further: the other marked faces of images with several, sorted by path; their samples' paths are those of
            the data set.
        sizes_wh: width and height that the annotations claim for images, by path, where they claim one: that tells
            whether a photo was turned upright before it was marked.
    """

    dataset: Dataset
    problems: tuple[tuple[str, str], ...] = ()
    further: tuple[Sample, ...] = ()
    sizes_wh: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))


def annotated(
    root: Path,
    source_root: Path,
    faces: Iterable[Sample],
    problems: list[tuple[str, str]],
    sizes_wh: Mapping[str, tuple[int, int]] | None = None,
) -> Annotated:
    """Sort marked faces into one an image and the rest.

    Args:
        root: what was read, for messages and the name.
        source_root: the folder that the samples' paths are relative to.
        faces: in any order, several of an image allowed.
        problems: what was not used.
        sizes_wh: see :class:`Annotated`.

    Raises:
        DataError: no face is left.
    """
    by_path: dict[str, list[Sample]] = {}
    for face in faces:
        by_path.setdefault(face.path, []).append(face)
    if not by_path:
        first = f"; the first of {len(problems)} problems: {': '.join(problems[0])}" if problems else ""
        raise DataError(f"expected annotated images in {root}, found none that can be used{first}")
    for several in by_path.values():
        several.sort(key=lambda face: -face.area)
    largest = tuple(several[0] for several in by_path.values())
    further = tuple(face for path in sorted(by_path) for face in by_path[path][1:])
    name = root.resolve().stem if root.is_file() else root.resolve().name
    dataset = Dataset(name, root, largest, FileSource(source_root))
    return Annotated(dataset, tuple(problems), further, MappingProxyType(dict(sizes_wh or {})))


def checked_box(left: float, top: float, right: float, bottom: float) -> Box:
    """The box, cut off at the image's left and upper border; its other borders are known only to the image.

    Raises:
        DataError: a corner is no number, inverted or empty, or wholly left of or above the image.
    """
    try:
        box = tuple(float(value) for value in (left, top, right, bottom))
    except (TypeError, ValueError):
        raise DataError(f"the box {[left, top, right, bottom]} holds something that is no number") from None
    shown = f"{box[0]:g},{box[1]:g},{box[2]:g},{box[3]:g}"
    if not all(abs(value) < 1e7 for value in box):  # also catches NaN
        raise DataError(f"the box {shown} is not finite")
    if box[2] <= box[0] or box[3] <= box[1]:
        kind = "inverted" if box[2] < box[0] or box[3] < box[1] else "empty"
        raise DataError(f"the box {shown} is {kind}")
    if box[2] <= 0 or box[3] <= 0:
        raise DataError(f"the box {shown} lies outside the image")
    return max(box[0], 0.0), max(box[1], 0.0), box[2], box[3]


class ImageIndex:
    """Images below a folder by their names.

    Names are compared composed (NFC), so that names typed on a Mac are found; upper and lower case count only where
    they tell two images apart.

    Args:
        root: the folder.

    Raises:
        DataError: it is no folder, or it cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"expected a folder of images, found nothing at {root}; check the path")
        self._root = root
        listing = list_folder(root)
        self.paths = listing.paths
        # What lies next to images is known by the readers, but for images that nobody can read.
        self.left_out = [one for one in listing.left_out if re.search("^[^.]|JPEG|HEIC", one[1])]
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for path in self.paths:
            self._by_name.setdefault(_name(path).casefold(), []).append(path)
            self._by_stem.setdefault(PurePosixPath(path).stem, []).append(path)

    def with_stem(self, stem: str) -> list[str]:
        """Paths of the images of this name, with any suffix."""
        return self._by_stem.get(stem, [])

    def find(self, name: str, near: str = "") -> str:
        """Path of the image called ``name``, relative to the root.

        Args:
            name: a file name, or a path whose folders help to choose between images of one name.
            near: path of the file that speaks of it, relative to the root: of several images of one name the one
                whose folders share most words with it is meant.

        Raises:
            DataError: there is none, or it cannot be told which of several different ones.
        """
        name = name.replace("\\", "/")
        wanted = _name(name)
        candidates = self._by_name.get(wanted.casefold(), [])
        candidates = [path for path in candidates if _name(path) == wanted] or candidates
        if not candidates:
            raise DataError("there is no image of this name")
        if len(candidates) == 1:
            return candidates[0]
        hints = _words(name.rpartition("/")[0]) | _words(near)
        shared = [len(hints & _words(path.rpartition("/")[0])) for path in candidates]
        best = [path for path, n in zip(candidates, shared, strict=True) if n == max(shared)]
        files = [self._root / path for path in best]
        if not all(filecmp.cmp(files[0], file, shallow=False) for file in files[1:]):
            raise DataError(f"several different images have this name: {', '.join(best[:3])}")
        return best[0]


class Collected:
    """What a reader of a layout has found so far.

    Args:
        root: a folder somewhere above all of it.

    Attributes:
        images: those below the root.
        faces: in any order, several of an image allowed.
        problems: path and reason of what could not be used.
        sizes_wh: see :class:`Annotated`.
        recorded: the file that speaks of an image, by the image's path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = ImageIndex(root)
        self.faces: list[Sample] = []
        self.problems = self.images.left_out
        self.sizes_wh: dict[str, tuple[int, int]] = {}
        self.recorded: dict[str, str] = {}

    @contextlib.contextmanager
    def listing(self, name: str, where: str = "") -> Iterator[None]:
        """List what is wrong within the block as a problem of ``name``, and go on."""
        try:
            yield
        except DataError as error:
            self.problems.append((name, f"{error}{where}"))

    def record(self, name: str, file: str, *, by_stem: bool = False) -> str | None:
        """The image that a record in ``file`` speaks of; None, and a problem, if there is none or it had one before.

        Args:
            name: of the image.
            file: path of the file below the root.
            by_stem: an image called like the file will do.
        """
        try:
            path = self.images.find(name, near=file)
        except DataError as error:
            # Tools that rename or convert images often leave the old name in the record.
            same = self.images.with_stem(PurePosixPath(file).stem) if by_stem else []
            if len(same) != 1:
                self.problems.append((name or file, f"{error}; recorded in {file}"))
                return None
            path = same[0]
        if path in self.recorded:
            self.problems.append((path, f"recorded again in {file}; {self.recorded[path]} counts"))
            return None
        self.recorded[path] = file
        return path

    def take_folders(self, label_of: Callable[[str], str]) -> None:
        """Take every image, of the class that its folder names; ``label_of`` raises DataError if it names none."""
        for path in self.images.paths:
            with self.listing(path):
                label = label_of(PurePosixPath(path).parent.name)
                self.faces.append(Sample(path, label, split_in(path)))

    def list_unused(self, reason: str, known: Iterable[str]) -> None:
        """List the images that are not among the ``known`` paths."""
        known = set(known)
        self.problems += [(path, reason) for path in self.images.paths if path not in known]

    def annotated(self, read: Path | None = None) -> Annotated:
        """All of it; ``read`` is what was read where that is not the root. Raises DataError if there is no face."""
        return annotated(read or self.root, self.root, self.faces, self.problems, self.sizes_wh)


def class_of(text: str, names: Mapping[int, str], otherwise: str) -> str:
    """The class that ``text`` names, by its number (``3``, ``class003``, ``3.0``) or in words.

    Raises:
        DataError: it names none; ``otherwise`` is the message.
    """
    folded = composed(text).strip()
    try:
        value = float(folded)
        label = names.get(int(value)) if value == int(value) else None
    except (ValueError, OverflowError):
        label = {meaning_of(name): name for name in names.values()}.get(meaning_of(folded))
        digits = re.findall(r"\d+", folded)
        if label is None and len(digits) == 1:
            label = names.get(int(digits[0]))
    if label is None:
        raise DataError(otherwise)
    return label


def split_in(path: str) -> str | None:
    """``train``, ``val`` or ``test`` after a folder on the way: ``train``, ``val_set``, ``Training``."""
    folders = reversed(PurePosixPath(path).parent.parts)
    return next((split for folder in folders if (split := split_named(folder))), None)


def files_below(root: Path, suffix: str) -> list[str]:
    """Relative POSIX paths of the files with this suffix (lower case, with its dot) below ``root``, sorted."""
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=False):
        subfolders[:] = [name for name in subfolders if name[0] != "." and name != "__MACOSX"]
        wanted = [name for name in names if name[0] != "." and name.lower().endswith(suffix)]
        found += [Path(folder, name).relative_to(root).as_posix() for name in wanted]
    return sorted(found)


def _name(path: str) -> str:
    return composed(path.rpartition("/")[2])


def _words(path: str) -> set[str]:
    """Words of a path: ``Training/[라벨]EMOIMG_기쁨_TRAIN`` has training, 라벨, emoimg, 기쁨, train."""
    return set(re.findall(r"[^\W_]+", composed(path).casefold()))
