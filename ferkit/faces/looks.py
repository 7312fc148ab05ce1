"""What a face looks like from one frame to the next, in a few numbers."""

import cv2
import numpy as np

from ferkit.core.faces import Faces
from ferkit.faces.crop import square_crop

SIDE = 8
_MARGIN = 0.15
"""Some of the hair is taken in: it tells people apart at once."""


def looks_of(rgb: np.ndarray, faces: Faces) -> np.ndarray:
    """A tiny colour picture of each face, without its mean colour and contrast, so that light matters little.

    Good for telling whether a box still holds whom it held a moment ago; not for recognising anybody later.

    Args:
        rgb: uint8 (H, W, 3).
        faces: n boxes in it, each at least partly inside.

    Returns:
        float32 (n, d), rows of length 1: the product of two is their likeness, -1..1.
    """
    looks = np.zeros((len(faces), SIDE * SIDE * 3), np.float32)
    for i in range(len(faces)):
        tiny = cv2.resize(
            square_crop(rgb, faces.xyxy[i], _MARGIN), (SIDE, SIDE), interpolation=cv2.INTER_AREA
        )
        lab = cv2.cvtColor(tiny, cv2.COLOR_RGB2LAB).astype(np.float32)
        flat = (lab - lab.mean(axis=(0, 1))).reshape(-1)
        looks[i] = flat / max(float(np.linalg.norm(flat)), 1e-6)
    return looks
