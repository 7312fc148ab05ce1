"""Figures by column: what belongs to which value, and gaps that are called gaps no oftener than promised."""

import json

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.core.files import json_values
from ferkit.core.labels import LabelSet
from ferkit.evaluation.metrics import evaluate
from ferkit.evaluation.subgroups import Subgroups, subgroups

AB = LabelSet(("a", "b"))


def answers(hit: np.ndarray) -> np.ndarray:
    """Probabilities for images that are all of class a."""
    return np.where(hit[:, None], [[0.9, 0.1]], [[0.1, 0.9]])


def by_sex(accuracies: tuple[float, float], persons: int = 60, seed: int = 0) -> Subgroups:
    """Persons of unequal numbers of images, half of them of each sex."""
    rng = np.random.default_rng(seed)
    sizes = np.maximum(1, np.rint(rng.lognormal(2.5, 0.8, persons)).astype(int))
    person = np.repeat(np.arange(persons), sizes)
    sex = (np.arange(persons) % 2)[person]
    accuracy = np.array(accuracies)[np.arange(persons) % 2]
    hit = rng.random(len(person)) < rng.beta(9 * accuracy, 9 * (1 - accuracy))[person]
    return subgroups(
        "sex",
        np.array(["남", "여"], object)[sex],
        np.full(len(person), "a"),
        answers(hit),
        AB,
        groups=np.array([f"p{i}" for i in person], object),
        seed=seed,
        n_resamples=200,
    )


def test_each_value_has_the_figures_of_its_own_images() -> None:
    rng = np.random.default_rng(0)
    y, proba = np.array(list("ab") * 60), rng.dirichlet([1, 1], 120)
    sex = np.array(["여"] * 80 + ["남"] * 40, object)
    persons = np.array([f"p{i}" for i in np.arange(120) // 4], object)
    found = subgroups("sex", sex, y, proba, AB, groups=persons)
    assert [(row.value, row.n, row.persons, row.few) for row in found.rows] == [
        ("여", 80, 20, False),
        ("남", 40, 10, False),
    ]
    for row in found.rows:
        alone = evaluate(y[sex == row.value], proba[sex == row.value], AB, persons[sex == row.value])
        for mine, theirs in ((row.accuracy, "accuracy"), (row.macro_f1, "macro_f1")):
            expected = alone.figures[theirs]
            assert mine.value == expected.value
            assert [mine.low, mine.high] == pytest.approx([expected.low, expected.high], abs=0.02)
    women, men = found.rows
    assert women.gap.value == pytest.approx(women.accuracy.value - men.accuracy.value)
    assert men.gap.low == pytest.approx(-women.gap.high)
    assert found.gap.value == pytest.approx(abs(women.gap.value))
    assert found.gap.low <= found.gap.value <= found.gap.high
    assert {found.best, found.worst} == {"여", "남"}


def test_a_gap_is_found_and_named() -> None:
    found = by_sex((0.9, 0.6))
    assert (found.best, found.worst) == ("남", "여")
    assert found.p < 0.01
    assert 0.1 < found.gap.low < found.gap.value < found.gap.high < 0.4


def test_no_gap_is_called_one_as_rarely_as_promised() -> None:
    found = [by_sex((0.7, 0.7), seed=seed) for seed in range(60)]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.13
    held = np.mean([one.rows[0].gap.low <= 0 <= one.rows[0].gap.high for one in found])
    assert held >= 0.85


def test_values_within_persons_are_compared_within_persons() -> None:
    # Every person is read better outdoors by as much as persons differ from each other.
    person, place = np.repeat(np.arange(10), 20), np.tile([0, 1], 100)
    hit = (np.arange(200) // 2 % 10) < person * 0.8 + 2 * place
    found = subgroups(
        "place",
        np.array(["indoors", "outdoors"], object)[place],
        np.full(200, "a"),
        answers(hit),
        AB,
        groups=np.array([f"p{i}" for i in person], object),
    )
    assert found.best == "outdoors"
    assert found.p < 0.01
    assert found.gap.low > 0
    assert found.gap.high - found.gap.low < 0.3 < found.rows[0].accuracy.high - found.rows[0].accuracy.low


def test_missing_and_rare_values_are_named_and_take_no_part() -> None:
    values = np.array(["city"] * 50 + ["sea"] * 50 + ["moon"] * 3 + [None] * 4 + [""] * 2, object)
    y, hit = np.full(109, "a"), np.arange(109) % 3 > 0
    hit[100:103] = False
    found = subgroups("place", values, y, answers(hit), AB)
    assert [row.few for row in found.rows] == [False, False, True]
    assert found.missing == 6
    assert "moon" not in (found.best, found.worst)
    assert found.notes == (
        "6 images have no place, and are in no group",
        "too few to be compared: moon (3), with fewer than 30 images or 5 persons",
    )
    json.dumps(json_values(found), allow_nan=False)


def test_one_value_has_no_gap() -> None:
    found = subgroups("sex", np.full(40, "여", object), np.full(40, "a"), answers(np.arange(40) % 2 > 0), AB)
    assert found.best is None
    assert np.isnan([found.p, found.gap.value, found.rows[0].gap.value]).all()
    assert json_values(found)["p"] is None


def test_images_of_several_repeats_count_once() -> None:
    values, hit = np.tile(np.array(["x", "y"] * 30, object), 3), np.tile(np.arange(60) % 4 > 0, 3)
    many = subgroups(
        "c", values, np.full(180, "a"), answers(hit), AB, images=np.tile(np.arange(60), 3), seed=1
    )
    once = subgroups("c", values[:60], np.full(60, "a"), answers(hit[:60]), AB, seed=1)
    assert [row.n for row in many.rows] == [row.n for row in once.rows] == [30, 30]
    assert many.p == pytest.approx(once.p, abs=0.05)
    wide, narrow = (one.gap.high - one.gap.low for one in (once, many))
    assert narrow == pytest.approx(wide, rel=0.1)


def test_a_column_that_is_empty() -> None:
    with pytest.raises(DataError, match="no image has a value of 'sex'"):
        subgroups("sex", np.full(4, None, object), np.full(4, "a"), answers(np.ones(4, bool)), AB)
