"""Text on pictures, fast enough for every frame of a film: each text is drawn once and then blended."""

from collections import OrderedDict

import numpy as np

from ferkit.core.fonts import Font
from ferkit.inference.colors import RGB

_KEPT = 512


class TextPainter:
    """Draws lines of text with one font.

    Args:
        font: see :func:`ferkit.core.fonts.open_font`.
    """

    def __init__(self, font: Font) -> None:
        self._font = font
        self._masks: OrderedDict[str, np.ndarray] = OrderedDict()
        # Hangul and letters with descenders alike, so that all lines sit at one height.
        top, bottom = zip(*(font.getbbox(text)[1::2] for text in ("Ág|", "gjpqy")), strict=True)
        self._top = int(min(top))
        self.height = int(np.ceil(max(bottom))) - self._top

    def width(self, text: str) -> int:
        """Width of ``text`` in pixels."""
        return self._mask(text).shape[1]

    def draw(self, rgb: np.ndarray, text: str, xy: tuple[int, int], color: RGB, opacity: float = 1.0) -> None:
        """Draw into ``rgb`` (H, W, 3) uint8, the left upper corner at ``xy``; what is outside is cut off."""
        mask = self._mask(text)
        x, y = xy
        height, width = rgb.shape[:2]
        x0, y0, x1, y1 = max(0, x), max(0, y), min(width, x + mask.shape[1]), min(height, y + mask.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        part = rgb[y0:y1, x0:x1]
        alpha = mask[y0 - y : y1 - y, x0 - x : x1 - x, None] * np.float32(opacity)
        part[:] = part + alpha * (np.array(color, np.float32) - part)

    def _mask(self, text: str) -> np.ndarray:
        """float32 (height, width), 0..1."""
        if text in self._masks:
            self._masks.move_to_end(text)
            return self._masks[text]
        from PIL import Image, ImageDraw

        width = max(1, int(np.ceil(self._font.getlength(text))))
        image = Image.new("L", (width, self.height))
        ImageDraw.Draw(image).text((0, -self._top), text, fill=255, font=self._font)
        self._masks[text] = np.asarray(image, np.float32) / 255
        if len(self._masks) > _KEPT:
            self._masks.popitem(last=False)
        return self._masks[text]
