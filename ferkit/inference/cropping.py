"""How faces are taken out of pictures and frames: as the model was trained, or as the user says."""

from dataclasses import dataclass
from pathlib import Path

from ferkit.core.errors import WeightsError
from ferkit.core.protocols import FaceDetector
from ferkit.embedder.run import best_detector
from ferkit.faces.detectors import open_detector
from ferkit.faces.settings import FaceSettings
from ferkit.zoo.fetch import weights_file

_WEIGHTS = {"yunet": "yunet", "mediapipe": "blaze_face"}


@dataclass(frozen=True)
class FaceFinding:
    """Settled: how faces are found and cut out.

    Attributes:
        settings: of the crops.
        weights: file of the detector, None where it has none.
        look_first: pictures that a face fills are taken whole.
        reason: the sentence that says why.
    """

    settings: FaceSettings
    weights: Path | None
    look_first: bool
    reason: str

    def open(self, min_confidence: float | None = None) -> FaceDetector:
        """A new detector; for ``none`` one that is never asked.

        Raises:
            WeightsError, DependencyError: see :func:`ferkit.faces.detectors.open_detector`.
        """
        name = "haar" if self.settings.detector == "none" else self.settings.detector
        return open_detector(name, self.weights, min_confidence)


def settle_faces(trained: FaceSettings, detector: str = "auto", weights: Path | None = None) -> FaceFinding:
    """Choose the detector for a model.

    Args:
        trained: how faces were taken out of the pictures that the model was trained on.
        detector: ``auto`` takes the one that the model was trained with, and for a model that was trained on
            whole crops or on given boxes the best that is there; ``none`` takes everything whole.
        weights: a file for the detector.

    Raises:
        WeightsError: the weights of a named detector, or of the one trained with, are missing.
    """
    if detector == "none":
        return FaceFinding(
            FaceSettings.whole(), None, False, "pictures are taken whole, as the crops they are"
        )
    if detector != "auto":
        name, reason = detector, f"as asked: {detector}"
    elif trained.detector not in ("none", "given"):
        name, reason = trained.detector, f"as in training: {trained.detector}"
    else:
        name, weights = best_detector(weights)
        reason = f"{name}; the model was trained on crops, so pictures that a face fills are taken whole"
        if trained.detector == "given":
            reason = f"{name}; the model was trained on the boxes of its data set"
        if name == "haar":
            reason += (
                " (YuNet finds more, but its weights are neither here nor to be had; see --detector-weights)"
            )
    if name in _WEIGHTS:
        weights = _weights(name, weights)
    look_first = trained.detector == "none" and detector == "auto"
    return FaceFinding(_settings(trained, name), weights, look_first, f"faces: {reason}")


def _weights(name: str, given: Path | None) -> Path:
    try:
        return weights_file(_WEIGHTS[name], given=given)
    except WeightsError as error:
        if given is not None:
            raise
        raise WeightsError(
            f"{error}; or name such a file with --detector-weights, or take --detector haar"
        ) from None


def _settings(trained: FaceSettings, detector: str) -> FaceSettings:
    # The digest is left out: nothing here is stored under it.
    if trained.detector == "none":
        # FER2013's crops are as wide as the longer side of a detector's box (median over 500 of them: 0.97 times
        # YuNet's, 1.02 times Haar's), and not turned upright. BlazeFace's boxes are smaller, 0.84 of them.
        margin = 0.09 if detector == "mediapipe" else 0.0
        return FaceSettings(detector, None, align=False, margin=margin, faceless="skip")
    return FaceSettings(detector, None, trained.align, trained.margin, trained.faceless)
