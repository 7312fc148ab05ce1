import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ferkit.audit.findings import default_manifest, fix, follow, read_plan, undo, undo_record
from ferkit.core.errors import DataError, FerkitError
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.image_stats import content_digest
from ferkit.datasets.load import load_dataset

A, B, C = "train/angry/p000_a.png", "train/happy/p001_a.png", "train/sad/p002_a.png"


def write_plan(
    path: Path, rows: list[tuple[str, ...]], header: str = "path,action,value,label,content"
) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(
        tmp_path / "plan.csv",
        [(A, "drop"), (B, "relabel", "sad"), (C, "same-person", "kim"), (B, "same-person", "kim")],
    )


def test_a_plan_becomes_a_manifest_and_no_image_is_touched(dataset: Dataset, data: Path, plan: Path):
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    done = fix(dataset, plan, default_manifest(data))
    assert done.manifest == data.parent / "faces-audited.csv"
    mended = {Path(s.path).relative_to("faces").as_posix(): s for s in load_dataset(done.manifest).samples}
    assert len(mended) == len(dataset) - 1
    assert A not in mended
    assert (mended[B].label, mended[B].group, mended[B].split) == ("sad", "kim", "train")
    assert (mended[C].label, mended[C].group) == ("sad", "kim")
    untouched = "train/sad/p903_빈.png"
    assert mended[untouched].group == "p903"
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_results_lie_next_to_the_data_however_it_is_named(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(data)
    assert default_manifest(Path(".")) == data.parent / "faces-audited.csv"
    assert default_manifest(Path("train")) == Path("train-audited.csv")


def test_a_fix_can_be_taken_back(dataset: Dataset, data: Path, plan: Path, tmp_path: Path):
    first = fix(dataset, plan, default_manifest(data))
    once = first.manifest.read_bytes()
    again = load_dataset(first.manifest)
    second_plan = write_plan(tmp_path / "second.csv", [("faces/" + B, "drop")])
    assert default_manifest(first.manifest) == first.manifest
    second = fix(again, second_plan, default_manifest(first.manifest))
    assert len(second.applied.samples) == len(again) - 1
    assert undo(first.manifest)[0] == 1
    assert first.manifest.read_bytes() == once
    assert undo(first.manifest)[0] == 0
    assert not first.manifest.exists()
    assert not undo_record(first.manifest).exists()
    with pytest.raises(DataError, match="no fix"):
        undo(first.manifest)


def test_lines_that_cannot_be_followed_are_listed_and_the_others_are_applied(
    dataset: Dataset, data: Path, tmp_path: Path
):
    (data / C).unlink()
    other = content_digest(b"another image")
    plan = write_plan(
        tmp_path / "plan.csv",
        [
            (A, "drop"),
            ("train/angry/nobody.png", "drop"),
            (C, "drop"),
            (B, "drop", "", "", other),
            (B, "relabel", "bored"),
            (B, "relabel", "angry", "sad"),
            (B, "burn"),
            (A, "keep"),
            (B, "same-person"),
            (B, "relabel", "angry", "happy", content_digest((data / B).read_bytes())),
        ],
    )
    applied = follow(dataset, read_plan(plan))
    assert [(line.path, line.action) for line in applied.done] == [(A, "drop"), (B, "relabel")]
    reasons = {refusal.line.number: refusal.reason for refusal in applied.refused}
    assert list(reasons) == [3, 4, 5, 6, 7, 8, 9, 10]
    for number, words in (
        (3, "no such image"), (4, "cannot be read"), (5, "changed since"), (6, "a label out of angry, happy, sad"),
        (7, "was sad in the audit and is happy now"), (8, "an action out of"), (9, "line 2 decides"),
        (10, "which person"),
    ):  # fmt: skip
        assert words in reasons[number]


def test_a_plan_of_which_nothing_can_be_followed_writes_nothing(dataset: Dataset, data: Path, tmp_path: Path):
    plan = write_plan(tmp_path / "plan.csv", [("nobody.png", "drop")])
    with pytest.raises(DataError, match=r"nothing in .* can be followed .*no such image"):
        fix(dataset, plan, default_manifest(data))
    assert not [path for path in data.parent.glob("*audited*") if path.suffix != ".lock"]


def test_a_plan_that_drops_everything_is_refused(dataset: Dataset, data: Path, tmp_path: Path):
    plan = write_plan(tmp_path / "plan.csv", [(sample.path, "drop") for sample in dataset.samples])
    with pytest.raises(DataError, match="drops every image"):
        fix(dataset, plan, default_manifest(data))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found nothing"),
        (b"file,what\nx,drop\n", "columns path and action"),
        (b'path,action\n"x,drop\n', "as CSV"),
    ],
)
def test_what_is_no_plan_is_refused(content: bytes, words: str, tmp_path: Path):
    plan = tmp_path / "plan.csv"
    plan.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_plan(plan)
    with pytest.raises(DataError, match="cannot be read"):
        read_plan(tmp_path / "absent.csv")


def test_an_earlier_fix_is_not_written_over(dataset: Dataset, data: Path, plan: Path):
    done = fix(dataset, plan, default_manifest(data))
    before = done.manifest.read_bytes()
    with pytest.raises(DataError, match="is there already"):
        fix(dataset, plan, default_manifest(data))
    assert done.manifest.read_bytes() == before


def test_a_manifest_that_was_edited_since_is_not_taken_back(dataset: Dataset, data: Path, plan: Path):
    done = fix(dataset, plan, default_manifest(data))
    edited = done.manifest.read_bytes() + b"faces/train/angry/p000_a.png,angry,train,\n"
    done.manifest.write_bytes(edited)
    with pytest.raises(DataError, match="changed after the fix"):
        undo(done.manifest)
    assert done.manifest.read_bytes() == edited


def test_a_fix_that_was_recorded_and_never_written_is_forgotten(dataset: Dataset, data: Path, plan: Path):
    done = fix(dataset, plan, default_manifest(data))
    done.manifest.unlink()  # as if the machine had gone down between the two
    left, sentence = undo(done.manifest)
    assert left == 0
    assert "never written" in sentence


def test_a_damaged_undo_record_is_said(dataset: Dataset, data: Path, plan: Path):
    done = fix(dataset, plan, default_manifest(data))
    undo_record(done.manifest).write_text(json.dumps({"format": 1, "steps": [{}]}))
    with pytest.raises(FerkitError, match="not what was written"):
        undo(done.manifest)


def test_boxes_and_attributes_stay(tmp_path: Path, data: Path):
    table = data.parent / "mine.csv"
    table.write_text(
        f"path,label,left,top,right,bottom,sex\nfaces/{A},angry,1,2,30,40,f\nfaces/{B},happy,,,,,m\n", "utf-8"
    )
    plan = write_plan(tmp_path / "plan.csv", [(f"faces/{A}", "relabel", "happy")])
    done = fix(load_dataset(table), plan, default_manifest(table))
    assert done.manifest.name == "mine-audited.csv"
    mended = load_dataset(done.manifest).samples
    assert (mended[0].label, mended[0].box, dict(mended[0].attributes)) == (
        "happy",
        (1, 2, 30, 40),
        {"sex": "f"},
    )
    assert dict(mended[1].attributes) == {"sex": "m"}


def test_images_inside_one_file_cannot_be_fixed(tmp_path: Path):
    file = tmp_path / "faces.npz"
    np.savez(file, images=np.zeros((4, 8, 8), np.uint8), labels=np.array(["a", "b", "a", "b"]))
    dataset = load_dataset(file)
    plan = write_plan(tmp_path / "plan.csv", [(dataset.samples[0].path, "drop")])
    with pytest.raises(DataError, match="inside that one file"):
        fix(dataset, plan, default_manifest(file))
    assert sorted(os.listdir(tmp_path)) == [".faces-audited.csv.undo.json.lock", "faces.npz", "plan.csv"]


def test_of_two_fixes_from_one_reading_the_second_is_refused(data: Path, tmp_path: Path, plan: Path) -> None:
    manifest = fix(load_dataset(data), plan, default_manifest(data)).manifest
    read_by_both = load_dataset(manifest)
    paths = [sample.path for sample in read_by_both.samples]
    first = write_plan(tmp_path / "first.csv", [(paths[0], "drop")])
    second = write_plan(tmp_path / "second.csv", [(paths[1], "drop")])
    fix(read_by_both, first, manifest)
    with pytest.raises(DataError, match="was changed since it was read"):
        fix(read_by_both, second, manifest)
    assert paths[0] not in {sample.path for sample in load_dataset(manifest).samples}
    fix(load_dataset(manifest), second, manifest)
    assert {paths[0], paths[1]}.isdisjoint({sample.path for sample in load_dataset(manifest).samples})


def test_names_that_look_like_formulas_are_text_in_tables_and_names_again_when_read(tmp_path: Path) -> None:
    from ferkit.core.files import csv_cell, csv_text, write_csv

    for name in (
        "=HYPERLINK(1)",
        "+1",
        "-x",
        "@sum",
        "\tx",
        "\rx",
        "'=x",
        "''=x",
        "'a",
        "plain",
        "",
        "기쁨",
        "\n=x",
        "＝x",
        "＋x",
        "－x",
        "＠x",
    ):
        cell = csv_cell(name)
        assert cell is not None
        assert cell[:1] not in set("=+-@\t\r\n＝＋－＠")
        assert csv_text(cell) == name
    write_csv(tmp_path / "table.csv", ["name", "=class"], [["＝x", 1]])
    assert (tmp_path / "table.csv").read_text() == "\ufeffname,'=class\n'＝x,1\n"
