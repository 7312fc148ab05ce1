"""An evaluation for readers: text for the terminal, JSON and plots for a folder."""

from pathlib import Path

import numpy as np

from ferkit.core.errors import FerkitError
from ferkit.core.files import write_atomically, write_json
from ferkit.core.tables import table, width
from ferkit.evaluation.metrics import Evaluation, Figure

_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "top2": "among the top two",
    "log_loss": "log-loss",
    "ece": "calibration error (ECE)",
}


def format_report(evaluation: Evaluation, language: str = "en") -> str:
    """The figures, the classes and the confusion matrix as aligned text."""
    names = evaluation.labels.display(language)
    over = "images" if evaluation.n_groups is None else f"{evaluation.n_groups:,} persons"
    parts = [
        f"{evaluation.n:,} images, {len(names)} classes; 95 % intervals by bootstrap over {over}",
        table(
            ("figure", "value", "95 % interval"),
            [_summary_row(name, figure) for name, figure in evaluation.figures.items()],
            right=[1],
        ),
        table(
            ("class", "precision", "recall", "F1", "95 % of F1", "images"),
            [
                (
                    name,
                    *(_percent(f.value) for f in (one.precision, one.recall, one.f1)),
                    _range(one.f1),
                    f"{one.support:,}",
                )
                for name, one in zip(names, evaluation.per_class.values(), strict=True)
            ],
            right=[1, 2, 3, 5],
        ),
        _confusion(evaluation, names),
        *(f"note: {note}" for note in evaluation.notes),
    ]
    if evaluation.unknown_classes:
        parts.append(f"accuracy with the unknown classes as mistakes: {evaluation.accuracy_with_unknown:.1%}")
    return "\n\n".join(parts)


def write_report(evaluation: Evaluation, folder: Path, language: str = "en") -> list[Path]:
    """Write ``report.txt``, ``metrics.json`` and the plots into ``folder``, over those of an earlier report.

    Plots show English names where no font on this machine has those of ``language``.

    Returns:
        The files, the text first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    from ferkit.evaluation import plots

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FerkitError(
            f"{folder} cannot be made: {error.strerror or error}; choose another place"
        ) from error
    text = format_report(evaluation, language) + "\n"
    files = {name: folder / name for name in ("report.txt", "metrics.json")}
    write_atomically(files["report.txt"], lambda file: file.write(text.encode()))
    write_json(files["metrics.json"], evaluation.to_dict())
    figures = {
        "confusion.png": plots.plot_confusion(evaluation, language),
        "classes.png": plots.plot_classes(evaluation, language),
        "reliability.png": plots.plot_reliability(evaluation),
        "probabilities.png": plots.plot_probabilities(evaluation, language),
    }
    for name, figure in figures.items():
        files[name] = folder / name
        write_atomically(files[name], lambda file, figure=figure: figure.savefig(file, format="png"))  # type: ignore[misc]
    return list(files.values())


def _summary_row(name: str, figure: Figure) -> tuple[str, str, str]:
    show = _number if name == "log_loss" else _percent
    interval = "" if np.isnan(figure.low) else f"{show(figure.low)} to {show(figure.high)}"
    return _NAMES[name], show(figure.value), interval


def _confusion(evaluation: Evaluation, names: tuple[str, ...]) -> str:
    rows = [*names, *(f"{name} *" for name in evaluation.unknown_classes)]
    body = [
        (row, *(f"{count:,}" for count in counts))
        for row, counts in zip(rows, evaluation.confusion, strict=True)
    ]
    text = table(("true \\ predicted", *map(_short, names)), body, right=range(1, len(names) + 1))
    return text + ("\n* classes that the model does not have" if evaluation.unknown_classes else "")


def _short(name: str) -> str:
    return name if width(name) <= 10 else name[:9] + "…"


def _range(figure: Figure) -> str:
    return "" if np.isnan(figure.low) else f"{figure.low:.1%} to {figure.high:.1%}"


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:.3f}"
