"""What is minimised, as a Keras model around the network: augmentation and loss run inside the training
step.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from ferkit.classifiers.finetune.settings import LossSettings


def log_probabilities(logits: Any) -> Any:
    """Log-probabilities (n, k) of logits (n, k), or (n, 2) of the single logit (n, 1) of the second class."""
    if logits.shape[-1] == 1:
        return ops.concatenate([ops.log_sigmoid(-logits), ops.log_sigmoid(logits)], axis=-1)
    return ops.log_softmax(logits, axis=-1)


def cross_entropy(log_p: Any, targets: Any, loss: LossSettings, class_weights: np.ndarray | None) -> Any:
    """Mean over the batch of the smoothed, focal, weighted cross-entropy.

    Args:
        log_p: log-probabilities (n, k).
        targets: probabilities (n, k).
        loss: smoothing and focal exponent.
        class_weights: (k,); a mixed target is weighed in proportion. None weighs all alike.
    """
    smoothed = targets * (1 - loss.label_smoothing) + loss.label_smoothing / targets.shape[-1]
    terms = -smoothed * log_p
    if loss.focal_gamma:
        # A certain class has 1 - p = 0, whose power has no gradient: keep a grain away from it.
        terms = terms * ops.power(ops.maximum(1 - ops.exp(log_p), 1e-6), loss.focal_gamma)
    per_image = ops.sum(terms, axis=-1)
    if class_weights is not None:
        per_image = per_image * ops.sum(targets * ops.convert_to_tensor(class_weights, "float32"), axis=-1)
    return ops.mean(per_image)


def balanced_class_weights(y: np.ndarray, n_classes: int) -> np.ndarray:
    """float32 (k,): inverse frequency, such that the mean over the images is 1."""
    counts = np.bincount(y, minlength=n_classes)
    return (len(y) / (n_classes * np.maximum(counts, 1))).astype(np.float32)


class Objective(keras.Model):
    """Augments, predicts and measures the loss of ``{"images": uint8 (n, H, W, C), "targets": (n, k)}``."""

    def __init__(
        self,
        core: keras.Model,
        augmentation: keras.layers.Layer | None,
        loss: LossSettings,
        class_weights: np.ndarray | None,
    ) -> None:
        super().__init__(name="objective")
        self.core = core
        self.augmentation = augmentation
        self._loss_settings = loss
        self._class_weights = class_weights
        self._accuracy = keras.metrics.Mean("accuracy")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self._accuracy]

    def build(self, input_shape: Any) -> None:
        self.built = True  # all parts are built when they are made

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        images, targets = ops.cast(inputs["images"], "float32"), ops.cast(inputs["targets"], "float32")
        if training and self.augmentation is not None:
            images, targets = self.augmentation(images, targets)
        return {"log_p": log_probabilities(self.core(images, training=training)), "targets": targets}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        hit = ops.equal(ops.argmax(y_pred["log_p"], axis=-1), ops.argmax(y_pred["targets"], axis=-1))
        self._accuracy.update_state(ops.cast(hit, "float32"))
        return cross_entropy(y_pred["log_p"], y_pred["targets"], self._loss_settings, self._class_weights)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        return self.get_metrics_result()
