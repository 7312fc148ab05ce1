"""Names to contenders, and what is said of those that are none."""

from pathlib import Path

import pytest

from ferkit.classifiers.heads import head_settings
from ferkit.core.errors import DataError
from ferkit.evaluation.contenders.heads import HeadContender
from ferkit.evaluation.contenders.named import DEFAULT, make_contender, make_contenders
from ferkit.evaluation.contenders.networks import FinetuneContender
from ferkit.evaluation.contenders.workbench import BackboneSpec


def test_nobody_named_means_the_floor_heads_on_two_embeddings_and_the_shipped_network():
    assert [one.name for one in make_contenders([])] == list(DEFAULT)
    assert {"dummy", "svm@hog", "mlp@ferkit", "shipped"} <= set(DEFAULT)


def test_a_head_s_name_says_backbone_and_tap():
    assert make_contender("svm@onnx:nets/a@b.onnx#add_35") == HeadContender(
        "svm@onnx:a@b.onnx#add_35", head_settings("svm"), BackboneSpec("onnx:nets/a@b.onnx", "add_35")
    )


def test_a_network_s_file_is_called_without_its_folders():
    far = "svm@onnx:/far/away/arcface.onnx#stage4"
    ensemble = make_contenders([f"ensemble:shipped+{far}"])
    assert [one.name for one in ensemble] == [
        "shipped", "svm@onnx:arcface.onnx#stage4", "ensemble:shipped+svm@onnx:arcface.onnx#stage4",
    ]  # fmt: skip
    assert ensemble[1].backbone.backbone == "onnx:/far/away/arcface.onnx"
    with pytest.raises(DataError, match="two contenders are called"):
        make_contenders([far, "svm@onnx:/near/arcface.onnx#stage4"])


def test_a_file_gives_names_and_options(tmp_path: Path):
    file = tmp_path / "who.toml"
    file.write_text(
        'contenders = ["dummy", {use = "svm@hog", name = "stiff", C = 10, pool = [3, 3]},\n'
        '  {use = "finetune:quick", stages = {last = {epochs = 2}}}]\n'
    )
    dummy, stiff, tuned = make_contenders([], file)
    assert dummy.name == "dummy"
    assert stiff == HeadContender("stiff", head_settings("svm", C=10), BackboneSpec("raw", None, (3, 3)))
    assert tuned == FinetuneContender("finetune:quick", "quick", {"stages.last.epochs": 2})


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("nobody", "no contender is called 'nobody'; known: dummy, HEAD@BACKBONE"),
        ("dummy:x", "no contender is called"),
        ("tree@hog", "no contender is called 'tree@hog'"),
        ("peer:who", "no peer is called 'who'; known: fer, deepface"),
        ("python:json", "expected python:MODULE:FUNCTION"),
        ("ensemble:dummy", "at least two contenders"),
        ({"use": "svm@hog", "depth": 3}, "the svm head has no option depth"),
        ({"use": "shipped", "C": 3}, "no option C"),
        ({"name": "x"}, "expected 'use' in every contender"),
    ],
)
def test_what_is_no_contender_is_said(entry: object, says: str):
    with pytest.raises(DataError, match=says):
        make_contender(entry)  # type: ignore[arg-type]


def test_two_of_one_name_are_refused(tmp_path: Path):
    file = tmp_path / "who.toml"
    file.write_text('contenders = ["svm@hog", {use = "svm@hog", C = 10}]')
    with pytest.raises(DataError, match="two contenders are called 'svm@hog'"):
        make_contenders([], file)


@pytest.mark.parametrize("text", ["contenders = 3", "[[[", "people = []"])
def test_a_file_that_is_none_is_said(tmp_path: Path, text: str):
    file = tmp_path / "who.toml"
    file.write_text(text)
    with pytest.raises(DataError, match=r"who\.toml"):
        make_contenders([], file)
