"""Data sets written out: as folders of images, which any other program reads, and as manifests.

A manifest has one row an image, sorted by path, in UTF-8, so that git can hold and compare it::

    path,label,split,group,left,top,right,bottom,source,sex
    ../aihub/기쁨/a.jpg,happy,train,aihub/3f…,412,220,1180,1004,aihub,female
    ../fer2013/train/sad/b.png,sad,train,,,,,,fer2013,

Paths are relative to the manifest where that is possible, and columns that would be empty are left out.
:func:`ferkit.datasets.tables.read_table` reads it.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import posixpath
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, TextIO
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from ferkit.core.errors import DataError, DependencyError, FerkitError
from ferkit.core.files import csv_cell, remove_leftovers, why_not_written, write_atomically
from ferkit.datasets.archives import ArraySource
from ferkit.datasets.dataset import (
    Dataset,
    FileSource,
    LeftOut,
    Sample,
    composed,
    is_missing,
    is_unicode,
    map_images,
    split_named,
)
from ferkit.datasets.images import resized
from ferkit.datasets.tables import BOX, BOX_SPELLINGS, MEANINGS, SOURCE, is_unknown, plain, table_rows

Link = Literal["copy", "hardlink", "symlink"]
MANIFEST = "manifest.csv"
_ROWS = 512
"""Rows of a Parquet batch."""

_FORBIDDEN = set('/\\:*?"<>|\0')


@dataclass(frozen=True)
class FolderExport:
    """What was written.

    Attributes:
        n_written: images.
        n_there: images that an earlier run had written.
        renamed: images whose name was taken by another in the same folder, and their new path.
        failures: path and reason of images that could not be read.
    """

    n_written: int
    n_there: int
    renamed: tuple[tuple[str, str], ...]
    failures: LeftOut


def export_folder(dataset: Dataset, out: Path, *, link: Link = "copy", parts: bool = True) -> FolderExport:
    """Write ``out/[<part>/]<class>/<name>``, and ``out/manifest.csv`` with persons, boxes and all else that is known.

    Names keep their letters; names that only differ in case or in how Hangul is composed, or that come from several
    folders, get a number (``a-2.jpg``), so that no file system loses one. What is there already is not written again.
    Images out of arrays become PNG files.

    Args:
        dataset: all images in parts, or none.
        out: the folder, made where it is not there.
        link: ``hardlink`` and ``symlink`` take no space; hard links need the same disk.
        parts: folders ``train``, ``val`` and ``test`` above those of the classes, where the data set has parts.

    Raises:
        DataError: some images have a part and others not, or a class cannot be the name of a folder.
        FerkitError: the disk is full, or links cannot be made there.
    """
    samples = dataset.samples
    with_parts = parts and any(sample.split for sample in samples)
    if with_parts and not all(sample.split for sample in samples):
        n = sum(sample.split is None for sample in samples)
        raise DataError(
            f"{n:,} of {len(samples):,} images are in no part, which folders cannot show next to train and test; "
            "divide them first (fer dataset split), or leave out the folders of the parts (--no-parts)"
        )
    if not isinstance(dataset.source, FileSource) and link != "copy":
        raise DataError(f"images out of {dataset.root} can only be written, not linked; leave out --link")
    targets = dict(_targets(dataset, with_parts))
    for folder in {target.rpartition("/")[0] for target in targets.values()}:
        _make(out / folder)
    failures: list[tuple[str, str]] = []
    exported: list[Sample] = []
    n_written = 0
    place = partial(_place, dataset, targets, out, link)
    for sample, written in map_images(place, samples, failures, "writing"):
        exported.append(replace(sample, path=targets[sample.path]))
        n_written += written
    if exported:
        write_manifest(out / MANIFEST, Dataset(out.name, out, tuple(exported), FileSource(out)))
    renamed = tuple((path, target) for path, target in targets.items() if _is_renamed(path, target))
    return FolderExport(n_written, len(exported) - n_written, renamed, tuple(failures))


def _targets(dataset: Dataset, with_parts: bool) -> Iterator[tuple[str, str]]:
    """Path of each image in the data set and in the new folder."""
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


def _place(dataset: Dataset, targets: Mapping[str, str], out: Path, link: Link, sample: Sample) -> bool:
    """Put one image in its place; False if it was there.

    Raises:
        ImageError, OSError: it cannot be read.
        FerkitError: it cannot be written.
    """
    target = out / targets[sample.path]
    if not isinstance(dataset.source, FileSource):
        if target.exists():
            return False
        content = _content(dataset, sample)
        with _writing(target) as temporary:
            temporary.write_bytes(content)
        return True
    source = dataset.source.file(sample.path).resolve()
    if _there(source, target, source.stat(), link):
        return False
    with _writing(target) as temporary:
        if link == "symlink":
            os.symlink(source, temporary)
        elif link == "hardlink":
            os.link(source, temporary)
        else:
            shutil.copy2(source, temporary)
    return True


def _there(source: Path, target: Path, status: os.stat_result, link: Link) -> bool:
    if not os.path.lexists(target):
        return False
    if link == "copy":
        found = target.lstat()
        return found.st_size == status.st_size and abs(found.st_mtime - status.st_mtime) <= 2
    return target.exists() and target.is_symlink() == (link == "symlink") and os.path.samefile(source, target)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """A name next to ``target`` to write to, which is then moved there."""
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


def export_npz(
    dataset: Dataset, out: Path, *, size_wh: tuple[int, int] | None = None, gray: bool = False
) -> LeftOut:
    """Write ``images`` uint8 (n, H, W[, 3]), ``labels``, and ``split`` and ``groups`` where known; no more of it is in
    memory at a time than a few hundred images.

    Args:
        dataset: images of one size, unless ``size_wh`` is given.
        out: the ``.npz`` file.
        size_wh: to resize all images to, without regard to their proportions.
        gray: one channel instead of three.

    Returns:
        Path and reason of images that could not be read, which are left out.

    Raises:
        DataError: images of several sizes, or none that can be read.
        FerkitError: the disk is full.
    """
    failures: list[tuple[str, str]] = []
    kept: list[Sample] = []

    def read(sample: Sample) -> np.ndarray:
        rgb = dataset.read(sample)
        image = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) if gray else rgb
        return image if size_wh is None else resized(image, size_wh)

    def write(file: IO[bytes]) -> None:
        shape: tuple[int, ...] | None = None
        # How many can be read is known at the end but stands at the beginning of an array.
        with tempfile.TemporaryFile(dir=out.parent) as pixels:
            images = map_images(read, dataset.samples, failures, "writing")
            for sample, image in images:
                shape = shape or image.shape
                if image.shape != shape:
                    raise DataError(
                        f"expected images of one size, found {_size(shape)} and {_size(image.shape)} "
                        f"({sample.path}); resize them with --size, or cut faces out first with 'fer crop'"
                    )
                pixels.write(image.tobytes())
                kept.append(sample)
            if shape is None:
                raise DataError(
                    f"no image of {dataset.root} can be read; the first: {': '.join(failures[0])}"
                )
            pixels.seek(0)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                with archive.open("images.npy", "w", force_zip64=True) as array:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *shape)}
                    np.lib.format.write_array_header_2_0(array, header)
                    shutil.copyfileobj(pixels, array, 1 << 20)
                for name, column in _columns(kept).items():
                    with archive.open(f"{name}.npy", "w") as array:
                        np.lib.format.write_array(array, np.array(column), allow_pickle=False)

    write_atomically(out, write)
    return tuple(failures)


def export_parquet(dataset: Dataset, out: Path, *, images: bool = False) -> LeftOut:
    """Write one row an image: path, label, split, group, box, attributes; and with ``images`` the files themselves.

    Paths are relative to the folder of ``out``. The column ``image`` is what Hugging Face's ``datasets`` calls an
    Image feature: ``load_dataset("parquet", data_files=…)`` decodes it.

    Returns:
        Path and reason of images that could not be read, which are left out.

    Raises:
        DependencyError: pyarrow is not installed.
        DataError: images in an array, and no ``images``.
        FerkitError: the disk is full.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DependencyError(
            "writing .parquet needs the package pyarrow; install it with: pip install 'ferkit[parquet]'"
        ) from None
    in_files = isinstance(dataset.source, FileSource)
    if not in_files and not images:
        raise DataError(
            f"the images of {dataset.root} have no files to refer to; take them along with --images"
        )
    samples = relocated(dataset, out.parent) if in_files else list(dataset.samples)
    names = attribute_names(samples)
    text, number = pa.string(), pa.float32()
    fields = [(name, text) for name in ("path", "label", "split", "group")]
    fields += [(name, number) for name in BOX] + [(name, text) for name in names]
    features = {name: {"dtype": str(kind), "_type": "Value"} for name, kind in fields}
    if images:
        fields.insert(0, ("image", pa.struct([("bytes", pa.binary()), ("path", text)])))
        features = {"image": {"_type": "Image"}, **features}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(fields, metadata=metadata)
    failures: list[tuple[str, str]] = []

    new_path = {old.path: new.path for old, new in zip(dataset.samples, samples, strict=True)}

    def load(sample: Sample) -> dict[str, Any]:
        path = new_path[sample.path]
        row = _row(at_path(sample, path), names)
        if images:
            row["image"] = {"bytes": _content(dataset, sample), "path": path.rpartition("/")[2]}
        return row

    def write(file: IO[bytes]) -> None:
        loaded = (row for _, row in map_images(load, dataset.samples, failures, "writing"))
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch := list(itertools.islice(loaded, _ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema))

    write_atomically(out, write)
    return tuple(failures)


def _row(sample: Sample, names: list[str]) -> dict[str, Any]:
    # Bytes of names that are not UTF-8 cannot stand in a column of text.
    path = sample.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    row: dict[str, Any] = {"path": path, "label": sample.label, "split": sample.split, "group": sample.group}
    row.update(zip(BOX, sample.box or (None,) * 4, strict=True))
    row.update((name, sample.attributes.get(name)) for name in names)
    return row


def _content(dataset: Dataset, sample: Sample) -> bytes:
    """The file of an image; one out of an array as PNG."""
    if not isinstance(dataset.source, ArraySource):
        return dataset.source.read(sample.path)
    rgb = dataset.read(sample)
    gray = (rgb[..., :1] == rgb).all()
    content = io.BytesIO()
    Image.fromarray(rgb[..., 0] if gray else rgb).save(content, "PNG")
    return content.getvalue()


def _columns(samples: list[Sample]) -> dict[str, list[str]]:
    columns = {"labels": [s.label or "" for s in samples], "split": [s.split or "" for s in samples],
               "groups": [s.group or "" for s in samples]}  # fmt: skip
    return {name: column for name, column in columns.items() if name == "labels" or any(column)}


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def write_manifest(path: Path, dataset: Dataset) -> None:
    """Write ``dataset`` as a manifest; the images stay where they are.

    Args:
        path: the file, ``.csv``; an older manifest there is replaced.
        dataset: of images in files: a folder, a table, or another manifest.

    Raises:
        DataError: the images lie in an array, a name cannot stand in a table, or ``path`` holds something else.
        FerkitError: the disk is full or the folder cannot be written.
    """
    if path.suffix.lower() != ".csv":
        raise DataError(f"expected a name that ends in .csv for a manifest, found {path}")
    if path.is_file() and path.stat().st_size and not next(table_rows(path), [""])[0].startswith("path"):
        raise DataError(f"{path} is there and is no manifest; choose another name, or move it away")
    samples = sorted(relocated(dataset, path.parent), key=lambda sample: sample.path)
    # Names of files that are not UTF-8 stay the bytes they are; a mark tells the reader what the rest is.
    encoding = "utf-8" if all(is_unicode(sample.path) for sample in samples) else "utf-8-sig"

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
        write_rows(samples, text)
        text.flush()
        text.detach()

    write_atomically(path, write)


def relocated(dataset: Dataset, folder: Path) -> list[Sample]:
    """The samples of ``dataset`` with paths relative to ``folder``, or absolute ones on another drive.

    Below ``folder`` the way a user named the data is kept, symbolic links and all; from elsewhere the way leads
    through real folders, since ``..`` after a link goes somewhere else.

    Raises:
        DataError: the images lie in an array.
    """
    if not isinstance(dataset.source, FileSource):
        raise DataError(
            f"the images of {dataset.root} lie inside that one file, and a manifest refers to files of their own; "
            f"write them out first: fer dataset export {dataset.root} -o FOLDER"
        )
    root = dataset.source.root
    real = _way(folder.resolve(), root.resolve())
    named = _way(Path(os.path.abspath(folder)), Path(os.path.abspath(root)))
    if named.split("/")[0] == ".." or os.path.isabs(named):
        named = real
    seen_from_folder: dict[str, str] = {}
    samples = []
    for sample in dataset.samples:
        parent, slash, name = sample.path.rpartition("/")
        if parent not in seen_from_folder:
            way = real if ".." in parent.split("/") else named
            joined = posixpath.normpath(posixpath.join(way, parent + slash or "."))
            seen_from_folder[parent] = "" if joined == "." else joined.rstrip("/") + "/"
        samples.append(at_path(sample, seen_from_folder[parent] + name))
    return samples


def at_path(sample: Sample, path: str) -> Sample:
    """The same sample under another path."""
    # dataclasses.replace would take longer than all else that is done with a row.
    return Sample(path, sample.label, sample.split, sample.group, sample.box, sample.attributes)


_LOST = re.compile(r"^\s+|\s+$|\\|^~(?=/)")
"""What tables do not keep of a path."""


def write_rows(samples: Sequence[Sample], file: TextIO) -> None:
    """Write samples in their order as CSV; columns that would be empty are left out.

    Raises:
        DataError: a class called as what is missing, or an attribute like a column.
    """
    names = attribute_names(samples)
    reserved = {"path", "label", "split", "group", *BOX}
    if clashes := reserved & {name.lower() for name in names}:
        raise DataError(f"expected other names for attributes than {sorted(clashes)}; rename them")
    lower = {plain(name) for name in names}
    # A column is also written where an attribute would be taken for it, as 'subject' would be for a missing group.
    meanings = [
        meaning
        for meaning in ("label", "split", "group")
        if any(getattr(sample, meaning) for sample in samples)
        or not lower.isdisjoint(MEANINGS[meaning])
        or (meaning == "label" and any(map(is_unknown, names)))
    ]
    with_box = any(s.box is not None for s in samples) or any(set(four) <= lower for four in BOX_SPELLINGS)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", *meanings, *(BOX if with_box else ()), *map(csv_cell, names)])
    for sample in samples:
        path = sample.path
        if _LOST.search(path):  # escaped, it is found again
            path = _LOST.sub(lambda found: quote(found[0]).replace("~", "%7E"), path.replace("%", "%25"))
        if sample.label and is_missing(sample.label):
            raise DataError(f"the class {sample.label!r} of {path} would be read as none; rename it first")
        box: Iterable[str] = ()
        if with_box:
            box = ("",) * 4 if sample.box is None else (f"{value:.7g}" for value in sample.box)
        known = (getattr(sample, meaning) for meaning in meanings)
        attributes = (sample.attributes.get(name) for name in names)
        writer.writerow([csv_cell(path), *map(csv_cell, known), *box, *map(csv_cell, attributes)])


def attribute_names(samples: Iterable[Sample]) -> list[str]:
    """Names of all attributes, ``source`` first, then as they first appear."""
    names: dict[str, None] = {}
    for sample in samples:
        if not sample.attributes.keys() <= names.keys():
            names.update(dict.fromkeys(sample.attributes))
    return sorted(names, key=lambda name: name != SOURCE)


def _way(start: Path, goal: Path) -> str:
    """POSIX path from one folder to another, absolute where they lie on different drives."""
    try:
        return Path(os.path.relpath(goal, start)).as_posix()
    except ValueError:
        return goal.as_posix()
