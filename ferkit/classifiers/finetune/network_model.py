"""A trained network as a classifier: an ONNX file, by any trainer."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.model import Model, ModelRecord, write_model
from ferkit.core.errors import ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.types import check_crops
from ferkit.core.weights import NETWORK_ONNX
from ferkit.embedder.engines import open_session, requested_engines

PROBABILITIES = "probabilities"
"""The output to take where a network has several; otherwise it is the only one, of any name."""

BATCH = 32


class NetworkClassifier:
    """Probabilities of an ONNX network that takes float32 (n, H, W, 3) RGB 0..255.

    Args:
        onnx: content of the ``.onnx`` file.
        labels: the network's classes in the order of its columns; one column is the probability of the
            second of two.
        flip: average with the mirrored crops: twice the time for about half a point of accuracy.
        threads: see :func:`ferkit.embedder.engines.open_session`.

    Raises:
        ModelError: the file is no such network, or its columns do not fit the labels.
    """

    def __init__(
        self, onnx: bytes, labels: LabelSet, *, flip: bool = False, threads: int | None = None
    ) -> None:
        self.onnx = onnx
        self.labels = labels
        self.flip = flip
        self.resize = "stretch"  # how other sizes become the input size, as in training
        self._session = open_session(
            onnx, "the network", requested_engines(), threads=threads, error=ModelError
        )
        self._input, shape = self._session.inputs[0].name, self._session.inputs[0].shape
        outputs = {output.name: output for output in self._session.outputs}
        output = outputs.get(PROBABILITIES, self._session.outputs[0])
        self._output, columns = output.name, output.shape[-1]
        if len(shape) != 4 or shape[3] != 3 or shape[1] is None or shape[2] is None:
            raise ModelError(f"expected a network that takes (n, H, W, 3), found {shape}; export it again")
        if columns != len(labels) and not (columns == 1 and len(labels) == 2):
            raise ModelError(f"expected a network of {len(labels)} classes, found one of {columns}")
        self.input_size_wh: tuple[int, int] = (shape[2], shape[1])

    def __reduce__(self) -> tuple[Any, ...]:
        # Sessions cannot be pickled or copied.
        return functools.partial(NetworkClassifier, flip=self.flip), (self.onnx, self.labels)

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, of uint8 RGB ``crops`` (n, H, W, 3) of ``input_size_wh``.

        Raises:
            DataError: crops of another shape or type.
        """
        check_crops(crops, self.input_size_wh)
        proba = np.empty((len(crops), len(self.labels)), np.float32)
        for start in range(0, len(crops), BATCH):
            batch = crops[start : start + BATCH].astype(np.float32)
            found = self._run(batch)
            if self.flip:
                found = (found + self._run(np.ascontiguousarray(batch[:, :, ::-1]))) / 2
            proba[start : start + BATCH] = found
        return proba

    def _run(self, batch: np.ndarray) -> np.ndarray:
        found = self._session.run([self._output], {self._input: batch})[0]
        return np.concatenate([1 - found, found], axis=1) if found.shape[1] == 1 else found


def save_network_model(
    folder: Path, files: dict[str, bytes], record: ModelRecord, *, flip: bool = False, overwrite: bool = False
) -> Model:
    """Write a network as a model folder.

    Args:
        folder: ``models/<name>``.
        files: contents by name; ``network.onnx`` is what predicts.
        record: its ``parts`` are completed here.
        flip: see :class:`NetworkClassifier`.
        overwrite: replace a model that is there.

    Raises:
        ModelError: the folder may not be written.
    """

    def write(target: Path) -> None:
        for name, content in files.items():
            (target / name).write_bytes(content)

    record = dataclasses.replace(record, kind="network", parts={**record.parts, "flip": flip})
    return write_model(folder, record, write, overwrite=overwrite)


def load_network_classifier(
    model: Model, *, weights: Path | None = None, threads: int | None = None
) -> NetworkClassifier:
    """Open a model of kind ``network``; it carries its weights, so that ``weights`` has no meaning here.

    Raises:
        ModelError: the file is no such network.
    """
    if weights is not None:
        raise ModelError(f"{model.folder} is a network and carries its own weights; leave --weights out")
    return NetworkClassifier(
        model.file(NETWORK_ONNX).read_bytes(),
        model.labels,
        flip=bool(model.record.parts.get("flip", False)),
        threads=threads,
    )
