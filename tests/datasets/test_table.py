import csv
import os
import re
import tempfile
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ferkit.core.errors import DataError
from ferkit.datasets.tables import read_table


def table(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def fields(path: Path) -> list[tuple[str | None, ...]]:
    return [(s.path, s.label, s.split, s.group) for s in read_table(path).samples]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_hangul_in_every_encoding_that_excel_writes(tmp_path: Path, encoding: str, newline: str):
    text = newline.join(["path,label", "사진/가.jpg,기쁨", '"b, c.jpg",슬픔', ""])
    assert fields(table(tmp_path, text, encoding)) == [
        ("b, c.jpg", "슬픔", None, None),
        ("사진/가.jpg", "기쁨", None, None),
    ]


PERSONS = ("0a" * 32, "1b" * 32, "2c" * 32)
"""AI Hub's file names begin with who is shown."""


@pytest.mark.parametrize(
    "header",
    [
        "파일명,감정,구분,인물번호,성별,나이",
        "이미지 경로,감정 라벨,데이터 구분,피험자,성별,연령",
        "번호;사진파일;표정;용도;참가자;장소",
        "﻿파일 이름\t레이블\t세트\t사람\t성별\t비고",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
@pytest.mark.parametrize("spelled", ["NFC", "NFD"])
def test_a_table_of_ai_hubs_photos_with_korean_headers(
    tmp_path: Path, header: str, encoding: str, spelled: Literal["NFC", "NFD"]
):
    sign = next(sign for sign in "\t;," if sign in header)
    named = [name.strip() for name in header.strip("\ufeff").split(sign)]
    said = [("기쁨", "학습"), ("당황", "검증용"), ("분노", "테스트")]
    lines, expected = [sign.join(named)], []
    for i, (person, (label, split)) in enumerate(zip(PERSONS, said, strict=True)):
        path = f"원천데이터/{label}/{person}_여_30_{label}_도심 환경_20201203103030-001-{i:03d}.jpg"
        # A Mac takes syllables apart in names of files, which tables do not.
        image = tmp_path / unicodedata.normalize(spelled, path)
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (60 * i, 0, 0)).save(image)
        cells = {  # what the other columns say is a number
            **dict.fromkeys(["파일명", "이미지 경로", "사진파일", "파일 이름"], path),
            **dict.fromkeys(["감정", "감정 라벨", "표정", "레이블"], label),
            **dict.fromkeys(["구분", "데이터 구분", "용도", "세트"], split),
            **dict.fromkeys(["인물번호", "피험자", "참가자", "사람"], person),
        }
        lines.append(sign.join(cells.get(name, str(i)) for name in named))
        expected.append((path, label, {0: "train", 1: "val", 2: "test"}[i], person))
    data = read_table(table(tmp_path, "\r\n".join([*lines, ""]), encoding))
    found = [(unicodedata.normalize("NFC", s.path), s.label, s.split, s.group) for s in data.samples]
    assert found == sorted(expected)
    assert {name for s in data.samples for name in s.attributes} == {
        name for name in named if name in ["성별", "나이", "연령", "장소", "번호", "비고"]
    }
    for sample in data.samples:
        i = int(sample.path[-5])
        assert abs(int(data.read(sample)[0, 0, 0]) - 60 * i) < 3


def test_a_korean_header_that_nobody_knows_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected a column 'label' .*--columns label=기분"):
        read_table(table(tmp_path, "파일명,기분\na.jpg,좋음\n"))


def test_headers_of_other_data_sets(tmp_path: Path):
    text = "Subject_ID, Usage ,emotion,Image\n7,Training,sad,a\\b.jpg\n,PublicTest,,c.jpg\n\n8,,happy,d.jpg\n"
    assert fields(table(tmp_path, text)) == [
        ("a/b.jpg", "sad", "train", "7"),
        ("c.jpg", None, "val", None),
        ("d.jpg", "happy", None, "8"),
    ]


def test_without_a_header_the_columns_are_path_and_label(tmp_path: Path):
    assert fields(table(tmp_path, "a.jpg,happy\nb.jpg,sad\nc.jpg\n")) == [
        ("a.jpg", "happy", None, None), ("b.jpg", "sad", None, None), ("c.jpg", None, None, None),
    ]  # fmt: skip


def test_paths_are_relative_to_the_table_or_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (3, 2), "red").save(tmp_path / "pictures" / "a.png")
    Image.new("RGB", (3, 2), "blue").save(tmp_path / "b.png")
    path = table(tmp_path, f"path,label\npictures/a.png,x\n{tmp_path / 'b.png'},y\n")
    monkeypatch.chdir("/")
    data = read_table(path)
    colours = {s.label: data.read(s)[0, 0].tolist() for s in data.samples}
    assert colours == {"x": [255, 0, 0], "y": [0, 0, 255]}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "found nothing"),
        ("path,label\n", "expected images"),
        ("label,age\nhappy,3\n", "expected a column 'path'"),
        ("path,label\n,happy\n", "none of 1 rows .* no path: row 2"),
        ("path,mood\na.jpg,happy\n", "--columns label=mood"),
        ("bild,stimmung\na.jpg,happy\n", "--columns path=bild"),
        ("path,label,split\na.jpg,happy,tomorrow\n", "expected train, val or test .*'tomorrow'"),
        ("path,label\n\0\0\0\n", "binary data"),
        ('path,label\n"a.jpg' + "x" * 200_000, "no path: row 2"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str, what: str):
    with pytest.raises(DataError, match=what):
        read_table(table(tmp_path, text))


def test_other_encodings_and_missing_tables_are_refused(tmp_path: Path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"path,label\n\xff\xff.jpg,\x80\n")
    with pytest.raises(DataError, match="UTF-8 or CP949"):
        read_table(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "missing.csv")


def fer2013(
    path: Path, rows: list[tuple[object, str, str]], header: tuple[str, ...] = ("emotion", "pixels", "Usage")
):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def pixels(value: int) -> str:
    return " ".join([str(value)] * 2303 + ["255"])


def test_fer2013_has_its_own_order_of_emotions(tmp_path: Path):
    usages = ["Training", "PublicTest", "PrivateTest"]
    data = read_table(fer2013(tmp_path / "fer2013.csv", [(i, pixels(i), usages[i % 3]) for i in range(7)]))
    by_pixel = {int(data.read(s)[0, 0, 0]): (s.label, s.split) for s in data.samples}
    assert by_pixel == {
        0: ("angry", "train"), 1: ("disgust", "val"), 2: ("fear", "test"), 3: ("happy", "train"),
        4: ("sad", "val"), 5: ("surprise", "test"), 6: ("neutral", "train"),
    }  # fmt: skip
    image = data.read(data.samples[0])
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert image[47, 47].tolist() == [255, 255, 255]
    assert data.samples[0].path == "test/000002"


def test_fer2013_with_columns_in_another_order_and_a_blank_line(tmp_path: Path):
    path = tmp_path / "icml_face_data.csv"
    path.write_text(f"emotion, Usage, pixels\n6,Training,{pixels(9)}\n\n", encoding="utf-8")
    (sample,) = read_table(path).samples
    assert (sample.label, sample.split) == ("neutral", "train")


@pytest.mark.parametrize(
    "row", [(8, pixels(1), "Training"), (-1, pixels(1), "Training"), ("", pixels(1), "Training"),
            (0, "1 2 3", "Training"), (0, pixels(300), "Training"),
            (0, pixels(1).replace("255", "x"), "Training")],
)  # fmt: skip
def test_damaged_rows_of_fer2013_are_named(tmp_path: Path, row: tuple[object, str, str]):
    path = fer2013(tmp_path / "fer2013.csv", [(0, pixels(1), "Training"), row])
    data = read_table(path)
    assert [sample.path for sample in data.samples] == ["train/000000"]
    ((_, reason),) = data.left_out
    assert re.match(r"expected an emotion, 48x48 pixels and a usage: .*row 3", reason)


def test_fer2013_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="only a header"):
        read_table(fer2013(tmp_path / "fer2013.csv", []))


def test_touching_fer2013_makes_every_image_look_younger(tmp_path: Path):
    path = fer2013(tmp_path / "fer2013.csv", [(0, pixels(1), "Training")])
    data = read_table(path)
    before = data.source.stamp("train/000000")
    os.utime(path, ns=(0, before.changed_ns + 10**9))
    assert data.source.stamp("train/000000") == before  # what was read does not change any more
    after = read_table(path).source.stamp("train/000000")
    assert after.size == before.size == 48 * 48
    assert after.changed_ns == before.changed_ns + 10**9


@pytest.mark.parametrize(
    "header",
    ["left,top,right,bottom", "xmin,ymin,xmax,ymax", "minX,minY,maxX,maxY", "x1,y1,x2,y2",
     "Box_X1,box_y1,Box_x2,box_y2", "bbox_left,bbox_top,bbox_right,bbox_bottom"],
)  # fmt: skip
def test_boxes_and_whatever_else_is_known(tmp_path: Path, header: str):
    text = (
        f"path,label,{header},Sex,age\na.jpg,happy,1,2.5,30,40, female ,\nb.jpg,sad,,,,,male,31\nc.jpg,sad\n"
    )
    a, b, c = read_table(table(tmp_path, text)).samples
    assert (a.box, dict(a.attributes)) == ((1.0, 2.5, 30.0, 40.0), {"Sex": "female"})
    assert (b.box, dict(b.attributes)) == (None, {"Sex": "male", "age": "31"})
    assert (c.box, dict(c.attributes)) == (None, {})


def test_a_column_for_each_class_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match=r"write that of each image into one column, label$"):
        read_table(table(tmp_path, "파일명,기쁨,슬픔\na.jpg,1,0\n"))


def test_points_of_a_face_are_no_box(tmp_path: Path):
    (sample,) = read_table(table(tmp_path, "path,label,x1,y1,x2,y2,x3,y3\na.jpg,happy,9,9,1,2,3,4\n")).samples
    assert (sample.box, sample.attributes["x3"]) == (None, "3")


def test_an_image_is_one_however_its_rows_spell_it_and_contradictions_are_named(tmp_path: Path):
    rows = [
        "a.jpg,happy",
        "./a.jpg,sad",
        f"{tmp_path}/a.jpg,happy",
        "x/../b.jpg,sad",
        "b.jpg,sad",
        "c.jpg,sad",
    ]
    data = read_table(table(tmp_path, "path,label\n" + "\n".join(rows) + "\n"))
    assert [(s.path, s.label) for s in data.samples] == [
        ("a.jpg", "happy"), ("c.jpg", "sad"), ("x/../b.jpg", "sad"),
    ]  # fmt: skip
    same = "another row of the same image"
    assert [reason for _, reason in data.left_out] == [f"{same}, with another class: sad", same, same]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "./", "x/../", ".//", "/"])), min_size=1)
)
def test_no_spelling_of_a_path_makes_a_second_image(spelled: list[tuple[str, str]]):
    with tempfile.TemporaryDirectory() as name:
        here = {"/": f"{name}/"}
        rows = [f"{here.get(before, before)}{letter}.jpg,happy\n" for letter, before in spelled]
        data = read_table(table(Path(name), "path,label\n" + "".join(rows)))
        assert len(data) == len({letter for letter, _ in spelled})
        assert len(data) + len(data.left_out) == len(rows)


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ("9,2,3,4", "left < right .*row 3"),
        ("1,4,3,4", "top < bottom: found 1, 4, 3, 4"),
        ("1,2,,4", "four numbers as box"),
        ("1,2,3,x", "four numbers as box"),
        ("1,2,nan,4", "left < right"),
        ("1,2,inf,4", "left < right"),
        ("0,0.2,0.8,1", "pixels, found shares of the image: 0, 0.2, 0.8, 1"),
    ],
)
def test_rows_with_boxes_that_are_none_are_left_out(tmp_path: Path, cells: str, what: str):
    text = f"path,label,left,top,right,bottom\na.jpg,x,0,0,9,9\nb.jpg,x,{cells}\n"
    data = read_table(table(tmp_path, text))
    assert [sample.path for sample in data.samples] == ["a.jpg"]
    ((path, reason),) = data.left_out
    assert path == "b.jpg"
    assert re.search(what, reason)


def test_a_mark_at_the_beginning_says_that_it_is_utf8(tmp_path: Path):
    # Without the mark these bytes would count as EUC-KR, which makes other letters of the first name.
    path = tmp_path / "labels.csv"
    path.write_bytes("\ufeffpath,label\n기쁨.jpg,기쁨\n".encode() + "슬픔.jpg,x\n".encode("cp949"))
    samples = {s.label: s.path for s in read_table(path).samples}
    assert samples == {"기쁨": "기쁨.jpg", "x": os.fsdecode("슬픔.jpg".encode("cp949"))}
