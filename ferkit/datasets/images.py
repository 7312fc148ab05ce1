"""Image files to pixels: strict about damage, tolerant about formats."""

import contextlib
import functools
import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from ferkit.core.errors import ImageError

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .gif .jp2 .avif .pgm .ppm"
SUFFIXES = frozenset(_SUFFIXES.split())
"""File names that count as images, in lower case; :data:`HEIF_SUFFIXES` do where a library reads them."""

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
HEIF_REMEDY = "pip install 'ferkit[heif]' reads HEIC"

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "AVIF", "PPM")
# Nothing else is tried: a PostScript file called .jpg would start Ghostscript.

_NO_IMAGES = (
    ".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .html .htm .css .js .py .ipynb .sh .log .pdf .doc "
    ".docx .xls .xlsx .ppt .pptx .hwp .npy .npz .pkl .pickle .h5 .hdf5 .keras .onnx .pt .pth .mat .parquet .db "
    ".sqlite .zip .tar .gz .tgz .bz2 .xz .7z .rar .egg .alz .mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .flv .3gp "
    ".ts .mp3 .wav .m4a .flac .ogg .svg .psd .tmp .part .lnk .url .exe"
)
OTHER_SUFFIXES = frozenset(_NO_IMAGES.split())
"""What is no image by its name, so that nobody has to open it."""

_TO_DO = {
    "unpack it": ".7z .rar .egg .alz .zst .tzst .lz4 .zip .tar .tgz .gz",
    "join the pieces and unpack them": ".z01 .001 .part0 .part1",
    "give the table itself, if it has the labels": ".csv .tsv",
    "save it as JPEG or PNG": ".jxl .psd .svg .dng .cr2 .nef .arw .tga",
}
REMEDIES = {suffix: remedy for remedy, suffixes in _TO_DO.items() for suffix in suffixes.split()}
"""What makes readable what is not, by suffix."""


HEAD_BYTES = 32
"""So much of a file's beginning tells what it is."""

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


def reads_heif() -> bool:
    """Whether HEIC images can be read: the extra ``heif`` is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def kind_of(head: bytes) -> str | None:
    """``JPEG``, ``PNG``, …, by the first :data:`HEAD_BYTES` of a file; None if it is no image of these."""
    if head[4:8] == b"ftyp":
        brands = {head[i : i + 4] for i in range(8, len(head) - 3, 4)} - {head[12:16]}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"} else None
    if head[:2] == b"BM":  # two letters that a text may begin with; a size of the header follows
        return "BMP" if head[14:18] in {bytes([n, 0, 0, 0]) for n in (12, 40, 52, 56, 64, 108, 124)} else None
    if head[:4] == b"RIFF":
        return "WEBP" if head[8:12] == b"WEBP" else None
    return next((kind for start, kind in _MAGIC.items() if head.startswith(start)), None)


_MAGIC = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF",
    b"P5\n": "PPM", b"P6\n": "PPM",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\0\0\0\x0cjP  ": "JPEG2000", b"\xff\x4f\xff\x51": "JPEG2000",
}  # fmt: skip


def why_no_image(name: str, read_head: Callable[[], bytes]) -> str | None:
    """Why a file is not taken as an image, in words that all files of that kind share; None if it is taken.

    Known suffixes decide unopened; others are decided by the content.

    Args:
        name: of the file.
        read_head: gives the first :data:`HEAD_BYTES`, may raise OSError; only called for unknown suffixes.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix in SUFFIXES:
        return None
    if suffix in HEIF_SUFFIXES:
        return None if reads_heif() else f"{suffix} ({HEIF_REMEDY})"
    if suffix not in OTHER_SUFFIXES:
        try:
            kind = kind_of(read_head())
        except OSError as error:
            return f"cannot be opened ({error.strerror or error})"
        if kind == "HEIF" and not reads_heif():
            return f"HEIC ({HEIF_REMEDY})"
        if kind is not None:
            return None
    return f"{suffix} ({REMEDIES[suffix]})" if suffix in REMEDIES else suffix or "without suffix"


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
        sizes = image.size, image.size[::-1] if orientation >= 5 else image.size
        # Of a TIFF, Pillow says the size that it will have.
        size_wh, stored_wh = sizes if image.format == "TIFF" else sizes[::-1]
        return ImageHeader(size_wh, stored_wh, orientation, image.format or "", image.mode)


def decode_image(content: bytes | Image.Image, reduce: int = 1) -> np.ndarray:
    """Decode a JPEG, PNG, BMP, TIFF, WebP or GIF file, or take an image that Pillow has opened in the same way.

    The EXIF rotation is applied; gray becomes three equal channels; 16 bits, and 10 or 12 stored in 16, are scaled to
    8; transparency is laid on white; of an animation the first frame is taken.

    Args:
        content: the file's bytes, or the opened image.
        reduce: 1, 2, 4 or 8: a JPEG is decoded at this fraction of its size, which takes less time; other formats
            are decoded whole.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ImageError: empty, truncated, too large, or no image of a known kind.
    """
    with _opened(content) as image:
        if isinstance(content, bytes) and _is_large_jpeg(image) and content.endswith(_END_OF_JPEG):
            # The same pixels in half the time, for want of two copies; but a truncated file would pass for a whole one.
            flags = _REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION
            bgr = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
            if bgr is not None:
                return _turned(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), _orientation(image))
        if reduce > 1:
            image.draft(None, (max(1, image.width // reduce), max(1, image.height // reduce)))
        image.load()
        return np.asarray(_to_rgb(_upright(image)))


def resized(image: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """An image (H, W[, 3]) uint8 in another size, without regard to its proportions; averaged where it shrinks."""
    height, width = image.shape[:2]
    if (width, height) == size_wh:
        return image
    shrinks = width >= size_wh[0] and height >= size_wh[1]
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


@contextlib.contextmanager
def _opened(content: bytes | BinaryIO | Image.Image) -> Iterator[Image.Image]:
    """The image in a file or its bytes, and one kind of error for all that may be wrong with it."""
    if not content:
        raise ImageError("the file is empty")
    try:
        with contextlib.nullcontext(content) if isinstance(content, Image.Image) else _open(content) as image:
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
        # Pillow's decoders raise anything a damaged file leads them into: struct.error, KeyError, SyntaxError, …
        raise ImageError(f"the image is damaged: {error or type(error).__name__}") from None


def _open(content: bytes | BinaryIO) -> Image.Image:
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return Image.open(file, formats=_formats(kind_of(head)))


def _formats(kind: str | None) -> tuple[str, ...]:
    """What Pillow may try. Raises ImageError where a library is missing."""
    if kind != "HEIF":
        return _FORMATS
    if not reads_heif():
        raise ImageError(f"the content is HEIC, which needs a library of its own: {HEIF_REMEDY}")
    _register_heif()
    return ("HEIF",)


@functools.cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)


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
        gray = np.asarray(image)  # 8, 10 or 12 bits stored in 16 would all become black
        bits = next(bits for bits in (8, 10, 12, 16) if gray.max() < 1 << bits)
        return Image.fromarray((gray >> bits - 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretch_to_bytes(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _stretch_to_bytes(gray: np.ndarray) -> np.ndarray:
    """32-bit integers and floats say nothing of their range: take 0..1, 0..255 or 0..65535, what first fits.

    Values that are no numbers say nothing of it either. Where some are negative, the range begins at the lowest.
    """
    finite = gray[np.isfinite(gray)] if gray.dtype.kind == "f" else gray
    low, high = (min(0, finite.min()), finite.max()) if finite.size else (0, 0)
    gray = np.nan_to_num(gray, nan=low, posinf=high, neginf=low)
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top), float(high))
    if np.issubdtype(gray.dtype, np.integer) and top == 1.0:
        top = 255.0
    return np.clip((gray - float(low)) * (255.0 / (top - low)), 0, 255).astype(np.uint8)
