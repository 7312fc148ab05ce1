"""What a run tells while it goes on: how far it is, and a line an epoch."""

import contextlib
import logging
from typing import Any

from ferkit.classifiers.finetune.callbacks import Run, RunCallback
from ferkit.classifiers.finetune.history import EpochRecord, best_record
from ferkit.core.progress import Progress, progress

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
        f"macro-F1 {last.val_macro_f1:.1%} (best {best.figure(monitor):.1%} in {best.epoch}), "
        f"{last.images_per_s:.0f} images/s, {last.seconds:.0f} s"
    )
