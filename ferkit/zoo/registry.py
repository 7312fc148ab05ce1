"""Which weights there are: those that come with the package, and those to fetch, which are in ``weights.toml``."""

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources

from ferkit.core.errors import WeightsError
from ferkit.zoo.shipped import BUNDLED, NETWORK_ONNX, SECOND_EDITION, SHIPPED, shipped_folder, shipped_record


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
        packaged: whether it comes with the package, so that there is nothing to fetch.
    """

    name: str
    file: str
    urls: tuple[str, ...]
    about: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    deepface: str | None = None
    packaged: bool = False


@functools.cache
def known_weights() -> dict[str, WeightsEntry]:
    """Every entry by its name: the networks that come along, then the table in its order."""
    text = resources.files("ferkit.zoo").joinpath("weights.toml").read_text(encoding="utf-8")
    fetched = {
        name: WeightsEntry(name, **{**row, "urls": tuple(row["urls"])})
        for name, row in tomllib.loads(text).items()
    }
    return {**{name: _bundled(name) for name in BUNDLED}, **fetched}


_ABOUT = {
    SHIPPED: "comes with ferkit: expressions of 48x48 faces, and 192 numbers for other heads",
    SECOND_EDITION: "comes with ferkit, second edition: the same, and 512 numbers from several of its layers",
}


def _bundled(name: str) -> WeightsEntry:
    record = shipped_record(name)
    return WeightsEntry(
        name,
        NETWORK_ONNX,
        (),
        _ABOUT[name],
        record["licence"],
        (shipped_folder(name) / NETWORK_ONNX).stat().st_size,
        record["files"][NETWORK_ONNX]["sha256"],
        packaged=True,
    )


def entry_of(name: str) -> WeightsEntry:
    """The entry called ``name``.

    Raises:
        WeightsError: there is none.
    """
    try:
        return known_weights()[name]
    except KeyError:
        raise WeightsError(f"no weights are called {name!r}; known: {', '.join(known_weights())}") from None
