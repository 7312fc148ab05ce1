"""One picture, decoded in the size that is asked for and no larger."""

import cv2
import numpy as np

from ferkit.datasets.images import decode_image, read_header

Box = tuple[float, float, float, float]

REDUCTIONS = (8, 4, 2, 1)
"""What JPEG decoders can do on the way, by leaving out the finer half of each block's frequencies."""


class Picture:
    """The content of a picture file.

    Args:
        content: the file's bytes.

    Attributes:
        size_wh: width and height, upright, in pixels.
        stored_wh: the same before the EXIF rotation.

    Raises:
        ImageError: it is no picture.
    """

    def __init__(self, content: bytes) -> None:
        header = read_header(content)
        self.size_wh, self.stored_wh = header.size_wh, header.stored_wh
        self._orientation = header.orientation
        self._content = content
        self._decoded: dict[int, np.ndarray] = {}

    def at(self, reduce: int) -> np.ndarray:
        """The picture at ``1 / reduce`` of its size, upright: uint8 RGB (H, W, 3).

        Raises:
            ImageError: damaged.
        """
        if reduce not in self._decoded:
            rgb = self._decoded[1] if 1 in self._decoded else decode_image(self._content, reduce)
            height, width = (-(-side // reduce) for side in reversed(self.size_wh))
            if rgb.shape[0] > height or rgb.shape[1] > width:  # a format that is only decoded whole
                self._decoded[1] = rgb
                rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
            self._decoded[reduce] = rgb
        return self._decoded[reduce]

    def no_coarser(self, reduce: int) -> np.ndarray:
        """The picture at ``1 / reduce`` of its size or finer, whichever is at hand."""
        decoded = [have for have in self._decoded if have <= reduce]
        return self.at(max(decoded, default=reduce))

    def within(self, side: int, reduce: int) -> np.ndarray:
        """The picture with a longer side of ``side`` pixels, made from ``1 / reduce``; smaller ones as they are."""
        longest = max(self.size_wh)
        rgb = self.at(min(reduce, coarsest(longest, side)))
        if longest <= side:
            return rgb
        width, height = (max(1, round(value * side / longest)) for value in self.size_wh)
        return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)

    def upright(self, box: Box) -> Box:
        """A box in stored pixels as one in the upright picture."""
        width, height = self.stored_wh
        x0, y0, x1, y1 = box
        if self._orientation in (2, 3, 7, 8):  # the stored x axis runs backwards
            x0, x1 = width - x1, width - x0
        if self._orientation in (3, 4, 6, 7):  # the stored y axis runs backwards
            y0, y1 = height - y1, height - y0
        return (y0, x0, y1, x1) if self._orientation >= 5 else (x0, y0, x1, y1)


def coarsest(have: float, need: float) -> int:
    """The largest reduction that leaves ``need`` of ``have`` pixels; 1 if there are too few anyway."""
    return next((reduce for reduce in REDUCTIONS if have / reduce >= need), 1)
