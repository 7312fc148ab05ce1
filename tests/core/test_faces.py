import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.core.types import Faces


def three() -> Faces:
    xyxy = np.array([[0, 0, 10, 10], [0, 0, 30, 30], [5, 5, 25, 25]], np.float32)
    points = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    return Faces(xyxy, np.array([0.9, 0.8, 0.7], np.float32), points, np.array([4, 5, 6]))


def test_the_largest_comes_first_with_all_that_belongs_to_it():
    faces = three().largest_first()
    assert faces.track_id is not None
    assert faces.keypoints is not None
    assert faces.track_id.tolist() == [5, 6, 4]
    assert faces.keypoints[0, 0].tolist() == [10, 11]
    assert faces.confidence.tolist() == pytest.approx([0.8, 0.7, 0.9])


@pytest.mark.parametrize("index", [[2], slice(2, 3), np.array([False, False, True])])
def test_faces_are_picked_by_positions_slices_and_masks(index):
    picked = three()[index]
    assert len(picked) == 1
    assert picked.xyxy.tolist() == [[5, 5, 25, 25]]


def test_no_faces_have_the_shapes_of_faces():
    none = Faces.none()
    assert len(none) == 0
    assert none.xyxy.shape == (0, 4)
    assert len(none.largest_first()) == 0


@pytest.mark.parametrize("field", ["confidence", "keypoints", "track_id"])
def test_arrays_of_another_length_are_refused(field: str):
    arrays = {"confidence": np.zeros(3), "keypoints": np.zeros((3, 5, 2)), "track_id": np.zeros(3, int)}
    arrays[field] = arrays[field][:2]
    with pytest.raises(DataError, match=f"expected {field} of shape"):
        Faces(np.zeros((3, 4), np.float32), **arrays)
