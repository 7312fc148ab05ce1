"""Write a report: as a page, as Markdown, as JSON and for the terminal, all of the same tables and sentences."""

import contextlib
import functools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup, escape

from ferkit.core.console import table, width
from ferkit.core.errors import FerkitError
from ferkit.core.files import write_atomically, write_json
from ferkit.core.style import can_plot
from ferkit.core.texts import Translations, percent, translated
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation import plots
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.metrics import Evaluation
from ferkit.evaluation.plots import Thumbnails, thumbnails, thumbnails_of
from ferkit.evaluation.report import charts, tables
from ferkit.evaluation.report.charts import Drawing, colour_of
from ferkit.evaluation.report.tables import Table, TableCell, translations_of, unit_words
from ferkit.evaluation.report.values import (
    Values,
    dummy_accuracy,
    figure_rows,
    findings_text,
    pair_sentences,
    report_values,
)

if TYPE_CHECKING:
    from jinja2 import Template

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
        done=done,
        failed=[one for one in values["contenders"] if one["failure"] is not None],
        best=None if values["best"] is None else values["contenders"][values["best"]],
        one=len(values["contenders"]) == 1,
        shown=translations_of(values, words),
        units=unit_words(values, words),
        short=findings_text(values, words),
        images=images or {},
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
    recalls = {
        name: (recalls_drawing(values, name, words), table) for name, table in recall_tables(values, words)
    }
    return _rendered(
        "matrix.html", words=words, v=values, found_tables=found, recalls=recalls, notes=notes, links=links
    )


def recalls_drawing(values: Values, candidate: str, words: Translations) -> Drawing:
    """The drawing of :func:`ferkit.evaluation.report.tables.recalls_of`."""
    label = f"{candidate}: {words('part.recalls')}"
    return charts.recalls_chart(tables.recalls_of(values, candidate, words), label, words)


def _rendered(template: str, words: Translations, **values: Any) -> str:
    page = _template(template).render(
        t=words,
        said=functools.partial(translated, language=words.language),
        lang=words.language,
        version=metadata.version("ferkit"),
        **values,
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
        (str(rank), one)
        for rank, one in enumerate(done, 1)
        if one["costs"]["ms_batch1"] and one["kind"] != "dummy"
    ]
    axes = {"ms": words("column.ms_batch1"), "accuracy": words("column.accuracy")}
    places = [(rank, one["costs"]["ms_batch1"], one["evaluation"]["accuracy"]) for rank, one in timed]
    return {
        "accuracy": charts.intervals_chart(rows, words("column.accuracy"), dummy_accuracy(values)),
        "timed": [(rank, one["name"]) for rank, one in timed],
        "trade": charts.trade_chart(places, axes, words("section.costs")) if len(timed) > 1 else None,
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


def _reliability(one: Values, words: Translations) -> list[tuple[str, Drawing]]:
    """The diagram as it is and, where there is one, after correction by temperature."""
    names = {name: words(f"column.{name}") for name in ("confidence", "accuracy", "images")}
    if "reason" in one["calibration"]:
        parts = [("before", one["evaluation"]["reliability"], one["evaluation"]["ece"]["value"])]
    else:
        corrected = zip(("before", "temperature"), one["calibration"]["results"], strict=False)
        parts = [(key, result["reliability"], result["ece"]) for key, result in corrected]
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
    for cell, mark in ((cell, mark) for cell in one["cells"] for mark in ("accuracy", "loss")):
        curves = {
            key: [(i, entry[key]) for i, entry in enumerate(cell["history"], 1) if key in entry]
            for key in _CURVES if mark in key
        }  # fmt: skip
        series = [(key, points) for key, points in curves.items() if points]
        if not series:
            continue
        repeat = words("part.repeat", n=cell["repeat"] + 1) if len(one["cells"]) > 1 else ""
        unit = words("column.accuracy" if mark == "accuracy" else "column.log_loss")
        chart = charts.curves_chart(series, words("column.epoch"), unit, one["name"], shares=False)
        caption = words("caption.learning", name=one["name"], repeat=repeat)
        found.append({"caption": caption, "svg": chart, "names": [key for key, _ in series]})
    return found


@functools.cache
def _template(name: str) -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ferkit.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["breakable"] = _breakable
    return environment.get_template(name)


def _breakable(name: str) -> Markup:
    """Lets a long name of a candidate go on in the next line after its signs."""
    return Markup(re.sub(r"([@:_/,])", r"\1<wbr>", str(escape(name))))


def write_report(evaluation: Evaluation, folder: Path, language: str = "en") -> list[Path]:
    """Write ``report.txt``, ``metrics.json`` and, with Matplotlib, the plots into ``folder``, over earlier ones.

    Plots show English names where no font on this machine has those of ``language``.

    Returns:
        The files, the text first.

    Raises:
        FerkitError: the folder cannot be written.
    """
    files = [folder / "report.txt", folder / "metrics.json"]
    _write({files[0]: format_report(evaluation, language) + "\n"})
    write_json(files[1], evaluation.to_dict())
    if can_plot("the PNG plots are"):
        for name, drawing in plots.evaluation_drawings(evaluation, language).items():
            files.append(folder / f"{name}.png")
            plots.draw_png(drawing, files[-1])
    return files


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
    values = report_values(comparison)
    files = {}
    read = thumbnails_of(comparison, images) if isinstance(images, Dataset) else images
    if page:
        shown = {} if read is None else thumbnails(_shown_rows(values), read)
        files[folder / "report.html"] = render_page(values, language, shown)
    files[folder / "report.md"] = render_markdown(values, language)
    files[folder / "report.json"] = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    _write(files)
    if not page:  # one of an earlier report would contradict the other files
        (folder / "report.html").unlink(missing_ok=True)
    if read is not None and len(values["contenders"]) == 1 and can_plot("predictions.png is"):
        _write_predictions(folder / "predictions.png", values, read, language)
    return list(files)


def _write_predictions(path: Path, values: Values, read: Thumbnails, language: str) -> None:
    words, one = Translations(plots.drawable_language(language)), values["contenders"][0]
    shown = translations_of(values, words)
    grids = {}
    for part in ("right", "mistakes"):
        images = []
        for row in one.get(part, ()):  # none where the candidate failed
            with contextlib.suppress(FerkitError, OSError, KeyError):
                labels = dict.fromkeys(shown.get(row[name], row[name]) for name in ("true", "predicted"))
                caption = " ➔\n".join(labels) + f" {percent(row['confidence'], 0)}"
                images.append((read(row["row"]), caption))
        grids[words(f"part.{part}")] = images
    if any(grids.values()):
        figure = plots.plot_predictions(grids)
        write_atomically(path, lambda file: figure.savefig(file, format="png"))


def write_matrix_report(
    values: Mapping[str, Any], folder: Path, language: str = "en", notes: Sequence[str] = ()
) -> list[Path]:
    """Write ``report.html`` and ``report.md`` on several data sets against each other, with links to the cells'
    own, and a PNG of the recalls of each candidate.

    Args:
        values: ``data``, their names, and ``contenders``: by name, rows (trained on) of columns (tested on), as
            in ``matrix.json``.
        folder: where the cells' folders are.
        language: ``en`` or ``ko``.
        notes: what a reader must know, in sentences.

    Raises:
        FerkitError: the folder cannot be written.
    """
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
    written = list(files)
    drawn = [name for name, _ in recall_tables(values, Translations(language))]
    if drawn and can_plot("the PNG plots are"):
        words = Translations(plots.drawable_language(language))
        for name in drawn:
            drawing = recalls_drawing(values, name, words)
            written.append(folder / ("recall-" + re.sub(r"[^\w.@+-]+", "-", name) + ".png"))
            plots.draw_png(charts.together([drawing], drawing.label), written[-1])
    return written


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        content = text.encode("utf-8", "surrogateescape")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FerkitError(
                f"{path.parent} cannot be made: {error.strerror or error}; choose another place"
            ) from error
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


_ENOUGH_TRAININGS = 3
"""From so many on, the tests count how much one training differs from the next."""


_MOST_COLUMNS = 15
"""Of a confusion matrix that lines of text can hold."""


def format_report(evaluation: Evaluation, language: str = "en") -> str:
    """The figures, the classes and the confusion matrix of one evaluation as aligned text."""
    words, one = Translations(language), {"evaluation": evaluation.to_dict()}
    shown = dict(zip(evaluation.labels.names, evaluation.labels.display(language), strict=True))
    persons = evaluation.n_groups
    over = words("unit.images") if persons is None else words("title.persons", n=persons)
    accuracy = one["evaluation"]["accuracy"]["value"]
    title = words("text.title", value=accuracy, n=evaluation.n, k=len(shown), over=over)
    if evaluation.copies is not None:  # next to the accuracy, which it raises
        title += "; " + translated(evaluation.copies.sentence(), language)
    matrix = tables.confusion_table(one, shown, words) if len(shown) <= _MOST_COLUMNS else None
    parts = [
        title,
        as_text(tables.figure_table(one, words)),
        as_text(tables.class_table(one, shown, words)),
        as_text(matrix) if matrix else words("text.wide", n=len(shown)),
    ]
    parts += [words("text.note", note=translated(note, language)) for note in evaluation.notes]
    if evaluation.unknown_classes:
        parts.append(words("caption.unknown"))
        parts.append(words("text.with_unknown", value=evaluation.accuracy_with_unknown))
    return "\n\n".join(parts)


def format_summary(comparison: Comparison, language: str = "en") -> str:
    """A comparison in a few tables and sentences."""
    values, words = report_values(comparison), Translations(language)
    split = values["splits"][0]
    facts = {"name": values["name"], "train": split["train_rows"], "test": split["test_rows"]}
    title = words("text.comparison", how=words(f"part.{split['origin']}"), units=unit_words(values, words),
                  k=len(values["labels"]["names"]), **facts)  # fmt: skip
    parts = [title + (words("part.repeat_of", n=len(values["splits"])) if len(values["splits"]) > 1 else "")]
    if values["best"] is not None:
        one = [tables.summary_table(values, words), tables.cost_table(values, words)]
        found = [*one, tables.leak_table(values, words), *tables.subgroup_tables(values, words)]
        parts += [as_text(each, intervals={1}) for each in found if each is not None]
    return "\n\n".join([*parts, "\n".join(summary_sentences(values, words))])


def summary_sentences(values: Values, words: Translations) -> list[str]:
    """What a comparison found, what failed, and what a reader must know."""
    trained = [one for one in figure_rows(values) if one["kind"] == "head" or one["costs"]["train_s"]]
    found = [*findings_text(values, words), *pair_sentences(values, words)]
    if len(values["splits"]) < _ENOUGH_TRAININGS and len(trained) > 1:
        found.append(words("say.trainings", n=len(values["splits"]), enough=_ENOUGH_TRAININGS + 2))
    for one in values["contenders"]:
        if one["failure"] is not None:
            found.append(f"{one['name']}: {translated(one['failure'], words.language)}")
        elif one["kind"] in ("network", "peer"):  # what others trained may know more than it should
            found += [f"{one['name']}: {translated(note, words.language)}" for note in one["notes"]]
        for key in ("unmapped", "unreached"):
            if one[key]:
                found.append(f"{one['name']}: {words(f'caption.{key}', names=', '.join(one[key]))}")
    return [*found, *(words("text.note", note=translated(note, words.language)) for note in values["notes"])]


def recall_tables(values: Values, words: Translations) -> list[tuple[str, Table]]:
    """For each candidate that tells images apart, its recalls by expression and by what it was trained on."""
    recalls = {
        name: tables.recalls_of(values, name, words) for name in values["contenders"] if name != "dummy"
    }
    return [(name, tables.recall_table(found, words)) for name, found in recalls.items() if found]


def format_matrix(values: Values, language: str = "en", notes: Sequence[str] = ()) -> str:
    """Several data sets against each other; arguments as of :func:`ferkit.evaluation.report.page.render_matrix`."""
    words = Translations(language)
    found = [*tables.cross_tables(values, words), *recall_tables(values, words)]
    parts = [f"{name}\n{as_text(one)}" for name, one in found]
    return "\n\n".join([*parts, *(words("text.note", note=translated(note, language)) for note in notes)])


def render_markdown(values: Values, language: str = "en") -> str:
    """A whole report.

    Args:
        values: of :func:`ferkit.evaluation.report.values.report_values`.
        language: ``en`` or ``ko``.
    """
    words = Translations(language)
    one = len(values["contenders"]) == 1
    key = "title.evaluation" if one else "title.comparison"
    title = words(key, candidate=values["contenders"][0]["name"], name=values["name"])
    parts = [f"# {_escaped(title)}", _list(findings_text(values, words))]
    for heading, found in _sections(values, words):
        blocks = [
            as_markdown(block) if isinstance(block, Table) else _list(block) for block in found if block
        ]
        parts += [f"## {_escaped(heading)}", *blocks] if blocks else []
    method = words(
        "caption.one_method" if one else "caption.method",
        units=unit_words(values, words),
        seed=values["protocol"]["seed"],
    )
    parts += [_escaped(method), _list(translated(note, language) for note in values["notes"])]
    facts = {**values["versions"], **values["machine"], "ferkit": metadata.version("ferkit")}
    parts.append(_escaped(", ".join(f"{name} {value}" for name, value in facts.items())))
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(values: Values, words: Translations) -> Iterator[tuple[str, list[Table | list[str] | None]]]:
    """Headings, and the tables and sentences under each."""
    if values["best"] is not None:
        best, shown = values["contenders"][values["best"]], translations_of(values, words)
        yield (
            words("section.headline"),
            [tables.summary_table(values, words), tables.cost_table(values, words)],
        )
        if values["pairs"]:
            yield words("section.pairs"), [tables.pair_table(values, words), pair_sentences(values, words)]
        yield words("section.leaks"), [tables.leak_table(values, words)]
        for column in tables.subgroup_tables(values, words):
            yield words("section.subgroups"), [column]
        yield (
            best["name"],
            [tables.confusion_table(best, shown, words), tables.class_table(best, shown, words)],
        )
        yield words("section.calibration"), [tables.calibration_table(values, words)]
        yield words("section.abstention"), [tables.abstention_table(values, words)]
        yield (
            words("section.conformal"),
            [tables.conformal_table(values, words), tables.coverage_table(values, best, words)],
        )
    failed = [one for one in values["contenders"] if one["failure"] is not None]
    reasons = [f"{one['name']}: {translated(one['failure'], words.language)}" for one in failed]
    yield words("section.failures"), [reasons]
    yield words("section.method"), [tables.data_table(values, words), tables.split_table(values, words)]


def render_matrix_markdown(values: Values, language: str = "en", notes: Sequence[str] = ()) -> str:
    """Several data sets against each other; arguments as of :func:`ferkit.evaluation.report.page.render_matrix`."""
    words = Translations(language)
    title = _escaped(words("title.matrix", name=", ".join(values["data"])))
    both = [*tables.cross_tables(values, words), *recall_tables(values, words)]
    found = [f"## {_escaped(name)}\n\n{as_markdown(one)}" for name, one in both]
    said = _list(translated(note, language) for note in notes)
    return "\n\n".join([f"# {title}", words("caption.cross"), *found, said]).strip() + "\n"


def as_text(found: Table, intervals: Collection[int] | None = None) -> str:
    """A table for the terminal.

    Args:
        found: the table.
        intervals: columns whose intervals are shown; None for all.
    """
    header, rows, right = _filled(found)
    texts = [
        [_plain(cell, i == 0 or intervals is None or i in intervals) for i, cell in enumerate(row)]
        for row in rows
    ]
    return table(header, texts, right=[i for i, flush in enumerate(right) if flush])


def _plain(cell: TableCell, with_interval: bool) -> str:
    inside = [cell.small if with_interval or cell.low is None else "", cell.note]
    below = ", ".join(part for part in inside if part)
    return f"{cell.text} ({below})" if below else cell.text


def as_markdown(found: Table) -> str:
    """A table for Markdown, with its caption."""
    header, rows, right = _filled(found)
    texts = [[_escaped(name) for name in header]]
    for row in rows:
        written = [_escaped(_plain(cell, True)) for cell in row]
        texts.append([f"**{text}**" if cell.best else text for cell, text in zip(row, written, strict=True)])
    widths = [max(3, *(width(row[i]) for row in texts)) for i in range(len(right))]
    rule = ["-" * (w - 1) + ":" if flush else "-" * w for w, flush in zip(widths, right, strict=True)]
    lines = []
    for texts_of_row in (texts[0], rule, *texts[1:]):
        padded = [
            (" " * (wide - width(text)) + text) if flush else text + " " * (wide - width(text))
            for text, wide, flush in zip(texts_of_row, widths, right, strict=True)
        ]
        lines.append("| " + " | ".join(padded) + " |")
    return "\n".join(lines) + (f"\n\n{_escaped(found.caption)}" if found.caption else "")


def _filled(found: Table) -> tuple[list[str], list[list[TableCell]], list[bool]]:
    """Header and rows of one length, and which columns end flush."""
    # Rows that only give a reason are shorter than others, or, if all do, longer than the header.
    n = max(len(found.header), *(len(row) for row in found.rows))
    rows = [[*row, *[TableCell("")] * (n - len(row))] for row in found.rows]
    header = [*found.header, *[""] * (n - len(found.header))]
    return header, rows, [i > 0 and i not in found.left for i in range(n)]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """Nothing that Markdown or HTML would take for its own."""
    text = " ".join(text.split())
    for sign in "\\`*_|[]#":
        text = text.replace(sign, "\\" + sign)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
