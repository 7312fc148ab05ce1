"""Heads fitted on real, if small, problems."""

import dataclasses
import unicodedata

import numpy as np
import pytest

from ferkit.classifiers import heads as fit_module
from ferkit.classifiers.head_onnx import OnnxHead, head_to_onnx
from ferkit.classifiers.heads import (
    HEADS,
    DummySettings,
    HeadSettings,
    LogisticSettings,
    MLPSettings,
    SVMSettings,
    build_head,
    fit_head,
    head_settings,
    numbers_of,
    read_class_weights,
)
from ferkit.core.errors import DataError
from tests.classifiers.conftest import Problem, blobs

LEARNERS = [
    LogisticSettings(),
    MLPSettings(),
    SVMSettings(),
    SVMSettings(exact_rows=100, landmarks=150, C=30.0),
]


@pytest.mark.parametrize("settings", LEARNERS, ids=["logistic", "mlp", "svm", "svm-landmarks"])
def test_each_head_learns_and_gives_probabilities(problem: Problem, settings: HeadSettings) -> None:
    X, y = problem
    head = fit_head(X[:450], y[:450], settings)
    proba = head.predict_proba(X[450:])
    assert head.classes == ("c0", "c1", "c2", "c3")
    assert proba.dtype == np.float32
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (np.array(head.classes)[proba.argmax(axis=1)] == y[450:]).mean() > 0.75


def test_the_dummy_says_the_frequencies(problem: Problem) -> None:
    X, y = problem
    proba = fit_head(X, y, DummySettings()).predict_proba(X[:3])
    assert np.allclose(proba, np.unique(y, return_counts=True)[1] / len(y))


@pytest.mark.parametrize("settings", [*LEARNERS[:2], SVMSettings(C=0.1)], ids=["logistic", "mlp", "svm"])
def test_balancing_finds_more_of_the_rare_class(settings: HeadSettings) -> None:
    X, y = blobs(1_500, d=6)
    rare = y == "c3"
    keep = ~rare | (np.cumsum(rare) <= 40)
    X, y = X[keep], y[keep]
    recall = []
    for weights in (False, True):
        head = fit_head(X[::2], y[::2], dataclasses.replace(settings, class_weights=weights))
        predicted = np.array(head.classes)[head.predict_proba(X[1::2]).argmax(axis=1)]
        recall.append((predicted[y[1::2] == "c3"] == "c3").mean())
    assert recall[1] > recall[0] + 0.1


def test_same_seed_same_head(problem: Problem) -> None:
    X, y = problem
    one, two = (fit_head(X, y, MLPSettings(seed=5, max_epochs=10)).predict_proba(X[:9]) for _ in range(2))
    assert np.array_equal(one, two)


def test_wide_half_precision_embeddings_are_reduced_in_chunks(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = blobs(400, d=20)
    wide = (X @ np.random.default_rng(0).normal(size=(20, 2_400)).astype(np.float32)) / 100
    np.save(f"{tmp_path}/X.npy", wide.astype(np.float16))
    mapped = np.load(f"{tmp_path}/X.npy", mmap_mode="r")
    whole = fit_head(mapped, y, LogisticSettings())
    monkeypatch.setattr(fit_module, "CHUNK_VALUES", 2_400 * 37)
    chunked = fit_head(mapped, y, LogisticSettings())
    assert "2,400 dimensions are reduced to 256" in whole.notes[0]
    assert np.allclose(whole.predict_proba(mapped), chunked.predict_proba(mapped), atol=5e-3)


def test_the_kernel_is_approximated_out_loud(problem: Problem) -> None:
    pipeline, notes = build_head(SVMSettings(exact_rows=500), 600, 24)
    assert [name for name, _ in pipeline.steps] == ["scaler", "kernel", "head"]
    assert "600 images are more than the exact SVM carries (500)" in notes[0]
    assert build_head(SVMSettings(exact_rows=600), 600, 24)[1] == ()


def test_landmarks_come_near_the_exact_machine() -> None:
    X, y = blobs(1_500, d=10)
    exact, near = (
        fit_head(X[:1000], y[:1000], s)
        for s in (SVMSettings(), SVMSettings(exact_rows=0, landmarks=500, C=30.0))
    )
    same = exact.predict_proba(X[1000:]).argmax(axis=1) == near.predict_proba(X[1000:]).argmax(axis=1)
    assert same.mean() > 0.85


def test_calibration_mends_an_overconfident_head() -> None:
    X, y = blobs(1_600, d=8)
    X, y, X_test, y_test = X[:400], y[:400], X[400:], y[400:]
    settings = MLPSettings(hidden=(256,), alpha=0.0, learning_rate=0.01, patience=None, max_epochs=150)
    loss = {}
    for method in ("none", "sigmoid", "isotonic", "temperature"):
        head = fit_head(X, y, dataclasses.replace(settings, calibration=method))  # type: ignore[arg-type]
        mine = head.predict_proba(X_test)[np.arange(len(y_test)), np.searchsorted(head.classes, y_test)]
        loss[method] = -np.log(mine.clip(1e-7)).mean()
    assert loss["temperature"] < 0.8 * loss["none"]
    assert loss["sigmoid"] < 0.8 * loss["none"]


def test_passes_are_chosen_on_other_persons() -> None:
    # Labels say who it is and nothing else: images of known persons are recognised, those of others are not.
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(80), 10)
    X = (rng.normal(size=(80, 16))[person] + 0.3 * rng.normal(size=(800, 16))).astype(np.float32)
    y = np.where(rng.random(80) < 0.5, "a", "b")[person]
    groups = np.array([f"p{i}" for i in person], object)
    with_persons, without = fit_head(X, y, MLPSettings(), groups), fit_head(X, y, MLPSettings())
    best = [max(step["accuracy"] for step in head.history) for head in (with_persons, without)]
    assert best[0] < 0.75
    assert best[1] > 0.9


def test_probabilities_are_calibrated_on_other_persons() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(60), 10)
    X = (rng.normal(size=(60, 16))[person] + 0.1 * rng.normal(size=(600, 16))).astype(np.float32)
    y = np.where(rng.random(60) < 0.5, "a", "b")[person]
    groups = np.array([f"p{i}" for i in person], object)
    sure = [fit_head(X, y, SVMSettings(), g).predict_proba(X).max(axis=1).mean() for g in (None, groups)]
    assert sure[0] > 0.95
    assert sure[1] < 0.85


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (["a"] * 6, "at least two classes"),
        (["a"] * 5 + ["b"], "found 1 of b"),
        (["a", "b"], "one label for each"),
    ],
)
def test_labels_that_cannot_be_learned(y: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit_head(np.ones((6, 3), np.float32), np.array(y), LogisticSettings())


def test_nan_and_foreign_embeddings_are_refused(problem: Problem) -> None:
    X, y = problem
    damaged = X.copy()
    damaged[7, 3] = np.nan
    with pytest.raises(DataError, match="in 1 of 600 rows"):
        fit_head(damaged, y, LogisticSettings())
    with pytest.raises(DataError, match=r"shape \(n, 24\)"):
        fit_head(X, y, DummySettings()).predict_proba(X[:, :9])


def test_the_exact_svm_needs_a_calibration(problem: Problem) -> None:
    with pytest.raises(DataError, match="no probabilities of its own"):
        fit_head(*problem, SVMSettings(calibration="none"))


@pytest.mark.parametrize("kind", HEADS)
def test_settings_are_written_in_the_words_of_0_1(kind: str) -> None:
    written = head_settings(kind, seed=3, class_weights="1=2").to_dict()
    assert written["balanced"] == {"1": 2.0}
    assert head_settings(kind).to_dict()["balanced"] is False
    assert head_settings(written.pop("kind"), **written).to_dict() == {"kind": kind, **written}


@pytest.mark.parametrize("settings", [*LEARNERS, DummySettings()], ids=lambda s: s.kind)
def test_the_order_of_the_classes_is_kept_whatever_it_is(settings: HeadSettings, problem: Problem) -> None:
    X, y = problem
    order = ("c2", "c0", "c3", "c1")
    settings = dataclasses.replace(settings, class_weights="c3=2", calibration="auto")
    mine, sorted_ = fit_head(X, y, settings, labels=order), fit_head(X, y, settings)
    assert mine.classes == order
    columns = [sorted_.classes.index(name) for name in order]
    same = mine.predict_proba(X).argmax(axis=1) == sorted_.predict_proba(X)[:, columns].argmax(axis=1)
    assert same.mean() > 0.9  # weights of networks begin elsewhere
    proba = mine.predict_proba(X[:50])
    assert (mine.pipeline.predict(X[:50]) == np.array(order)[proba.argmax(axis=1)]).mean() > 0.95
    graph = OnnxHead(head_to_onnx(mine.pipeline, X[:50]))
    assert np.allclose(graph.predict_proba(X[:50]), proba, atol=1e-4)


def test_only_classes_that_are_there_have_an_order(problem: Problem) -> None:
    with pytest.raises(DataError, match="just the classes c0, c9, found some of c0, c1"):
        fit_head(*problem, DummySettings(), labels=("c0", "c9"))


def test_class_weights_are_taken_by_name_number_or_meaning() -> None:
    y = np.array([0, 0, 0, 1])
    names = ("비약올리기", "기쁨")
    assert numbers_of(False, y, names) is None
    assert numbers_of("balanced", y, names).tolist() == pytest.approx([2 / 3, 2.0])
    for asked in (
        "1=2",
        "기쁨=2",
        "happiness = 2",
        {"happy": 2},
        {1: 2.0},
        unicodedata.normalize("NFD", "기쁨=2"),
    ):
        assert numbers_of(asked, y, names).tolist() == [1.0, 2.0], asked
    assert numbers_of("1=3", y, ("1", "0")).tolist() == [3.0, 1.0]  # a name counts before a number
    with pytest.raises(DataError, match="no class '2' to weigh; expected 비약올리기 or 0, 기쁨 or 1"):
        numbers_of("2=1", y, names)
    for wrong in ("data/", "=2", "a=", "a=-1", "a=nan", "", {}, {"a": None}):
        with pytest.raises(DataError, match="expected class weights as 'balanced'"):
            read_class_weights(wrong)


def test_wrong_settings_name_the_right_ones() -> None:
    with pytest.raises(DataError, match="known: mlp, svm, logistic, dummy"):
        head_settings("forest")
    with pytest.raises(DataError, match=r"svm head has no option hidden; it has .*gamma"):
        head_settings("svm", hidden=(3,))
    with pytest.raises(DataError, match="C to be a number above 0, found -1"):
        head_settings("logistic", C=-1)
    with pytest.raises(DataError, match="calibration to be one of auto"):
        head_settings("mlp", calibration="platt")
