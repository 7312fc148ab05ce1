"""The record of a run: one row an epoch, and what follows from the rows.

The best epoch, the drops of a plateau schedule and the end by early stopping are computed from the record
alone, so that a resumed run, which reads it back, decides as the undisturbed one.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ferkit.classifiers.finetune.recipe import StageSettings
from ferkit.core.files import write_atomically
from ferkit.core.style import BLUE, GREEN, MUTED, ORANGE


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: counted over all stages, from 1.
        stage: from 1.
        learning_rate: of this epoch.
        loss: mean over the epoch's (augmented) images, with smoothing, weights and mixing.
        accuracy: of the same images, 0..1.
        val_loss: cross-entropy of the validation images, in nats.
        val_accuracy, val_macro_f1: 0..1.
        seconds: of training, without validation.
        images_per_s: of training.
    """

    epoch: int
    stage: int
    learning_rate: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    seconds: float
    images_per_s: float

    def figure(self, monitor: str) -> float:
        """How good the epoch is by ``monitor``: ``macro_f1``, ``val_accuracy``, or ``val_loss``, which is negated."""
        return {
            "macro_f1": self.val_macro_f1, "val_accuracy": self.val_accuracy, "val_loss": -self.val_loss
        }[monitor]  # fmt: skip

    def shown(self, monitor: str) -> str:
        """The figure as people read it."""
        return f"{self.val_loss:.3f}" if monitor == "val_loss" else f"{self.figure(monitor):.1%}"


def best_record(history: Sequence[EpochRecord], monitor: str) -> EpochRecord | None:
    """The first of the epochs with the highest figure."""
    return max(history, key=lambda record: record.figure(monitor), default=None)


def epochs_since_best(history: Sequence[EpochRecord], monitor: str) -> int:
    """How many epochs came after the best one."""
    best = best_record(history, monitor)
    return history[-1].epoch - best.epoch if best is not None else 0


def learning_rate(stage: StageSettings, history: Sequence[EpochRecord], monitor: str) -> float:
    """The rate of the stage's next epoch.

    Args:
        stage: its settings.
        history: the rows of this stage so far.
        monitor: the figure that a plateau schedule looks at.
    """
    epoch, warm = len(history), stage.warmup_epochs
    if epoch < warm:
        return stage.learning_rate * (epoch + 1) / (warm + 1)
    after = epoch - warm
    if stage.schedule == "cosine":
        share = after / max(1, stage.epochs - warm - 1)
        return stage.learning_rate * (stage.final + (1 - stage.final) * (1 + math.cos(math.pi * share)) / 2)
    if stage.schedule == "exponential":
        return stage.learning_rate * stage.decay**after
    if stage.schedule == "plateau":
        return stage.learning_rate * stage.decay ** _plateaus(history, monitor, stage.plateau_patience)
    return stage.learning_rate


def is_finished(stage: StageSettings, history: Sequence[EpochRecord], monitor: str) -> bool:
    """Whether a stage with these rows has run its epochs or stops early."""
    stopped = 0 < stage.early_stopping <= epochs_since_best(history, monitor)
    return len(history) >= stage.epochs or stopped


def _plateaus(history: Sequence[EpochRecord], monitor: str, patience: int) -> int:
    drops, best, waited = 0, float("-inf"), 0
    for record in history:
        figure = record.figure(monitor)
        best, waited = (figure, 0) if figure > best else (best, waited + 1)
        if waited >= max(1, patience):
            drops, waited = drops + 1, 0
    return drops


TRAIN, VALIDATION, F1, RATE = MUTED, BLUE, ORANGE, GREEN


def plot_curves(path: Path, history: Sequence[EpochRecord], monitor: str) -> None:
    """Loss, accuracy with macro-F1, and learning rate over the epochs, as PNG. Raises FerkitError if it
    cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [record.epoch for record in history]
    marker = "o" if len(history) < 3 else None
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(4, 4, 3))

    lines = (
        (loss, [r.loss for r in history], TRAIN, "training"),
        (loss, [r.val_loss for r in history], VALIDATION, "validation"),
        (accuracy, [100 * r.accuracy for r in history], TRAIN, "training accuracy"),
        (accuracy, [100 * r.val_accuracy for r in history], VALIDATION, "validation accuracy"),
        (accuracy, [100 * r.val_macro_f1 for r in history], F1, "validation macro-F1"),
        (rate, [r.learning_rate for r in history], RATE, ""),
    )
    for axes, values, color, label in lines:
        axes.plot(epochs, values, color=color, marker=marker, label=label)
    best = best_record(history, monitor)
    if best is not None:
        axes, height = (
            (loss, best.val_loss) if monitor == "val_loss" else (accuracy, 100 * best.figure(monitor))
        )
        label = f"best: {best.shown(monitor)}, epoch {best.epoch}"
        axes.plot(best.epoch, height, "*", color="black", markersize=11, label=label)
    titles = {
        loss: ("Loss", "cross-entropy (nats)"),
        accuracy: ("Accuracy and macro-F1", "%"),
        rate: ("Learning rate", ""),
    }
    rate.set_yscale("log")
    for axes, (title, unit) in titles.items():
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        for before, after in itertools.pairwise(history):
            if before.stage != after.stage:
                axes.axvline(before.epoch + 0.5, color="black", linewidth=0.8, linestyle=":")
    for axes in (loss, accuracy):
        axes.legend(frameon=False, fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
