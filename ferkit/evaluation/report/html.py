"""A report as one HTML page that needs nothing else: no network, no script, no other file."""

import functools
import re
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from ferkit.evaluation.report import svg_charts as charts
from ferkit.evaluation.report import tables, trust
from ferkit.evaluation.report.cells import unit_words, words_of
from ferkit.evaluation.report.format import Words, percent
from ferkit.evaluation.report.sentences import dummy_accuracy, pair_sentences, sentences
from ferkit.evaluation.report.svg_axes import colour_of
from ferkit.evaluation.report.values import figure_rows

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
        images: ``data:`` address of each row's picture, of :func:`ferkit.evaluation.gallery.thumbnails`; what is
            not there is left out.
    """
    words = Words(language)
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
        shown=words_of(values, words),
        units=unit_words(values, words),
        short=sentences(values, words),
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
    words = Words(language)
    found = tables.cross_tables(values, words)
    return _rendered("matrix.html", words=words, v=values, found_tables=found, notes=notes, links=links)


def _rendered(template: str, words: Words, **values: Any) -> str:
    style = Markup(_resource("style.css"))
    version = metadata.version("ferkit")
    page = (
        _templates()
        .get_template(template)
        .render(t=words, lang=words.language, style=style, version=version, **values)
    )
    # Blank lines of the template's own logic are a tenth of the page.
    return re.sub(r"\n\s*\n+", "\n", page).strip() + "\n"


def _charts(values: Values, words: Words) -> dict[str, Any]:
    done, shown = figure_rows(values), words_of(values, words)
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


def _trade(points: list[tuple[str, float, Values]], words: Words) -> Markup:
    names = {"ms": words("column.ms_batch1"), "accuracy": words("column.accuracy")}
    return charts.trade_chart(points, names, words("section.costs"))


def _reliability(one: Values, words: Words) -> list[tuple[str, Markup]]:
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


def _learning(one: Values, words: Words) -> list[dict[str, Any]]:
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
    """Lets a long name of a contender go on in the next line after its signs."""
    return Markup(re.sub(r"([@:_/,])", r"\1<wbr>", str(escape(name))))


def _resource(name: str) -> str:
    return resources.files("ferkit.evaluation.report.templates").joinpath(name).read_text(encoding="utf-8")
