"""Which weights there are to fetch; the table itself is ``weights.toml``."""

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources

from ferkit.core.errors import WeightsError


@dataclass(frozen=True)
class WeightsEntry:
    """One file of weights.

    Attributes:
        name: what ferkit calls it; the backbone's name where it belongs to one.
        file: its file name.
        urls: official addresses, in the order to try.
        about: what it is, in a line.
        licence: what its publishers say.
        size: in bytes, None if not published.
        sha256: hexadecimal, None if not published.
        deepface: where DeepFace keeps it below its weights folder.
    """

    name: str
    file: str
    urls: tuple[str, ...]
    about: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    deepface: str | None = None


@functools.cache
def known_weights() -> dict[str, WeightsEntry]:
    """Every entry by its name, in the table's order."""
    text = resources.files("ferkit.zoo").joinpath("weights.toml").read_text(encoding="utf-8")
    return {
        name: WeightsEntry(name, **{**row, "urls": tuple(row["urls"])})
        for name, row in tomllib.loads(text).items()
    }


def entry_of(name: str) -> WeightsEntry:
    """The entry called ``name``.

    Raises:
        WeightsError: there is none.
    """
    try:
        return known_weights()[name]
    except KeyError:
        raise WeightsError(f"no weights are called {name!r}; known: {', '.join(known_weights())}") from None
