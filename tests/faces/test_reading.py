"""The one loop: every image in its order, whatever can be read, with the network's words on its own crops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.core.errors import ImageError
from ferkit.core.types import Faces
from ferkit.datasets.dataset import Sample, Stamp
from ferkit.faces.cropping import Cropping, CropSettings, FaceCropper, cropping_as_trained
from ferkit.faces.reading import apply_network, read_crops, some_crops

BROKEN, GONE = -1, -2


class Numbers:
    """A source whose images are one gray level; how many faces each has stands in its name, as ``level-faces``."""

    def stamp(self, path: str) -> Stamp:
        return Stamp(1, 0)

    def read(self, path: str) -> bytes:
        if int(path.split("_")[2]) == GONE:
            raise FileNotFoundError(2, "No such file or directory")
        return path.encode()

    def decode(self, content: bytes) -> np.ndarray:
        _, level, faces = content.decode().split("_")
        if int(faces) == BROKEN:
            raise ImageError("not an image")
        rgb = np.full((40, 40, 3), int(level), np.uint8)
        rgb[0, 0] = int(faces)
        return rgb


class Corner:
    """Finds as many faces as the first pixel says."""

    name = "corner"

    def detect(self, rgb: np.ndarray) -> Faces:
        n = int(rgb[0, 0, 0])
        return Faces(np.tile(np.float32([[10, 10, 30, 30]]), (n, 1)), np.ones(n, np.float32))


def samples_of(numbers: list[tuple[int, int]]) -> list[Sample]:
    return [Sample(f"{i}_{level}_{faces}") for i, (level, faces) in enumerate(numbers)]


def cropper(no_face: str = "skip") -> FaceCropper:
    how = CropSettings("haar", None, align=False, margin=0.0, no_face=no_face)  # type: ignore[arg-type]
    return FaceCropper(how, Corner, (8, 8), "stretch")


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.tuples(st.integers(0, 255), st.integers(GONE, 5)), max_size=40),
    batch_size=st.integers(1, 9),
    workers=st.integers(1, 3),
    all_faces=st.booleans(),
)
def test_every_image_comes_back_in_its_order_with_its_own_crops(
    numbers: list[tuple[int, int]], batch_size: int, workers: int, all_faces: bool
) -> None:
    largest_call = 0

    def network(crops: np.ndarray) -> np.ndarray:
        nonlocal largest_call
        largest_call = max(largest_call, len(crops))
        return crops[:, 4, 4, :2].astype(np.float32)

    images = read_crops(
        Numbers(), samples_of(numbers), cropper(), all_faces=all_faces, batch_size=batch_size, workers=workers
    )
    found = list(apply_network(images, network, 2, batch_size))
    assert [image.sample for image, _ in found] == samples_of(numbers)
    assert largest_call <= batch_size
    for (image, X), (level, faces) in zip(found, numbers, strict=True):
        n = max(0, faces) if all_faces else min(max(0, faces), 1)
        assert X.shape == (n, 2)
        assert (level == X).all()
        failed = faces < 0 or (faces == 0 and not all_faces)
        assert (image.error is not None) == failed
        assert (image.sha256 is None) == (faces == GONE)


def test_reasons_say_what_is_wrong_and_whole_images_are_told() -> None:
    numbers = [(9, GONE), (9, BROKEN), (9, 0), (9, 1)]
    reasons = [image.error for image in read_crops(Numbers(), samples_of(numbers), cropper())]
    assert reasons == [
        "cannot be read: No such file or directory",
        "not an image",
        "no face found by haar",
        None,
    ]
    kept = [image.found.whole for image in read_crops(Numbers(), samples_of(numbers), cropper("whole"))]
    assert kept == [False, False, True, False]
    assert [image.sample.path for image in some_crops(Numbers(), samples_of(numbers * 9), cropper(), 3)] == [
        "3_9_1",
        "7_9_1",
        "11_9_1",
    ]


@pytest.mark.parametrize(
    ("kind", "was", "asked", "takes", "precropped"),
    [
        ("whole", "none", "auto", "none", False),
        ("whole", "none", "haar", "haar", False),
        ("crops", "none", "auto", "haar", True),
        ("crops", "none", "none", "none", False),
        ("detected", "haar", "auto", "haar", False),
        ("detected", "given", "auto", "haar", False),
        ("detected", "haar", "none", "none", False),
    ],
)
def test_a_model_is_used_as_it_was_trained_unless_another_way_is_asked_for(
    kind: str,
    was: str,
    asked: str,
    takes: str,
    precropped: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FER_OFFLINE", "1")
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path))
    trained = Cropping(CropSettings(was, None, align=False, margin=0.3), kind=kind)  # type: ignore[arg-type]
    found = cropping_as_trained(trained, asked)
    assert (found.settings.detector, found.detect_precropped) == (takes, precropped)
    assert found.reason.startswith("faces: ")
    if kind == "detected" and takes != "none":
        assert found.settings.margin == 0.3
