"""The floor of every comparison: gradients, no weights."""

from pathlib import Path

import numpy as np

from ferkit.core.fingerprint import fingerprint
from ferkit.embedder.preprocess import resize_crops, to_gray
from ferkit.embedder.settings import EmbedderSettings

_CELL = 8
_ORIENTATIONS = 8
_BLOCK = 2


class HogEmbedder:
    """Histograms of oriented gradients on gray crops (Dalal and Triggs 2005, by scikit-image).

    8 orientations, cells of 8x8 pixels, blocks of 2x2 cells: 1,568 numbers at 64x64 pixels.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        self.name = settings.backbone
        self.weights_path: Path | None = None
        self.licence = "no weights"
        self.settings = settings
        self.input_size_wh = settings.input_size_wh
        self.resize = settings.resize
        self.fingerprint = fingerprint(settings)
        blocks_x, blocks_y = (side // _CELL - _BLOCK + 1 for side in settings.input_size_wh)
        self.dim = blocks_x * blocks_y * _BLOCK * _BLOCK * _ORIENTATIONS

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim), blocks L2-Hys-normalised, for uint8 RGB ``crops`` (n, H, W, 3) of any size."""
        from skimage.feature import hog

        gray = to_gray(resize_crops(crops, self.input_size_wh, self.resize))
        features = np.empty((len(gray), self.dim), np.float32)
        for row, picture in zip(features, gray, strict=True):
            row[:] = hog(picture, _ORIENTATIONS, (_CELL, _CELL), (_BLOCK, _BLOCK), block_norm="L2-Hys")
        return features
