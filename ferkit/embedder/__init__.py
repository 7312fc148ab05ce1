"""Face crops to vectors, and vectors to files."""

from ferkit.embedder.backbones import Embedder, InputOptions, load_embedder, open_embedder
from ferkit.embedder.settings import EmbedderSettings

__all__ = ["Embedder", "EmbedderSettings", "InputOptions", "load_embedder", "open_embedder"]
