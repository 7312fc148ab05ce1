"""Where the parts of the face are, and how far each muscle has moved, by MediaPipe's FaceLandmarker."""

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DependencyError, WeightsError
from ferkit.core.fingerprint import fingerprint
from ferkit.embedder.preprocess import resize_crops
from ferkit.embedder.settings import EmbedderSettings

N_LANDMARKS = 478
N_BLENDSHAPES = 52
_EYE_CORNERS = [33, 133], [362, 263]  # left and right eye as seen in the picture


class LandmarkEmbedder:
    """MediaPipe's 478 landmarks (1,434 numbers) or 52 blendshapes.

    Landmarks are centred on their mean, turned until the eyes are level, and scaled to a root mean square
    distance of 1 from the centre, so that neither place, roll nor size of the face is left in them. A crop in
    which no face is found gives a row of NaN.

    Raises:
        DependencyError: mediapipe is not installed.
        WeightsError: the file is no FaceLandmarker.
    """

    def __init__(self, settings: EmbedderSettings, weights_path: Path, licence: str) -> None:
        self.settings = settings
        self.name = settings.backbone
        self.input_size_wh = settings.input_size_wh
        self.resize = settings.resize
        self.fingerprint = fingerprint(settings)
        self.weights_path: Path | None = weights_path
        self.licence = licence
        self._blendshapes = settings.backbone == "mediapipe-blendshapes"
        self.dim = N_BLENDSHAPES if self._blendshapes else N_LANDMARKS * 3
        self._landmarker = _open_landmarker(weights_path, self._blendshapes)
        weakref.finalize(self, _forget, self._landmarker)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, H, W, 3) of any size; NaN where no face is found.

        Raises:
            DataError: crops of another shape or type.
        """
        import mediapipe

        crops = resize_crops(crops, self.input_size_wh, self.resize)
        features = np.full((len(crops), self.dim), np.nan, np.float32)
        for row, crop in zip(features, crops, strict=True):
            picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(crop))
            found = self._landmarker.detect(picture)
            if found.face_landmarks:
                row[:] = self._scores(found) if self._blendshapes else self._shape(found)
        return features

    def _scores(self, found: Any) -> np.ndarray:
        return np.array([category.score for category in found.face_blendshapes[0]], np.float32)

    def _shape(self, found: Any) -> np.ndarray:
        width, height = self.input_size_wh
        points = np.array([(p.x, p.y, p.z) for p in found.face_landmarks[0]]) * (width, height, width)
        return normalized_points(points).astype(np.float32).reshape(-1)


def normalized_points(points: np.ndarray) -> np.ndarray:
    """Points (478, 3) without place, roll and size: mean 0, eyes level, root mean square distance 1."""
    points = points - points.mean(axis=0)
    left, right = (points[corners, :2].mean(axis=0) for corners in _EYE_CORNERS)
    angle = np.arctan2(*(right - left)[::-1])
    cos, sin = np.cos(angle), np.sin(angle)
    points[:, :2] = points[:, :2] @ np.array([[cos, -sin], [sin, cos]])
    return points / np.sqrt((points**2).sum(axis=1).mean())


def _forget(landmarker: Any) -> None:
    """Close it. At the interpreter's end MediaPipe's threads are gone and its ``__del__`` would fail noisily:
    then leave it to the system."""
    try:
        landmarker.close()
    except RuntimeError:
        landmarker._handle = None


def _open_landmarker(path: Path, blendshapes: bool) -> Any:
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise DependencyError(
            f"MediaPipe landmarks need mediapipe ({error}); install it with: pip install 'ferkit[mediapipe]'"
        ) from None
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_buffer=path.read_bytes()),
        output_face_blendshapes=blendshapes,
        min_face_detection_confidence=0.1,  # what is shown to it are faces; it need not doubt that
        min_face_presence_confidence=0.1,
    )
    try:
        return vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"expected MediaPipe's face_landmarker.task, but {path} cannot be used: {reason}"
        ) from None
