"""A real model folder in a second: a small random network and a head that tells dark from bright."""

from pathlib import Path

import numpy as np

from ferkit.classifiers.heads import LogisticSettings, fit_head
from ferkit.classifiers.kinds import save_embedding_model
from ferkit.embedder.embedders import open_embedder
from ferkit.faces.cropping import CropSettings
from tests.networks import small_network

LEVELS = {"sad": 30, "neutral": 128, "happy": 225}


def write_tiny_model(folder: Path, faces: CropSettings | None = None) -> Path:
    """Write the model and its network, and give its folder."""
    weights = small_network(folder.parent / f"{folder.name}-network.onnx")
    embedder = open_embedder(f"onnx:{weights}", threads=1)
    rng = np.random.default_rng(0)
    y = np.repeat(list(LEVELS), 20)
    width, height = embedder.input_size_wh
    crops = np.stack([flat(LEVELS[name], rng, (height, width)) for name in y])
    X = embedder.embed(crops)
    head = fit_head(X, y, LogisticSettings(C=100.0))
    save_embedding_model(
        folder,
        head,
        X,
        embedder_settings=embedder.settings,
        embedder_fingerprint=embedder.fingerprint,
        faces=faces or CropSettings.whole(),
        weights=weights,
    )
    return folder


def flat(level: int, rng: np.random.Generator, size_hw: tuple[int, int] = (48, 48)) -> np.ndarray:
    """An image of one brightness with a little noise, uint8 (h, w, 3)."""
    return np.clip(rng.normal(level, 4, (*size_hw, 3)), 0, 255).astype(np.uint8)
