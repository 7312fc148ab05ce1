"""Digests of settings and files: what makes two results comparable."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def canonical_json(settings: Any) -> str:
    """JSON of a settings dataclass or of plain containers, the same text for the same values."""
    return json.dumps(plain(settings), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


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
    a, b = plain(a), plain(b)
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [prefix.rstrip(".")]
    return sorted(
        name
        for key in a.keys() | b.keys()
        for name in differing_keys(a.get(key), b.get(key), f"{prefix}{key}.")
    )


def plain(value: Any) -> Any:
    """Settings as the plain values that are hashed and kept on disk: dataclasses become dictionaries, tuples lists.

    A field with ``key`` in its metadata has that name there, so that renaming it changes no digest; one with ``late``,
    which came after digests were made without it, is left out while it has its default.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.metadata.get("key", field.name): plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.metadata.get("late") or getattr(value, field.name) != field.default
        }
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value


def from_plain(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The settings that :func:`plain` made ``values`` from, one level deep.

    Raises:
        TypeError: a value is missing or unknown, as in files of a newer ferkit.
    """
    names = {field.metadata.get("key", field.name): field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{names.get(key, key): value for key, value in values.items()})
