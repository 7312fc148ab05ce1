from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ferkit.core.errors import DataError
from ferkit.datasets.synthetic import EXPRESSIONS, Identity, render_face, write_dataset
from ferkit.embedder.embedders import open_embedder


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def persons(folder: Path) -> set[str]:
    return {path.name.split("_")[0] for path in folder.rglob("*.png")}


def hog_features(split: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(split.rglob("*.png"))
    crops = np.stack([cv2.resize(cv2.imread(str(path))[..., ::-1], (64, 64)) for path in paths])
    return open_embedder("raw").embed(crops), np.array([path.parent.name for path in paths])


def mean_face(identity: Identity, expression: str, intensity: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    faces = [render_face(identity, expression, rng, size=48, intensity=intensity) for _ in range(40)]
    return np.mean(faces, axis=0)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("size", [24, 96, 113])
def test_a_face_is_an_rgb_image_that_uses_the_range(expression: str, size: int):
    rng = np.random.default_rng(1)
    face = render_face(Identity.random(rng), expression, rng, size=size)
    assert face.shape == (size, size, 3)
    assert face.dtype == np.uint8
    assert np.ptp(face) > 80


def test_equal_seeds_give_equal_faces_and_a_stream_never_repeats():
    def two_faces(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        identity = Identity.random(rng)
        return [render_face(identity, "happy", rng) for _ in range(2)]

    first, second = two_faces(5)
    again, _ = two_faces(5)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_many_random_persons_can_be_drawn_at_every_intensity():
    rng = np.random.default_rng(2)
    for _ in range(60):
        identity = Identity.random(rng)
        render_face(identity, str(rng.choice(EXPRESSIONS)), rng, size=32, intensity=rng.uniform(0, 1.5))


def test_persons_differ_in_traits_and_cover_light_and_dark_skin():
    rng = np.random.default_rng(3)
    people = [Identity.random(rng) for _ in range(100)]
    brightness = [sum(person.skin) for person in people]
    assert len(set(people)) == 100
    assert min(brightness) < 250
    assert max(brightness) > 600
    assert {person.monolid for person in people} == {True, False}
    assert len({person.hair_style for person in people}) == 6


def test_two_persons_look_different_beyond_chance_of_pose_and_light():
    one, other = (Identity.random(np.random.default_rng(seed)) for seed in (10, 11))
    between = np.abs(mean_face(one, "neutral", 1.0) - mean_face(other, "neutral", 1.0)).mean()
    within = np.abs(mean_face(one, "neutral", 1.0) - mean_face(one, "neutral", 0.0)).mean()
    assert between > 2 * within


def test_intensity_moves_a_face_away_from_neutral():
    identity = Identity.random(np.random.default_rng(12))
    rest = mean_face(identity, "surprise", 0.0)
    weak, strong = (np.abs(mean_face(identity, "surprise", i) - rest).mean() for i in (0.3, 1.2))
    assert strong > 1.5 * weak


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    write_dataset(root, n_per_class=60, n_persons=24, size=64)
    return root


def test_dataset_has_the_layout_and_the_counts_asked_for(dataset: Path):
    for split, count in {"train": 42, "test": 18}.items():
        assert {folder.name for folder in (dataset / split).iterdir()} == set(EXPRESSIONS)
        assert all(
            len(list((dataset / split / name).glob("p????_?????.png"))) == count for name in EXPRESSIONS
        )
    assert cv2.imread(str(next((dataset / "train" / "sad").iterdir()))).shape == (64, 64, 3)


def test_no_person_is_in_two_splits_and_all_persons_appear(dataset: Path):
    train, test = persons(dataset / "train"), persons(dataset / "test")
    assert train.isdisjoint(test)
    assert len(train) == 17
    assert len(train | test) == 24


def test_a_linear_classifier_is_far_above_chance_on_new_persons(dataset: Path):
    X, y = hog_features(dataset / "train")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(X, y)
    assert 0.5 < model.score(*hog_features(dataset / "test")) < 0.97  # chance is 0.14


def test_equal_arguments_write_equal_bytes_and_another_seed_others(tmp_path: Path):
    for name, seed in {"a": 7, "b": 7, "c": 8}.items():
        write_dataset(tmp_path / name, n_per_class=4, n_persons=4, size=32, seed=seed)
    first, second, other = (contents(tmp_path / name) for name in "abc")
    assert len(first) == 28
    assert first == second
    assert not set(first.values()) & set(other.values())


def test_paths_with_hangul_and_three_splits_work(tmp_path: Path):
    root = tmp_path / "얼굴"
    write_dataset(root, n_per_class=4, n_persons=8, size=32, splits={"train": 0.5, "val": 0.25, "test": 0.25})
    groups = [persons(root / split) for split in ("train", "val", "test")]
    assert [len(group) for group in groups] == [2, 1, 1]
    assert len(set.union(*groups)) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"expression": "joy"}, "expected an expression out of angry.*found 'joy'; choose one"),
        ({"size": 8}, "expected a size of 24 to 1024 pixels, found 8; 96"),
        ({"intensity": -0.1}, "expected an intensity of 0 to 1.5, found -0.1; use 1"),
        ({"intensity": float("nan")}, "found nan; use 1"),
    ],
)
def test_render_face_says_what_is_wrong(wrong: dict, message: str):
    rng = np.random.default_rng(0)
    identity = Identity.random(rng)
    with pytest.raises(DataError, match=message):
        render_face(identity, **{"expression": "happy", "rng": rng, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 5000}, "expected a size of 24 to 1024 pixels, found 5000; 96"),
        ({"seed": -1}, "expected a seed of 0 or more, found -1; choose"),
        ({"splits": {"train": 0.7, "test": 0.7}}, "shares that add up to 1, found .*; correct them"),
        ({"splits": {}}, "positive shares that add up to 1"),
        ({"n_persons": 1}, "none in 'test' .n_persons=1.; raise n_persons"),
        ({"n_per_class": 0}, "none in 'train' .n_per_class=0.; raise n_per_class"),
    ],
)
def test_write_dataset_says_what_is_wrong_and_writes_nothing(tmp_path: Path, wrong: dict, message: str):
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "new", **{"n_per_class": 4, "n_persons": 4, **wrong})
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        DataError, match=r"expected an empty or new folder, found files in .*; choose another"
    ):
        write_dataset(tmp_path, n_per_class=4, n_persons=4)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
