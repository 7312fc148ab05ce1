"""One way in: whatever a user names as data."""

import stat
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import AIHUB_PERSON, Dataset, read_folder
from ferkit.datasets.tables import read_npz, read_table


def load_dataset(path: Path, person_pattern: str = AIHUB_PERSON) -> Dataset:
    """Read a folder of images, a CSV table (``fer2013.csv`` too) or an ``.npz`` file.

    Args:
        path: what to read.
        person_pattern: for folders, finds the person in a file name: :func:`ferkit.datasets.dataset.read_folder`.

    Raises:
        DataError: nothing there, or nothing that is understood.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise DataError(
            f"expected a folder, a .csv or an .npz file, found nothing at {path}; check the path"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({reason}); check the path and its permissions") from None
    if is_folder:
        return read_folder(path, person_pattern)
    readers = {".csv": read_table, ".npz": read_npz}
    try:
        reader = readers[path.suffix.lower()]
    except KeyError:
        raise DataError(
            f"expected a folder, a .csv or an .npz file, found {path}; unpack archives first"
        ) from None
    return reader(path)
