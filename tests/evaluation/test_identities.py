import numpy as np
import pytest

from ferkit.audit.checks import cluster_identities
from ferkit.core.errors import DataError


def embeddings(n_persons: int, images: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(n_persons), images)
    return (rng.normal(0, 1, (n_persons, 64))[person] + rng.normal(0, noise, (len(person), 64))).astype(
        np.float32
    ), person


def test_images_of_one_person_get_one_name():
    X, person = embeddings(40, 5, 0.4)
    names = cluster_identities(X)
    assert len(set(names)) == 40
    assert len({(name, p) for name, p in zip(names, person, strict=True)}) == 40


def test_strangers_get_none():
    X, _ = embeddings(100, 1, 0.1)
    assert cluster_identities(X) == [None] * 100


def test_an_ordinary_face_does_not_join_everybody():
    X, _ = embeddings(40, 5, 0.4)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    X = np.concatenate([X, unit.mean(axis=0, keepdims=True)])
    assert len(set(cluster_identities(X, 0.1, neighbours=4)) - {None}) >= 40


def test_one_image_is_like_no_other():
    assert cluster_identities(np.ones((1, 4), np.float32)) == [None]


def test_what_is_no_cosine_is_refused():
    with pytest.raises(DataError, match=r"a cosine in -1..1"):
        cluster_identities(np.ones((2, 4), np.float32), 60)
