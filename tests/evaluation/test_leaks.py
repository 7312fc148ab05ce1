from pathlib import Path

import cv2
import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.leakage import LeakSettings, find_leaks, find_leaks_between
from ferkit.datasets.load import load_dataset


def face(seed: int) -> np.ndarray:
    """An image of its own, with structure at every scale."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 1, (k, k)), (64, 64), interpolation=cv2.INTER_CUBIC) for k in (3, 6, 12, 24)
    ]
    image = sum(layer * weight for layer, weight in zip(layers, (30, 25, 20, 10), strict=True)) + 128
    return np.clip(image, 0, 255).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def rows(dataset: Dataset, split: str) -> np.ndarray:
    return np.array([i for i, sample in enumerate(dataset.samples) if sample.split == split])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i in range(30):
        write(tmp_path / "data" / "train" / "ab"[i % 2] / f"{i:02d}.png", face(i))
    for i in range(100, 110):
        write(tmp_path / "data" / "test" / "ab"[i % 2] / f"{i:02d}.png", face(i))
    return tmp_path / "data"


def leaks_of(path: Path, settings: LeakSettings | None = None, **options):
    dataset = load_dataset(path, **options)
    return dataset, find_leaks(dataset, rows(dataset, "train"), rows(dataset, "test"), settings)


def test_images_of_their_own_do_not_leak(data: Path):
    _, leaks = leaks_of(data)
    assert not leaks
    assert leaks.sentence() == "no leaks among 10 test and 30 training images"
    assert leaks.describe()["leaking_share"] == 0


def test_the_same_bytes_and_the_same_pixels_are_exact_copies(data: Path):
    copy = data / "test" / "b" / "copy.png"
    copy.write_bytes((data / "train" / "a" / "04.png").read_bytes())
    write(data / "test" / "a" / "other_format.bmp", face(7))
    dataset, leaks = leaks_of(data)
    assert [dataset.samples[i].path for i in leaks.test_rows["exact"]] == [
        "test/a/other_format.bmp",
        "test/b/copy.png",
    ]
    assert {(pair.train, pair.test) for pair in leaks.pairs} == {
        ("train/a/04.png", "test/b/copy.png"), ("train/b/07.png", "test/a/other_format.bmp"),
    }  # fmt: skip
    assert [dataset.samples[i].path for i in leaks.train_rows["exact"]] == [
        "train/a/04.png",
        "train/b/07.png",
    ]
    assert len(leaks.test_rows["near"]) == 0


def test_a_copy_is_found_whichever_of_three_is_the_first(tmp_path: Path):
    for i in range(4):
        write(tmp_path / "train" / "a" / f"{i}.png", face(i))
    for name in ("x", "y"):
        write(tmp_path / "test" / "a" / f"{name}.png", face(2))
    _, leaks = leaks_of(tmp_path)
    assert len(leaks.test_rows["exact"]) == 2


def test_near_duplicates_leak_and_so_do_all_their_exact_copies(data: Path):
    small = cv2.resize(face(4), (50, 50), interpolation=cv2.INTER_AREA)
    for name in ("one", "two"):
        write(data / "test" / "a" / f"{name}.png", small)
    write(data / "test" / "b" / "flipped.jpg", face(7)[:, ::-1])
    write(data / "train" / "b" / "again.png", face(7))
    dataset, leaks = leaks_of(data)
    near = {dataset.samples[i].path for i in leaks.test_rows["near"]}
    assert near == {"test/a/one.png", "test/a/two.png", "test/b/flipped.jpg"}
    given_away = {dataset.samples[i].path for i in leaks.train_rows["near"]}
    assert given_away == {"train/a/04.png", "train/b/07.png", "train/b/again.png"}
    assert all(pair.kind == "near" and 0.85 <= pair.score <= 1 for pair in leaks.pairs)
    assert "3 near-duplicates" in leaks.sentence()
    assert not leaks_of(data, LeakSettings(near=False))[1]


def test_persons_on_both_sides_are_counted_and_named(data: Path):
    for i, split in enumerate(("train", "train", "test", "test")):
        write(data / split / "a" / f"kim_{i}.png", face(200 + i))
    write(data / "test" / "a" / "lee_1.png", face(300))
    _, leaks = leaks_of(data, person_pattern="^([a-z]+)_")
    assert leaks.n_persons == 1
    assert len(leaks.test_rows["person"]) == len(leaks.train_rows["person"]) == 2
    [pair] = [pair for pair in leaks.pairs if pair.kind == "person"]
    assert pair.person == "kim"
    assert "2 images of 1 persons" in leaks.sentence()
    _, without = leaks_of(data, LeakSettings(persons=False), person_pattern="^([a-z]+)_")
    assert not without


def test_two_data_sets_are_compared_in_their_own_positions(data: Path, tmp_path: Path):
    other = tmp_path / "other"
    write(other / "a" / "0.png", face(500))
    write(other / "a" / "1.png", face(3))
    leaks = find_leaks_between(load_dataset(data), load_dataset(other))
    assert leaks.test_rows["exact"].tolist() == [1]
    assert leaks.pairs[0].train == "train/b/03.png"


def test_examples_are_bounded_and_counts_are_not(data: Path):
    for i in range(6):
        write(data / "test" / "a" / f"copy{i}.png", face(i))
    _, leaks = leaks_of(data, LeakSettings(max_pairs=2))
    assert len(leaks.pairs) == 2
    assert leaks.describe()["test_rows_by_kind"]["exact"] == 6
    assert not leaks.describe()["pairs_are_all"]


def test_unreadable_images_are_listed(data: Path):
    (data / "test" / "a" / "broken.png").write_bytes(b"no image")
    _, leaks = leaks_of(data)
    assert [path for path, _ in leaks.unreadable] == ["test/a/broken.png"]
    assert not leaks


@pytest.mark.parametrize(("train", "test"), [([0, 1], [1, 2]), ([], [1]), ([0], [99]), ([0.5], [1])])
def test_rows_that_are_no_split_are_refused(data: Path, train: list, test: list):
    with pytest.raises(DataError, match="rows"):
        find_leaks(load_dataset(data), np.array(train), np.array(test))
