"""A model remembers what it was trained on, and every command uses it so."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ferkit.classifiers.model import list_models, read_model
from ferkit.cli.main import main


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of small figures in large scenes, where what matters is no face, and a model of them."""
    folder = tmp_path_factory.mktemp("whole")
    for name, left in (("left", 40), ("right", 340)):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            scene = np.random.default_rng(i).integers(0, 40, (360, 480, 3), np.uint8)
            scene[100:200, left : left + 100] += np.uint8(60 if name == "left" else 190)
            Image.fromarray(scene).save(folder / "photos" / name / f"{i}.jpg")
    run(folder, "embed", "photos", "--backbone", "ferkit", "--detector", "none", "--cache-dir", "cache")
    run(folder, "fit", "--head", "logistic", "--name", "wp", "--cache-dir", "cache", "--models-dir", "models")
    return folder


def run(folder: Path, *arguments: str) -> tuple[str, str]:
    """What a command prints and what it remarks, run in ``folder``."""
    import os

    before = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_whole_images_are_read_whole_without_being_told(work: Path) -> None:
    model = read_model(work / "models" / "wp")
    assert (model.crops.kind, model.crops.settings.detector) == ("whole", "none")
    printed, remarks = run(work, "predict", "wp", "photos/left", "--json", "--models-dir", "models")
    faces = [image["faces"] for image in json.loads(printed)["pictures"]]
    assert [face["label"] for (face,) in faces].count("left") >= 19
    assert "whole, as in training" in remarks
    printed, remarks = run(
        work,
        "eval",
        "wp",
        "photos",
        "--split",
        "all",
        "--json",
        "--no-html",
        "--models-dir",
        "models",
        "--out",
        "r",
    )
    assert json.loads(printed)["accuracy"]["value"] > 0.9
    assert "whole, as in training" in remarks
    _, remarks = run(work, "explain", "wp", "photos/left/0.jpg", "--out", "why.png", "--models-dir", "models")
    assert "whole, as in training" in remarks


def test_a_frame_is_one_result(work: Path) -> None:
    from ferkit.inference.engine import EngineOptions, build_engine

    engine, cropping = build_engine(read_model(work / "models" / "wp"), EngineOptions())
    result = engine.process(np.asarray(Image.open(work / "photos" / "right" / "0.jpg")), 0.0)
    assert cropping.kind == "whole"
    assert result.faces.xyxy.tolist() == [[0, 0, 480, 360]]


def test_models_of_version_0_1_were_trained_on_crops_or_on_detected_faces(work: Path, tmp_path: Path) -> None:
    model = read_model(work / "models" / "wp")
    object.__setattr__(model.record, "crops", "")
    assert model.save(tmp_path / "old").crops.kind == "crops"
    object.__setattr__(model.record, "faces", {**model.record.faces, "detector": "yunet"})
    assert model.save(tmp_path / "detected").crops.kind == "detected"
    assert [entry.name for entry in list_models(tmp_path)] == ["ferkit", "ferkit2", "detected", "old"]
