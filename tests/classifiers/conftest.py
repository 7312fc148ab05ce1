"""A small problem with overlapping classes, and a backbone that needs no weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ferkit.classifiers.heads import FittedHead, LogisticSettings, fit_head
from ferkit.classifiers.kinds import save_embedding_model
from ferkit.classifiers.model import Model
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.settings import Embedder
from ferkit.faces.cropping import CropSettings

Problem = tuple[np.ndarray, np.ndarray]


def blobs(n: int = 600, d: int = 24, k: int = 4, seed: int = 0) -> Problem:
    """Embeddings (n, d) of classes ``c0`` …, unevenly frequent, overlapping, badly scaled and off centre."""
    rng = np.random.default_rng(seed)
    share = np.arange(k, 0, -1) / np.arange(1, k + 1).sum()
    y = rng.choice(k, n, p=share)
    centres = np.random.default_rng(1).normal(0, 0.55, (k, d))
    X = (centres[y] + rng.normal(size=(n, d))) * np.linspace(0.1, 30, d) + 5
    return X.astype(np.float32), np.array([f"c{i}" for i in y])


@pytest.fixture(scope="session")
def problem() -> Problem:
    return blobs()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return open_embedder("raw")


@pytest.fixture(scope="session")
def crops() -> np.ndarray:
    """uint8 (60, 64, 64, 3): stripes of three directions, which gradient histograms tell apart."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    waves = [np.sin((x * np.cos(a) + y * np.sin(a)) / 3) for a in (0.0, 1.0, 2.0)]
    images = np.stack([waves[i % 3] for i in range(60)]) * 60 + 128 + rng.normal(0, 25, (60, 64, 64))
    return np.repeat(images.clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)


@pytest.fixture(scope="session")
def crop_head(embedder: Embedder, crops: np.ndarray) -> FittedHead:
    return fit_head(embedder.embed(crops), np.array(["happy", "sad", "놀람"] * 20), LogisticSettings())


@pytest.fixture
def save(embedder: Embedder, crops: np.ndarray, crop_head: FittedHead) -> Callable[..., Model]:
    def save(folder: Path, head: FittedHead = crop_head, **options: object) -> Model:
        values = {
            "embedder_settings": embedder.settings,
            "embedder_fingerprint": embedder.fingerprint,
            "faces": CropSettings(),
            **options,
        }
        return save_embedding_model(folder, head, embedder.embed(crops), **values)  # type: ignore[arg-type]

    return save
