"""Follow faces through frames and predict their expressions.

Which parts do the work is passed in: a detector, a classifier, a tracker, a smoother.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ferkit.classifiers.model import Model
from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier, FaceDetector, Faces, check_image
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.settings import Embedder
from ferkit.faces.cropping import Cropping, CropSettings, crop_faces, cropping_as_trained, fit_to
from ferkit.faces.detectors import PREFIX, ProcessDetector, face_quality
from ferkit.faces.tracking import FaceTracker, TrackerSettings, appearance_of, without_doubles
from ferkit.inference.smoothing import LabelSmoother, NeutralCalibration, SmoothingSettings


@dataclass(frozen=True)
class FrameBudget:
    """What one frame may cost.

    Attributes:
        detect_every: frames from one detection to the next.
        max_crops: faces that are read in the frame, those read longest ago first; None for all.
        reread_s: a face is not read again before so long.
    """

    detect_every: int
    max_crops: int | None
    reread_s: float = 0.0


@dataclass
class SteadyScheduler:
    """Always the same budget: for videos, where the result must not depend on the machine's load."""

    detect_every: int = 1

    def budget(self, n_faces: int) -> FrameBudget:
        """The budget of a frame with ``n_faces``."""
        return FrameBudget(self.detect_every, None)

    def record_time(self, *, detect_s: float | None, n_crops: int, crops_s: float, other_s: float) -> None:
        """Take note of what a frame took."""


_REREAD_S = 0.09
"""Live, a face is read at most about ten times a second: expressions last longer, and boxes move on anyway."""


@dataclass
class LiveScheduler:
    """As much as fits into the time of a frame, by what the last frames took.

    Attributes:
        fps: frames a second that should hold.
        longest_gap_s: a face must not wait longer than this to be detected.
    """

    fps: float = 30.0
    longest_gap_s: float = 0.25
    _detect_s: float = field(default=0.03, repr=False)
    _crop_s: float = field(default=0.005, repr=False)
    _other_s: float = field(default=0.003, repr=False)

    def budget(self, n_faces: int) -> FrameBudget:
        """The budget of a frame with ``n_faces``."""
        budget_s = 0.85 / self.fps
        most = max(1, round(self.longest_gap_s * self.fps))
        # Detection gets at most four tenths: boxes move on by themselves for a moment, labels do not.
        detect_every = min(most, max(1, -int(-self._detect_s // (0.4 * budget_s))))
        left_s = budget_s - self._detect_s / detect_every - self._other_s
        return FrameBudget(detect_every, max(1, min(n_faces, int(left_s / self._crop_s))), _REREAD_S)

    def record_time(self, *, detect_s: float | None, n_crops: int, crops_s: float, other_s: float) -> None:
        """Take note of what a frame took; ``detect_s`` None if nothing was detected in it."""
        if detect_s is not None:
            self._detect_s += 0.2 * (detect_s - self._detect_s)
        if n_crops:
            self._crop_s += 0.1 * (crops_s / n_crops - self._crop_s)
        self._other_s += 0.1 * (other_s - self._other_s)


STAGES = ("detect", "track", "crop", "classify", "smooth")


@dataclass(frozen=True)
class FrameResult:
    """The faces of one frame, as a struct of arrays.

    Attributes:
        timestamp_s: of the frame.
        faces: n faces with ``track_id``.
        quality: float32 (n,), 0 unreadable .. 1 good, when the face was last read.
        raw: float32 (n, k), calibrated probabilities of the last reading.
        proba: float32 (n, k), smoothed.
        label: int64 (n,), what is shown; :data:`ferkit.inference.smoothing.UNSURE` if nothing is certain.
    """

    timestamp_s: float
    faces: Faces
    quality: np.ndarray
    raw: np.ndarray
    proba: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.faces)


class Scheduler(Protocol):
    """Says how much work a frame may make; see :mod:`ferkit.inference.engine`."""

    def budget(self, n_faces: int) -> FrameBudget: ...

    def record_time(
        self, *, detect_s: float | None, n_crops: int, crops_s: float, other_s: float
    ) -> None: ...


@dataclass(frozen=True)
class EngineSettings:
    """What does not follow from the parts.

    Attributes:
        faces: how faces are cut out; with the detector ``none`` every frame is one face as a whole.
        resize: how crops are fitted, see :func:`ferkit.faces.cropping.fit_to`.
        detect_side: detection sees the frame scaled down to this many pixels of its longer side.
    """

    faces: CropSettings
    resize: str = "stretch"
    detect_side: int = 480


@dataclass
class _Reading:
    proba: np.ndarray
    quality: float
    read_s: float


@dataclass
class Engine:
    """Follows all faces of a video or camera; one engine a stream, used by one thread.

    Attributes:
        classifier: reads crops.
        detector: finds faces; not used where the settings say ``none``.
        smoother: steadies labels.
        settings: of the crops.
        tracker: numbers faces.
        scheduler: how often to detect, and how many faces to read a frame.
        neutral: removes the bias of resting faces, if asked for.
        identify: a frame and m faces in it to unit vectors (m, d), for recognising people who come back; optional.
        seconds: time spent so far in each of :data:`STAGES`.
        n_frames: processed so far.
    """

    classifier: ExpressionClassifier
    detector: FaceDetector
    smoother: LabelSmoother
    settings: EngineSettings
    tracker: FaceTracker = field(default_factory=FaceTracker)
    scheduler: Scheduler = field(default_factory=SteadyScheduler)
    neutral: NeutralCalibration | None = None
    identify: Callable[[np.ndarray, Faces], np.ndarray] | None = None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    n_frames: int = 0
    _since_detection: int = field(default=1 << 30, repr=False)
    _size_hw: tuple[int, ...] | None = field(default=None, repr=False)
    _readings: dict[int, _Reading] = field(default_factory=dict, repr=False)

    @property
    def labels(self) -> LabelSet:
        """The classes, in the order of the probabilities."""
        return self.classifier.labels

    def process(self, rgb: np.ndarray, timestamp_s: float) -> FrameResult:
        """Read one frame.

        Args:
            rgb: uint8 (H, W, 3).
            timestamp_s: when it was taken; never before the last frame's.

        Raises:
            DataError: no such image.
        """
        check_image(rgb)
        if self._size_hw not in (None, rgb.shape[:2]):
            self.reset(renumber=False)  # where faces were says nothing about where they are
        self._size_hw = rgb.shape[:2]
        before = dict(self.seconds)
        budget = self.scheduler.budget(len(self._readings))
        faces, detected = self._locate(rgb, timestamp_s, budget)
        due = self._due(faces, budget, timestamp_s)
        if len(due):
            self._read(rgb, faces[due], timestamp_s)
        result = self._result(faces, timestamp_s)
        self.n_frames += 1
        took = {stage: self.seconds[stage] - before[stage] for stage in STAGES}
        self.scheduler.record_time(
            detect_s=took["detect"] if detected else None,
            n_crops=len(due),
            crops_s=took["crop"] + took["classify"],
            other_s=took["track"] + took["smooth"],
        )
        return result

    def reset(self, *, renumber: bool = True) -> None:
        """Forget everybody, as at the start of another video; what was learnt about resting faces stays.

        Args:
            renumber: start at 1 again; False within one video, whose numbers must not mean two people.
        """
        if renumber:
            self.tracker = FaceTracker(self.tracker.settings)
        self.tracker.forget()
        self.smoother.reset()
        self._readings.clear()
        self._since_detection = 1 << 30

    def state(self) -> dict[str, Any]:
        """Everything that the next frames depend on, as plain values for JSON."""
        readings = {
            str(i): {"proba": r.proba.tolist(), "quality": r.quality, "read_s": r.read_s}
            for i, r in self._readings.items()
        }
        return {
            "tracker": self.tracker.state(),
            "smoother": self.smoother.state(),
            "neutral": None if self.neutral is None else self.neutral.state(),
            "readings": readings,
            "since_detection": self._since_detection,
            "size_hw": self._size_hw,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.tracker.restore(state["tracker"])
        self.smoother.restore(state["smoother"])
        if self.neutral is not None and state["neutral"] is not None:
            self.neutral.restore(state["neutral"])
        self._since_detection = state["since_detection"]
        size_hw = state.get("size_hw")  # not noted by version 0.1
        self._size_hw = None if size_hw is None else tuple(size_hw)
        self._readings = {
            int(i): _Reading(np.array(r["proba"], np.float32), r["quality"], r["read_s"])
            for i, r in state["readings"].items()
        }

    def _locate(self, rgb: np.ndarray, timestamp_s: float, budget: FrameBudget) -> tuple[Faces, bool]:
        self._since_detection += 1
        if self.settings.faces.detector == "none":
            return _whole_frame(rgb), False
        if self._since_detection < budget.detect_every:
            with self._timed("track"):
                return _inside(self.tracker.predict(timestamp_s), rgb), False
        self._since_detection = 0
        with self._timed("detect"):
            found = detect_scaled(self.detector, rgb, self.settings.detect_side)
            found = without_doubles(_inside(found, rgb))
        with self._timed("track"):
            identify = self.identify
            vectors = None if identify is None else lambda positions: identify(rgb, found[positions])
            return self.tracker.update(found, timestamp_s, appearance_of(rgb, found), vectors), True

    def _due(self, faces: Faces, budget: FrameBudget, timestamp_s: float) -> np.ndarray:
        """Positions of the faces to read now: those that waited long enough, and longest, if not all."""
        read_s = np.array([self._readings[i].read_s if i in self._readings else -np.inf for i in _ids(faces)])
        due = np.flatnonzero(timestamp_s - read_s >= budget.reread_s)
        if budget.max_crops is None or len(due) <= budget.max_crops:
            return due
        return np.sort(due[np.argsort(read_s[due], kind="stable")[: budget.max_crops]])

    def _read(self, rgb: np.ndarray, faces: Faces, timestamp_s: float) -> None:
        with self._timed("crop"):
            crops = self._crops(rgb, faces)
            quality = face_quality(crops, faces)
        with self._timed("classify"):
            proba = self.classifier.predict_proba(crops)
        with self._timed("smooth"):
            ids = np.array(_ids(faces), np.int64)
            if self.neutral is not None:
                proba = self.neutral.apply(ids, proba, timestamp_s)
            self.smoother.update(ids, proba, timestamp_s, quality)
            for i, p, q in zip(ids.tolist(), proba, quality, strict=True):
                self._readings[i] = _Reading(p, float(q), timestamp_s)

    def _result(self, faces: Faces, timestamp_s: float) -> FrameResult:
        # What was read of faces that are out of sight is of no use after a moment: a later reading replaces it.
        ids = _ids(faces)
        self._readings = {
            i: r for i, r in self._readings.items() if i in set(ids) or timestamp_s - r.read_s < 2.0
        }
        known = [i in self._readings for i in ids]
        faces = faces[np.array(known, bool)]
        readings = [self._readings[i] for i in _ids(faces)]
        shown = self.smoother.shown(np.array(_ids(faces), np.int64))
        return FrameResult(
            timestamp_s,
            faces,
            np.array([r.quality for r in readings], np.float32),
            np.array([r.proba for r in readings], np.float32).reshape(-1, len(self.labels)),
            shown.proba,
            shown.label,
        )

    def _crops(self, rgb: np.ndarray, faces: Faces) -> np.ndarray:
        how, size_wh, resize = self.settings.faces, self.classifier.input_size_wh, self.settings.resize
        if how.detector == "none":
            return fit_to(rgb, size_wh, resize)[None]
        return crop_faces(rgb, faces, size_wh, align=how.align, margin=how.margin, resize=resize)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


def detect_scaled(detector: FaceDetector, rgb: np.ndarray, side: int) -> Faces:
    """Faces of ``rgb`` found in a copy whose longer side is at most ``side`` pixels, in pixels of ``rgb``."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return detector.detect(rgb)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    found = detector.detect(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA))
    return found.scaled(np.array([width / size_wh[0], height / size_wh[1]]))


def _inside(faces: Faces, rgb: np.ndarray) -> Faces:
    """Those whose centre is in the image: of the others there is nothing to read."""
    centre = (faces.xyxy[:, :2] + faces.xyxy[:, 2:]) / 2
    height, width = rgb.shape[:2]
    good = (centre >= 0).all(axis=1) & (centre < (width, height)).all(axis=1)
    return faces[good & (faces.xyxy[:, 2:] > faces.xyxy[:, :2]).all(axis=1)]


def _whole_frame(rgb: np.ndarray) -> Faces:
    height, width = rgb.shape[:2]
    box = np.array([[0, 0, width, height]], np.float32)
    return Faces(box, np.ones(1, np.float32), None, np.ones(1, np.int64))


def _ids(faces: Faces) -> list[int]:
    return [] if faces.track_id is None else faces.track_id.tolist()


DOUBTFUL_CONFIDENCE = 0.35
"""Detections from here on may carry on a face that is known."""


@dataclass(frozen=True)
class EngineOptions:
    """What a user may choose.

    Attributes:
        detector: finds faces; ``auto`` does as in the model's training, see
            :func:`ferkit.faces.cropping.cropping_as_trained`.
        detector_weights: a file for it to take.
        detect_side: longer side of the frame that the detector sees, in pixels.
        detect_every: frames from one detection to the next; None lets the machine's speed decide.
        fps: with ``detect_every`` None, the frame rate that should hold.
        smoothing: how labels are steadied.
        neutral_s: seconds in which resting faces are learnt; 0 for none.
        reidentify: backbone that tells people apart, so that one who comes back keeps the number; None for motion
            and appearance alone.

    Raises:
        DataError: a value out of range.
    """

    detector: str = "auto"
    detector_weights: Path | None = None
    detect_side: int = 480
    detect_every: int | None = 1
    fps: float = 30.0
    smoothing: SmoothingSettings = field(default_factory=SmoothingSettings)
    neutral_s: float = 0.0
    reidentify: str | None = None

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise DataError(f"expected fps above 0, found {self.fps}")


def build_engine(model: Model, options: EngineOptions) -> tuple[Engine, Cropping]:
    """Put the parts together.

    Args:
        model: reads the faces.
        options: the user's.

    Returns:
        The engine, and what was settled about faces, with its reason for the user.

    Raises:
        WeightsError, DependencyError: a detector or backbone cannot be had.
        DataError: a neutral calibration of a model that has no such class, or no such backbone.
    """
    faces = cropping_as_trained(model.crops, options.detector, options.detector_weights)
    every = options.detect_every
    scheduler: Scheduler = LiveScheduler(options.fps) if every is None else SteadyScheduler(every)
    engine = Engine(
        model,
        open_tracking_detector(faces),
        LabelSmoother(options.smoothing, len(model.labels)),
        EngineSettings(faces.settings, model.resize, options.detect_side),
        FaceTracker(TrackerSettings(start_confidence=0.0 if faces.settings.detector == "haar" else 0.6)),
        scheduler,
        NeutralCalibration(model.labels, options.neutral_s) if options.neutral_s > 0 else None,
        None if options.reidentify is None else identifier(open_embedder(options.reidentify)),
    )
    return engine, faces


def open_tracking_detector(faces: Cropping) -> FaceDetector:
    """The detector, telling of doubtful faces too; MediaPipe and DeepFace's in processes of their own.

    Raises:
        WeightsError, DependencyError: it cannot be had.
    """
    name, weights = faces.settings.detector, faces.weights
    if name in ("mediapipe", "mtcnn") or name.startswith(PREFIX):
        return ProcessDetector(name, weights, DOUBTFUL_CONFIDENCE)
    return faces.open_detector(DOUBTFUL_CONFIDENCE)


def identifier(recogniser: Embedder) -> Callable[[np.ndarray, Faces], np.ndarray]:
    """A frame and its faces to unit vectors that are alike for the same person."""

    def identify(rgb: np.ndarray, faces: Faces) -> np.ndarray:
        # As recognisers were trained: turned onto the template where there are points, and little else around.
        crops = crop_faces(rgb, faces, recogniser.input_size_wh, align=True, margin=0.0, resize="stretch")
        X = recogniser.embed(crops)
        return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)

    return identify
