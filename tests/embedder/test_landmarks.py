"""MediaPipe landmarks and blendshapes."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ferkit.core.errors import WeightsError
from ferkit.embedder.embedders import load_embedder, open_embedder

pytest.importorskip("mediapipe", reason="needs the extra 'mediapipe'")
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def task(shared: Path) -> Path:
    return shared / "models" / "face_landmarker.task"


@pytest.fixture(scope="module")
def photo(shared: Path) -> np.ndarray:
    image = cv2.imread(str(shared / "media" / "img5.jpg"))
    return np.ascontiguousarray(image[:, :, ::-1])[None]


def turned(photo: np.ndarray, degrees: float) -> np.ndarray:
    height, width = photo.shape[1:3]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.9)
    return cv2.warpAffine(photo[0], matrix, (width, height))[None]


def test_landmarks_forget_place_roll_and_size(task: Path, photo: np.ndarray) -> None:
    embedder = open_embedder("mediapipe-landmarks", weights=task)
    upright, rolled = embedder.embed(photo), embedder.embed(turned(photo, 15))
    assert upright.shape == (1, 1434)
    assert upright.dtype == np.float32
    points = upright.reshape(478, 3)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-5)
    assert (points**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-4)
    assert points[[33, 133], 1].mean() == pytest.approx(points[[362, 263], 1].mean(), abs=1e-4)
    assert np.abs(upright - rolled).max() < 0.06
    rebuilt = load_embedder(embedder.settings, weights=task)
    np.testing.assert_array_equal(rebuilt.embed(photo), upright)


def test_blendshapes_and_a_crop_without_a_face(task: Path, photo: np.ndarray) -> None:
    embedder = open_embedder("mediapipe-blendshapes", weights=task)
    scores = embedder.embed(np.concatenate([photo, np.zeros_like(photo)]))
    assert scores.shape == (2, 52)
    assert ((scores[0] >= 0) & (scores[0] <= 1)).all()
    assert np.isnan(scores[1]).all()


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "face_landmarker.task").write_bytes(b"no task")
    with pytest.raises(WeightsError, match=r"expected MediaPipe's face_landmarker\.task"):
        open_embedder("mediapipe-landmarks", weights=tmp_path / "face_landmarker.task")


def test_a_process_ends_without_noise(task: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ferkit.embedder.embedders import open_embedder\n"
        "embedder = open_embedder('mediapipe-blendshapes', weights=Path(sys.argv[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(task)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0
    assert "Traceback" not in run.stderr
