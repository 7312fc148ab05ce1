"""From crops of any size to the array that a network takes."""

from collections.abc import Iterable

import cv2
import numpy as np

from ferkit.core.arrays import check_crops
from ferkit.core.errors import DataError
from ferkit.embedder.settings import Channels, EmbedderSettings, Resize
from ferkit.faces.crop import fit_to


def resize_crops(crops: np.ndarray, size_wh: tuple[int, int], how: Resize = "stretch") -> np.ndarray:
    """Crops uint8 (n, H, W, 3) of ``size_wh``, see :func:`ferkit.faces.crop.fit_to`; themselves if they have the size.

    Raises:
        DataError: another shape or type, or crops without pixels.
    """
    height, width = check_crops(crops).shape[1:3]
    if (width, height) == tuple(size_wh):
        return crops
    if not (height and width):
        raise DataError(f"expected crops with at least one pixel, found {width}x{height}")
    resized = np.empty((len(crops), size_wh[1], size_wh[0], 3), np.uint8)
    for target, crop in zip(resized, crops, strict=True):
        target[:] = fit_to(crop, size_wh, how)
    return resized


def network_input(crops: np.ndarray, settings: EmbedderSettings, channels_first: bool) -> np.ndarray:
    """What the network takes for crops of its input size.

    Args:
        crops: uint8 RGB (n, height, width, 3).
        settings: colour order, scale and offset.
        channels_first: whether the network takes (n, c, height, width) instead of (n, height, width, c).

    Returns:
        float32, contiguous.
    """
    pixels = _in_channel_order(crops, settings.channels)
    scale, offset = (_per_channel(v, channels_first) for v in (settings.scale, settings.offset))
    if channels_first:
        pixels = pixels.transpose(0, 3, 1, 2)
    values = np.empty(pixels.shape, np.float32)
    np.multiply(pixels, scale, out=values, casting="unsafe")
    if np.any(offset):
        values += offset
    return values


def to_gray(crops: np.ndarray) -> np.ndarray:
    """uint8 (n, height, width) of uint8 RGB (n, height, width, 3), weighted as in ITU-R BT.601."""
    n, height, width, _ = crops.shape
    if not n:
        return np.empty((0, height, width), np.uint8)
    tall = np.ascontiguousarray(crops).reshape(n * height, width, 3)
    return cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY).reshape(n, height, width)


def _in_channel_order(crops: np.ndarray, channels: Channels) -> np.ndarray:
    if channels == "gray":
        return to_gray(crops)[..., None]
    return crops if channels == "rgb" else crops[..., ::-1]


def _per_channel(value: float | Iterable[float], channels_first: bool) -> np.ndarray:
    array = np.asarray(value, np.float32)
    return array.reshape(-1, 1, 1) if channels_first and array.ndim else array
