"""Pictures from outside: refused by their first bytes and their header before anything is decoded."""

import io

import numpy as np
from PIL import Image

from ferkit.core.errors import ImageError
from ferkit.datasets.images import decode_image
from ferkit.serving.errors import Refused

KINDS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}

MAX_SCANS = 100
"""A progressive JPEG repeats the work on all its pixels with each scan; encoders write about ten."""


def picture_kind(content: bytes) -> str | None:
    """What the first bytes say that it is; None for anything that is not taken."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for start, kind in KINDS.items() if content.startswith(start)), None)


def read_picture(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode a picture, uint8 RGB (H, W, 3).

    Raises:
        Refused: no picture of a known kind (415), too many pixels (413), or damaged (422).
    """
    kind = picture_kind(content)
    if kind is None:
        raise Refused(415, "unknown_kind", "Expected a JPEG, PNG, WebP, GIF or BMP picture.")
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise Refused(413, "too_many_pixels", _too_many(max_pixels)) from None
    except Exception:  # Pillow's readers raise whatever a damaged file leads them into
        raise Refused(422, "damaged", "The picture is damaged: its header cannot be read.") from None
    if width * height > max_pixels:
        raise Refused(413, "too_many_pixels", f"{width}x{height} pixels: {_too_many(max_pixels)}")
    if kind == "JPEG" and content.count(b"\xff\xda") > MAX_SCANS:
        raise Refused(422, "damaged", "The picture is damaged: a JPEG of more than a hundred scans.")
    try:
        return decode_image(content)
    except ImageError as error:
        raise Refused(422, "damaged", f"The picture cannot be read: {error}.") from None


def _too_many(max_pixels: int) -> str:
    return f"at most {max_pixels / 1e6:.3g} million pixels are taken; send a smaller picture."
