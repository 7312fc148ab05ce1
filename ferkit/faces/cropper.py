"""One picture in, one crop or all crops out: what the settings say, with the detector they name."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ferkit.core.errors import ImageError
from ferkit.core.faces import Faces
from ferkit.core.protocols import FaceDetector
from ferkit.faces.crop import crop_faces, fit_to
from ferkit.faces.settings import Box, FaceSettings


@dataclass(frozen=True)
class Crop:
    """A crop of the asked size, uint8 RGB (h, w, 3), and the face's box in the picture (None: the whole picture)."""

    rgb: np.ndarray
    xyxy: tuple[float, float, float, float] | None


class FaceCropper:
    """Takes faces out of pictures. May be used from many threads: each gets a detector of its own.

    Args:
        settings: how.
        open_detector: makes a detector; called once a thread, never for the detectors ``none`` and ``given``.
        size_wh: size of the crops.
        resize: how boxes are fitted to that size, see :func:`ferkit.faces.crop.fit_to`.
    """

    def __init__(
        self,
        settings: FaceSettings,
        open_detector: Callable[[], FaceDetector],
        size_wh: tuple[int, int],
        resize: str,
    ) -> None:
        self.settings = settings
        self.size_wh = size_wh
        self.resize = resize
        self._open_detector = open_detector
        self._own = threading.local()

    def faces(self, rgb: np.ndarray) -> Faces:
        """All faces in ``rgb``, the largest first."""
        if not hasattr(self._own, "detector"):
            self._own.detector = self._open_detector()
        return self._own.detector.detect(rgb).largest_first()

    def largest(self, rgb: np.ndarray, box: Box | None = None) -> Crop:
        """The crop of the largest face, of the given box, or of the whole picture, as the settings say.

        Args:
            rgb: uint8 (H, W, 3).
            box: that the data set has for the picture; it counts where the settings take given ones.

        Raises:
            ImageError: there is no face, and the settings say to skip such pictures; or the box lies outside.
        """
        if self.settings.detector == "none":
            return Crop(fit_to(rgb, self.size_wh, self.resize), None)
        if self.settings.detector == "given":
            given = self.settings.box_for(box)
            faces = (
                Faces.none()
                if given is None
                else Faces(np.array([given], np.float32), np.ones(1, np.float32))
            )
        else:
            faces = self.faces(rgb)[:1]
        if len(faces) == 0:
            if self.settings.faceless == "whole":
                return Crop(fit_to(rgb, self.size_wh, self.resize), None)
            if self.settings.detector == "given":
                raise ImageError("the data set has no box for it")
            raise ImageError(f"no face found by {self.settings.detector}")
        x0, y0, x1, y1 = (round(float(value), 1) for value in faces.xyxy[0])
        return Crop(self.crops(rgb, faces)[0], (x0, y0, x1, y1))

    def crops(self, rgb: np.ndarray, faces: Faces) -> np.ndarray:
        """Crops (n, h, w, 3) uint8 of the given faces of ``rgb``."""
        align, margin = self.settings.align, self.settings.margin
        return crop_faces(rgb, faces, self.size_wh, align=align, margin=margin, resize=self.resize)
