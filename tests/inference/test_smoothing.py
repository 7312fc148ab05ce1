import json

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.inference.smoothing import (
    METHODS,
    UNSURE,
    LabelSmoother,
    NeutralCalibration,
    SmoothingSettings,
)

ME = np.array([7])


def noisy(label: int, rng: np.random.Generator, n_classes: int = 5) -> np.ndarray:
    """Probabilities whose top class is ``label`` in about two of three frames."""
    scores = rng.normal(0, 1.2, n_classes)
    scores[label] += 1.8
    proba = np.exp(scores)
    return proba / proba.sum()


def watch(settings: SmoothingSettings, truth: list[int], fps: float, seed: int = 0) -> np.ndarray:
    smoother, rng = LabelSmoother(settings, 5), np.random.default_rng(seed)
    return np.array([
        smoother.update(ME, noisy(label, rng)[None], i / fps).label[0] for i, label in enumerate(truth)
    ])  # fmt: skip


def flips(labels: np.ndarray) -> int:
    return int((labels[1:] != labels[:-1]).sum())


@pytest.mark.parametrize("method", ["ema", "majority", "hmm"])
@pytest.mark.parametrize("fps", [10, 60])
def test_every_method_flips_less_and_still_follows_a_change(method: str, fps: int) -> None:
    truth = [1] * (4 * fps) + [3] * (4 * fps)
    settings = SmoothingSettings(method=method)  # type: ignore[arg-type]
    plain = SmoothingSettings("none", hysteresis=0, min_dwell_s=0, min_confidence=0, min_quality=0)
    shown, raw = watch(settings, truth, fps), watch(plain, truth, fps)
    assert flips(shown) < 0.4 * flips(raw)
    assert (shown[-fps:] == 3).mean() > 0.8
    assert (shown[2 * fps : 4 * fps] == 1).mean() > 0.8


def test_half_life_means_the_same_at_any_frame_rate() -> None:
    settings = SmoothingSettings("ema", half_life_s=0.5)
    for fps in (4, 50):
        smoother = LabelSmoother(settings, 2)
        smoother.update(ME, np.array([[1.0, 0.0]]), 0.0)
        for i in range(1, fps // 2 + 1):
            smoothed = smoother.update(ME, np.array([[0.0, 1.0]]), i / fps)
        assert smoothed.proba[0] == pytest.approx([0.5, 0.5], abs=1e-6)


def test_a_label_stays_for_its_dwell_time_and_through_near_ties() -> None:
    settings = SmoothingSettings("none", hysteresis=0.2, min_dwell_s=1.0, min_confidence=0)
    smoother = LabelSmoother(settings, 2)

    def label(p: float, t: float) -> int:
        return int(smoother.update(ME, np.array([[1 - p, p]]), t).label[0])

    assert [label(0.1, 0.0), label(0.9, 0.5), label(0.9, 1.0)] == [0, 0, 1]
    assert [label(0.45, 3.0), label(0.35, 3.1)] == [1, 0]


def test_repeat_needs_frames_in_a_row() -> None:
    smoother = LabelSmoother(SmoothingSettings("repeat", repeats=3, min_dwell_s=0, min_confidence=0), 2)
    sequence = [0, 0, 0, 1, 1, 0, 1, 1, 1]
    shown = [int(smoother.update(ME, np.eye(2)[[c]], i / 30).label[0]) for i, c in enumerate(sequence)]
    assert shown[2:] == [0, 0, 0, 0, 0, 0, 1]


def test_unsure_when_nothing_stands_out_or_the_face_is_unreadable() -> None:
    smoother = LabelSmoother(SmoothingSettings(min_confidence=0.4), 4)
    flat, clear = np.full((1, 4), 0.25), np.array([[0.91, 0.03, 0.03, 0.03]])
    assert smoother.update(ME, flat, 0.0).label[0] == UNSURE
    for i in range(1, 30):
        shown = smoother.update(ME, clear, i / 15).label[0]
    assert shown == 0
    assert (
        smoother.update(ME, clear, 2.05, np.zeros(1)).label[0] == 0
    )  # one bad frame is no reason to fall silent
    for i in range(20):
        shown = smoother.update(ME, clear, 2.1 + i / 15, np.zeros(1)).label[0]
    assert shown == UNSURE


def test_people_are_apart_and_forgotten() -> None:
    smoother = LabelSmoother(SmoothingSettings("ema", half_life_s=5, min_dwell_s=0), 2, forget_s=1.0)
    two = np.array([1, 2])
    for i in range(3):
        labels = smoother.update(two, np.eye(2), i / 10).label
    assert labels.tolist() == [0, 1]
    smoother.update(two[:1], np.eye(2)[:1], 1.0)
    assert smoother.update(two, np.eye(2)[[0, 0]], 5.0).proba[1].tolist() == [1, 0]
    assert smoother.shown(np.array([99])).label.tolist() == [UNSURE]


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_smoother_goes_on_alike(method: str) -> None:
    rng = np.random.default_rng(3)
    one, other = (LabelSmoother(SmoothingSettings(method=method), 5) for _ in range(2))  # type: ignore[arg-type]
    for i in range(20):
        one.update(ME, noisy(i // 7, rng)[None], i / 20)
    other.restore(json.loads(json.dumps(one.state())))
    for i in range(20, 40):
        p = noisy(4, rng)[None]
        a, b = one.update(ME, p, i / 20), other.update(ME, p, i / 20)
        assert (a.proba == b.proba).all()
        assert a.label == b.label


@pytest.mark.parametrize(
    "values",
    [
        {"method": "mean"},
        {"half_life_s": 0},
        {"hysteresis": -0.1},
        {"min_confidence": 2},
        {"repeats": 0},
        {"window_s": -1},
    ],
)
def test_settings_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(DataError, match="expected"):
        SmoothingSettings(**values)


class TestNeutral:
    labels = LabelSet(("sad", "중립", "happy"))
    at_rest = np.array([[0.6, 0.3, 0.1]])

    def test_a_resting_face_that_looks_sad_becomes_neutral_but_can_still_be_sad(self) -> None:
        calibration = NeutralCalibration(self.labels, seconds=2.0)
        for i in range(30):
            seen = calibration.apply(ME, self.at_rest, i / 10)
            assert (seen == self.at_rest).all() == (i < 20)
        assert calibration.seconds_left(3.1) == 0
        corrected = calibration.apply(ME, self.at_rest, 4.0)
        assert corrected[0].argmax() == 1
        assert corrected.sum() == pytest.approx(1, abs=1e-6)
        assert calibration.apply(ME, np.array([[0.97, 0.02, 0.01]]), 4.1)[0].argmax() == 0
        happy = calibration.apply(ME, np.array([[0.1, 0.1, 0.8]]), 4.2)[0]
        assert happy.argmax() == 2
        assert happy[2] >= 0.8  # what the resting face does not show is not held against it

    def test_one_person_at_rest_counts_for_all_two_only_for_themselves(self) -> None:
        alone = NeutralCalibration(self.labels, 1.0)
        both = NeutralCalibration(self.labels, 1.0)
        for i in range(20):
            alone.apply(ME, self.at_rest, i / 10)
            both.apply(np.array([1, 2]), np.repeat(self.at_rest, 2, axis=0), i / 10)
        assert (alone.shift(55) == alone.shift(7)).all()
        assert alone.shift(7)[0] < -1
        assert not both.shift(55).any()
        assert both.shift(2).any()

    def test_it_waits_for_a_face(self) -> None:
        calibration = NeutralCalibration(self.labels, 2.0)
        calibration.apply(np.zeros(0, np.int64), np.zeros((0, 3)), 10.0)
        assert calibration.seconds_left(10.0) == 2.0

    def test_without_a_neutral_class_there_is_nothing_to_learn(self) -> None:
        with pytest.raises(DataError, match="class neutral"):
            NeutralCalibration(LabelSet(("teasing", "non-teasing")), 5)
