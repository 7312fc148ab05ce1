"""ferkit: facial expression recognition by embeddings with swappable heads, or by fine-tuned networks.

Names are looked up when they are first used, so that importing ferkit costs nothing.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferkit.api import (
        ExpressionStream as ExpressionStream,
    )
    from ferkit.api import (
        compare as compare,
    )
    from ferkit.api import (
        embed as embed,
    )
    from ferkit.api import (
        evaluate as evaluate,
    )
    from ferkit.api import (
        finetune as finetune,
    )
    from ferkit.api import (
        fit as fit,
    )
    from ferkit.api import (
        load_dataset as load_dataset,
    )
    from ferkit.api import (
        load_embedder as load_embedder,
    )
    from ferkit.api import (
        load_model as load_model,
    )
    from ferkit.api import (
        predict as predict,
    )
    from ferkit.classifiers.model import Model as Model
    from ferkit.core.errors import FerkitError as FerkitError
    from ferkit.core.labels import LabelSet as LabelSet
    from ferkit.datasets.dataset import Dataset as Dataset
    from ferkit.embedder.store import EmbeddingStore as EmbeddingStore
    from ferkit.teaching.teacher import Teacher as Teacher

_PUBLIC = {
    "Dataset": "ferkit.datasets.dataset",
    "EmbeddingStore": "ferkit.embedder.store",
    "ExpressionStream": "ferkit.api",
    "FerkitError": "ferkit.core.errors",
    "LabelSet": "ferkit.core.labels",
    "Model": "ferkit.classifiers.model",
    "Teacher": "ferkit.teaching.teacher",
    "compare": "ferkit.api",
    "embed": "ferkit.api",
    "evaluate": "ferkit.api",
    "finetune": "ferkit.api",
    "fit": "ferkit.api",
    "load_dataset": "ferkit.api",
    "load_embedder": "ferkit.api",
    "load_model": "ferkit.api",
    "predict": "ferkit.api",
}

_UNTIL_0_3 = {
    "Sample": ("ferkit.datasets.dataset", "Dataset has columns"),
    "load_classifier": ("ferkit.classifiers.model", "use load_model"),
    "open_embedder": ("ferkit.embedder.embedders", "use load_embedder"),
}
"""Names of version 0.1 that go with 0.3: where they are, and what to use."""

__all__ = ["__version__", *sorted(_PUBLIC)]

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            import importlib.metadata  # which costs as much as all else here

            return importlib.metadata.version("ferkit")
        if name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        if name in _UNTIL_0_3:
            module, instead = _UNTIL_0_3[name]
            warnings.warn(f"ferkit.{name} goes with version 0.3; {instead}", DeprecationWarning, stacklevel=2)
            return getattr(import_module(module), name)
        raise AttributeError(f"module 'ferkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
