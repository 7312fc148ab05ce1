"""The coverage-accuracy curve by hand and by simulation."""

import numpy as np
import pytest

from ferkit.evaluation.calibration import abstention


def test_by_hand() -> None:
    # Sure and right, sure and wrong, then unsure and right twice.
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    found = abstention(np.array([0, 1, 0, 0]), proba, shares=(0.0, 0.5, 0.75), n_resamples=20)
    assert found.curve.tolist() == [[0.25, 1.0], [0.5, 0.5], [0.75, pytest.approx(2 / 3)], [1.0, 0.75]]
    assert found.aurc.value == pytest.approx(1 - np.mean([1, 0.5, 2 / 3, 0.75]))
    assert [figure.value for figure in found.left_out.values()] == [0.75, 0.5, 1.0]
    assert list(found.threshold.values()) == [0.6, 0.8, 0.9]


def test_equal_confidence_gives_a_flat_curve_in_any_order() -> None:
    truth = np.array([0] * 30 + [1] * 10)
    proba = np.tile([0.6, 0.4], (40, 1))
    found = abstention(truth, proba)
    assert found.curve[:, 1] == pytest.approx(0.75)
    assert abstention(truth[::-1], proba).aurc.value == pytest.approx(found.aurc.value)


def test_who_knows_when_it_errs_has_the_smaller_area() -> None:
    rng = np.random.default_rng(0)
    hit = rng.random(2000) < 0.7
    knowing = np.where(hit, rng.uniform(0.7, 1, 2000), rng.uniform(0.5, 0.8, 2000))
    ignorant = rng.uniform(0.5, 1, 2000)
    truth = np.where(hit, 0, 1)
    areas = [abstention(truth, np.stack([sure, 1 - sure], axis=1)) for sure in (knowing, ignorant)]
    assert areas[0].aurc.high < areas[1].aurc.low
    assert areas[0].left_out[0.3].value > 0.85
    assert areas[1].left_out[0.3].value == pytest.approx(0.7, abs=0.03)


def test_the_interval_covers_the_truth() -> None:
    # Of those with confidence c a share c is right, c uniform on 0.5..1: the truth can be written down.
    rng = np.random.default_rng(0)
    truth_at_30 = np.mean([0.65, 1.0])  # the surest 70 % have c from 0.65 to 1
    covered = 0
    for seed in range(150):
        sure = rng.uniform(0.5, 1, 400)
        truth = np.where(rng.random(400) < sure, 0, 1)
        found = abstention(truth, np.stack([sure, 1 - sure], axis=1), seed=seed, n_resamples=200)
        covered += found.left_out[0.3].low <= truth_at_30 <= found.left_out[0.3].high
    assert 0.89 <= covered / 150 <= 0.99


def test_intervals_are_over_persons_where_they_are_known() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 30)
    truth = np.where((rng.random(20) < 0.7)[person], 0, 1)
    sure = rng.uniform(0.5, 1, 600)
    proba = np.stack([sure, 1 - sure], axis=1)
    groups = np.array([f"p{i}" for i in person], object)
    images, persons = abstention(truth, proba), abstention(truth, proba, groups)
    assert persons.aurc.high - persons.aurc.low > 2 * (images.aurc.high - images.aurc.low)


def test_one_person_has_no_interval_and_one_image_is_enough() -> None:
    assert np.isnan(abstention(np.array([0]), np.array([[0.9, 0.1]])).aurc.low)
    one = np.array(["p"] * 4, object)
    assert np.isnan(abstention(np.zeros(4, int), np.full((4, 2), 0.5), one).aurc.high)


def test_long_curves_are_thinned() -> None:
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(3), 5000)
    truth = rng.integers(3, size=5000)
    found = abstention(truth, proba, n_resamples=2)
    assert len(found.curve) == 100
    assert found.curve[-1, 0] == 1.0
    assert found.curve[-1, 1] == pytest.approx((proba.argmax(axis=1) == truth).mean())
