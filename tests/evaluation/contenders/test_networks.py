"""Finished models that may know the test images already, and networks that are trained within."""

from pathlib import Path

import numpy as np
import pytest

from ferkit.classifiers.heads import head_settings
from ferkit.classifiers.model import Model, ModelRecord
from ferkit.datasets.dataset import Dataset, FileSource, Sample, read_folder
from ferkit.datasets.split import SplitSettings
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.evaluation.candidates import trained_on
from ferkit.evaluation.evaluate_model import Scores, evaluate_model, fit_held_out, save_fit
from ferkit.evaluation.report.page import format_summary
from ferkit.evaluation.report.values import report_values
from ferkit.faces.cropping import Cropping
from tests.evaluation.faces import PERSON, compared


def fitted(root: Path, folder: Path, seed: int = 0) -> Path:
    """A model that ``fer embed`` and ``fer fit`` would make."""
    options = StoreOptions(folder / "cache")
    store, _ = embed_dataset(
        read_folder(root, PERSON),
        open_embedder("raw"),
        Cropping.ask("none"),
        options,
    )
    table = store.load().labelled()
    result = fit_held_out(table, head_settings("logistic"), SplitSettings(seed=seed))
    save_fit(folder / "models" / "own", result, store, table, overwrite=True)
    return folder / "models" / "own"


def test_a_model_of_the_same_training_part_saw_no_test_image(drawn_faces: Path, tmp_path: Path):
    fitted(drawn_faces, tmp_path)
    found = compared(drawn_faces, tmp_path, "model:own", "logistic@hog")
    assert len(found.candidate("model:own").seen) == 0
    assert found.candidate("model:own").failure is None


def test_a_model_of_another_division_is_flagged_and_never_called_best(undivided_faces: Path, tmp_path: Path):
    model = fitted(undivided_faces, tmp_path, seed=1)
    found = compared(undivided_faces, tmp_path, f"model:{model}", "logistic@hog", seed=0)
    seen = found.candidates[0].seen
    (split,) = found.splits
    assert 0 < len(seen) < len(split.test)
    assert set(seen) <= set(split.test)
    values = report_values(found)
    assert values["contenders"][values["best"]]["name"] == "logistic@hog"
    assert f"trained on {len(seen)} of the {len(split.test)} test images" in format_summary(found)


def test_a_model_of_the_same_division_saw_nothing(undivided_faces: Path, tmp_path: Path):
    model = fitted(undivided_faces, tmp_path, seed=0)
    assert len(compared(undivided_faces, tmp_path, f"model:{model}", seed=0).candidates[0].seen) == 0


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """One epoch of a small network."""
    pytest.importorskip("keras")
    path = tmp_path / "tiny.toml"
    path.write_text(
        'batch_size = 16\n[network]\nbackbone = "compact"\ncolor = "gray"\n'
        "[[stages]]\nepochs = 1\nlearning_rate = 1e-3\n"
    )
    return path


def test_a_network_is_trained_where_images_have_no_part(undivided_faces: Path, tmp_path: Path, recipe: Path):
    (one,) = compared(undivided_faces, tmp_path, f"finetune:{recipe}").candidates
    assert one.failure is None


def test_a_network_is_trained_within_and_not_trained_twice(drawn_faces: Path, tmp_path: Path, recipe: Path):
    (one,) = compared(drawn_faces, tmp_path, f"finetune:{recipe}").candidates
    assert one.failure is None
    assert len(one.cells[0].history) == 1
    assert one.costs.train_s == pytest.approx(one.cells[0].history[0]["seconds"])
    assert one.costs.size_mb is not None
    networks = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "networks").glob("*/model.json")
    }
    assert len(networks) == 1
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    cell.unlink()  # as if it had been stopped between training and scoring
    compared(drawn_faces, tmp_path, f"finetune:{recipe}")
    assert {path: path.stat().st_mtime_ns for path in networks} == networks


def network_of(folder: Path, name: str) -> Model:
    """A network whose record says that it was trained on two images of each class of a data set."""
    record = ModelRecord(
        kind="network", labels=("a", "b"), input_size_wh=(48, 48), versions={},
        data={"name": name, "class_counts": {"a": 2, "b": 2}}, split={"origin": "drawn"},
    )  # fmt: skip
    return Model(folder, record, ())


def dataset_of(root: Path, name: str, *parts: str | None) -> Dataset:
    """Two images of each class in each part."""
    samples = [Sample(f"{part}/{i}.png", label, part) for part in parts for i, label in enumerate("aabb")]
    return Dataset(name, root, tuple(samples), FileSource(root))


@pytest.mark.parametrize(("split", "seen"), [("train", 4), ("test", 0)])
def test_a_network_saw_the_training_part_when_that_is_tested(tmp_path: Path, split: str, seen: int):
    dataset = dataset_of(tmp_path, "d", "test", "train")
    tested = tuple(sample for sample in dataset.samples if sample.split == split)
    scores = Scores(tested, np.full((4, 2), 0.5, np.float32), ())
    found = evaluate_model(network_of(tmp_path, "d"), dataset, scores, scores.y_true)
    assert len(found.candidates[0].seen) == seen


def test_the_training_part_of_one_data_set_says_nothing_of_another(tmp_path: Path):
    parts = dataset_of(tmp_path, "west", "train", "val"), dataset_of(tmp_path, "east", None)
    tested = [(1, sample.path) for sample in parts[1].samples]
    assert len(trained_on(network_of(tmp_path, "east"), parts, tested)[0]) == 4
    assert len(trained_on(network_of(tmp_path, "west"), parts, tested)[0]) == 0
