"""Embeddings by an ONNX network, a batch at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError, WeightsError
from ferkit.core.fingerprint import fingerprint
from ferkit.embedder.preprocess import network_input, resize_crops
from ferkit.embedder.settings import EmbedderSettings


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
    """An ONNX network as embedder.

    Args:
        settings: what is put in and taken out.
        session: an ONNX Runtime session that ends where the embedding is taken.
        weights_path: the file it came from.
        licence: of the weights, for model cards.

    Raises:
        WeightsError: the network takes another size or colour than the settings say, or gives no vectors.
    """

    def __init__(self, settings: EmbedderSettings, session: Any, weights_path: Path, licence: str) -> None:
        self.settings = settings
        self.name = settings.backbone
        self.input_size_wh = settings.input_size_wh
        self.resize = settings.resize
        self.fingerprint = fingerprint(settings)
        self.weights_path: Path | None = weights_path
        self.licence = licence
        self._session = session
        self._format = input_format(session)
        _check_fits(settings, self._format, weights_path)
        self.dim = self._embed_batch(np.zeros((1, *settings.input_size_wh[::-1], 3), np.uint8)).shape[1]

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, H, W, 3); other sizes are brought to the input size.

        Raises:
            DataError: crops of another shape or type.
        """
        crops = resize_crops(crops, self.input_size_wh, self.resize)
        if not len(crops):
            return np.empty((0, self.dim), np.float32)
        return self._embed_batch(crops)

    def _embed_batch(self, crops: np.ndarray) -> np.ndarray:
        values = network_input(crops, self.settings, self._format.channels_first)
        output = np.concatenate(self._run(values)) if self._format.batch_size else self._run(values)[0]
        features = pool_features(output[: len(crops)], self.settings.pool_hw)
        return l2_normalized(features) if self.settings.l2_normalize else features

    def _run(self, values: np.ndarray) -> list[np.ndarray]:
        size = self._format.batch_size or len(values)
        outputs = []
        for start in range(0, len(values), size):
            batch = values[start : start + size]
            if len(batch) < size:  # a fixed batch size wants the last one filled up
                batch = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), np.float32)])
            outputs.append(self._session.run(None, {self._format.name: batch})[0])
        return outputs


def open_session(model: Path | bytes, name: str, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the processor.

    Args:
        model: a file, or its content.
        name: what messages call it.
        threads: how many work within one run; None takes every core.

    Raises:
        WeightsError: it is no ONNX network that ONNX Runtime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is raised
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises a family of its own for damaged and unsupported files
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"expected an ONNX network, but {name} cannot be loaded: {first_line}") from None


def input_format(session: Any) -> InputFormat:
    """What the network of an ONNX Runtime session takes.

    Raises:
        WeightsError: it does not take one batch of pictures in float32.
    """
    inputs = session.get_inputs()
    first = inputs[0]
    shape = [side if isinstance(side, int) and side > 0 else None for side in first.shape]
    if len(inputs) != 1 or len(shape) != 4 or first.type != "tensor(float)":
        found = ", ".join(f"{i.type} {i.shape}" for i in inputs)
        raise WeightsError(f"expected a network with one float32 input of four dimensions, found {found}")
    if shape[3] in (1, 3):
        height, width, channels = shape[1:]
    elif shape[1] in (1, 3):
        channels, height, width = shape[1:]
    else:
        raise WeightsError(f"expected a network that takes 1 or 3 colour channels, found shape {first.shape}")
    size_wh = (width, height) if width and height else None
    return InputFormat(first.name, shape[3] not in (1, 3), channels or 3, size_wh, shape[0])


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
    if output.ndim == 4 and pool_hw is not None:
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
