"""How faces are taken out of pictures."""

from dataclasses import dataclass
from typing import Literal

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the picture."""

DetectorName = str
"""``none``, ``given``, ``haar``, ``yunet``, ``mediapipe``, ``mtcnn``, or ``deepface:<name>``."""


@dataclass(frozen=True)
class FaceSettings:
    """Everything about cropping that changes a pixel.

    Attributes:
        detector: ``none`` takes each picture whole, as the crop it is; ``given`` takes the box that the data set has
            for it (:attr:`ferkit.datasets.dataset.Sample.box`), and looks for nothing.
        detector_sha256: digest of the detector's weights, None where it has none.
        align: turn the face by its five points onto the ArcFace template, where the detector gives points.
        margin: what is added around the face on each side, as a share of its box (or template).
        faceless: what becomes of a picture without a face, or without a given box: ``skip`` records a failure,
            ``whole`` takes it whole.
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

    def box_for(self, box: Box | None) -> Box | None:
        """The box that a crop rests on, to a tenth of a pixel, where these settings take given ones."""
        if self.detector != "given" or box is None:
            return None
        left, top, right, bottom = (round(float(value), 1) for value in box)
        return left, top, right, bottom
