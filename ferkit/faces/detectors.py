"""Face detectors behind one contract: :class:`ferkit.core.protocols.FaceDetector`."""

import atexit
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferkit.core.arrays import check_image
from ferkit.core.errors import DependencyError, WeightsError
from ferkit.core.faces import Faces
from ferkit.core.protocols import FaceDetector
from ferkit.faces.deepface_detector import PREFIX, open_deepface_detector

_YUNET_SMALLEST = 64
"""Pixels of a side that the network needs: two cells of its coarsest grid."""


class HaarDetector:
    """OpenCV's cascade of Haar features (Viola and Jones 2001): needs no file, finds upright frontal faces only."""

    name = "haar"

    def __init__(self) -> None:
        file = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(str(file))
        if self._cascade.empty():
            raise WeightsError(
                f"OpenCV {cv2.__version__} came without {file.name}; install opencv-python below 5"
            )

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces of at least a twelfth of the picture's shorter side; without points; confidence from 0.5 to 1."""
        gray = cv2.cvtColor(check_image(rgb), cv2.COLOR_RGB2GRAY)
        smallest = max(20, min(gray.shape) // 12)
        boxes, _, weights = self._cascade.detectMultiScale3(
            gray, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest), outputRejectLevels=True
        )
        if len(boxes) == 0:
            return Faces.none()
        xywh = np.asarray(boxes, np.float32)
        # The last stage's margin is unbounded; this only makes it comparable with other detectors' 0..1.
        confidence = 1 / (1 + np.exp(-np.asarray(weights, np.float32).reshape(-1) / 4))
        return Faces(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), confidence)


class YuNetDetector:
    """YuNet (Wu, Peng and Yu 2023) through OpenCV: small, fast, with five points.

    Args:
        weights: the ONNX file.
        min_confidence: faces below it are left out.
        max_side: larger pictures are looked at in this size, in pixels of the longer side.

    Raises:
        WeightsError: OpenCV cannot read the file.
    """

    name = "yunet"

    def __init__(self, weights: Path, min_confidence: float = 0.6, max_side: int = 640) -> None:
        try:
            # As bytes, because OpenCV cannot open non-ASCII paths on Windows.
            model = np.fromfile(weights, np.uint8)
            self._net = cv2.FaceDetectorYN.create(
                "onnx", model, np.empty(0, np.uint8), (320, 320), min_confidence
            )
        except (OSError, cv2.error) as error:
            raise WeightsError(
                f"{weights} is not a YuNet network that OpenCV can read: {_last_line(error)}"
            ) from None
        self._max_side = max_side

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces with points, the surest first."""
        height, width = check_image(rgb).shape[:2]
        scale = min(1.0, self._max_side / max(height, width))
        size_wh = max(1, round(width * scale)), max(1, round(height * scale))
        small = rgb if scale == 1.0 else cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA)
        # Narrow pictures give boxes at infinity with full confidence (OpenCV 4.14): black below and on the right.
        right, below = (max(0, _YUNET_SMALLEST - side) for side in size_wh)
        framed = cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_CONSTANT)
        self._net.setInputSize((framed.shape[1], framed.shape[0]))
        _, found = self._net.detect(cv2.cvtColor(framed, cv2.COLOR_RGB2BGR))
        if found is None:
            return Faces.none()
        found = found.astype(np.float32)
        back = np.array([width / size_wh[0], height / size_wh[1]], np.float32)
        corners = np.concatenate([found[:, :2] * back, (found[:, :2] + found[:, 2:4]) * back], axis=1)
        points = found[:, 4:14].reshape(-1, 5, 2) * back
        return Faces(corners, found[:, 14], points)


class MediaPipeDetector:
    """MediaPipe's BlazeFace (Bazarevsky et al. 2019) through the Tasks API: for faces near the camera.

    Args:
        weights: the ``.tflite`` file.
        min_confidence: faces below it are left out.

    Raises:
        DependencyError: mediapipe is not installed.
        WeightsError: mediapipe cannot read the file.
    """

    name = "mediapipe"

    def __init__(self, weights: Path, min_confidence: float = 0.5) -> None:
        try:
            import mediapipe
        except ImportError as error:
            raise DependencyError("mediapipe is not installed; pip install 'ferkit[mediapipe]'") from error
        tasks: Any = mediapipe.tasks
        try:
            options = tasks.vision.FaceDetectorOptions(
                base_options=tasks.BaseOptions(model_asset_buffer=weights.read_bytes()),
                min_detection_confidence=min_confidence,
            )
            self._detector = tasks.vision.FaceDetector.create_from_options(options)
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(
                f"{weights} is not a face detector that mediapipe can read: {_last_line(error)}"
            ) from None
        # Its own closing fails with a traceback once the interpreter has stopped its threads: leave it to the system.
        atexit.register(setattr, self._detector, "_handle", None)
        self._image = lambda rgb: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces with points: MediaPipe gives one point for the mouth, which stands for both of its corners."""
        height, width = check_image(rgb).shape[:2]
        found = self._detector.detect(self._image(np.ascontiguousarray(rgb))).detections
        if not found:
            return Faces.none()
        boxes = [face.bounding_box for face in found]
        xyxy = [(b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height) for b in boxes]
        points = np.array(
            [[(p.x * width, p.y * height) for p in face.keypoints[:4]] for face in found], np.float32
        )
        return Faces(
            np.array(xyxy, np.float32),
            np.array([face.categories[0].score for face in found], np.float32),
            points[:, [0, 1, 2, 3, 3]],
        )


def open_detector(
    name: str, weights: Path | None = None, min_confidence: float | None = None
) -> FaceDetector:
    """The detector called ``name``.

    Args:
        name: ``haar``; ``yunet`` or ``mediapipe`` with its weights file; ``mtcnn`` or ``deepface:<name>`` by way of
            DeepFace, which keeps its weights itself.
        weights: the file.
        min_confidence: faces below it are left out; None for the detector's usual. Haar has no such limit.

    Raises:
        WeightsError: the weights cannot be read.
        DependencyError: an optional package is missing.
    """
    if name == "haar":
        return HaarDetector()
    if name == "mtcnn" or name.startswith(PREFIX):
        return open_deepface_detector(name, weights, min_confidence)
    if weights is None:
        raise WeightsError(f"the detector {name} needs a weights file")
    detector = {"yunet": YuNetDetector, "mediapipe": MediaPipeDetector}[name]
    return detector(weights) if min_confidence is None else detector(weights, min_confidence)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
