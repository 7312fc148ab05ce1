"""``fer eval`` from the command line: the report of one model on one data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ferkit.cli.main import main
from tests.inference.tiny_model import LEVELS, flat, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, one by its Korean name, in which half of the sad images look neutral."""
    root = tmp_path_factory.mktemp("data") / "얼굴"
    rng = np.random.default_rng(2)
    for name, level in LEVELS.items():
        folder = root / ("기쁨" if name == "happy" else name)
        folder.mkdir(parents=True)
        for i in range(30):
            shown = 128 if name == "sad" and i % 2 else level
            Image.fromarray(flat(shown, rng)).save(folder / f"p{i:02d}_{name}.png")
    rows = ["path,label,sex"]
    for path in sorted(root.rglob("*.png")):
        place = path.relative_to(root.parent).as_posix()
        rows.append(f"{place},{path.parent.name},{'female' if int(path.stem[1:3]) % 2 else 'male'}")
    (root.parent / "faces.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["eval", "-q", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_folder_holds_the_report(model: Path, faces: Path, tmp_path: Path) -> None:
    person = r"^(p\d+)_"
    result = run(model, faces, "--out", tmp_path, "--person-pattern", person)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.html", "report.md", "report.json", "report.txt", "metrics.json"),
        *("confusion.png", "classes.png", "reliability.png", "probabilities.png", "predictions.png"),
    }
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    values = json.loads((tmp_path / "report.json").read_text())
    one = values["contenders"][0]
    assert metrics.pop("training_copies")["exact"] is None  # the model was not trained on files
    assert one["evaluation"] == metrics
    assert one["evaluation"]["accuracy"]["value"] == pytest.approx(5 / 6, abs=0.02)
    assert one["evaluation"]["n_groups"] == 30
    assert one["costs"]["ms_batch1"] > 0
    assert one["costs"]["size_mb"] > 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>tiny on 얼굴</h1>" in page
    assert page.count("<img") > 24
    assert "What differs from what" not in page
    assert "over persons" in page


def test_groups_of_a_column(model: Path, faces: Path, tmp_path: Path) -> None:
    result = run(model, faces.parent / "faces.csv", "--by", "sex", "--out", tmp_path, "--lang", "ko")
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "report.json").read_text())
    groups = {row["value"]: row for row in values["contenders"][0]["subgroups"][0]["rows"]}
    assert groups["male"]["accuracy"]["value"] == 1.0  # the mistaken ones have odd numbers
    assert groups["female"]["accuracy"]["value"] == pytest.approx(2 / 3, abs=0.03)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "하위 집단" in page
    assert "sex 기준으로 male에서 정확도가 가장 높고 female에서 가장 낮습니다" in page


def test_a_column_that_is_not_there(model: Path, faces: Path, tmp_path: Path) -> None:
    result = run(model, faces.parent / "faces.csv", "--by", "age", "--out", tmp_path)
    assert result.exit_code == 1
    assert "the data have no column age; they have sex" in result.output
    assert list(tmp_path.iterdir()) == []


def test_no_page_and_json_for_programs(model: Path, faces: Path, tmp_path: Path) -> None:
    result = run(model, faces, "--out", tmp_path, "--no-html", "--json")
    assert json.loads(result.stdout)["n"] == 90
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "report.md").is_file()


def test_unknown_classes_and_unreadable_images(model: Path, faces: Path, tmp_path: Path) -> None:
    for name in ("contempt", "sad", "happy"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            level = LEVELS.get(name, 128)
            image = flat(level, np.random.default_rng(i))
            Image.fromarray(image).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "sad" / "torn.png").write_bytes(b"\x89PNG torn")
    result = run(model, tmp_path / "data", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["contenders"][0]["evaluation"]["unknown_classes"] == {"contempt": 3}
    assert "reason" in values["contenders"][0]["conformal"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "contempt *" in page
    assert "left out because they cannot be read: 1; the first: sad/torn.png" in page


def test_images_that_the_model_was_trained_on_are_said(faces: Path, tmp_path: Path) -> None:
    arguments = ["--cache-dir", tmp_path / "cache", "-q"]
    for step in (
        ["embed", faces, "--backbone", "raw", *arguments],
        [
            "fit",
            "--head",
            "logistic",
            "--name",
            "own",
            "--no-report",
            "--models-dir",
            tmp_path / "models",
            *arguments,
        ],
    ):
        done = CliRunner().invoke(main, [str(part) for part in step])
        assert done.exit_code == 0, done.output
    result = run("own", faces, "--models-dir", tmp_path / "models", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["contenders"][0]["seen_rows"] == 72  # 80 % of 90
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "trained on 72 of these test images" in page
