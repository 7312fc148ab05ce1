from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ferkit.classifiers.kinds import EnsembleClassifier, NetworkClassifier, save_ensemble, save_network_model
from ferkit.classifiers.model import ModelRecord, load_classifier, read_model
from ferkit.core.errors import DataError, ModelError
from ferkit.core.labels import LabelSet

NAMES = ("angry", "happy")
A, B = (0.9, 0.1), (0.3, 0.7)


def constant_network(proba: Sequence[float], size_wh: tuple[int, int] = (8, 8)) -> bytes:
    """An ONNX network that says the same of every image."""
    zero = helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0)
    nodes = [
        zero,
        helper.make_node("Mul", ["mean", "nought"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["column"]),
        helper.make_node("Add", ["column", "proba"], ["probabilities"]),
    ]
    constants = [
        helper.make_tensor("nought", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("proba", TensorProto.FLOAT, [1, len(proba)], proba),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", size_wh[1], size_wh[0], 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(proba)])],
        constants,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()


def member(
    folder: Path,
    proba: Sequence[float],
    names: Sequence[str] = NAMES,
    accuracy: float | None = 0.9,
    **record: object,
) -> Path:
    size = record.pop("size_wh", (8, 8))
    metrics = {} if accuracy is None else {"validation": {"accuracy": accuracy}}
    values = {"kind": "network", "labels": tuple(names), "input_size_wh": size, "metrics": metrics, **record}
    save_network_model(folder, {"network.onnx": constant_network(proba, size)}, ModelRecord(**values))  # type: ignore[arg-type]
    return folder


def crops(n: int = 3, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("rule", "weights", "expected"),
    [
        ("mean", None, (0.6, 0.4)),
        ("weighted", (3.0, 1.0), (0.75, 0.25)),
        (
            "weighted",
            None,
            ((0.4 * 0.9 + 0.1 * 0.3) / 0.5, (0.4 * 0.1 + 0.1 * 0.7) / 0.5),
        ),  # above chance: 0.4, 0.1
        ("logit-mean", None, (np.sqrt(0.27) / (np.sqrt(0.27) + np.sqrt(0.07)),) * 1),
    ],
)
def test_rules(
    tmp_path: Path, rule: str, weights: Sequence[float] | None, expected: tuple[float, ...]
) -> None:
    folders = [member(tmp_path / "a", A, accuracy=0.9), member(tmp_path / "b", B, accuracy=0.6)]
    save_ensemble(tmp_path / "both", folders, rule=rule, weights=weights)
    classifier = load_classifier(tmp_path / "both")
    found = classifier.predict_proba(crops())
    assert found[:, 0] == pytest.approx(np.full(3, expected[0]), abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert classifier.predict_proba(crops(0)).shape == (0, 2)


def test_members_may_differ_in_order_of_classes_and_input_size(tmp_path: Path) -> None:
    folders = [
        member(tmp_path / "a", A),
        member(tmp_path / "b", (0.7, 0.3), names=("happy", "angry"), size_wh=(12, 10)),
    ]
    save_ensemble(tmp_path / "both", folders)
    classifier = load_classifier(tmp_path / "both")
    assert classifier.labels.names == NAMES
    assert classifier.input_size_wh == (12, 10)
    found = classifier.predict_proba(np.zeros((2, 10, 12, 3), np.uint8))
    assert found == pytest.approx(np.tile([0.6, 0.4], (2, 1)), abs=1e-5)
    with pytest.raises(DataError, match=r"\(n, 10, 12, 3\)"):
        classifier.predict_proba(crops())


def test_an_ensemble_is_a_model_like_any_other_and_carries_its_members(tmp_path: Path) -> None:
    folders = [member(tmp_path / "a", A), member(tmp_path / "b", B)]
    save_ensemble(tmp_path / "both", folders)
    save_ensemble(tmp_path / "nested", [tmp_path / "both", tmp_path / "a"])
    (tmp_path / "both").rename(tmp_path / "moved")
    (tmp_path / "a").rename(tmp_path / "gone")
    assert load_classifier(tmp_path / "moved").predict_proba(crops())[0, 0] == pytest.approx(0.6)
    assert load_classifier(tmp_path / "nested").predict_proba(crops())[0, 0] == pytest.approx(0.75)
    assert read_model(tmp_path / "moved").record.parts["from"] == ["a", "b"]
    onnx.load(tmp_path / "moved" / "member-0" / "network.onnx").graph.ByteSize()
    (tmp_path / "moved" / "member-1" / "network.onnx").write_bytes(constant_network((0.5, 0.5)))
    with pytest.raises(ModelError, match=r"member-1/network.onnx was changed"):
        load_classifier(tmp_path / "moved")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    a, b = member(tmp_path / "a", A), member(tmp_path / "b", B, accuracy=None)
    other = member(tmp_path / "other", A, names=("angry", "sad"))
    cropped = member(tmp_path / "cropped", A, faces={"detector": "yunet"})
    for folders, options, message in (
        ([a], {}, "at least two models"),
        ([a, other], {}, "same classes, found angry, happy and angry, sad"),
        ([a, cropped], {}, "cropped in other ways"),
        ([a, b], {"rule": "median"}, "mean, weighted, logit-mean"),
        ([a, b], {"rule": "weighted"}, "b has no validation accuracy"),
        ([a, b], {"rule": "weighted", "weights": (1.0,)}, "2 positive weights"),
        ([a, b], {"rule": "weighted", "weights": (1.0, -1.0)}, "2 positive weights"),
        ([a, tmp_path / "absent"], {}, "expected a model in"),
    ):
        with pytest.raises(ModelError, match=message):
            save_ensemble(tmp_path / "both", folders, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "both").exists()


def test_a_sure_member_counts_more_in_the_mean_of_logits() -> None:
    labels = LabelSet(NAMES)
    members = [NetworkClassifier(constant_network(p), labels) for p in ((0.999, 0.001), (0.3, 0.7))]
    plain = EnsembleClassifier(members).predict_proba(crops())[0, 0]
    geometric = EnsembleClassifier(members, logits=True).predict_proba(crops())[0, 0]
    assert plain == pytest.approx(0.6495)
    assert geometric > 0.94
