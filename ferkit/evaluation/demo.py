"""``fer demo`` as one function: all steps on faces that it draws itself."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ferkit.classifiers.heads import head_settings
from ferkit.core.files import write_atomically
from ferkit.core.style import BLUE, GREEN, INK, MUTED, ORANGE, can_plot, set_fonts
from ferkit.core.weights import DEFAULT_EDITION
from ferkit.datasets.dataset import Dataset, read_folder
from ferkit.datasets.split import SplitSettings
from ferkit.datasets.synthetic import write_dataset
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.evaluation.evaluate_model import fit_held_out, save_fit
from ferkit.evaluation.metrics import Evaluation
from ferkit.evaluation.plots import canvas, plain
from ferkit.evaluation.report.page import write_report
from ferkit.faces.cropping import Cropping

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLUMNS = 7


def plot_demo(rows: Sequence["DemoRow"], examples: Sequence[tuple[np.ndarray, str, str]]) -> "Figure":
    """Accuracy of each model with its interval next to examples of the best.

    Args:
        rows: the models, from top to bottom.
        examples: image uint8 (H, W, 3), true and predicted class name; the first 28 are shown.
    """
    figure = canvas(13.0, 6.6)
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.45), squeeze=False)[0]
    axes = left.subplots()
    names = [row.name for row in rows]
    figures = [row.evaluation.figures["accuracy"] for row in rows]
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
    n, persons = rows[0].evaluation.n, rows[0].evaluation.n_groups
    of = f" of {persons} persons" if persons else ""
    axes.set_title(f"accuracy on {n} images{of} never seen", loc="left", fontsize=10, color=MUTED)
    plain(axes)
    shown = examples[: 4 * _COLUMNS]
    grid = right.subplots(-(-len(shown) // _COLUMNS), _COLUMNS, squeeze=False)
    for cell in grid.flat:
        cell.set_axis_off()
    for cell, (image, true, predicted) in zip(grid.flat, shown, strict=False):
        cell.imshow(image)
        right_answer = true == predicted
        cell.set_title(
            predicted if right_answer else f"{predicted}\n({true})",
            fontsize=8,
            color=GREEN if right_answer else ORANGE,
        )
    figure.suptitle("ferkit on faces that it drew itself", x=0.01, ha="left", fontsize=13, color=INK)
    set_fonts(figure)
    return figure


logger = logging.getLogger(__name__)

HEADS = ("dummy", "logistic", "mlp", "svm")
DRAWN_PERSON = r"^(p\d+)_"
"""The file names of drawn faces begin with who is shown."""


@dataclass(frozen=True)
class DemoSettings:
    """How much is drawn.

    Attributes:
        n_per_class: faces drawn of each class.
        n_persons: persons they are drawn of.
        seed: of everything random.
    """

    n_per_class: int = 200
    n_persons: int = 60
    seed: int = 0


@dataclass(frozen=True)
class DemoRow:
    """One model of the demo.

    Attributes:
        name: of the model.
        evaluation: on persons that it never saw.
        seconds: that training took.
    """

    name: str
    evaluation: Evaluation
    seconds: float


def run_demo(folder: Path, settings: DemoSettings) -> list[DemoRow]:
    """Draw faces, embed them, fit the heads, evaluate them on unseen persons, save models, reports and an overview.

    Args:
        folder: where everything goes: ``faces/``, ``cache/``, ``models/``, ``report/``, ``demo.png``.
        settings: how much.

    Raises:
        DataError: ``folder`` holds drawn faces of an interrupted run; the message says what to do.
    """
    faces = folder / "faces"
    if not (faces / "test").is_dir():
        logger.info(
            f"drawing {7 * settings.n_per_class} faces of {settings.n_persons} persons: synthetic, not photographs"
        )
        write_dataset(
            faces, n_per_class=settings.n_per_class, n_persons=settings.n_persons, seed=settings.seed
        )
    dataset = read_folder(faces, DRAWN_PERSON)
    embedder = open_embedder(DEFAULT_EDITION)
    options = StoreOptions(root=folder / "cache")
    store, _ = embed_dataset(dataset, embedder, Cropping.ask("none"), options)
    table = store.load().labelled()
    rows = []
    for kind in HEADS:
        logger.info(f"fitting {kind}")
        fitted = fit_held_out(
            table, head_settings(kind, seed=settings.seed), SplitSettings(seed=settings.seed)
        )
        save_fit(folder / "models" / kind, fitted, store, table, overwrite=True)
        rows.append(DemoRow(kind, fitted.evaluation, fitted.head.seconds))
    best = max(rows, key=lambda row: row.evaluation.figures["accuracy"].value)
    write_report(best.evaluation, folder / "report")
    if not can_plot("demo.png is"):
        return rows
    figure = plot_demo(rows, _examples(dataset, best.evaluation, settings.seed))
    write_atomically(folder / "demo.png", lambda file: figure.savefig(file, format="png"))
    return rows


def _examples(dataset: Dataset, evaluation: Evaluation, seed: int) -> list[tuple[np.ndarray, str, str]]:
    """Up to four test faces of each class, with what they show and what was read in them."""
    tests = [sample for sample in dataset.samples if sample.split == "test"]
    names = evaluation.labels.names
    predicted = [names[i] for i in evaluation.proba.argmax(axis=1)]
    order = np.random.default_rng(seed).permutation(len(tests))
    of_class = {name: [i for i in order if tests[i].label == name] for name in names}
    chosen = [of_class[name][k] for k in range(4) for name in names if k < len(of_class[name])]
    return [(dataset.read(tests[i]), str(tests[i].label), predicted[i]) for i in chosen]
