"""An engine from a model, in one call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ferkit.classifiers.model import Model
from ferkit.core.faces import Faces
from ferkit.core.protocols import Embedder, FaceDetector
from ferkit.embedder.backbones import open_embedder
from ferkit.faces.crop import crop_faces
from ferkit.faces.cropping import Cropping, cropping_as_trained
from ferkit.faces.deepface_detector import PREFIX
from ferkit.faces.process import ProcessDetector
from ferkit.faces.tracking import FaceTracker, TrackerSettings
from ferkit.inference.engine import Engine, EngineSettings, Pace
from ferkit.inference.neutral import NeutralCalibration
from ferkit.inference.pace import LivePace, SteadyPace
from ferkit.inference.smoothing import LabelSmoother, SmoothingSettings

DOUBTFUL_CONFIDENCE = 0.35
"""Detections from here on may carry on a face that is known."""


@dataclass(frozen=True)
class EngineOptions:
    """What a user may choose.

    Attributes:
        detector, detector_weights: see :func:`ferkit.faces.cropping.cropping_as_trained`.
        detect_side: longer side of the frame that the detector sees, in pixels.
        detect_every: frames from one detection to the next; None lets the machine's speed decide.
        fps: with ``detect_every`` None, the frame rate that should hold.
        smoothing: how labels are steadied.
        neutral_s: seconds in which resting faces are learnt; 0 for none.
        reidentify: backbone that tells people apart, so that one who comes back keeps the number; None for motion
            and looks alone.
    """

    detector: str = "auto"
    detector_weights: Path | None = None
    detect_side: int = 480
    detect_every: int | None = 1
    fps: float = 30.0
    smoothing: SmoothingSettings = field(default_factory=SmoothingSettings)
    neutral_s: float = 0.0
    reidentify: str | None = None


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
    pace: Pace = LivePace(options.fps) if every is None else SteadyPace(every)
    engine = Engine(
        model,
        open_tracking_detector(faces),
        LabelSmoother(options.smoothing, len(model.labels)),
        EngineSettings(faces.settings, model.resize, options.detect_side),
        FaceTracker(TrackerSettings(start_confidence=0.0 if faces.settings.detector == "haar" else 0.6)),
        pace,
        NeutralCalibration(model.labels, options.neutral_s) if options.neutral_s > 0 else None,
        None if options.reidentify is None else describer(open_embedder(options.reidentify)),
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


def describer(recogniser: Embedder) -> Callable[[np.ndarray, Faces], np.ndarray]:
    """A frame and its faces to unit vectors that are alike for the same person."""

    def describe(rgb: np.ndarray, faces: Faces) -> np.ndarray:
        # As recognisers were trained: turned onto the template where there are points, and little else around.
        crops = crop_faces(rgb, faces, recogniser.input_size_wh, align=True, margin=0.0, resize="stretch")
        X = recogniser.embed(crops)
        return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)

    return describe
