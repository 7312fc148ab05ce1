"""The cells and tables of a report, which the page and the Markdown are both made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ferkit.evaluation.report import format as fmt
from ferkit.evaluation.report.format import Words

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is written.
        value: the number of ``report.json`` that it shows; None for words and for what is not known.
        low, high: the ends of its interval, None without one.
        small: what is written smaller, below; with ``low`` and ``high``, their interval.
        note: a further line as small.
        best: whether it is the best of its column.
        kind: a class of the style sheet.
        rival: of a contender's name: whether it takes part in being the best. Always saying the same is the fastest
            and never surprises, and who saw the test pictures before knows them: neither is an achievement.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    small: str = ""
    note: str = ""
    best: bool = False
    kind: str = ""
    rival: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of which names the row."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    left: frozenset[int] = field(default_factory=frozenset)
    """Columns of words, beside the first."""


def figure_cell(figure: Values, kind: str = "percent", digits: int | None = None) -> Cell:
    """A figure with its interval below."""
    write = fmt.FORMATS[kind]
    text = write(figure["value"]) if digits is None else fmt.number(figure["value"], digits)
    return Cell(text, figure["value"], figure["low"], figure["high"], fmt.interval(figure, kind))


def name_cell(one: Values, words: Words) -> Cell:
    """A contender's name and kind, and whether it saw the test pictures before."""
    note = words("part.saw") if one["seen_rows"] else ""
    rival = one["kind"] != "dummy" and not one["seen_rows"]
    return Cell(one["name"], small=words(f"kind.{one['kind']}"), note=note, kind="name", rival=rival)


def words_of(values: Values, words: Words) -> dict[str, str]:
    """What each class is called in the report's language."""
    return dict(zip(values["labels"]["names"], values["words"][words.language], strict=True))


def unit_words(values: Values, words: Words) -> str:
    """What the intervals are drawn over."""
    if not values["test"]["persons"]:
        return words("unit.images")
    return words("unit.persons" if values["test"]["all_persons_known"] else "unit.units")


def whole_persons(values: Values, words: Words) -> str:
    """That persons are kept whole, where any is known."""
    return words("part.whole") if values["test"]["persons"] else ""


def mark_best(rows: list[list[Cell]], column: int, *, least: bool = False) -> None:
    """Mark the largest, or the least, number of a column."""
    rivals = [row for row in rows if len(row) > column and row[0].rival]
    known = [row[column].value for row in rivals]
    numbers = [value for value in known if value is not None]
    if len(numbers) < 2:
        return
    best = min(numbers) if least else max(numbers)
    for row in rivals:
        if row[column].value == best:
            row[column] = replace(row[column], best=True)


def frozen(rows: Sequence[Sequence[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows as a table keeps them."""
    return tuple(tuple(row) for row in rows)
