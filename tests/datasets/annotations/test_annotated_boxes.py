import json
from pathlib import Path

import pytest
from PIL import Image

from ferkit.core.errors import DataError
from ferkit.datasets.formats.load import read_boxes, read_coco, read_voc


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 96)).save(path)
    return path


def voc(filename: str, *objects: tuple[str, object, object, object, object]) -> str:
    marked = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in objects
    )
    size = "<size><width>64</width><height>96</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{marked}</annotation>"


def test_voc(tmp_path: Path):
    for name in ("둘.jpg", "renamed.jpg", "bare.jpg", "empty.jpg"):
        image(tmp_path / "JPEGImages" / name)
    notes = tmp_path / "Annotations"
    notes.mkdir()
    (notes / "a.xml").write_text(
        voc("둘.jpg", ("기쁨", 1, 1, 10, 10), ("슬픔", 11, 21, 40, 60)), encoding="utf-8"
    )
    (notes / "renamed.xml").write_text(voc("IMG_1.png", ("분노", 30, 5, 20, 50), ("분노", 2, 3, 20, "50.0")))
    (notes / "empty.xml").write_text(voc("empty.jpg"))
    (notes / "gone.xml").write_text(voc("gone.jpg", ("기쁨", 1, 1, 10, 10)))
    (notes / "torn.xml").write_text(voc("둘.jpg")[:40])
    found = read_voc(tmp_path)
    two, renamed = found.dataset.samples[::-1]
    assert (two.path, two.label, two.box) == ("JPEGImages/둘.jpg", "슬픔", (10, 20, 40, 60))
    assert [(s.path, s.label, s.box) for s in found.further] == [
        ("JPEGImages/둘.jpg", "기쁨", (0, 0, 10, 10))
    ]
    assert (renamed.path, renamed.box) == ("JPEGImages/renamed.jpg", (1, 2, 20, 50))
    assert renamed.attributes == {"difficult": "0"}
    assert found.sizes_wh["JPEGImages/둘.jpg"] == (64, 96)
    listed = dict(found.problems)
    assert listed["JPEGImages/renamed.jpg"] == "the box 29,4,20,50 is inverted"
    assert listed["JPEGImages/bare.jpg"] == "there is no record of this image"
    assert listed["JPEGImages/empty.jpg"] == "Annotations/empty.xml marks nothing in it"
    assert listed["gone.jpg"] == "there is no image of this name; recorded in Annotations/gone.xml"
    assert listed["Annotations/torn.xml"].startswith("it cannot be read")
    with pytest.raises(DataError, match="found none"):
        read_voc(tmp_path / "JPEGImages")


def test_coco(tmp_path: Path):
    for name in ("train/a.jpg", "val/a.jpg", "val/b.jpg"):
        image(tmp_path / "images" / name)
    Image.new("RGB", (64, 96), "red").save(tmp_path / "images/val/a.jpg")
    content = {
        "images": [
            {"id": 1, "file_name": "val/a.jpg", "width": 64, "height": 96},
            {"id": 2, "file_name": "b.jpg"},
            {"id": 3, "file_name": "gone.jpg"},
            {"id": 4, "file_name": "a.jpg"},
        ],
        "categories": [{"id": 1, "name": "기쁨"}, {"id": 2, "name": "슬픔"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "attributes": {"sex": "여"}},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 50.5, 60]},
            {"id": 3, "image_id": 2, "category_id": 9, "bbox": [0, 0, 5, 6]},
            {"id": 4, "image_id": 2, "category_id": 1, "bbox": [0, 0, -5, 6]},
            {"id": 5, "image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 6]},
            {"id": 6, "image_id": 77, "category_id": 1, "bbox": [0, 0, 5, 6]},
            {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, "5", 6]},
        ],
    }
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    found = read_coco(file)
    (sample,) = found.dataset.samples
    assert (sample.path, sample.label, sample.box) == ("images/val/a.jpg", "슬픔", (0, 0, 50.5, 60))
    (other,) = found.further
    assert (other.label, other.box, other.attributes) == ("기쁨", (10, 20, 40, 60), {"sex": "여"})
    assert dict(found.sizes_wh) == {"images/val/a.jpg": (64, 96)}
    listed = [f"{path}: {reason}" for path, reason in found.problems]
    assert len(listed) == 8
    for part in (
        "gone.jpg: there is no image", "a.jpg: several different images", "no category with the number 9",
        "the box 0,0,-5,6 is inverted", "no image with the number 77", "expected a bbox of four numbers",
        "images/train/a.jpg: coco.json marks nothing", "images/val/b.jpg: coco.json marks nothing",
    ):  # fmt: skip
        assert any(part in line for line in listed), part


def test_numbers_in_coco_may_be_text_or_nonsense_and_are_those_of_one_image(tmp_path: Path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        image(tmp_path / name)
    box = {"category_id": "1", "bbox": [0, 0, 5, 6]}
    content = {
        "images": [
            {"id": "1", "file_name": "a.jpg"},
            {"id": [2], "file_name": "b.jpg"},
            {"id": 1, "file_name": "c.jpg"},
        ],
        "categories": [{"id": 1, "name": "happy"}, {"id": {}, "name": "sad"}],
        "annotations": [{**box, "image_id": 1}, {**box, "image_id": [2]}, {**box, "image_id": {"x": 2}}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    found = read_coco(tmp_path / "coco.json")
    assert [(s.path, s.label) for s in found.dataset.samples] == [("a.jpg", "happy"), ("b.jpg", "happy")]
    assert "c.jpg: another image has its number 1" in {
        ": ".join(one).partition(";")[0] for one in found.problems
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", "found no images"),
        ('{"images": [], "annotations": []}', "found no categories"),
    ],
)
def test_coco_of_another_kind(tmp_path: Path, text: str, message: str):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path / "coco.json")


def test_boxes_in_a_table(tmp_path: Path):
    table = tmp_path / "boxes.csv"
    table.write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax,camera\n"
        "a.jpg,640,480,기쁨,10,20,60,80,x\n"
        "a.jpg,640,480,슬픔,0,0,600,400,y\n"
        "b.jpg,640,480,중립,60,20,10,80,x\n"
        "c.jpg,640,480,중립,,,,,x\n"
        "d.jpg,640,480,중립,1,2,3,four,x\n",
        encoding="cp949",
    )
    found = read_boxes(table)
    a, c = found.dataset.samples
    assert (a.label, a.box, a.attributes) == ("슬픔", (0, 0, 600, 400), {"camera": "y"})
    assert [s.label for s in found.further] == ["기쁨"]
    assert (c.path, c.box) == ("c.jpg", None)
    assert found.sizes_wh["a.jpg"] == (640, 480)
    assert found.problems == (
        ("b.jpg", "expected a box with left < right and top < bottom: found 60, 20, 10, 80, row 4"),
        ("d.jpg", "expected four numbers as box: found '1', '2', '3', 'four', row 6"),
    )


def test_boxes_as_corner_and_size(tmp_path: Path):
    table = tmp_path / "boxes.csv"
    table.write_text("path,label,person,x,y,width,height\nin/a.jpg,happy,p1,10,20,30,40\n")
    (sample,) = read_boxes(table).dataset.samples
    assert (sample.box, sample.group, sample.attributes) == ((10, 20, 40, 60), "p1", {})
    table.write_text("path,label\na.jpg,happy\n")
    with pytest.raises(DataError, match="expected four columns of a box"):
        read_boxes(table)
    table.write_text("what,ever\n1,2\n")
    with pytest.raises(DataError, match="expected a column 'path'"):
        read_boxes(table)
