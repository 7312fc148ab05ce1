import cv2
import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.core.types import Faces
from ferkit.faces.cropping import ARCFACE_TEMPLATE, aligned_crop, crop_faces, fit_to, square_crop


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose pixel (x, y) has the colour (x, y, 7)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 7)], axis=2).astype(np.uint8)


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A soft random image that survives interpolation."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_a_square_around_a_box_inside_the_image():
    crop = square_crop(coordinates(100, 200), np.array([50, 40, 70, 60]), margin=0.0)
    assert crop.shape == (20, 20, 3)
    assert crop[0, 0].tolist() == [50, 40, 7]
    assert crop[-1, -1].tolist() == [69, 59, 7]


def test_a_tall_box_becomes_a_square_with_the_same_centre_and_margin():
    crop = square_crop(coordinates(100, 200), np.array([50, 20, 70, 60]), margin=0.25)
    assert crop.shape == (60, 60, 3)
    assert crop[0, 0].tolist() == [30, 10, 7]


@pytest.mark.parametrize(
    ("box", "corner", "expected"),
    [
        ([-10, -10, 10, 10], (0, 0), [0, 0, 7]),
        ([-10, -10, 10, 10], (-1, -1), [9, 9, 7]),
        ([190, 90, 210, 110], (-1, -1), [199, 99, 7]),
        ([190, 90, 210, 110], (0, 0), [190, 90, 7]),
        ([-50, -50, 250, 250], (150, 150), [100, 99, 7]),
    ],
)
def test_what_lies_outside_repeats_the_border(box: list[int], corner: tuple[int, int], expected: list[int]):
    crop = square_crop(coordinates(100, 200), np.array(box), margin=0.0)
    assert crop.shape == (box[2] - box[0], box[2] - box[0], 3)
    assert crop[corner].tolist() == expected


def test_a_box_of_a_point_is_one_pixel():
    crop = square_crop(coordinates(50, 50), np.array([20.0, 20.0, 20.0, 20.0]), margin=0.1)
    assert crop.shape == (1, 1, 3)


@pytest.mark.parametrize("box", [[60, 0, 80, 20], [0, 60, 20, 80], [-40, 0, -20, 20], [0, -40, 20, -20]])
def test_a_box_beside_the_image_is_refused(box: list[int]):
    with pytest.raises(DataError, match="inside the 50x50 image"):
        square_crop(coordinates(50, 50), np.array(box), margin=0.0)


@pytest.mark.parametrize(
    ("scale", "degrees", "shift"), [(1.0, 0, (0, 0)), (1.7, 25, (60, 10)), (2.5, -70, (-20, 250))]
)
def test_alignment_undoes_a_known_rotation_scale_and_shift(
    scale: float, degrees: float, shift: tuple[float, float]
):
    face = blobs(112, 112)
    matrix = cv2.getRotationMatrix2D((56, 56), degrees, scale)
    matrix[:, 2] += np.array([150, 150]) - 56 + shift
    image = cv2.warpAffine(face, matrix, (600, 600), flags=cv2.INTER_CUBIC)
    points = ARCFACE_TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
    crop = aligned_crop(image, points.astype(np.float32), (112, 112), margin=0.0)
    assert np.abs(crop.astype(int) - face)[8:-8, 8:-8].mean() < 3


def test_the_template_is_centred_and_shrunk_by_the_margin():
    """Drawn points land where the template says, in a crop that is no square and has a margin."""
    image = np.zeros((112, 112, 3), np.uint8)
    for x, y in ARCFACE_TEMPLATE:
        cv2.circle(image, (round(float(x)), round(float(y))), 3, (255, 255, 255), -1)
    crop = aligned_crop(image, ARCFACE_TEMPLATE, (200, 160), margin=0.25)
    assert crop.shape == (160, 200, 3)
    expected = (ARCFACE_TEMPLATE - 56) * (160 / 112 / 1.5) + (100, 80)
    for x, y in expected:
        assert crop[round(float(y)), round(float(x)), 0] > 150
    _, _, _, centres = cv2.connectedComponentsWithStats((crop[..., 0] > 127).astype(np.uint8))
    assert np.abs(np.sort(centres[1:], axis=0) - np.sort(expected, axis=0)).max() < 1


def test_points_on_one_spot_still_give_a_crop():
    crop = aligned_crop(blobs(50, 50), np.full((5, 2), 25, np.float32), (112, 112), margin=0.0)
    assert crop.shape == (112, 112, 3)


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (112, 112), (30, 31), (500, 333), (1, 90), (113, 7)])
@pytest.mark.parametrize("size_wh", [(112, 112), (160, 96)])
def test_letterbox_is_what_deepface_does(shape: tuple[int, int], size_wh: tuple[int, int]):
    deepface = pytest.importorskip("deepface.modules.preprocessing")
    image = blobs(*shape, seed=shape[0])
    try:
        theirs = deepface.resize_image(image, size_wh[::-1])[0] * 255
    except cv2.error:
        pytest.skip("DeepFace gives up on so thin an image")
    ours = fit_to(image, size_wh, "letterbox")
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, np.rint(theirs).astype(np.uint8))


def test_stretch_averages_when_it_shrinks_and_keeps_what_has_the_size():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.all(fit_to(stripes, (16, 16)) == 100)
    assert fit_to(stripes, (64, 64)) is stripes
    assert fit_to(stripes, (100, 80)).shape == (80, 100, 3)
    with pytest.raises(DataError, match="'stretch' or 'letterbox'"):
        fit_to(stripes, (16, 16), "crop")


def test_faces_are_aligned_where_they_have_points_and_cut_square_where_not():
    image = blobs(300, 300)
    box = np.array([[20, 30, 80, 90], [150, 150, 250, 250]], np.float32)
    points = (ARCFACE_TEMPLATE[None] * 0.5 + np.array([[[30, 30]], [[160, 160]]])).astype(np.float32)
    faces = Faces(box, np.ones(2, np.float32), points)
    aligned = crop_faces(image, faces, (56, 56), align=True, margin=0.0, resize="stretch")
    square = crop_faces(image, faces, (60, 60), align=False, margin=0.0, resize="stretch")
    assert np.abs(aligned[0].astype(int) - image[30:86, 30:86]).max() <= 1
    assert np.array_equal(square[0], image[30:90, 20:80])
    assert crop_faces(image, Faces.none(), (56, 56), align=True, margin=0.0, resize="stretch").shape == (
        0,
        56,
        56,
        3,
    )
