import unicodedata
from pathlib import Path

import pytest
from layout_files import image, labels, reasons, text

from ferkit.core.errors import DataError
from ferkit.datasets.formats.load import Naming, read_folders, read_list

PERSON = "0123456789abcdef" * 4


def nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def test_folders_with_numbers_for_classes(tmp_path: Path):
    for name in ("1/a.png", "2/b.png", "3/c.png"):
        image(tmp_path / name)
    text(tmp_path / "1" / "notes.docx", "x")
    text(tmp_path / "Thumbs.db", "x")
    found = read_folders(tmp_path, Naming(classes={1: "surprise", 2: "fear"}))
    assert labels(found) == {"1/a.png": "surprise", "2/b.png": "fear"}
    assert reasons(found) == {
        "1/notes.docx": ".docx",
        "3/c.png": "its class is none of those given: '3'",
    }


@pytest.mark.parametrize(("sign", "encoding"), [(",", "utf-8"), (";", "cp949"), ("\t", "utf-8-sig")])
def test_a_table_of_any_delimiter_and_encoding(tmp_path: Path, sign: str, encoding: str):
    image(tmp_path / "사진" / "가.png")
    image(tmp_path / "사진" / f"{PERSON}_여.png")
    rows = [
        ("Image", "Mood", "path"),
        ("사진/가.png", "기쁨", "x"),
        (f"사진\\{PERSON}_여.png", "슬픔", "y"),
    ]
    text(tmp_path / "list.csv", "\n".join(sign.join(row) for row in rows), encoding)
    naming = Naming(columns={"path": "Image", "label": "Mood"})
    found = read_list(tmp_path / "list.csv", naming)
    assert labels(found) == {"사진/가.png": "기쁨", f"사진/{PERSON}_여.png": "슬픔"}
    assert {s.group for s in found.dataset.samples} == {None, PERSON}
    assert {s.attributes["path_"] for s in found.dataset.samples} == {
        "x",
        "y",
    }  # the other column of that name


def test_rows_that_cannot_be_used_are_listed_and_the_others_are_taken(tmp_path: Path):
    for name in ("a.png", "b.png", "c.png"):
        image(tmp_path / "pictures" / name)
    text(
        tmp_path / "list.csv",
        "path,label,split,left,top,right,bottom\na.png,x,train,1,2,3,4\nb.png,x,train,3,2,1,4\na.png,y,test,,,,\n"
        "gone.png,x,train,,,,\n,x,train,,,,\nc.png,x,tomorrow,,,,\nno/d.png,x,,,,,\n",
    )
    found = read_list(tmp_path / "list.csv", Naming(), tmp_path / "pictures")
    assert {s.path: (s.label, s.box) for s in found.dataset.samples} == {
        "a.png": ("x", (1, 2, 3, 4)),
    }
    listed = dict(found.problems)
    box = "expected a box with left < right and top < bottom: found 3, 2, 1, 4, row 3"
    assert listed["b.png"] == box
    assert listed["a.png"] == "an earlier row names the same image"
    assert listed["gone.png"] == "it is not there: No such file or directory"
    assert listed["list.csv"] == "no path: row 6"
    assert listed["c.png"].startswith("expected train, val or test as split: found 'tomorrow'")
    assert listed["no/d.png"] == "it is not there: No such file or directory"


def test_names_are_found_as_the_disk_has_them(tmp_path: Path):
    image(tmp_path / nfd("사진") / nfd("기쁨.png"))
    image(tmp_path / "Upper.PNG")
    image(tmp_path / "same.png")
    image(tmp_path / "SAME.png")
    text(tmp_path / "list.csv", "path,label\n사진/기쁨.png,a\nupper.png,b\nSame.png,c\nsame.png,d\n")
    found = read_list(tmp_path / "list.csv", Naming())
    assert labels(found) == {nfd("사진/기쁨.png"): "a", "Upper.PNG": "b", "same.png": "d"}
    assert reasons(found) == {"Same.png": "it is not there: several files differ from it only in case"}


def test_columns_that_are_not_there_are_named(tmp_path: Path):
    table = text(tmp_path / "list.csv", "bild,mood\na.png,x\n")
    with pytest.raises(DataError, match=r"expected a column 'Weg' .*found bild, mood"):
        read_list(table, Naming(columns={"path": "Weg"}))
    with pytest.raises(DataError, match="--columns path=label"):
        read_list(text(tmp_path / "x.csv", "label;age\nx;3\n"), Naming())
    with pytest.raises(DataError, match="cannot be read"):
        read_list(tmp_path / "none.csv", Naming())
