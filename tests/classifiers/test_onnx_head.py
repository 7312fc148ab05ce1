"""The graph of a head counts what scikit-learn counts."""

import dataclasses

import numpy as np
import pytest

from ferkit.classifiers.head_onnx import NotConvertibleError, OnnxHead, head_to_onnx
from ferkit.classifiers.heads import (
    DummySettings,
    HeadSettings,
    LogisticSettings,
    MLPSettings,
    SVMSettings,
    fit_head,
)
from ferkit.core.errors import ModelError
from tests.classifiers.conftest import Problem, blobs

KINDS: list[HeadSettings] = [
    LogisticSettings(),
    LogisticSettings(pca=5),
    MLPSettings(max_epochs=15),
    SVMSettings(),
    SVMSettings(exact_rows=0, landmarks=60),
]
CASES = [*KINDS, DummySettings()] + [
    dataclasses.replace(kind, calibration=method)  # type: ignore[arg-type]
    for kind in (KINDS[0], KINDS[2], KINDS[3])
    for method in ("sigmoid", "isotonic", "temperature")
]


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("settings", CASES, ids=lambda s: f"{s.kind}-{s.calibration}-{s.pca}")
def test_graph_and_pipeline_agree_on_new_embeddings(settings: HeadSettings, n_classes: int) -> None:
    X, y = blobs(300, k=n_classes)
    head = fit_head(X[:200], y[:200], settings)
    graph = OnnxHead(head_to_onnx(head.pipeline, X[:50]))
    assert (graph.dim, graph.n_classes) == (24, n_classes)
    assert np.abs(graph.predict_proba(X[200:]) - head.predict_proba(X[200:])).max() < 1e-4
    assert graph.predict_proba(X[:0]).shape == (0, n_classes)


def test_what_has_no_counterpart_is_named(problem: Problem) -> None:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    X, y = problem
    with pytest.raises(NotConvertibleError, match="KNeighborsClassifier"):
        head_to_onnx(make_pipeline(KNeighborsClassifier()).fit(X, y), X)


def test_a_graph_that_differs_is_not_kept(problem: Problem) -> None:
    X, y = problem
    pipeline = fit_head(X, y, MLPSettings(max_epochs=5)).pipeline
    pipeline.steps[-1][1].out_activation_ = "identity"  # scikit-learn now gives scores, no probabilities
    with pytest.raises(NotConvertibleError, match="differs"):
        head_to_onnx(pipeline, X)


def test_a_foreign_graph_is_refused() -> None:
    with pytest.raises(ModelError, match="the head cannot be loaded"):
        OnnxHead(b"no graph at all")
