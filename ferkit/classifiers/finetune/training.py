"""Train a network stage by stage; stopped at any time, it goes on to the same result.

Checkpoint and best weights are plain ``.npz`` archives of arrays and JSON, replaced atomically: a crash or a full disk
leaves those of the epoch before. All callbacks see the run's record (:class:`Run`); only :class:`Validation` adds to
it, so that those after it find the epoch's row there.
"""

import contextlib
import json
import logging
import math
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ferkit.classifiers.finetune.batches import Augmentation, TrainingBatches, scaled
from ferkit.classifiers.finetune.data import Pixels
from ferkit.classifiers.finetune.history import (
    EpochRecord,
    best_record,
    is_finished,
    learning_rate,
    plot_curves,
)
from ferkit.classifiers.finetune.networks import set_trainable
from ferkit.classifiers.finetune.recipe import (
    LossSettings,
    OptimizerSettings,
    RecipeSettings,
    StageSettings,
    devices_sharing,
)
from ferkit.classifiers.heads import numbers_of
from ferkit.core.console import Progress, progress
from ferkit.core.errors import SettingsMismatchError, TrainingError
from ferkit.core.files import differing_keys, write_atomically, write_csv
from ferkit.core.style import can_plot

CHECKPOINT = "checkpoint.npz"
BEST = "best.npz"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A run after a whole epoch.

    Attributes:
        history: all epochs so far.
        variables: of the training model: weights, statistics, states of random generators.
        optimizer: its variables: moments, moving averages of weights, step counter.
    """

    history: tuple[EpochRecord, ...]
    variables: tuple[np.ndarray, ...]
    optimizer: tuple[np.ndarray, ...]


def save_checkpoint(run: "Run", model: keras.Model) -> None:
    """Replace the checkpoint of a run. Raises FerkitError when the disk is full or cannot be written."""
    meta = {
        "format": FORMAT,
        "settings": run.settings,
        "history": [asdict(record) for record in run.history],
        "stage": run.stage,
    }
    kinds = {"v": model.variables, "o": model.optimizer.variables}
    arrays = {
        f"{kind}{i}": np.array(ops.convert_to_numpy(variable))
        for kind, variables in kinds.items()
        for i, variable in enumerate(variables)
    }
    _write(run.folder / CHECKPOINT, meta, arrays)


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint of ``folder``, or None if there is none.

    Raises:
        SettingsMismatchError: it was made with other settings; the message names them.
        TrainingError: the file is damaged or of a newer format.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    meta, arrays = _read(path)
    differing = differing_keys(meta["settings"], json.loads(json.dumps(settings)))
    if differing:
        raise SettingsMismatchError(
            f"the run in {folder} was made with other settings ({', '.join(differing)}); "
            "use the same ones to go on, --restart to begin again, or another --name"
        )
    history = tuple(EpochRecord(**record) for record in meta["history"])
    return Checkpoint(history, _series(arrays, "v"), _series(arrays, "o"))


def save_best(folder: Path, epoch: int, weights: Sequence[np.ndarray]) -> None:
    """Replace the best weights. Raises FerkitError when the disk is full or cannot be written."""
    _write(
        folder / BEST, {"format": FORMAT, "epoch": epoch}, {f"v{i}": value for i, value in enumerate(weights)}
    )


def load_best(folder: Path) -> list[np.ndarray]:
    """The best weights so far.

    Raises:
        TrainingError: there are none, or the file is damaged.
    """
    if not (folder / BEST).exists():
        raise TrainingError(
            f"expected the best weights at {folder / BEST}, found none; begin again with --restart"
        )
    return list(_series(_read(folder / BEST)[1], "v"))


def _write(path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    packed = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    write_atomically(path, lambda file: np.savez(file, allow_pickle=False, meta=packed, **arrays))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        meta = json.loads(arrays.pop("meta").tobytes())
        if meta["format"] != FORMAT:
            raise TrainingError(
                f"{path} is of format {meta['format']}, expected {FORMAT}; use the version that made it"
            )
        return meta, arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is damaged ({error}); begin again with --restart") from None


def _series(arrays: dict[str, np.ndarray], prefix: str) -> tuple[np.ndarray, ...]:
    return tuple(arrays[f"{prefix}{i}"] for i in range(sum(name.startswith(prefix) for name in arrays)))


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


class LossModel(keras.Model):
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
        loss = cross_entropy(y_pred["log_p"], y_pred["targets"], self._loss_settings, self._class_weights)
        if self._loss_settings.l2:
            dense = [layer for layer in self.core.layers if isinstance(layer, keras.layers.Dense)]
            loss += self._loss_settings.l2 * sum(ops.sum(ops.square(layer.kernel)) for layer in dense)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        return self.get_metrics_result()


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
        return [record for record in self.history if record.stage == self.stage]


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
                save_best(run.folder, len(run.history), self._core.get_weights())
        if run.recipe.optimizer.ema:
            self._core.set_weights(current)


class EpochEnd(RunCallback):
    """Saves everything that the next epoch depends on, then the figures for people; ends a stage that is finished."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._run
        if not run.stopped_by_nan:
            save_checkpoint(run, self.model)
        if is_finished(run.stage_settings, run.stage_history, run.recipe.monitor):
            self.model.stop_training = True
        if run.history:
            columns = [field.name for field in fields(EpochRecord)]
            write_csv(run.folder / "history.csv", columns, map(astuple, run.history))
            if can_plot("curves.png is"):
                plot_curves(run.folder / "curves.png", run.history, run.recipe.monitor)


def predict_log_probabilities(core: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """float64 (n, k) log-probabilities of a core for uint8 images (n, H, W, C)."""
    from scipy.special import log_softmax

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
    return np.asarray(log_softmax(logits, axis=1))


def figures(log_p: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Cross-entropy in nats, accuracy and macro-F1 of log-probabilities (n, k) against classes (n,)."""
    from sklearn.metrics import f1_score

    guess = log_p.argmax(axis=1)
    macro_f1 = f1_score(y, guess, average="macro", zero_division=0)
    return float(-log_p[np.arange(len(y)), y].mean()), float((guess == y).mean()), float(macro_f1)


logger = logging.getLogger(__name__)


class LiveLine(RunCallback):
    """Shows how far an epoch is, and logs one line when it ends."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._total = sum(stage.epochs for stage in run.recipe.stages)
        self._open = contextlib.ExitStack()
        self._shown: Progress | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        doing = f"epoch {len(self._run.history) + 1}/{self._total}"
        self._shown = self._open.enter_context(progress(doing, self.params["steps"], unit="steps"))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._shown is not None:
            self._shown.update(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._open.close()
        if self._run.history and not self._run.stopped_by_nan:
            logger.info(describe_epoch(self._run.history, self._run.recipe.monitor, self._total))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._open.close()


def describe_epoch(history: list[EpochRecord], monitor: str, total: int) -> str:
    """One line about the last epoch."""
    last, best = history[-1], best_record(history, monitor)
    assert best is not None
    return (
        f"epoch {last.epoch}/{total}: loss {last.loss:.3f}, validation accuracy {last.val_accuracy:.1%}, "
        f"macro-F1 {last.val_macro_f1:.1%} (best {best.shown(monitor)} in {best.epoch}), "
        f"{last.images_per_s:.0f} images/s, {last.seconds:.0f} s"
    )


NOT_DECAYED = ["bias", "gamma", "beta"]
SEEDS_PER_STAGE, DROPOUT = 1000, 500


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is judged by.

    Attributes:
        train: images that are augmented.
        targets: float32 (n, k), what to say for each of them.
        validation: images that are never changed.
        classes: names, by which class weights may be given.
    """

    train: Pixels
    targets: np.ndarray
    validation: Pixels
    classes: tuple[str, ...] = ()


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
    core: keras.Model, recipe: RecipeSettings, data: TrainingData, folder: Path, settings: dict[str, Any]
) -> TrainingResult:
    """Train ``core`` in place, going on where ``folder`` holds a checkpoint.

    Args:
        core: see :func:`ferkit.classifiers.finetune.networks.build_core`.
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
    run = Run(folder, recipe, settings)
    saved = load_checkpoint(folder, settings)
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
            core.set_weights(load_best(folder))
        objective = loss_of_stage(core, recipe, data, run.stage)
        if done and saved is not None:
            _restore(objective.variables, saved.variables)
            _restore(objective.optimizer.variables, saved.optimizer)
        around = [
            EpochStart(run, batches),
            NanStop(run),
            Validation(run, core, data.validation, batches),
            EpochEnd(run),
            LiveLine(run),
        ]
        with _memory_explained(recipe.batch_size):
            objective.fit(
                batches, epochs=stage.epochs, initial_epoch=done, callbacks=around, verbose=0, shuffle=False
            )
        if run.stopped_by_nan:
            break
    best = best_record(run.history, recipe.monitor)
    if best is None:
        raise TrainingError(nan_advice(1))
    core.set_weights(load_best(folder))
    return TrainingResult(tuple(run.history), best, len(run.history) + 1 if run.stopped_by_nan else None)


def nan_advice(epoch: int) -> str:
    """The sentence for a loss that is not a number."""
    return (
        f"the loss became infinite or NaN in epoch {epoch}; try a lower learning rate, --set optimizer.clip_norm=1, "
        "more warm-up epochs, or precision=float32"
    )


def loss_of_stage(core: keras.Model, recipe: RecipeSettings, data: TrainingData, number: int) -> LossModel:
    """The compiled training model of stage ``number`` (from 1): what is frozen, augmented and minimised."""
    stage = recipe.stages[number - 1]
    core.trainable = True
    set_trainable(core.get_layer("backbone"), stage)
    channels = core.input_shape[-1]
    seed = (recipe.seed * 7919 + number * SEEDS_PER_STAGE) % 2**31
    _seed_dropout(core, seed + DROPOUT)
    changes = scaled(recipe.augmentation, stage.augment_strength)
    augmentation = Augmentation(changes, channels, seed, stage.mix) if stage.augment else None
    names = data.classes or tuple(map(str, range(data.targets.shape[1])))
    weights = numbers_of(recipe.loss.class_weights, data.train.y, names)
    objective = LossModel(core, augmentation, recipe.loss, weights)
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
        "global_clipnorm": settings.clip_norm or None,
        "use_ema": settings.ema > 0,
        "ema_momentum": settings.ema or 0.99,
    }
    if settings.name == "adam":
        return keras.optimizers.Adam(**common)
    if settings.name == "sgd":
        decay = settings.weight_decay or None
        optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=decay, **common)
    else:
        optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, **common)
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


@contextlib.contextmanager
def _memory_explained(batch_size: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # MemoryError, or what the backends call it: ResourceExhaustedError, XlaRuntimeError,
        # OutOfMemoryError.
        if isinstance(error, MemoryError) or any(
            word in str(error) for word in ("OOM", "RESOURCE_EXHAUSTED", "out of memory")
        ):
            raise TrainingError(
                f"the memory is too small for batches of {batch_size}; use a smaller --batch-size or "
                "network.input_size_wh, or --set cache=disk"
            ) from None
        raise


def _restore(variables: list[Any], values: tuple[np.ndarray, ...]) -> None:
    if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
        raise TrainingError(
            "the checkpoint is of another version of Keras or ferkit; begin again with --restart"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
