"""The numbers of ``raw`` are those of scikit-image, which made them until 0.1."""

from pathlib import Path

import numpy as np

from ferkit.embedder.embedders import open_embedder


def crops() -> np.ndarray:
    """Noise, few levels, one colour, a ramp."""
    rng = np.random.default_rng(0)
    noise, levels = rng.integers(0, 256, (64, 64, 3), np.uint8), rng.integers(0, 3, (64, 64, 3), np.uint8)
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    return np.stack([noise, levels, np.full_like(noise, 90), ramp])


def test_equals_scikit_image() -> None:
    with np.load(Path(__file__).with_name("hog_of_scikit_image.npz")) as file:
        found = open_embedder("raw").embed(crops())
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, file["X"], atol=1e-6)  # skimage.feature.hog of 0.26


def test_nothing_in_gives_nothing_out() -> None:
    assert open_embedder("raw").embed(np.empty((0, 64, 64, 3), np.uint8)).shape == (0, 1568)
