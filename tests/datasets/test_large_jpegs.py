"""Large JPEGs take another decoder than small ones: the pixels are the same, the strictness too."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from ferkit.core.errors import ImageError
from ferkit.datasets.images import decode_image, read_header


def jpeg(mode: str = "RGB", orientation: int = 1, **how: object) -> bytes:
    y, x = np.mgrid[:1003, :1201]
    rgb = np.stack([x % 256, y % 256, (x * y // 400) % 256], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(buffer, "JPEG", exif=exif, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("reduce", [1, 4])
def test_pixels_are_pillow_s(orientation: int, reduce: int):
    content = jpeg(orientation=orientation, quality=80)
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (image.width // reduce, image.height // reduce))
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_image(content, reduce), expected)
    header = read_header(content)
    assert header.stored_wh == (1201, 1003)
    assert header.size_wh == ((1201, 1003) if orientation < 5 else (1003, 1201))
    assert decode_image(content).shape[1::-1] == header.size_wh


@pytest.mark.parametrize(
    ("mode", "how"), [("L", {}), ("RGB", {"progressive": True, "subsampling": 0}), ("CMYK", {})]
)
def test_other_kinds_of_jpeg(mode: str, how: dict[str, object]):
    content = jpeg(mode, **how)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode_image(content), np.asarray(image.convert("RGB")))


def test_a_truncated_one_is_none():
    content = jpeg()
    for length in (len(content) * 3 // 4, len(content) // 2):
        with pytest.raises(ImageError, match="damaged"):
            decode_image(content[:length])


@pytest.mark.parametrize(
    "exif", [b"\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0"]
)
def test_nonsense_in_the_metadata_says_nothing_about_the_pixels(exif: bytes):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "JPEG", exif=exif)
    assert read_header(buffer.getvalue()).size_wh == (40, 30)
    assert decode_image(buffer.getvalue()).shape == (30, 40, 3)
