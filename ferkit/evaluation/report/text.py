"""Write a report as text: for the terminal, and as Markdown. Both are made of the page's tables and sentences."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from ferkit.core.console import table, width
from ferkit.core.texts import Translations, translated
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.metrics import Evaluation
from ferkit.evaluation.report import tables
from ferkit.evaluation.report.tables import Table, TableCell, translations_of, unit_words
from ferkit.evaluation.report.values import figure_rows, findings_text, pair_sentences, report_values

Values = Mapping[str, Any]

_ENOUGH_TRAININGS = 3
"""From so many on, the tests count how much one training differs from the next."""


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
    parts = [
        title,
        as_text(tables.figure_table(one, words)),
        as_text(tables.class_table(one, shown, words)),
        as_text(tables.confusion_table(one, shown, words)),
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
    failed = [one for one in values["contenders"] if one["failure"] is not None]
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
        conformal = [tables.conformal_table(values, words), tables.coverage_table(values, best, words)]
        yield words("section.conformal"), [*conformal]
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
    texts = []
    for row in rows:
        some = [i == 0 or intervals is None or i in intervals for i in range(len(row))]
        texts.append([_plain(cell, all_of_it) for cell, all_of_it in zip(row, some, strict=True)])
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
    lines = []
    for texts_of_row in texts:
        padded = [
            (" " * (wide - width(text)) + text) if flush else text + " " * (wide - width(text))
            for text, wide, flush in zip(texts_of_row, widths, right, strict=True)
        ]
        lines.append("| " + " | ".join(padded) + " |")
    rule = ["-" * (w - 1) + ":" if flush else "-" * w for w, flush in zip(widths, right, strict=True)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
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
