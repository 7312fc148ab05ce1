"""Data sets written out as folders of pictures, which any other program reads."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from ferkit.core.errors import DataError, FerkitError, ImageError
from ferkit.core.files import remove_leftovers, why_not_written
from ferkit.core.parallel import map_ahead
from ferkit.core.progress import Progress
from ferkit.datasets.arrays import ArraySource
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource, composed
from ferkit.datasets.folder import split_named
from ferkit.datasets.manifest import write_manifest

Link = Literal["copy", "hardlink", "symlink"]
MANIFEST = "manifest.csv"
_FORBIDDEN = set('/\\:*?"<>|\0')


@dataclass(frozen=True)
class FolderExport:
    """What was written.

    Attributes:
        n_written: pictures.
        n_there: pictures that an earlier run had written.
        renamed: pictures whose name was taken by another in the same folder, and their new path.
        failures: path and reason of pictures that could not be read.
    """

    n_written: int
    n_there: int
    renamed: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]


def export_folder(
    dataset: Dataset, out: Path, *, link: Link = "copy", parts: bool = True, progress: Progress
) -> FolderExport:
    """Write ``out/[<part>/]<class>/<name>``, and ``out/manifest.csv`` with persons, boxes and all else that is known.

    Names keep their letters; names that only differ in case or in how Hangul is composed, or that come from several
    folders, get a number (``a-2.jpg``), so that no file system loses one. What is there already is not written again.
    Pictures out of arrays become PNG files.

    Args:
        dataset: all pictures in parts, or none.
        out: the folder, made where it is not there.
        link: ``hardlink`` and ``symlink`` take no space; hard links need the same disk.
        parts: folders ``train``, ``val`` and ``test`` above those of the classes, where the data set has parts.
        progress: is told of every picture.

    Raises:
        DataError: some pictures have a part and others not, or a class cannot be the name of a folder.
        FerkitError: the disk is full, or links cannot be made there.
    """
    samples = dataset.samples
    with_parts = parts and any(sample.split for sample in samples)
    if with_parts and not all(sample.split for sample in samples):
        n = sum(sample.split is None for sample in samples)
        raise DataError(
            f"{n:,} of {len(samples):,} pictures are in no part, which folders cannot show beside train and test; "
            "divide them first (fer dataset split), or leave out the folders of the parts (--no-parts)"
        )
    if not isinstance(dataset.source, FileSource) and link != "copy":
        raise DataError(f"pictures out of {dataset.root} can only be written, not linked; leave out --link")
    targets = dict(_targets(dataset, with_parts))
    for folder in {target.rpartition("/")[0] for target in targets.values()}:
        _make(out / folder)
    n_written = n_there = 0
    failures: list[tuple[str, str]] = []
    exported: list[Sample] = []

    def work(sample: Sample) -> tuple[Sample, bool | str]:
        try:
            return sample, _place(dataset, sample, out / targets[sample.path], link)
        except ImageError as error:
            return sample, str(error)

    progress.start(len(samples))
    for sample, done in map_ahead(work, samples, workers=4, ahead=64):
        if isinstance(done, str):
            failures.append((sample.path, done))
        else:
            exported.append(replace(sample, path=targets[sample.path]))
            n_written += done
            n_there += not done
        progress.update(1, failures=isinstance(done, str))
    if exported:
        write_manifest(out / MANIFEST, Dataset(out.name, out, tuple(exported), FileSource(out)))
    renamed = tuple((path, target) for path, target in targets.items() if _is_renamed(path, target))
    return FolderExport(n_written, n_there, renamed, tuple(failures))


def _targets(dataset: Dataset, with_parts: bool) -> Iterator[tuple[str, str]]:
    """Path of each picture in the data set and in the new folder."""
    for name in dataset.class_counts():
        if set(name) & _FORBIDDEN or not name.strip(". "):
            raise DataError(
                f"the class {name!r} cannot be the name of a folder; rename it with 'fer dataset map'"
            )
        if split_named(name):
            raise DataError(f"a folder called {name!r} would be taken for a part; rename the class first")
    taken: set[str] = set()
    last: dict[str, int] = {}
    suffix = ".png" if isinstance(dataset.source, ArraySource) else ""
    for sample in dataset.samples:
        folder = "/".join(filter(None, (sample.split if with_parts else None, sample.label)))
        stem, dot, extension = (composed(sample.path.rpartition("/")[2]) + suffix).rpartition(".")
        wanted = f"{folder}/{stem}".lstrip("/")
        key = f"{wanted}.{extension}".casefold()
        for number in itertools.count(last.get(key, 0) + 1):
            target = f"{wanted}{dot}{extension}" if number == 1 else f"{wanted}-{number}{dot}{extension}"
            if (folded := target.casefold()) not in taken:
                taken.add(folded)
                last[key] = number
                break
        yield sample.path, target


def _is_renamed(path: str, target: str) -> bool:
    name, new = composed(path.rpartition("/")[2]), target.rpartition("/")[2]
    return new not in (name, f"{name}.png")


def _place(dataset: Dataset, sample: Sample, target: Path, link: Link) -> bool:
    """Put one picture in its place; False if it was there.

    Raises:
        ImageError: it cannot be read.
        FerkitError: it cannot be written.
    """
    if not isinstance(dataset.source, FileSource):
        if target.exists():
            return False
        if not isinstance(dataset.source, ArraySource):
            _write_content(dataset, sample, target)
            return True
        array = dataset.read(sample)
        gray = (array[..., :1] == array).all()
        with _writing(target) as temporary:
            Image.fromarray(array[..., 0] if gray else array).save(temporary, "PNG")
        return True
    try:
        source = dataset.source.file(sample.path).resolve()
        status = source.stat()
        there = _there(source, target, status, link)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
    if there:
        return False
    with _writing(target) as temporary:
        if link == "symlink":
            os.symlink(source, temporary)
        elif link == "hardlink":
            os.link(source, temporary)
        else:
            shutil.copy2(source, temporary)
    return True


def _write_content(dataset: Dataset, sample: Sample, target: Path) -> None:
    try:
        content = dataset.source.read(sample.path)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
    with _writing(target) as temporary:
        temporary.write_bytes(content)


def _there(source: Path, target: Path, status: os.stat_result, link: Link) -> bool:
    if not os.path.lexists(target):
        return False
    if link == "copy":
        found = target.lstat()
        return found.st_size == status.st_size and abs(found.st_mtime - status.st_mtime) <= 2
    return target.exists() and target.is_symlink() == (link == "symlink") and os.path.samefile(source, target)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """A name beside ``target`` to write to, which is then moved there."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        try:
            temporary.unlink(missing_ok=True)
            yield temporary
            os.replace(temporary, target)
        finally:
            # After a failure; and two names of one file are not replaced by each other.
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FerkitError(why_not_written(target, error)) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    except OSError as error:
        raise FerkitError(why_not_written(folder, error)) from error
