"""Classes that a data set numbers, and folders that are called by those numbers."""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath

from ferkit.core.labels import meaning_of
from ferkit.datasets.folder import split_named

_NUMBER = re.compile(r"\d+")


def class_of(text: str, names: Mapping[int, str]) -> str | None:
    """The class that ``text`` names, by its number (``3``, ``class003``, ``3.0``) or in words; None if it is none."""
    folded = unicodedata.normalize("NFC", text).strip()
    try:
        value = float(folded)
        return names.get(int(value)) if value == int(value) else None
    except (ValueError, OverflowError):
        pass
    by_meaning = {meaning_of(name): name for name in names.values()}
    if meaning_of(folded) in by_meaning:
        return by_meaning[meaning_of(folded)]
    found = _NUMBER.findall(folded)
    return names.get(int(found[-1])) if len(found) == 1 else None


def split_in(path: PurePosixPath) -> str | None:
    """``train``, ``val`` or ``test`` after a folder on the way: ``train``, ``val_set``, ``Training``."""
    return next((split for part in reversed(path.parent.parts) if (split := split_named(part))), None)
