"""What happens around an epoch: one small class each, in the order in which a run needs them.

All of them see the run's record (:class:`Run`); only :class:`Validation` adds to it, so that those after it
find the epoch's row there.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ferkit.classifiers.finetune import checkpoint
from ferkit.classifiers.finetune.backend import devices_sharing
from ferkit.classifiers.finetune.batches import TrainingBatches
from ferkit.classifiers.finetune.curves import plot_curves
from ferkit.classifiers.finetune.history import (
    EpochRecord,
    best_record,
    is_finished,
    learning_rate,
    of_stage,
    write_csv,
)
from ferkit.classifiers.finetune.pixels import Pixels
from ferkit.classifiers.finetune.settings import RecipeSettings, StageSettings

SECONDS_BETWEEN_LOOKS = 1.0  # reading the loss waits for the device: seldom enough not to be felt


@dataclass
class Run:
    """The record of a run while it is made.

    Attributes:
        folder: of checkpoint, best weights, history and curves.
        recipe: its settings.
        settings: all that a checkpoint must agree in, as plain containers.
        history: all epochs so far.
        stage: number of the stage in training, from 1.
        stopped_by_nan: whether the loss stopped being a number.
    """

    folder: Path
    recipe: RecipeSettings
    settings: dict[str, Any]
    history: list[EpochRecord] = field(default_factory=list)
    stage: int = 0
    stopped_by_nan: bool = False

    @property
    def stage_settings(self) -> StageSettings:
        """Settings of the stage in training."""
        return self.recipe.stages[self.stage - 1]

    @property
    def stage_history(self) -> list[EpochRecord]:
        """Epochs of the stage in training."""
        return of_stage(self.history, self.stage)


class RunCallback(keras.callbacks.Callback):
    """A callback that sees the run's record."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run


class EpochStart(RunCallback):
    """Sets the order of the images and the learning rate."""

    def __init__(self, run: Run, batches: TrainingBatches) -> None:
        super().__init__(run)
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._batches.start_epoch(len(self._run.history))
        rate = learning_rate(self._run.stage_settings, self._run.stage_history, self._run.recipe.monitor)
        self.model.optimizer.learning_rate = rate


class NanStop(RunCallback):
    """Ends the training when the loss is not a number; what was kept before stays."""

    _looked = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            self.on_epoch_end(0, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs and not math.isfinite(float(logs["loss"])):
            self._run.stopped_by_nan = True
            self.model.stop_training = True


class Validation(RunCallback):
    """Measures the validation images, never augmented, with the averaged weights where there are such; keeps
    the best.
    """

    def __init__(self, run: Run, core: keras.Model, pixels: Pixels, batches: TrainingBatches) -> None:
        super().__init__(run)
        self._core, self._pixels, self._batches = core, pixels, batches
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._run.stopped_by_nan:
            return
        assert logs is not None
        seconds = time.monotonic() - self._began
        optimizer, run = self.model.optimizer, self._run
        current = [np.array(value) for value in self._core.get_weights()]
        if run.recipe.optimizer.ema:
            optimizer.finalize_variable_values(self.model.trainable_variables)
            # Some backends make weights and averages the same buffer here, and give it away when they predict.
            self._core.set_weights([np.array(value) for value in self._core.get_weights()])
        log_p = predict_log_probabilities(self._core, self._pixels.images, run.recipe.batch_size)
        val_loss, val_accuracy, val_macro_f1 = figures(log_p, self._pixels.y)
        if not math.isfinite(val_loss):
            run.stopped_by_nan = True
            self.model.stop_training = True
        else:
            run.history.append(
                EpochRecord(
                    epoch=len(run.history) + 1,
                    stage=run.stage,
                    learning_rate=float(optimizer.learning_rate),
                    loss=float(logs["loss"]),
                    accuracy=float(logs["accuracy"]),
                    val_loss=val_loss,
                    val_accuracy=val_accuracy,
                    val_macro_f1=val_macro_f1,
                    seconds=round(seconds, 3),
                    images_per_s=round(self._batches.images_per_epoch / max(seconds, 1e-9), 1),
                )
            )
            if best_record(run.history, run.recipe.monitor) is run.history[-1]:
                checkpoint.save_best(run.folder, len(run.history), self._core.get_weights())
        if run.recipe.optimizer.ema:
            self._core.set_weights(current)


class EpochEnd(RunCallback):
    """Saves everything that the next epoch depends on, then the figures for people; ends a stage that is finished."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._run
        if not run.stopped_by_nan:
            state = checkpoint.Checkpoint(
                settings=run.settings,
                history=tuple(run.history),
                stage=run.stage,
                variables=arrays(self.model.variables),
                optimizer=arrays(self.model.optimizer.variables),
            )
            checkpoint.save_checkpoint(run.folder, state)
        if is_finished(run.stage_settings, run.stage_history, run.recipe.monitor):
            self.model.stop_training = True
        if run.history:
            write_csv(run.folder / "history.csv", run.history)
            plot_curves(run.folder / "curves.png", run.history, run.recipe.monitor)


def predict_log_probabilities(core: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """float64 (n, k) log-probabilities of a core for uint8 images (n, H, W, C)."""
    rows = []
    devices = devices_sharing()
    batch_size = min(batch_size, -(-len(images) // devices) * devices)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].astype(np.float32)
        # One shape for all batches: it is compiled once, and divides among accelerators.
        padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), np.float32)])
        rows.append(core.predict_on_batch(padded)[: len(batch)])
    logits = np.concatenate(rows).astype(np.float64)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def figures(log_p: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Cross-entropy in nats, accuracy and macro-F1 of log-probabilities (n, k) against classes (n,)."""
    from sklearn.metrics import f1_score

    guess = log_p.argmax(axis=1)
    macro_f1 = f1_score(y, guess, average="macro", zero_division=0)
    return float(-log_p[np.arange(len(y)), y].mean()), float((guess == y).mean()), float(macro_f1)


def arrays(variables: list[Any]) -> tuple[np.ndarray, ...]:
    """Copies of Keras variables as arrays."""
    return tuple(np.array(keras.ops.convert_to_numpy(variable)) for variable in variables)
