"""Records out of JSON files that are not always whole: any encoding, lists, lines, or cut off in the middle."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferkit.core.errors import DataError
from ferkit.core.files import read_regular

_DECODER = json.JSONDecoder()
_GAP = re.compile(r"[\s,\[\]]*")
_FOREIGN = re.compile("[\udc80-\udcff]")
"""What bytes that are not UTF-8 have become."""

_NEXT = re.compile(r"[,\]}\n]\s*(?=\{)")
"""Before an object of a list; one that is nested in another has a key and a colon before it."""


@dataclass(frozen=True)
class BrokenRecord:
    """A piece of a file that is no record."""

    number: int
    reason: str


def read_records(path: Path) -> Iterator[dict[str, Any] | BrokenRecord]:
    """Objects of a JSON list, of JSON lines or alone, one after the other.

    UTF-8 with or without BOM, UTF-16 and EUC-KR (CP949), even mixed within one file; after damage it goes on at the
    next object.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror or error}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        yield from _salvage(content.decode("utf-8", "surrogateescape"))
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        yield value if isinstance(value, dict) else BrokenRecord(number, "it is no object")


def _salvage(text: str) -> Iterator[dict[str, Any] | BrokenRecord]:
    """Object by object. Bytes that are not UTF-8 have become surrogates, which JSON lets pass."""
    position, number = _after_gap(text, 0), 0
    while position < len(text):
        number += 1
        try:
            value, end = _DECODER.raw_decode(text, position)
            if not isinstance(value, dict):
                yield BrokenRecord(number, "it is no object")
            else:
                yield _decoded(text[position:end], value)
        except (ValueError, RecursionError) as error:
            yield BrokenRecord(number, f"damaged: {error}")
            following = _NEXT.search(text, position + 1)
            end = following.end() if following else len(text)
        position = _after_gap(text, end)


def _after_gap(text: str, position: int) -> int:
    gap = _GAP.match(text, position)
    return gap.end() if gap else position


def _decoded(text: str, value: dict[str, Any]) -> dict[str, Any]:
    if not _FOREIGN.search(text):
        return value
    # A record is long enough to tell the encodings apart; a single syllable is not.
    return json.loads(text.encode("utf-8", "surrogateescape").decode("cp949"))
