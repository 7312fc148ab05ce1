"""What a run tells while it goes on: files of figures, logs for TensorBoard, a live line."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import keras

from ferkit.classifiers.finetune.callbacks import Run
from ferkit.classifiers.finetune.curves import plot_curves
from ferkit.classifiers.finetune.history import (
    EpochRecord,
    best_record,
    write_csv,
)
from ferkit.core.errors import DependencyError
from ferkit.core.fonts import can_plot


class Logs(keras.callbacks.Callback):
    """Writes ``history.csv`` and, with Matplotlib, ``curves.png``."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._plots = can_plot("curves.png is")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._run.history:
            write_csv(self._run.folder / "history.csv", self._run.history)
            if self._plots:
                plot_curves(self._run.folder / "curves.png", self._run.history, self._run.recipe.monitor)


class TensorBoardLog(keras.callbacks.Callback):
    """Writes the record's rows for TensorBoard."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise DependencyError(
                "logs for TensorBoard need tensorboardX: pip install tensorboardX"
            ) from None
        self._writer = SummaryWriter(str(self._run.folder / "tensorboard"))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._run.history:
            return
        for name, value in asdict(self._run.history[-1]).items():
            if name not in ("epoch", "stage"):
                self._writer.add_scalar(name, value, self._run.history[-1].epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.close()


class LiveLine(keras.callbacks.Callback):
    """One line on a terminal, renewed as the run goes on; one line an epoch elsewhere."""

    def __init__(self, run: Run, say: Callable[[str], object] | None = None) -> None:
        super().__init__()
        self._run, self._say = run, say
        self._bar: Any = None
        self._total = sum(stage.epochs for stage in run.recipe.stages)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._say is None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.params["steps"], unit=" steps", dynamic_ncols=True, leave=False)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.reset()
            self._bar.set_description_str(f"epoch {len(self._run.history) + 1}/{self._total}", refresh=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.update(batch + 1 - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._run.stopped_by_nan or not self._run.history:
            return
        line = describe_epoch(self._run.history, self._run.recipe.monitor, self._total)
        if self._bar is not None:
            self._bar.set_postfix_str(line.partition(": ")[2])
        elif self._say is not None:
            self._say(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            if self._run.history:
                print(
                    describe_epoch(self._run.history, self._run.recipe.monitor, self._total), file=sys.stderr
                )


def describe_epoch(history: list[EpochRecord], monitor: str, total: int) -> str:
    """One line about the last epoch."""
    last, best = history[-1], best_record(history, monitor)
    assert best is not None
    return (
        f"epoch {last.epoch}/{total}: loss {last.loss:.3f}, validation accuracy {last.val_accuracy:.1%}, "
        f"macro-F1 {last.val_macro_f1:.1%} (best {best.figure(monitor):.1%} in {best.epoch}), "
        f"{last.images_per_s:.0f} images/s, {last.seconds:.0f} s"
    )
