"""Everything about a cropping run that changes what comes out."""

from dataclasses import dataclass
from typing import Literal

from ferkit.core.errors import DataError
from ferkit.faces.cropping import CropSettings

FORMATS = ("jpg", "png", "webp")


@dataclass(frozen=True, kw_only=True)
class CropRunSettings:
    """How crops are made. What was cropped with some settings is only gone on with under the same.

    Attributes:
        faces: detector, alignment, margin, and what becomes of pictures without a face.
        use_boxes: where the data set knows the box, take it instead of a detector's.
        box_frame: ``upright`` boxes are in the picture as it is seen; ``stored`` ones in the pixels as they are stored,
            before the EXIF rotation; ``auto`` decides by the size that the annotations claim, else by where the box
            fits.
        which: of several faces in a picture take the ``largest`` or ``all``, or ``skip`` the picture.
        detect_size: the detector sees pictures scaled down to this longer side, in pixels.
        min_size: faces whose box has a shorter side below it are left out, in pixels of the picture.
        min_score: faces that the detector is less sure of are left out, 0..1; None for the detector's own limit.
        min_sharpness: crops that are more blurred are left out, 0..1; see :func:`ferkit.faces.quality.sharpness`.
        size_wh: of the crops, in pixels.
        gray: one channel instead of three.
        format: of the files: ``jpg``, ``png`` or ``webp``.
        quality: of ``jpg`` and ``webp``, 1..100.

    Raises:
        DataError: a value out of range.
    """

    faces: CropSettings
    use_boxes: bool = True
    box_frame: Literal["auto", "upright", "stored"] = "auto"
    which: Literal["largest", "all", "skip"] = "largest"
    detect_size: int = 640
    min_size: float = 24.0
    min_score: float | None = None
    min_sharpness: float = 0.0
    size_wh: tuple[int, int] = (224, 224)
    gray: bool = False
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.detect_size < 64 or min(self.size_wh) < 8 or max(self.size_wh) > 4096:
            raise DataError(
                "expected crops of 8 to 4096 pixels and a detector's picture of 64 or more, found "
                f"{self.size_wh[0]}x{self.size_wh[1]} and {self.detect_size}"
            )
        if self.format not in FORMATS or not 1 <= self.quality <= 100:
            raise DataError(
                f"expected a format out of {', '.join(FORMATS)} and a quality of 1 to 100, found {self.format} and "
                f"{self.quality}"
            )
