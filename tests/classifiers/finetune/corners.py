"""Tiny images that a network can learn in an epoch: each class has its bright corner."""

import numpy as np

from ferkit.classifiers.finetune.data import Pixels


def corners(y: np.ndarray, size: int = 24, seed: int = 0) -> np.ndarray:
    """uint8 gray (n, size, size, 1): noise, and a bright corner that depends on the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (len(y), size, size, 1)).astype(np.uint8)
    half = size // 2
    for image, label in zip(images, y, strict=True):
        top, left = (label // 2) % 2 * half, label % 2 * half
        image[top : top + half, left : left + half] += 100
    return images


def make_pixels(n: int, k: int = 3, size: int = 24, seed: int = 0) -> Pixels:
    """``n`` gray images of ``k`` classes, as evenly as possible."""
    y = np.arange(n) % k
    return Pixels(corners(y, size, seed), y, tuple(f"{i:04d}.png" for i in range(n)))
