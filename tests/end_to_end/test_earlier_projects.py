"""The commands of docs/from-earlier-projects.md, one after the other, on small drawn data."""

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.neural_network import MLPClassifier

from ferkit.cli.main import main
from ferkit.core.labels import LabelSet
from ferkit.datasets.synthetic import write_dataset
from ferkit.datasets.tables import table_rows
from tests.inference.squares import write_video
from tests.serving.running import running
from tests.synthetic_aihub import write_aihub_layout

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(r"^\| [^|]+ \| `(fer [^`]+)` \|$", re.M)
KOREAN = {"happy": "기쁨", "angry": "분노", "sad": "슬픔", "neutral": "중립", "surprise": "당황"}
# What is not at hand, or too slow for a test, and what takes its place.
INSTEAD = {"arcface": "raw"}
TINY = [
    *("--backbone", "baseline_cnn", "--weights", "none", "--batch-size", "8", "--overwrite"),
    *("--set", "network.input_size_wh=32x32", "--set", "val_size=0.3"),
]
"""Of every fine-tuning: a network of seconds."""


def commands(name: str) -> list[str]:
    return ROW.findall((DOCS / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name."""
    here = tmp_path_factory.mktemp("projects")
    write_dataset(here / "faces", n_per_class=12, n_persons=12, size=48, seed=5)
    shutil.copytree(here / "faces", here / "fer2013")
    for kind, names in (("korean", KOREAN), ("teasing", {"happy": "비약올리기", "angry": "약올리기"})):
        for name, given in names.items():
            for part in ("train", "test"):
                shutil.copytree(here / "faces" / part / name, here / kind / part / given)
    write_aihub_layout(here / "aihub", n_persons=4, size_wh=(200, 160))
    shutil.copy(next((here / "faces/test/happy").iterdir()), here / "사진.png")
    faces = [Image.open(path).convert("RGB") for path in sorted((here / "faces/test/happy").iterdir())]
    write_video(here / "clip.mp4", [np.asarray(face.resize((96, 96))) for face in faces] * 5, fps=10.0)
    rows = []
    for name in ("기쁨", "슬픔"):
        of_class = [f"train/{name}/{path.name},{name}" for path in (here / "korean/train" / name).iterdir()]
        (here / f"{name}.csv").write_text("\n".join(["파일,표정", *of_class]), encoding="cp949")
        rows += of_class
    (here / "listed.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    (here / "old.env").write_text("BATCH_SIZE=8\nP_MIXUP=0.5\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    head = MLPClassifier((128, 64), max_iter=2).fit(rng.normal(size=(70, 1568)), np.arange(70) % 7)
    joblib.dump(head, here / "mlp.pkl")
    return here


def run(command: str) -> Result:
    words = [INSTEAD.get(word, word) for word in shlex.split(command)[1:]]
    if words[0] == "finetune":
        words += TINY
        for stage in (1,) if "vgg" in command or "cnn" in command else (1, 2):
            words += ["--set", f"stages.{stage}.epochs=1", "--set", f"stages.{stage}.unfreeze=all"]
    return CliRunner().invoke(main, words)


def test_both_languages_name_the_same_commands() -> None:
    assert commands("from-earlier-projects.md") == commands("from-earlier-projects.ko.md")
    assert len(commands("from-earlier-projects.md")) > 30


@pytest.mark.parametrize("command", commands("from-earlier-projects.md"))
def test_a_command_does_what_its_row_says(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "finetune" in command and not find_spec("keras"):
        pytest.skip("needs Keras; pip install 'ferkit[train]'")
    monkeypatch.chdir(place)
    monkeypatch.setenv("FER_OFFLINE", "1")
    if command == "fer serve":
        with running(place / "served", model="ferkit") as server:
            assert server.http.get("/").status_code == 200
            assert server.http.get("/v1/models").json()["models"]
        return
    result = run(command)
    assert result.exit_code == 0, result.output
    found = CHECKS.get(" ".join(command.split()[1:3]), lambda here, said: True)(place, result.output)
    assert found, result.output


def labels_of(table: Path) -> set[str]:
    header, *rows = table_rows(table)
    return {row[header.index("label")] for row in rows}


def recall_changes(here: Path) -> bool:
    values = json.loads((here / "west-east" / "matrix.json").read_text(encoding="utf-8"))
    changes = values["contenders"]["logistic@hog"][0][1]["recall_change"]
    return set(changes) == {"기쁨", "분노", "슬픔", "중립", "놀람"} & set(changes) and len(changes) >= 4


CHECKS = {
    "export teasing": lambda here, said: (here / "models" / "teasing.h5").is_file() or ".h5" in said,
    "eval teasing": lambda here, said: (
        {"report.html", "confusion.png", "probabilities.png"} <= {p.name for p in (here / "report").iterdir()}
    ),
    "dataset map": lambda here, said: all(
        labels_of(here / table) <= expected
        for table, expected in {
            "teasing.csv": {"약올리기", "비약올리기"},
            "aihub5.csv": set(LabelSet.named("aihub5").names),
            "four.csv": set(LabelSet.named("aihub4").names),
        }.items()
        if (here / table).exists()
    ),
    "predict 사진.png": lambda here, said: "사진.png" in said,
    "compare --matrix": lambda here, said: recall_changes(here),
    "compare fer2013": lambda here, said: (
        "peer:deepface" in said
    ),  # what is not installed is a row with its reason
    "dataset merge": lambda here, said: (here / "both.csv").exists(),
}
