"""One way in: what a user names as data."""

import contextlib
import glob
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ferkit.core.console import some
from ferkit.core.errors import DataError, mask_credentials
from ferkit.core.files import as_path, is_local
from ferkit.core.labels import same_meaning
from ferkit.datasets.archives import (
    ARCHIVE_SUFFIXES,
    UNREAD_ARCHIVES,
    list_archive,
    read_npz,
    read_webdataset,
    tars_in,
)
from ferkit.datasets.dataset import (
    AIHUB_PERSON,
    Dataset,
    ImageSource,
    Listing,
    composed,
    labelled_by_folders,
    left_out_line,
    list_folder,
    place_name,
)
from ferkit.datasets.object_store import file_source, list_place, local_copy
from ferkit.datasets.tables import TABLE_SUFFIXES, read_table

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
        person_pattern: regular expression that finds the person in a file name, for folders and archives; None knows
            AI Hub's names.
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
    if stat.S_ISDIR(mode):
        if tars := tars_in(path):
            return read_webdataset(path, tars)
        return labelled_by_folders(path, list_place(path), person_pattern)
    if not stat.S_ISREG(mode):
        raise DataError(f"expected {KINDS}, found what is not a regular file at {path}")
    if suffix in TABLE_SUFFIXES:
        return read_table(path, columns, images)
    if suffix == ".npz":
        with local_copy(path) as file:
            return replace(read_npz(file), name=path.stem, root=path)
    if suffix in ARCHIVE_SUFFIXES:
        return labelled_by_folders(path, list_archive(path), person_pattern)
    if suffix in UNREAD_ARCHIVES:
        remedy = (
            "join the pieces and unpack them"
            if suffix in (".z01", ".001", ".part0", ".part1")
            else "unpack it"
        )
        raise DataError(f"expected {KINDS}, found {path}; {remedy} first, and give the folder")
    raise DataError(f"expected {KINDS}, found {path}")


def _empty_folders(root: Path, dataset: Dataset) -> list[str]:
    """The folders without images next to those of classes."""
    classes = {PurePosixPath(sample.path).parent for sample in dataset.samples if sample.label is not None}
    filled = {folder for one in classes for folder in (one, *one.parents)}
    empty = set()
    for parent in {one.parent for one in classes if one != PurePosixPath(".")}:
        with contextlib.suppress(OSError), os.scandir(root / parent) as entries:
            found = [
                parent / composed(e.name) for e in entries if e.is_dir() and not e.name.startswith((".", "_"))
            ]
            empty |= set(found) - filled
    return sorted(map(str, empty))


def _kind(path: Path) -> str:
    return "rows" if path.suffix.lower() in TABLE_SUFFIXES and path.is_file() else "files"
