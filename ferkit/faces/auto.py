"""Choosing a detector by looking at the pictures."""

from dataclasses import dataclass

import cv2
import numpy as np

from ferkit.core.errors import ImageError
from ferkit.core.protocols import FaceDetector
from ferkit.datasets.dataset import Dataset

SAMPLE_SIZE = 40
FILLED = 0.65
"""A face whose box is at least this share of the picture's shorter side fills it: the picture is a crop already."""
SMALL_SIDE = 256
"""Pictures up to this many pixels are taken to be crops when hardly any face can be found in them."""


@dataclass(frozen=True)
class CropChoice:
    """Whether pictures are face crops already, and the sentence that says why."""

    whole: bool
    reason: str


def choose_cropping(dataset: Dataset, detector: FaceDetector) -> CropChoice:
    """Look at up to 40 pictures, spread evenly over the sorted paths, so that the answer is always the same."""
    positions = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE_SIZE).astype(int))
    shares, sides = [], []
    for position in positions:
        try:
            rgb = dataset.read(dataset.samples[position])
        except (ImageError, OSError):
            continue
        shares.append(face_share(rgb, detector))
        sides.append(max(rgb.shape[:2]))
    if not sides:
        return CropChoice(True, "no picture of the sample could be read")
    found = [share for share in shares if share > 0]
    if len(found) * 4 >= len(shares):
        share = float(np.median(found))
        seen = f"faces fill {share:.0%} of the side in {len(found)} of {len(shares)} pictures looked at"
        return CropChoice(share >= FILLED, seen)
    side = int(np.median(sides))
    seen = f"faces found in {len(found)} of {len(shares)} pictures looked at, which are {side} px large"
    return CropChoice(side <= SMALL_SIDE, seen)


def face_share(rgb: np.ndarray, detector: FaceDetector) -> float:
    """Side of the largest face as a share of the picture's shorter side; 0 without a face.

    A face that touches the border is no face to a detector, and neither is one of 20 pixels: small pictures are
    enlarged, and all get a border before the detector looks.
    """
    height, width = rgb.shape[:2]
    scale = min(max(1.0, 200 / min(height, width)), 1000 / max(height, width))
    scaled = cv2.resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))))
    border = min(scaled.shape[:2]) // 3
    framed = cv2.copyMakeBorder(scaled, border, border, border, border, cv2.BORDER_REPLICATE)
    faces = detector.detect(framed).largest_first()
    if len(faces) == 0:
        return 0.0
    x0, y0, x1, y1 = faces.xyxy[0]
    return float(max(x1 - x0, y1 - y0) / min(scaled.shape[:2]))
