"""Prediction sets hold the truth as often as promised, whatever the probabilities."""

from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.core.files import json_values
from ferkit.evaluation.calibration import Temperature, judge_conformal, prediction_sets


def drawn(n: int, k: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(k, 0.4), n)
    return (proba.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1), proba


@pytest.mark.parametrize("spoilt", [1.0, 0.3], ids=["calibrated", "overconfident"])
@pytest.mark.parametrize("method", ["lac", "aps"])
def test_coverage_holds_on_average_over_draws(method: str, spoilt: float) -> None:
    covered = []
    for seed in range(40):
        truth, proba = drawn(500, seed=seed)
        proba = Temperature(spoilt)(proba)
        sets = prediction_sets(truth[:250], proba[:250], proba[250:], method=method, seed=seed)
        covered.append(sets[np.arange(250), truth[250:]].mean(axis=0))
    # The mean of 40 times 250 rows: its standard error is below half a point.
    assert np.mean(covered, axis=0) == pytest.approx([0.9, 0.95], abs=0.015)


def test_cross_fitted_coverage_is_what_was_promised() -> None:
    for result in judge_conformal(*drawn(3000)):
        assert result.coverage.value == pytest.approx(result.level, abs=0.015)
        assert result.coverage.low < result.coverage.value < result.coverage.high
        assert result.sizes.sum() == pytest.approx(1)
        assert result.sizes @ np.arange(8) == pytest.approx(result.mean_size.value)


def test_coverage_holds_for_new_persons_too() -> None:
    # Images of one person are alike: a threshold found on the same persons would be too good.
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(150), 12)
    truth = rng.integers(5, size=len(person))
    skill = rng.uniform(0.2, 3, 150)[person]
    logits = rng.normal(size=(len(person), 5)) + skill[:, None] * np.eye(5)[truth]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = np.array([f"p{i}" for i in person], object)
    for result in judge_conformal(truth, proba, groups):
        assert result.coverage.low <= result.level <= result.coverage.high


def test_the_better_classifier_has_the_smaller_sets() -> None:
    truth, proba = drawn(2000)
    blurred = 0.5 * proba + 0.5 * np.random.default_rng(1).dirichlet(np.ones(7), 2000)
    sharp, dull = (judge_conformal(truth, p)[0].mean_size for p in (proba, blurred))
    assert sharp.high < dull.low


def test_a_class_can_pay_for_the_others_and_this_is_shown() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 3000, p=[0.48, 0.48, 0.04])
    # The rare class is never recognised.
    proba = 0.3 * rng.dirichlet(np.ones(3), 3000) + 0.7 * np.eye(3)[np.where(truth == 2, 0, truth)]
    lac = judge_conformal(truth, proba)[0]
    assert lac.coverage.value == pytest.approx(0.9, abs=0.02)
    assert lac.per_class[2] < 0.5
    assert lac.per_class[0] > 0.9


def test_two_classes_have_no_adaptive_sets() -> None:
    assert {result.method for result in judge_conformal(*drawn(300, k=2))} == {"lac"}
    with pytest.raises(DataError, match="three classes"):
        prediction_sets(*drawn(300, k=2), np.full((1, 2), 0.5), method="aps")


def test_too_few_rows_for_the_promise() -> None:
    truth, proba = drawn(18)
    with pytest.raises(DataError, match="at least 19 labelled images"):
        prediction_sets(truth, proba, proba)
    assert prediction_sets(truth, proba, proba, levels=[0.9]).shape == (18, 7, 1)


def test_classes_without_images_are_nan_and_null() -> None:
    truth, proba = drawn(600, k=4)
    truth[truth == 3] = 0
    result = judge_conformal(truth, proba)[0]
    assert np.isnan(result.per_class[3])
    assert json_values(result)["per_class"][3] is None


@pytest.mark.parametrize("case", range(6))
def test_the_sets_are_those_of_mapie(case: int) -> None:
    k, n = 3 + case, 40 + 60 * case
    truth, proba = drawn(n, k, case)
    new = drawn(60, k, 100 + case)[1]
    if case % 2:  # ties
        proba, new = np.round(proba, 1) + 1e-3, np.round(new, 1) + 1e-3
    # Made by MAPIE 1.6.0, SplitConformalClassifier(prefit=True), include_last_label="randomized" for aps.
    with np.load(Path(__file__).with_name("sets_of_mapie.npz")) as file:
        lac, aps = (np.unpackbits(file[f"{m}{case}"])[: 60 * k * 2].reshape(60, k, 2) for m in ("lac", "aps"))
    assert np.array_equal(prediction_sets(truth, proba, new, method="lac"), lac)
    ours = prediction_sets(truth, proba, new, method="aps")  # draws other random numbers
    assert ours.sum(axis=1).mean(axis=0) == pytest.approx(aps.sum(axis=1).mean(axis=0), abs=0.6)
