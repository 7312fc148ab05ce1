"""Every recipe, an epoch long, on a few small images: what is exported agrees with what was trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from ferkit.classifiers.finetune.recipe import RunOptions, StageSettings, load_recipe
from ferkit.classifiers.finetune.run import finetune
from ferkit.classifiers.model import load_classifier, read_model
from ferkit.datasets.load import load_dataset
from ferkit.faces.cropping import Cropping

# Large networks take minutes to trace; that each can be built and converted is tested in test_finetune_backbones.py.
LARGE = ("aihub", "interview", "teasing", "vgg-transfer")
STAGES = {"teasing": 2, "interview": 2}
RUN = ("ferkit", "interview-cnn", "aihub", "interview", "teasing", "vgg-transfer")
"""The others differ from these in numbers alone."""


def one_epoch(stage: StageSettings, number: int, name: str) -> StageSettings:
    return replace(stage, epochs=int(number == STAGES.get(name, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_recipe_runs_and_its_export_agrees_with_keras(
    name: str, write_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = ("non-teasing", "teasing") if name == "teasing" else ("angry", "happy", "sad")
    data = load_dataset(write_folder({"train": dict.fromkeys(classes, 6), "val": dict.fromkeys(classes, 2)}))
    changes = {"network.weights": "none", "network.input_size_wh": [32, 32], "batch_size": 8}
    if name in LARGE:
        changes["network.backbone"] = "mini_xception"
    recipe = load_recipe(name, changes)
    recipe = replace(
        recipe, stages=tuple(one_epoch(s, i, name) for i, s in enumerate(recipe.stages, start=1))
    )
    if recipe.sampling.target_per_class:
        recipe = replace(recipe, sampling=replace(recipe.sampling, target_per_class=8))
    model = tmp_path / "model"
    finetune(
        data, recipe, Cropping.ask("none"), RunOptions(model=model, work=tmp_path / "work"),
    )  # fmt: skip
    crops = np.stack([np.asarray(data.read(sample)) for sample in data.samples[:5]])
    crops = np.stack([np.kron(crop, np.ones((2, 2, 1), np.uint8))[:32, :32] for crop in crops])
    network = keras.saving.load_model(model / "network.keras", compile=False)
    expected = network.predict_on_batch(crops.astype(np.float32))
    found = load_classifier(model).predict_proba(crops)
    assert found[:, -expected.shape[1] :] == pytest.approx(expected, abs=1e-4)
    assert read_model(model).record.parts["epochs"] == 1
