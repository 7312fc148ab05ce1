"""The tutorial's commands, as they stand in the document, one after the other."""

import csv
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ferkit.datasets.load import load_dataset

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial-aihub.md"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the lines are run by a POSIX shell")


def shell_lines() -> list[str]:
    """Every line of the blocks that are marked as shell."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder in which all was run, and what each line printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("fer", "-m ferkit "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (programs / name).chmod(stat.S_IRWXU)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FER_OFFLINE": "1",
    }
    work = folder / "work"
    work.mkdir()
    printed = {}
    for line in shell_lines():
        began = time.monotonic()
        run = subprocess.run(
            line, shell=True, cwd=work, env=environment, capture_output=True, encoding="utf-8", timeout=120
        )
        assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
        assert "Traceback" not in run.stderr
        printed[line] = run.stdout
        print(f"{time.monotonic() - began:6.1f} s  {line[:80]}")
    return work, printed


def test_every_step_is_there(done: tuple[Path, dict[str, str]]):
    words = [" ".join(line.split()[:3]) for line in done[1]]
    assert words == [
        "python -m tests.synthetic_aihub", "fer dataset import", "fer dataset info", "fer crop aihub.csv",
        "fer dataset map", "fer dataset split", "fer embed practice.csv", "fer fit --head", "fer predict logistic",
    ]  # fmt: skip


def test_tables_in_the_document_are_what_was_printed(done: tuple[Path, dict[str, str]]):
    text = TUTORIAL.read_text(encoding="utf-8")
    for command in ("fer dataset map", "fer dataset split"):
        (printed,) = (out for line, out in done[1].items() if line.startswith(command))
        assert f"```\n{printed}```" in text


def test_nothing_is_lost_on_the_way(done: tuple[Path, dict[str, str]]):
    work = done[0]
    raw, crops, final = (
        load_dataset(work / name) for name in ("aihub.csv", "faces/labels.csv", "practice.csv")
    )
    assert len(raw) == len(crops) == len(final) == 280
    assert not (work / "aihub-problems.csv").exists()
    assert set(final.class_counts()) == {"기쁨", "당황·불안", "분노", "슬픔·상처", "중립"}
    assert {sample.attributes["source"] for sample in final.samples} == {"aihub"}
    assert {sample.group for sample in final.samples} == {sample.group for sample in raw.samples}
    assert final.read(final.samples[0]).shape == (112, 112, 3)


def test_nobody_is_on_both_sides(done: tuple[Path, dict[str, str]]):
    samples = load_dataset(done[0] / "practice.csv").samples
    train, test = ({s.group for s in samples if s.split == part} for part in ("train", "test"))
    assert len(train) == 30
    assert len(test) == 10
    assert not train & test
    assert None not in train | test


def test_the_model_has_learnt_something_and_reads_photos(done: tuple[Path, dict[str, str]]):
    work, printed = done
    (fitted,) = (out for line, out in printed.items() if line.startswith("fer fit"))
    found = re.search(r"^accuracy +([\d.]+)%", fitted, re.MULTILINE)
    assert found
    assert float(found.group(1)) > 50  # the largest class has 29 %
    with (work / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == 56
