"""Image files to pixels: strict about damage, tolerant about formats."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from ferkit.core.errors import ImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
"""File names that count as images, in lower case."""

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
# Nothing else is tried: a PostScript file called .jpg would start Ghostscript.

MAX_PIXELS = 100_000_000
"""Larger images are refused: no camera makes them, and decoding one would take gigabytes."""


_LARGE = 1_000_000
"""Pixels from which OpenCV decodes JPEGs faster than Pillow by enough to matter."""

_END_OF_JPEG = b"\xff\xd9"
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before it is decoded.

    Attributes:
        size_wh: width and height of what :func:`decode_image` gives.
        stored_wh: width and height as stored, before the EXIF rotation.
        orientation: EXIF's, 1..8; 1 is upright.
        format: ``JPEG``, ``PNG``, …
        mode: Pillow's: ``L`` gray, ``RGB``, ``RGBA``, …
    """

    size_wh: tuple[int, int]
    stored_wh: tuple[int, int]
    orientation: int
    format: str
    mode: str


def read_header(content: bytes | BinaryIO) -> ImageHeader:
    """Size, orientation and kind of an image file, without decoding it; of an open file only the header is read.

    Raises:
        ImageError: empty, too large, or no image of a known kind.
    """
    with _opened(content) as image:
        orientation = _orientation(image)
        width, height = image.size
        size_wh = (height, width) if orientation >= 5 else (width, height)
        return ImageHeader(size_wh, (width, height), orientation, image.format or "", image.mode)


def decode_image(content: bytes, reduce: int = 1) -> np.ndarray:
    """Decode a JPEG, PNG, BMP, TIFF, WebP or GIF file.

    The EXIF rotation is applied; gray becomes three equal channels; 16 bits are scaled to 8; transparency is laid
    on white; of an animation the first frame is taken.

    Args:
        content: the file's bytes.
        reduce: 1, 2, 4 or 8: a JPEG is decoded at this fraction of its size, which takes less time; other formats
            are decoded whole.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ImageError: empty, truncated, too large, or no image of a known kind.
    """
    with _opened(content) as image:
        if _is_large_jpeg(image) and content.endswith(_END_OF_JPEG):
            # The same pixels in half the time, for want of two copies; but a truncated file would pass for a whole one.
            flags = _REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION
            bgr = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
            if bgr is not None:
                return _turned(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), _orientation(image))
        if reduce > 1:
            image.draft(None, (max(1, image.width // reduce), max(1, image.height // reduce)))
        image.load()
        return np.asarray(_to_rgb(_upright(image)))


@contextlib.contextmanager
def _opened(content: bytes | BinaryIO) -> Iterator[Image.Image]:
    """The image in a file or its bytes, and one kind of error for all that may be wrong with it."""
    if not content:
        raise ImageError("the file is empty")
    try:
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{image.width}x{image.height} pixels are more than {MAX_PIXELS // 10**6} million"
                )
            yield image
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError("the content is not an image of a known format") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:
        # Pillow's decoders raise whatever a damaged file leads them into: struct.error, KeyError, SyntaxError, …
        raise ImageError(f"the image is damaged: {error or type(error).__name__}") from None


def _is_large_jpeg(image: Image.Image) -> bool:
    return image.format == "JPEG" and image.mode in ("RGB", "L") and image.width * image.height >= _LARGE


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1..8."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata says nothing about the pixels, which are whole
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _turned(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as they are to be seen."""
    if orientation >= 5:
        rgb = cv2.transpose(rgb)
    mirrored, upside_down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    if mirrored or upside_down:
        rgb = cv2.flip(rgb, -1 if mirrored and upside_down else int(mirrored))
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata says nothing about the pixels, which are whole
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretch_to_bytes(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _stretch_to_bytes(gray: np.ndarray) -> np.ndarray:
    """32-bit integers and floats say nothing of their range: take 0..1, 0..255 or 0..65535, what first fits."""
    gray = np.nan_to_num(gray)
    top = next((top for top in (1.0, 255.0, 65535.0) if gray.max() <= top), float(gray.max()))
    if np.issubdtype(gray.dtype, np.integer) and top == 1.0:
        top = 255.0
    return np.clip(gray * (255.0 / top), 0, 255).astype(np.uint8)
