"""What became of a face, or of a picture without any."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ferkit.faces.crop_run.picture import Box


class Status(StrEnum):
    """In one word, for ``crops.csv`` and for counting; the reason beside it says more."""

    CROPPED = "cropped"
    WHOLE = "whole"
    """Cropped as well: the whole picture, for want of a face."""
    FACELESS = "faceless"
    SMALL = "small"
    DOUBTFUL = "doubtful"
    BLURRED = "blurred"
    OUTSIDE = "outside"
    NOT_LARGEST = "not largest"
    SEVERAL = "several"
    UNREADABLE = "unreadable"
    ANNOTATION = "annotation"
    """A remark on the annotations; the picture itself may be cropped all the same."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One face.

    Attributes:
        status: what became of it.
        reason: why it was left out, or what is noteworthy; empty if nothing is.
        mark: which of the boxes that were known, counted from the largest; None for a face that was found.
        box: left, top, right, bottom in pixels of the upright picture; None for none.
        score: the detector's confidence, 0..1; None for boxes that were known.
        sharpness: of the crop, 0..1; None without a crop.
    """

    status: Status
    reason: str = ""
    mark: int | None = None
    box: Box | None = None
    score: float | None = None
    sharpness: float | None = None

    @property
    def kept(self) -> bool:
        """Whether there is a crop."""
        return self.status in (Status.CROPPED, Status.WHOLE)


@dataclass(frozen=True)
class Cut:
    """An outcome, and its crop, uint8 RGB (h, w, 3), where there is one."""

    outcome: Outcome
    rgb: np.ndarray | None = None
