"""Small folders of images, and the extraction loop over them with the weightless backbone."""

from pathlib import Path

import numpy as np
from PIL import Image

from ferkit.datasets.load import load_dataset
from ferkit.embedder.embedders import HogEmbedder, open_embedder
from ferkit.embedder.extract import ExtractionSummary, StoreOptions, embed_dataset
from ferkit.embedder.settings import Embedder
from ferkit.embedder.store import EmbeddingStore
from ferkit.faces.cropping import Cropping

SHARD = 8
BATCH = 3


class Counting(HogEmbedder):
    """The weightless backbone, counting what it is given, and giving what it is told for some images."""

    def __init__(self, bad: dict[int, float] | None = None) -> None:
        super().__init__(open_embedder("raw").settings)
        self.at_once = 1  # it counts in order
        self.n = 0
        self.batches: list[int] = []
        self.bad = bad or {}

    def embed(self, crops: np.ndarray) -> np.ndarray:
        features = super().embed(crops)
        for i in range(len(crops)):
            features[i, 3] = self.bad.get(self.n + i, features[i, 3])
        self.n += len(crops)
        self.batches.append(len(crops))
        return features


def write_image(path: Path, seed: int) -> None:
    """A 64x64 BMP of noise: all have one size in bytes, and the weightless backbone needs no resizing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path, "BMP")


def write_images(root: Path, n: int, start: int = 0) -> Path:
    """``n`` images of two classes, sorted by their numbers within each."""
    for i in range(start, start + n):
        write_image(root / ("happy" if i % 2 else "sad") / f"{i:04d}.bmp", seed=i)
    return root


def embed(
    data: Path, cache: Path, embedder: Embedder | None = None, crop: Cropping | None = None, **options
) -> tuple[EmbeddingStore, ExtractionSummary]:
    """Embed what ``data`` has into a store below ``cache``."""
    return embed_dataset(
        load_dataset(data),
        embedder or open_embedder("raw"),
        crop or Cropping.ask("none"),
        StoreOptions(cache, **{"batch_size": BATCH, "rows_per_shard": SHARD, **options}),
        workers=2,
    )


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store that holds results, and its bytes."""
    return {
        p.name: p.read_bytes()
        for p in store.iterdir()
        if p.name.startswith("shard-") or p.name == "manifest.json"
    }
