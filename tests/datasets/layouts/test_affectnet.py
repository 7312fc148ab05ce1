from pathlib import Path

import numpy as np
import pytest
from layout_files import image, labels, reasons, splits, text

from ferkit.core.errors import DataError
from ferkit.datasets.formats.numbered import read_affectnet


def test_arrays_beside_the_images(tmp_path: Path):
    for part, name, value in (
        ("train_set", "0", np.array("1")),
        ("train_set", "12", np.array(6)),
        ("val_set", "3", np.array(["7"])),
        ("val_set", "4", np.array("8")),
        ("val_set", "5", np.array([1, 2])),
        ("val_set", "6", np.array("0")),
    ):
        if name != "6":
            image(tmp_path / part / "images" / f"{name}.jpg")
        (tmp_path / part / "annotations").mkdir(exist_ok=True, parents=True)
        np.save(tmp_path / part / "annotations" / f"{name}_exp.npy", value)
        np.save(tmp_path / part / "annotations" / f"{name}_val.npy", np.array("0.3"))
    image(tmp_path / "train_set" / "images" / "99.jpg")
    (tmp_path / "val_set" / "annotations" / "7_exp.npy").write_bytes(b"no array")
    found = read_affectnet(tmp_path)
    assert labels(found) == {
        "train_set/images/0.jpg": "happy",
        "train_set/images/12.jpg": "angry",
        "val_set/images/3.jpg": "contempt",
    }
    assert list(splits(found).values()) == ["train", "train", "val"]
    found_reasons = reasons(found)
    assert found_reasons["val_set/annotations/4_exp.npy"] == "it is marked as 'none', which is no expression"
    assert found_reasons["val_set/annotations/5_exp.npy"] == "expected one value, found (2,)"
    assert found_reasons["val_set/annotations/6_exp.npy"] == "its image is not there"
    assert found_reasons["train_set/images/99.jpg"] == "it has no annotation"
    assert "it is no array" in found_reasons["val_set/annotations/7_exp.npy"]
    assert len(found_reasons) == 5


HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
)


@pytest.mark.parametrize("header", [HEADER, ""])
def test_lists_with_boxes(tmp_path: Path, header: str):
    lists = tmp_path / "Manually_Annotated_file_lists"
    text(
        lists / "training.csv",
        header + "689/a.jpg,134,135,899,890,181.6;530.9,1,0.78,-0.03\n"
        "392/b.png,10,20,30,40,1;2,10,-2,-2\n12/c.jpg,0,0,5,5,1;2,3,0.1,0.2\n1/gone.jpg,0,0,5,5,1;2,0,0,0\n",
    )
    text(lists / "validation.csv", header + "9/d.jpg,1,2,-3,4,1;2,5,-0.5,-2\n")
    for name in ("689/a.jpg", "392/b.png", "12/c.jpg", "9/d.jpg"):
        image(tmp_path / "Manually_Annotated_Images" / name)
    found = read_affectnet(tmp_path)
    images = "Manually_Annotated_Images"
    assert labels(found) == {
        f"{images}/689/a.jpg": "happy", f"{images}/12/c.jpg": "surprise", f"{images}/9/d.jpg": "disgust",
    }  # fmt: skip
    by_path = {sample.path: sample for sample in found.dataset.samples}
    assert by_path[f"{images}/689/a.jpg"].box == (134, 135, 1033, 1025)
    assert by_path[f"{images}/689/a.jpg"].attributes == {"valence": "0.78", "arousal": "-0.03"}
    assert by_path[f"{images}/9/d.jpg"].attributes == {"valence": "-0.5"}
    assert by_path[f"{images}/9/d.jpg"].box is None
    assert by_path[f"{images}/9/d.jpg"].split == "val"
    assert reasons(found) == {
        "392/b.png": "it is marked as 'no face', which is no expression",
        "1/gone.jpg": "there is no image of this name",
    }


def test_the_table_that_kaggle_has(tmp_path: Path):
    text(
        tmp_path / "labels.csv",
        ",pth,label,relFCs\n0,anger/image0.jpg,surprise,0.87\n1,happy/image1.jpg,happy,0.9\n",
    )
    image(tmp_path / "anger" / "image0.jpg")
    image(tmp_path / "happy" / "image1.jpg")
    found = read_affectnet(tmp_path)
    assert labels(found) == {"anger/image0.jpg": "surprise", "happy/image1.jpg": "happy"}
    assert found.dataset.samples[0].attributes == {"relFCs": "0.87"}


def test_numbered_folders(tmp_path: Path):
    for name in ("train/0/a.jpg", "train/7/b.jpg", "val/3/c.jpg", "val/9/d.jpg"):
        image(tmp_path / name)
    found = read_affectnet(tmp_path)
    assert labels(found) == {
        "train/0/a.jpg": "neutral",
        "train/7/b.jpg": "contempt",
        "val/3/c.jpg": "surprise",
    }
    assert list(splits(found).values()) == ["train", "train", "val"]
    assert reasons(found) == {"val/9/d.jpg": "it is marked as 'uncertain', which is no expression"}


def test_other_folders_are_refused(tmp_path: Path):
    image(tmp_path / "cats" / "a.jpg")
    with pytest.raises(DataError, match="found none that can be used"):
        read_affectnet(tmp_path)
