"""Figures against hand-made counts and scikit-learn, intervals against simulation."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.evaluation.metrics import evaluate

ABC = LabelSet(("a", "b", "c"))


def one_hot(predicted: str, sure: float = 0.8) -> np.ndarray:
    """Probabilities that call one class each, the rest shared out."""
    at = np.array(["abc".index(name) for name in predicted])
    return np.full((len(at), 3), (1 - sure) / 2) + (sure - (1 - sure) / 2) * np.eye(3)[at]


@pytest.fixture(scope="module")
def guesses() -> tuple[np.ndarray, np.ndarray, LabelSet]:
    rng = np.random.default_rng(0)
    labels = LabelSet.named("fer2013")
    truth = rng.choice(7, 900, p=[0.3, 0.02, 0.1, 0.28, 0.1, 0.1, 0.1])
    proba = 0.6 * rng.dirichlet(np.ones(7), 900) + 0.4 * np.eye(7)[np.where(rng.random(900) < 0.7, truth, 3)]
    return np.array(labels.names)[truth], proba, labels


def test_by_hand() -> None:
    found = evaluate(np.array(list("aaaabbbccc")), one_hot("aaabbbacab"), ABC)
    assert found.figures["accuracy"].value == pytest.approx(0.6)
    assert found.figures["balanced_accuracy"].value == pytest.approx((3 / 4 + 2 / 3 + 1 / 3) / 3)
    assert found.confusion.tolist() == [[3, 1, 0], [1, 2, 0], [1, 1, 1]]
    a = found.per_class["a"]
    assert (a.support, a.precision.value, a.recall.value) == (4, pytest.approx(3 / 5), pytest.approx(3 / 4))
    assert a.f1.value == pytest.approx(2 * 3 / (4 + 5))
    assert found.figures["log_loss"].value == pytest.approx(-(6 * np.log(0.8) + 4 * np.log(0.1)) / 10)
    assert found.figures["ece"].value == pytest.approx(0.8 - 0.6)
    # Of equal probabilities the first class counts as likelier: c called a or b is third, b called a second.
    assert found.figures["top2"].value == pytest.approx(0.8)


def test_against_scikit_learn(guesses: tuple[np.ndarray, np.ndarray, LabelSet]) -> None:
    y, proba, labels = guesses
    found = evaluate(y, proba, labels)
    predicted = np.array(labels.names)[proba.argmax(axis=1)]
    value = {name: figure.value for name, figure in found.figures.items()}
    assert value["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert value["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert value["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert value["log_loss"] == pytest.approx(sk.log_loss(y, proba))
    assert value["top2"] == pytest.approx(sk.top_k_accuracy_score(y, proba, k=2, labels=labels.names))
    each = sk.precision_recall_fscore_support(y, predicted, labels=labels.names)
    for i, one in enumerate(found.per_class.values()):
        mine = (one.precision.value, one.recall.value, one.f1.value, one.support)
        assert mine == pytest.approx([part[i] for part in each])
    assert np.array_equal(found.confusion, sk.confusion_matrix(y, predicted, labels=labels.names))


def test_calibration_error_by_its_definition(guesses: tuple[np.ndarray, np.ndarray, LabelSet]) -> None:
    y, proba, labels = guesses
    confidence, hit = proba.max(axis=1), np.array(labels.names)[proba.argmax(axis=1)] == y
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - hit[inside].mean())
    assert evaluate(y, proba, labels).figures["ece"].value == pytest.approx(error)


def test_a_class_that_the_model_lacks_is_counted_and_named() -> None:
    found = evaluate(np.array(list("aabbcc") + ["contempt"] * 4), one_hot("aabbccaaab"), ABC)
    assert found.unknown_classes == {"contempt": 4}
    assert found.n == 6
    assert found.figures["accuracy"].value == 1.0
    assert found.accuracy_with_unknown == pytest.approx(0.6)
    assert found.rows == ("a", "b", "c", "contempt")
    assert found.confusion[3].tolist() == [3, 1, 0]
    assert "contempt (4)" in found.notes[0]


def test_a_class_without_images_is_left_out_of_the_means_and_said() -> None:
    found = evaluate(np.array(list("aabb")), one_hot("aacb"), ABC)
    assert found.figures["balanced_accuracy"].value == pytest.approx(0.75)
    assert found.figures["macro_f1"].value == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(found.per_class["c"].recall.value)
    assert found.per_class["c"].precision.value == 0
    assert "no images of c" in found.notes[0]


def test_a_class_never_predicted_has_no_precision_and_counts_as_zero() -> None:
    found = evaluate(np.array(list("aabc")), one_hot("aaba"), ABC)
    assert np.isnan(found.per_class["c"].precision.value)
    assert found.per_class["c"].f1.value == 0
    assert found.figures["macro_f1"].value == pytest.approx((4 / 5 + 1 + 0) / 3)
    assert "never predicted: c" in found.notes[0]


def test_json_has_no_nan(guesses: tuple[np.ndarray, np.ndarray, LabelSet]) -> None:
    values = evaluate(np.array(list("aab")), one_hot("aaa"), ABC).to_dict()
    again = json.loads(json.dumps(values, allow_nan=False))
    assert again["per_class"]["c"]["recall"]["value"] is None
    assert again["accuracy"]["value"] == pytest.approx(2 / 3)


def test_the_seed_decides_the_interval(guesses: tuple[np.ndarray, np.ndarray, LabelSet]) -> None:
    one, two, other = (evaluate(*guesses, seed=seed).figures["accuracy"] for seed in (1, 1, 2))
    assert one == two
    assert one.low != other.low or one.high != other.high
    assert one.low < one.value < one.high


def test_intervals_cover_the_truth_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(200):
        right = rng.random(400) < 0.7
        proba = np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
        found = evaluate(np.full(400, "a"), proba, LabelSet(("a", "b")), seed=i, n_resamples=300)
        covered += found.figures["accuracy"].low <= 0.7 <= found.figures["accuracy"].high
    assert 0.90 <= covered / 200 <= 0.985


def test_intervals_over_persons_are_honest_where_those_over_images_are_not() -> None:
    # Each of 30 persons is either always recognised or never: there are 30 observations and not 600.
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(30), 20)
    groups = np.array([f"p{i}" for i in person], object)
    covered = np.zeros(2)
    for i in range(100):
        right = (rng.random(30) < 0.7)[person]
        proba = np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
        for j, over in enumerate((None, groups)):
            found = evaluate(
                np.full(600, "a"), proba, LabelSet(("a", "b")), over, seed=i, n_resamples=200
            ).figures["accuracy"]
            covered[j] += found.low <= 0.7 <= found.high
    assert covered[0] < 60
    assert covered[1] > 85


def test_rows_without_person_count_as_persons() -> None:
    y, proba = np.array(list("abcabc")), one_hot("abcabc")
    assert evaluate(y, proba, ABC, np.array(["p", "p", None, None, "q", "q"], object)).n_groups == 4
    assert evaluate(y, proba, ABC, np.array([None] * 6, object)).n_groups is None


@pytest.mark.parametrize(
    ("y", "proba", "words"),
    [
        (["a", "b"], np.ones((2, 2)) / 2, r"expected probabilities of shape \(2, 3\), found \(2, 2\)"),
        (["a"], np.array([[np.nan, 0, 1]]), "found NaN"),
        (["x", "y"], np.ones((2, 3)) / 3, "expected images of a, b, c, found x, y"),
        ([], np.ones((0, 3)), "found no images"),
    ],
)
def test_what_cannot_be_scored(y: list[str], proba: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        evaluate(np.array(y, dtype=str), proba, ABC)
