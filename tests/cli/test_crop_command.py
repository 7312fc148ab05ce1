import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ferkit.cli import main as fer
from ferkit.datasets.load import load_dataset
from tests.synthetic_aihub import write_aihub_layout


def run(*arguments: object) -> Result:
    return CliRunner().invoke(fer, ["crop", *map(str, arguments)])


@pytest.fixture(scope="module")
def aihub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "aihub"
    write_aihub_layout(root, 2, size_wh=(320, 240), validation=0.5)
    next(root.rglob("*_중립_*.jpg")).unlink()
    return root


def test_boxes_are_taken_where_they_are_known(aihub: Path, tmp_path: Path):
    result = run(aihub, tmp_path / "out", "--size", 48, "--gray", "--format", "png")
    assert result.exit_code == 0
    assert result.stdout == f"13 crops of 13 images (13 read now): {tmp_path / 'out' / 'labels.csv'}\n"
    assert "13 images" in result.stderr
    assert "1 remarks on the annotations" in result.stderr
    assert "every box is known, no detector is asked" in result.stderr
    dataset = load_dataset(tmp_path / "out" / "labels.csv")
    assert dataset.read(dataset.samples[0]).shape == (48, 48, 3)
    assert "there is no image of this name" in (tmp_path / "out" / "crops.csv").read_text(encoding="utf-8")


def test_a_detector_is_asked_where_they_are_ignored(aihub: Path, tmp_path: Path):
    result = run(aihub, tmp_path / "out", "--ignore-boxes", "--detector", "haar", "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["n_crops"] + summary["statuses"].get("faceless", 0) == 13
    assert summary["n_crops"] >= 8


def test_what_was_left_out_is_said(aihub: Path, tmp_path: Path):
    result = run(aihub, tmp_path / "out", "--min-size", 80)
    assert result.exit_code == 0
    n_small = (tmp_path / "out" / "crops.csv").read_text(encoding="utf-8").count(",small,")
    assert 0 < n_small < 13
    assert f"left out: {n_small} small; see {tmp_path / 'out' / 'crops.csv'}" in result.stderr


def test_other_settings_are_refused_in_one_line(aihub: Path, tmp_path: Path):
    assert run(aihub, tmp_path / "out", "--size", 32).exit_code == 0
    result = run(aihub, tmp_path / "out", "--size", 64)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: the crops in ")
    assert "another size_wh" in result.stderr
    assert run(aihub, tmp_path / "out", "--size", 64, "--redo").exit_code == 0


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("nowhere", "found nothing at"),
        ("coco.json", "found no images"),
        ("boxes.csv", "expected a box with left < right and top < bottom: found 9, 9, 1, 1, row 2"),
    ],
)
def test_data_that_cannot_be_used(tmp_path: Path, source: str, line: str):
    (tmp_path / "coco.json").write_text("{}")
    (tmp_path / "boxes.csv").write_text("path,left,top,right,bottom\na.jpg,9,9,1,1\n")
    result = run(tmp_path / source, tmp_path / "out")
    assert result.exit_code == 1
    assert line in result.stderr
    assert not (tmp_path / "out").exists()


def test_weights_for_a_detector_without_any(tmp_path: Path):
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "a.png")
    result = run(tmp_path, tmp_path.parent / "out", "-d", "haar", "--detector-weights", "x.onnx")
    assert result.exit_code == 2
    assert "takes no weights" in result.stderr


def test_options_of_a_file(aihub: Path, tmp_path: Path):
    (tmp_path / "fer.toml").write_text('[crop]\nsize = "40x50"\nformat = "png"\n')
    result = run(aihub, tmp_path / "out", "--config", tmp_path / "fer.toml")
    assert result.exit_code == 0
    dataset = load_dataset(tmp_path / "out")
    assert dataset.read(dataset.samples[0]).shape == (50, 40, 3)
