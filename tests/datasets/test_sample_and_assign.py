from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.edit import SplitSettings, draw, split_dataset, where


def people(n_persons: int, per_class: int, classes: str = "abc", source: str = "s") -> list[Sample]:
    """``per_class`` images of each person and class."""
    return [
        Sample(f"{source}/{p:04d}/{cls}/{i}.png", cls, None, f"{source}/{p}", None, {"source": source})
        for p in range(n_persons)
        for cls in classes
        for i in range(per_class)
    ]


def dataset(*samples: Sample) -> Dataset:
    return Dataset("d", Path("d"), samples, FileSource(Path("d")))


def test_so_many_of_each_class_and_source_and_shortage_is_told():
    data = dataset(*people(10, 3, "ab", "s"), *people(4, 2, "bc", "t"))
    done = draw(data, 10, ["source"])
    assert done.counts == {("a", "s"): (30, 10), ("b", "s"): (30, 10), ("b", "t"): (8, 8), ("c", "t"): (8, 8)}
    assert Counter((s.label, s.attributes["source"]) for s in done.dataset.samples) == {
        key: drawn for key, (_, drawn) in done.counts.items()
    }


def test_as_many_persons_as_possible_are_drawn():
    data = dataset(*people(30, 20, "a"), *people(5, 2, "b"))
    done = draw(data, 30)
    assert len({s.group for s in done.dataset.samples if s.label == "a"}) == 30
    more = draw(data, 45).dataset
    assert set(Counter(s.group for s in more.samples if s.label == "a").values()) == {1, 2}
    # 'b' has ten images, two of each person
    assert done.persons == (30, 30)


def test_images_of_nobody_known_count_as_persons_of_their_own():
    data = dataset(*(Sample(f"{i}.png", "a") for i in range(50)), *people(1, 50, "a"))
    drawn = draw(data, 51).dataset
    assert sum(s.group is None for s in drawn.samples) == 50


def test_images_without_a_label_are_left_out():
    done = draw(dataset(Sample("x.png"), Sample("y.png", "a")), 5)
    assert done.n_unlabelled == 1
    assert [s.path for s in done.dataset.samples] == ["y.png"]


def test_the_seed_decides_what_is_drawn():
    data = dataset(*people(20, 5))
    one, same, other = (draw(data, 10, seed=seed).dataset.samples for seed in (1, 1, 2))
    assert one == same != other


def test_what_cannot_be_drawn_is_refused():
    data = dataset(*people(2, 1))
    with pytest.raises(DataError, match="no image of d has a 'camera'; known are class, split, source"):
        draw(data, 5, ["camera"])
    with pytest.raises(DataError, match="none with a label"):
        draw(dataset(Sample("x.png")), 1)


def test_only_images_with_the_wanted_values_are_kept():
    data = dataset(*people(2, 3, "abc", "s"), *people(2, 1, "abc", "t"), Sample("x.png"))
    assert len(where(data, {"source": ["t"]})) == 6
    assert len(where(data, {"source": ["s", "t"], "class": ["a"]})) == 8
    assert [s.path for s in where(data, {"class": [""]}).samples] == ["x.png"]
    with pytest.raises(DataError, match="no image of d has source u and class a or b"):
        where(data, {"source": ["u"], "class": ["a", "b"]})
    with pytest.raises(DataError, match="no image of d has a 'camera'"):
        where(data, {"camera": ["x"]})


def shares(data: Dataset, of: str = "split") -> dict[str, float]:
    counts = Counter(s.split for s in data.samples)
    return {str(part): n / len(data) for part, n in counts.items()}


def test_every_part_has_its_share_of_every_class_and_source_and_no_person_is_in_two():
    data = dataset(*people(60, 4, "abc", "s"), *people(40, 6, "bc", "t"))
    done = split_dataset(data, SplitSettings(val=0.1, test=0.2, by=("source",)))
    assert shares(done.dataset) == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.01)
    for source in ("s", "t"):
        part = dataset(*(s for s in done.dataset.samples if s.attributes["source"] == source))
        assert shares(part) == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.02)
    assert done.shared_persons == ()
    assert sum(done.persons.values()) == 100
    assert all(row.keys() == {"train", "val", "test"} for row in done.counts.values())


def test_without_regard_to_persons_they_are_shared():
    done = split_dataset(dataset(*people(5, 20)), SplitSettings(by_group=False))
    assert len(done.shared_persons) == 5
    assert shares(done.dataset) == pytest.approx({"train": 0.8, "test": 0.2}, abs=0.01)


def test_only_one_part_is_divided_and_the_others_stay():
    given = [Sample(f"{i}.png", "ab"[i % 2], "test" if i < 20 else "train") for i in range(100)]
    done = split_dataset(dataset(*given), SplitSettings(val=0.25, test=0.0, within="train"))
    assert Counter(s.split for s in done.dataset.samples) == {"test": 20, "train": 60, "val": 20}
    assert all(s.split == "test" for s in done.dataset.samples if int(s.path[:-4]) < 20)
    with pytest.raises(DataError, match="expected images in the part 'val' of d, found none"):
        split_dataset(dataset(*given), SplitSettings(within="val"))


def test_a_whole_source_can_be_the_test_part():
    data = dataset(*people(20, 2, "ab", "s"), *people(3, 2, "ab", "t"))
    done = split_dataset(data, SplitSettings(val=0.1, test=0.0, held_out=("t",)))
    assert {s.attributes["source"] for s in done.dataset.samples if s.split == "test"} == {"t"}
    assert {s.attributes["source"] for s in done.dataset.samples if s.split != "test"} == {"s"}
    with pytest.raises(DataError, match="no image has the source u; known sources: s, t"):
        split_dataset(data, SplitSettings(held_out=("u",)))


@pytest.mark.parametrize(
    ("samples", "settings", "what"),
    [
        (
            people(2, 50),
            {"val": 0.1, "test": 0.1},
            "class 'a' has only 2 persons, but train, val, test need one each",
        ),
        (people(9, 5) + people(1, 9, "z", "q"), {}, "class 'z' has only 1 person, but train, test need"),
        (
            [Sample("x.png", "a"), Sample("y.png", "b"), Sample("z.png", "b")],
            {},
            "class 'a' has only 1 image",
        ),
    ],
)
def test_too_few_persons_or_images_are_named(samples: list[Sample], settings: dict[str, float], what: str):
    with pytest.raises(DataError, match=what):
        split_dataset(dataset(*samples), SplitSettings(**settings))


def test_persons_who_tie_all_classes_together_cannot_be_divided():
    # 'a' and 'b' have two persons each, but it is p who has both.
    samples = [Sample(f"{i}.png", cls, None, who) for i, (cls, who) in enumerate(
        [("a", "p"), ("a", "q"), ("b", "p"), ("b", "r"), ("c", "q"), ("c", "r")])]  # fmt: skip
    with pytest.raises(DataError, match=r"no division found .*--no-group"):
        split_dataset(dataset(*samples), SplitSettings(val=0.0, test=0.5))


def test_too_small_parts_are_not_blamed_on_persons_whom_nobody_knows():
    samples = [Sample(f"{cls}{i}.png", cls) for cls in "abcdefg" for i in range(6)]
    with pytest.raises(
        DataError, match=r"no division found [^(]*; add images, or make the small parts larger$"
    ):
        split_dataset(dataset(*samples), SplitSettings(val=0.1, test=0.1))


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.0, 0.0)])
def test_shares_that_leave_nothing_are_refused(val: float, test: float):
    with pytest.raises(DataError, match="share"):
        SplitSettings(val=val, test=test)


def test_a_hundred_thousand_images_take_a_moment():
    rng = np.random.default_rng(0)
    person = rng.integers(0, 20_000, 100_000).tolist()
    samples = [Sample(f"{i:06d}.png", "abcdefg"[i % 7], None, str(p)) for i, p in enumerate(person)]
    done = split_dataset(dataset(*samples), SplitSettings(val=0.1, test=0.1))
    assert shares(done.dataset) == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.001)
