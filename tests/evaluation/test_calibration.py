"""Corrections of probabilities against simulations whose truth is known."""

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.evaluation.calibration import (
    Temperature,
    cross_fitted,
    fit_isotonic,
    fit_temperature,
    judge_calibration,
)
from ferkit.evaluation.metrics import calibration_folds


def drawn(n: int, k: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and the probabilities that they were drawn with: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(k, 0.4), n)
    return (proba.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1), proba


@pytest.fixture(scope="module")
def overconfident() -> tuple[np.ndarray, np.ndarray]:
    truth, proba = drawn(4000)
    return truth, Temperature(0.5)(proba)


def test_the_temperature_is_found_again(overconfident: tuple[np.ndarray, np.ndarray]) -> None:
    truth, proba = overconfident
    assert fit_temperature(truth, proba).value == pytest.approx(2.0, rel=0.08)
    assert fit_temperature(*drawn(4000)).value == pytest.approx(1.0, rel=0.08)


def test_corrections_help_where_there_is_something_to_correct(
    overconfident: tuple[np.ndarray, np.ndarray],
) -> None:
    plain, temperature, isotonic = judge_calibration(*overconfident)
    assert plain.ece > 0.15
    for better in (temperature, isotonic):
        assert better.ece < 0.04
        assert better.log_loss < plain.log_loss - 0.1
    assert temperature.accuracy == plain.accuracy  # the order of the classes stays
    assert temperature.temperature == pytest.approx(2.0, rel=0.08)
    assert plain.reliability[:, 0].sum() == temperature.reliability[:, 0].sum() == 4000


def test_they_do_no_harm_where_there_is_nothing() -> None:
    plain, temperature, isotonic = judge_calibration(*drawn(4000))
    assert temperature.log_loss == pytest.approx(plain.log_loss, abs=0.002)
    assert isotonic.log_loss < plain.log_loss + 0.03


def test_what_is_fitted_on_noise_is_not_judged_on_the_same_noise() -> None:
    # Probabilities that say nothing of the class: whoever judges on the rows fitted on sees an improvement.
    rng = np.random.default_rng(0)
    truth, proba = rng.integers(3, size=150), rng.dirichlet(np.ones(3), 150)

    def loss(corrected: np.ndarray) -> float:
        return float(-np.log(corrected[np.arange(150), truth]).mean())

    same = loss(fit_isotonic(truth, proba)(proba))
    assert same < np.log(3)
    assert loss(cross_fitted(fit_isotonic, truth, proba)) > np.log(3)


def test_persons_are_never_on_both_sides() -> None:
    truth, _ = drawn(400)
    groups = np.array([f"p{i % 60}" if i % 5 else None for i in range(400)], object)
    seen = np.zeros(400, int)
    for fitted, judged in calibration_folds(truth, groups):
        known = {group for group in groups[fitted] if group is not None}
        assert not known & {group for group in groups[judged] if group is not None}
        seen[judged] += 1
    assert (seen == 1).all()


def test_a_class_of_one_image_is_no_obstacle() -> None:
    truth, proba = drawn(100, k=3)
    truth[:] = np.where(np.arange(100) == 0, 2, truth % 2)
    assert cross_fitted(fit_temperature, truth, proba).shape == (100, 3)


def test_an_isotonic_step_never_says_never() -> None:
    truth = np.repeat([0, 1], 20)
    proba = np.where(truth[:, None] == [0, 1], 0.9, 0.1)
    corrected = fit_isotonic(truth, proba)(proba)
    assert corrected.min() == pytest.approx(1 / 42)
    assert corrected.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("truth", "proba", "words"),
    [
        (np.zeros(30, int), np.full((30, 2), 0.5), "expected two classes with 5 images"),
        (np.array([0, 1]), np.full((2, 2), 0.5), "expected two classes with 5 images"),
        (np.array([0, 2]), np.full((2, 2), 0.5), "expected classes as columns 0 to 1"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 1]]), "negative or missing"),
        (np.array([0, 1, 1]), np.full((2, 2), 0.5), r"found \(3,\) and \(2, 2\)"),
    ],
)
def test_what_cannot_be_judged(truth: np.ndarray, proba: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        judge_calibration(truth, proba)
