"""Whether more images would help: a head's figures against the number of images that it learnt from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ferkit.classifiers.heads import HeadSettings, fit_head
from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.datasets.split import SplitSettings, make_split
from ferkit.embedder.store import EmbeddingTable
from ferkit.evaluation.metrics import Figure, evaluate
from ferkit.evaluation.plots import BLUE, GRID, INK, MUTED, ORANGE, canvas, finish, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

SIZES = 5
DRAWS = 3


@dataclass(frozen=True)
class LearningPoint:
    """One number of training images.

    Attributes:
        n_train: images that a head learnt from.
        accuracy, macro_f1: on the test images, over all draws, with 95 % intervals over persons or images.
        train_accuracy: on the images that it learnt from, the mean over the draws: far above ``accuracy``
            where it learns them by heart.
        seconds: of fitting, the mean over the draws.
    """

    n_train: int
    accuracy: Figure
    macro_f1: Figure
    train_accuracy: float
    seconds: float


@dataclass(frozen=True)
class LearningCurve:
    """A head on more and more images.

    Attributes:
        kind: of the head.
        points: by number of training images, rising.
        n_test: images that all were measured on.
        chance: share of the most frequent class among these.
    """

    kind: str
    points: tuple[LearningPoint, ...]
    n_test: int
    chance: float

    @property
    def per_doubling(self) -> float:
        """What the last doubling of images brought, in accuracy -1..1; NaN with one point."""
        if len(self.points) < 2:
            return float("nan")
        before, last = self.points[-2:]
        gain = last.accuracy.value - before.accuracy.value
        return float(gain / np.log2(last.n_train / before.n_train))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, None for what is not defined."""
        return {
            "kind": self.kind,
            "n_test": self.n_test,
            "chance": self.chance,
            "points": [
                {
                    "n_train": one.n_train,
                    "accuracy": one.accuracy.to_dict(),
                    "macro_f1": one.macro_f1.to_dict(),
                    "train_accuracy": one.train_accuracy,
                    "seconds": one.seconds,
                }
                for one in self.points
            ],
        }


def learning_curve(
    table: EmbeddingTable,
    settings: HeadSettings,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> LearningCurve:
    """Fit a head on parts of the training rows and measure each on the same test rows.

    Parts keep the shares of the classes as nearly as whole images allow, at least two images of each; larger
    parts contain the smaller ones of the same draw. The whole training part is fitted once.

    Args:
        table: labelled embeddings, split as :func:`ferkit.datasets.split.make_split` does.
        settings: of the head.
        sizes: numbers of training images; None doubles up to all there are. Sizes above that are all there are.
        seed: of the split, where it is drawn, and of the parts.
        draws: parts of each size; the points average over them.

    Raises:
        DataError: the data cannot be split, or a size is too small to hold each class.
    """
    split = make_split(table.y, table.groups, table.split, SplitSettings(seed=seed))
    train, test = table[split.train], table[split.test]
    n, classes = len(train), np.unique(train.y.astype(str))
    if sizes is None:
        sizes = [n >> i for i in range(SIZES) if n >> i >= 4 * len(classes)] or [n]
    counts = sorted({min(size, n) for size in sizes})
    if counts[0] < 2 * len(classes):
        raise DataError(
            f"expected parts of at least {2 * len(classes)} images, two of each class, found {counts[0]}; "
            "leave that size out"
        )
    orders = [_stratified_order(train.y, np.random.default_rng([seed, draw])) for draw in range(draws)]
    points = tuple(
        _point(
            train, test, settings, [order[:count] for order in (orders if count < n else orders[:1])], seed
        )
        for count in counts
    )
    _, support = np.unique(test.y.astype(str), return_counts=True)
    return LearningCurve(settings.kind, points, len(test), float(support.max() / len(test)))


def _point(
    train: EmbeddingTable, test: EmbeddingTable, settings: HeadSettings, parts: list[np.ndarray], seed: int
) -> LearningPoint:
    labels = LabelSet.of(np.unique(train.y.astype(str)).tolist())
    proba, own, seconds = [], [], []
    for rows in parts:
        rows = np.sort(rows)
        head = fit_head(train.X[rows], train.y[rows], settings, train.groups[rows])
        order = [head.classes.index(name) for name in labels.names]
        proba.append(head.predict_proba(test.X)[:, order])
        called = np.array(head.classes)[head.predict_proba(train.X[rows]).argmax(axis=1)]
        own.append(float((called == train.y[rows].astype(str)).mean()))
        seconds.append(head.seconds)
    who = [path if group is None else group for path, group in zip(test.paths, test.groups, strict=True)]
    units = np.tile(np.array(who, object), len(parts))
    figures = evaluate(np.tile(test.y, len(parts)), np.concatenate(proba), labels, units, seed).figures
    return LearningPoint(
        len(parts[0]), figures["accuracy"], figures["macro_f1"], float(np.mean(own)), float(np.mean(seconds))
    )


def _stratified_order(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in an order of which every beginning has the classes in their shares, but two of each first."""
    place = np.empty(len(y))
    for cls in np.unique(y.astype(str)):
        rows = rng.permutation(np.flatnonzero(y.astype(str) == cls))
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
        place[rows[:2]] = -1.0  # heads need two of each
    return np.lexsort((rng.random(len(y)), place))


def plot_learning(curves: Sequence[tuple[str, LearningCurve]]) -> "Plot":
    """Accuracy against the number of training images, with intervals; thin lines are the training images'.

    Args:
        curves: name and curve of each head, on the same data.
    """
    from matplotlib.ticker import NullFormatter, PercentFormatter

    figure = canvas(6.6, 4.4)
    axes = figure.subplots()
    for i, ((name, curve), colour) in enumerate(zip(curves, (BLUE, ORANGE, INK, MUTED) * 3, strict=False)):
        n = np.array([point.n_train for point in curve.points])
        at = n * 1.015 ** (i - (len(curves) - 1) / 2)  # beside each other, so that no interval hides another
        value, low, high = (
            np.array([getattr(point.accuracy, end) for point in curve.points])
            for end in ("value", "low", "high")
        )
        axes.plot(at, value, "o-", color=colour, label=name, markersize=4)
        if np.isfinite(low).all():
            axes.errorbar(
                at, value, [value - low, high - value], fmt="none", ecolor=colour, capsize=2, linewidth=1
            )
        axes.plot(
            at, [point.train_accuracy for point in curve.points], color=colour, linewidth=0.8, alpha=0.5
        )
    _, first = curves[0]
    axes.axhline(first.chance, color=MUTED, linestyle="--", linewidth=1)
    axes.annotate(
        "most frequent class", (1, first.chance), xycoords=("axes fraction", "data"), xytext=(0, 3),
        textcoords="offset points", fontsize=8, color=MUTED, ha="right",
    )  # fmt: skip
    ticks = sorted({point.n_train for _, curve in curves for point in curve.points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("training images", color=MUTED)
    plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.18), fontsize=9)
    axes.set_title(
        f"Accuracy on {first.n_test:,} test images; thin: on the training images",
        fontsize=10, loc="left", color=INK,
    )  # fmt: skip
    return finish(figure)
