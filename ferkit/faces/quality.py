"""How well a face can be read: its size, sharpness, light and pose."""

import cv2
import numpy as np

from ferkit.core.types import Faces

_SIDE = 48
"""Crops are looked at in this size, so that sharpness means the same for all."""


def face_quality(crops: np.ndarray, faces: Faces) -> np.ndarray:
    """The worst of size, sharpness, light and pose of each face.

    Args:
        crops: uint8 RGB (n, h, w, 3).
        faces: the same n faces; where they have no points, pose is not judged.

    Returns:
        float32 (n,), 0 cannot be read .. 1 nothing is wrong.
    """
    if len(faces) == 0:
        return np.zeros(0, np.float32)
    grays = [_small_gray(crop) for crop in crops]
    parts = [
        _size(faces.xyxy),
        np.array([_sharpness(g) for g in grays]),
        np.array([_light(g) for g in grays]),
    ]
    if faces.keypoints is not None:
        parts.append(_pose(faces.keypoints))
    return np.min(parts, axis=0).astype(np.float32)


def sharpness(crop: np.ndarray) -> float:
    """0 too blurred to read .. 1 sharp, of one crop, uint8 RGB (h, w, 3)."""
    return _sharpness(_small_gray(crop))


def _small_gray(crop: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def _size(xyxy: np.ndarray) -> np.ndarray:
    """0 at 12 pixels, where eyes and mouth run together; 1 from 40."""
    side = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1)
    return np.clip((side - 12) / 28, 0, 1)


def _sharpness(gray: np.ndarray) -> float:
    """Power of the Laplacian as a share of the contrast, on a logarithmic scale."""
    # Measured on videos: a face blurred with a sigma of 1/40 of its side is at 0.03 and easy to read, with
    # 1/18 at 0.008 and hard.
    contrast = float(gray.var())
    detail = float(cv2.Laplacian(gray, cv2.CV_32F).var())
    share = detail / (contrast + 25) + 1e-6
    return float(np.clip(np.log(share / 0.006) / np.log(0.04 / 0.006), 0, 1))


def _light(gray: np.ndarray) -> float:
    """1 in the middle range; 0 for black, white, or without contrast."""
    low, high = np.percentile(gray, (10, 90))
    return float(np.clip(min((high - 15) / 25, (245 - low) / 25, (high - low - 4) / 16), 0, 1))


def _pose(points: np.ndarray) -> np.ndarray:
    """1 while both halves of the face are seen; 0 in profile, where the nose is outside both eyes."""
    left, right, nose = points[:, 0], points[:, 1], points[:, 2]
    across = right - left
    width = np.maximum(np.linalg.norm(across, axis=1), 1e-6)
    aside = ((nose - (left + right) / 2) * across).sum(axis=1) / width**2
    return np.clip((0.75 - np.abs(aside)) / 0.35, 0, 1)
