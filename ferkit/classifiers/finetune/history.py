"""The record of a run: one row an epoch, and what follows from the rows.

The best epoch, the drops of a plateau schedule and the end by early stopping are computed from the record
alone, so that a resumed run, which reads it back, decides as the undisturbed one.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ferkit.classifiers.finetune.settings import StageSettings
from ferkit.core.files import write_atomically


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
        """The validation figure called ``monitor``: ``macro_f1`` or ``accuracy``."""
        return self.val_macro_f1 if monitor == "macro_f1" else self.val_accuracy


def of_stage(history: Sequence[EpochRecord], stage: int) -> list[EpochRecord]:
    """The rows of one stage, counted from 1."""
    return [record for record in history if record.stage == stage]


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
    stopped = (
        stage.early_stopping > 0
        and bool(history)
        and epochs_since_best(history, monitor) >= stage.early_stopping
    )
    return len(history) >= stage.epochs or stopped


def write_csv(path: Path, history: Sequence[EpochRecord]) -> None:
    """Write all rows, atomically. Raises what :func:`ferkit.core.files.write_atomically` raises."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(EpochRecord)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in history)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _plateaus(history: Sequence[EpochRecord], monitor: str, patience: int) -> int:
    drops, best, waited = 0, float("-inf"), 0
    for record in history:
        figure = record.figure(monitor)
        best, waited = (figure, 0) if figure > best else (best, waited + 1)
        if waited >= max(1, patience):
            drops, waited = drops + 1, 0
    return drops
