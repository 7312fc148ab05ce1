"""How faces are taken out of pictures."""

from dataclasses import dataclass
from typing import Literal

DetectorName = str
"""``none``, ``haar``, ``yunet``, ``mediapipe``, ``mtcnn``, or ``deepface:<name>``."""


@dataclass(frozen=True)
class FaceSettings:
    """Everything about cropping that changes a pixel.

    Attributes:
        detector: ``none`` takes each picture whole, as the crop it is.
        detector_sha256: digest of the detector's weights, None where it has none.
        align: turn the face by its five points onto the ArcFace template, where the detector gives points.
        margin: what is added around the face on each side, as a share of its box (or template).
        faceless: what becomes of a picture without a face: ``skip`` records a failure, ``whole`` takes it whole.
    """

    detector: DetectorName = "none"
    detector_sha256: str | None = None
    align: bool = True
    margin: float = 0.1
    faceless: Literal["skip", "whole"] = "skip"

    @staticmethod
    def whole() -> "FaceSettings":
        """Pictures that are crops already: nothing is looked for, so nothing else matters."""
        return FaceSettings("none", None, align=False, margin=0.0, faceless="whole")
