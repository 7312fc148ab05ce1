"""An engine from a model, in one call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ferkit.core.protocols import Embedder, FaceDetector
from ferkit.faces.crop import fit_to
from ferkit.faces.deepface_detector import PREFIX
from ferkit.faces.process import ProcessDetector
from ferkit.faces.tracking import FaceTracker, TrackerSettings
from ferkit.inference.cropping import FaceFinding, settle_faces
from ferkit.inference.engine import Engine, EngineSettings, Pace
from ferkit.inference.models import TrainedModel
from ferkit.inference.neutral import NeutralCalibration
from ferkit.inference.pace import LivePace, SteadyPace
from ferkit.inference.smoothing import LabelSmoother, SmoothingSettings

DOUBTFUL_CONFIDENCE = 0.35
"""Detections from here on may carry on a face that is known."""


@dataclass(frozen=True)
class EngineOptions:
    """What a user may choose.

    Attributes:
        detector, detector_weights: see :func:`ferkit.inference.cropping.settle_faces`.
        detect_side: longer side of the frame that the detector sees, in pixels.
        detect_every: frames from one detection to the next; None lets the machine's speed decide.
        fps: with ``detect_every`` None, the frame rate that should hold.
        smoothing: how labels are steadied.
        neutral_s: seconds in which resting faces are learnt; 0 for none.
    """

    detector: str = "auto"
    detector_weights: Path | None = None
    detect_side: int = 480
    detect_every: int | None = 1
    fps: float = 30.0
    smoothing: SmoothingSettings = field(default_factory=SmoothingSettings)
    neutral_s: float = 0.0


def build_engine(
    model: TrainedModel, options: EngineOptions, recogniser: Embedder | None = None
) -> tuple[Engine, FaceFinding]:
    """Put the parts together.

    Args:
        model: reads the faces.
        options: the user's.
        recogniser: tells people apart, so that one who comes back keeps the number; None for motion alone.

    Returns:
        The engine, and what was settled about faces, with its reason for the user.

    Raises:
        WeightsError, DependencyError: a detector cannot be had.
        DataError: a neutral calibration of a model that has no such class.
    """
    faces = settle_faces(model.faces, options.detector, options.detector_weights)
    every = options.detect_every
    pace: Pace = LivePace(options.fps) if every is None else SteadyPace(every)
    engine = Engine(
        model.classifier,
        open_tracking_detector(faces),
        LabelSmoother(options.smoothing, len(model.labels)),
        EngineSettings(faces.settings, model.resize, options.detect_side),
        FaceTracker(TrackerSettings(start_confidence=0.0 if faces.settings.detector == "haar" else 0.6)),
        pace,
        NeutralCalibration(model.labels, options.neutral_s) if options.neutral_s > 0 else None,
        None if recogniser is None else describer(recogniser),
    )
    return engine, faces


def open_tracking_detector(faces: FaceFinding) -> FaceDetector:
    """The detector, telling of doubtful faces too; MediaPipe and DeepFace's in processes of their own.

    Raises:
        WeightsError, DependencyError: it cannot be had.
    """
    name, weights = faces.settings.detector, faces.weights
    if name in ("mediapipe", "mtcnn") or name.startswith(PREFIX):
        return ProcessDetector(name, weights, DOUBTFUL_CONFIDENCE)
    return faces.open(DOUBTFUL_CONFIDENCE)


def describer(recogniser: Embedder) -> Callable[[np.ndarray], np.ndarray]:
    """Crops of any size to unit vectors that are alike for the same person."""

    def describe(crops: np.ndarray) -> np.ndarray:
        fitted = np.stack([fit_to(crop, recogniser.input_size_wh) for crop in crops])
        X = recogniser.embed(fitted)
        return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)

    return describe
