"""fer demo goes the whole way, and what it says is what it made."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def fer(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ferkit", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder / "demo", fer("demo", "--images", 40, "--persons", 20, cwd=folder).stdout


def test_table_has_every_head_and_chance_comes_last(demo: tuple[Path, str]) -> None:
    rows = {line.split()[0]: line.split() for line in demo[1].splitlines()[1:5]}
    accuracy = {name: float(cells[1].rstrip("%")) for name, cells in rows.items()}
    assert set(accuracy) == {"dummy", "logistic", "mlp", "svm"}
    assert accuracy["dummy"] == pytest.approx(100 / 7, abs=0.1)
    assert min(accuracy[name] for name in ("logistic", "mlp", "svm")) > 40


def test_overview_shows_something(demo: tuple[Path, str]) -> None:
    with Image.open(demo[0] / "demo.png") as image:
        assert image.width > image.height > 500
        assert np.asarray(image.convert("L")).std() > 20


def test_models_know_their_data_and_predict(demo: tuple[Path, str]) -> None:
    record = json.loads((demo[0] / "models" / "mlp" / "model.json").read_text(encoding="utf-8"))
    assert sum(record["data"]["classes"].values()) == 280
    assert record["split"]["origin"] == "given"
    assert record["split"]["shared_groups"] == 0
    test_faces = demo[0] / "faces" / "test" / "happy"
    done = fer("predict", demo[0] / "models" / "mlp", test_faces, "--json", cwd=demo[0])
    assert len(json.loads(done.stdout)["pictures"]) == len(list(test_faces.iterdir()))


def test_a_second_run_embeds_nothing_again(demo: tuple[Path, str]) -> None:
    shard = next((demo[0] / "cache").glob("*/shard-00000.npy"))
    before = shard.stat().st_mtime_ns
    again = fer("demo", "--images", 40, "--persons", 20, cwd=demo[0].parent).stdout
    columns = [line.split()[:2] for line in demo[1].splitlines()[1:5]]
    assert [line.split()[:2] for line in again.splitlines()[1:5]] == columns
    assert shard.stat().st_mtime_ns == before
