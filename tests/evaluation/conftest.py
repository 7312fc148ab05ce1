"""Fixtures of the evaluation's tests."""

from pathlib import Path

import pytest

from ferkit.datasets.synthetic import write_dataset


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """112 drawn faces of 14 persons: train/ and test/, 7 expressions; only to be read."""
    root = tmp_path_factory.mktemp("drawn") / "faces"
    write_dataset(root, n_per_class=16, n_persons=14, size=48, seed=3)
    return root


@pytest.fixture(scope="session")
def undivided_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """84 drawn faces of 12 persons, 7 expressions, in one part; only to be read."""
    root = tmp_path_factory.mktemp("undivided") / "drawn"
    write_dataset(root, n_per_class=12, n_persons=12, size=48, seed=4, splits={"train": 1.0})
    return root / "train"
