"""Open embedders by name: networks, HOG and facial landmarks; search the layer of a network that suits the images."""

import functools
import os
import time
import tomllib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.console import n_cores
from ferkit.core.errors import DataError, DependencyError, SettingsMismatchError, WeightsError
from ferkit.core.files import file_sha256
from ferkit.core.weights import entry_of, weights_dir, weights_file
from ferkit.embedder.engines import Engine, open_session, requested_engines
from ferkit.embedder.onnx_graph import cut, load_graph
from ferkit.embedder.onnx_network import (
    JOIN,
    LARGEST_JOINED_POOL,
    BatchRunner,
    Layer,
    NetworkEmbedder,
    engines_of,
    input_format,
    list_layers,
    open_network,
    pool_features,
)
from ferkit.embedder.settings import Channels, Embedder, EmbedderSettings, resize_crops, to_gray

_CELL = 8
_ORIENTATIONS = 8
_BLOCK = 2
_EPSILON = 1e-5


class HogEmbedder(Embedder):
    """Histograms of oriented gradients on gray crops (Dalal and Triggs 2005), the numbers of scikit-image's ``hog``.

    8 orientations, cells of 8x8 pixels, blocks of 2x2 cells: 1,568 numbers at 64x64 pixels.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        blocks_x, blocks_y = (side // _CELL - _BLOCK + 1 for side in settings.input_size_wh)
        super().__init__(settings, blocks_x * blocks_y * _BLOCK * _BLOCK * _ORIENTATIONS)
        self.at_once = n_cores()

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim), blocks L2-Hys-normalised, for uint8 RGB ``crops`` (n, H, W, 3) of any size."""
        cells = _cell_histograms(to_gray(resize_crops(crops, self.input_size_wh, self.resize)))
        blocks = np.lib.stride_tricks.sliding_window_view(cells, (_BLOCK, _BLOCK), axis=(1, 2))
        blocks = np.moveaxis(blocks, 3, -1)  # (n, rows, columns, block rows, block columns, orientations)
        clipped = np.minimum(_normalized(blocks), 0.2)
        return _normalized(clipped).reshape(len(crops), self.dim).astype(np.float32)


def _cell_histograms(gray: np.ndarray) -> np.ndarray:
    """float64 (n, rows, columns, orientations): mean length of the gradients of each direction in each cell."""
    pixels = gray.astype(np.float64)
    down, right = np.zeros_like(pixels), np.zeros_like(pixels)
    down[:, 1:-1] = pixels[:, 2:] - pixels[:, :-2]
    right[:, :, 1:-1] = pixels[:, :, 2:] - pixels[:, :, :-2]
    length = np.hypot(right, down)
    direction = (np.rad2deg(np.arctan2(down, right)) % 180).astype(np.float32)
    n, height, width = gray.shape
    rows, columns = height // _CELL, width // _CELL
    found = np.empty((n, rows, columns, _ORIENTATIONS))
    for i in range(_ORIENTATIONS):
        low, high = 180 / _ORIENTATIONS * i, 180 / _ORIENTATIONS * (i + 1)
        mine = np.where((direction >= low) & (direction < high), length, 0)
        mine = mine[:, : rows * _CELL, : columns * _CELL].reshape(n, rows, _CELL, columns, _CELL)
        found[..., i] = mine.mean(axis=(2, 4))
    return found


def _normalized(blocks: np.ndarray) -> np.ndarray:
    return blocks / np.sqrt((blocks**2).sum(axis=(3, 4, 5), keepdims=True) + _EPSILON**2)


N_LANDMARKS = 478
N_BLENDSHAPES = 52
_EYE_CORNERS = [33, 133], [362, 263]  # left and right eye as seen in the image


class LandmarkEmbedder(Embedder):
    """MediaPipe's 478 landmarks (1,434 numbers) or 52 blendshapes.

    Landmarks are centred on their mean, turned until the eyes are level, and scaled to a root mean square
    distance of 1 from the centre, so that neither place, roll nor size of the face is left in them. A crop in
    which no face is found gives a row of NaN.

    Raises:
        DependencyError: mediapipe is not installed.
        WeightsError: the file is no FaceLandmarker.
    """

    def __init__(self, settings: EmbedderSettings, weights_path: Path, licence: str) -> None:
        self._blendshapes = settings.backbone == "mediapipe-blendshapes"
        dim = N_BLENDSHAPES if self._blendshapes else N_LANDMARKS * 3
        super().__init__(settings, dim, weights_path, licence)
        self._landmarker = _open_landmarker(weights_path, self._blendshapes)
        weakref.finalize(self, _forget, self._landmarker)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, H, W, 3) of any size; NaN where no face is found.

        Raises:
            DataError: crops of another shape or type.
        """
        import mediapipe

        crops = resize_crops(crops, self.input_size_wh, self.resize)
        features = np.full((len(crops), self.dim), np.nan, np.float32)
        for row, crop in zip(features, crops, strict=True):
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(crop))
            found = self._landmarker.detect(image)
            if found.face_landmarks:
                row[:] = self._features(found)
        return features

    def _features(self, found: Any) -> np.ndarray | list[float]:
        if self._blendshapes:
            return [category.score for category in found.face_blendshapes[0]]
        width, height = self.input_size_wh
        points = np.array([(p.x, p.y, p.z) for p in found.face_landmarks[0]]) * (width, height, width)
        return normalized_points(points).reshape(-1)


def normalized_points(points: np.ndarray) -> np.ndarray:
    """Points (478, 3) without place, roll and size: mean 0, eyes level, root mean square distance 1."""
    points = points - points.mean(axis=0)
    left, right = (points[corners, :2].mean(axis=0) for corners in _EYE_CORNERS)
    angle = np.arctan2(*(right - left)[::-1])
    cos, sin = np.cos(angle), np.sin(angle)
    points[:, :2] = points[:, :2] @ np.array([[cos, -sin], [sin, cos]])
    return points / np.sqrt((points**2).sum(axis=1).mean())


def _forget(landmarker: Any) -> None:
    """Close it. At the interpreter's end MediaPipe's threads are gone and its ``__del__`` would fail noisily:
    then leave it to the system."""
    try:
        landmarker.close()
    except RuntimeError:
        landmarker._handle = None


def _open_landmarker(path: Path, blendshapes: bool) -> Any:
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise DependencyError(
            f"MediaPipe landmarks need mediapipe ({error}); install it with: pip install 'ferkit[mediapipe]'"
        ) from None
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_buffer=path.read_bytes()),
        output_face_blendshapes=blendshapes,
        min_face_detection_confidence=0.1,  # what is shown to it are faces; it need not doubt that
        min_face_presence_confidence=0.1,
    )
    try:
        return vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"expected MediaPipe's face_landmarker.task, but {path} cannot be used: {reason}"
        ) from None


_OF_A_FILE = "onnx:"
_MEDIAPIPE = frozenset({"mediapipe-landmarks", "mediapipe-blendshapes"})
_FILE_LICENCE = "unknown; ask where the file comes from"


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
        weights: what :mod:`ferkit.core.weights` calls its file, None if it has none.
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
    layer: str | None = None,
    pool_hw: tuple[int, int] | None = None,
    options: InputOptions | None = None,
    threads: int | None = None,
    engines: Sequence[Engine] | None = None,
) -> Embedder:
    """Open a backbone.

    Args:
        spec: a name of :func:`known_backbones`, or ``onnx:FILE``.
        weights: a file to take instead of the one that would be fetched.
        layer: ``stage1`` …, or the name of a tensor inside the network, or several with + between; None for its own
            output.
        pool_hw: rows and columns that a spatial layer is averaged to; None for at most 7x7, of several 4x4.
        options: the input of an ``onnx:`` network.
        threads: see :func:`ferkit.embedder.engines.open_session`.
        engines: to try, the best first, see :func:`ferkit.embedder.engines.resolve_engines`; None for
            :func:`ferkit.embedder.engines.requested_engines`.

    Raises:
        DataError: no such backbone or layer, or options that it does not take.
        WeightsError: the weights are missing, unreachable or not usable.
    """
    path: Path | None
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
        path, licence = _weights_of(backbone, weights)
    digest = None if path is None else file_sha256(path)
    settings = replace(settings, weights_sha256=digest, layer=layer, pool_hw=pool_hw)
    return _open(settings, path, licence, threads, requested_engines() if engines is None else engines)


def load_embedder(
    settings: EmbedderSettings,
    *,
    weights: Path | None = None,
    threads: int | None = None,
    engines: Sequence[Engine] | None = None,
) -> Embedder:
    """Open the backbone that ``settings`` were made with, exactly as it was.

    Args:
        settings: of an earlier embedder.
        weights: the file of its weights; None looks where :func:`ferkit.core.weights.weights_dir` keeps them,
            and fetches those that can be fetched.
        threads: see :func:`ferkit.embedder.engines.open_session`.
        engines: to try instead of the one that the settings name: the embedder's own settings then name that.

    Raises:
        SettingsMismatchError: the weights are not the ones that the settings name.
        WeightsError: the weights are missing, unreachable or not usable.
        DataError: no such backbone.
    """
    path: Path | None
    if settings.backbone.startswith(_OF_A_FILE):
        path, licence = weights or weights_dir() / settings.backbone.removeprefix(_OF_A_FILE), _FILE_LICENCE
        if not path.is_file():
            raise WeightsError(f"expected {path.name} at {path}, found none; put a copy there")
    else:
        path, licence = _weights_of(_backbone(settings.backbone), weights)
    found = None if path is None else file_sha256(path)
    if path is not None and found != settings.weights_sha256:
        raise SettingsMismatchError(
            f"expected the weights of {settings.backbone} with SHA-256 {settings.weights_sha256}, "
            f"found {path} with {found}; put the file that it was made with there, or embed again"
        )
    return _open(settings, path, licence, threads, engines)


def _weights_of(backbone: Backbone, given: Path | None) -> tuple[Path | None, str]:
    """The file of its weights, if it has any, and their licence."""
    if backbone.weights is None:
        return None, "no weights"
    return weights_file(backbone.weights, given=given), entry_of(backbone.weights).licence


def _open(
    settings: EmbedderSettings,
    path: Path | None,
    licence: str,
    threads: int | None,
    engines: Sequence[Engine] | None,
) -> Embedder:
    if path is not None and settings.backbone not in _MEDIAPIPE:
        return open_network(path, settings, licence, threads, engines)
    if settings.layer is not None or settings.pool_hw is not None:
        raise DataError(f"{settings.backbone} is no network to look into; leave --layer and --pool out")
    return HogEmbedder(settings) if path is None else LandmarkEmbedder(settings, path, licence)


def _file_settings(path: Path, options: InputOptions) -> EmbedderSettings:
    found = input_format(load_graph(path))
    size_wh = options.size_wh or found.size_wh
    if size_wh is None:
        raise WeightsError(f"{path.name} takes images of any size; say which with --input-size")
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


SAMPLE = 1500
"""Crops that are enough to rank the stages."""

MOST_JOINED = 4
"""Layers that a join has at most."""

_WORTH = 0.005
"""Accuracy that one more layer has to bring to be worth its numbers."""

_FOLDS = 3
_COMPONENTS = 128
_BATCH = 16


@dataclass(frozen=True)
class LayerScore:
    """How good one layer is.

    Attributes:
        layer: the place.
        dim: how many numbers an embedding has there.
        accuracy: mean over the folds, 0..1, of a linear head on at most 128 principal components.
        spread: standard deviation over the folds.
        images_per_s: with the network cut there.
    """

    layer: Layer
    dim: int
    accuracy: float
    spread: float
    images_per_s: float


def find_best_layer(
    embedder: Embedder,
    crops: np.ndarray,
    y: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> list[LayerScore]:
    """Every stage of a network, its last layer and some joins, the best first, by cross-validation on a sample.

    The network runs once over the crops and gives all stages at a time. Each is judged by a scaler, principal
    components and a logistic regression, in three folds that share no group. Then the best is joined with the
    layer that helps it most, and so on for as long as that brings half a percent.

    Args:
        embedder: an open network, with or without a layer of its own.
        crops: uint8 RGB (n, H, W, 3); of more than :data:`SAMPLE` that many are drawn, classes in proportion.
        y: class of each crop; classes with fewer than three crops are left out.
        groups: who is shown on each crop, so that nobody is on both sides of a fold; None if unknown.
        seed: of the sample and the folds.
        threads: how many work on one batch; None takes every core.

    Raises:
        DataError: no network, or not two classes with three crops each.
    """
    weights = embedder.weights_path
    if not isinstance(embedder, NetworkEmbedder) or weights is None:
        raise DataError(f"{embedder.name} is no network to look into; leave --layer out")
    labels, persons = np.asarray(y), None if groups is None else np.asarray(groups)
    keep = _sample(labels, seed)
    labels, persons = labels[keep], None if persons is None else persons[keep]
    splits = _folds(labels, persons, seed)
    model = load_graph(weights)
    layers = list_layers(model, embedder.input_size_wh)
    alone, joinable = _all_features(embedder, model, layers, crops[keep], threads)

    rates = [_images_per_s(embedder, weights, layer, threads) for layer in layers]

    def score(chosen: list[int], X: np.ndarray) -> LayerScore:
        layer = layers[chosen[0]]
        if len(chosen) > 1:
            tensors = JOIN.join(layers[i].tensor for i in chosen)
            layer = Layer(JOIN.join(layers[i].name for i in chosen), tensors, X.shape[1:])
        accuracy = _cross_validated(X, labels, splits, seed)
        # The network is cut behind the last of them.
        rate = min(rates[i] for i in chosen)
        return LayerScore(layer, X.shape[1], float(accuracy.mean()), float(accuracy.std()), rate)

    scores = [score([i], X) for i, X in enumerate(alone)]
    best = max(scores, key=lambda found: found.accuracy)
    chosen = [scores.index(best)]
    while len(chosen) < min(MOST_JOINED, len(layers)):
        joins = [sorted([*chosen, other]) for other in range(len(layers)) if other not in chosen]
        tried = [score(join, np.concatenate([joinable[i] for i in join], axis=1)) for join in joins]
        scores += tried
        found = max(tried, key=lambda found: found.accuracy)
        if found.accuracy < best.accuracy + _WORTH:
            break
        best, chosen = found, joins[tried.index(found)]
    # A join stands behind a single layer that does as well.
    return sorted(scores, key=lambda found: (-found.accuracy, found.dim))


def _sample(labels: np.ndarray, seed: int) -> np.ndarray:
    """Positions of at most :data:`SAMPLE` crops, of each class its share and at least three."""
    classes, counts = np.unique(labels, return_counts=True)
    usable = [(cls, n) for cls, n in zip(classes, counts, strict=True) if n >= _FOLDS]
    if len(usable) < 2:
        raise DataError(
            f"expected at least two classes with {_FOLDS} images each to find the best layer, "
            f"found {len(usable)}; name a layer, or leave --layer out"
        )
    random = np.random.default_rng(seed)
    share = min(1.0, SAMPLE / sum(n for _, n in usable))
    drawn = [
        random.choice(np.flatnonzero(labels == cls), max(_FOLDS, round(share * n)), replace=False)
        for cls, n in usable
    ]
    return np.sort(np.concatenate(drawn))


def _folds(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is not None and len(set(groups)) >= _FOLDS:
        folds: Any = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    else:
        folds, groups = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed), None
    return [
        (train, test) for train, test in folds.split(labels, labels, groups) if len(set(labels[train])) > 1
    ]


def _all_features(
    embedder: NetworkEmbedder, model: Any, layers: list[Layer], crops: np.ndarray, threads: int | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """float32 (n, dim) of every layer, alone and as part of a join, by a network that runs once over the crops."""
    network_format = input_format(model)
    cut(model, [layer.tensor for layer in layers], [layer.tensor for layer in layers if layer.channels_last])
    session = open_session(
        model.SerializeToString(), embedder.name, engines_of(embedder.settings), threads=threads
    )
    runner = BatchRunner(session, network_format, embedder.settings)
    joined_pool_hw = LARGEST_JOINED_POOL, LARGEST_JOINED_POOL
    pools = [layer.default_pool_hw for layer in layers] + [
        layer.fitting_pool_hw(joined_pool_hw) for layer in layers
    ]
    batches: list[list[np.ndarray]] = []
    for start in range(0, len(crops), _BATCH):
        batch = resize_crops(crops[start : start + _BATCH], embedder.input_size_wh, embedder.resize)
        outputs = runner.run(batch)
        batches.append([pool_features(o, hw) for o, hw in zip([*outputs, *outputs], pools, strict=True)])
    features = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    return features[: len(layers)], features[len(layers) :]


def _cross_validated(
    X: np.ndarray, labels: np.ndarray, splits: list[tuple[np.ndarray, np.ndarray]], seed: int
) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    accuracies = []
    for train, test in splits:
        components = min(_COMPONENTS, X.shape[1], len(train) - 1)
        head = make_pipeline(
            StandardScaler(),
            PCA(components, svd_solver="randomized", whiten=True, random_state=seed),
            LogisticRegression(C=0.01, max_iter=300),
        )
        accuracies.append(head.fit(X[train], labels[train]).score(X[test], labels[test]))
    return np.array(accuracies)


def _images_per_s(embedder: NetworkEmbedder, weights: Path, layer: Layer, threads: int | None) -> float:
    settings = replace(embedder.settings, layer=layer.tensor if layer.name != "last" else None, pool_hw=None)
    opened = open_network(weights, settings, embedder.licence, threads)
    crops = np.zeros((_BATCH, *embedder.input_size_wh[::-1], 3), np.uint8)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        opened.embed(crops)
        seconds.append(time.perf_counter() - start)
    return _BATCH / min(seconds)
