"""Define what the parts hand to each other: images, faces, and what a detector or classifier can do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet


@dataclass(frozen=True)
class Faces:
    """``n`` faces of one image.

    Attributes:
        xyxy: float32 (n, 4), left, top, right, bottom in pixels; may reach over the border (insightface: ``bbox``).
        confidence: float32 (n,), 0..1 (insightface: ``det_score``).
        keypoints: float32 (n, 5, 2) in pixels or None: the eye, nose and mouth points, in the order left eye,
            right eye, nose, left and right mouth corner as seen in the image (insightface: ``kps``).
        track_id: int64 (n,) or None, the same number for the same person over time.

    Raises:
        DataError: an array has another shape.
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    keypoints: np.ndarray | None = None
    track_id: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        expected = {"xyxy": (n, 4), "confidence": (n,), "keypoints": (n, 5, 2), "track_id": (n,)}
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise DataError(f"expected {name} of shape {shape}, found {value.shape}")

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: np.ndarray | slice | list[int]) -> "Faces":
        """The faces at ``index`` (a slice, a mask or a list of positions)."""
        keypoints = None if self.keypoints is None else self.keypoints[index]
        track_id = None if self.track_id is None else self.track_id[index]
        return Faces(self.xyxy[index], self.confidence[index], keypoints, track_id)

    def scaled(self, factor_xy: np.ndarray) -> "Faces":
        """The same faces in an image that is so many times as wide and high."""
        factor_xy = np.asarray(factor_xy, np.float32)
        keypoints = None if self.keypoints is None else (self.keypoints * factor_xy).astype(np.float32)
        xyxy = (self.xyxy * np.tile(factor_xy, 2)).astype(np.float32)
        return Faces(xyxy, self.confidence, keypoints, self.track_id)

    @staticmethod
    def none() -> "Faces":
        """An image without faces."""
        return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def largest_first(self) -> "Faces":
        """The same faces, the one with the largest box first."""
        width, height = (self.xyxy[:, 2:] - self.xyxy[:, :2]).T
        return self[np.argsort(-width * height, kind="stable")]


class FaceDetector(Protocol):
    """Finds faces in an image."""

    name: str

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces in ``rgb``, uint8 (H, W, 3); none gives an empty :class:`Faces`."""
        ...


class TakesCrops(Protocol):
    """Takes face crops of one size: an embedder or a classifier."""

    @property
    def input_size_wh(self) -> tuple[int, int]:
        """Width and height of the crops, in pixels."""
        ...

    @property
    def resize(self) -> str:
        """How images and boxes of another size are fitted, see :func:`ferkit.faces.cropping.fit_to`."""
        ...


class ExpressionClassifier(TakesCrops, Protocol):
    """What both paths end in: an embedding with a head, or a fine-tuned network."""

    @property
    def labels(self) -> LabelSet:
        """The classes, in the order of the probabilities."""
        ...

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, columns in the order of ``labels.names``.

        ``crops`` are uint8 RGB (n, height, width, 3) of the classifier's input size.
        """
        ...


def check_image(rgb: np.ndarray) -> np.ndarray:
    """Return ``rgb`` if it is an (H, W, 3) uint8 image with at least one pixel.

    Raises:
        DataError: for any other shape or type.
    """
    if not (isinstance(rgb, np.ndarray) and rgb.shape[2:] == (3,) and rgb.size and rgb.dtype == np.uint8):
        raise DataError(f"expected a uint8 RGB image of shape (H, W, 3), found {_describe(rgb)}")
    return rgb


def check_crops(crops: np.ndarray, size_wh: tuple[int, int] | None = None) -> np.ndarray:
    """Return ``crops`` if it is an (n, H, W, 3) uint8 array, of width and height ``size_wh`` where given.

    Raises:
        DataError: for any other shape or type.
    """
    wanted = "(n, H, W, 3)" if size_wh is None else f"(n, {size_wh[1]}, {size_wh[0]}, 3)"
    right = isinstance(crops, np.ndarray) and crops.shape[3:] == (3,) and crops.dtype == np.uint8
    if not right or (size_wh is not None and crops.shape[1:3] != (size_wh[1], size_wh[0])):
        raise DataError(f"expected uint8 RGB crops of shape {wanted}, found {_describe(crops)}")
    return crops


def check_features(X: np.ndarray, dim: int | None = None) -> np.ndarray:
    """Return ``X`` if it is an (n, dim) array of finite floats.

    Raises:
        DataError: for another shape or type, or NaN or infinite values.
    """
    right = isinstance(X, np.ndarray) and X.ndim == 2 and np.issubdtype(X.dtype, np.floating)
    if not right or (dim is not None and X.shape[1] != dim):
        raise DataError(f"expected embeddings of shape (n, {dim or 'dim'}), float, found {_describe(X)}")
    # The sum is finite only if every value is (or if infinities cancel, which gives NaN): one cheap pass.
    with np.errstate(invalid="ignore"):
        total = X.sum(dtype=np.float64)
    if not np.isfinite(total):
        bad = int((~np.isfinite(X).all(axis=1)).sum())
        raise DataError(
            f"expected finite embeddings, found NaN or infinity in {bad} of {len(X)} rows; "
            "run 'fer embed' again with --dtype float32, or check the network"
        )
    return X


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


Predict = Callable[[np.ndarray], np.ndarray]
