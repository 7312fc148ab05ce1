"""FaceEmbedder as a scikit-learn transformer."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_array

from ferkit import FerkitError
from ferkit.datasets.synthetic import write_dataset
from ferkit.sklearn import FaceEmbedder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    folder = tmp_path_factory.mktemp("faces")
    write_dataset(folder, n_per_class=6, n_persons=6)
    paths = sorted(folder.rglob("*.png"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


def test_a_search_over_a_head_embeds_each_part_once(images: tuple[list[str], list[str]], tmp_path: Path):
    X, y = images
    pipeline = make_pipeline(
        FaceEmbedder("raw", detector="none", cache_dir=tmp_path),
        StandardScaler(),
        LogisticRegression(max_iter=200),
    )
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.001, 0.01, 0.1]}, cv=2, n_jobs=2).fit(X, y)
    assert search.best_score_ > 0.2
    # Two folds of training and of test images each, and all images for the last fit.
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_clone_pickle_and_parameters(images: tuple[list[str], list[str]]):
    X, _ = images
    embedder = FaceEmbedder("raw", detector="none", cache_dir=False)
    assert clone(embedder).get_params() == embedder.get_params()
    fitted = embedder.set_params(batch_size=4).fit(X[:5])
    vectors = fitted.transform(X[:5])
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(X[:5]), vectors)
    assert vectors.dtype == np.float32
    assert list(fitted.get_feature_names_out()[:2]) == ["faceembedder0", "faceembedder1"]
    named = fitted.set_output(transform="pandas").transform(X[:5])
    assert named.shape == vectors.shape


def test_crops_and_paths_give_the_same(images: tuple[list[str], list[str]]):
    from PIL import Image

    X, _ = images
    crops = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in X[:4]])
    embedder = FaceEmbedder("raw", detector="none", cache_dir=False)
    assert np.array_equal(embedder.fit_transform(X[:4]), embedder.fit_transform(crops))


def test_rows_may_repeat_as_resampling_makes_them(images: tuple[list[str], list[str]]):
    embedder = FaceEmbedder("raw", detector="none", cache_dir=False)
    twice = embedder.fit_transform(np.array(images[0])[[3, 1, 3]])
    assert np.array_equal(twice, embedder.transform(images[0][:4])[[3, 1, 3]])


def test_a_damaged_file_of_the_cache_is_made_again(images: tuple[list[str], list[str]], tmp_path: Path):
    embedder = FaceEmbedder("raw", detector="none", cache_dir=tmp_path).fit(images[0][:3])
    vectors = embedder.transform(images[0][:3])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:300])
    assert np.array_equal(embedder.transform(images[0][:3]), vectors)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"batch_size": "a"}, {"no_face": "skip"}, {"cache_dir": True}, {"embedder": None}],
)
def test_wrong_parameters_are_refused_in_one_sentence(
    wrong: dict[str, object], images: tuple[list[str], list[str]]
):
    with pytest.raises(FerkitError, match=f"^expected {next(iter(wrong))} "):
        FaceEmbedder("raw", detector="none").set_params(**wrong).fit(images[0][:2])


@pytest.mark.parametrize("X", ["a.jpg", 3, np.zeros((3, 4)), [None], ["there-is-no-such.jpg"]])
def test_what_is_no_list_of_images_is_refused(X: object):
    with pytest.raises(FerkitError):
        FaceEmbedder("raw", detector="none", cache_dir=False).fit(X).transform(X)


class OfTables(FaceEmbedder):
    """Draws an image from each row of numbers, so that scikit-learn's checks, which know tables only, can run."""

    def _images(self, X):
        rows = check_array(X, dtype=np.float64)
        pixels = np.stack([np.resize((row * 37).astype(np.int64) % 256, (16, 16, 3)) for row in rows])
        return super()._images(pixels.astype(np.uint8))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


OF_TABLES_ONLY = {
    "check_n_features_in": "images have no fixed number of features",
    "check_n_features_in_after_fitting": "images have no fixed number of features",
    "check_transformer_general": "images have no fixed number of features",
    "check_transformer_preserve_dtypes": "embeddings are float32, pixels are not",
}


def test_estimator_checks():
    checked = OfTables("raw", detector="none", cache_dir=False)
    results = check_estimator(checked, expected_failed_checks=OF_TABLES_ONLY, on_fail=None, on_skip=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) > 30


def test_an_image_may_come_several_times(images: tuple[list[str], list[str]]) -> None:
    X = [images[0][i] for i in (3, 0, 3)]
    found = FaceEmbedder("raw", detector="none", cache_dir=False).fit_transform(X)
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
