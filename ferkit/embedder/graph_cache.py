"""Keep what engines make of graphs in the user's cache, so that the next start need not make it again.

A file is called by the digest of the graph and of everything that it was made with, versions included, and appears
whole: any number of processes may write and read.
"""

import contextlib
import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SMALLEST, LARGEST = 1 << 18, 1 << 26
"""Bytes of graphs that are kept: smaller ones are made at once, larger ones take the disk."""

MOST = 1 << 29
"""Bytes of all files together; those that were used longest ago go first."""

_FORMAT = "1"


@dataclass(frozen=True)
class KeptFile:
    """A place in the cache.

    Attributes:
        path: the file; None where there is none yet.
        target: where to write it; None where it is there, or is not to be kept.
    """

    path: Path | None
    target: Path | None


@contextlib.contextmanager
def kept_file(content: bytes, made_with: Sequence[str]) -> Iterator[KeptFile]:
    """What was made of a graph, or a place for it: what was written there when the block ends is kept.

    Args:
        content: of the graph.
        made_with: all else that the file depends on.
    """
    folder = _folder()
    if not SMALLEST <= len(content) <= LARGEST or folder is None:
        yield KeptFile(None, None)
        return
    digest = hashlib.sha256("\n".join((_FORMAT, *made_with, "")).encode())
    digest.update(content)
    path = folder / f"{digest.hexdigest()[:32]}.onnx"
    if path.is_file():
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used now
        yield KeptFile(path, None)
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as temporary:
        target = Path(temporary) / path.name
        yield KeptFile(None, target)
        with contextlib.suppress(OSError):  # a full disk costs the next start a moment, and nothing else
            if target.is_file():
                os.replace(target, path)
                _drop_oldest(folder)


def kept(content: bytes, made_with: Sequence[str], make: Callable[[], bytes]) -> bytes:
    """The same for content that ``make`` gives."""
    with kept_file(content, made_with) as file:
        if file.path is not None:
            return file.path.read_bytes()
        made = make()
        if file.target is not None:
            file.target.write_bytes(made)
    return made


@functools.cache
def processor() -> str:
    """What a graph for this processor depends on."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _folder() -> Path | None:
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("ferkit", appauthor=False)) / "graphs"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def _drop_oldest(folder: Path) -> None:
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.onnx"))
    left = sum(size for _, size, _ in files)
    for _, size, path in files:
        if left <= MOST:
            return
        path.unlink(missing_ok=True)
        left -= size
