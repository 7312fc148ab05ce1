"""Evaluations and comparisons for readers: text for the terminal; JSON, plots, Markdown and a page for a folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ferkit.core.errors import FerkitError
from ferkit.core.files import write_atomically, write_json
from ferkit.core.fonts import can_plot
from ferkit.core.tables import table, width
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.gallery import Pictures, pictures_of, thumbnails
from ferkit.evaluation.metrics import Evaluation, Figure
from ferkit.evaluation.report.html import render_matrix, render_page
from ferkit.evaluation.report.markdown import render_markdown, render_matrix_markdown
from ferkit.evaluation.report.values import report_values

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
    """Write ``report.txt``, ``metrics.json`` and, with Matplotlib, the plots into ``folder``, over earlier ones.

    Plots show English names where no font on this machine has those of ``language``.

    Returns:
        The files, the text first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    _make(folder)
    text = format_report(evaluation, language) + "\n"
    files = {name: folder / name for name in ("report.txt", "metrics.json")}
    write_atomically(files["report.txt"], lambda file: file.write(text.encode()))
    write_json(files["metrics.json"], evaluation.to_dict())
    if not can_plot("the PNG plots are"):
        return list(files.values())
    from ferkit.evaluation import plots

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


def write_comparison(
    comparison: Comparison,
    folder: Path,
    language: str = "en",
    pictures: Pictures | Dataset | None = None,
    *,
    page: bool = True,
    say: Callable[[str], None] = lambda message: None,
) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``report.json`` into ``folder``, over those of an earlier report.

    The page needs no other file and no network. All three are made of the same values.

    Args:
        comparison: what was found; one with a single contender gives a report of that one.
        folder: is made where needed.
        language: ``en`` or ``ko``, of everything but what the data themselves name.
        pictures: the data set that was compared on, or what gives the picture of a row number; None leaves the
            grids of pictures out.
        page: whether the HTML page is wanted.
        say: is told which contender is being looked at.

    Returns:
        The files, the page first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    _make(folder)
    values = report_values(comparison, say)
    files = {}
    if page:
        read = pictures_of(comparison, pictures) if isinstance(pictures, Dataset) else pictures
        images = {} if read is None else thumbnails(_shown_rows(values), read)
        files[folder / "report.html"] = render_page(values, language, images)
    else:  # one of an earlier report would contradict the other files
        (folder / "report.html").unlink(missing_ok=True)
    files[folder / "report.md"] = render_markdown(values, language)
    files[folder / "report.json"] = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    _write(files)
    return list(files)


def write_matrix_report(
    values: Mapping[str, Any], folder: Path, language: str = "en", notes: Sequence[str] = ()
) -> list[Path]:
    """Write ``report.html`` and ``report.md`` on several data sets against each other, with links to the cells' own.

    Args:
        values: ``data``, their names, and ``contenders``: by name, rows (trained on) of columns (tested on), as
            in ``matrix.json``.
        folder: where the cells' folders are.
        language: ``en`` or ``ko``.
        notes: what a reader must know, in sentences.

    Raises:
        FerkitError: the folder cannot be written.
    """
    _make(folder)
    cells = [f"{a}--{b}" for a in values["data"] for b in values["data"]]
    links = [
        (cell.replace("--", " → "), f"{quote(cell)}/report.html")
        for cell in cells
        if (folder / cell / "report.html").is_file()
    ]
    files = {
        folder / "report.html": render_matrix(values, language, notes, links),
        folder / "report.md": render_matrix_markdown(values, language, notes),
    }
    _write(files)
    return list(files)


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        content = text.encode("utf-8", "surrogateescape")
        write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]


def _shown_rows(values: dict[str, Any]) -> list[int]:
    """Rows whose pictures the page shows."""
    if values["best"] is None:
        return []
    best = values["contenders"][values["best"]]
    grids = [*best["mistakes"], *best["unsure"], *values["hard"]["pictures"]]
    rows = [one["row"] for one in grids]
    rows += [pair[side] for pair in values["leak_pairs"] for side in ("test_row", "train_row")]
    return [row for row in rows if row is not None]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FerkitError(
            f"{folder} cannot be made: {error.strerror or error}; choose another place"
        ) from error


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
