"""Across data sets: the classes that both have, and the names of those that do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.evaluation.candidate_names import parse_candidates
from ferkit.evaluation.compare import (
    common_classes,
    compare_across,
    compare_matrix,
    cross_data,
    matrix_notes,
)
from ferkit.evaluation.comparison import ProtocolSettings, load_comparison
from ferkit.evaluation.comparison import save_comparison as save
from ferkit.evaluation.report.page import format_matrix
from tests.evaluation.faces import bench, keep, read

KOREAN = {
    "happy": "기쁨",
    "sad": "슬픔",
    "angry": "분노",
    "neutral": "중립",
    "fear": "불안",
    "surprise": "당황",
}


@pytest.fixture(scope="module")
def korean(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test part under six of AI Hub's names."""
    return keep(drawn_faces, tmp_path_factory.mktemp("data") / "korean", KOREAN, "test")


@pytest.fixture(scope="module")
def western(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {name: name for name in ("happy", "sad", "angry", "neutral", "disgust", "fear")}
    return keep(drawn_faces, tmp_path_factory.mktemp("data") / "western", names, "train")


def test_classes_meet_by_meaning_and_the_rest_is_named(western: Path, korean: Path, tmp_path: Path):
    common = common_classes(read(western, tmp_path), read(korean, tmp_path))
    assert common.train["happy"] == "기쁨"
    assert common.train["disgust"] is None
    assert common.test["당황"] is None
    text = " ".join(common.notes)
    n = len(list((western / "disgust").iterdir()))
    assert f"western that korean lacks, left out of training: disgust ({n})" in text
    assert "korean that western lacks, left out of the test" in text
    assert "happy = 기쁨" in text


def test_training_is_on_the_one_and_testing_on_the_other(western: Path, korean: Path, tmp_path: Path):
    ones = [read(western, tmp_path), read(korean, tmp_path)]
    candidates = parse_candidates(["dummy", "logistic@hog", "ferkit"])
    protocol = ProtocolSettings(allow_leaks=True)
    found = compare_across(cross_data(*ones), candidates, protocol, bench(tmp_path))
    (split,) = found.splits
    assert (split.origin, found.name) == ("cross", "western → korean")
    assert set(found.source[split.train]) == {0}
    assert set(found.source[split.test]) == {1}
    assert len(split.train) == sum(
        len(list((western / name).iterdir())) for name in ("happy", "sad", "angry", "neutral")
    )
    assert set(found.labels.names) == {"기쁨", "슬픔", "분노", "중립"}
    assert [one.part for one in found.data] == ["train", "test"]
    assert set(found.attributes["data set"]) == {"western", "korean"}
    accuracy = {one.name: found.evaluation(one.name).figures["accuracy"].value for one in found.finished}
    assert accuracy["logistic@hog"] > accuracy["dummy"]
    assert set(found.candidate("ferkit").unmapped) == {"disgust", "fear", "surprise"}


def test_nothing_in_common_is_an_error(western: Path, drawn_faces: Path, tmp_path: Path):
    teasing = keep(drawn_faces, tmp_path / "teasing", {"happy": "teasing", "sad": "non-teasing"}, "test")
    with pytest.raises(DataError, match="in common, found none"):
        cross_data(read(western, tmp_path), read(teasing, tmp_path))


def test_a_matrix_trains_on_each_and_tests_on_each(western: Path, korean: Path, tmp_path: Path):
    ones = [read(western, tmp_path), read(korean, tmp_path)]
    protocol = ProtocolSettings(test_size=0.3, allow_leaks=True)
    candidates = parse_candidates(["dummy", "logistic@hog", "model:nowhere"])
    matrix = compare_matrix(
        ones,
        candidates,
        protocol,
        bench(tmp_path),
        keep=lambda one, _, place: save(one, place),
    )
    assert [[cell.name for cell in row] for row in matrix] == [
        ["western", "western → korean"],
        ["korean → western", "korean"],
    ]
    # A row has one training part: that of the data set compared with itself, less the classes that do not map.
    own, other = (set(cell.paths[cell.splits[0].train]) for cell in matrix[0])
    assert other == {path for path in own if not path.startswith(("disgust", "fear"))}
    tested = [set(cell.paths[cell.splits[0].test]) for cell in (matrix[0][1], matrix[1][1])]
    assert tested[0] < tested[1]
    values = json.loads((tmp_path / "out" / "matrix.json").read_text(encoding="utf-8"))
    assert values["data"] == ["western", "korean"]
    assert values["contenders"]["model:nowhere"] == [[None, None], [None, None]]
    saved = load_comparison(tmp_path / "out" / "western--korean")
    np.testing.assert_array_equal(saved.splits[0].test, matrix[0][1].splits[0].test)
    cells = values["contenders"]["logistic@hog"]
    assert cells[0][0]["recall_change"] == {}
    change = cells[0][1]["recall_change"]
    assert set(change) == {"기쁨", "슬픔", "분노", "중립"}
    for name, figure in change.items():
        assert -1 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
        assert figure["low"] < figure["high"]
        assert -1 <= figure["value"] <= 1
        assert cells[0][1]["recall"][name]["value"] is not None
    # On the same images, in the same classes: what always says the same changes only from class to class.
    of_dummy = values["contenders"]["dummy"][0][1]["recall_change"]
    assert {figure["value"] for figure in of_dummy.values()} <= {-1.0, 0.0, 1.0}
    text = format_matrix(values, "en", matrix_notes(matrix))
    assert "logistic@hog" in text
    assert "tested on korean" in text
    assert "left out of training: disgust" in text


def test_two_of_one_name_cannot_be_told_apart(western: Path, tmp_path: Path):
    one = read(western, tmp_path)
    with pytest.raises(DataError, match="different names"):
        compare_matrix([one, one], (), ProtocolSettings(), bench(tmp_path), keep=lambda *_: None)
