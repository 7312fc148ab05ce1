"""Names to candidates, and what is said of those that are none."""

from pathlib import Path

import pytest

from ferkit.classifiers.heads import head_settings
from ferkit.core.errors import DataError
from ferkit.evaluation.candidate_names import DEFAULT, parse_candidate, parse_candidates
from ferkit.evaluation.candidates import FinetuneCandidate, HeadCandidate
from ferkit.evaluation.shared_inputs import BackboneSpec


def test_nobody_named_means_the_floor_heads_on_two_embeddings_and_the_shipped_network():
    assert [one.name for one in parse_candidates([])] == list(DEFAULT)
    assert {"dummy", "svm@hog", "mlp@ferkit2", "ferkit2"} <= set(DEFAULT)


def test_a_head_s_name_says_backbone_and_tap():
    assert parse_candidate("svm@onnx:nets/a@b.onnx#add_35") == HeadCandidate(
        "svm@onnx:a@b.onnx#add_35", head_settings("svm"), BackboneSpec("onnx:nets/a@b.onnx", "add_35")
    )


def test_a_network_s_file_is_called_without_its_folders():
    far = "svm@onnx:/far/away/arcface.onnx#stage4"
    ensemble = parse_candidates([f"ensemble:shipped+{far}"])
    assert [one.name for one in ensemble] == [
        "ferkit", "svm@onnx:arcface.onnx#stage4", "ensemble:ferkit+svm@onnx:arcface.onnx#stage4",
    ]  # fmt: skip
    assert ensemble[1].backbone.backbone == "onnx:/far/away/arcface.onnx"
    with pytest.raises(DataError, match="two candidates are called"):
        parse_candidates([far, "svm@onnx:/near/arcface.onnx#stage4"])


def test_a_file_gives_names_and_options(tmp_path: Path):
    file = tmp_path / "who.toml"
    file.write_text(
        'candidates = ["dummy", {use = "svm@hog", name = "stiff", C = 10, pool = [3, 3]},\n'
        '  {use = "finetune:quick", stages = {last = {epochs = 2}}}]\n'
    )
    dummy, stiff, tuned = parse_candidates([], file)
    assert dummy.name == "dummy"
    assert stiff == HeadCandidate("stiff", head_settings("svm", C=10), BackboneSpec("raw", None, (3, 3)))
    assert tuned == FinetuneCandidate("finetune:quick", "quick", {"stages.last.epochs": 2})


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("nobody", "no candidate is called 'nobody'; known: dummy, HEAD@BACKBONE"),
        ("dummy:x", "no candidate is called"),
        ("tree@hog", "no candidate is called 'tree@hog'"),
        ("peer:who", "no peer is called 'who'; known: fer, deepface"),
        ("python:json", "expected python:MODULE:FUNCTION"),
        ("ensemble:dummy", "at least two candidates"),
        ({"use": "svm@hog", "depth": 3}, "the svm head has no option depth"),
        ({"use": "shipped", "C": 3}, "no option C"),
        ({"name": "x"}, "expected 'use' in every candidate"),
    ],
)
def test_what_is_no_candidate_is_said(entry: object, says: str):
    with pytest.raises(DataError, match=says):
        parse_candidate(entry)  # type: ignore[arg-type]


def test_two_of_one_name_are_refused(tmp_path: Path):
    file = tmp_path / "who.toml"
    file.write_text('candidates = ["svm@hog", {use = "svm@hog", C = 10}]')
    with pytest.raises(DataError, match="two candidates are called 'svm@hog'"):
        parse_candidates([], file)


@pytest.mark.parametrize("text", ["candidates = 3", "[[[", "people = []"])
def test_a_file_that_is_none_is_said(tmp_path: Path, text: str):
    file = tmp_path / "who.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=r"who\.toml"):
        parse_candidates([], file)
