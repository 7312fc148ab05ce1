"""A report as Markdown: the same tables and sentences as the page, without its pictures."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from ferkit.core.tables import width
from ferkit.evaluation.report import tables, trust
from ferkit.evaluation.report.cells import Cell, Table, unit_words, words_of
from ferkit.evaluation.report.format import Words, percent
from ferkit.evaluation.report.sentences import pair_sentences, sentences
from ferkit.evaluation.report.values import figure_rows

Values = Mapping[str, Any]


def render_markdown(values: Values, language: str = "en") -> str:
    """The text.

    Args:
        values: of :func:`ferkit.evaluation.report.values.report_values`.
        language: ``en`` or ``ko``.
    """
    words = Words(language)
    done = figure_rows(values)
    one = len(values["contenders"]) == 1
    key = "title.evaluation" if one else "title.comparison"
    title = words(key, contender=values["contenders"][0]["name"], name=values["name"])
    parts = [f"# {_escaped(title)}", _list(sentences(values, words))]
    if done:
        parts += _section(
            "headline", words, tables.headline_table(values, words), tables.cost_table(values, words)
        )
    if values["pairs"]:
        parts += _section("pairs", words, tables.pair_table(values, words))
        parts.append(_list(pair_sentences(values, words)))
    if done:
        parts += _section("leaks", words, tables.leak_table(values, words))
        for column in tables.subgroup_tables(values, words):
            parts += _section("subgroups", words, column)
        best = values["contenders"][values["best"]]
        shown = words_of(values, words)
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
    """Several data sets against each other; arguments as of :func:`ferkit.evaluation.report.html.render_matrix`."""
    words = Words(language)
    title = _escaped(words("title.matrix", name=", ".join(values["data"])))
    found = [f"## {_escaped(name)}\n\n{_table(one)}" for name, one in tables.cross_tables(values, words)]
    return "\n\n".join([f"# {title}", words("caption.cross"), *found, _list(notes)]).strip() + "\n"


def _section(name: str, words: Words, *found: Table | None) -> list[str]:
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


def _cell(cell: Cell) -> str:
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


def _confusion(one: Values, shown: Mapping[str, str], words: Words) -> str:
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
