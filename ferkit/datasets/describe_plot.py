"""A data set at a glance, as a picture."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from ferkit.core.fonts import can_draw, plot_families
from ferkit.core.labels import LabelSet
from ferkit.datasets.describe import Description

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _GRID = "#222222", "#666666", "#dddddd"
_COLOURS = ("#2f6db3", "#d9822b", "#3b8f5a", "#8a5ea8", "#b3423a", "#6f6f6f", "#c9a227", "#3a9aa8")
_MOST = 30
_NONE = "unknown"


def plot_description(description: Description, language: str | None = None) -> "Figure":
    """Pictures by class, in colours by part and by source where there are several, and the sizes of the files.

    Args:
        description: of the data set.
        language: ``en`` or ``ko`` for the names of classes; None as they are, or in English where no font can draw
            them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    classes = [cls for (cls,) in description.by(0)]
    names = _names(classes, language)
    panels = [("by part", 2)] if len(description.by(2)) > 1 or len(description.by(1)) < 2 else []
    panels += [("by source", 1)] if len(description.by(1)) > 1 else []
    height = 1.5 + 0.32 * max(4, min(len(classes), _MOST))
    figure = Figure(
        figsize=(10, height * len(panels) + 2.6), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels) + 1, 1, height_ratios=[height] * len(panels) + [2.2], squeeze=False)[
        :, 0
    ]
    for axes, (title, axis) in zip(rows, panels, strict=False):
        _classes(axes, description, classes[:_MOST], names[:_MOST], axis, title)
    _sizes(rows[-1], description)
    persons = f", {description.persons.n:,} persons" if description.persons.n else ""
    figure.suptitle(
        f"{description.name}: {description.n:,} pictures{persons}", x=0.01, ha="left", fontsize=14, color=_INK
    )
    for text in figure.findobj(Text):
        text.set_fontfamily(plot_families())
    return figure


def _classes(
    axes: "Axes", description: Description, classes: list[str], names: list[str], axis: int, title: str
) -> None:
    counts = description.by(0, axis)
    values = [value for (value,) in description.by(axis)]
    if axis == 2:
        values.sort(key=lambda part: ("train", "val", "test").index(part) if part else 3)
    at, left = np.arange(len(classes)), np.zeros(len(classes))
    for i, value in enumerate(values):
        width = np.array([counts.get((cls, value), 0) for cls in classes], float)
        colour = _COLOURS[(i + 3 * (axis == 1)) % len(_COLOURS)]  # a source is no part
        axes.barh(at, width, left=left, color=colour, height=0.72, label=value or _NONE)
        left += width
    for y, total in enumerate(left.tolist()):
        axes.text(total, y, f" {int(total):,}", va="center", fontsize=9, color=_MUTED)
    axes.set_yticks(at, names)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(0, left.max() * 1.12)
    axes.set_title(f"Pictures of each class, {title}" if len(values) > 1 else "Pictures of each class",
                   loc="left", fontsize=11, color=_INK)  # fmt: skip
    if len(values) > 1:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _plain(axes, "x")
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _sizes(axes: "Axes", description: Description) -> None:
    headers = description.headers
    sides = np.repeat([max(size) for size in headers.sizes_wh], list(headers.sizes_wh.values()))
    title = f"Longer side of {len(sides):,} files looked at, pixels"
    if headers.unreadable:
        title += f"; {len(headers.unreadable):,} more could not be read"
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    if not len(sides):
        axes.set_axis_off()
        return
    values, counts = np.unique(sides, return_counts=True)
    if len(values) <= 8:
        at = np.arange(len(values))
        axes.bar(at, counts, 0.6, color=_COLOURS[0])
        axes.set_xticks(at, [f"{value:,}" for value in values])
        axes.set_xlim(-1, max(len(values), 5))
    else:
        bins = np.geomspace(values[0] * 0.98, values[-1] * 1.02, 41)
        axes.hist(sides, bins.tolist(), color=_COLOURS[0])
        axes.set_xscale("log")
        ticks = [t for t in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if bins[0] <= t <= bins[-1]]
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
    _plain(axes, "y")
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _names(classes: list[str], language: str | None) -> list[str]:
    named = [cls for cls in classes if cls]
    if named and (language is not None or not can_draw(named)):
        shown = LabelSet(tuple(named)).display(language or "en")
        if can_draw(shown):
            named = list(shown)
    return [_NONE, *named] if "" in classes else named


def _plain(axes: "Axes", grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=_GRID, linewidth=0.7)
    axes.tick_params(length=0, labelsize=9)
