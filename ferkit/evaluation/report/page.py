"""Write reports as HTML, Markdown and JSON."""

import contextlib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup, escape

from ferkit.core.console import table, width
from ferkit.core.errors import FerkitError
from ferkit.core.files import write_atomically, write_json
from ferkit.core.fonts import can_plot
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.metrics import Evaluation, Figure
from ferkit.evaluation.plots import Thumbnails, thumbnails, thumbnails_of
from ferkit.evaluation.report import charts, tables
from ferkit.evaluation.report import tables as trust
from ferkit.evaluation.report.charts import colour_of
from ferkit.evaluation.report.tables import Table, TableCell, translations_of, unit_words
from ferkit.evaluation.report.values import (
    Translations,
    dummy_accuracy,
    figure_rows,
    findings_text,
    pair_sentences,
    percent,
    report_values,
)

if TYPE_CHECKING:
    from jinja2 import Environment


Values = Mapping[str, Any]

_CURVES = ("accuracy", "val_accuracy", "log_loss", "loss", "val_loss", "val_log_loss")
"""Figures of a history that are drawn, those of one unit together."""


def render_page(values: Values, language: str = "en", images: Mapping[int, str] | None = None) -> str:
    """The page.

    Args:
        values: of :func:`ferkit.evaluation.report.values.report_values`.
        language: ``en`` or ``ko``.
        images: ``data:`` address of each row's image, of :func:`ferkit.evaluation.plots.thumbnails`; what is
            not there is left out.
    """
    words = Translations(language)
    done = figure_rows(values)
    return _rendered(
        "report.html",
        v=values,
        words=words,
        tables=tables,
        trust=trust,
        done=done,
        failed=[one for one in values["contenders"] if one["failure"] is not None],
        best=None if values["best"] is None else values["contenders"][values["best"]],
        one=len(values["contenders"]) == 1,
        shown=translations_of(values, words),
        units=unit_words(values, words),
        short=findings_text(values, words),
        images=images or {},
        ranks={one["name"]: rank for rank, one in enumerate(done, 1)},
        pair_sentences=pair_sentences(values, words),
        charts=_charts(values, words) if done else {"trade": None, "learning": []},
        colour_of=colour_of,
    )


def render_matrix(
    values: Values, language: str = "en", notes: Sequence[str] = (), links: Sequence[tuple[str, str]] = ()
) -> str:
    """The page of several data sets against each other.

    Args:
        values: ``data``, their names, and ``contenders``: by name, rows (trained on) of columns (tested on).
        language: ``en`` or ``ko``.
        notes: what a reader must know, in sentences.
        links: names and addresses of the cells' own reports.
    """
    words = Translations(language)
    found = tables.cross_tables(values, words)
    return _rendered("matrix.html", words=words, v=values, found_tables=found, notes=notes, links=links)


def _rendered(template: str, words: Translations, **values: Any) -> str:
    style = Markup(_resource("style.css"))
    version = metadata.version("ferkit")
    page = (
        _templates()
        .get_template(template)
        .render(t=words, lang=words.language, style=style, version=version, **values)
    )
    # Blank lines of the template's own logic are a tenth of the page.
    return re.sub(r"\n\s*\n+", "\n", page).strip() + "\n"


def _charts(values: Values, words: Translations) -> dict[str, Any]:
    done, shown = figure_rows(values), translations_of(values, words)
    rows = [
        (one["name"], one["evaluation"]["accuracy"], percent(one["evaluation"]["accuracy"]["value"]))
        for one in done
    ]
    timed = [
        (str(rank), one["costs"]["ms_batch1"], one["evaluation"]["accuracy"])
        for rank, one in enumerate(done, 1)
        if one["costs"]["ms_batch1"] and one["kind"] != "dummy"
    ]
    return {
        "accuracy": charts.intervals_chart(rows, words("column.accuracy"), dummy_accuracy(values)),
        "timed": [done[int(rank) - 1]["name"] for rank, _, _ in timed],
        "trade": _trade(timed, words) if len(timed) > 1 else None,
        "abstention": charts.curves_chart(
            [(one["name"], one["abstention"]["curve"]) for one in done],
            words("column.answered"),
            words("column.accuracy"),
            words("section.abstention"),
        ),
        "reliability": {one["name"]: _reliability(one, words) for one in done},
        "histogram": {
            one["name"]: [
                charts.histogram_chart(shown[name], part["own"], part["others"], shown[name])
                for name, part in zip(values["labels"]["names"], one["histogram"], strict=True)
            ]
            for one in done
        },
        "learning": [chart for one in done for chart in _learning(one, words)],
    }


def _trade(points: list[tuple[str, float, Values]], words: Translations) -> Markup:
    names = {"ms": words("column.ms_batch1"), "accuracy": words("column.accuracy")}
    return charts.trade_chart(points, names, words("section.costs"))


def _reliability(one: Values, words: Translations) -> list[tuple[str, Markup]]:
    """The diagram as it is and, where there is one, after correction by temperature."""
    names = {name: words(f"column.{name}") for name in ("confidence", "accuracy", "images")}
    if "reason" in one["calibration"]:
        parts = [("before", one["evaluation"]["reliability"], one["evaluation"]["ece"]["value"])]
    else:
        plain, temperature = one["calibration"]["results"][:2]
        parts = [("before", plain["reliability"], plain["ece"])]
        parts.append(("temperature", temperature["reliability"], temperature["ece"]))
    return [
        (
            f"{words(f'column.{key}')}: ECE {percent(ece)}",
            charts.reliability_chart(bins, names, words(f"column.{key}")),
        )
        for key, bins, ece in parts
    ]


def _learning(one: Values, words: Translations) -> list[dict[str, Any]]:
    """One chart for each unit and repeat of a history."""
    found = []
    for cell in one["cells"]:
        history = cell["history"]
        keys = [key for key in _CURVES if any(key in entry for entry in history)]
        for unit, mine in (
            ("accuracy", [key for key in keys if "accuracy" in key]),
            ("log_loss", [key for key in keys if "loss" in key]),
        ):
            series = [
                (key, [(i + 1, entry[key]) for i, entry in enumerate(history) if key in entry])
                for key in mine
            ]
            if not series:
                continue
            repeat = words("part.repeat", n=cell["repeat"] + 1) if len(one["cells"]) > 1 else ""
            chart = charts.curves_chart(
                series, words("column.epoch"), words(f"column.{unit}"), one["name"], shares=False
            )
            found.append(
                {
                    "caption": words("caption.learning", name=one["name"], repeat=repeat),
                    "svg": chart,
                    "names": mine,
                }
            )
    return found


@functools.cache
def _templates() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """Lets a long name of a candidate go on in the next line after its signs."""
    return Markup(re.sub(r"([@:_/,])", r"\1<wbr>", str(escape(name))))


def _resource(name: str) -> str:
    return resources.files("ferkit.evaluation.report.templates").joinpath(name).read_text(encoding="utf-8")


def render_markdown(values: Values, language: str = "en") -> str:
    """The text.

    Args:
        values: of :func:`ferkit.evaluation.report.values.report_values`.
        language: ``en`` or ``ko``.
    """
    words = Translations(language)
    done = figure_rows(values)
    one = len(values["contenders"]) == 1
    key = "title.evaluation" if one else "title.comparison"
    title = words(key, candidate=values["contenders"][0]["name"], name=values["name"])
    parts = [f"# {_escaped(title)}", _list(findings_text(values, words))]
    if done:
        parts += _section(
            "headline", words, tables.summary_table(values, words), tables.cost_table(values, words)
        )
    if values["pairs"]:
        parts += _section("pairs", words, tables.pair_table(values, words))
        parts.append(_list(pair_sentences(values, words)))
    if done:
        parts += _section("leaks", words, tables.leak_table(values, words))
        for column in tables.subgroup_tables(values, words):
            parts += _section("subgroups", words, column)
        best = values["contenders"][values["best"]]
        shown = translations_of(values, words)
        parts.append(f"## {_escaped(best['name'])}")
        parts += [_confusion(best, shown, words), _table(tables.class_table(best, shown, words))]
        parts += _section("calibration", words, trust.calibration_table(values, words))
        parts += _section("abstention", words, trust.abstention_table(values, words))
        parts += _section(
            "conformal",
            words,
            trust.conformal_table(values, words),
            trust.coverage_table(values, best, words),
        )
    failed = [one for one in values["contenders"] if one["failure"] is not None]
    if failed:
        parts.append(f"## {words('section.failures')}")
        parts.append(_list(f"{one['name']}: {one['failure']}" for one in failed))
    parts += _section("method", words, tables.data_table(values, words), tables.split_table(values, words))
    method = words(
        "caption.one_method" if one else "caption.method",
        units=unit_words(values, words),
        seed=values["protocol"]["seed"],
    )
    parts += [_escaped(method), _list(values["notes"])]
    facts = {**values["versions"], **values["machine"], "ferkit": metadata.version("ferkit")}
    parts.append(_escaped(", ".join(f"{name} {value}" for name, value in facts.items())))
    return "\n\n".join(part for part in parts if part) + "\n"


def render_matrix_markdown(values: Values, language: str = "en", notes: Sequence[str] = ()) -> str:
    """Several data sets against each other; arguments as of :func:`ferkit.evaluation.report.page.render_matrix`."""
    words = Translations(language)
    title = _escaped(words("title.matrix", name=", ".join(values["data"])))
    found = [f"## {_escaped(name)}\n\n{_table(one)}" for name, one in tables.cross_tables(values, words)]
    return "\n\n".join([f"# {title}", words("caption.cross"), *found, _list(notes)]).strip() + "\n"


def _section(name: str, words: Translations, *found: Table | None) -> list[str]:
    there = [_table(one) for one in found if one is not None]
    return [f"## {words(f'section.{name}')}", *there] if there else []


def _table(found: Table) -> str:
    # Rows that only give a reason are shorter than others, or, if all do, longer than the header.
    columns = max(len(found.header), *(len(row) for row in found.rows))
    header = [_escaped(name) for name in found.header] + [""] * (columns - len(found.header))
    rows = [[_cell(cell) for cell in row] + [""] * (columns - len(row)) for row in found.rows]
    right = [i > 0 and i not in found.left for i in range(columns)]
    lines = _aligned([header, *rows], right)
    return "\n".join(lines) + (f"\n\n{_escaped(found.caption)}" if found.caption else "")


def _cell(cell: TableCell) -> str:
    below = [part for part in (cell.small, cell.note) if part]
    text = _escaped(f"{cell.text} ({', '.join(below)})" if below else cell.text)
    return f"**{text}**" if cell.best else text


def _aligned(rows: list[list[str]], right: list[bool]) -> list[str]:
    widths = [max(3, *(width(row[i]) for row in rows)) for i in range(len(right))]
    lines = []
    for row in rows:
        cells = []
        for text, wide, flush in zip(row, widths, right, strict=True):
            space = " " * (wide - width(text))
            cells.append(space + text if flush else text + space)
        lines.append("| " + " | ".join(cells) + " |")
    rule = [
        ("-" * (wide - 1) + ":") if flush else "-" * wide for wide, flush in zip(widths, right, strict=True)
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return lines


def _confusion(one: Values, shown: Mapping[str, str], words: Translations) -> str:
    matrix = one["evaluation"]["confusion"]
    header = [f"{words('column.true')} \\ {words('column.predicted')}"]
    header += [_escaped(shown[name]) for name in one["evaluation"]["labels"]]
    rows = []
    for name, counts in zip(matrix["rows"], matrix["counts"], strict=True):
        total = sum(counts)
        cells = [f"{percent(n / total, 0)} ({n:,})" if total else "–" for n in counts]
        rows.append([_escaped(shown.get(name, f"{name} *")), *cells])
    caption = words("caption.confusion")
    if one["evaluation"]["unknown_classes"]:
        caption += " " + _escaped(words("caption.unknown"))
    return "\n".join(_aligned([header, *rows], [False] + [True] * (len(header) - 1))) + f"\n\n{caption}"


def _list(lines: Any) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """Nothing that Markdown or HTML would take for its own."""
    text = " ".join(text.split())
    for sign in "\\`*_|[]#":
        text = text.replace(sign, "\\" + sign)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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
    copies = "" if evaluation.copies is None else f" ({evaluation.copies.sentence()})"
    parts = [
        f"accuracy {_percent(evaluation.figures['accuracy'].value)} on {evaluation.n:,} images of {len(names)} "
        f"classes{copies}; 95 % intervals by bootstrap over {over}",
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
        _report_confusion(evaluation, names),
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
    images: Thumbnails | Dataset | None = None,
    *,
    page: bool = True,
) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``report.json`` into ``folder``, over those of an earlier report.

    The page needs no other file and no network. All three are made of the same values. Where Matplotlib is installed,
    the images of one model's right and wrong predictions are a plot too: ``predictions.png``.

    Args:
        comparison: what was found; one with a single candidate gives a report of that one.
        folder: is made where needed.
        language: ``en`` or ``ko``, of everything but what the data themselves name.
        images: the data set that was compared on, or what gives the image of a row number; None leaves the
            grids of images out.
        page: whether the HTML page is wanted.

    Returns:
        The files, the page first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    _make(folder)
    values = report_values(comparison)
    files = {}
    read = thumbnails_of(comparison, images) if isinstance(images, Dataset) else images
    if read is not None and len(values["contenders"]) == 1 and can_plot("predictions.png is"):
        _write_predictions(folder / "predictions.png", values, read, language)
    if page:
        shown = {} if read is None else thumbnails(_shown_rows(values), read)
        files[folder / "report.html"] = render_page(values, language, shown)
    else:  # one of an earlier report would contradict the other files
        (folder / "report.html").unlink(missing_ok=True)
    files[folder / "report.md"] = render_markdown(values, language)
    files[folder / "report.json"] = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    _write(files)
    return list(files)


def _write_predictions(path: Path, values: Values, read: Thumbnails, language: str) -> None:
    from ferkit.evaluation.plots import plot_predictions

    words, one = Translations(language), values["contenders"][0]
    shown = translations_of(values, words)
    grids = {}
    for part in ("right", "mistakes"):
        images = []
        for row in one[part]:
            with contextlib.suppress(FerkitError, OSError, KeyError):
                labels = dict.fromkeys(shown.get(row[name], row[name]) for name in ("true", "predicted"))
                caption = " →\n".join(labels) + f" {percent(row['confidence'], 0)}"
                images.append((read(row["row"]), caption))
        grids[words(f"part.{part}")] = images
    if any(grids.values()):
        figure = plot_predictions(grids)
        write_atomically(path, lambda file: figure.savefig(file, format="png"))


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
    """Rows whose images the page shows."""
    if values["best"] is None:
        return []
    best = values["contenders"][values["best"]]
    grids = [*best["right"], *best["mistakes"], *best["unsure"], *values["hard"]["pictures"]]
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


def _report_confusion(evaluation: Evaluation, names: tuple[str, ...]) -> str:
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
