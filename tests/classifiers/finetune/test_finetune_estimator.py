import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils import estimator_checks

from ferkit.classifiers.finetune.estimator import FineTunedClassifier
from ferkit.core.errors import DataError, TrainingError
from tests.classifiers.finetune.corners import corners

NUMBERS = np.arange(60) % 3
CROPS = np.repeat(corners(NUMBERS), 3, axis=3)
Y = np.array(["angry", "happy", "sad"])[NUMBERS]
CHANGES = {"network.backbone": "plain", "network.input_size_wh": [24, 24], "stages.1.learning_rate": 5e-3,
           "stages.1.epochs": 8, "stages.1.augment": False, "batch_size": 16, "optimizer.ema": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def fitted() -> FineTunedClassifier:
    return FineTunedClassifier(changes=CHANGES, validation_fraction=0.2).fit(CROPS, Y)


def test_it_learns_and_keeps_to_the_contract(fitted: FineTunedClassifier) -> None:
    assert fitted.classes_.tolist() == ["angry", "happy", "sad"]
    proba = fitted.predict_proba(CROPS)
    assert proba.shape == (60, 3)
    assert proba.sum(axis=1) == pytest.approx(np.ones(60), abs=1e-5)
    assert (fitted.predict(CROPS) == fitted.classes_[proba.argmax(axis=1)]).all()
    assert fitted.score(CROPS, Y) > 0.9
    larger = CROPS.repeat(2, axis=1).repeat(2, axis=2)
    assert fitted.score(larger, Y) > 0.9  # any size is brought to the network's


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
    ],
)
def test_checks_of_scikit_learn_that_need_no_table(check: object) -> None:
    check("FineTunedClassifier", FineTunedClassifier())  # type: ignore[operator]


def test_fit_repeats_itself_and_leaves_its_input_alone(fitted: FineTunedClassifier) -> None:
    crops, y = CROPS.copy(), Y.copy()
    again = clone(fitted)
    assert again.fit(crops, y) is again
    assert (crops == CROPS).all()
    assert (y == Y).all()
    assert again.predict_proba(CROPS) == pytest.approx(fitted.predict_proba(CROPS), abs=1e-6)
    assert again.get_params() == fitted.get_params()


def test_it_pickles_without_its_session(fitted: FineTunedClassifier) -> None:
    twin = pickle.loads(pickle.dumps(fitted))
    assert (twin.predict_proba(CROPS) == fitted.predict_proba(CROPS)).all()


def test_it_works_inside_cross_validation() -> None:
    quick = FineTunedClassifier(changes={**CHANGES, "stages.1.epochs": 1}, validation_fraction=0.2)
    scores = cross_val_score(quick, CROPS, NUMBERS, cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_wrong_input_gets_one_sentence(fitted: FineTunedClassifier) -> None:
    with pytest.raises(NotFittedError):
        FineTunedClassifier().predict(CROPS)
    with pytest.raises(DataError, match=r"found uint8 \(60, 24, 24, 1\)"):
        FineTunedClassifier().fit(CROPS[..., :1], Y)
    with pytest.raises(DataError, match="expected 60 labels"):
        FineTunedClassifier().fit(CROPS, Y[:-1])
    with pytest.raises(DataError, match="found only"):
        FineTunedClassifier().fit(CROPS, np.zeros(60))
    with pytest.raises(TrainingError, match=r"unknown setting network\.depth"):
        FineTunedClassifier(changes={"network.depth": 3}).fit(CROPS, Y)
    with pytest.raises(DataError, match="found float64"):
        fitted.predict(CROPS / 255)
