import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError, WeightsError
from ferkit.core.types import FaceDetector
from ferkit.datasets.images import decode_image
from ferkit.faces.detectors import open_detector

PORTRAITS = {  # the face's centre in each photo
    "img12.jpg": (290, 165),
    "img29.jpg": (290, 265),
    "img34.jpg": (890, 340),
    "img5.jpg": (182, 230),
    "img6.jpg": (385, 485),
}


def photo(shared: Path, name: str) -> np.ndarray:
    return decode_image((shared / "media" / name).read_bytes())


@pytest.fixture(scope="module")
def yunet(shared: Path) -> FaceDetector:
    return open_detector("yunet", shared / "models" / "face_detection_yunet_640.onnx")


@pytest.mark.shared
@pytest.mark.parametrize("name", PORTRAITS)
def test_haar_and_yunet_find_the_one_face_of_a_portrait(shared: Path, yunet: FaceDetector, name: str):
    rgb = photo(shared, name)
    for detector in (yunet, open_detector("haar")):
        faces = detector.detect(rgb)
        assert len(faces) == 1
        x0, y0, x1, y1 = faces.xyxy[0]
        assert abs((x0 + x1) / 2 - PORTRAITS[name][0]) < 0.15 * (x1 - x0)
        assert abs((y0 + y1) / 2 - PORTRAITS[name][1]) < 0.15 * (y1 - y0)
        assert faces.xyxy.dtype == faces.confidence.dtype == np.float32
        assert 0.6 < faces.confidence[0] <= 1


@pytest.mark.shared
@pytest.mark.parametrize("name", [*PORTRAITS, "couple.jpg", "selfie-many-people.jpg"])
def test_yunet_s_points_are_eyes_nose_and_mouth_as_seen_in_the_image(
    shared: Path, yunet: FaceDetector, name: str
):
    faces = yunet.detect(photo(shared, name))
    assert faces.keypoints is not None
    for (left_eye, right_eye, nose, left_mouth, right_mouth), box in zip(
        faces.keypoints, faces.xyxy, strict=True
    ):
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert box[0] < nose[0] < box[2]
        assert box[1] < nose[1] < box[3]


@pytest.mark.shared
def test_yunet_finds_more_faces_than_one(shared: Path, yunet: FaceDetector):
    assert len(yunet.detect(photo(shared, "couple.jpg"))) == 2
    assert len(yunet.detect(photo(shared, "selfie-many-people.jpg"))) >= 5


@pytest.mark.shared
def test_yunet_answers_in_the_image_s_own_pixels_whatever_its_size(shared: Path, yunet: FaceDetector):
    rgb = photo(shared, "img6.jpg")
    small = rgb[::3, ::3]
    (box,), (box_of_small,) = yunet.detect(rgb).xyxy, yunet.detect(np.ascontiguousarray(small)).xyxy
    assert np.abs(box - 3 * box_of_small).max() < 0.06 * (box[2] - box[0])


@pytest.mark.shared
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 600), (3, 640), (31, 640), (600, 12), (33, 9), (20, 20), (7, 5000)]
)
def test_tiny_and_thin_images_hold_no_face(yunet: FaceDetector, shape: tuple[int, int]):
    for value in (0, 128, 255):
        rgb = np.full((*shape, 3), value, np.uint8)
        assert len(yunet.detect(rgb)) == 0
        assert len(open_detector("haar").detect(rgb)) == 0


@pytest.mark.shared
@pytest.mark.slow
def test_mediapipe_finds_the_same_faces_and_leaves_without_noise(shared: Path, yunet: FaceDetector):
    """In a process of its own, because importing mediapipe takes long and changes the process."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from ferkit.datasets.images import decode_image; from ferkit.faces.detectors import open_detector\n"
        "shared = Path(sys.argv[1])\n"
        "detector = open_detector('mediapipe', shared / 'models' / 'blaze_face_short_range.tflite')\n"
        "faces = detector.detect(decode_image((shared / 'media' / 'img12.jpg').read_bytes()))\n"
        "print(json.dumps([faces.xyxy.tolist(), faces.keypoints.tolist(), faces.confidence.tolist()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(shared)], capture_output=True, text=True, check=False
    )
    if "ferkit[mediapipe]" in done.stderr:
        pytest.skip("mediapipe is not installed")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    xyxy, keypoints, confidence = (np.array(values) for values in json.loads(done.stdout.splitlines()[-1]))
    theirs = yunet.detect(photo(shared, "img12.jpg"))
    assert theirs.keypoints is not None
    assert xyxy.shape == (1, 4)
    assert 0.5 < confidence[0] <= 1
    assert np.abs(keypoints[0, :3] - theirs.keypoints[0, :3]).max() < 25
    assert keypoints[0, 3].tolist() == keypoints[0, 4].tolist()
    assert np.abs(keypoints[0, 3] - theirs.keypoints[0, 3:].mean(axis=0)).max() < 25


def test_weights_that_are_none_are_refused(tmp_path: Path):
    (tmp_path / "yunet.onnx").write_bytes(b"no network")
    for path in (tmp_path / "yunet.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(WeightsError, match="is not a YuNet network"):
            open_detector("yunet", path)
    with pytest.raises(WeightsError, match="needs a weights file"):
        open_detector("yunet")


def test_only_images_are_looked_at():
    with pytest.raises(DataError, match="uint8 RGB image"):
        open_detector("haar").detect(np.zeros((10, 10), np.uint8))
