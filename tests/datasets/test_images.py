"""Image files of every kind, whole and damaged, made on the spot."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ferkit.core.errors import ImageError
from ferkit.datasets.images import decode_image, read_header

# What Pillow remarks about odd metadata; the command switches it off.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

FORMATS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    """A soft image that survives lossy formats: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 90)], axis=2).astype(np.uint8)


def encoded(image_: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    image = image_ if isinstance(image_, Image.Image) else Image.fromarray(image_)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file written by hand, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_rgb_bytes_in_the_right_order(kind: str):
    rgb = decode_image(encoded(smooth(), kind))
    assert rgb.shape == (40, 60, 3)
    assert rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - smooth()).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_the_rotation_in_exif_is_applied(kind: str, orientation: int, turn: int):
    image = Image.fromarray(smooth())
    exif = image.getexif()
    exif[0x0112] = orientation
    rgb = decode_image(encoded(image, kind, exif=exif))
    expected = np.rot90(smooth(), turn)
    assert rgb.shape == expected.shape
    assert np.abs(rgb.astype(int) - expected).mean() < 5


def test_damaged_exif_costs_no_image():
    content = encoded(smooth(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00\x01garbage")
    assert decode_image(content).shape == (40, 60, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_gray_becomes_three_equal_channels(kind: str):
    gray = smooth()[:, :, 0]
    rgb = decode_image(encoded(gray, kind))
    assert np.array_equal(rgb[..., 0], rgb[..., 1])
    assert np.array_equal(rgb[..., 0], rgb[..., 2])
    assert np.abs(rgb[..., 0].astype(int) - gray).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_to_eight(kind: str):
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(16, 64)
    rgb = decode_image(encoded(Image.fromarray(deep), kind))
    assert np.array_equal(rgb[..., 1], deep >> 8)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_fewer_bits_stored_in_sixteen_are_not_black(bits: int):
    deep = np.linspace(0, 2**bits - 1, 256, dtype=np.uint16)[None]
    assert decode_image(encoded(Image.fromarray(deep), "PNG"))[0, :, 1].tolist() == list(range(256))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_an_opened_image_is_taken_as_its_file_is(mode: str):
    gray = Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(16, 64))
    image = (
        gray.convert(mode) if mode in ("I", "F") else gray if mode == "I;16" else Image.fromarray(smooth())
    )
    image = image if image.mode == mode else image.convert(mode)
    kind = "PNG" if mode == "P" else "TIFF"
    exif = image.getexif()
    exif[0x0112] = 6
    opened = Image.open(io.BytesIO(content := encoded(image, kind, exif=exif)))
    assert np.array_equal(decode_image(opened), decode_image(content))
    assert opened.load() is not None, "it stays open"


def test_sixteen_bit_gray_with_the_high_byte_first_is_scaled_too():
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(16, 64)
    image = Image.frombytes("I;16B", (64, 16), deep.astype(">u2").tobytes())
    assert np.array_equal(decode_image(encoded(image, "TIFF"))[..., 2], deep >> 8)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bit_colour_and_alpha_are_scaled_to_eight(colour: int, channels: int):
    value = np.array([0x1234, 0x8001, 0xC0FF, 0xFFFF], ">u2")[-channels:]
    if colour == 2:
        value = np.array([0x1234, 0x8001, 0xC0FF], ">u2")
    rgb = decode_image(png(1, 1, 16, colour, b"\0" + value.tobytes()))
    expected = {2: (0x12, 0x80, 0xC0), 6: (0x12, 0x80, 0xC0), 4: (0xC0,) * 3}[colour]
    assert rgb[0, 0].tolist() == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, 0.5, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 127, 255]),
        (np.array([[-5, 1, 0]], np.int32), [0, 5, 4]),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_32_bit_tiffs_are_brought_into_the_range_of_bytes(pixels: np.ndarray, expected: list[int]):
    assert decode_image(encoded(Image.fromarray(pixels), "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("PA", "PNG"), ("RGBA", "TIFF"), ("LA", "TIFF"), ("RGBA", "WEBP")],
)
def test_transparency_is_laid_on_white(mode: str, kind: str):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0, 3], rgba[:, 1, 3] = 255, 128
    image = Image.fromarray(rgba)
    options = {"lossless": True} if kind == "WEBP" else {}
    rgb = decode_image(encoded(image.convert(mode) if mode != "PA" else image.quantize(), kind, **options))
    assert rgb[0, :, 0].tolist() == pytest.approx([0, 127, 255], abs=1)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_transparent_colour_of_a_palette_is_laid_on_white(transparency: int | bytes):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    kinds = ["PNG"] if isinstance(transparency, bytes) else ["PNG", "GIF"]
    for kind in kinds:
        rgb = decode_image(encoded(image, kind, transparency=transparency))
        assert rgb[0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    rgb = decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert rgb.shape == (10, 20, 3)
    assert np.all(rgb == (255, 0, 0))


def test_a_phone_s_image_of_several_in_one_file_is_its_first():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    rgb = decode_image(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert rgb[16, 16, 0] > 240
    assert rgb[16, 16, 2] < 20


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str):
    image = Image.fromarray(smooth()).convert("CMYK")
    rgb = decode_image(encoded(image, kind))
    assert np.abs(rgb.astype(int) - smooth()).mean() < 6


def test_black_and_white_becomes_rgb():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decode_image(encoded(image, "PNG"))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"dear diary\n" * 50, "not an image of a known format"),
        (b"\0" * 5000, "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n", "not an image of a known format"),
    ],
)
def test_what_is_no_image_says_so(content: bytes, reason: str):
    with pytest.raises(ImageError, match=reason):
        decode_image(content)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_image_that_breaks_off_is_refused(kind: str):
    noise = np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8)
    content = encoded(noise, kind)
    with pytest.raises(ImageError):
        decode_image(content[: len(content) * 6 // 10])


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_anywhere_gives_a_image_or_an_image_error_never_another(kind: str):
    rng = np.random.default_rng(1)
    content = encoded(smooth(24, 24), kind)
    outcomes = set()
    for _ in range(250):
        damaged = bytearray(content)
        for position in rng.integers(0, len(damaged), 4):
            damaged[position] = rng.integers(256)
        damaged = damaged[: rng.integers(len(damaged) // 2, len(damaged) + 1)]
        try:
            outcomes.add(decode_image(bytes(damaged)).dtype)
        except ImageError as error:
            outcomes.add(type(error))
    assert ImageError in outcomes


def bomb_png(side: int) -> bytes:
    return png(side, side, 8, 2, b"\0" * 1000)


def bomb_bmp(side: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)


def bomb_gif(side: int) -> bytes:
    small = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    small[6:10] = struct.pack("<HH", side, side)
    return bytes(small)


def bomb_jpeg(side: int) -> bytes:
    small = bytearray(encoded(smooth(), "JPEG"))
    frame = small.index(b"\xff\xc0")
    small[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(small)


def bomb_tiff(side: int) -> bytes:
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4


@pytest.mark.parametrize("bomb", [bomb_png, bomb_bmp, bomb_gif, bomb_jpeg, bomb_tiff])
@pytest.mark.parametrize("side", [10_500, 30_000])
def test_a_header_that_promises_a_giant_is_refused_unread(bomb: Callable[[int], bytes], side: int):
    content = bomb(side)
    tracemalloc.start()
    with pytest.raises(ImageError, match="100 million"):
        decode_image(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (np.array([[0, 100, 255]], np.uint16), [0, 100, 255]),
        (np.array([[0.0, 0.5, np.inf, np.nan]], np.float32), [0, 127, 127, 0]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
    ],
)
def test_the_range_of_a_tiff_is_seen_in_its_values(stored: np.ndarray, read: list[int]):
    Image.fromarray(stored).save(file := io.BytesIO(), "TIFF")
    assert decode_image(file.getvalue())[0, :, 0].tolist() == read


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "WEBP"])
def test_the_header_says_the_size_that_the_image_has(kind: str, orientation: int):
    (exif := Image.Exif())[274] = orientation
    Image.new("RGB", (20, 10)).save(file := io.BytesIO(), kind, exif=exif)
    header = read_header(file.getvalue())
    height, width = decode_image(file.getvalue()).shape[:2]
    assert (header.size_wh, header.stored_wh) == ((width, height), (20, 10))
