"""The search finds settings that are better than bad ones, and tells how far it is."""

import numpy as np
import pytest

from ferkit.classifiers.fitting import SearchSettings, compare_settings, search_head
from ferkit.classifiers.heads import DummySettings, LogisticSettings, MLPSettings, SVMSettings
from ferkit.core.errors import DataError
from tests.classifiers.conftest import Problem, blobs


def test_a_hopeless_start_is_left_behind(problem: Problem) -> None:
    X, y = problem
    head = search_head(X, y, SVMSettings(gamma=50.0), SearchSettings(n_candidates=12))
    assert isinstance(head.settings, SVMSettings)
    assert head.settings.gamma != 50.0
    assert "of 13 settings" in head.notes[0]
    assert (np.array(head.classes)[head.predict_proba(X).argmax(axis=1)] == y).mean() > 0.8


@pytest.mark.parametrize("settings", [LogisticSettings(), MLPSettings(max_epochs=10), DummySettings()])
def test_candidates_come_best_first(problem: Problem, settings: LogisticSettings) -> None:
    X, y = problem
    found = compare_settings(X, y, settings, SearchSettings(n_candidates=3))
    assert [c.accuracy for c in found] == sorted((c.accuracy for c in found), reverse=True)
    assert settings in [c.settings for c in found]


def test_halving_compares_the_best_third_on_all_rows() -> None:
    X, y = blobs(9_000, d=8)
    search = SearchSettings(n_candidates=5, rows=8_000)
    found = compare_settings(X, y, LogisticSettings(C=1e-6), search)
    assert [round(c.rows, -3) for c in found] == [8_000] * 3 + [2_000] * 3


def test_a_sample_gets_the_kernel_of_all_rows(problem: Problem) -> None:
    X, y = problem
    head = search_head(
        X, y, SVMSettings(exact_rows=500, landmarks=64), SearchSettings(n_candidates=2, rows=300)
    )
    assert [name for name, _ in head.pipeline.steps] == ["scaler", "kernel", "head"]
    assert head.settings.exact_rows == 500  # type: ignore[attr-defined]


def test_persons_are_kept_whole() -> None:
    # Labels belong to persons and to nothing else: whoever leaks them scores high.
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(60), 10)
    X = (rng.normal(size=(60, 16))[person] + 0.1 * rng.normal(size=(600, 16))).astype(np.float32)
    y = np.where(rng.random(60) < 0.5, "a", "b")[person]
    groups = np.array([f"p{i}" for i in person], object)
    search = SearchSettings(n_candidates=4)
    leaking = compare_settings(X, y, SVMSettings(), search)[0].accuracy
    honest = compare_settings(X, y, SVMSettings(), search, groups)[0].accuracy
    assert leaking > 0.95
    assert honest < 0.75


def test_wrong_search_settings() -> None:
    with pytest.raises(DataError, match="at least 1 candidate"):
        SearchSettings(n_candidates=0)
