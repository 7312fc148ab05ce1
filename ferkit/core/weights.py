"""Find weights: which there are, where they lie, where they come from, and the networks that come with ferkit.

Those were trained here, on FER2013 alone; ``MODEL_CARD.md`` in each folder says how, and how good it is.

A hash that the publisher names is always checked. For the others the first use is trusted: the hash is kept
in ``<file>.sha256`` and checked from then on. That notices later damage or exchange, not a wrong first file.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ferkit.core.console import progress
from ferkit.core.errors import FerkitError, WeightsError
from ferkit.core.files import file_sha256, remove_leftovers, write_atomically

if TYPE_CHECKING:
    import http.client

BUNDLED = "ferkit"
"""What the first edition's model, its backbone and its weights are called."""

SECOND_EDITION = "ferkit2"
"""The same of the second, which was made for other people's images: cameras, loose boxes, few pixels."""

EDITIONS = (BUNDLED, SECOND_EDITION)
"""Both; what was made with one goes on with that one."""

DEFAULT_EDITION = SECOND_EDITION
"""The one that is taken when none is named."""

NETWORK_ONNX = "network.onnx"
NETWORK_KERAS = "network.keras"


def bundled_folder(name: str = BUNDLED) -> Path:
    """The model folder of one of :data:`EDITIONS`; it is only read."""
    return Path(__file__).parent / "bundled" / name


@functools.cache
def bundled_record(name: str = BUNDLED) -> dict[str, Any]:
    """What the ``model.json`` of one of :data:`EDITIONS` says."""
    return json.loads((bundled_folder(name) / "model.json").read_text(encoding="utf-8"))


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
    text = resources.files("ferkit.core").joinpath("weights.toml").read_text(encoding="utf-8")
    fetched = {
        name: WeightsEntry(name, **{**row, "urls": tuple(row["urls"])})
        for name, row in tomllib.loads(text).items()
    }
    return {**{name: _bundled(name) for name in EDITIONS}, **fetched}


_ABOUT = {
    BUNDLED: "comes with ferkit: expressions of 48x48 faces, and 192 numbers for other heads",
    SECOND_EDITION: "comes with ferkit, second edition: the same, and 512 numbers from several of its layers",
}


def _bundled(name: str) -> WeightsEntry:
    record = bundled_record(name)
    return WeightsEntry(
        name,
        NETWORK_ONNX,
        (),
        _ABOUT[name],
        record["licence"],
        (bundled_folder(name) / NETWORK_ONNX).stat().st_size,
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


TIMEOUT_S = 8.0
"""How long an address may stay silent before the next one is tried."""

RETRY_S = 3600.0
"""After so long an address that failed is asked again for a file that one can do without."""

LARGEST = 4_000_000_000
"""Bytes of a file whose size is not published."""

LEAST_SPEED = 10_000
SLOW_S = 30.0
"""Bytes a second below which an address is given up, after so long."""

_CHUNK = 1 << 16


@dataclass(frozen=True)
class WeightsStatus:
    """Where one entry stands on this machine.

    Attributes:
        entry: what it is.
        path: where the file lies, or would.
        present: whether it does.
        hash_known: ``published``, ``first use`` (kept from the first fetch) or ``no``.
    """

    entry: WeightsEntry
    path: Path
    present: bool
    hash_known: str


def weights_dir() -> Path:
    """The cache: ``$FER_WEIGHTS_DIR``, else ``weights`` in the user's cache folder of ferkit."""
    if given := os.environ.get("FER_WEIGHTS_DIR"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ferkit", appauthor=False)) / "weights"


def weights_file(name: str, *, given: Path | None = None, insist: bool = True) -> Path:
    """The file of weights called ``name``: the one given, the cached one, DeepFace's own, or a download.

    With ``FER_OFFLINE=1`` in the environment nothing is fetched.

    Args:
        name: of the registry.
        given: a file of the user's own, taken as it is.
        insist: whether to ask the addresses again though none of them gave the file within the last hour.

    Raises:
        WeightsError: unknown, absent and not to be had, or not what was expected.
    """
    entry = entry_of(name)
    if given is not None:
        if not given.is_file():
            raise WeightsError(
                f"expected the weights of {name} at {given}, found no such file; correct the path"
            )
        return given
    path = _present(entry)
    if path is None:
        if os.environ.get("FER_OFFLINE", "") not in ("", "0"):
            raise _not_to_be_had(entry, "fetching is switched off")
        if not insist and _failed_lately(entry):
            raise _not_to_be_had(entry, "none of its addresses gave it within the last hour")
        try:
            path = _fetch(entry)
        except WeightsError:
            if not insist:
                with contextlib.suppress(OSError):
                    _failure_path(entry).touch()
            raise
        _failure_path(entry).unlink(missing_ok=True)
    else:
        _check(entry, path)
    return path


def list_weights() -> list[WeightsStatus]:
    """Every entry of the registry, in its order. Nothing is fetched, no file is read."""
    return [_status(entry) for entry in known_weights().values()]


def verify(name: str) -> WeightsStatus:
    """Read the file of weights called ``name`` and check its SHA-256, where one is known.

    Raises:
        WeightsError: unknown, absent, or not the file that was published or first fetched.
    """
    entry = entry_of(name)
    status = _status(entry)
    if not status.present:
        raise _not_to_be_had(entry, "it is not on this machine")
    _check(entry, status.path)
    return _status(entry)


def _status(entry: WeightsEntry) -> WeightsStatus:
    path = _present(entry)
    known = "published" if entry.sha256 else "first use" if _kept_hash(entry) else "no"
    return WeightsStatus(entry, path or weights_dir() / entry.file, path is not None, known)


def _present(entry: WeightsEntry) -> Path | None:
    """The packaged file, our own copy, or DeepFace's, which is only ever read."""
    if entry.packaged:
        return bundled_folder(entry.name) / entry.file
    theirs = deepface_folder() / (entry.deepface or entry.file)
    return next((path for path in (weights_dir() / entry.file, theirs) if path.is_file()), None)


def deepface_folder() -> Path:
    """Where DeepFace keeps its weights."""
    # Where there is no home, it stays "~".
    home = os.environ.get("DEEPFACE_HOME") or os.path.expanduser("~")
    return Path(home) / ".deepface" / "weights"


def _check(entry: WeightsEntry, path: Path) -> None:
    found = file_sha256(path)
    expected = entry.sha256 or _kept_hash(entry)
    if expected is None:
        # A cache that may only be read works as well, just without memory.
        with contextlib.suppress(FerkitError):
            _keep_hash(entry, found)
    elif found != expected:
        memory = f"{_hash_path(entry).name} remembers from the first use"
        source = "its publisher names" if entry.sha256 else memory
        raise WeightsError(
            f"expected {path} to have the SHA-256 {expected} that {source}, found {found}; "
            "delete it and it is fetched again, or give your own file with --weights"
        )


def _hash_path(entry: WeightsEntry) -> Path:
    return weights_dir() / f"{entry.file}.sha256"


def _kept_hash(entry: WeightsEntry) -> str | None:
    with contextlib.suppress(OSError):
        if words := _hash_path(entry).read_text(encoding="utf-8").split():
            return words[0]
    return None


def _keep_hash(entry: WeightsEntry, sha256: str) -> None:
    line = f"{sha256}  {entry.file}\n".encode()
    write_atomically(_hash_path(entry), lambda file: file.write(line))


def _fetch(entry: WeightsEntry) -> Path:
    path = weights_dir() / entry.file
    remove_leftovers(path.parent)
    reasons = []
    for url in entry.urls:
        try:
            write_atomically(path, functools.partial(_download, url, entry))
        except _UnusableError as reason:
            reasons.append(str(reason))
        else:
            if entry.sha256 is None:
                _keep_hash(entry, file_sha256(path))
            return path
    raise _not_to_be_had(entry, "; ".join(dict.fromkeys(reasons)))


def _failure_path(entry: WeightsEntry) -> Path:
    return weights_dir() / f"{entry.file}.failed"


def _failed_lately(entry: WeightsEntry) -> bool:
    """Whether the last attempt failed within the hour: behind a firewall each takes many seconds."""
    with contextlib.suppress(OSError):
        return 0 <= time.time() - _failure_path(entry).stat().st_mtime < RETRY_S
    return False


class _UnusableError(Exception):
    """What one address gave, if anything, is not the file."""


def _download(url: str, entry: WeightsEntry, file: IO[bytes]) -> None:
    digest, done, began_s = hashlib.sha256(), 0, time.monotonic()
    expected = entry.sha256 or _kept_hash(entry)
    with _opened(url) as response:
        total = _length(response, url) or entry.size
        if total is None and expected is None:
            raise _UnusableError(
                f"{_host(url)} does not say how long the file is, so that a part would pass for it"
            )
        most = entry.size or total or LARGEST
        if total is not None and total > LARGEST:
            raise _UnusableError(f"{_host(url)} offers {total:,} bytes, which is too much")
        with progress(f"fetching {entry.name}", total or 0, unit="bytes") as shown:
            while chunk := _read(response):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if done > most:
                    raise _UnusableError(f"{_host(url)} sent more than {most:,} bytes")
                seconds = time.monotonic() - began_s
                if seconds > SLOW_S and done < LEAST_SPEED * seconds:
                    raise _UnusableError(
                        f"{_host(url)} sent {done:,} bytes in {seconds:.0f} s, which is too slow"
                    )
                shown.update(len(chunk))
    if total is not None and done != total:
        raise _UnusableError(f"{_host(url)} sent {done:,} of {total:,} bytes")
    found = digest.hexdigest()
    if expected is not None and found != expected:
        hint = "" if entry.sha256 else f" (to take the new one, delete {_hash_path(entry)})"
        raise _UnusableError(f"{_host(url)} sent a file with SHA-256 {found} instead of {expected}{hint}")


def _length(response: "http.client.HTTPResponse", url: str) -> int | None:
    """What the server says of the length; None if nothing."""
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise _UnusableError(f"{_host(url)} says a length of {ascii(text)[:40]}")
    return int(text)


def _opener() -> Any:
    import urllib.error
    import urllib.request

    class NoDowngrade(urllib.request.HTTPRedirectHandler):
        """Follows redirections, but never from https to anything else."""

        def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
            if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
                raise urllib.error.URLError(f"it leads from https to {_host(newurl)} without encryption")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return urllib.request.build_opener(NoDowngrade)


def _opened(url: str) -> "http.client.HTTPResponse":
    # Here, since they bring ssl and email with them, which a start with weights that are there does not need.
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "ferkit"})
    try:
        opener = _opener()
        response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise _UnusableError(f"{_host(url)} answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise _UnusableError(f"{_host(url)} is not reachable: {reason}") from None
    # Log-in, quota and error pages come with status 200.
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise _UnusableError(f"{_host(url)} answered with a web page instead of the file")
    return response


def _read(response: "http.client.HTTPResponse") -> bytes:
    import http.client

    try:
        return response.read1(_CHUNK)  # what is there: whole chunks of slow senders take for ever
    except (OSError, http.client.HTTPException) as error:
        raise _UnusableError(f"the connection broke: {error or type(error).__name__}") from None


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _not_to_be_had(entry: WeightsEntry, reason: str) -> WeightsError:
    addresses = " or ".join(entry.urls)
    return WeightsError(
        f"{entry.file} is needed, but {reason}; put it into {weights_dir()}, from {addresses}"
    )
