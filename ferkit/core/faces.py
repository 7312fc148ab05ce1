"""Faces found in one picture, as a struct of arrays."""

from dataclasses import dataclass

import numpy as np

from ferkit.core.errors import DataError


@dataclass(frozen=True)
class Faces:
    """``n`` faces of one picture.

    Attributes:
        xyxy: float32 (n, 4), left, top, right, bottom in pixels; may reach over the border (insightface: ``bbox``).
        confidence: float32 (n,), 0..1 (insightface: ``det_score``).
        keypoints: float32 (n, 5, 2) in pixels or None: the eye, nose and mouth points, in the order left eye,
            right eye, nose, left and right mouth corner as seen in the picture (insightface: ``kps``).
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
        """A picture without faces."""
        return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def largest_first(self) -> "Faces":
        """The same faces, the one with the largest box first."""
        width, height = (self.xyxy[:, 2:] - self.xyxy[:, :2]).T
        return self[np.argsort(-width * height, kind="stable")]
