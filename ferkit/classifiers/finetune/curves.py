"""Learning curves as a picture."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from ferkit.classifiers.finetune.history import EpochRecord, best_record
from ferkit.core.files import write_atomically

TRAIN, VALIDATION, F1, RATE = (
    "#8c8c8c",
    "#0072b2",
    "#d55e00",
    "#009e73",
)  # told apart by the colour-blind (Okabe, Ito)


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

    loss.plot(epochs, [r.loss for r in history], color=TRAIN, marker=marker, label="training")
    loss.plot(epochs, [r.val_loss for r in history], color=VALIDATION, marker=marker, label="validation")
    loss.set_title("Loss")
    loss.set_ylabel("cross-entropy (nats)")

    accuracy.plot(
        epochs, [100 * r.accuracy for r in history], color=TRAIN, marker=marker, label="training accuracy"
    )
    accuracy.plot(
        epochs,
        [100 * r.val_accuracy for r in history],
        color=VALIDATION,
        marker=marker,
        label="validation accuracy",
    )
    accuracy.plot(
        epochs, [100 * r.val_macro_f1 for r in history], color=F1, marker=marker, label="validation macro-F1"
    )
    best = best_record(history, monitor)
    if best is not None:
        height = 100 * best.figure(monitor)
        accuracy.plot(
            best.epoch,
            height,
            "*",
            color="black",
            markersize=11,
            label=f"best: {height:.1f} %, epoch {best.epoch}",
        )
    accuracy.set_title("Accuracy and macro-F1")
    accuracy.set_ylabel("%")

    rate.plot(epochs, [r.learning_rate for r in history], color=RATE, marker=marker)
    rate.set_yscale("log")
    rate.set_title("Learning rate")
    for axes in (loss, accuracy, rate):
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
