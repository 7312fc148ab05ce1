from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.datasets.archives import read_npz

GRAY = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)


def saved(tmp_path: Path, **arrays: object) -> Path:
    np.savez(tmp_path / "faces.npz", **arrays)
    return tmp_path / "faces.npz"


@pytest.mark.parametrize(
    "images",
    [
        GRAY,
        GRAY[..., None],
        np.repeat(GRAY[..., None], 3, axis=3),
        GRAY / 255.0,
        GRAY.astype(np.float32),
        GRAY.astype(int),
    ],
    ids=["gray", "one channel", "rgb", "0..1", "0..255 float", "int"],
)
def test_images_in_every_usual_form(tmp_path: Path, images: np.ndarray):
    data = read_npz(saved(tmp_path, images=images, labels=["a", "b", "a", "b"]))
    for i, sample in enumerate(data.samples):
        rgb = data.read(sample)
        assert rgb.shape == (6, 5, 3)
        assert rgb.dtype == np.uint8
        assert np.array_equal(rgb[..., 2], GRAY[i])
    assert data.class_counts() == {"a": 2, "b": 2}


def test_all_that_is_known_of_each_image(tmp_path: Path):
    path = saved(
        tmp_path, x=GRAY, y=np.array([[1], [0], [1], [1]], np.uint8), class_names=["기쁨", "슬픔"],
        split=["Training", "Training", "PrivateTest", ""], groups=np.array([7, 7, 8, 9]),
    )  # fmt: skip
    assert [(s.path, s.label, s.split, s.group) for s in read_npz(path).samples] == [
        ("all/000003", "슬픔", None, "9"),
        ("test/000002", "슬픔", "test", "8"),
        ("train/000000", "슬픔", "train", "7"),
        ("train/000001", "기쁨", "train", "7"),
    ]


@pytest.mark.parametrize(("x", "y"), [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_a_pair_of_arrays_a_split(tmp_path: Path, x: str, y: str):
    arrays = {
        x.format("train"): GRAY[:3],
        y.format("train"): [0, 1, 0],
        x.format("test"): GRAY[3:],
        y.format("test"): [1],
    }
    data = read_npz(saved(tmp_path, **arrays, class_names=np.array([b"sad", b"happy"])))
    assert [(s.path, s.label, s.split) for s in data.samples] == [
        ("test/000003", "happy", "test"),
        ("train/000000", "sad", "train"),
        ("train/000001", "happy", "train"),
        ("train/000002", "sad", "train"),
    ]
    assert np.array_equal(data.read(data.samples[0])[..., 0], GRAY[3])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 1, 3, 1], "3"),
        ([3.0, 1.0, 3.0, 1.0], "3"),
        ([b"fun", b"x", b"y", b"z"], "fun"),
        (["", "x", "y", "z"], None),
    ],
)
def test_labels_without_class_names(tmp_path: Path, labels: list, expected: str | None):
    assert read_npz(saved(tmp_path, images=GRAY, labels=labels)).samples[0].label == expected


def test_images_without_labels(tmp_path: Path):
    data = read_npz(saved(tmp_path, images=GRAY))
    assert data.class_counts() == {}
    assert len(data) == 4


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"faces": GRAY}, "expected arrays 'images' and 'labels'.*faces"),
        ({"images": GRAY, "labels": [0, 1]}, "one label for each of 4 images"),
        ({"images": GRAY, "labels": np.eye(4) / 2}, "one label for each of 4 images"),
        ({"images": GRAY, "labels": [0, 1, 2, 0], "class_names": ["a", "b"]}, r"labels 0..1 .*found 0..2"),
        ({"images": GRAY, "labels": [0, 1, -1, 0], "class_names": ["a", "b"]}, r"found -1..1"),
        ({"images": GRAY, "labels": [0.5, 1, 1, 0]}, "whole numbers as labels"),
        ({"images": GRAY, "labels": [np.inf, 1, 1, 0]}, "whole numbers as labels"),
        ({"images": GRAY, "split": ["train"]}, "expected 'split'"),
        ({"images": GRAY, "split": ["soon"] * 4}, "expected train, val or test .*'soon'"),
        ({"images": GRAY, "groups": np.zeros((4, 2))}, "expected 'groups'"),
        ({"images": GRAY[0]}, r"shape \(n, H, W"),
        ({"images": GRAY[:0]}, r"shape \(n, H, W"),
        ({"images": np.zeros((4, 6, 5, 2), np.uint8)}, r"shape \(n, H, W"),
        ({"images": GRAY * 1.0 - 128}, r"0..255 or 0..1 .*found -128"),
        ({"images": np.full((1, 4, 4), np.nan)}, "no pixels"),
        ({"images": np.full((1, 4, 4), "x")}, "no pixels"),
        ({"x_train": GRAY, "x_test": GRAY[:, :3]}, "images of one size"),
        ({"images": np.array([{}, {}], object)}, "plain arrays"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_is_no_such_file_is_refused(tmp_path: Path, arrays: dict, what: str):
    with pytest.raises(DataError, match=what):
        read_npz(saved(tmp_path, **arrays))


@pytest.mark.parametrize("damage", ["empty", "text", "single array", "cut", "flipped"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str):
    path = tmp_path / "faces.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 255, (9, 40, 40), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    if damage == "single array":
        np.save(tmp_path / "x.npy", GRAY)
        content = bytearray((tmp_path / "x.npy").read_bytes())
    path.write_bytes({"empty": b"", "text": b"dear diary", "cut": content[:-100]}.get(damage, bytes(content)))
    with pytest.raises(DataError, match=r"expected an \.npz file"):
        read_npz(path)


@pytest.mark.parametrize(
    ("train", "val"), [("XTrain", "XVal"), ("train_x", "valid_x"), ("images_train", "images_validation")]
)
def test_arrays_are_known_in_every_spelling(tmp_path: Path, train: str, val: str):
    labels = {
        name.replace("X", "y").replace("x", "y").replace("images", "labels"): [0] for name in (train, val)
    }
    arrays = {train: GRAY[:1], val: GRAY[1:2], "images": GRAY[2:], **labels, "classes": ["기쁨"]}
    found = [(s.path, s.label, s.split) for s in read_npz(saved(tmp_path, **arrays)).samples]
    assert found == [
        ("all/000000", None, None), ("all/000001", None, None), ("train/000002", "기쁨", "train"),
        ("val/000003", "기쁨", "val"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (np.eye(2, dtype=np.float32)[[1, 0, 1, 0]], ["1", "0", "1", "0"]),
        (["기쁨".encode("cp949"), "슬픔".encode("cp949"), b" a", b"None"], ["기쁨", "슬픔", "a", None]),
    ],
)
def test_labels_come_one_hot_and_in_cp949(tmp_path: Path, labels: object, read: list[str | None]):
    data = read_npz(saved(tmp_path, x=GRAY, y=labels))
    assert [sample.label for sample in data.samples] == read


def test_channels_may_come_first_and_a_bad_split_costs_one_image(tmp_path: Path):
    path = saved(tmp_path, x=np.stack([GRAY] * 3, axis=1), split=["train", "?", "test", ""])
    data = read_npz(path)
    assert np.array_equal(data.read(data.samples[1])[..., 1], GRAY[2])
    assert [name for name, _ in data.left_out] == ["image 1"]


def test_python_objects_are_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(DataError, match=r"y.npy holds Python objects; save it with .astype\(str\)"):
        read_npz(saved(tmp_path, x=GRAY, y=np.array(["a", "b", "a", None], object)))
