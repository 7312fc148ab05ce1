"""The words of an audit, in English and Korean."""

import functools
import tomllib
from importlib import resources
from typing import Any

from ferkit.audit.findings import Note


@functools.cache
def all_words() -> dict[str, dict[str, dict[str, str]]]:
    """Group and key to the text in each language; ``{name}`` stands for what is filled in."""
    return tomllib.loads(text_of("words.toml"))


def sentence(note: Note, language: str = "en") -> str:
    """A note as a reader of ``language`` (``en`` or ``ko``) reads it."""
    fields: dict[str, Any] = dict(note.fields)
    return all_words()["note"][note.key][language].format_map(fields)


@functools.cache
def text_of(name: str) -> str:
    """One of the files that the page is made of."""
    return resources.files("ferkit.audit.templates").joinpath(name).read_text(encoding="utf-8")
