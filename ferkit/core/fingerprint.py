"""Digests of settings and files: what makes two results comparable."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

LATER = {"later": True}
"""Metadata of a settings field that came after 0.1: at its default it is left out, so that digests stay."""


def settings_dict(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass, nested ones too, as they are written and hashed; see :data:`LATER`."""
    return {
        field.name: settings_dict(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) != field.default or field.metadata != LATER
    }


def canonical_json(settings: Any) -> str:
    """JSON of a settings dataclass or of plain containers, the same text for the same values."""
    return json.dumps(_plain(settings), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def fingerprint(settings: Any) -> str:
    """SHA-256 in hexadecimal of a settings dataclass or of plain containers."""
    # A file name that is not UTF-8 counts as the bytes it is.
    return hashlib.sha256(canonical_json(settings).encode("utf-8", "surrogateescape")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 in hexadecimal of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing_keys(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values in which two settings differ, sorted."""
    a, b = _plain(a), _plain(b)
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [prefix.rstrip(".")]
    return sorted(
        name
        for key in a.keys() | b.keys()
        for name in differing_keys(a.get(key), b.get(key), f"{prefix}{key}.")
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = settings_dict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value
