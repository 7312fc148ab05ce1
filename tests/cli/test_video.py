import csv
import importlib.util
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ferkit.cli.main import main
from tests.inference.squares import moving_squares, write_video
from tests.inference.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "models"
    write_tiny_model(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", moving_squares(50))


def run(models_dir: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(main, ["video", "--models-dir", str(models_dir), *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_video_gives_a_table_totals_and_a_timeline(models_dir: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(models_dir, "tiny", video, "--out", out, "--detector", "none", "--plot")
    assert result.exit_code == 0, result.output
    assert "50 frames, 50 readings" in result.stdout
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        "faces.csv", "resume.json", "summary.json", "timeline.png",
    }  # fmt: skip
    assert json.loads((out / "summary.json").read_text())["n_readings"] == 50
    again = run(models_dir, "tiny", video, "--out", out, "--detector", "none", "--lang", "ko")
    assert "이미 분석한 동영상" in again.stderr
    assert "불확실" in again.stdout or "슬픔" in again.stdout


def test_csv_and_json_have_the_same_rows(models_dir: Path, video: Path, tmp_path: Path) -> None:
    common = ("tiny", video, "--out", tmp_path / "out", "--detector", "none", "--every", "0.5")
    rows = list(csv.DictReader(io.StringIO(run(models_dir, *common, "--csv").stdout)))
    document = json.loads(run(models_dir, *common, "--json").stdout)
    assert len(rows) == len(document["faces"]) == 4
    assert [row["label"] for row in rows] == [face["label"] for face in document["faces"]]
    assert document["summary"]["n_readings"] == 4


def test_an_annotated_copy(models_dir: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces.mp4"
    result = run(models_dir, video, "--out", tmp_path / "out", "--detector", "haar", "--annotated", out)
    assert result.exit_code == 0, result.output
    assert "no face in 50 frames" in result.stdout
    assert out.stat().st_size > 1000


def test_wrong_usage_is_one_clear_sentence(models_dir: Path, video: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for arguments, code, words in (
        (("nowhere.mp4",), 1, "expected a video file at nowhere.mp4, found nothing"),
        (("unknown", video), 1, "no model is called 'unknown'"),
        ((text, "--out", tmp_path / "a", "--detector", "none"), 1, "not a video that can be read"),
        ((video, "--csv", "--json"), 2, "cannot go together"),
        ((video, "--annotated", "faces.txt"), 2, "expects a video file"),
        ((video, "--annotated", video), 2, "write over the video itself"),
        ((video, "--half-life", "-1"), 1, "expected half_life_s above 0"),
    ):
        result = run(models_dir, *arguments)
        assert result.exit_code == code, result.output
        assert words in result.stderr
        assert "Traceback" not in result.output


@pytest.mark.shared
def test_people_of_a_real_video_are_told_apart(models_dir: Path, shared: Path, tmp_path: Path) -> None:
    weights = shared / "models" / "face_detection_yunet_640.onnx"
    video = shared / "media" / "woman_596x336.mp4"
    result = run(models_dir, video, "--out", tmp_path, "--every", "0.5", "--detector-weights", weights)
    assert result.exit_code == 0, result.output
    people = json.loads((tmp_path / "summary.json").read_text())["people"]
    assert [person["n_readings"] for person in people] == [31]


def test_a_plot_without_matplotlib_is_refused_before_the_video_is_read(
    models_dir: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else there(name, *rest)
    )
    result = run(models_dir, "tiny", video, "--out", tmp_path / "out", "--plot")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "Error: fer video --plot needs matplotlib, which is not installed; pip install 'ferkit[plots]'"
    ]
    assert not (tmp_path / "out").exists()
