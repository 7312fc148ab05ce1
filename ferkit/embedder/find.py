"""Finding the embeddings that a user means."""

import contextlib
from dataclasses import replace
from pathlib import Path

from ferkit.core.errors import DataError, StoreError
from ferkit.embedder.engines import Engine
from ferkit.embedder.settings import EmbedderSettings
from ferkit.embedder.store import EmbeddingStore


def find_stores(cache_dir: Path) -> list[Path]:
    """Folders of embeddings in ``cache_dir``, the one that was worked on last first."""
    views = sorted(cache_dir.glob("*/view.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [path.parent for path in views]


def stores_of(root: Path, dataset: str, settings: EmbedderSettings) -> list[tuple[Path, Engine]]:
    """Stores of a data set by the same network, whatever ran it: folder and engine, worked on last first."""
    found = []
    for folder in find_stores(root):
        if folder.name.rpartition("--")[0].rpartition("--")[0] != dataset:
            continue
        with contextlib.suppress(StoreError):
            made = EmbeddingStore.open(folder).settings.embedder
            own = replace(made, engine=settings.engine, precision=settings.precision, quantized_sha256=None)
            if own == replace(settings, quantized_sha256=None):
                found.append((folder, Engine(made.engine, made.precision)))
    return found


def find_embeddings(cache_dir: Path, name: str | None = None) -> Path:
    """The folder of embeddings that is, is called, or begins with ``name``; the newest if None.

    Raises:
        DataError: there is none, or several begin so.
    """
    if name is not None and (Path(name) / "manifest.json").is_file():
        return Path(name)
    stores = find_stores(cache_dir)
    matching = [folder for folder in stores if name is None or folder.name.startswith(name)]
    if name is not None and len(matching) > 1:
        listed = ", ".join(folder.name for folder in matching)
        raise DataError(f"{name!r} begins the names of several embeddings: {listed}; give more of the name")
    if not matching:
        known = ", ".join(folder.name for folder in stores) or "none"
        wanted = f"embeddings called {name!r}" if name else "embeddings"
        raise DataError(f"expected {wanted} in {cache_dir}, found {known}; run 'fer embed DATA' first")
    return matching[0]
