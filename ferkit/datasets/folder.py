"""A folder a class, with or without ``train/``, ``val/`` and ``test/`` above."""

import re
import unicodedata
from pathlib import Path

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource, picture_paths

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
    """Read ``root/<class>/…`` or ``root/<split>/<class>/…``; pictures right in ``root`` have no label.

    Args:
        root: the folder.
        person_pattern: regular expression that is searched in each file name; its first group is the person.

    Raises:
        DataError: no folder, no pictures, unreadable, a mix of the two layouts, or an unusable pattern.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of pictures, found nothing at {root}; check the path")
    person = _compiled(person_pattern)
    paths = list(picture_paths(root))
    nested = [path for path in paths if len(path.parts) > 1]
    splits = {path.parts[0] for path in nested if path.parts[0].lower() in SPLIT_NAMES}
    others = {path.parts[0] for path in nested} - splits
    if splits and others:
        raise DataError(
            f"{root} holds split folders ({', '.join(sorted(splits))}) beside other folders with pictures "
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
