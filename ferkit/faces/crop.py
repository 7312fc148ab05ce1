"""Cutting faces out of pictures, and fitting crops to a network's input."""

import cv2
import numpy as np

from ferkit.core.errors import DataError, ImageError
from ferkit.core.faces import Faces

ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
"""Where eyes, nose and mouth corners lie in a 112x112 crop (Deng et al., ArcFace, CVPR 2019)."""


def fit_to(rgb: np.ndarray, size_wh: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """Resize ``rgb`` (H, W, 3) uint8 to ``size_wh``.

    ``stretch`` ignores the proportions (averaging when it shrinks); ``letterbox`` keeps them, interpolates linearly
    and fills up with black, exactly as DeepFace does for its networks.
    """
    height, width = rgb.shape[:2]
    if resize == "letterbox":
        factor = min(size_wh[1] / height, size_wh[0] / width)
        inner = cv2.resize(rgb, (max(1, int(width * factor)), max(1, int(height * factor))))
        down, right = size_wh[1] - inner.shape[0], size_wh[0] - inner.shape[1]
        return np.pad(inner, ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0)))
    if resize != "stretch":
        raise DataError(f"expected 'stretch' or 'letterbox' as resize, found {resize!r}")
    if (width, height) == size_wh:
        return rgb
    shrinks = width >= size_wh[0] and height >= size_wh[1]
    return cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def square_crop(rgb: np.ndarray, xyxy: np.ndarray, margin: float) -> np.ndarray:
    """The square around a box, larger by ``margin`` of its side on each side; what lies outside repeats the border.

    Returns:
        uint8 RGB (s, s, 3), s in pixels of the picture, at least 1.
    """
    x0, y0, x1, y1 = (float(value) for value in xyxy)
    side = max(x1 - x0, y1 - y0) * (1 + 2 * margin)
    s = max(1, round(side))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    height, width = rgb.shape[:2]
    if left >= width or top >= height or left + s <= 0 or top + s <= 0:
        raise ImageError(
            f"expected a face inside the {width}x{height} picture, found the box {[x0, y0, x1, y1]}"
        )
    inside = rgb[max(0, top) : top + s, max(0, left) : left + s]
    before_y, before_x = max(0, -top), max(0, -left)
    after_y, after_x = s - before_y - inside.shape[0], s - before_x - inside.shape[1]
    if before_y or before_x or after_y or after_x:
        return cv2.copyMakeBorder(inside, before_y, after_y, before_x, after_x, cv2.BORDER_REPLICATE)
    return inside


def aligned_crop(
    rgb: np.ndarray, keypoints: np.ndarray, size_wh: tuple[int, int], margin: float
) -> np.ndarray:
    """Turn, scale and shift a face so that its five points lie as in :data:`ARCFACE_TEMPLATE`.

    Args:
        rgb: uint8 (H, W, 3).
        keypoints: (5, 2) in pixels.
        size_wh: size of the crop; the template is centred in it and scaled with its shorter side.
        margin: shrinks the template within the crop, so that more of the surroundings is seen.

    Returns:
        uint8 RGB (h, w, 3) of ``size_wh``.
    """
    scale = min(size_wh) / 112 / (1 + 2 * margin)
    target = (ARCFACE_TEMPLATE - 56) * scale + np.array(size_wh, np.float32) / 2
    matrix = _similarity(keypoints, target)
    return cv2.warpAffine(rgb, matrix, size_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def crop_faces(
    rgb: np.ndarray, faces: Faces, size_wh: tuple[int, int], *, align: bool, margin: float, resize: str
) -> np.ndarray:
    """Crops (n, h, w, 3) uint8 of all ``faces``, aligned where they have points and ``align`` is set."""
    crops = np.empty((len(faces), size_wh[1], size_wh[0], 3), np.uint8)
    for i in range(len(faces)):
        if align and faces.keypoints is not None:
            crops[i] = aligned_crop(rgb, faces.keypoints[i], size_wh, margin)
        else:
            crops[i] = fit_to(square_crop(rgb, faces.xyxy[i], margin), size_wh, resize)
    return crops


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """2x3 matrix of the rotation, uniform scale and shift that maps points best (Umeyama 1991, in the plane)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    s = (source - source_mean) @ np.array([1, 1j])
    t = (target - target_mean) @ np.array([1, 1j])
    # In the plane a rotation with scale is one complex factor, and least squares gives it in closed form.
    spread = float(np.vdot(s, s).real)
    factor = complex(np.vdot(s, t)) / spread if spread > 0 else 1.0 + 0j
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target_mean - linear @ source_mean])
