"""Embeddings by an ONNX network, a batch at a time."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferkit.core.errors import DataError, WeightsError
from ferkit.core.fingerprint import fingerprint
from ferkit.embedder.graph import cut, input_names, load_graph, split_prelu
from ferkit.embedder.preprocess import network_input, resize_crops
from ferkit.embedder.settings import EmbedderSettings
from ferkit.embedder.taps import JOIN, LARGEST_JOINED_POOL, find_layers

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class InputFormat:
    """What a network takes, as far as its graph says.

    Attributes:
        name: of the input tensor.
        channels_first: (n, c, height, width) instead of (n, height, width, c).
        n_channels: 1 or 3.
        size_wh: width and height in pixels, None where the graph takes any.
        batch_size: how many pictures a run takes, None for any number.
    """

    name: str
    channels_first: bool
    n_channels: int
    size_wh: tuple[int, int] | None
    batch_size: int | None


class NetworkEmbedder:
    """An ONNX network as embedder; made by :func:`open_network`."""

    def __init__(
        self,
        settings: EmbedderSettings,
        runner: "BatchRunner",
        pools: Sequence[tuple[int, int] | None],
        weights_path: Path,
        licence: str,
    ) -> None:
        self.settings = settings
        self.name = settings.backbone
        self.input_size_wh = settings.input_size_wh
        self.resize = settings.resize
        self.fingerprint = fingerprint(settings)
        self.weights_path: Path | None = weights_path
        self.licence = licence
        self._runner, self._pools = runner, pools
        blank = np.zeros((1, *settings.input_size_wh[::-1], 3), np.uint8)
        self.dim = self._features(blank).shape[1]

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, H, W, 3); other sizes are brought to the input size.

        Raises:
            DataError: crops of another shape or type.
        """
        crops = resize_crops(crops, self.input_size_wh, self.resize)
        return self._features(crops) if len(crops) else np.empty((0, self.dim), np.float32)

    def _features(self, crops: np.ndarray) -> np.ndarray:
        outputs = zip(self._runner.run(crops), self._pools, strict=False)  # others than the first are not its own
        layers = [pool_features(output, pool_hw) for output, pool_hw in outputs]
        features = layers[0] if len(layers) == 1 else np.concatenate(layers, axis=1)
        return l2_normalized(features) if self.settings.l2_normalize else features


class BatchRunner:
    """Crops of the input size in, the network's outputs out.

    Args:
        session: an ONNX Runtime session.
        network_format: what it takes.
        settings: how crops become that.
    """

    def __init__(self, session: Any, network_format: InputFormat, settings: EmbedderSettings) -> None:
        self._session = session
        self._format = network_format
        self._settings = settings

    def run(self, crops: np.ndarray) -> list[np.ndarray]:
        """Every output, float32 (n, …), for uint8 RGB ``crops`` (n, height, width, 3), n at least 1."""
        values = network_input(crops, self._settings, self._format.channels_first)
        size = self._format.batch_size
        if size is None:
            return self._run(values)
        batches = [values[start : start + size] for start in range(0, len(values), size)]
        missing = size - len(batches[-1])  # a fixed batch size wants the last one filled up
        batches[-1] = np.concatenate([batches[-1], np.zeros((missing, *values.shape[1:]), np.float32)])
        parts = [self._run(batch) for batch in batches]
        return [np.concatenate(outputs)[: len(values)] for outputs in zip(*parts, strict=True)]

    def _run(self, values: np.ndarray) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(None, {self._format.name: values})
        return outputs


def open_network(
    path: Path, settings: EmbedderSettings, licence: str, threads: int | None = None
) -> NetworkEmbedder:
    """An ONNX file as embedder.

    Args:
        path: the file.
        settings: what is put in and taken out; ``tap`` may be the name of a stage, or of several joined by +, and
            its ``pool_hw`` None: the embedder's own settings then say which tensors and pooling that is.
        licence: of the weights, for model cards.
        threads: how many work on one batch; None takes every core.

    Raises:
        WeightsError: no ONNX network, or it takes another size or colour than the settings say.
        DataError: no such tap, or a pooling that it does not allow.
    """
    model = load_graph(path)
    network_format = input_format(model)
    _check_fits(settings, network_format, path)
    changed, pools = False, [settings.pool_hw]
    if settings.tap == "last":
        settings = dataclasses.replace(settings, tap=None)
    if settings.tap is not None:
        layers = find_layers(model, settings.input_size_wh, settings.tap)
        if len(layers) == 1:
            pools = [settings.pool_hw or layers[0].default_pool_hw]
            settings = dataclasses.replace(settings, tap=layers[0].tensor, pool_hw=pools[0])
        else:
            largest = settings.pool_hw or (LARGEST_JOINED_POOL, LARGEST_JOINED_POOL)
            pools = [layer.fitting_pool_hw(largest) for layer in layers]
            tensors = JOIN.join(layer.tensor for layer in layers)
            settings = dataclasses.replace(settings, tap=tensors, pool_hw=largest)
        cut(
            model,
            [layer.tensor for layer in layers],
            [layer.tensor for layer in layers if layer.channels_last],
        )
        changed = True
    changed |= split_prelu(model) > 0
    session = open_session(model.SerializeToString() if changed else path, path.name, threads)
    return NetworkEmbedder(settings, BatchRunner(session, network_format, settings), pools, path, licence)


def open_session(model: Path | bytes, name: str, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the processor.

    Args:
        model: a file, or its content.
        name: what messages call it.
        threads: how many work within one run; None takes every core.

    Raises:
        WeightsError: ONNX Runtime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is raised
    options.intra_op_num_threads = threads or 0
    # Threads that wait must not burn the time of those that read and crop the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises a family of its own for unsupported and damaged networks
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"expected an ONNX network, but {name} cannot be loaded: {lines[0]}") from None


def input_format(model: "onnx.ModelProto") -> InputFormat:
    """What a network takes.

    Raises:
        WeightsError: it does not take one batch of pictures in float32.
    """
    names = input_names(model)
    values = [value for value in model.graph.input if value.name in names]
    shapes = [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values]
    floats = [value.type.tensor_type.elem_type == 1 for value in values]
    if len(values) != 1 or len(shapes[0]) != 4 or not floats[0]:
        found = ", ".join(f"{n} of shape {s}" for n, s in zip(names, shapes, strict=True)) or "none"
        raise WeightsError(f"expected a network with one float32 input of four dimensions, found {found}")
    shape = shapes[0]
    if shape[3] in (1, 3):
        height, width, channels = shape[1:]
    elif shape[1] in (1, 3):
        channels, height, width = shape[1:]
    else:
        raise WeightsError(f"expected a network that takes 1 or 3 colour channels, found an input of {shape}")
    size_wh = (width, height) if width > 0 and height > 0 else None
    return InputFormat(
        names[0], shape[3] not in (1, 3), channels, size_wh, shape[0] if shape[0] > 0 else None
    )


def pool_features(output: np.ndarray, pool_hw: tuple[int, int] | None) -> np.ndarray:
    """Vectors float32 (n, dim) of an output: (n, dim) as it is, (n, c, h, w) averaged and laid out flat.

    Args:
        output: float (n, …).
        pool_hw: rows and columns that h and w are averaged to; None keeps them all.

    Raises:
        DataError: it has no batch dimension, or there is less to average than is asked for.
    """
    if output.ndim < 2:
        raise DataError(f"expected an output of shape (n, …), found {output.shape}; name another tensor")
    if pool_hw is not None:
        if output.ndim != 4:
            raise DataError(
                f"expected maps to average, found an output of shape {output.shape}; leave --pool out"
            )
        output = _average(output, pool_hw)
    return np.ascontiguousarray(output.reshape(len(output), -1), np.float32)


def l2_normalized(features: np.ndarray) -> np.ndarray:
    """Each row divided by its Euclidean length; rows of zeros stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)


def _average(maps: np.ndarray, pool_hw: tuple[int, int]) -> np.ndarray:
    """(n, c, h, w) to (n, c, *pool_hw): each target cell is the mean of the source cells that it covers."""
    rows, columns = (_averaging(side, cells) for side, cells in zip(maps.shape[2:], pool_hw, strict=True))
    return rows @ (maps @ columns.T)


def _averaging(side: int, cells: int) -> np.ndarray:
    """float32 (cells, side), rows sum to 1: cell k covers what lies between k/cells and (k+1)/cells, as in
    adaptive pooling."""
    if cells > side:
        raise DataError(
            f"expected at least {cells} rows and columns to average, found {side}; use a smaller --pool"
        )
    matrix = np.zeros((cells, side), np.float32)
    for k in range(cells):
        start, end = k * side // cells, -(-(k + 1) * side // cells)
        matrix[k, start:end] = 1 / (end - start)
    return matrix


def _check_fits(settings: EmbedderSettings, found: InputFormat, path: Path) -> None:
    wanted_channels = 1 if settings.channels == "gray" else 3
    if found.n_channels != wanted_channels:
        raise WeightsError(
            f"{path.name} takes {found.n_channels} colour channels, the settings say {settings.channels} "
            f"({wanted_channels}); give other --channels"
        )
    if found.size_wh is not None and found.size_wh != settings.input_size_wh:
        raise WeightsError(
            f"{path.name} takes {found.size_wh[0]}x{found.size_wh[1]} pixels, the settings say "
            f"{settings.input_size_wh[0]}x{settings.input_size_wh[1]}; leave --input-size out"
        )
