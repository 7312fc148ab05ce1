import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import ImageError
from ferkit.core.types import Faces
from ferkit.datasets.images import decode_image
from ferkit.faces.cropping import CropSettings, FaceCropper
from ferkit.faces.detectors import open_detector


class Boxes:
    """A detector that finds what it is told."""

    name = "haar"

    def __init__(self, *boxes: tuple[float, ...]) -> None:
        self._boxes = np.array(boxes, np.float32).reshape(-1, 4)

    def detect(self, rgb: np.ndarray) -> Faces:
        return Faces(self._boxes, np.ones(len(self._boxes), np.float32))


IMAGE = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)


def test_whole_images_never_open_a_detector():
    def unwanted():
        raise AssertionError

    crop = FaceCropper(CropSettings.whole(), unwanted, (80, 60), "stretch").largest(IMAGE)
    assert crop.whole
    assert np.array_equal(crop.rgb[0], IMAGE)


def test_the_largest_face_is_cut_out_and_its_box_is_told():
    settings = CropSettings("haar", align=False, margin=0.0)
    cropper = FaceCropper(settings, lambda: Boxes((0, 0, 10, 10), (20, 20, 40.04, 40)), (20, 20), "stretch")
    crop = cropper.largest(IMAGE)
    assert crop.xyxy.round(1).tolist() == [[20.0, 20.0, pytest.approx(40.04, abs=0.06), 40.0]]
    assert np.array_equal(crop.rgb[0], IMAGE[20:40, 20:40])
    assert len(cropper.crops(IMAGE, cropper.faces(IMAGE))) == 2


def test_a_image_without_a_face_fails_or_is_taken_whole_as_the_settings_say():
    with pytest.raises(ImageError, match="no face found by haar"):
        FaceCropper(CropSettings("haar"), Boxes, (20, 20), "stretch").largest(IMAGE)
    crop = FaceCropper(CropSettings("haar", no_face="whole"), Boxes, (20, 20), "stretch").largest(IMAGE)
    assert crop.whole
    assert crop.rgb.shape == (1, 20, 20, 3)


def test_threads_at_a_time_have_a_detector_each_and_later_ones_take_those():
    made = []
    meeting = threading.Barrier(3)

    def opened() -> Boxes:
        made.append(threading.get_ident())
        meeting.wait(timeout=10)
        return Boxes((0, 0, 9, 9))

    cropper = FaceCropper(CropSettings("haar", align=False), opened, (8, 8), "stretch")
    with ThreadPoolExecutor(3) as pool:
        crops = list(pool.map(cropper.largest, [IMAGE] * 30))
    assert len(crops) == 30
    assert len(made) == len(set(made)) == 3
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(cropper.largest, [IMAGE] * 30))
    assert len(made) == 3


@pytest.mark.shared
@pytest.mark.parametrize("align", [True, False])
def test_a_photo_s_face_fills_its_crop(shared: Path, align: bool):
    yunet = shared / "models" / "face_detection_yunet_640.onnx"
    cropper = FaceCropper(
        CropSettings("yunet", None, align), lambda: open_detector("yunet", yunet), (112, 112), "stretch"
    )
    crop = cropper.largest(decode_image((shared / "media" / "img34.jpg").read_bytes()))
    again = open_detector("yunet", yunet).detect(
        np.pad(crop.rgb[0], ((56, 56), (56, 56), (0, 0)), mode="edge")
    )
    assert len(again) == 1
    x0, y0, x1, y1 = again.xyxy[0] - 56
    assert 70 < y1 - y0 < 125
    assert abs((x0 + x1) / 2 - 56) < 12
