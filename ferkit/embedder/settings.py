"""What an embedding depends on, and a store of them."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np

from ferkit.core.errors import DataError, SettingsMismatchError
from ferkit.core.files import LATER, fingerprint, settings_from
from ferkit.core.types import check_crops
from ferkit.faces.cropping import CropSettings, fit_to

FORMAT = 1
"""Of the store; a later one is refused."""

Channels = Literal["rgb", "bgr", "gray"]
Resize = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class EmbedderSettings:
    """Everything that changes a number of an embedding; plain values, see
    :func:`ferkit.core.files.settings_dict`.

    Attributes:
        backbone: a name of the registry (``arcface``), or ``onnx:<file name>`` for anybody's network.
        weights_sha256: of the weights file; None for backbones without weights.
        input_size_wh: what the network takes, in pixels.
        channels: colour order of the input.
        scale, offset: the input is ``pixel * scale + offset``, pixels 0..255; one number, or one per channel
            in the order of ``channels``.
        resize: how a crop of another size becomes the input: ``stretch`` fills it, ``letterbox`` keeps the
            proportions and pads with black.
        l2_normalize: whether the embedding is divided by its length.
        layer: name of the tensor that the embedding is taken from, or of several with + between; None for the network's
            own output.
        pool_hw: rows and columns that a spatial layer is averaged to, of several at most; None without one.
        engine, precision: see :class:`ferkit.embedder.engines.Engine`.
        ranges: for int8: the least and the largest value of each tensor, on the images it was calibrated on.

    Raises:
        DataError: a value outside what is said above.
    """

    backbone: str
    weights_sha256: str | None
    input_size_wh: tuple[int, int]
    channels: Channels = "rgb"
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    resize: Resize = "stretch"
    l2_normalize: bool = False
    layer: str | None = field(default=None, metadata={"key": "tap"})
    pool_hw: tuple[int, int] | None = None
    engine: str = field(default="onnxruntime", metadata=LATER)
    precision: str = field(default="float32", metadata=LATER)
    ranges: tuple[tuple[str, float, float], ...] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            value = getattr(self, name)
            object.__setattr__(self, name, _numbers(name, value, 1 if self.channels == "gray" else 3))
        for name in ("input_size_wh", "pool_hw"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _size(name, value))
        if self.ranges is not None:
            ranges = tuple((str(name), float(low), float(high)) for name, low, high in self.ranges)
            object.__setattr__(self, "ranges", ranges)
        for name, kind in (("channels", Channels), ("resize", Resize)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise DataError(f"expected {name} to be one of {', '.join(get_args(kind))}, found {value!r}")

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "EmbedderSettings":
        """The settings that :func:`~ferkit.core.files.settings_dict` made ``values`` from, also after JSON.

        Raises:
            SettingsMismatchError: a setting is missing or unknown, as in files of a newer ferkit.
            DataError: a value is not usable.
        """
        fields = {f.metadata.get("key", f.name): f for f in dataclasses.fields(EmbedderSettings)}
        unknown = sorted(values.keys() - fields.keys())
        required = (name for name, field in fields.items() if field.default is dataclasses.MISSING)
        missing = sorted(name for name in required if name not in values)
        if unknown or missing:
            found = f"unknown {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
            raise SettingsMismatchError(
                f"expected the embedder settings {', '.join(fields)}, found {found}; update ferkit"
            )
        return settings_from(EmbedderSettings, values)


class Embedder(ABC):
    """An open backbone, which turns face crops into vectors and knows what it was made of.

    Attributes:
        settings: everything that its numbers depend on.
        fingerprint: their digest.
        name, input_size_wh, resize: of the settings.
        dim: numbers an embedding.
        weights_path: the file of its weights; None without.
        licence: of these weights.
        at_once: how many batches are best embedded at a time, each by a thread of its own.
        batch_size: images that are best embedded together.
        cosine: of some embeddings with those of ONNX Runtime in float32; None where that made them, or is not known.
    """

    at_once = 1
    batch_size = 32
    cosine: float | None = None

    def __init__(
        self,
        settings: EmbedderSettings,
        dim: int,
        weights_path: Path | None = None,
        licence: str = "no weights",
    ) -> None:
        self.settings = settings
        self.fingerprint = fingerprint(settings)
        self.name = settings.backbone
        self.input_size_wh = settings.input_size_wh
        self.resize = settings.resize
        self.dim = dim
        self.weights_path = weights_path
        self.licence = licence

    @abstractmethod
    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, H, W, 3) of any size."""


@dataclass(frozen=True)
class StoreSettings:
    """What every number in a store depends on; its digest is the store's fingerprint."""

    embedder: EmbedderSettings
    faces: CropSettings
    dtype: Literal["float32", "float16"] = "float32"
    format: int = FORMAT

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "StoreSettings":
        """The settings that ``asdict`` made ``values`` from. Raises KeyError or TypeError for others."""
        embedder = EmbedderSettings.from_dict(values["embedder"])
        faces = settings_from(CropSettings, values["faces"])
        return StoreSettings(embedder, faces, values["dtype"], values["format"])


def _numbers(name: str, value: Any, n_channels: int) -> float | tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if len(numbers) not in (1, n_channels) or not all(isinstance(number, (int, float)) for number in numbers):
        raise DataError(f"expected {name} to be one number or {n_channels}, one per channel, found {value!r}")
    return float(numbers[0]) if len(numbers) == 1 else tuple(map(float, numbers))


def _size(name: str, value: Any) -> tuple[int, int]:
    size = tuple(value)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise DataError(f"expected {name} to be two whole numbers above 0, found {value!r}")
    return size


def resize_crops(crops: np.ndarray, size_wh: tuple[int, int], how: Resize = "stretch") -> np.ndarray:
    """Fit crops uint8 (n, H, W, 3) to ``size_wh``, see :func:`ferkit.faces.cropping.fit_to`.

    Raises:
        DataError: another shape or type, or crops without pixels.
    """
    height, width = check_crops(crops).shape[1:3]
    if (width, height) == tuple(size_wh):
        return crops
    if not (height and width):
        raise DataError(f"expected crops with at least one pixel, found {width}x{height}")
    resized = np.empty((len(crops), size_wh[1], size_wh[0], 3), np.uint8)
    for target, crop in zip(resized, crops, strict=True):
        target[:] = fit_to(crop, size_wh, how)
    return resized


def network_input(crops: np.ndarray, settings: EmbedderSettings, channels_first: bool) -> np.ndarray:
    """What the network takes for crops of its input size.

    Args:
        crops: uint8 RGB (n, height, width, 3).
        settings: colour order, scale and offset.
        channels_first: whether the network takes (n, c, height, width) instead of (n, height, width, c).

    Returns:
        float32, contiguous.
    """
    if settings.channels == "gray":
        pixels = to_gray(crops)[..., None]
    else:
        pixels = crops if settings.channels == "rgb" else crops[..., ::-1]
    scale, offset = (_per_channel(v, channels_first) for v in (settings.scale, settings.offset))
    if channels_first:
        pixels = pixels.transpose(0, 3, 1, 2)
    values = np.empty(pixels.shape, np.float32)
    np.multiply(pixels, scale, out=values, casting="unsafe")
    if np.any(offset):
        values += offset
    return values


def to_gray(crops: np.ndarray) -> np.ndarray:
    """uint8 (n, height, width) of uint8 RGB (n, height, width, 3), weighted as in ITU-R BT.601."""
    n, height, width, _ = crops.shape
    if not n:
        return np.empty((0, height, width), np.uint8)
    tall = np.ascontiguousarray(crops).reshape(n * height, width, 3)
    return cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY).reshape(n, height, width)


def _per_channel(value: float | Iterable[float], channels_first: bool) -> np.ndarray:
    array = np.asarray(value, np.float32)
    return array.reshape(-1, 1, 1) if channels_first and array.ndim else array
