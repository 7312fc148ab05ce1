from pathlib import Path

import pytest
from layout_files import image, labels, reasons, splits, text

from ferkit.core.errors import DataError
from ferkit.datasets.formats.numbered import read_rafdb


def official(root: Path) -> Path:
    text(
        root / "EmoLabel" / "list_patition_label.txt",
        "train_00001.jpg 5\ntrain_00002.jpg 1\n\ntest_0001.jpg 7\ntest_0002.jpg 9\ntest_0003.jpg 4\nnonsense\n",
    )
    for name in ("train_00001", "train_00002", "test_0001", "test_0099"):
        image(root / "Image" / "aligned" / f"{name}_aligned.jpg")
        image(root / "Image" / "original" / f"{name}.jpg", size=64)
    text(root / "Annotation" / "manual" / "train_00001_manu_attri.txt", "1.5\t2\n" * 5 + "1\n2\n3\n")
    text(root / "Annotation" / "manual" / "test_0001_manu_attri.txt", "1.5\t2\n" * 5 + "2\n0\n4\n")
    text(root / "Annotation" / "boundingbox" / "train_00001_boundingbox.txt", "3.5 4 30 40.25\n")
    text(root / "Annotation" / "boundingbox" / "train_00002_boundingbox.txt", "30 4 3 40\n")
    return root


def test_the_label_list_and_the_aligned_images(tmp_path: Path):
    found = read_rafdb(official(tmp_path))
    folder = "Image/aligned"
    assert labels(found) == {
        f"{folder}/train_00001_aligned.jpg": "sad",
        f"{folder}/train_00002_aligned.jpg": "surprise",
        f"{folder}/test_0001_aligned.jpg": "neutral",
    }
    assert list(splits(found).values()) == ["test", "train", "train"]
    attributes = {s.path[14:]: dict(s.attributes) for s in found.dataset.samples}
    assert attributes["train_00001_aligned.jpg"] == {"sex": "female", "race": "Asian", "age": "40-69"}
    assert attributes["test_0001_aligned.jpg"] == {"race": "Caucasian", "age": "70+"}  # 2: sex unsure
    assert reasons(found) == {
        "test_0002.jpg": "line 5 of EmoLabel/list_patition_label.txt is 'test_0002.jpg 9', "
        "not a name and a number 1 to 7",
        "test_0003.jpg": "there is no image of this name",
        "nonsense": "line 7 of EmoLabel/list_patition_label.txt is 'nonsense', not a name and a number 1 to 7",
        f"{folder}/test_0099_aligned.jpg": "no label list names it",
    }


def test_original_photos_have_their_boxes(tmp_path: Path):
    found = read_rafdb(official(tmp_path), "original")
    boxes = {sample.path: sample.box for sample in found.dataset.samples}
    assert boxes == {
        "Image/original/train_00001.jpg": (3.5, 4.0, 30.0, 40.25),
        "Image/original/test_0001.jpg": None,
    }
    assert "inverted" in reasons(found)["train_00002.jpg"]


def test_the_form_that_kaggle_has(tmp_path: Path):
    for part, name, number in (
        ("train", "train_00001", 5),
        ("train", "train_00002", 1),
        ("test", "test_0001", 7),
    ):
        image(tmp_path / "DATASET" / part / str(number) / f"{name}_aligned.jpg")
    # Without the tables the folders count; with them, they do.
    wanted = {
        "DATASET/train/5/train_00001_aligned.jpg": "sad",
        "DATASET/train/1/train_00002_aligned.jpg": "surprise",
        "DATASET/test/7/test_0001_aligned.jpg": "neutral",
    }
    found = read_rafdb(tmp_path)
    assert labels(found) == wanted
    assert splits(found) == {path: path.split("/")[1] for path in wanted}
    text(
        tmp_path / "train_labels.csv",
        "image,label\ntrain_00001_aligned.jpg,5\ntrain_00002_aligned.jpg,1\nx.jpg,2\n",
    )
    text(tmp_path / "test_labels.csv", "image,label\ntest_0001_aligned.jpg,7\n")
    found = read_rafdb(tmp_path)
    assert labels(found) == wanted
    assert splits(found) == {path: path.split("/")[1] for path in wanted}
    assert reasons(found) == {"x.jpg": "there is no image of this name"}


def test_other_folders_are_refused(tmp_path: Path):
    image(tmp_path / "cats" / "a.jpg")
    with pytest.raises(DataError, match=r"found none that can be used.*'cats' is no class 1 to 7"):
        read_rafdb(tmp_path)


def test_takes_of_another_data_set_are_no_classes(tmp_path: Path):
    image(tmp_path / "cohn-kanade-images" / "S005" / "001" / "S005_001_00000001.png")
    with pytest.raises(DataError):
        read_rafdb(tmp_path)
