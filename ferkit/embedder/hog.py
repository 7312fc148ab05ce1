"""The floor of every comparison: gradients, no weights."""

from pathlib import Path

import numpy as np

from ferkit.core.fingerprint import fingerprint
from ferkit.embedder.preprocess import resize_crops, to_gray
from ferkit.embedder.settings import EmbedderSettings

_CELL = 8
_ORIENTATIONS = 8
_BLOCK = 2
_EPSILON = 1e-5


class HogEmbedder:
    """Histograms of oriented gradients on gray crops (Dalal and Triggs 2005), the numbers of scikit-image's ``hog``.

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
        cells = _cell_histograms(to_gray(resize_crops(crops, self.input_size_wh, self.resize)))
        blocks = np.lib.stride_tricks.sliding_window_view(cells, (_BLOCK, _BLOCK), axis=(1, 2))
        blocks = np.moveaxis(blocks, 3, -1)  # (n, rows, columns, block rows, block columns, orientations)
        clipped = np.minimum(_normalized(blocks), 0.2)
        return _normalized(clipped).reshape(len(crops), self.dim).astype(np.float32)


def _cell_histograms(gray: np.ndarray) -> np.ndarray:
    """float64 (n, rows, columns, orientations): mean length of the gradients of each direction in each cell."""
    pixels = gray.astype(np.float64)
    down, right = np.zeros_like(pixels), np.zeros_like(pixels)
    down[:, 1:-1] = pixels[:, 2:] - pixels[:, :-2]
    right[:, :, 1:-1] = pixels[:, :, 2:] - pixels[:, :, :-2]
    length = np.hypot(right, down)
    direction = (np.rad2deg(np.arctan2(down, right)) % 180).astype(np.float32)
    n, height, width = gray.shape
    rows, columns = height // _CELL, width // _CELL
    found = np.empty((n, rows, columns, _ORIENTATIONS))
    for i in range(_ORIENTATIONS):
        low, high = 180 / _ORIENTATIONS * i, 180 / _ORIENTATIONS * (i + 1)
        mine = np.where((direction >= low) & (direction < high), length, 0)
        mine = mine[:, : rows * _CELL, : columns * _CELL].reshape(n, rows, _CELL, columns, _CELL)
        found[..., i] = mine.mean(axis=(2, 4))
    return found


def _normalized(blocks: np.ndarray) -> np.ndarray:
    return blocks / np.sqrt((blocks**2).sum(axis=(3, 4, 5), keepdims=True) + _EPSILON**2)
