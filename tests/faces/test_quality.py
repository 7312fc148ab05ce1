import cv2
import numpy as np

from ferkit.core.types import Faces
from ferkit.datasets.synthetic import Identity, render_face
from ferkit.faces.detectors import face_quality

FRONTAL = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)


def quality_of(crop: np.ndarray, side: float = 100, points: np.ndarray | None = FRONTAL) -> float:
    keypoints = None if points is None else points[None]
    faces = Faces(np.array([[0, 0, side, side]], np.float32), np.ones(1, np.float32), keypoints)
    (quality,) = face_quality(crop[None], faces)
    return float(quality)


def face() -> np.ndarray:
    rng = np.random.default_rng(0)
    return render_face(Identity.random(rng), "happy", rng, size=112)


def test_a_plain_face_is_good() -> None:
    assert quality_of(face()) > 0.8
    assert quality_of(face(), points=None) > 0.8


def test_each_fault_alone_makes_a_face_unreadable() -> None:
    crop = face()
    profile = FRONTAL.copy()
    profile[2, 0] = 85
    faults = {
        "blur": quality_of(cv2.GaussianBlur(crop, (0, 0), 10)),
        "dark": quality_of((crop * 0.04).astype(np.uint8)),
        "white": quality_of(np.full_like(crop, 255)),
        "small": quality_of(crop, side=14),
        "profile": quality_of(crop, points=profile),
    }
    assert max(faults.values()) < 0.2, faults


def test_no_faces_no_qualities() -> None:
    assert face_quality(np.zeros((0, 8, 8, 3), np.uint8), Faces.none()).shape == (0,)
