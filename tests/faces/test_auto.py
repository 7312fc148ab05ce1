from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferkit.datasets.images import decode_image
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import write_dataset
from ferkit.faces.cropping import SAMPLE_SIZE, face_share, look_at
from ferkit.faces.detectors import open_detector


@pytest.fixture(scope="module")
def detectors(shared: Path) -> list:
    return [
        open_detector("yunet", shared / "models" / "face_detection_yunet_640.onnx"),
        open_detector("haar"),
    ]


@pytest.mark.parametrize("size", [48, 96])
def test_drawn_crops_are_taken_whole(tmp_path: Path, size: int):
    write_dataset(tmp_path / "crops", n_per_class=4, n_persons=4, size=size)
    kind, seen = look_at(load_dataset(tmp_path / "crops"), open_detector("haar"))
    assert kind == "crops"
    assert f"{size} px" in seen or "fill" in seen


@pytest.mark.shared
def test_photos_are_not_taken_whole_but_the_crops_out_of_them_are(
    tmp_path: Path, shared: Path, detectors: list
):
    photos, crops = tmp_path / "photos", tmp_path / "crops"
    photos.mkdir()
    crops.mkdir()
    for name in ("couple", "img12", "img29", "img34", "img5", "img6"):
        rgb = decode_image((shared / "media" / f"{name}.jpg").read_bytes())
        Image.fromarray(rgb).save(photos / f"{name}.jpg")
        x0, y0, x1, y1 = detectors[0].detect(rgb).largest_first().xyxy[0].astype(int)
        Image.fromarray(rgb[max(0, y0) : y1, max(0, x0) : x1]).resize((112, 112)).save(crops / f"{name}.jpg")
    for detector in detectors:
        kind, seen = look_at(load_dataset(photos), detector)
        assert kind == "whole", seen
        assert "6 of 6 images" in seen
        kind, seen = look_at(load_dataset(crops), detector)
        assert kind == "crops", seen


def test_large_images_without_faces_are_not_taken_whole_but_small_ones_are(tmp_path: Path):
    for side, expected in ((600, "whole"), (64, "crops")):
        folder = tmp_path / str(side)
        folder.mkdir()
        Image.new("RGB", (side, side), "gray").save(folder / "a.png")
        kind, seen = look_at(load_dataset(folder), open_detector("haar"))
        assert kind == expected
        assert f"0 of 1 images looked at, which are {side} px" in seen


def test_unreadable_images_do_not_decide(tmp_path: Path):
    (tmp_path / "a.jpg").write_text("dear diary")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone")
    kind, seen = look_at(load_dataset(tmp_path), open_detector("haar"))
    assert (kind, seen) == ("crops", "no image of the sample could be read")
    Image.new("RGB", (600, 600), "gray").save(tmp_path / "c.png")
    assert look_at(load_dataset(tmp_path), open_detector("haar"))[0] == "whole"


def test_no_more_than_a_sample_is_looked_at(tmp_path: Path):
    class Counting:
        name = "counting"
        n = 0

        def detect(self, rgb: np.ndarray):
            self.n += 1
            return open_detector("haar").detect(rgb)

    for i in range(3 * SAMPLE_SIZE):
        Image.new("L", (24, 24)).save(tmp_path / f"{i}.png")
    counting = Counting()
    look_at(load_dataset(tmp_path), counting)
    assert counting.n == SAMPLE_SIZE


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (20_000, 2)])
def test_thin_images_have_no_face(shape: tuple[int, int]):
    assert face_share(np.zeros((*shape, 3), np.uint8), open_detector("haar")) == 0.0
