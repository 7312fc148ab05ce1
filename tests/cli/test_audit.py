import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from ferkit.cli import main as fer
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import write_dataset


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audit") / "faces"
    write_dataset(root, n_per_class=10, n_persons=10, size=48)
    first = sorted((root / "train").rglob("*.png"))[0]
    cv2.imwrite(str(first.with_name("copy.jpg")), cv2.imread(str(first))[:, ::-1])
    cv2.imwrite(str(first.with_name("blank.png")), np.zeros((48, 48), np.uint8))
    return root


def run(*arguments: object) -> str:
    result = CliRunner().invoke(fer, ["audit", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_from_images_to_a_page_and_back(faces: Path, tmp_path: Path):
    report = tmp_path / "report"
    cache = ("--cache-dir", tmp_path / "cache")
    found = json.loads(run(faces, "-o", report, *cache, "--json", "-q"))
    assert found["counts"]["blank"] == 1
    assert found["counts"]["near_copy"] == 1
    assert found["embeddings"] == "ferkit2"
    assert found["page"] == str(report / "audit.html")
    assert {path.name for path in report.iterdir()} == {
        *("audit.html", "findings.csv", "audit.json"),
        *("label-studio.json", "fiftyone-labels.json"),
    }

    assert {path.name for path in (tmp_path / "cache").iterdir()} >= {"pictures", "copies", "predictions"}

    blank = next(p.relative_to(faces).as_posix() for p in faces.rglob("blank.png"))
    plan = tmp_path / "plan.csv"
    plan.write_text(f"path,action\n{blank},drop\nnobody.png,drop\n", "utf-8")
    said = run(faces, "--fix", plan)
    assert "refused: line 3, nobody.png: the data set has no such image" in said
    assert "1 dropped, 0 relabelled, 0 grouped, 0 kept unchanged, 1 refused" in said
    manifest = faces.parent / "faces-audited.csv"
    assert len(load_dataset(manifest)) == len(load_dataset(faces)) - 1
    assert "is removed" in run(faces, "--undo")
    assert not manifest.exists()


def test_without_embeddings_there_is_a_note(faces: Path, tmp_path: Path):
    said = run(faces, "-e", "none", "-o", tmp_path / "r", "--cache-dir", tmp_path / "cache", "-q")
    assert "Near-duplicates" in said
    assert "note: no embeddings were given" in said
    said = run(faces, "-e", "none", "-o", tmp_path / "r", "--cache-dir", tmp_path / "cache", "--lang", "ko")
    assert "유사 중복" in said
    assert "참고: 임베딩이 없어 잘못된 라벨과 특이한 이미지는 확인하지 않았습니다" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--fix", "absent.csv"], 1, "the plan absent.csv cannot be read"),
        (["--undo"], 1, "no fix"),
        (["--fix", "a.csv", "--undo"], 2, "exclude each other"),
        (["-e", "unknown"], 1, "expected embeddings called 'unknown'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    faces: Path, tmp_path: Path, arguments: list[str], code: int, words: str
):
    result = CliRunner().invoke(fer, ["audit", str(faces), "--cache-dir", str(tmp_path), *arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
