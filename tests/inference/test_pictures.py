from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferkit.classifiers.predict import predict_images
from ferkit.core.errors import DataError
from ferkit.core.types import Faces
from ferkit.datasets.load import GivenImages
from ferkit.faces.cropping import CropSettings, FaceCropper
from tests.inference.brightness import LABELS, BrightnessClassifier


class CornerDetector:
    """Finds a face in every corner that is bright, as large as a quarter of the image."""

    name = "corner"

    def detect(self, rgb: np.ndarray) -> Faces:
        height, width = rgb.shape[:2]
        h, w = height // 2, width // 2
        boxes = [
            (x, y, x + w, y + h) for x in (0, w) for y in (0, h) if rgb[y : y + h, x : x + w].mean() > 100
        ]
        if not boxes:
            return Faces.none()
        return Faces(np.array(boxes, np.float32), np.ones(len(boxes), np.float32))


def save(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return path


def gray(level: int, size: int = 48) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def whole_cropper() -> FaceCropper:
    return FaceCropper(CropSettings.whole(), CornerDetector, (24, 24), "stretch")


def detecting_cropper(**changes: object) -> FaceCropper:
    settings = CropSettings("haar", None, align=False, margin=0.0, no_face="skip")
    return FaceCropper(settings, CornerDetector, (24, 24), "stretch", **changes)  # type: ignore[arg-type]


def test_whole_images_come_back_in_order(tmp_path: Path) -> None:
    levels = [0, 255, 128] * 15
    paths = [save(tmp_path / f"{i}.png", gray(level)) for i, level in enumerate(levels)]
    classifier = BrightnessClassifier()
    results = list(predict_images(GivenImages(paths), classifier, whole_cropper(), batch_size=16, workers=3))
    assert [result.path for result in results] == list(map(str, paths))
    assert [result.faces[0].label for result in results] == [LABELS.names[i] for i in [0, 2, 1] * 15]
    assert max(classifier.batches) == 16
    assert sum(classifier.batches) == len(levels)


def test_every_face_gets_a_row_and_its_own_crop(tmp_path: Path) -> None:
    rgb = gray(0, 400)
    rgb[:200, :200] = 255
    rgb[200:, 200:] = 128
    (result,) = predict_images(
        GivenImages(save(tmp_path / "two.png", rgb)), BrightnessClassifier(), detecting_cropper()
    )
    assert [face.box for face in result.faces] == [(0, 0, 200, 200), (200, 200, 400, 400)]
    assert [face.label for face in result.faces] == [LABELS.names[2], LABELS.names[1]]
    assert not result.whole


def test_a_crowd_is_classified_in_batches(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", gray(200, 200)) for i in range(5)]
    classifier = BrightnessClassifier()
    results = list(predict_images(GivenImages(paths), classifier, detecting_cropper(), batch_size=3))
    assert [len(result) for result in results] == [4] * 5
    assert max(classifier.batches) <= 3


def test_unreadable_images_say_why_and_do_not_stop_the_others(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", gray(255))
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:60])
    empty = tmp_path / "empty.jpg"
    empty.touch()
    paths = [text, good, cut, empty, tmp_path / "missing.jpg", "/dev/null"]
    results = list(predict_images(GivenImages(paths), BrightnessClassifier(), whole_cropper()))
    assert [len(result) for result in results] == [0, 1, 0, 0, 0, 0]
    reasons = [result.error or "" for result in results]
    assert "not an image" in reasons[0]
    assert "empty" in reasons[3]
    assert reasons[4:] == ["cannot be read: No such file or directory", "cannot be read: not a regular file"]


def test_no_face_is_no_error(tmp_path: Path) -> None:
    (result,) = predict_images(
        GivenImages(save(tmp_path / "a.png", gray(0, 400))), BrightnessClassifier(), detecting_cropper()
    )
    assert (len(result), result.error) == (0, None)


def test_looking_first_takes_crops_whole_and_photos_apart(tmp_path: Path) -> None:
    tiny, small, photo = (save(tmp_path / f"{n}.png", gray(0, n)) for n in (48, 200, 600))
    results = list(
        predict_images(
            GivenImages([tiny, small, photo]),
            BrightnessClassifier(),
            detecting_cropper(detect_precropped=True),
        )
    )
    assert [(result.whole, len(result)) for result in results] == [(True, 1), (True, 1), (False, 0)]


def test_folders_are_listed_sorted_and_empty_ones_refused(tmp_path: Path) -> None:
    b, a = save(tmp_path / "in" / "b.png", gray(1)), save(tmp_path / "in" / "가" / "a.JPG", gray(1))
    (tmp_path / "in" / "notes.txt").touch()
    assert GivenImages([tmp_path / "in", tmp_path / "x.jpg"]).names == [
        str(b),
        str(a),
        str(tmp_path / "x.jpg"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found none"):
        GivenImages(tmp_path / "empty")
