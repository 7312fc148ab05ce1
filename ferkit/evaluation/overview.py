"""One picture of an experiment: what the faces look like, and how the models compare."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ferkit.evaluation.metrics import Evaluation
from ferkit.evaluation.plots import BLUE, GREEN, INK, MUTED, ORANGE, canvas, finish, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 7


def plot_overview(
    title: str, rows: Sequence[tuple[str, Evaluation]], examples: Sequence[tuple[np.ndarray, str, str]]
) -> "Figure":
    """Accuracy of each model with its interval beside examples of its last.

    Args:
        title: above all.
        rows: name and evaluation of each model, from top to bottom.
        examples: picture uint8 (H, W, 3), true and predicted class name; the first 28 are shown.
    """
    figure = canvas(13.0, 6.6)
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.45), squeeze=False)[0]
    axes = left.subplots()
    names = [name for name, _ in rows]
    figures = [evaluation.figures["accuracy"] for _, evaluation in rows]
    values = np.array([figure.value for figure in figures])
    errors = np.clip([[f.value - f.low for f in figures], [f.high - f.value for f in figures]], 0, None)
    at = np.arange(len(rows))[::-1]
    axes.barh(at, values, 0.62, color=[MUTED if name == "dummy" else BLUE for name in names])
    axes.errorbar(values, at, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    for y, one in zip(at, figures, strict=True):
        axes.text(min(one.high, 0.98) + 0.02, y, f"{one.value:.0%}", va="center", color=INK)
    axes.set_yticks(at, names)
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 5), [f"{tick:.0%}" for tick in np.linspace(0, 1, 5)])
    n, persons = rows[0][1].n, rows[0][1].n_groups
    of = f" of {persons} persons" if persons else ""
    axes.set_title(f"accuracy on {n} images{of} never seen", loc="left", fontsize=10, color=MUTED)
    plain(axes)
    shown = examples[: 4 * _COLUMNS]
    grid = right.subplots(-(-len(shown) // _COLUMNS), _COLUMNS, squeeze=False)
    for cell in grid.flat:
        cell.set_axis_off()
    for cell, (picture, true, predicted) in zip(grid.flat, shown, strict=False):
        cell.imshow(picture)
        right_answer = true == predicted
        cell.set_title(
            predicted if right_answer else f"{predicted}\n({true})",
            fontsize=8,
            color=GREEN if right_answer else ORANGE,
        )
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    return finish(figure)
