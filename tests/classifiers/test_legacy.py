"""Heads of earlier projects, taken in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler

from ferkit.classifiers.head_onnx import import_joblib_head
from ferkit.classifiers.kinds import load_head
from ferkit.classifiers.model import Model, read_model
from ferkit.core.errors import ModelError
from tests.classifiers.conftest import Problem

NAMES = np.array(["기쁨", "분노", "슬픔", "중립"])


@pytest.fixture(scope="module")
def numbered(problem: Problem) -> tuple[np.ndarray, np.ndarray, MLPClassifier]:
    X, y = problem
    X = StandardScaler().fit_transform(X)
    numbers = np.array([int(name[1]) for name in y])
    mlp = MLPClassifier((128, 64), max_iter=15, tol=10.0, n_iter_no_change=2, random_state=0)
    return X, numbers, mlp.fit(X, numbers)


@pytest.mark.parametrize("wrap", ["dict", "tuple", "nested"])
def test_a_head_beside_its_encoder(tmp_path: Path, numbered: Any, wrap: str) -> None:
    X, _, mlp = numbered
    encoder = LabelEncoder().fit(NAMES)
    wrapped = {
        "dict": {"model": mlp, "label_encoder": encoder, "accuracy": 0.9},
        "tuple": (mlp, encoder),
        "nested": [{"clf": mlp}, [encoder, "arcface"]],
    }[wrap]
    joblib.dump(wrapped, tmp_path / "old.pkl")
    head = import_joblib_head(tmp_path / "old.pkl", trust=True)
    assert head.classes == tuple(NAMES)
    assert head.dim == 24
    assert np.allclose(head.predict_proba(X.astype(np.float32)), mlp.predict_proba(X), atol=1e-5)


def test_an_imported_head_is_a_model_like_any_other(
    tmp_path: Path, save: Callable[..., Model], embedder: Any, crops: np.ndarray
) -> None:
    X = embedder.embed(crops)
    mlp = make_pipeline(StandardScaler(), MLPClassifier((128, 64), max_iter=20, tol=10.0, random_state=0))
    joblib.dump(mlp.fit(X, [0, 1, 2] * 20), tmp_path / "old.joblib")
    head = import_joblib_head(tmp_path / "old.joblib", trust=True, labels=("a", "b", "c"))
    save(tmp_path / "m", head)
    artifact = read_model(tmp_path / "m")
    assert set(artifact.files) == {"head.onnx", "head.skops"}
    again = load_head(artifact)
    assert np.allclose(again.predict_proba(X), mlp.predict_proba(X), atol=1e-6)
    assert list(again.predict(X[:3])) == [("a", "b", "c")[i] for i in mlp.predict(X[:3])]


def test_a_scaler_in_the_file_goes_before_the_head(tmp_path: Path, problem: Problem) -> None:
    X, y = problem
    scaler = StandardScaler().fit(X)
    logistic = LogisticRegression().fit(scaler.transform(X), y)
    joblib.dump({"clf": logistic, "scaler": scaler}, tmp_path / "old.pkl")
    head = import_joblib_head(tmp_path / "old.pkl", trust=True)
    assert np.allclose(head.predict_proba(X), logistic.predict_proba(scaler.transform(X)), atol=1e-5)


def test_nothing_is_opened_without_trust(tmp_path: Path) -> None:
    (tmp_path / "old.pkl").write_bytes(b"")
    with pytest.raises(ModelError, match="add --trust"):
        import_joblib_head(tmp_path / "old.pkl", trust=False)


def test_what_cannot_be_taken_in_says_why(tmp_path: Path, numbered: Any) -> None:
    X, numbers, mlp = numbered
    path = tmp_path / "old.pkl"
    with pytest.raises(ModelError, match="found none"):
        import_joblib_head(path, trust=True)
    path.write_bytes(b"no pickle")
    with pytest.raises(ModelError, match="cannot be opened"):
        import_joblib_head(path, trust=True)
    joblib.dump({"accuracy": 0.9}, path)
    with pytest.raises(ModelError, match=r"expected a fitted classifier .* found float"):
        import_joblib_head(path, trust=True)
    joblib.dump(mlp, path)
    with pytest.raises(ModelError, match="numbers 0, 1, 2, 3; say what they are called"):
        import_joblib_head(path, trust=True)
    with pytest.raises(ModelError, match="expected 4 labels"):
        import_joblib_head(path, trust=True, labels=("a", "b"))
    joblib.dump(KNeighborsClassifier().fit(X, numbers), path)
    with pytest.raises(ModelError, match="found KNeighborsClassifier"):
        import_joblib_head(path, trust=True, labels=tuple(NAMES))
