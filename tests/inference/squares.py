"""Videos in which faces are striped squares, and the detector and classifier that know them."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.types import Faces
from ferkit.faces.cropping import CropSettings
from ferkit.inference.engine import Engine, EngineSettings
from ferkit.inference.smoothing import LabelSmoother, SmoothingSettings
from tests.inference.brightness import BrightnessClassifier

SIDE = 40
FACES = CropSettings("haar", None, align=False, margin=0.0)

Square = tuple[int, int, int]
"""Left, top and mean brightness."""


class SquareDetector:
    """Finds squares that are not black, by connected pixels."""

    name = "squares"

    def __init__(self) -> None:
        self.n_calls = 0
        self.seen_wh: tuple[int, int] | None = None

    def detect(self, rgb: np.ndarray) -> Faces:
        self.n_calls += 1
        self.seen_wh = rgb.shape[1], rgb.shape[0]
        _, _, stats, _ = cv2.connectedComponentsWithStats((rgb[..., 1] > 12).astype(np.uint8))
        boxes = [(x, y, x + w, y + h) for x, y, w, h, area in stats[1:] if area > 100]
        if not boxes:
            return Faces.none()
        return Faces(np.array(boxes, np.float32), np.full(len(boxes), 0.9, np.float32))


def frame_with(*squares: Square, size_wh: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Black, with a striped square for each."""
    rgb = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x, y, level in squares:
        rgb[max(0, y) : y + SIDE, max(0, x) : x + SIDE] = level - 12
        rgb[max(0, y) : y + SIDE : 4, max(0, x) : x + SIDE] = level + 12
        rgb[max(0, y) : y + SIDE, max(0, x) : x + SIDE : 5] = level
    return rgb


def new_engine(**changes: object) -> Engine:
    """An engine that reads squares: dark is sad, gray neutral, bright happy."""
    classifier = BrightnessClassifier()
    smoother = LabelSmoother(SmoothingSettings(min_quality=0.0), len(classifier.labels))
    settings = EngineSettings(FACES, detect_side=320)
    parts = {
        "classifier": classifier,
        "detector": SquareDetector(),
        "smoother": smoother,
        "settings": settings,
    }
    return Engine(**{**parts, **changes})  # type: ignore[arg-type]


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float = 25.0) -> Path:
    """MPEG-4 at high quality, without sound."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    assert writer.isOpened()
    for rgb in frames:
        writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def moving_squares(n: int) -> list[np.ndarray]:
    """One bright square that moves to the right, and one that is dark first and bright later."""
    return [frame_with((20 + 2 * i, 30, 225), (60, 150, 40 if i < n // 2 else 225)) for i in range(n)]
