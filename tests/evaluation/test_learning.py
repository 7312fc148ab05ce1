"""Learning curves: parts that grow, figures that follow, and a plot of them."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ferkit.classifiers.heads import head_settings
from ferkit.core.errors import DataError
from ferkit.embedder.store import EmbeddingTable
from ferkit.evaluation.learning import LearningCurve, learning_curve, plot_learning


@pytest.fixture(scope="module")
def table() -> EmbeddingTable:
    """600 rows of 3 classes that overlap in 30 dimensions, the first 400 to learn from."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 3, 600)
    X = rng.normal(size=(600, 30)).astype(np.float32)
    X[:, :3] += 1.6 * np.eye(3, dtype=np.float32)[numbers]
    return EmbeddingTable(
        X,
        np.array(["happy", "neutral", "sad"], object)[numbers],
        np.array([f"{i:03d}.jpg" for i in range(600)], object),
        np.full(600, None, object),
        np.array(["train"] * 400 + ["test"] * 200, object),
    )


@pytest.fixture(scope="module")
def curve(table: EmbeddingTable) -> LearningCurve:
    return learning_curve(table, head_settings("logistic", C=1.0))


def test_more_images_help_and_are_learnt_less_by_heart(curve: LearningCurve) -> None:
    assert [point.n_train for point in curve.points] == [25, 50, 100, 200, 400]
    assert curve.n_test == 200
    first, last = curve.points[0], curve.points[-1]
    assert last.accuracy.value > first.accuracy.value + 0.05
    assert first.train_accuracy == pytest.approx(1.0, abs=0.05)
    assert last.train_accuracy < first.train_accuracy
    assert all(point.accuracy.low < point.accuracy.value < point.accuracy.high for point in curve.points)
    assert curve.per_doubling == pytest.approx(last.accuracy.value - curve.points[-2].accuracy.value)
    json.dumps(curve.to_dict(), allow_nan=False)


def test_the_last_point_is_the_head_on_everything(table: EmbeddingTable, curve: LearningCurve) -> None:
    from ferkit.datasets.split import SplitSettings
    from ferkit.evaluation.evaluate_model import fit_held_out

    whole = fit_held_out(table, head_settings("logistic", C=1.0), SplitSettings()).evaluation
    assert curve.points[-1].accuracy.value == pytest.approx(whole.figures["accuracy"].value)


def test_the_seed_decides_the_parts(table: EmbeddingTable) -> None:
    settings = head_settings("logistic")
    one, same, other = (
        learning_curve(table, settings, [30], seed=seed, draws=1).points[0] for seed in (1, 1, 2)
    )
    assert one.accuracy == same.accuracy
    assert one.accuracy != other.accuracy


def test_parts_have_every_class(table: EmbeddingTable) -> None:
    rare = np.flatnonzero(table.y == "sad")[3:]
    few = table[np.setdiff1d(np.arange(600), rare[rare < 400])]
    assert learning_curve(few, head_settings("logistic"), [12]).points[0].n_train == 12
    with pytest.raises(DataError, match="at least 6 images, two of each class, found 2"):
        learning_curve(table, head_settings("logistic"), [2, 50])


def test_plot_shows_the_curve(curve: LearningCurve) -> None:
    file = io.BytesIO()
    plot_learning([("logistic", curve), ("again", curve)]).savefig(file, format="png")
    with Image.open(file) as image:
        assert image.width > 800
        assert np.asarray(image.convert("L")).std() > 10
