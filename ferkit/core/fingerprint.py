"""Digests of settings and files: what makes two results comparable."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")

LATER = {"later": True}
"""Metadata of a settings field that came after 0.1: at its default it is left out, so that digests stay."""


def canonical_json(settings: Any) -> str:
    """JSON of a settings dataclass or of plain containers, the same text for the same values."""
    return json.dumps(settings_dict(settings), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


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
    a, b = settings_dict(a), settings_dict(b)
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [prefix.rstrip(".")]
    return sorted(
        name
        for key in a.keys() | b.keys()
        for name in differing_keys(a.get(key), b.get(key), f"{prefix}{key}.")
    )


def settings_dict(value: Any) -> Any:
    """Settings as the plain values that are hashed and kept on disk: dataclasses become dictionaries, tuples lists.

    A field with ``key`` in its metadata has that name there, so that renaming it changes no digest; see also
    :data:`LATER`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.metadata.get("key", field.name): settings_dict(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.metadata.get("later") or getattr(value, field.name) != field.default
        }
    if isinstance(value, dict):
        return {str(key): settings_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [settings_dict(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value


def settings_from(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The settings that :func:`settings_dict` made ``values`` from, one level deep.

    Raises:
        TypeError: a value is missing or unknown, as in files of a newer ferkit.
    """
    names = {field.metadata.get("key", field.name): field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{names.get(key, key): value for key, value in values.items()})
