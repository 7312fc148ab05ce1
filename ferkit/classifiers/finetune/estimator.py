"""Fine-tuning with scikit-learn's face: ``FineTunedClassifier().fit(crops, y).predict_proba(crops)``."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from ferkit.classifiers.finetune.data import from_crops
from ferkit.classifiers.finetune.network_model import NetworkClassifier
from ferkit.classifiers.finetune.recipe import load_recipe
from ferkit.core.errors import DataError, TrainingError
from ferkit.core.labels import LabelSet
from ferkit.core.types import check_crops
from ferkit.datasets.split import SplitSettings, holdout
from ferkit.faces.cropping import fit_to


class FineTunedClassifier(ClassifierMixin, BaseEstimator):
    """A network trained on face crops.

    Args:
        recipe: name of a recipe, or a TOML file.
        changes: what to change in it, see :func:`ferkit.classifiers.finetune.recipe.load_recipe`.
        validation_fraction: held out of the training crops, stratified, to choose the best epoch by.
        random_state: seed of weights, order, augmentation and split.
        flip: average with the mirrored crops when predicting.
        verbose: print a line an epoch.

    Attributes:
        classes_: (k,), sorted.
        network_: the trained network; it needs ONNX Runtime alone.
        history_: the record of the training, one row an epoch.
    """

    def __init__(
        self,
        recipe: str = "quick",
        changes: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.1,
        random_state: int = 0,
        flip: bool = False,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.changes = changes
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.flip = flip
        self.verbose = verbose

    def fit(
        self, crops: np.ndarray, y: Sequence[Any] | np.ndarray, groups: np.ndarray | None = None
    ) -> "FineTunedClassifier":
        """Train from scratch, or from the weights that the recipe names.

        Args:
            crops: uint8 RGB (n, H, W, 3) of any size.
            y: classes (n,), of any sortable type.
            groups: who is shown (n,), so that nobody is learnt from and chosen by.

        Raises:
            DataError: crops of another shape or type, another number of labels, fewer than two classes.
            TrainingError: the recipe cannot be carried out.
        """
        from ferkit.classifiers.finetune.recipe import open_keras

        open_keras()
        import keras

        from ferkit.classifiers.finetune.data import training_targets
        from ferkit.classifiers.finetune.export import to_onnx
        from ferkit.classifiers.finetune.networks import build_core, input_shape, whole_network
        from ferkit.classifiers.finetune.training import TrainingData, nan_advice, train

        check_crops(crops)
        self.classes_, numbers = np.unique(np.asarray(y), return_inverse=True)
        if numbers.shape != (len(crops),):
            raise DataError(
                f"expected {len(crops)} labels, one a crop, found an array of shape {np.shape(y)}"
            )
        if len(self.classes_) < 2:
            raise DataError(
                f"expected at least two classes to tell apart, found only {self.classes_.tolist()}"
            )
        recipe = load_recipe(self.recipe, {**(self.changes or {}), "seed": self.random_state})
        height, width, _ = input_shape(recipe.network)
        pixels = from_crops(_fitted(crops, (width, height)), numbers, recipe.network.color)
        settings = SplitSettings(test_size=self.validation_fraction, seed=self.random_state)
        learn, choose = holdout(self.classes_.astype(str)[numbers], groups, settings)
        part = pixels.rows(learn)
        data = TrainingData(
            part, training_targets(part.y, len(self.classes_), recipe.loss), pixels.rows(choose)
        )

        keras.utils.set_random_seed(recipe.seed)
        core = build_core(recipe.network, len(self.classes_), recipe.precision)
        with tempfile.TemporaryDirectory() as folder:
            say = print if self.verbose else lambda line: None
            result = train(core, recipe, data, Path(folder), {}, say=say)
        if result.nan_epoch is not None:
            raise TrainingError(nan_advice(result.nan_epoch))
        onnx = to_onnx(whole_network(core, recipe.network, len(self.classes_)))
        self.network_ = NetworkClassifier(onnx, LabelSet(tuple(map(str, self.classes_))), flip=self.flip)
        self.history_ = result.history
        return self

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), columns in the order of ``classes_``, of uint8 RGB ``crops`` (n, H, W, 3) of any
        size.

        Raises:
            DataError: crops of another shape or type.
        """
        check_is_fitted(self)
        return self.network_.predict_proba(_fitted(check_crops(crops), self.network_.input_size_wh))

    def predict(self, crops: np.ndarray) -> np.ndarray:
        """Classes (n,) of uint8 RGB ``crops`` (n, H, W, 3). Raises like :meth:`predict_proba`."""
        proba = self.predict_proba(crops)
        return self.classes_[proba.argmax(axis=1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = False
        return tags


def _fitted(crops: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    if not len(crops):
        return np.zeros((0, size_wh[1], size_wh[0], 3), np.uint8)
    return np.stack([fit_to(crop, size_wh) for crop in crops])
