"""``fer demo`` as one function: the whole way on faces that it draws itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.classifiers.heads import head_settings
from ferkit.core.files import write_atomically
from ferkit.core.fonts import can_plot
from ferkit.core.progress import Progress
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.folder import read_folder
from ferkit.datasets.split import SplitSettings
from ferkit.datasets.synthetic import write_dataset
from ferkit.embedder.backbones import open_embedder
from ferkit.embedder.run import CropOptions, StoreOptions, embed_dataset
from ferkit.evaluation.holdout import fit_held_out, save_fit
from ferkit.evaluation.metrics import Evaluation
from ferkit.evaluation.overview import plot_overview
from ferkit.evaluation.report import write_report

HEADS = ("dummy", "logistic", "mlp", "svm")
DRAWN_PERSON = r"^(p\d+)_"
"""The file names of drawn faces begin with who is shown."""


@dataclass(frozen=True)
class DemoSettings:
    """How much is drawn: pictures of each class, persons, and the seed of all."""

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


def run_demo(
    folder: Path, settings: DemoSettings, *, progress: Progress, say: Callable[[str], None]
) -> list[DemoRow]:
    """Draw faces, embed them, fit the heads, evaluate them on unseen persons, save models, reports and an overview.

    Args:
        folder: where everything goes: ``faces/``, ``cache/``, ``models/``, ``report/``, ``demo.png``.
        settings: how much.
        progress: of the embedding.
        say: takes sentences for the user.

    Raises:
        DataError: ``folder`` holds drawn faces of an interrupted run; the message says what to do.
    """
    faces = folder / "faces"
    if not (faces / "test").is_dir():
        say(
            f"drawing {7 * settings.n_per_class} faces of {settings.n_persons} persons: synthetic, not photographs"
        )
        write_dataset(
            faces, n_per_class=settings.n_per_class, n_persons=settings.n_persons, seed=settings.seed
        )
    dataset = read_folder(faces, DRAWN_PERSON)
    embedder = open_embedder("ferkit")
    options = StoreOptions(root=folder / "cache")
    store, _ = embed_dataset(dataset, embedder, CropOptions("none"), options, progress=progress, say=say)
    progress.close()
    table = store.load().labelled()
    rows = []
    for kind in HEADS:
        say(f"fitting {kind}")
        fitted = fit_held_out(
            table, head_settings(kind, seed=settings.seed), SplitSettings(seed=settings.seed)
        )
        save_fit(folder / "models" / kind, fitted, store, table, overwrite=True)
        rows.append(DemoRow(kind, fitted.evaluation, fitted.head.seconds))
    best = max(rows, key=lambda row: row.evaluation.figures["accuracy"].value)
    write_report(best.evaluation, folder / "report")
    if not can_plot("demo.png is"):
        return rows
    figure = plot_overview(
        "ferkit on faces that it drew itself",
        [(row.name, row.evaluation) for row in rows],
        _examples(dataset, best.evaluation, settings.seed),
    )
    write_atomically(folder / "demo.png", lambda file: figure.savefig(file, format="png"))
    return rows


def _examples(dataset: Dataset, evaluation: Evaluation, seed: int) -> list[tuple[np.ndarray, str, str]]:
    """Four test faces of each class, with what they show and what was read in them."""
    tests = [sample for sample in dataset.samples if sample.split == "test"]
    names = evaluation.labels.names
    predicted = [names[i] for i in evaluation.proba.argmax(axis=1)]
    order = np.random.default_rng(seed).permutation(len(tests))
    of_class = {name: [i for i in order if tests[i].label == name] for name in names}
    chosen = [of_class[name][k] for k in range(4) for name in names]
    return [(dataset.read(tests[i]), str(tests[i].label), predicted[i]) for i in chosen]
