"""Which backbones there are, and how one is opened."""

import functools
import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np

from ferkit.core.errors import DataError, SettingsMismatchError, WeightsError
from ferkit.core.fingerprint import file_sha256
from ferkit.embedder.graph import load_graph
from ferkit.embedder.hog import HogEmbedder
from ferkit.embedder.landmarks import LandmarkEmbedder
from ferkit.embedder.network import input_format, open_network
from ferkit.embedder.settings import Channels, EmbedderSettings, Resize
from ferkit.zoo.fetch import weights_dir, weights_file
from ferkit.zoo.registry import entry_of

_OF_A_FILE = "onnx:"
_MEDIAPIPE = frozenset({"mediapipe-landmarks", "mediapipe-blendshapes"})
_FILE_LICENCE = "unknown; ask where the file comes from"


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


@dataclass(frozen=True)
class Backbone:
    """A row of the registry.

    Attributes:
        weights: what :mod:`ferkit.zoo` calls its file, None if it has none.
        settings: without the digest of the weights.
    """

    weights: str | None
    settings: EmbedderSettings


@functools.cache
def known_backbones() -> dict[str, Backbone]:
    """Every backbone by its name; ``onnx:FILE`` is one more, for any network."""
    text = resources.files("ferkit.embedder").joinpath("backbones.toml").read_text(encoding="utf-8")
    backbones = {}
    for name, row in tomllib.loads(text).items():
        weights = row.pop("weights", None)
        backbones[name] = Backbone(weights, EmbedderSettings(backbone=name, weights_sha256=None, **row))
    return backbones


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
        tap: ``stage1`` …, or the name of a tensor inside the network, or several with + between; None for its own
            output.
        pool_hw: rows and columns that a spatial tap is averaged to; None for at most 7x7, of several 4x4.
        options: the input of an ``onnx:`` network.
        threads: how many work on one batch; None takes every core.

    Raises:
        DataError: no such backbone or tap, or options that it does not take.
        WeightsError: the weights are missing, unreachable or not usable.
    """
    if spec.startswith(_OF_A_FILE):
        path = weights or Path(spec.removeprefix(_OF_A_FILE))
        settings, licence = _file_settings(path, options or InputOptions()), _FILE_LICENCE
    else:
        if options is not None and options != InputOptions():
            raise DataError(
                f"{spec} has its own input; --input-size, --channels, --scale, --offset are for onnx:FILE"
            )
        backbone = _backbone(spec)
        settings = backbone.settings
        if backbone.weights is None:
            path, licence = None, "no weights"
        else:
            path = weights_file(backbone.weights, given=weights)
            licence = entry_of(backbone.weights).licence
    digest = None if path is None else file_sha256(path)
    settings = replace(settings, weights_sha256=digest, tap=tap, pool_hw=pool_hw)
    return _open(settings, path, licence, threads)


def load_embedder(
    settings: EmbedderSettings, *, weights: Path | None = None, threads: int | None = None
) -> Embedder:
    """Open the backbone that ``settings`` were made with, exactly as it was.

    Args:
        settings: of an earlier embedder.
        weights: the file of its weights; None looks where :func:`ferkit.zoo.fetch.weights_dir` keeps them,
            and fetches those that can be fetched.
        threads: how many work on one batch; None takes every core.

    Raises:
        SettingsMismatchError: the weights are not the ones that the settings name.
        WeightsError: the weights are missing, unreachable or not usable.
        DataError: no such backbone.
    """
    path: Path | None
    if settings.backbone.startswith(_OF_A_FILE):
        path, licence = weights or weights_dir() / settings.backbone.removeprefix(_OF_A_FILE), _FILE_LICENCE
        if not path.is_file():
            raise WeightsError(f"expected {path.name} at {path}, found none; say where it is with --weights")
    else:
        name = _backbone(settings.backbone).weights
        if name is None:
            return _open(settings, None, "no weights", threads)
        path, licence = weights_file(name, given=weights), entry_of(name).licence
    found = file_sha256(path)
    if found != settings.weights_sha256:
        raise SettingsMismatchError(
            f"expected the weights of {settings.backbone} with SHA-256 {settings.weights_sha256}, "
            f"found {path} with {found}; give the file that it was made with (--weights) or embed again"
        )
    return _open(settings, path, licence, threads)


def _open(settings: EmbedderSettings, path: Path | None, licence: str, threads: int | None) -> Embedder:
    if path is not None and settings.backbone not in _MEDIAPIPE:
        return open_network(path, settings, licence, threads)
    if settings.tap is not None or settings.pool_hw is not None:
        raise DataError(f"{settings.backbone} is no network to look into; leave --tap and --pool out")
    return HogEmbedder(settings) if path is None else LandmarkEmbedder(settings, path, licence)


def _file_settings(path: Path, options: InputOptions) -> EmbedderSettings:
    found = input_format(load_graph(path))
    size_wh = options.size_wh or found.size_wh
    if size_wh is None:
        raise WeightsError(f"{path.name} takes pictures of any size; say which with --input-size")
    return EmbedderSettings(
        f"{_OF_A_FILE}{path.name}",
        None,
        size_wh,
        options.channels or ("gray" if found.n_channels == 1 else "rgb"),
        1.0 if options.scale is None else options.scale,
        0.0 if options.offset is None else options.offset,
    )


def _backbone(name: str) -> Backbone:
    try:
        return known_backbones()[name]
    except KeyError:
        known = ", ".join(known_backbones())
        raise DataError(f"no backbone is called {name!r}; known: {known}, onnx:FILE") from None
