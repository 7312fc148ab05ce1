"""DeepFace's detectors, among them MTCNN and RetinaFace, as detectors of ours."""

import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferkit.core.arrays import check_image
from ferkit.core.errors import DependencyError, WeightsError
from ferkit.core.faces import Faces

PREFIX = "deepface:"
POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""In DeepFace left and right are the person's own; ours are the picture's."""

_IMPORTING = threading.Lock()


class DeepFaceDetector:
    """A detector that DeepFace (Serengil and Ozpinar) brings along or fetches.

    Args:
        backend: DeepFace's name for it: ``retinaface``, ``mtcnn``, ``ssd``, ``dlib``, ``centerface``, …
        min_confidence: faces below it are left out.

    Raises:
        DependencyError: deepface, or what the detector needs besides, is not installed.
        WeightsError: its weights cannot be fetched.
    """

    def __init__(self, backend: str, min_confidence: float = 0.6) -> None:
        with _IMPORTING:  # several threads may each open a detector
            deepface = _import_deepface()
        self.name = f"{PREFIX}{backend}"
        self._backend, self._min_confidence = backend, min_confidence
        self._extract: Any = deepface.extract_faces
        try:
            self.detect(np.zeros((96, 96, 3), np.uint8))
        except (
            Exception
        ) as error:  # DeepFace raises ValueError for nearly everything, also for missing packages
            kind = DependencyError if "pip install" in str(error) else WeightsError
            raise kind(f"the detector {self.name} cannot be used: {_line(error)}") from None

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces, with points where the detector gives all five."""
        bgr = cv2.cvtColor(check_image(rgb), cv2.COLOR_RGB2BGR)
        found = self._extract(
            bgr, detector_backend=self._backend, enforce_detection=False, align=False, normalize_face=False
        )
        # Where it finds nothing, DeepFace gives the whole picture with confidence 0.
        found = [face for face in found if float(face["confidence"] or 0) >= max(self._min_confidence, 1e-6)]
        if not found:
            return Faces.none()
        areas = [face["facial_area"] for face in found]
        xyxy = [(a["x"], a["y"], a["x"] + a["w"], a["y"] + a["h"]) for a in areas]
        points = np.array([[a.get(name) or (np.nan, np.nan) for name in POINTS] for a in areas], np.float32)
        return Faces(
            np.array(xyxy, np.float32),
            np.clip(np.array([face["confidence"] for face in found], np.float32), 0, 1),
            None if np.isnan(points).any() else _in_picture_order(points),
        )


def _import_deepface() -> Any:
    # Must be set before the first import; without TensorFlow it starts ten times as fast.
    os.environ.setdefault("DEEPFACE_BACKEND_ENGINE", "onnx")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of MTCNN's TensorFlow
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        from deepface import DeepFace
    except ImportError as error:
        raise DependencyError("deepface is not installed; pip install 'ferkit[deepface]'") from error
    # DeepFace asks for Keras 2, which is not there, and Keras 3 would no longer work in this process, MTCNN neither.
    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = before
    return DeepFace


def _in_picture_order(points: np.ndarray) -> np.ndarray:
    """(n, 5, 2) with the picture's left eye and mouth corner first."""
    ordered = points.copy()
    for a, b in ((0, 1), (3, 4)):
        swapped = points[:, a, 0] > points[:, b, 0]
        ordered[swapped, a], ordered[swapped, b] = points[swapped, b], points[swapped, a]
    return ordered


def open_deepface_detector(name: str, weights: Path | None, min_confidence: float | None) -> DeepFaceDetector:
    """The detector called ``deepface:<backend>``, or ``mtcnn``, which is DeepFace's.

    Raises:
        WeightsError: a file of weights was given: DeepFace has its own place for them.
        DependencyError: see :class:`DeepFaceDetector`.
    """
    if weights is not None:
        raise WeightsError(
            f"{name} takes its weights from DeepFace's own folder; leave --detector-weights out"
        )
    backend = name.removeprefix(PREFIX)
    return DeepFaceDetector(backend) if min_confidence is None else DeepFaceDetector(backend, min_confidence)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
