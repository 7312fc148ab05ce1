"""The recipe: stage after stage, resumable after every epoch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ferkit.classifiers.finetune import callbacks, checkpoint, reporting
from ferkit.classifiers.finetune.augment import Augmentation
from ferkit.classifiers.finetune.backend import devices_sharing
from ferkit.classifiers.finetune.batches import TrainingBatches
from ferkit.classifiers.finetune.history import EpochRecord, best_record, is_finished
from ferkit.classifiers.finetune.objective import Objective, balanced_class_weights
from ferkit.classifiers.finetune.pixels import Pixels
from ferkit.classifiers.finetune.settings import OptimizerSettings, RecipeSettings
from ferkit.classifiers.finetune.unfreezing import set_trainable
from ferkit.core.errors import TrainingError

NOT_DECAYED = ["bias", "gamma", "beta"]
SEEDS_PER_STAGE, DROPOUT = 1000, 500


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is judged by.

    Attributes:
        train: images that are augmented.
        targets: float32 (n, k), what to say for each of them.
        validation: images that are never changed.
    """

    train: Pixels
    targets: np.ndarray
    validation: Pixels


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a run; the core given to :func:`train` holds the best weights.

    Attributes:
        history: all epochs.
        best: the chosen one.
        nan_epoch: the epoch in which the loss stopped being a number, or None.
    """

    history: tuple[EpochRecord, ...]
    best: EpochRecord
    nan_epoch: int | None = None


def train(
    core: keras.Model,
    recipe: RecipeSettings,
    data: TrainingData,
    folder: Path,
    settings: dict[str, Any],
) -> TrainingResult:
    """Train ``core`` in place, going on where ``folder`` holds a checkpoint.

    Args:
        core: see :func:`ferkit.classifiers.finetune.assembly.build_core`.
        recipe: what to do.
        data: what with.
        folder: of the run's files.
        settings: all that a checkpoint must agree in.

    Raises:
        SettingsMismatchError: the checkpoint was made with other settings.
        TrainingError: the loss stopped being a number before any epoch was finished, or the memory is too
            small.
        FerkitError: the disk is full; the last checkpoint is whole.
    """
    run = callbacks.Run(folder, recipe, settings)
    saved = checkpoint.load_checkpoint(folder, settings)
    if saved is not None:
        run.history.extend(saved.history)
    devices = devices_sharing()
    if recipe.batch_size % devices:
        raise TrainingError(
            f"expected a batch size that {devices} accelerators can share, found {recipe.batch_size}; "
            f"use --batch-size {-(-recipe.batch_size // devices) * devices}"
        )
    batches = TrainingBatches(
        data.train.images,
        data.targets,
        data.train.y,
        recipe.sampling,
        recipe.batch_size,
        recipe.seed,
        devices,
    )
    for run.stage, stage in enumerate(recipe.stages, start=1):
        done = len(run.stage_history)
        if is_finished(stage, run.stage_history, recipe.monitor):
            continue
        if done == 0 and run.history:
            core.set_weights(checkpoint.load_best(folder))
        objective = objective_of_stage(core, recipe, data, run.stage)
        if done and saved is not None:
            _restore(objective.variables, saved.variables)
            _restore(objective.optimizer.variables, saved.optimizer)
        around = [
            callbacks.EpochStart(run, batches),
            callbacks.NanStop(run),
            callbacks.Validation(run, core, data.validation, batches),
            callbacks.EpochEnd(run),
            reporting.LiveLine(run),
        ]
        _fit(objective, batches, stage.epochs, done, around, recipe.batch_size)
        if run.stopped_by_nan:
            break
    best = best_record(run.history, recipe.monitor)
    if best is None:
        raise TrainingError(nan_advice(1))
    core.set_weights(checkpoint.load_best(folder))
    return TrainingResult(tuple(run.history), best, len(run.history) + 1 if run.stopped_by_nan else None)


def nan_advice(epoch: int) -> str:
    """The sentence for a loss that is not a number."""
    return (
        f"the loss became infinite or NaN in epoch {epoch}; try a lower learning rate, --set "
        "optimizer.clip_norm=1, "
        "more warm-up epochs, or --precision float32"
    )


def objective_of_stage(
    core: keras.Model, recipe: RecipeSettings, data: TrainingData, number: int
) -> Objective:
    """The compiled training model of stage ``number`` (from 1): what is frozen, augmented and minimised."""
    stage = recipe.stages[number - 1]
    core.trainable = True
    set_trainable(core.get_layer("backbone"), stage)
    channels = core.input_shape[-1]
    seed = (recipe.seed * 7919 + number * SEEDS_PER_STAGE) % 2**31
    _seed_dropout(core, seed + DROPOUT)
    augmentation = Augmentation(recipe.augmentation, channels, seed, stage.mix) if stage.augment else None
    weights = (
        balanced_class_weights(data.train.y, data.targets.shape[1]) if recipe.loss.class_weights else None
    )
    objective = Objective(core, augmentation, recipe.loss, weights)
    objective.compile(optimizer=optimizer_of(recipe.optimizer, stage.learning_rate))
    objective.build(None)
    objective.optimizer.build(objective.trainable_variables)
    return objective


def _seed_dropout(core: keras.Model, seed: int) -> None:
    """A stage begins with random states of its own, whether or not the one before ran in this process."""
    weights = {id(variable) for variable in core.weights}
    states = [variable for variable in core.variables if id(variable) not in weights]
    for i, state in enumerate(states):
        state.assign(np.array([seed + i, 0], state.dtype))


def optimizer_of(settings: OptimizerSettings, rate: float) -> keras.optimizers.Optimizer:
    """The optimizer of the settings, at a learning rate."""
    common: dict[str, Any] = {
        "learning_rate": rate,
        "weight_decay": settings.weight_decay or None,
        "global_clipnorm": settings.clip_norm or None,
        "use_ema": settings.ema > 0,
        "ema_momentum": settings.ema or 0.99,
    }
    if settings.name == "sgd":
        optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
    else:
        optimizer = keras.optimizers.AdamW(**{**common, "weight_decay": settings.weight_decay})
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


def _fit(
    objective: Objective,
    batches: TrainingBatches,
    epochs: int,
    done: int,
    around: list[keras.callbacks.Callback],
    batch_size: int,
) -> None:
    try:
        objective.fit(batches, epochs=epochs, initial_epoch=done, callbacks=around, verbose=0, shuffle=False)
    except Exception as error:
        # MemoryError, or what the backends call it: ResourceExhaustedError, XlaRuntimeError,
        # OutOfMemoryError.
        if isinstance(error, MemoryError) or any(
            word in str(error) for word in ("OOM", "RESOURCE_EXHAUSTED", "out of memory")
        ):
            raise TrainingError(
                f"the memory is too small for batches of {batch_size}; use a smaller --batch-size or "
                "--input-size, or --cache disk"
            ) from None
        raise


def _restore(variables: list[Any], values: tuple[np.ndarray, ...]) -> None:
    if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
        raise TrainingError(
            "the checkpoint is of another version of Keras or ferkit; begin anew with --restart"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
