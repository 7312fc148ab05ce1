"""Tests between candidates: against exact values by other ways, and against promises on answers of known truth."""

import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.evaluation.comparison import Costs
from ferkit.evaluation.metrics import (
    effective_units,
    evaluate,
    few_units_interval,
    positive_interval,
    share_interval,
    wilson_interval,
)
from ferkit.evaluation.significance import compare_pairs, holm, paired_bootstrap, retraining_p, sign_flip_p

ABC = LabelSet(("a", "b", "c"))


@pytest.fixture(scope="module")
def significance() -> ModuleType:
    """The benchmark, whose scenes are drawn here less often."""
    from importlib.util import module_from_spec, spec_from_file_location

    path = Path(__file__).resolve().parents[2] / "benchmarks" / "significance.py"
    spec = spec_from_file_location("significance", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["significance"] = module
    spec.loader.exec_module(module)
    return module


def discordant(first: int, second: int, alike: int = 50) -> np.ndarray:
    return np.r_[np.ones(first), -np.ones(second), np.zeros(alike)].astype(int)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (5, 0), (3, 9), (14, 10)])
def test_few_images_are_mcnemars_exact_test(first: int, second: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(first, first + second).pvalue
    assert sign_flip_p(discordant(first, second)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("first", "second"), [(14, 11), (40, 20), (300, 420), (30, 30)])
def test_many_images_are_its_mid_p(first: int, second: int) -> None:
    from scipy.stats import binom

    less, n = min(first, second), first + second
    tail = binom.cdf(less - 1, n, 0.5)
    expected = 2 * tail + binom.pmf(less, n, 0.5) if first != second else 1 - binom.pmf(less, n, 0.5)
    assert sign_flip_p(discordant(first, second)) == pytest.approx(expected, abs=1e-10)


def test_persons_are_tested_by_every_way_to_swap_their_answers() -> None:
    gains = np.array([4, -1, 3, 0, 7, 2, -3, 5, 1, -2, 6])
    signs = np.array(list(itertools.product((1, -1), repeat=len(gains))))
    expected = (np.abs(signs @ gains) >= abs(gains.sum())).mean()
    assert 0.01 < expected < 0.2
    assert sign_flip_p(gains) == pytest.approx(expected, abs=1e-12)
    assert sign_flip_p(-gains) == sign_flip_p(gains)


def test_candidates_that_never_differ_are_not_different() -> None:
    assert sign_flip_p(np.zeros(10, int)) == 1.0
    assert sign_flip_p(np.array([17])) == 1.0


def test_holm_by_hand() -> None:
    adjusted = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.5]))
    assert adjusted[[0, 1, 3, 4]] == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert np.isnan(adjusted[2])
    assert len(holm(np.zeros(0))) == 0


def test_bootstrap_of_differences_is_paired() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 900)
    base = np.where(rng.random(900) < 0.6, truth, (truth + 1) % 3)
    close = np.where(rng.random(900) < 0.03, truth, base)  # nearly always the same answer, sometimes better
    other = np.where(rng.random(900) < 0.6, truth, (truth + 2) % 3)
    found = paired_bootstrap(truth, np.array([base, close, other]), 3, seed=1)
    assert found.accuracy == pytest.approx([(one == truth).mean() for one in (base, close, other)])
    width = found.high - found.low
    assert width[0, 1] < width[0, 2] / 3
    gain = (close == truth).astype(float) - (base == truth)
    spread = 1.9626 * 2 * np.hypot(gain.std(ddof=1) / 30, 1 / 900)
    assert width[1, 0] == pytest.approx(spread, rel=0.06)
    assert found.low[0, 1] == pytest.approx(-found.high[1, 0])
    proba = np.eye(3)[close]
    mine = evaluate(np.array(ABC.names)[truth], proba, ABC, n_resamples=0).figures["macro_f1"].value
    assert found.macro_f1[1] == pytest.approx(mine)


def test_retraining_counts_what_trainings_add() -> None:
    rng = np.random.default_rng(0)
    images = np.ones((2000, 5))
    right = rng.random((2000, 1)) < np.full(5, 0.66)
    steady = (right.astype(int) - (rng.random((2000, 1)) < 0.58)) * images
    shifted = steady.copy()
    for repeat, shift in enumerate((-0.10, -0.05, 0.0, 0.05, 0.10)):
        rows = rng.random(2000) < abs(shift)
        shifted[rows, repeat] = np.sign(shift)
    assert retraining_p(steady, images, 0.0) < 0.05
    assert retraining_p(shifted, images, 0.0) > 0.1
    assert retraining_p(shifted, images, 0.25) > retraining_p(shifted, images, 0.0)
    assert np.isnan(retraining_p(steady[:, :2], images[:, :2], 0.0))


def test_effective_units() -> None:
    assert effective_units(np.full(10, 7)) == pytest.approx(10)
    assert effective_units(np.array([100, 1, 1])) == pytest.approx(1.04, abs=0.01)
    assert effective_units(np.zeros((3, 2))).tolist() == [0, 0]


@pytest.mark.parametrize("units", [1, 2, 4])
@pytest.mark.parametrize(("a", "b", "alike"), [(0.5, 0.5, 0.0), (0.3, 0.8, 0.3), (0.9, 0.95, 0.5)])
def test_few_units_have_an_interval_that_holds_the_difference(
    units: int, a: float, b: float, alike: float
) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        # One to eight images of each person, who is easier or harder than others.
        images = rng.integers(1, 9, units)
        chance_a, chance_b = (np.repeat(rng.beta(3 * of, 3 * (1 - of), units), images) for of in (a, b))
        luck = rng.random(images.sum())
        right_a = luck < chance_a
        right_b = np.where(rng.random(len(luck)) < alike, luck, rng.random(len(luck))) < chance_b
        low, high = few_units_interval(right_a.mean(), right_b.mean(), float(effective_units(images)))
        assert -1 <= low <= right_a.mean() - right_b.mean() <= high <= 1
        assert 0.5 < high - low < 1.9  # unlike that of resamples, which says "somewhere between -1 and 1"
        held += low <= a - b <= high
    assert held / 300 >= 0.92


def test_newcombe_as_published() -> None:
    # Newcombe (1998), table II, method 10: 56/70 - 48/80 lies in 0.0524 to 0.3339, and 10/10 - 0/10 in 0.6075 to 1.
    (low, low_b), (high, high_b) = wilson_interval(np.array([0.8, 0.6]), np.array([70, 80]))
    ends = 0.2 - np.hypot(0.8 - low, high_b - 0.6), 0.2 + np.hypot(high - 0.8, 0.6 - low_b)
    assert ends == pytest.approx((0.0524, 0.3339), abs=1e-3)
    assert few_units_interval(1.0, 0.0, 10) == pytest.approx((0.6075, 1.0), abs=1e-3)


def test_one_persons_share_has_an_interval() -> None:
    answers = np.eye(2)[[0, 0, 0, 1, 1, 1]]
    groups = np.array([*"ppppqr"], object)
    found = evaluate(np.array([*"aaaabb"]), answers, LabelSet(("a", "b")), groups)
    recall = found.per_class["a"].recall
    assert recall.low < 0.5 < recall.value < 0.9 < recall.high


def test_intervals_end_where_figures_end() -> None:
    low, high = share_interval(
        np.array([0.0, 1.0, 0.99, np.nan]), np.array([0, 0, 0.01, 0]), np.full(4, 50), np.full(4, 50)
    )
    # Wilson's interval of 0 of 50 reaches to z^2 / (n + z^2), with t instead of z.
    assert (low[0], high[1]) == (0, 1)
    assert high[0] == pytest.approx(2.0096**2 / (50 + 2.0096**2), rel=1e-3)
    assert low[1] == pytest.approx(1 - high[0])
    assert 0.9 < low[2] < 0.99 < high[2] < 1
    assert np.isnan([low[3], high[3]]).all()
    one = np.array([1])
    assert positive_interval(np.array([0.1]), np.array([0.09]), 9 * one, 9 * one)[0] > 0


def pairs(accuracies: list[float], n: int, **arguments) -> list:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, n)
    answers = {
        name: np.eye(3)[np.where(rng.random(n) < accuracy, truth, (truth + 1) % 3)]
        for name, accuracy in zip("ABCDEFGH", accuracies, strict=False)
    }
    return list(compare_pairs(np.array(ABC.names)[truth], answers, ABC, **arguments))


def test_the_sentence_names_the_better_and_what_it_costs() -> None:
    costs = {"A": Costs(2.0, 5.0), "B": Costs(80.0, 1.0)}
    (pair,) = pairs([0.5, 0.7], 800, costs=costs)
    assert pair.p_adjusted == pair.p_mcnemar < 0.001
    assert pair.high < 0
    assert pair.sentence.startswith("B is better than A here (+")
    assert pair.sentence.endswith(
        "p < 0.001); it takes 40 times as long to train and answers 5.0 times faster."
    )


def test_of_equal_candidates_the_sooner_trained_is_spoken_of() -> None:
    costs = {"A": Costs(80.0), "B": Costs(2.0)}
    (pair,) = pairs([0.6, 0.6], 300, costs=costs)
    assert pair.low < 0 < pair.high
    assert pair.sentence.startswith("B is not distinguishable from A here (")
    assert f"p = {pair.p_adjusted:.2f})" in pair.sentence
    assert pair.sentence.endswith("; it trains 40 times faster.")


def test_many_pairs_are_corrected_and_say_so() -> None:
    found = pairs([0.6, 0.6, 0.6, 0.5], 400)
    assert len(found) == 6
    assert all(one.p_adjusted >= one.p_mcnemar for one in found)
    assert all("corrected for 6 pairs" in one.sentence for one in found)


def test_same_answers_one_person_and_a_lead_that_a_training_may_undo() -> None:
    y = np.array(list("abcab" * 20))
    right, wrong = np.eye(3)[np.tile([0, 1, 2, 0, 1], 20)], np.eye(3)[np.tile([0, 1, 2, 0, 0], 20)]
    (same,) = compare_pairs(y, {"A": right, "B": right * 0.9 + 0.01}, ABC)
    assert same.sentence == "A and B gave the same answer to every image here."
    assert (same.p_adjusted, same.difference) == (1.0, 0.0)
    assert same.low < 0 < same.high
    (alone,) = compare_pairs(y, {"A": right, "B": wrong}, ABC, units=np.full(100, "p1", object))
    assert "one person, which says nothing about others" in alone.sentence
    assert alone.p_adjusted == 1.0
    # Ahead by much in one training of four, level in the others.
    repeats = np.repeat(np.arange(4), 100)
    mixed = np.vstack([wrong, right, right, right])
    (lead,) = compare_pairs(
        np.tile(y, 4), {"A": np.vstack([right] * 4), "B": mixed}, ABC,
        units=np.array([f"row {i}" for i in np.tile(np.arange(100), 4)], object), repeats=repeats,
    )  # fmt: skip
    assert lead.p_mcnemar < 0.05 < lead.p_retraining
    assert lead.p_adjusted == lead.p_retraining
    assert "A was ahead" in lead.sentence
    assert "another training may undo" in lead.sentence


def test_repeats_of_one_image_are_no_further_evidence() -> None:
    rng = np.random.default_rng(2)
    y = np.array(ABC.names)[rng.integers(0, 3, 60)]
    a, b = rng.random((60, 3)), rng.random((60, 3))
    once = compare_pairs(y, {"A": a, "B": b}, ABC)[0]
    rows = np.array([f"row {i}" for i in np.tile(np.arange(60), 4)], object)
    many = compare_pairs(np.tile(y, 4), {"A": np.tile(a, (4, 1)), "B": np.tile(b, (4, 1))}, ABC, units=rows)[
        0
    ]
    assert many.difference == pytest.approx(once.difference)
    assert many.p_mcnemar == pytest.approx(once.p_mcnemar)
    assert many.high - many.low == pytest.approx(once.high - once.low, rel=0.1)


def test_pairs_of_a_comparison_use_its_persons_repeats_and_what_was_seen(
    undivided_faces: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from ferkit.evaluation.significance import pairs_of
    from tests.evaluation.faces import compared

    found = compared(undivided_faces, tmp_path, "dummy", "logistic@hog", repeats=3, test_size=0.25)
    (pair,) = pairs_of(found)
    accuracy = [found.evaluation(name).figures["accuracy"].value for name in ("dummy", "logistic@hog")]
    assert pair.difference == pytest.approx(accuracy[0] - accuracy[1])
    assert 0 < pair.p_retraining <= 1
    assert pair.p_adjusted == max(pair.p_mcnemar, pair.p_retraining)
    assert pairs_of(replace(found, candidates=found.candidates[:1])) == ()
    seen = replace(found.candidates[1], seen=found.splits[0].test[:2])
    (warned,) = pairs_of(replace(found, candidates=(found.candidates[0], seen)))
    assert "Mind that logistic@hog was trained on" in warned.sentence


@pytest.mark.parametrize(
    ("y", "proba", "words"),
    [
        (["a", "x"], np.ones((2, 3)), "expected images of a, b, c, found x"),
        (["a", "b"], np.ones((2, 2)), r"expected probabilities of A of shape \(2, 3\), found \(2, 2\)"),
        ([], np.ones((0, 3)), "at least one image"),
    ],
)
def test_what_cannot_be_tested(y: list[str], proba: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        compare_pairs(np.array(y, dtype=str), {"A": proba, "B": proba}, ABC)


# The promises, on fewer draws than the benchmark's: bounds are three standard errors of 200 draws around 5 %.


@pytest.mark.parametrize("name", ["3,589 images", "150 persons, unequal", "30 persons, unequal"])
def test_equal_candidates_are_called_different_as_rarely_as_promised(
    significance: ModuleType, name: str
) -> None:
    found = significance.rejections(significance.EQUAL[name], 200, n_resamples=100)
    assert found.over_units <= 0.10
    assert found.bootstrap <= 0.10
    assert found.macro_f1 <= 0.10
    if "persons" in name:
        assert found.over_images > 0.2  # what comes of taking images of one person for independent


def test_a_difference_of_three_points_is_found(significance: ModuleType) -> None:
    found = significance.rejections(significance.DIFFERENT["3 points, 3,589 images"], 60, n_resamples=100)
    assert found.over_units > 0.8


def test_trainings_that_vary_are_counted(significance: ModuleType) -> None:
    scene = significance.EQUAL["the same, 5 repeats"]
    found = significance.rejections(scene, 80, n_resamples=10)
    assert found.over_units > 0.12  # true of these models, not of how they were trained
    assert found.verdict < 0.12


def test_correction_holds_for_all_pairs_together(significance: ModuleType) -> None:
    assert significance.any_false_alarm(6, 100, corrected=True) <= 0.11
    assert significance.any_false_alarm(6, 100, corrected=False) > 0.2


@pytest.mark.parametrize("name", ["200 images, 65 %", "30 persons, unequal"])
def test_intervals_cover(significance: ModuleType, name: str) -> None:
    held, _ = significance.coverage(significance.COVERED[name], 150, n_resamples=80)
    assert 0.89 <= held <= 0.99
