"""Finding the embeddings that a user means."""

from pathlib import Path

from ferkit.core.errors import DataError


def find_stores(cache_dir: Path) -> list[Path]:
    """Folders of embeddings in ``cache_dir``, the one that was worked on last first."""
    views = sorted(cache_dir.glob("*/view.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [path.parent for path in views]


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
