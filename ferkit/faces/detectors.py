"""Open face detectors by name, those that may crash or hang in a process of their own; judge what they find.

``python -m ferkit.faces.detectors`` is the other side.
"""

import atexit
import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferkit.core.errors import DependencyError, FerkitError, WeightsError
from ferkit.core.types import FaceDetector, Faces, check_image

PREFIX = "deepface:"
POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""In DeepFace left and right are the person's own; ours are the image's."""

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
        except Exception as error:
            # DeepFace raises ValueError for nearly everything, also for missing packages.
            kind = DependencyError if "pip install" in str(error) else WeightsError
            raise kind(
                f"the detector {self.name} cannot be used: {' '.join(str(error).split()) or type(error).__name__}"
            ) from None

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces, with points where the detector gives all five."""
        bgr = cv2.cvtColor(check_image(rgb), cv2.COLOR_RGB2BGR)
        found = self._extract(
            bgr, detector_backend=self._backend, enforce_detection=False, align=False, normalize_face=False
        )
        # Where it finds nothing, DeepFace gives the whole image with confidence 0.
        found = [face for face in found if float(face["confidence"] or 0) >= max(self._min_confidence, 1e-6)]
        if not found:
            return Faces.none()
        areas = [face["facial_area"] for face in found]
        xyxy = [(a["x"], a["y"], a["x"] + a["w"], a["y"] + a["h"]) for a in areas]
        points = np.array([[a.get(name) or (np.nan, np.nan) for name in POINTS] for a in areas], np.float32)
        return Faces(
            np.array(xyxy, np.float32),
            np.clip(np.array([face["confidence"] for face in found], np.float32), 0, 1),
            None if np.isnan(points).any() else _in_image_order(points),
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


def _in_image_order(points: np.ndarray) -> np.ndarray:
    """(n, 5, 2) with the image's left eye and mouth corner first."""
    ordered = points.copy()
    for a, b in ((0, 1), (3, 4)):
        swapped = points[:, a, 0] > points[:, b, 0]
        ordered[swapped, a], ordered[swapped, b] = points[swapped, b], points[swapped, a]
    return ordered


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
        """Faces of at least a twelfth of the image's shorter side; without points; confidence from 0.5 to 1."""
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
        max_side: larger images are looked at in this size, in pixels of the longer side.

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
        # Narrow images give boxes at infinity with full confidence (OpenCV 4.14): black below and on the right.
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
        WeightsError: the weights cannot be read, or were given to DeepFace, which has its own place for them.
        DependencyError: an optional package is missing.
    """
    if name == "haar":
        return HaarDetector()
    limit = () if min_confidence is None else (min_confidence,)
    if name == "mtcnn" or name.startswith(PREFIX):
        if weights is not None:
            raise WeightsError(
                f"{name} takes its weights from DeepFace's own folder; leave --detector-weights out"
            )
        return DeepFaceDetector(name.removeprefix(PREFIX), *limit)
    if weights is None:
        raise WeightsError(f"the detector {name} needs a weights file")
    detector = {"yunet": YuNetDetector, "mediapipe": MediaPipeDetector}[name]
    return detector(weights, *limit)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


START_S = 90.0
"""How long the other side may take to begin: importing MediaPipe may import TensorFlow."""

_KEY = "FERKIT_DETECTOR_KEY"


class ProcessDetector:
    """Runs a detector elsewhere and starts it again when it dies, hangs or grows.

    A frame in which it failed has no faces.

    Args:
        name, weights, min_confidence: see :func:`ferkit.faces.detectors.open_detector`.
        timeout_s: how long one image may take.
        max_growth_mb: it is started again when its memory grew by so much since its first images.
        patience: failures in a row after which it is given up.

    Attributes:
        n_restarts: how often it had to be started again.

    Raises:
        WeightsError, DependencyError: the detector cannot be opened over there.
    """

    def __init__(
        self,
        name: str,
        weights: Path | None = None,
        min_confidence: float | None = None,
        *,
        timeout_s: float = 10.0,
        max_growth_mb: float = 500.0,
        patience: int = 5,
    ) -> None:
        self.name = name
        self.n_restarts = 0
        self._spec = (name, None if weights is None else str(weights), min_confidence)
        self._timeout_s, self._max_growth_mb, self._patience = timeout_s, max_growth_mb, patience
        self._failures = self._n_images = 0
        self._first_mb = 0.0
        self._start()

    @property
    def pid(self) -> int:
        """Number of the process that detects."""
        return self._process.pid

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces of ``rgb``, uint8 (H, W, 3); none if the detector failed on it.

        Raises:
            FerkitError: it failed several times in a row.
        """
        check_image(rgb)
        try:
            self._link.send(rgb.shape)
            self._link.send_bytes(np.ascontiguousarray(rgb).reshape(-1).data)
            if not self._link.poll(self._timeout_s):
                raise TimeoutError
            faces, megabytes = self._link.recv()
        except (OSError, EOFError, TimeoutError):
            self._failures += 1
            if self._failures > self._patience:
                raise FerkitError(
                    f"the detector {self.name} failed {self._failures} times in a row; "
                    "take another one with --detector"
                ) from None
            self._restart()
            return Faces.none()
        self._failures = 0
        self._n_images += 1
        if self._n_images == 20:
            self._first_mb = megabytes
        elif self._n_images > 20 and megabytes - self._first_mb > self._max_growth_mb:
            self._restart()
        return faces

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._link.close()
        self._process.kill()
        self._process.wait()

    def _restart(self) -> None:
        self.close()
        self.n_restarts += 1
        self._start()

    def _start(self) -> None:
        key = secrets.token_bytes(16)
        self._n_images = 0
        with Listener(authkey=key) as listener:
            environment = {**os.environ, _KEY: key.hex()}
            command = [sys.executable, "-m", __name__, str(listener.address)]
            # What it prints is of no use to those who read results; how it ended is said below.
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(command, env=environment, stdin=null, stdout=null, stderr=null)
            self._link = self._accept(listener)
        self._link.send(self._spec)
        if not self._link.poll(START_S):
            self.close()
            raise FerkitError(f"the detector {self.name} did not start within {START_S:.0f} s; try again")
        try:
            answer = self._link.recv()
        except EOFError:
            self.close()
            raise FerkitError(
                f"the detector {self.name} ended while it started (code {self._process.returncode}); "
                "take another one with --detector"
            ) from None
        if isinstance(answer, str):
            self.close()
            is_missing = answer.startswith(f"{self.name} is not installed")
            raise DependencyError(answer) if is_missing else WeightsError(answer)

    def _accept(self, listener: Listener) -> Connection:
        """Wait for the other side, but not for one that has died."""
        links: list[Connection] = []
        thread = threading.Thread(target=lambda: links.append(listener.accept()), daemon=True)
        thread.start()
        began = time.monotonic()
        while thread.is_alive() and self._process.poll() is None and time.monotonic() - began < START_S:
            thread.join(0.05)
        if not links:
            self._process.kill()
            raise FerkitError(f"the detector {self.name} could not be started in a process of its own")
        return links[0]

    def __del__(self) -> None:
        if hasattr(self, "_process") and self._process.poll() is None:
            self._process.kill()


def memory_mb(process: str = "self") -> float:
    """Memory that a process holds, in megabytes; 0 where the system does not say, or it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, IndexError):
        return 0.0


def serve(address: str) -> None:
    """Detect faces in what comes over ``address`` until it is closed."""
    with Client(address, authkey=bytes.fromhex(os.environ.pop(_KEY))) as link:
        name, weights, min_confidence = link.recv()
        try:
            detector = open_detector(name, None if weights is None else Path(weights), min_confidence)
        except FerkitError as error:
            link.send(str(error))
            return
        link.send(None)
        with contextlib.suppress(EOFError, OSError):
            while True:
                shape = link.recv()
                rgb = np.frombuffer(link.recv_bytes(), np.uint8).reshape(shape)
                link.send((detector.detect(rgb), memory_mb()))


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
    parts: list[Any] = [_size(faces.xyxy), [_sharpness(g) for g in grays], [_light(g) for g in grays]]
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


if __name__ == "__main__":
    serve(sys.argv[1])
