"""What the parts of ferkit promise each other."""

from typing import Protocol

import numpy as np

from ferkit.core.faces import Faces
from ferkit.core.labels import LabelSet


class FaceDetector(Protocol):
    """Finds faces in a picture."""

    name: str

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces in ``rgb``, uint8 (H, W, 3); none gives an empty :class:`Faces`."""
        ...


class Embedder(Protocol):
    """Turns face crops into vectors; rebuilt from its settings by ``ferkit.embedder.load_embedder``."""

    name: str
    dim: int
    input_size_wh: tuple[int, int]
    fingerprint: str

    @property
    def resize(self) -> str:
        """How crops of another size become the input: ``stretch`` or ``letterbox``."""
        ...

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, dim) for uint8 RGB ``crops`` (n, height, width, 3) of the embedder's input size."""
        ...


class ExpressionClassifier(Protocol):
    """What both paths end in: an embedding with a head, or a fine-tuned network."""

    @property
    def labels(self) -> LabelSet:
        """The classes, in the order of the probabilities."""
        ...

    @property
    def input_size_wh(self) -> tuple[int, int]:
        """Of the crops, in pixels."""
        ...

    @property
    def resize(self) -> str:
        """How pictures and boxes are fitted to that size: ``stretch`` or ``letterbox``."""
        ...

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, columns in the order of ``labels.names``.

        ``crops`` are uint8 RGB (n, height, width, 3) of the classifier's input size.
        """
        ...
