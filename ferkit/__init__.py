"""ferkit: facial expression recognition by embeddings with swappable heads, or by fine-tuned networks.

Names are looked up when they are first used, so that importing ferkit costs nothing.
"""

from importlib import import_module, metadata
from typing import Any

_PUBLIC = {
    "Dataset": "ferkit.datasets.dataset",
    "EmbeddingStore": "ferkit.embedder.store",
    "FerkitError": "ferkit.core.errors",
    "LabelSet": "ferkit.core.labels",
    "Sample": "ferkit.datasets.dataset",
    "load_classifier": "ferkit.classifiers.model",
    "load_dataset": "ferkit.datasets.load",
    "load_embedder": "ferkit.embedder.embedders",
    "open_embedder": "ferkit.embedder.embedders",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("ferkit")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ferkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
