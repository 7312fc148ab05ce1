import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ferkit.classifiers import model as module
from ferkit.cli.main import main
from ferkit.core import style
from ferkit.faces.cropping import CropSettings
from tests.inference.tiny_model import LEVELS, flat, write_tiny_model


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "models"
    write_tiny_model(folder / "older")
    write_tiny_model(folder / "tiny")
    return folder


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for name, level in LEVELS.items():
        path = tmp_path / "얼굴" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(flat(level, rng)).save(path)
    return tmp_path / "얼굴"


def run(models_dir: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(main, ["predict", "--models-dir", str(models_dir), *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_model_reads_a_folder_into_an_aligned_table(models_dir: Path, crops: Path) -> None:
    result = run(models_dir, "tiny", crops, "--crops")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert [line.split()[3] for line in lines[1:]] == ["happy", "neutral", "sad"]
    assert "model:" not in result.stderr


def test_without_a_name_the_newest_is_taken_or_the_one_that_comes_along(
    models_dir: Path, crops: Path, tmp_path: Path
) -> None:
    result = run(models_dir, crops, "--crops", "--json")
    assert len(json.loads(result.stdout)["labels"]) == 3
    assert f"model: tiny, the newest in {models_dir}" in result.stderr
    bundled = run(tmp_path / "none", crops, "--crops", "--json")
    assert len(json.loads(bundled.stdout)["labels"]) == 7
    assert "model: ferkit2, which comes with ferkit" in bundled.stderr
    for named in (["--model", "ferkit2", crops], ["ferkit2", crops]):
        by_name = run(models_dir, *named, "--crops", "--json")
        assert by_name.stdout == bundled.stdout
        assert "model:" not in by_name.stderr


def test_korean_names_and_a_named_model(models_dir: Path, crops: Path) -> None:
    result = run(models_dir, "older", crops / "happy.png", "--crops", "--lang", "ko")
    assert "기쁨" in result.stdout
    assert run(models_dir / "elsewhere", models_dir / "older", crops, "--crops").exit_code == 0


def test_json_has_all_probabilities(models_dir: Path, crops: Path) -> None:
    document = json.loads(run(models_dir, "tiny", crops, crops / "nothing.jpg", "--crops", "--json").stdout)
    assert document["labels"] == ["happy", "neutral", "sad"]
    *faces, missing = document["pictures"]
    assert [image["faces"][0]["label"] for image in faces] == ["happy", "neutral", "sad"]
    assert all(abs(sum(image["faces"][0]["probabilities"].values()) - 1) < 0.001 for image in faces)
    assert missing["error"] == "cannot be read: No such file or directory"
    assert missing["faces"] == []


def test_csv_has_a_row_a_face(models_dir: Path, crops: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(models_dir, "tiny", crops, "--crops", "--csv").stdout)))
    assert [row["label"] for row in rows] == ["happy", "neutral", "sad"]
    assert all(float(row[f"p_{row['label']}"]) == float(row["confidence"]) > 0.5 for row in rows)


def test_annotated_copies_are_written_beside(models_dir: Path, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(models_dir, "tiny", crops, crops / "sad.png", "--crops", "--annotated", out).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["happy.jpg", "neutral.jpg", "sad-2.jpg", "sad.jpg"]


def test_without_a_korean_font_copies_are_english_and_it_says_so(
    models_dir: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "hangul_font_file", lambda: None)
    result = run(models_dir, "tiny", crops, "--crops", "--lang", "ko", "--annotated", tmp_path / "out")
    assert result.exit_code == 0
    assert "한글 글꼴이 없어 라벨을 영어로 표시합니다" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.jpg"], 1, "neither an image, nor a folder, nor a model"),
        (["tiny"], 2, "expected images after the model"),
        (["tiny", "nowhere.jpg", "else.jpg", "--crops"], 1, "no image could be read"),
        (["tiny", "nowhere*.jpg"], 1, "expected files of the pattern nowhere*.jpg, found none"),
        (["tiny", "x.jpg", "--csv", "--json"], 2, "cannot go together"),
        (["tiny", "x.jpg", "--crops", "--detector", "haar"], 2, "cannot go together"),
        (["tiny", "x.jpg", "--detector", "yunet", "--detector-weights", "none.onnx"], 1, "none.onnx"),
    ],
)
def test_wrong_usage_is_one_clear_sentence(
    models_dir: Path, arguments: list[str], code: int, words: str
) -> None:
    result = run(models_dir, *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_one_unreadable_among_many_is_counted(models_dir: Path, crops: Path) -> None:
    (crops / "broken.jpg").write_text("x")
    result = run(models_dir, "tiny", crops, "--crops")
    assert result.exit_code == 0
    assert "broken.jpg: the content is not an image" in result.stderr
    assert "3 of 4 images read" in result.stderr


@pytest.mark.shared
def test_photographs_give_a_row_for_each_face(models_dir: Path, shared: Path) -> None:
    weights = shared / "models" / "face_detection_yunet_640.onnx"
    result = run(models_dir, "tiny", shared / "media", "--detector-weights", weights, "--json")
    faces = {Path(p["path"]).name: p["faces"] for p in json.loads(result.stdout)["pictures"]}
    assert len(faces["couple.jpg"]) == 2
    assert len(faces["selfie-many-people.jpg"]) >= 6
    assert all(
        len(faces[name]) == 1 and faces[name][0]["box"] for name in ("img5.jpg", "img6.jpg", "img12.jpg")
    )


@pytest.mark.shared
def test_a_model_trained_with_a_detector_uses_it(tmp_path: Path, shared: Path) -> None:
    write_tiny_model(tmp_path / "models" / "haar", CropSettings("haar", None, align=False))
    result = run(tmp_path / "models", "haar", shared / "media" / "couple.jpg")
    assert "as in training: haar" in result.stderr
    assert "1 of " in result.stdout


def test_a_model_at_an_address_is_fetched_once(
    models_dir: Path, crops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pytest.importorskip("fsspec").filesystem("memory")
    pytest.importorskip("upath")
    files.put(str(models_dir / "tiny"), "/bucket/tiny", recursive=True)
    fetched = []
    copy = module.local_copy
    monkeypatch.setattr(module, "local_copy", lambda path: fetched.append(path) or copy(path))
    result = run(models_dir, "memory://bucket/tiny", crops, "--crops", "--json")
    assert len(json.loads(result.stdout)["labels"]) == 3
    assert len(fetched) == 1
