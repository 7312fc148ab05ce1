"""What a user of version 0.1 has on the disk, and types, goes on working: stores, models, runs, settings.

``make.py`` made ``home.tar.xz`` with version 0.1; each test works on a copy.
"""

import csv
import json
import os
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import ferkit
from ferkit.cli import main as command
from tests.version_0_1.commands import (
    AUDIT,
    COMPARE,
    CROP,
    FIX,
    HALF_FINISHED,
    HEADS,
    INTERRUPTED,
    PERSON,
    STORES,
)

HERE = Path(__file__).parent
Fer = Callable[..., str]


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(HERE / "expected.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder; only to be read."""
    folder = tmp_path_factory.mktemp("untouched")
    with tarfile.open(HERE / "home.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def home(untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, which is the working folder too; no detector but Haar, nothing of this machine's settings."""
    shutil.copytree(untouched, tmp_path / "home", copy_function=shutil.copy)  # as new as after git clone
    monkeypatch.chdir(tmp_path / "home")
    settings = Path("crops/.crop/settings.json")  # they name their source by its absolute path
    settings.write_text(
        settings.read_text("utf-8").replace("/tmp/version-0.1", str(tmp_path / "home")), "utf-8"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FER_")}
    with mock.patch.dict(os.environ, kept, clear=True):
        os.environ |= {"FER_OFFLINE": "1", "FER_WEIGHTS_DIR": str(tmp_path / "home")}
        yield tmp_path / "home"


@pytest.fixture
def fer(home: Path) -> Fer:
    """Runs a command that must succeed, and gives what it printed."""

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in patterns for path in folder.glob(pattern)}


def store_of(summary: str) -> tuple[Path, dict[str, Any]]:
    values = json.loads(summary)
    return Path(values["store"]), values


@pytest.mark.parametrize("name", STORES)
def test_a_store_is_found_and_nothing_is_embedded_again(fer: Fer, home: Path, name: str) -> None:
    folders = {path.name for path in (home / "cache").glob("*--*")}
    before = {name: contents(home / "cache" / name, "shard-*", "manifest.json") for name in folders}
    folder, summary = store_of(fer(*STORES[name], "--json"))
    n = summary["n_kept"] + summary["n_failed_before"]
    assert (summary["n_done"], summary["failures"], n) == (0, [], 6 if "photos" in folder.name else 56)
    assert {path.name for path in (home / "cache").glob("*--*")} == folders
    assert contents(folder, "shard-*", "manifest.json") == before[folder.name]


def test_an_interrupted_store_becomes_what_an_undisturbed_run_wrote(fer: Fer, home: Path) -> None:
    folder, summary = store_of(fer(*INTERRUPTED, "--json"))
    assert (summary["n_done"], summary["n_kept"]) == (24, 32)
    (undisturbed,) = (home / "cache").glob(f"faces--ferkit--{folder.name[-8:]}")
    rows = lambda store: contents(store, "shard-*.json", "manifest.json")  # noqa: E731
    assert rows(folder).keys() == rows(undisturbed).keys()
    for one, other in zip(sorted(folder.glob("*.npy")), sorted(undisturbed.glob("*.npy")), strict=True):
        np.testing.assert_allclose(
            np.load(one), np.load(other), atol=1e-5
        )  # processors differ in the last bits


def test_a_store_that_stood_still_while_pictures_changed_is_brought_up_to_date(fer: Fer, home: Path) -> None:
    new, gone, *_ = sorted((home / "faces/train/happy").iterdir())
    shutil.copy(new, new.with_name("p9999_00001.png"))
    gone.unlink()
    _, summary = store_of(fer(*STORES["shipped"], "--json"))
    assert (summary["n_done"], summary["n_kept"], summary["n_deleted"]) == (1, 55, 1)


@pytest.mark.parametrize("name", [*HEADS, "network", "ensemble"])
def test_a_model_gives_the_probabilities_that_it_gave(
    fer: Fer, expected: dict[str, np.ndarray], name: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of newer releases of scikit-learn, and of names that are going
        open_model = getattr(ferkit, "load_model", None) or ferkit.load_classifier
        model = open_model(Path("models") / name)
        size = tuple(expected[f"size/{name}"].tolist())
        proba = model.predict_proba(np.stack([cv2.resize(face, size) for face in expected["faces"]]))
    np.testing.assert_allclose(proba, expected[f"models/{name}"], atol=1e-6)
    assert model.labels.names == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    shown = json.loads(fer("predict", f"models/{name}", "faces/test/happy", "--json"))
    assert shown["labels"] == list(model.labels.names)
    assert all(one["error"] is None and len(one["faces"]) == 1 for one in shown["pictures"])


def test_models_are_listed_and_measured(fer: Fer, home: Path) -> None:
    shown = fer("models", "list")
    assert all(name in shown for name in (*HEADS, "network", "ensemble"))
    measured = json.loads(fer("eval", "logistic", "faces", "--out", "report-of-logistic", "--json", *PERSON))
    recorded = json.loads((home / "models/logistic/model.json").read_text("utf-8"))["metrics"]
    assert measured["accuracy"] == pytest.approx(recorded["accuracy"])
    assert fer("ensemble", "mlp", "network", "--name", "again")
    assert fer("export", "network", "--format", "onnx", "-o", "network.onnx") is not None


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_a_head_is_fitted_again_on_a_store(fer: Fer, home: Path, name: str) -> None:
    before = json.loads((home / "models" / name / "model.json").read_text("utf-8"))
    fer(*HEADS[name], "--name", "again")
    after = json.loads((home / "models/again/model.json").read_text("utf-8"))
    assert after["labels"] == before["labels"]
    assert after["split"]["train_rows"] == before["split"]["train_rows"]
    assert after["metrics"]["accuracy"] == pytest.approx(before["metrics"]["accuracy"])


def test_half_finished_training_goes_on(fer: Fer, home: Path) -> None:
    with (home / "cache/finetune/half-finished/history.csv").open() as file:
        (first,) = csv.DictReader(file)
    fer(*HALF_FINISHED)
    with (home / "models/half-finished/history.csv").open() as file:
        history = list(csv.DictReader(file))
    with (HERE / "undisturbed.csv").open() as file:
        undisturbed = list(csv.DictReader(file))
    assert history[0] == first
    assert len(history) == 2
    for column in ("loss", "val_loss", "learning_rate"):
        assert float(history[1][column]) == pytest.approx(float(undisturbed[1][column]), rel=1e-3)


def test_a_comparison_is_read_and_nothing_is_trained_again(
    fer: Fer, home: Path, expected: dict[str, np.ndarray]
) -> None:
    folder = home / "comparison/faces"
    before = contents(folder / "cells", "*.npz")
    told = json.loads((folder / "comparison.json").read_text("utf-8"))
    assert json.loads(fer(*COMPARE, "--json"))["contenders"] != []
    assert contents(folder / "cells", "*.npz") == before
    again = json.loads((folder / "comparison.json").read_text("utf-8"))
    told_anew = json.loads(json.dumps(told).replace("shipped", "ferkit"))
    for name in ("format", "labels", "splits"):
        assert again[name] == told_anew[name]
    for old, new in zip(told_anew["pairs"], again["pairs"], strict=True):
        # The sentence ends in times; and another processor sums in another order.
        assert new.pop("sentence").partition(";")[0] == old.pop("sentence").partition(";")[0]
        assert new == pytest.approx(old, nan_ok=True)
    for old, new in zip(told["contenders"], again["contenders"], strict=True):
        assert new["name"].replace("shipped", "ferkit") == old["name"].replace("shipped", "ferkit")
        assert (new["kind"], new["failure"]) == (old["kind"], None)
        now, then = new["evaluation"]["accuracy"], old["evaluation"]["accuracy"]
        if then["low"] == pytest.approx(
            then["high"]
        ):  # persons who are all alike: an interval of no width was too sure
            assert now["value"] == pytest.approx(then["value"])
            assert now["low"] < now["value"] < now["high"]
        else:
            assert now == pytest.approx(then)
        assert new["cells"][0]["costs"]["train_s"] == old["cells"][0]["costs"]["train_s"]
    with np.load(folder / "comparison.npz", allow_pickle=False) as file:
        for i, one in enumerate(told["contenders"]):
            np.testing.assert_allclose(file[f"proba/{i}/0"], expected[f"compare/{one['name']}"], atol=1e-6)


def test_a_cropping_run_goes_on(fer: Fer, home: Path, untouched: Path) -> None:
    before = contents(home / "crops", "*/*.png", "labels.csv", "crops.csv")
    fer(*CROP)  # images are newer than in the journal, and are read again
    assert contents(home / "crops", "*/*.png", "labels.csv", "crops.csv") == before
    assert json.loads(fer(*CROP, "--json"))["n_done"] == 0
    (home / "crops/sad/4.png").unlink()
    assert json.loads(fer(*CROP, "--json"))["n_done"] == 1
    assert contents(home / "crops", "*/*.png") == contents(untouched / "crops", "*/*.png")


def test_a_manifest_says_the_same(fer: Fer, home: Path) -> None:
    info = json.loads(fer("dataset", "info", "faces.csv", "--json"))
    folder = json.loads(fer("dataset", "info", "faces", "--json", *PERSON))
    counts = lambda of: [(one["class"], one["split"], one["n"]) for one in of["counts"]]  # noqa: E731
    assert counts(info) == counts(folder)
    fer("dataset", "map", "faces.csv", "--to", "aihub5", "--unmapped", "drop", "-o", "mapped.csv")
    assert (
        sum(one["n"] for one in json.loads(fer("dataset", "info", "audited.csv", "--json"))["counts"]) == 55
    )


def test_a_plan_is_followed_and_taken_back(fer: Fer, home: Path, untouched: Path) -> None:
    assert "removed" in fer(*AUDIT[:2], "--undo", "-o", "audited.csv")
    assert not (home / "audited.csv").exists()
    fer(*FIX)
    assert (home / "audited.csv").read_bytes() == (untouched / "audited.csv").read_bytes()


def test_an_audit_finds_the_same(fer: Fer, home: Path) -> None:
    def findings() -> list[str]:
        # Among 56 whitened embeddings all are equally far from the others: rounding names the outlier.
        lines = (home / "report/findings.csv").read_text("utf-8-sig").splitlines()
        return [line for line in lines if ",outlier," not in line]

    before = findings()
    counts = json.loads((home / "report/audit.json").read_text("utf-8"))["counts"]
    assert json.loads(fer(*AUDIT, "--json"))["counts"] == counts
    assert findings() == before


def test_the_words_of_0_1_in_a_toml_file(fer: Fer, home: Path) -> None:
    _run_in_words_of_0_1(fer, home, "from-toml", "--config", "ferkit.toml")


def test_the_words_of_0_1_in_the_environment(fer: Fer, home: Path) -> None:
    shutil.move("env", ".env")
    _run_in_words_of_0_1(fer, home, "from-env")


def _run_in_words_of_0_1(fer: Fer, home: Path, name: str, *config: str) -> None:
    folder, summary = store_of(fer("embed", "photos", "--json", *config))
    settings = json.loads((folder / "manifest.json").read_text("utf-8"))["settings"]
    assert (folder.name.split("--")[:2], summary["failures"]) == ([name, "onnx-net"], [])
    assert (settings["faces"]["faceless"], settings["embedder"]["tap"]) == ("whole", "add_5")
    fer("fit", *config)
    model = json.loads((home / "models" / name / "model.json").read_text("utf-8"))
    assert model["parts"]["head"]["settings"]["balanced"] is True
    assert json.loads(fer("crop", "photos", "cut", "--json", *config))["n_done"] == 6
    found = json.loads(fer("compare", "faces", "--json", "--out", "other", *PERSON, *config))
    names = {one["name"].replace("shipped", "ferkit") for one in found["contenders"]}
    assert names >= {"dummy", "ferkit", "own svm"}
    assert len(json.loads(fer("predict", "models/mlp", "faces/test/happy", *config))["pictures"]) == 2
    # Settings are read before data: of these settings nothing is refused.
    result = CliRunner().invoke(command, ("finetune", "absent", *config))
    assert (result.exit_code, "absent" in result.stderr) == (1, True), result.output


@pytest.mark.parametrize(
    "arguments",
    [
        (*STORES["no face"],),
        (*STORES["inner layer"],),
        ("crop", "photos", "cut", "--pictures", "photos", "--faceless", "whole", "--detector", "none"),
        (*HEADS["logistic"],),
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_the_words_of_0_1_on_the_command_line(fer: Fer, arguments: tuple[str, ...]) -> None:
    fer(*arguments)
