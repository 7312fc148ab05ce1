"""``fer finetune``, ``fer ensemble`` and ``fer export``: options reach the recipe, results are printed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ferkit.classifiers.finetune.recipe import recipe_names
from ferkit.classifiers.model import load_classifier, read_model
from ferkit.cli.train import ensemble, export, finetune
from ferkit.core.errors import FerkitError, TrainingError
from ferkit.core.weights import NETWORK_ONNX, bundled_folder
from tests.classifiers.finetune.corners import corners

SMALL = [
    "--backbone",
    "plain",
    "--input-size",
    "24",
    "--epochs",
    "1",
    "--batch-size",
    "16",
    "--detector",
    "none",
]
SMALL += ["--set", "stages.1.augment=false"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    y = np.arange(48) % 2
    np.savez(tmp_path / "faces.npz", images=corners(y), labels=np.array(["happy", "sad"])[y])
    return tmp_path / "faces.npz"


def run(command: object, *arguments: object, at: Path, env: dict[str, str] | None = None) -> Result:
    folders = ["--models-dir", at / "models"]
    if command is finetune:
        folders += ["--cache-dir", at / "cache"]
    arguments = tuple(str(argument) for argument in (*arguments, *folders))
    options = {"auto_envvar_prefix": f"FER_{command.name.upper()}"}  # type: ignore[attr-defined]
    result = CliRunner().invoke(command, arguments, env=env, **options)  # type: ignore[arg-type]
    if isinstance(result.exception, FerkitError):
        raise result.exception
    return result


def test_networks_are_trained_joined_and_converted(data: Path, tmp_path: Path) -> None:
    first = run(finetune, data, *SMALL, "--name", "a", "--json", at=tmp_path)
    assert first.exit_code == 0, first.output
    figures = json.loads(first.stdout)
    assert figures["model"] == str(tmp_path / "models" / "a")
    assert 0 <= figures["macro_f1"] <= figures["accuracy"] + 0.5
    env = {"FER_FINETUNE_SEED": "5", "FER_FINETUNE_DROPOUT": "0.1"}
    second = run(finetune, data, *SMALL, "--name", "b", at=tmp_path, env=env)
    assert "models/b: validation accuracy" in second.stdout
    recipe = read_model(tmp_path / "models" / "b").record.parts["recipe"]
    assert (recipe["seed"], recipe["network"]["dropout"], recipe["network"]["backbone"]) == (5, 0.1, "plain")
    assert recipe["stages"][-1]["epochs"] == 1

    both = run(
        ensemble, "a", "b", "--name", "both", "--rule", "weighted", "--weight", 1, "--weight", 3, at=tmp_path
    )
    assert "a 0.25, b 0.75" in both.stdout
    assert load_classifier(tmp_path / "models" / "both").predict_proba(
        corners([0, 1]).repeat(3, 3)
    ).shape == (2, 2)

    out = run(export, "a", "--output", tmp_path / "a.onnx", at=tmp_path)
    assert out.stdout.strip() == str(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "models" / "a" / "network.onnx").read_bytes()
    with pytest.raises(FerkitError, match="kind ensemble and has no Keras network"):
        run(export, "both", at=tmp_path)
    out = run(export, "ferkit2", "--output", tmp_path / "second.onnx", at=tmp_path)
    assert (tmp_path / "second.onnx").read_bytes() == (bundled_folder("ferkit2") / NETWORK_ONNX).read_bytes()
    with pytest.raises(FerkitError, match="take --format onnx"):
        run(export, "ferkit2", "--format", "keras", at=tmp_path)


def test_wrong_settings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"unknown setting network\.depth"):
        run(finetune, "absent", "--set", "network.depth=3", at=tmp_path)
    with pytest.raises(TrainingError, match="epochs between 0"):
        run(finetune, "absent", "--epochs", "-1", at=tmp_path)
    with pytest.raises(TrainingError, match="one of gray, rgb"):
        run(finetune, "absent", "--color", "green", at=tmp_path)
    assert not (tmp_path / "models").exists()


def test_a_model_of_the_recipe_ferkit_is_not_called_as_the_one_that_comes_along(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finetune_is_asked(dataset: object, recipe: object, asked: object, options: Any) -> None:
        raise TrainingError(options.model.name)

    monkeypatch.setattr("ferkit.classifiers.finetune.run.finetune", finetune_is_asked)
    with pytest.raises(TrainingError, match=r"^ferkit-own$"):
        run(finetune, data, "--recipe", "ferkit", "--detector", "none", at=tmp_path)
    with pytest.raises(TrainingError, match=r"^quick$"):
        run(finetune, data, "--detector", "none", at=tmp_path)


def test_the_help_names_every_recipe() -> None:
    text = "".join(CliRunner().invoke(finetune, ["--help"]).output.split())  # lines end at hyphens
    assert all(name.removesuffix("-better") in text for name in recipe_names())
