import shutil
from pathlib import Path

import pytest
from layout_files import image, labels, reasons, text

from ferkit.core.errors import DataError
from ferkit.datasets.formats.numbered import read_fer2013

PLUS = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"


def folder(root: Path) -> Path:
    """Rows 0, 2, 3 and 4 of fer2013.csv, as fer dataset export writes them."""
    for name in (
        "train/angry/000000.png",
        "train/happy/fer0000002.png",
        "test/sad/000003.png",
        "test/sad/000004.png",
    ):
        image(root / name)
    return root


def votes(path: Path) -> Path:
    rows = (
        "Training,fer0000000.png,4,0,0,1,5,0,0,0,0,0",
        "Training,,0,0,0,0,0,0,0,0,0,10",
        "Training,fer0000002.png,0,10,0,0,0,0,0,0,0,0",
        "PublicTest,fer0000003.png,5,0,0,5,0,0,0,0,0,0",
    )
    return text(path, PLUS + "\n".join(rows) + "\n")


def test_folders_alone(tmp_path: Path):
    found = read_fer2013(folder(tmp_path / "fer"))
    assert found.dataset.class_counts() == {"angry": 1, "happy": 1, "sad": 2}
    assert found.problems == ()


def test_votes_are_joined_by_the_row_in_the_name(tmp_path: Path):
    found = read_fer2013(folder(tmp_path / "fer"), votes(tmp_path / "fer2013new.csv"))
    by_path = {sample.path: sample.attributes for sample in found.dataset.samples}
    assert by_path["train/angry/000000.png"]["ferplus_anger"] == "5"
    assert by_path["train/happy/fer0000002.png"]["ferplus_happiness"] == "10"
    assert list(by_path["train/angry/000000.png"])[:3] == [
        "ferplus_neutral",
        "ferplus_happiness",
        "ferplus_surprise",
    ]
    assert reasons(found) == {"test/sad/000004.png": "fer2013new.csv has no votes for it"}


def test_the_majority_is_the_label_and_ties_are_left_out(tmp_path: Path):
    found = read_fer2013(folder(tmp_path / "fer"), votes(tmp_path / "fer2013new.csv"), majority=True)
    assert labels(found) == {"train/angry/000000.png": "angry", "train/happy/fer0000002.png": "happy"}
    assert found.dataset.samples[0].attributes["fer2013"] == "angry"
    assert "neutral, sadness (5 votes)" in reasons(found)["test/sad/000003.png"]


@pytest.mark.parametrize("place", ["fer/labels.csv", "lists/votes.csv"])
def test_votes_are_joined_by_path(tmp_path: Path, place: str):
    folder(tmp_path / "fer")
    prefix = "" if place.startswith("fer/") else "../fer/"
    header = "path,label," + PLUS.partition("name,")[2]
    text(tmp_path / place, f"{header}{prefix}test/sad/000004.png,sad,0,0,0,9,1,0,0,0,0,0\n")
    found = read_fer2013(tmp_path / "fer", None if prefix == "" else tmp_path / place)
    assert found.dataset.samples[1].attributes["ferplus_sadness"] == "9"
    assert len(found.problems) == 3


def test_what_does_not_belong_together_is_refused(tmp_path: Path):
    plus = votes(tmp_path / "fer2013new.csv")
    with pytest.raises(DataError, match="expected the votes of FER"):
        read_fer2013(folder(tmp_path / "fer"), majority=True)
    with pytest.raises(DataError, match="expected columns neutral, happiness"):
        read_fer2013(tmp_path / "fer", text(tmp_path / "x.csv", "a,b\n1,2\n"))
    with pytest.raises(DataError, match="expected whole numbers of votes"):
        read_fer2013(tmp_path / "fer", text(tmp_path / "y.csv", PLUS + "T,a," + "x," * 9 + "1\n"))
    shutil.rmtree(tmp_path / "fer")
    image(tmp_path / "fer" / "train" / "angry" / "Training_3908.jpg")
    with pytest.raises(DataError, match=r"do not tell the row in fer2013\.csv"):
        read_fer2013(tmp_path / "fer", plus)
    with pytest.raises(DataError, match="say where to write them with --extract"):
        read_fer2013(text(tmp_path / "fer2013.csv", "emotion,pixels\n"))
