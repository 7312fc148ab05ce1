"""Splits: every class on both sides, no person on both, the same every time."""

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.datasets.split import SplitSettings, folds, holdout, make_split


def people(n_people: int = 60, images: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"p{i}" for i in range(n_people)], images).astype(object)
    y = rng.choice(["happy", "sad", "분노"], len(groups), p=[0.6, 0.3, 0.1])
    return y, groups


def test_holdout_without_persons_keeps_the_share_of_each_class() -> None:
    y = np.repeat(["a", "b", "c"], [500, 300, 20])
    train, test = holdout(y)
    assert sorted([*train, *test]) == list(range(820))
    for cls, n in (("a", 100), ("b", 60), ("c", 4)):
        assert (y[test] == cls).sum() == n


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
def test_holdout_keeps_persons_whole_and_comes_near_the_share(share: float) -> None:
    y, groups = people()
    train, test = holdout(y, groups, SplitSettings(test_size=share))
    assert not set(groups[train]) & set(groups[test])
    assert len(train) + len(test) == len(y)
    assert set(y[train]) == set(y[test]) == set(y)
    assert len(test) / len(y) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("n_persons", [2, 3, 4])
def test_few_persons_are_divided_as_nearly_as_they_allow(n_persons: int) -> None:
    y = np.array(["a", "b"] * 6 * n_persons)
    groups = np.repeat([f"p{i}" for i in range(n_persons)], 12).astype(object)
    train, test = holdout(y, groups, SplitSettings(test_size=0.1))
    assert set(groups[test]).isdisjoint(groups[train])
    assert len(test) == 12


def test_rows_of_unknown_persons_are_spread_over_both_sides() -> None:
    y, groups = people()
    groups[::2] = None
    train, test = holdout(y, groups)
    assert not (set(groups[train]) & set(groups[test])) - {None}
    unknown = np.array([g is None for g in groups])
    assert unknown[test].sum() == pytest.approx(0.2 * unknown.sum(), abs=3)


def test_the_seed_decides_alone() -> None:
    y, groups = people()
    one, two, other = (holdout(y, groups, SplitSettings(seed=seed))[1] for seed in (3, 3, 4))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_folds_cover_each_row_once_and_keep_persons_whole() -> None:
    y, groups = people()
    parts = folds(y, groups, k=5)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(len(y)))
    for train, test in parts:
        assert not set(groups[train]) & set(groups[test])
        assert set(y[train]) == set(y)


def test_folds_are_as_many_as_the_rarest_class_allows() -> None:
    assert len(folds(np.repeat(["a", "b"], [50, 3]), k=5)) == 3
    y = np.array(["a"] * 40 + ["b"] * 4)
    groups = np.array([f"p{i // 4}" for i in range(40)] + ["p1", "p1", "p2", "p2"], object)
    assert len(folds(y, groups, k=5)) == 2


@pytest.mark.parametrize(
    ("y", "groups", "words"),
    [
        (["a"] * 10, None, "at least two classes, found only a"),
        ([], None, "found none"),
        (["a"] * 10 + ["b"], None, r"fewer of b \(1\)"),
        (["a"] * 10 + ["b"] * 2, ["p"] * 12, "of one person"),
        (["a"] * 4 + ["b"] * 4, ["p1", "p2", "p1", "p2"] + ["p3"] * 4, "class b are of one person"),
        (["a", "a", "b", "b", "c", "c"], None, "too few to hold out"),
    ],
)
def test_impossible_splits_say_why(y: list[str], groups: list[str] | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        holdout(np.array(y, dtype=str), None if groups is None else np.array(groups, object))


def test_the_data_sets_own_split_is_kept_and_persons_on_both_sides_are_named() -> None:
    y = np.array(["a", "b"] * 6)
    named = np.array(["train"] * 6 + ["val"] * 2 + ["test"] * 4, object)
    groups = np.array([f"p{i}" for i in range(11)] + ["p0"], object)
    split = make_split(y, groups, named)
    assert split.origin == "given"
    assert list(split.test) == [8, 9, 10, 11]
    assert list(split.train) == list(range(8))
    assert split.shared_groups == ("p0",)
    assert split.describe()["shared_groups"] == 1


def test_val_is_the_test_part_where_there_is_no_other() -> None:
    split = make_split(np.array(["a", "b"] * 4), split=np.array(["train"] * 6 + ["val"] * 2, object))
    assert list(split.test) == [6, 7]


def test_without_test_rows_a_split_is_drawn() -> None:
    y, groups = people()
    split = make_split(y, groups, np.array(["train"] * len(y), object))
    assert split.origin == "drawn"
    assert split.shared_groups == ()
    together = make_split(y, groups, settings=SplitSettings(by_group=False))
    assert together.shared_groups
