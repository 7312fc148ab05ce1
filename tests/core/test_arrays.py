import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.core.types import check_crops, check_features, check_image


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8), [[[0, 0, 0]]],
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_with_what_was_found(value):
    with pytest.raises(DataError, match="uint8 RGB image") as error:
        check_image(value)
    assert str(getattr(value, "shape", "list")) in str(error.value)


def test_crops_of_another_size_are_refused_width_and_height_in_their_places():
    crops = np.zeros((2, 96, 112, 3), np.uint8)
    assert check_crops(crops, (112, 96)) is crops
    with pytest.raises(DataError, match=r"\(n, 112, 96, 3\), found uint8 \(2, 96, 112, 3\)"):
        check_crops(crops, (96, 112))
    with pytest.raises(DataError, match=r"found float32"):
        check_crops(crops.astype(np.float32))


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [np.inf, -np.inf]])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_that_are_not_finite_are_counted(bad: list[float], dtype: type):
    X = np.full((5, 8), 6e4, dtype)
    assert check_features(X, 8) is X
    X[3, : len(bad)] = bad
    with pytest.raises(DataError, match="NaN or infinity in 1 of 5 rows"):
        check_features(X)


def test_embeddings_of_another_shape_are_refused():
    for X in (np.zeros((5, 7), np.float32), np.zeros(8, np.float32), np.zeros((5, 8), int)):
        with pytest.raises(DataError, match=r"shape \(n, 8\)"):
            check_features(X, 8)
