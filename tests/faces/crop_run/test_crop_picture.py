"""One image: how much of it is decoded, how it is turned, and which of its faces are taken."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scenes import HAAR, MARKED, scene

from ferkit.core.errors import ImageError
from ferkit.datasets.images import decode_image
from ferkit.faces.crop_image import CropResult, CropRunSettings, KnownBoxes, LazyImage, coarsest, crop_image
from ferkit.faces.cropping import CropSettings, FaceCropper
from ferkit.faces.detectors import HaarDetector, YuNetDetector

TWO = ((90, 110), (230, 120))


def stored(rgb: np.ndarray, kind: str = "JPEG", orientation: int = 1) -> bytes:
    """A file that shows ``rgb`` after its EXIF rotation."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = Image.fromarray(rgb)
    if orientation != 1:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, quality=95)
    return buffer.getvalue()


def cut(
    content: bytes,
    faces: CropSettings = HAAR,
    boxes: tuple = (),
    claimed_wh: tuple[int, int] | None = None,
    **values,
) -> list[CropResult]:
    settings = CropRunSettings(faces=faces, **{"size_wh": (64, 64), **values})
    cropper = FaceCropper(faces, HaarDetector, settings.size_wh, "stretch")
    return crop_image(content, KnownBoxes(boxes, claimed_wh), cropper, settings)


def statuses(cuts: list[CropResult]) -> list[str]:
    return [str(one.outcome.status) for one in cuts]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size_wh", [(321, 243), (320, 240), (51, 38)])
def test_a_reduced_image_is_the_image_in_small(kind: str, size_wh: tuple[int, int]):
    content = stored(cv2.resize(scene(0, TWO), size_wh), kind)
    whole = decode_image(content)
    for reduce in (1, 2, 4, 8):
        small = LazyImage(content).at(reduce)
        assert small.shape == (-(-size_wh[1] // reduce), -(-size_wh[0] // reduce), 3)
        expected = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - expected).mean() < 12


def test_only_the_size_that_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def watched(content: bytes, reduce: int = 1) -> np.ndarray:
        asked.append(reduce)
        return decode_image(content, reduce)

    monkeypatch.setattr("ferkit.faces.crop_image.decode_image", watched)
    large = cv2.resize(scene(0, ((110, 120),)), (3200, 2400))
    content = stored(large)
    (found,) = cut(content, size_wh=(64, 64), detect_size=320)
    assert asked == [8]  # a usual face of 480 pixels has 72 then
    asked.clear()
    (finer,) = cut(content, size_wh=(500, 500), detect_size=320)
    assert asked == [1]
    assert found.outcome.box is not None
    asked.clear()
    cut(content, size_wh=(80, 80), detect_size=320)
    assert asked == [4]  # and what the detector saw is good enough for the crop
    asked.clear()
    small = stored(cv2.resize(scene(0, ((160, 160),), zoom=16), (3200, 2400), interpolation=cv2.INTER_AREA))
    (tiny,) = cut(small, size_wh=(230, 230), detect_size=640)
    assert tiny.outcome.box is not None
    assert asked == [2, 1]  # this face was smaller than expected
    assert finer.outcome.box is not None
    assert np.abs(np.subtract(found.outcome.box, finer.outcome.box)).max() < 30
    asked.clear()
    (marked,) = cut(content, MARKED, ((600, 700, 1600, 1700),), size_wh=(700, 700))
    assert asked == [1]
    assert marked.rgb is not None
    assert np.array_equal(
        marked.rgb, cv2.resize(decode_image(content)[600:1800, 500:1700], (700, 700), interpolation=3)
    )


@pytest.mark.parametrize(
    ("have", "need", "reduce"), [(1000, 120, 8), (1000, 126, 4), (1000, 501, 1), (10, 64, 1)]
)
def test_the_coarsest_reduction_leaves_enough(have: float, need: float, reduce: int):
    assert coarsest(have, need) == reduce


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_the_image(orientation: int):
    upright = np.full((60, 100, 3), 255, np.uint8)
    upright[10:30, 50:90] = (255, 0, 0)
    content = stored(upright, orientation=orientation)
    raw = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    ys, xs = np.nonzero(raw[..., 1] < 128)
    in_stored = (float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
    image = LazyImage(content)
    assert image.size_wh == (100, 60)
    assert np.abs(np.array(image.upright(in_stored)) - (50, 10, 90, 30)).max() <= 1
    by_hand = cut(content, MARKED, (in_stored,), box_frame="stored", min_size=0)
    seen = cut(content, MARKED, ((50.0, 10.0, 90.0, 30.0),), box_frame="upright", min_size=0)
    assert by_hand[0].rgb is not None
    assert seen[0].rgb is not None
    assert np.abs(by_hand[0].rgb.astype(int) - seen[0].rgb).mean() < 6


def test_the_frame_of_a_box_is_known_by_the_claimed_size_or_by_where_it_fits():
    content = stored(np.zeros((60, 100, 3), np.uint8), orientation=6)  # stored as 60 wide, 100 high
    box = (10.0, 20.0, 50.0, 50.0)
    turned = LazyImage(content).upright(box)
    for claimed, boxes, expected in (
        ((60, 100), box, turned),
        ((100, 60), box, box),
        (None, box, box),
        (None, (10.0, 70.0, 50.0, 95.0), LazyImage(content).upright((10.0, 70.0, 50.0, 95.0))),
    ):
        (one,) = cut(content, MARKED, (boxes,), claimed)
        assert one.outcome.box == expected
        assert ("turned upright" in one.outcome.reason) == (expected != boxes)


def test_a_face_in_a_turned_photo_is_found_where_it_is_seen():
    upright = scene(0, ((110, 120),))
    (straight,), (turned,) = (cut(stored(upright, orientation=o)) for o in (1, 6))
    assert straight.rgb is not None
    assert turned.rgb is not None
    assert np.abs(straight.rgb.astype(int) - turned.rgb).mean() < 8


def test_of_several_faces_what_was_asked_for():
    content = stored(scene(0, TWO, zoom=45))
    assert statuses(cut(content)) == ["cropped", "not largest"]
    assert statuses(cut(content, which="all")) == ["cropped", "cropped"]
    assert statuses(cut(content, which="skip")) == ["several", "several"]
    assert statuses(cut(stored(scene(0, TWO[:1])), which="skip")) == ["cropped"]


def test_small_doubtful_and_blurred_faces_are_left_out_with_the_figure():
    content = stored(scene(0, TWO[:1], zoom=45))
    (small,) = cut(content, min_size=150)
    assert (str(small.outcome.status), small.rgb) == ("small", None)
    assert "less than 150" in small.outcome.reason
    (doubtful,) = cut(content, min_score=0.99)
    assert str(doubtful.outcome.status) == "doubtful"
    assert f"{doubtful.outcome.score:.2f} is below 0.99" in doubtful.outcome.reason
    blurred = stored(cv2.GaussianBlur(scene(0, TWO[:1], zoom=45), (0, 0), 9))
    (sharp,), (dim,) = (
        cut(one, MARKED, ((45, 60, 135, 160),), min_sharpness=0.5) for one in (content, blurred)
    )
    assert statuses([sharp, dim]) == ["cropped", "blurred"]
    # Small faces in the background do not make several of one.
    crowd = stored(scene(0, TWO, zoom=45))
    sides = sorted(c.outcome.box[2] - c.outcome.box[0] for c in cut(crowd, which="all") if c.outcome.box)
    assert statuses(cut(crowd, which="skip", min_size=sum(sides) / 2)) == ["cropped", "small"]


def test_images_without_a_face():
    empty = stored(np.full((100, 200, 3), 130, np.uint8))
    (skipped,) = cut(empty)
    assert (str(skipped.outcome.status), skipped.outcome.reason) == ("faceless", "no face found by haar")
    (whole,) = cut(empty, replace(HAAR, no_face="whole"))
    assert str(whole.outcome.status) == "whole"
    assert whole.rgb is not None
    assert whole.rgb.shape == (64, 64, 3)
    (unmarked,) = cut(empty, MARKED)
    assert unmarked.outcome.reason == "its box is not known, and no detector was asked"


def test_boxes_outside_and_over_the_border():
    content = stored(np.zeros((60, 100, 3), np.uint8))
    outside = (100.0, 10.0, 150.0, 40.0)
    over = (60.0, 10.0, 150.0, 55.0)
    cuts = cut(content, MARKED, (over, outside), which="all")
    assert statuses(cuts) == ["cropped", "outside"]
    assert cuts[0].outcome.box == (60, 10, 100, 55)
    assert cuts[0].outcome.reason == "the box reached out of the 100x60 image"
    assert [c.outcome.mark for c in cuts] == [0, 1]


@pytest.mark.parametrize("damage", ["empty", "text", "torn", "bomb"])
def test_damaged_images_are_errors_that_say_so(damage: str):
    content = {
        "empty": b"",
        "text": b"dear diary",
        "torn": stored(scene(0, TWO))[:5000],
        "bomb": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0),
    }[damage]
    with pytest.raises(ImageError, match=r"empty|not an image|damaged|million"):
        cut(content)


@pytest.mark.shared
def test_points_turn_faces_upright_also_where_the_box_is_known(shared: Path):
    photo = decode_image((shared / "media" / "img29.jpg").read_bytes())
    turn = cv2.getRotationMatrix2D((285, 262), 25, 1)
    content = stored(cv2.warpAffine(photo, turn, photo.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))
    settings = CropRunSettings(faces=CropSettings("yunet", "x", align=True, margin=0.1), size_wh=(112, 112))
    weights = shared / "models" / "face_detection_yunet_640.onnx"
    detector = YuNetDetector(weights)
    cropper = FaceCropper(settings.faces, lambda: detector, settings.size_wh, "stretch")
    (found,) = crop_image(content, KnownBoxes(), cropper, settings)
    assert found.outcome.box is not None
    (marked,) = crop_image(content, KnownBoxes((found.outcome.box,)), cropper, settings)
    assert marked.outcome.reason == ""
    for one in (found, marked):
        assert one.rgb is not None
        large = cv2.copyMakeBorder(cv2.resize(one.rgb, (336, 336)), 60, 60, 60, 60, cv2.BORDER_REPLICATE)
        points = detector.detect(large).keypoints
        assert points is not None
        (left, right), across = points[0, :2], 336 * 35 / 112 / 1.2
        assert abs(right[1] - left[1]) < 0.1 * (right[0] - left[0])
        assert right[0] - left[0] == pytest.approx(across, rel=0.15)
    (nowhere,) = crop_image(content, KnownBoxes(((0.0, 0.0, 30.0, 30.0),)), cropper, settings)
    assert nowhere.outcome.reason == "not turned upright: its eyes, nose and mouth were not found"
