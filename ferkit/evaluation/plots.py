"""Plots of one evaluation. Each function gives a Matplotlib figure of its own; nothing global is touched."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ferkit.core.console import width as _width
from ferkit.core.errors import FerkitError
from ferkit.core.fonts import can_draw, plot_families
from ferkit.core.palette import BLUE, GREEN, GRID, INK, MUTED, ORANGE
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.metrics import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter


Thumbnails = Callable[[int], np.ndarray]
"""Takes a row number of the comparison, gives uint8 RGB (H, W, 3); may raise FerkitError, OSError or KeyError."""

SIDE = 96
"""Pixels of the longer side, at most."""

_QUALITY = 78
_MARGIN = 0.15


def thumbnails_of(comparison: Comparison, dataset: Dataset) -> Thumbnails:
    """The images of a comparison's rows, cut to the face where its box is known.

    Args:
        comparison: whose rows.
        dataset: that it was made of; of several data sets in one, paths begin with their names.
    """
    samples = {sample.path: sample for sample in dataset.samples}

    def read(row: int) -> np.ndarray:
        path = str(comparison.paths[row])
        prefixed = f"{comparison.data[comparison.source[row]].name}/{path}"
        sample = samples[prefixed] if prefixed in samples else samples[path]
        rgb = dataset.read(sample)
        return rgb if sample.box is None else _cut(rgb, sample.box)

    return read


def thumbnails(rows: Iterable[int], read: Thumbnails) -> dict[int, str]:
    """Each row's image as a ``data:`` address; those that cannot be read are left out."""
    found = {}
    for row in dict.fromkeys(rows):
        try:
            found[row] = _address(read(row))
        except (FerkitError, OSError, KeyError):
            continue
    return found


def _address(rgb: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(rgb)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _cut(rgb: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    left, top, right, bottom = box
    x, y = _MARGIN * (right - left), _MARGIN * (bottom - top)
    part = rgb[max(0, int(top - y)) : int(bottom + y) + 1, max(0, int(left - x)) : int(right + x) + 1]
    return part if part.size else rgb


def plot_confusion(evaluation: Evaluation, language: str = "en") -> "Figure":
    """The confusion matrix: colour and percentage by row, counts below them."""
    counts = evaluation.confusion
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    names = display_names(evaluation, language)
    unknown = evaluation.rows[len(names) :]
    rows = [*names, *(f"{name} *" for name in unknown)]
    figure = canvas(max(6.0, 0.95 * len(names) + 3.2), 0.8 * len(rows) + 2.0)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    tilted: dict[str, Any] = (
        {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(_width, names)) > 9 else {}
    )
    axes.set_xticks(range(len(names)), names, **tilted)
    axes.set_yticks(range(len(rows)), [f"{row}  ({n:,})" for row, n in zip(rows, total[:, 0], strict=True)])
    for i, j in np.ndindex(*counts.shape):
        ink: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "color": "white" if share[i, j] > 0.55 else INK,
        }
        shown = f"{share[i, j]:.0%}" if total[i, 0] else "–"
        axes.text(j, i - 0.1, shown, fontsize=11, **ink)
        axes.text(j, i + 0.24, f"{counts[i, j]:,}", fontsize=8, alpha=0.8, **ink)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (images)")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    accuracy = evaluation.figures["accuracy"]
    _title(axes, "Confusion matrix", f"accuracy {_interval(accuracy.value, accuracy.low, accuracy.high)}")
    if unknown:
        figure.supxlabel("* classes that the model does not have", fontsize=8, color=MUTED, x=0.01, ha="left")
    return finish(figure)


def plot_classes(evaluation: Evaluation, language: str = "en") -> "Figure":
    """Precision, recall and F1 of each class with their 95 % intervals."""
    names = display_names(evaluation, language)
    widest = max(map(_width, names))
    figure = canvas(max(6.8, 2.0 + max(1.0, 0.09 * min(widest, 16)) * len(names)), 4.8)
    axes = figure.subplots()
    at = np.arange(len(names))
    for i, (part, colour) in enumerate((("precision", BLUE), ("recall", ORANGE), ("f1", GREEN))):
        figures = [getattr(one, part) for one in evaluation.per_class.values()]
        value, low, high = (np.array([getattr(f, end) for f in figures]) for end in ("value", "low", "high"))
        x = at + (i - 1) * 0.27
        axes.bar(x, np.nan_to_num(value), 0.25, color=colour, label="F1" if part == "f1" else part)
        some = np.isfinite(value) & np.isfinite(low)
        # The value of a skewed figure may lie outside the percentiles of its resamples.
        error = np.stack([value - low, high - value])[:, some].clip(min=0)
        axes.errorbar(x[some], value[some], error, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        for undefined in x[np.isnan(value)]:
            axes.text(undefined, 0.01, "–", ha="center", color=colour)
    tilted: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if widest > 20 else {}
    support = [one.support for one in evaluation.per_class.values()]
    axes.set_xticks(at, [f"{name}\n{n:,}" for name, n in zip(names, support, strict=True)], **tilted)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(_percent())
    plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    figure.legend(*axes.get_legend_handles_labels(), ncols=3, frameon=False, loc="outside lower center")
    macro = evaluation.figures["macro_f1"]
    detail = f"macro-F1 {_interval(macro.value, macro.low, macro.high)}; images below the names"
    _title(axes, "Precision, recall and F1", detail)
    return finish(figure)


def plot_reliability(evaluation: Evaluation) -> "Figure":
    """How often the classifier is right at each confidence, and how many images have that confidence."""
    count, confidence, accuracy = evaluation.reliability.T
    edges = np.linspace(0, 1, len(count) + 1)
    figure = canvas(5.4, 6.2)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    some = count > 0
    bars: dict[str, Any] = {"align": "edge", "edgecolor": "white", "color": BLUE}
    axes.bar(edges[:-1][some], accuracy[some], 1 / len(count), alpha=0.8, **bars)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="as often right as it is sure")
    axes.plot(
        confidence[some], accuracy[some], "o", color=ORANGE, markersize=5, label="mean confidence of a bin"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    below.bar(edges[:-1], count / count.sum(), 1 / len(count), alpha=0.45, **bars)
    below.set(xlabel="confidence (largest probability)", ylabel="images")
    for one in (axes, below):
        plain(one)
        one.xaxis.set_major_formatter(_percent())
        one.yaxis.set_major_formatter(_percent())
        one.grid(color=GRID, linewidth=0.7)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    error = evaluation.figures["ece"].value
    _title(axes, "Reliability", f"calibration error {error:.1%} in {len(count)} bins of equal width")
    return finish(figure)


def plot_probabilities(evaluation: Evaluation, language: str = "en") -> "Figure":
    """For each class, the probability it got on its own images and on those of other classes."""
    names = display_names(evaluation, language)
    columns = min(4, len(names))
    n_rows = -(-len(names) // columns)
    figure = canvas(2.9 * columns, 2.1 * n_rows + 0.8)
    grid = figure.subplots(n_rows, columns, sharex=True, squeeze=False)
    bins = np.linspace(0, 1, 21)
    for c, axes in enumerate(grid.flat):
        if c >= len(names):
            axes.set_visible(False)
            continue
        own = evaluation.y_true == evaluation.labels.names[c]
        for mask, colour, label in ((~own, ORANGE, "other images"), (own, BLUE, "its images")):
            values = evaluation.proba[mask, c]
            if len(values):
                weights = np.full(len(values), 1 / len(values))
                axes.hist(values, bins, weights=weights, color=colour, alpha=0.6, label=label)
        axes.set_title(names[c], fontsize=10, loc="left", color=INK)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(_percent())
        axes.yaxis.set_major_formatter(_percent())
        plain(axes)
        axes.tick_params(labelsize=8, labelbottom=c + columns >= len(names))
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, frameon=False, loc="outside upper right", fontsize=9)
    figure.suptitle("Probability of each class", fontsize=13, x=0.01, ha="left", color=INK)
    figure.supxlabel("probability", fontsize=9, color=MUTED)
    figure.supylabel("share of images", fontsize=9, color=MUTED)
    return finish(figure)


COLUMNS = 8


def plot_predictions(grids: Mapping[str, Sequence[tuple[np.ndarray, str]]]) -> "Figure":
    """Images, uint8 RGB (H, W, 3), with a line below each, in grids with headings."""
    places: list[tuple[float, float, np.ndarray, str]] = []
    headings, top = [], 0.0
    for title, images in grids.items():
        if images:
            headings.append((top, title))
            places += [
                (i % COLUMNS + 0.5, top + 0.4 + i // COLUMNS * 1.2, *image) for i, image in enumerate(images)
            ]
            top += 0.5 + -(-len(images) // COLUMNS) * 1.2
    figure = canvas(1.5 * COLUMNS, 1.5 * top)
    axes = figure.subplots()  # one for all images: a layout of many takes seconds
    for x, y, rgb, caption in places:
        height, width = (0.92 * side / max(rgb.shape[:2]) for side in rgb.shape[:2])
        axes.imshow(rgb, extent=(x - width / 2, x + width / 2, y + height, y))
        axes.text(x, y + height + 0.03, caption, fontsize=9, ha="center", va="top", color=INK)
    for y, title in headings:
        axes.text(0.04, y, title, fontsize=13, va="top", color=INK)
    axes.set(xlim=(0, COLUMNS), ylim=(top, 0))
    axes.set_axis_off()
    return finish(figure)


def display_names(evaluation: Evaluation, language: str) -> tuple[str, ...]:
    """The classes' names in ``language``, or in English where no font can draw them."""
    names = evaluation.labels.display(language)
    return names if can_draw(names) else evaluation.labels.display("en")


def canvas(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: "Figure") -> "Figure":
    """Set the fonts of everything written, without a change to Matplotlib's global settings."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_fontfamily(plot_families())
    return figure


def plain(axes: "Axes") -> None:
    """Only the lines that are needed."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9)


def _title(axes: "Axes", title: str, detail: str) -> None:
    axes.set_title(f"{title}\n", fontsize=13, loc="left", color=INK)
    # Left out of the layout, which would squeeze the axes to make room for a line that fits anyway.
    axes.text(0, 1.02, detail, transform=axes.transAxes, fontsize=9, color=MUTED, in_layout=False)


def _percent() -> "PercentFormatter":
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=0)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.1%}" if np.isnan(low) else f"{value:.1%} (95 % interval {low:.1%} to {high:.1%})"
