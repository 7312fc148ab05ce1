"""fer compare: usage, output, and what it leaves on disk."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ferkit.cli import main as fer
from ferkit.datasets.synthetic import write_dataset


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 drawn faces of 10 persons."""
    root = tmp_path_factory.mktemp("cli") / "faces"
    write_dataset(root, n_per_class=10, n_persons=10, size=48, seed=5)
    return root


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(fer, ["compare", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output if code else result.stdout


def test_a_table_sentences_and_files(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    who = ["-c", "dummy", "-c", "logistic@hog", "-c", "peer:fer"]
    text = run(faces, *who, "--allow-leaks", "--detector", "none", "-q")
    lines = text.splitlines()
    assert lines[0].startswith("faces: 49 training images, 21 tested (given by the data), 7 classes")
    assert [line.split()[0] for line in lines[2:5]] == ["candidate", "logistic@hog", "dummy"]
    assert "1 of 3 candidates failed: peer:fer." in text
    assert "peer:fer: PyPI fer is not installed" in text
    assert "logistic@hog reads" in text
    assert (tmp_path / "comparison" / "faces" / "comparison.json").is_file()
    values = json.loads(run(faces, *who, "--allow-leaks", "--detector", "none", "-q", "--json"))
    assert [one["name"] for one in values["contenders"]] == ["dummy", "logistic@hog", "peer:fer"]
    assert values["contenders"][1]["evaluation"]["n"] == 21


def test_a_run_in_which_nobody_finished_has_a_report_and_fails(faces: Path, tmp_path: Path):
    given = [faces, "--allow-leaks", "--detector", "none", "-q", "--out", tmp_path / "out"]
    assert "No candidate finished." in run(*given, "-c", "python:nothing:here", code=1)
    assert (tmp_path / "out" / "report.html").is_file()
    run(*given, "-c", "python:nothing:here", "-c", "dummy")


def test_across_two_folders_and_a_matrix(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name, part, classes in (
        ("a", "train", ("happy", "sad", "fear")),
        ("b", "test", ("happy", "sad", "angry")),
    ):
        for label in classes:
            shutil.copytree(faces / part / label, tmp_path / name / label)
    common = ["-c", "dummy", "--allow-leaks", "--detector", "none", "-q"]
    text = run("--train", "a", "--test", "b", *common)
    assert "classes of a that b lacks, left out of training: fear (7)" in text
    assert "classes of b that a lacks, left out of the test: angry (3)" in text
    text = run("--matrix", "a", "b", *common, "--test-size", "0.4")
    assert "trained on ↓  tested on →" in text
    assert {path.name for path in (tmp_path / "comparison" / "a+b").iterdir()} == {
        "a--a", "a--b", "b--a", "b--b", "matrix.json", "report.html", "report.md"
    }  # fmt: skip


def test_a_leaking_split_is_refused_in_one_line(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(faces, tmp_path / "faces")
    shutil.copy(next((faces / "test" / "sad").iterdir()), tmp_path / "faces" / "train" / "sad")
    text = run("faces", "-c", "dummy", "--detector", "none", "-q", code=1)
    assert text.startswith("Error: ")
    assert len(text.splitlines()) == 1
    assert "--allow-leaks" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one DATA"),
        (["a", "b"], "several with --matrix"),
        (["--matrix", "a"], "two or more"),
        (["--train", "a"], "go together"),
        (["a", "--train", "b", "--test", "c"], "not both"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], says: str):
    assert says in run(*arguments, code=2)


@pytest.mark.parametrize(
    ("name", "says"), [("nobody", "no candidate is called 'nobody'"), ("x@hog", "known: dummy")]
)
def test_an_unknown_candidate_is_said_before_anything_is_read(name: str, says: str):
    assert says in run("nowhere", "-c", name, code=1)
