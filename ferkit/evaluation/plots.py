"""Write drawings and thumbnails: the PNG files of an evaluation, and the small images of pages."""

import base64
import contextlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferkit.core.console import shortened
from ferkit.core.errors import FerkitError
from ferkit.core.files import write_atomically
from ferkit.core.style import GRID, INK, MUTED, SERIES, can_draw, drawable_names, set_fonts
from ferkit.core.texts import Translations, percent
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.metrics import Evaluation, histograms
from ferkit.evaluation.report.charts import (
    PARTS_OF_CLASS,
    Drawing,
    classes_chart,
    confusion_chart,
    histogram_chart,
    reliability_chart,
    together,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
        with contextlib.suppress(FerkitError, OSError, KeyError):
            found[row] = _address(read(row))
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


def drawable_language(language: str) -> str:
    """``language``, or English where no font on this machine has its letters."""
    return language if can_draw(["한"]) else "en"


def evaluation_drawings(evaluation: Evaluation, language: str = "en") -> dict[str, Drawing]:
    """Of one evaluation: confusion matrix, figures of each class, reliability and probabilities, by name.

    Names and words are English where no font on this machine draws Hangul.

    Args:
        evaluation: of one model.
        language: ``en`` or ``ko``.
    """
    language = drawable_language(language)
    words, names = Translations(language), drawable_names(evaluation.labels, language)
    shown = dict(zip(evaluation.labels.names, names, strict=True))
    one = {"evaluation": evaluation.to_dict()}

    accuracy, macro, error = (one["evaluation"][name] for name in ("accuracy", "macro_f1", "ece"))
    unknown = f" · {words('caption.unknown')}" if evaluation.unknown_classes else ""
    column = {name: i for i, name in enumerate(evaluation.labels.names)}
    known = np.array([name in column for name in evaluation.y_true], bool)
    truth = np.array([column[name] for name in evaluation.y_true[known]], int)
    axes = {name: words(f"column.{name}") for name in ("confidence", "accuracy", "images")}
    bins = one["evaluation"]["reliability"]
    return {
        "confusion": together(
            [confusion_chart(one, shown, words)],
            words("part.confusion"),
            detail=f"{words('column.accuracy')} {_figure(accuracy, words)}{unknown}",
        ),
        "classes": together(
            [classes_chart(one, shown, words)],
            words("part.class"),
            detail=f"{words('column.macro_f1')} {_figure(macro, words)}; {words('part.counts_below')}",
            key=[(f"c{i}", words(f"column.{part}")) for i, part in enumerate(PARTS_OF_CLASS)],
        ),
        "reliability": together(
            [reliability_chart(bins, axes, words("part.reliability"))],
            words("part.reliability"),
            detail=f"{words('column.ece')} {percent(error['value'])}",
        ),
        "probabilities": together(
            [
                histogram_chart(name, part["own"], part["others"], name)
                for name, part in zip(names, histograms(truth, evaluation.proba[known]), strict=True)
            ],
            words("part.histogram"),
            columns=min(4, len(names)),
            key=[("c0", words("part.own_images")), ("c1", words("part.other_images"))],
        ),
    }


def _figure(figure: dict[str, Any], words: Translations) -> str:
    ends = words.interval(figure)
    return percent(figure["value"]) + (f" ({words('column.interval')} {ends})" if ends else "")


def draw_png(drawing: Drawing, path: Path) -> None:
    """Write a drawing as a PNG of twice its size, on white.

    Raises:
        FerkitError: the place cannot be written.
    """
    from matplotlib.patches import Rectangle

    figure = canvas(drawing.width / 100, drawing.height / 100, constrained=False)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.set_axis_off()
    for order, shape in enumerate(drawing.shapes):
        style = set(shape.classes.split())
        colour = next((SERIES[int(name[1])] for name in style if re.fullmatch(r"c\d", name)), INK)
        x, y = zip(*shape.points, strict=True)
        if shape.kind == "text":
            ink = "white" if "on" in style else MUTED if style & {"tick", "axis"} else INK
            size = 15 if "title" in style else 11 if style & {"tick", "axis"} else 12
            axes.text(x[0], y[0], shape.words, color=ink, fontsize=0.72 * size, parse_math=False, zorder=order,
                      ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor])  # fmt: skip
        elif shape.kind == "dot":
            axes.plot(
                x, y, "o", color=colour, markersize=1.44 * shape.strength, markeredgewidth=0, zorder=order
            )
        elif shape.kind == "rect":
            alpha = shape.strength * (0.5 if "faint" in style else 0.62 if "half" in style else 1)
            wide, high = max(x[1] - x[0], 0), max(y[1] - y[0], 0)
            axes.add_patch(
                Rectangle((x[0], y[0]), wide, high, color=colour, alpha=alpha, linewidth=0, zorder=order)
            )
        else:
            thick = {"whisker": 3.0, "curve": 2.0, "error": 1.2}.get(shape.classes.split()[0], 1.0)
            quiet = {"grid": GRID, "reference": MUTED, "error": INK}
            axes.plot(x, y, color=next((quiet[name] for name in style if name in quiet), colour),
                      linewidth=0.72 * thick, alpha=0.55 if "whisker" in style else 1,
                      linestyle="--" if style & {"reference", "dash1"} else "-", zorder=order)  # fmt: skip
    set_fonts(figure)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=200))


COLUMNS = 8
_CAPTION = 21
"""Columns of letters that are as wide as an image."""


def plot_predictions(grids: Mapping[str, Sequence[tuple[np.ndarray, str]]]) -> "Figure":
    """Images, uint8 RGB (H, W, 3), with a line below each, in grids with headings."""
    places: list[tuple[float, float, np.ndarray, str]] = []
    headings, top = [], 0.0
    # As wide as the images, but not narrower than a heading.
    columns = min(COLUMNS, max(3, *(len(images) for images in grids.values())))
    for title, images in grids.items():
        if images:
            headings.append((top, title))
            places += [
                (i % columns + 0.5, top + 0.4 + i // columns * 1.2, *image) for i, image in enumerate(images)
            ]
            top += 0.5 + -(-len(images) // columns) * 1.2
    figure = canvas(1.5 * columns, 1.5 * top)
    axes = figure.subplots()  # one for all images: a layout of many takes seconds
    for x, y, rgb, caption in places:
        caption = "\n".join(shortened(line, _CAPTION) for line in caption.split("\n"))
        height, width = (0.92 * side / max(rgb.shape[:2]) for side in rgb.shape[:2])
        axes.imshow(rgb, extent=(x - width / 2, x + width / 2, y + height, y))
        axes.text(
            x, y + height + 0.03, caption, fontsize=9, linespacing=1.35, ha="center", va="top", color=INK
        )
    for y, title in headings:
        axes.text(0.04, y, title, fontsize=13, va="top", color=INK)
    axes.set(xlim=(0, columns), ylim=(top, 0))
    axes.set_axis_off()
    set_fonts(figure)
    return figure


def canvas(width: float, height: float, constrained: bool = True) -> "Figure":
    """An empty figure, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width, height), dpi=150, layout="constrained" if constrained else None, facecolor="white"
    )
    FigureCanvasAgg(figure)
    return figure


def plain(axes: "Axes") -> None:
    """Only the lines that are needed."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9)
