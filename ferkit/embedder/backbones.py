"""Which backbones there are, and how one is opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ferkit.core.errors import DataError, SettingsMismatchError, WeightsError
from ferkit.core.fingerprint import file_sha256
from ferkit.embedder.hog import HogEmbedder
from ferkit.embedder.network import NetworkEmbedder, input_format, open_session
from ferkit.embedder.settings import Channels, EmbedderSettings, Resize


class Embedder(Protocol):
    """An open backbone: a :class:`ferkit.core.protocols.Embedder` that knows what it was made of."""

    name: str
    dim: int
    input_size_wh: tuple[int, int]
    fingerprint: str
    settings: EmbedderSettings
    resize: Resize
    weights_path: Path | None
    licence: str

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, H, W, 3) of any size."""
        ...


@dataclass(frozen=True)
class InputOptions:
    """How a network of one's own wants its input; None takes what its graph says, or the usual.

    Attributes:
        size_wh: pixels; only for graphs that take any size.
        channels: ``rgb``, ``bgr`` or ``gray``; usually ``rgb``, for one channel ``gray``.
        scale, offset: the input is ``pixel * scale + offset``; usually the raw pixels, 0..255.
    """

    size_wh: tuple[int, int] | None = None
    channels: Channels | None = None
    scale: float | tuple[float, ...] | None = None
    offset: float | tuple[float, ...] | None = None


def open_embedder(
    spec: str,
    *,
    weights: Path | None = None,
    tap: str | None = None,
    pool_hw: tuple[int, int] | None = None,
    options: InputOptions | None = None,
    threads: int | None = None,
) -> Embedder:
    """Open a backbone.

    Args:
        spec: a name of :func:`known_backbones`, or ``onnx:FILE``.
        weights: a file to take instead of the one that would be fetched.
        tap: ``stage1`` …, or the name of a tensor inside the network; None for its own output.
        pool_hw: rows and columns that a spatial tap is averaged to; None for at most 7x7.
        options: the input of an ``onnx:`` network.
        threads: how many work on one batch; None takes every core.

    Raises:
        DataError: no such backbone, or options that it does not take.
        WeightsError: the weights are missing, unreachable or not usable.
    """
    if spec.startswith("onnx:"):
        return _open_file(Path(spec.removeprefix("onnx:")), options or InputOptions(), threads)
    if spec == "raw":
        return HogEmbedder(EmbedderSettings("raw", None, (64, 64), channels="gray"))
    raise DataError(f"no backbone is called {spec!r}; known: raw, onnx:FILE")


def load_embedder(
    settings: EmbedderSettings, *, weights: Path | None = None, threads: int | None = None
) -> Embedder:
    """Open the backbone that ``settings`` were made with, exactly as it was.

    Args:
        settings: of an earlier embedder.
        weights: where its weights are; needed for ``onnx:`` networks.
        threads: how many work on one batch; None takes every core.

    Raises:
        SettingsMismatchError: the weights are not the ones that the settings name.
        WeightsError: the weights are missing, unreachable or not usable.
    """
    if settings.backbone == "raw":
        return HogEmbedder(settings)
    if weights is None:
        raise WeightsError(f"expected the file of {settings.backbone}, found none; give it with --weights")
    _check_same_weights(settings, weights)
    return NetworkEmbedder(settings, open_session(weights, weights.name, threads), weights, "unknown")


def _open_file(path: Path, options: InputOptions, threads: int | None) -> Embedder:
    if not path.is_file():
        raise WeightsError(f"expected an ONNX file at {path}, found none; check the name after 'onnx:'")
    session = open_session(path, path.name, threads)
    found = input_format(session)
    size_wh = options.size_wh or found.size_wh
    if size_wh is None:
        raise WeightsError(f"{path.name} takes pictures of any size; say which with --input-size")
    settings = EmbedderSettings(
        f"onnx:{path.name}",
        file_sha256(path),
        size_wh,
        options.channels or ("gray" if found.n_channels == 1 else "rgb"),
        1.0 if options.scale is None else options.scale,
        0.0 if options.offset is None else options.offset,
    )
    return NetworkEmbedder(settings, session, path, "unknown: ask whoever gave you the file")


def _check_same_weights(settings: EmbedderSettings, path: Path) -> None:
    found = file_sha256(path)
    if found != settings.weights_sha256:
        raise SettingsMismatchError(
            f"expected the weights of {settings.backbone} with SHA-256 {settings.weights_sha256}, found {path} "
            f"with {found}; give the file that the embeddings were made with (--weights) or embed again"
        )
