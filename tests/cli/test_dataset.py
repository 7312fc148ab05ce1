"""``fer dataset``: steps that chain, and what they say when something is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from layout_files import image, text

from ferkit.cli import main as fer
from ferkit.datasets.load import load_dataset
from tests.synthetic_aihub import write_aihub_layout


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(fer, ["dataset", *map(str, arguments)])
    assert result.exit_code == code, result.output
    if code == 1:
        assert "Error: " in result.stderr
        assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos") / "aihub"
    write_aihub_layout(root, 6, size_wh=(160, 160), disagreement=0.0)
    return root


@pytest.fixture
def western(tmp_path: Path) -> Path:
    for part, n in (("train", 12), ("test", 4)):
        for cls in ("happy", "sad", "angry", "neutral", "surprise"):
            for i in range(n):
                image(tmp_path / "western" / part / cls / f"{i:03d}.png", seed=i, size=48)
    return tmp_path / "western"


def test_from_raw_layouts_to_a_data_set_and_out_again(
    photos: Path, western: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run("import", "aihub", photos, "-o", "lists/aihub.csv")
    run("map", "lists/aihub.csv", "--to", "aihub5", "-o", "lists/korean.csv")
    refused = run("map", western, "--to", "aihub5", "-o", "lists/western.csv", code=1)
    assert "surprise (16)" in refused.stderr
    run("map", western, "--to", "aihub5", "--unmapped", "drop", "-o", "lists/western.csv")
    said = run("merge", "lists/korean.csv", "lists/western.csv", "-o", "both.csv").stderr
    assert said == ""
    sampled = run("sample", "both.csv", "-n", 6, "--by", "source", "-o", "small.csv", "--json")
    counts = {(row["class"], row["source"]): row["drawn"] for row in json.loads(sampled.stdout)["counts"]}
    assert counts[("happy", "aihub")] == counts[("happy", "western")] == 6
    assert ("uneasy", "western") not in counts
    divided = run(
        "split", "small.csv", "--val", 0.2, "--test", 0.2, "--by", "source", "-o", "split.csv"
    ).stdout
    assert "persons" in divided
    data = load_dataset(tmp_path / "split.csv")
    parts: dict[str, set[str]] = {}
    for sample in data.samples:
        if sample.group:
            parts.setdefault(sample.group, set()).add(str(sample.split))
    assert len(parts) == 6
    assert all(len(found) == 1 for found in parts.values())
    assert {s.label for s in data.samples} == {"happy", "sad", "angry", "neutral", "uneasy"}
    assert all(s.box is not None for s in data.samples if s.attributes["source"] == "aihub")

    run("sample", "split.csv", "--where", "source=aihub", "--where", "split=test", "-o", "korean_test.csv")
    korean = load_dataset(tmp_path / "korean_test.csv").samples
    assert korean == tuple(s for s in data.samples if (s.split, s.attributes["source"]) == ("test", "aihub"))

    shown = run("info", "split.csv", "--all", "--plot", "split.png")
    assert "aihub" in shown.stdout and "48x48" in shown.stdout  # noqa: PT018
    assert (tmp_path / "split.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(run("info", "split.csv", "--json").stdout)
    assert facts["n"] == len(data)
    assert facts["headers"]["unreadable"] == []

    run("export", "split.csv", "-o", "faces", "--link", "symlink")
    assert load_dataset(tmp_path / "faces").class_counts() == data.class_counts()
    run("export", "split.csv", "-o", "faces.npz", "--size", "32", "--gray")
    assert load_dataset(tmp_path / "faces.npz").class_counts() == data.class_counts()
    run("export", "split.csv", "-o", "lists/again.csv")
    assert len(load_dataset(tmp_path / "lists" / "again.csv")) == len(data)
    run("split", western, "--test-source", "x", "-o", "x.csv", code=1)


def test_a_map_of_ones_own_and_the_problems_of_a_list(western: Path, tmp_path: Path):
    rows = ["Image;Mood", "western/train/happy/000.png;0", "western/train/sad/000.png;1", "gone.png;0"]
    text(tmp_path / "list.csv", "\n".join(rows), "cp949")
    out = tmp_path / "out.csv"
    arguments = (
        "import",
        "csv",
        tmp_path / "list.csv",
        "-o",
        out,
        "--columns",
        "path=Image,label=Mood",
    )
    said = run(*arguments, "--class", "0=기쁨", "--class", "1=슬픔").stderr
    assert "1 problems" in said
    assert "gone.png,it is not there: " in (tmp_path / "out-problems.csv").read_text("utf-8")
    assert load_dataset(out).class_counts() == {"기쁨": 1, "슬픔": 1}
    named = (*arguments[:4], tmp_path / "sad.csv", *arguments[5:], "--class", "0=기쁨", "--class", "1=슬픔")
    said = run(*named, "--labels", "sadness,fear").stderr
    assert "left out, since --labels does not name their class: 기쁨 1" in said
    assert load_dataset(tmp_path / "sad.csv").class_counts() == {"sadness": 1}
    text(
        tmp_path / "my.toml", '[sets]\nmood = ["good", "bad"]\n[maps.mood]\ngood = ["기쁨"]\nbad = ["sad"]\n'
    )
    run("map", out, "--map", tmp_path / "my.toml", "-o", tmp_path / "mood.csv")
    assert load_dataset(tmp_path / "mood.csv").class_counts() == {"bad": 1, "good": 1}
    run(*arguments, "--class", "happy", code=2)
    run("map", out, "--columns", "way=x", "-o", tmp_path / "mood.csv", code=1)


def test_fer2013_as_one_file_is_written_out_and_joined_with_its_votes(tmp_path: Path):
    pixels = " ".join(map(str, np.random.default_rng(0).integers(0, 256, 48 * 48)))
    table = text(
        tmp_path / "fer2013.csv", f"emotion,pixels,Usage\n3,{pixels},Training\n4,{pixels},PublicTest\n"
    )
    emotions = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    votes = text(
        tmp_path / "fer2013new.csv",
        f"Usage,Image name,{emotions}\nTraining,fer0000000.png,9,1,0,0,0,0,0,0,0,0\n"
        "PublicTest,fer0000001.png,0,0,0,10,0,0,0,0,0,0\n",
    )
    out = tmp_path / "out.csv"
    assert "--extract" in run("import", "fer2013", table, "-o", out, code=1).stderr
    assert "fer dataset export" in run("sample", table, "-n", 1, "-o", out, code=1).stderr
    run("import", "fer2013", table, "--extract", tmp_path / "fer", "--votes", votes, "--majority", "-o", out)
    data = load_dataset(out)
    assert [(s.path, s.label, s.split) for s in data.samples] == [
        ("fer/train/happy/000000.png", "neutral", "train"), ("fer/val/sad/000001.png", "sad", "val"),
    ]  # fmt: skip
    assert data.read(data.samples[0]).shape == (48, 48, 3)


def test_faces_of_coco_keep_the_size_that_their_file_claims(tmp_path: Path):
    image(tmp_path / "pictures" / "a.png", size=40)
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 40}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20]},
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1, 2, 30, 30]},
        ],
        "categories": [{"id": 7, "name": "기쁨"}],
    }
    text(tmp_path / "coco.json", json.dumps(coco, ensure_ascii=False))
    out = tmp_path / "out.csv"
    said = run("import", "coco", tmp_path / "coco.json", "--images", tmp_path / "pictures", "-o", out).stderr
    assert "1 more faces are marked" in said
    (sample,) = load_dataset(out).samples
    assert (sample.path, sample.label, sample.box) == ("pictures/a.png", "기쁨", (1, 2, 31, 32))
    assert sample.attributes == {"source": "coco", "width": "40", "height": "40"}


def test_other_files_are_not_overwritten(western: Path, tmp_path: Path):
    precious = text(tmp_path / "grades.csv", "name,grade\nKim,A\n")
    assert "is no manifest" in run("split", western, "-o", precious, code=1).stderr
    assert precious.read_text("utf-8") == "name,grade\nKim,A\n"
    assert "ends in .csv" in run("split", western, "-o", tmp_path / "out.txt", code=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "western", "-o", "x", "--size", "8"),
        ("export", "western", "-o", "x.npz", "--images"),
        ("export", "western", "-o", "x.csv", "--link", "symlink"),
        ("export", "western", "-o", "x.json"),
        ("import", "rafdb", "western", "--images", "cropped", "-o", "x.csv"),
        ("import", "cats", "western", "-o", "x.csv"),
        ("sample", "western", "--where", "split", "-o", "x.csv"),
        ("split", "western", "--within", "all", "-o", "x.csv"),
    ],
)
def test_wrong_usage_is_told_from_what_can_be_mended(
    western: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(western.parent)
    run(*arguments, code=2)


def test_splits_that_cannot_be_made_say_why(tmp_path: Path):
    for i in range(6):
        image(tmp_path / "data" / "happy" / f"kim_{i}.png")
        image(tmp_path / "data" / "sad" / f"lee_{i}.png")
    said = run(
        "split", tmp_path / "data", "--person-pattern", "^([a-z]+)_", "-o", tmp_path / "x.csv", code=1
    ).stderr
    assert "class 'happy' has only 1 person, but train, test need one each" in said
    run("split", tmp_path / "data", "-o", tmp_path / "x.csv")
