"""AI Hub's layout, as it is and as it comes after downloads, Macs and broken scripts."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from ferkit.core.errors import DataError
from ferkit.datasets.formats.aihub import read_aihub
from ferkit.datasets.formats.annotated import Annotated
from tests.synthetic_aihub import EMOTIONS, write_aihub_layout

PERSON = "ab" * 32
Record = dict[str, object]


def name_of(i: int, emotion: str = "기쁨", person: str = PERSON) -> str:
    return f"{person}_여_30_{emotion}_도심 환경_20201203103030-001-{i:03d}.jpg"


def record(
    name: str, emotions: str = "기쁨 기쁨 기쁨", boxes: list[tuple] | None = None, **more: object
) -> Record:
    boxes = boxes or [(10, 20, 60, 80)] * 3
    said = {
        f"annot_{a}": {
            "boxes": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
            "faceExp": emotion,
            "bg": "도심 환경",
        }
        for a, box, emotion in zip("ABC", boxes, emotions.split(), strict=True)
    }
    known = {"gender": "여", "age": 30, "isProf": "일반인", "faceExp_uploader": "기쁨", "bg_uploader": "가정"}
    return {"filename": name, **known, **said, **more}


def image(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 96), colour).save(path)


def write(root: Path, records: list[Record], *, encoding: str = "utf-8", file: str = "labels.json") -> Path:
    """Images and one JSON file."""
    for i, entry in enumerate(records):
        image(root / str(entry["filename"]), f"rgb({i},0,0)")
    (root / file).write_text(json.dumps(records, ensure_ascii=False), encoding=encoding)
    return root


def reasons(found: Annotated) -> dict[str, list[str]]:
    by_path: dict[str, list[str]] = {}
    for path, reason in found.problems:
        by_path.setdefault(path, []).append(reason)
    return by_path


@pytest.mark.parametrize("encoding", ["euc-kr", "utf-8", "utf-8-sig"])
def test_the_drawn_layout_is_read_whole(tmp_path: Path, encoding: str):
    write_aihub_layout(tmp_path, 3, size_wh=(200, 160), encoding=encoding, validation=0.34, disagreement=0)
    found = read_aihub(tmp_path)
    assert found.problems == ()
    assert found.dataset.class_counts() == dict.fromkeys(EMOTIONS, 3)
    assert {s.split for s in found.dataset.samples} == {"train", "val"}
    assert len({s.group for s in found.dataset.samples}) == 3
    assert all(len(s.group or "") == 64 for s in found.dataset.samples)
    for sample in found.dataset.samples:
        assert sample.box is not None
        left, top, right, bottom = sample.box
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 160
        assert sample.label in sample.path
        assert set(sample.attributes) == {
            *("sex", "age", "place", "uploader", "professional", "votes", "box_votes"),
        }


def test_equal_arguments_draw_equal_bytes(tmp_path: Path):
    for name in ("a", "b"):
        write_aihub_layout(tmp_path / name, 2, size_wh=(160, 160))
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*")) for n in "ab"]
    assert files[0] == files[1]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files[0])


def test_annotators_become_one_box_and_one_emotion(tmp_path: Path):
    apart = (300, 300, 400, 400)
    write(tmp_path, [
        record(name_of(1), boxes=[(10, 20, 60, 80), (12, 22, 62, 82), (14, 24, 64, 84)]),
        record(name_of(2), "기쁨 중립 기쁨", boxes=[(10, 20, 60, 80), apart, (20, 20, 70, 80)]),
        record(name_of(3), "중립 슬픔 기쁨", boxes=[(0, 0, 9, 9), (20, 20, 29, 29), (40, 40, 49, 49)]),
        record(name_of(4), "중립 슬픔 분노"),
    ])  # fmt: skip
    found = read_aihub(tmp_path)
    one, two, three, four = found.dataset.samples
    assert (one.label, one.box, one.attributes["box_votes"]) == ("기쁨", (12, 22, 62, 82), "3/3")
    assert (two.label, two.box) == ("기쁨", (15, 20, 65, 80))
    assert (two.attributes["votes"], two.attributes["box_votes"]) == ("기쁨:2|중립:1", "2/3")
    assert (three.label, three.box) == (
        "기쁨",
        None,
    )  # the uploader decides a tie of emotions, nobody one of boxes
    assert four.label is None
    assert reasons(found) == {
        name_of(2): ["the boxes of 3 annotators are apart; the box of 2 of them counts"],
        name_of(3): ["the boxes of 3 annotators are apart; none counts"],
        name_of(4): ["the annotators are undecided (분노:1|슬픔:1|중립:1); no label"],
    }


def test_boxes_that_are_none_are_listed_and_others_count(tmp_path: Path):
    write(tmp_path, [
        record(name_of(1), boxes=[(60, 20, 10, 80), (10, 20, 60, 80), (10, 20, 60, 80)]),
        record(name_of(2), boxes=[(-50, 20, -10, 80), (10, "x", 60, 80), (10, 20, 10, 80)]),
        record(name_of(3), boxes=[(-5, -7, 60, 80)] * 3),
        record(name_of(4), annot_B={"faceExp": "기쁨"}, annot_C="lost"),
    ])  # fmt: skip
    found = read_aihub(tmp_path)
    assert [s.box for s in found.dataset.samples] == [
        (10, 20, 60, 80), None, (0, 0, 60, 80), (10, 20, 60, 80),
    ]  # fmt: skip
    assert reasons(found) == {
        name_of(1): ["annot_A: the box 60,20,10,80 is inverted"],
        name_of(2): [
            "annot_A: the box -50,20,-10,80 lies outside the image",
            "annot_B: the box [10, 'x', 60, 80] holds something that is no number",
            "annot_C: the box 10,20,10,80 is empty",
        ],
        name_of(4): ["annot_B: there is no box with minX, minY, maxX and maxY", "annot_C is missing"],
    }


def test_emotions_that_nobody_knows_stay_and_are_listed(tmp_path: Path):
    write(tmp_path, [record(name_of(1), "황당 황당 행복", faceExp_uploader="황당")])
    found = read_aihub(tmp_path)
    assert found.dataset.samples[0].label == "황당"
    assert reasons(found) == {name_of(1): ["no label set knows the emotion '황당'"]}


def test_spellings_of_one_emotion_count_together(tmp_path: Path):
    write(tmp_path, [record(name_of(1), "행복 기쁨 슬픔", faceExp_uploader="슬픔")])
    assert read_aihub(tmp_path).dataset.samples[0].label == "기쁨"


def test_what_is_on_one_side_only_is_listed(tmp_path: Path):
    write(tmp_path, [record(name_of(i)) for i in range(1, 4)])
    (tmp_path / name_of(1)).unlink()
    image(tmp_path / "deeper" / name_of(9))
    found = read_aihub(tmp_path)
    assert [s.path for s in found.dataset.samples] == [name_of(2), name_of(3)]
    assert reasons(found) == {
        name_of(1): ["there is no image of this name; recorded in labels.json"],
        f"deeper/{name_of(9)}": ["there is no record of this image"],
    }


def test_mac_names_and_other_cases_are_found(tmp_path: Path):
    (tmp_path / "labels.json").write_text(
        json.dumps([record(name_of(1)), record(name_of(2).upper().replace("AB", "ab")), record(name_of(3))])
    )
    image(tmp_path / unicodedata.normalize("NFD", name_of(1)))
    image(tmp_path / name_of(2))
    image(tmp_path / name_of(3))
    image(tmp_path / name_of(3).replace(".jpg", ".JPG"), "blue")
    found = read_aihub(tmp_path)
    assert len(found.dataset) == 3
    assert {s.group for s in found.dataset.samples} == {PERSON}
    assert {s.label for s in found.dataset.samples} == {"기쁨"}
    # Of two that differ in case only, the one that is meant to the letter counts.
    assert reasons(found) == {name_of(3).replace(".jpg", ".JPG"): ["there is no record of this image"]}


def test_one_name_in_two_folders(tmp_path: Path):
    for part in ("Training", "Validation"):
        for i in (1, 2, 3):
            image(
                tmp_path / part / "[원천]기쁨" / name_of(i), "red" if i < 3 or part == "Training" else "blue"
            )
    for part, wanted in (("Training", (1, 2)), ("Validation", (1,))):
        labels = tmp_path / part / "[라벨]기쁨"
        labels.mkdir()
        (labels / "labels.json").write_text(json.dumps([record(name_of(i)) for i in wanted]))
    (tmp_path / "labels.json").write_text(json.dumps([record(name_of(2)), record(name_of(3))]))
    found = read_aihub(tmp_path)
    used = {s.path: s.split for s in found.dataset.samples}
    assert used == {
        f"Training/[원천]기쁨/{name_of(1)}": "train",
        f"Training/[원천]기쁨/{name_of(2)}": "train",
        f"Validation/[원천]기쁨/{name_of(1)}": "val",
    }
    listed = reasons(found)
    assert listed[f"Training/[원천]기쁨/{name_of(2)}"] == [
        "recorded again in labels.json; Training/[라벨]기쁨/labels.json counts"
    ]
    (several,) = listed[name_of(3)]
    assert several.startswith("several different images have this name: Training/")


def test_damage_in_the_middle_costs_one_record(tmp_path: Path):
    records = [record(name_of(i)) for i in range(1, 8)]
    write(tmp_path, records)
    pieces = [json.dumps(entry, ensure_ascii=False) for entry in records]
    pieces[2] = pieces[2].replace('"age": 30', '"age": ,30')
    pieces[4] = '{"filename": 7}'
    pieces[5] = '"lost"'
    encoded = [piece.encode("utf-8" if i % 2 else "cp949") for i, piece in enumerate(pieces)]
    (tmp_path / "labels.json").write_bytes(b"[" + b",\n".join(encoded)[:-40])
    found = read_aihub(tmp_path)
    assert [s.path for s in found.dataset.samples] == [name_of(1), name_of(2), name_of(4)]
    assert {s.label for s in found.dataset.samples} == {"기쁨"}
    broken = reasons(found)["labels.json"]
    assert [reason.split(":")[0] for reason in broken] == [
        "record 3 cannot be used", "record 5 cannot be used", "record 6 cannot be used", "record 7 cannot be used",
    ]  # fmt: skip


def test_lines_single_records_and_utf16(tmp_path: Path):
    for i in (1, 2, 3):
        image(tmp_path / name_of(i))
    (tmp_path / "a.json").write_text("\n".join(json.dumps(record(name_of(i))) for i in (1, 2)))
    (tmp_path / "b.json").write_text(json.dumps(record(name_of(3)), ensure_ascii=False), encoding="utf-16")
    found = read_aihub(tmp_path)
    assert len(found.dataset) == 3
    assert found.problems == ()


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match="found nothing at"):
        read_aihub(tmp_path / "nowhere")
    with pytest.raises(DataError, match="found no JSON files"):
        read_aihub(tmp_path)
    image(tmp_path / name_of(1))
    (tmp_path / "[라벨]EMOIMG_기쁨_TRAIN.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unpack the [.]zip files first"):
        read_aihub(tmp_path)
    (tmp_path / "labels.json").write_text("no json")
    with pytest.raises(DataError, match=r"found none that can be used; the first of 3 problems"):
        read_aihub(tmp_path)


def test_a_folder_in_use_is_not_drawn_into(tmp_path: Path):
    image(tmp_path / "mine.jpg")
    with pytest.raises(DataError, match="choose another one"):
        write_aihub_layout(tmp_path, 2)
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError, match="found 1, 1 and 640x480"):
        write_aihub_layout(tmp_path, 1)
