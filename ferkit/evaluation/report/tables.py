"""The tables of a report on who is how good, at which cost, on which data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ferkit.core.labels import LabelSet
from ferkit.core.texts import MISSING, Translations, amount, number, p_value, percent, points, translated
from ferkit.evaluation.metrics import FEW_FOR_RESAMPLES
from ferkit.evaluation.report.values import ALPHA, Values, figure_rows, is_distinct, verdict


@dataclass(frozen=True)
class TableCell:
    """One cell.

    Attributes:
        text: what is written.
        value: the number of ``report.json`` that it shows; None for words and for what is not known.
        low, high: the ends of its interval, None without one.
        small: what is written smaller, below; with ``low`` and ``high``, their interval.
        note: a further line as small.
        best: whether it is the best of its column.
        kind: a class of the style sheet.
        rival: of a candidate's name: whether it takes part in being the best. Always saying the same is the fastest
            and never surprises, and who saw the test images before knows them: neither is an achievement.
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
    rows: Sequence[Sequence[TableCell]]
    caption: str = ""
    left: frozenset[int] = field(default_factory=frozenset)
    """Columns of words, besides the first."""


_FORMATS: dict[str, Callable[[float | None], str]] = {"percent": percent, "points": points, "number": number}


def figure_cell(words: Translations, figure: Values, kind: str = "percent") -> TableCell:
    """A figure (``percent``, ``points`` or ``number``) with its interval below."""
    text = _FORMATS[kind](figure["value"])
    return TableCell(text, figure["value"], figure["low"], figure["high"], words.interval(figure, kind))


def number_cell(value: float | None, write: Callable[[float | None], str]) -> TableCell:
    """A number and how it is written."""
    return TableCell(write(value), value)


def count(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return MISSING if value is None else f"{value:,}"


def headed(words: Translations, *names: str) -> tuple[str, ...]:
    """The heads of columns."""
    return tuple(words(f"column.{name}") for name in names)


def not_done(one: Values, part: str, words: Translations) -> list[TableCell]:
    """The row of a candidate of which a part could not be judged: why."""
    reason = translated(one[part]["reason"], words.language)
    return [name_cell(one, words), TableCell(words("caption.not_done", reason=reason), kind="wide")]


def name_cell(one: Values, words: Translations) -> TableCell:
    """A candidate's name and kind, and whether it saw the test images before."""
    note = words("part.saw") if one["seen_rows"] else ""
    rival = one["kind"] != "dummy" and not one["seen_rows"]
    return TableCell(one["name"], small=words(f"kind.{one['kind']}"), note=note, kind="name", rival=rival)


def translations_of(values: Values, words: Translations) -> dict[str, str]:
    """What each class is called in the report's language."""
    return dict(zip(values["labels"]["names"], values["words"][words.language], strict=True))


def unit_words(values: Values, words: Translations) -> str:
    """What the intervals are drawn over."""
    if not values["test"]["persons"]:
        return words("unit.images")
    return words("unit.persons" if values["test"]["all_persons_known"] else "unit.units")


def whole_persons(values: Values, words: Translations) -> str:
    """That persons are kept whole, where any is known."""
    return words("part.whole") if values["test"]["persons"] else ""


def mark_best(rows: list[list[TableCell]], column: int, *, least: bool = False) -> None:
    """Mark the largest, or the least, number of a column."""
    rivals = [row for row in rows if len(row) > column and row[0].rival]
    numbers = [value for row in rivals if (value := row[column].value) is not None]
    if len(numbers) < 2:
        return
    best = min(numbers) if least else max(numbers)
    for row in rivals:
        if row[column].value == best:
            row[column] = replace(row[column], best=True)


def calibration_table(values: Values, words: Translations) -> Table:
    """Calibration error and log-loss before and after each correction."""
    methods = ("before", "temperature", "isotonic")
    header = [words("column.contender")]
    header += [
        f"{words(f'column.{part}')}, {words(f'column.{m}')}" for part in ("ece", "log_loss") for m in methods
    ]
    rows = []
    for one in figure_rows(values):
        if "reason" in one["calibration"]:
            rows.append(not_done(one, "calibration", words))
            continue
        results = one["calibration"]["results"]
        cells = [number_cell(result["ece"], percent) for result in results]
        cells += [number_cell(result["log_loss"], number) for result in results]
        warmth = results[1]["temperature"]
        rows.append([name_cell(one, words), *cells, TableCell(number(warmth, 2), warmth)])
    caption = (
        words("caption.calibration", whole=whole_persons(values, words)) + " " + words("caption.temperature")
    )
    return Table((*header, words("column.temperature")), rows, caption)


def abstention_table(values: Values, words: Translations) -> Table:
    """Accuracy if the least sure are left out."""
    done = figure_rows(values)
    shares = [one["share"] for one in done[0]["abstention"]["left_out"]]
    header = [words("column.contender"), words("column.aurc")]
    header += [words("column.left_out", share=share) for share in shares] + [words("column.answer_above")]
    rows = []
    for one in done:
        left_out = one["abstention"]["left_out"]
        threshold = next(part["threshold"] for part in left_out if part["share"] == 0.2)
        cells = [figure_cell(words, one["abstention"]["aurc"], "number")]
        cells += [figure_cell(words, part["accuracy"]) for part in left_out]
        rows.append([name_cell(one, words), *cells, TableCell(percent(threshold, 0), threshold)])
    mark_best(rows, 1, least=True)
    for column in range(2, len(header) - 1):
        mark_best(rows, column)
    return Table(tuple(header), rows, words("caption.left_out"))


def conformal_table(values: Values, words: Translations) -> Table:
    """How often the sets of each method and level held the true expression, and their mean size."""
    done = figure_rows(values)
    kinds = next((_set_kinds(one) for one in done if "results" in one["conformal"]), ())
    rows = []
    for one in done:
        if "reason" in one["conformal"]:
            rows.append(not_done(one, "conformal", words))
            continue
        cells = []
        for result in one["conformal"]["results"]:
            cell, size = figure_cell(words, result["coverage"]), result["mean_size"]["value"]
            cells.append(replace(cell, note=words("column.set_size", size=size)))
        rows.append([name_cell(one, words), *cells])
    best = values["contenders"][values["best"]]["name"]
    caption = words("caption.conformal", whole=whole_persons(values, words), name=best)
    return Table((words("column.contender"), *kinds), rows, caption)


def coverage_table(values: Values, one: Values, words: Translations) -> Table | None:
    """How often the sets held each expression; None where there are no sets."""
    if "reason" in one["conformal"]:
        return None
    rows = [
        [
            TableCell(name, kind="name"),
            *(number_cell(r["per_class"][c], percent) for r in one["conformal"]["results"]),
        ]
        for c, name in enumerate(translations_of(values, words).values())
    ]
    return Table((words("column.expression"), *_set_kinds(one)), rows)


def _set_kinds(one: Values) -> tuple[str, ...]:
    return tuple(f"{r['method'].upper()} {percent(r['level'], 0)}" for r in one["conformal"]["results"])


_SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "top2")
_COSTS = ("train_s", "ms_batch1", "ms_batch32", "size_mb", "memory_mb", "energy_j")


def summary_table(values: Values, words: Translations) -> Table:
    """All figures of all candidates, the most accurate first, then those that failed."""
    header = headed(words, "contender", *_SHARES, "log_loss", "ece")
    rows = []
    for one in figure_rows(values):
        found = one["evaluation"]
        cells = [figure_cell(words, found[name]) for name in _SHARES]
        cells += [figure_cell(words, found["log_loss"], "number"), figure_cell(words, found["ece"])]
        rows.append([name_cell(one, words), *cells])
    for column in range(1, len(header)):
        mark_best(rows, column, least=column > len(_SHARES))
    caption = words("caption.headline", units=unit_words(values, words))
    if len(rows) > 1:
        caption += " " + words("caption.in_bold")
    return Table(header, rows, caption)


def cost_table(values: Values, words: Translations) -> Table | None:
    """What each candidate takes, without columns that nobody has; None if nothing was measured."""
    done = figure_rows(values)
    known = [name for name in _COSTS if any(one["costs"][name] is not None for one in done)]
    if not known:
        return None
    rows = [
        [
            name_cell(one, words),
            *(
                number_cell(one["costs"][name], words.duration if name == "train_s" else amount)
                for name in known
            ),
        ]
        for one in done
    ]
    for column in range(1, len(known) + 1):
        mark_best(rows, column, least=True)
    caption = words("caption.costs")
    missing = [words(f"column.{name}") for name in _COSTS if name not in known]
    if missing:
        caption += " " + words("caption.unmeasured", names="; ".join(missing))
    return Table(headed(words, "contender", *known), rows, caption)


def pair_matrix(values: Values, words: Translations) -> Table:
    """Accuracy of each candidate less that of each other, the most accurate first."""
    done = figure_rows(values)
    found = {}
    for pair in values["pairs"]:
        found[pair["a"], pair["b"]] = (1, pair)
        found[pair["b"], pair["a"]] = (-1, pair)
    rows = []
    for rank, one in enumerate(done, 1):
        row = [replace(name_cell(one, words), text=f"{rank} {one['name']}")]
        for other in done:
            sign, pair = found.get((one["name"], other["name"]), (0, None))
            if pair is None:
                row.append(TableCell(""))
                continue
            difference = sign * pair["difference"]
            kind = ("better" if difference > 0 else "worse") if is_distinct(pair) else ""
            p = f"p {p_value(pair['p_adjusted'])}"
            row.append(TableCell(points(difference), difference, small=p, kind=kind))
        rows.append(row)
    caption = words("caption.matrix", n=len(values["pairs"]))
    return Table((words("column.contender"), *(str(i + 1) for i in range(len(done)))), rows, caption)


def pair_table(values: Values, words: Translations) -> Table:
    """Each two candidates."""
    names = ("contender", "contender", "difference", "p_mcnemar", "p_bootstrap", "p", "verdict")
    rows = []
    for pair in values["pairs"]:
        difference = {**pair, "value": pair["difference"]}
        ps = [number_cell(pair[p], p_value) for p in ("p_mcnemar", "p_bootstrap", "p_adjusted")]
        both = [TableCell(pair[one], kind="name") for one in ("a", "b")]
        said = TableCell(verdict(pair, words), best=is_distinct(pair), kind="wide")
        rows.append([*both, figure_cell(words, difference, "points"), *ps, said])
    return Table(headed(words, *names), rows, words("caption.pairs"), frozenset({1, 6}))


def leak_table(values: Values, words: Translations) -> Table | None:
    """Accuracy with and without leaking rows; None if none leaks."""
    rows = []
    for one in figure_rows(values):
        if "evaluation_without_leaks" not in one:
            continue
        whole, clean = one["evaluation"]["accuracy"], one["evaluation_without_leaks"]["accuracy"]
        gain = TableCell(points(whole["value"] - clean["value"]))
        rows.append([name_cell(one, words), figure_cell(words, whole), figure_cell(words, clean), gain])
    header = headed(words, "contender", "with_leaks", "without_leaks", "memory")
    return Table(header, rows, words("caption.leaks")) if rows else None


def figure_table(one: Values, words: Translations) -> Table:
    """The figures of one evaluation, one a row."""
    rows = [
        [TableCell(words(f"column.{name}"), kind="name"), figure_cell(words, one["evaluation"][name], kind)]
        for name, kind in (*((name, "percent") for name in (*_SHARES, "ece")), ("log_loss", "number"))
    ]
    return Table((words("column.figure"), words("column.value")), rows)


def confusion_table(one: Values, shown: Mapping[str, str], words: Translations) -> Table:
    """The shares of each true expression's images (row) that were taken for each expression, and their number."""
    rows = []
    for name, counts in zip(
        *(one["evaluation"]["confusion"][part] for part in ("rows", "counts")), strict=True
    ):
        total = sum(counts)
        cells = [TableCell(percent(n / total, 0) if total else MISSING, n, small=f"{n:,}") for n in counts]
        rows.append([TableCell(shown.get(name, f"{name} *"), kind="name"), *cells])
    header = f"{words('column.true')} ↓ {words('column.predicted')} →"
    caption = words("caption.confusion")
    if one["evaluation"]["unknown_classes"]:
        caption += " " + words("caption.unknown")
    return Table((header, *(shown[name] for name in one["evaluation"]["labels"])), rows, caption)


def class_table(one: Values, shown: Mapping[str, str], words: Translations) -> Table:
    """Precision, recall and F1 of each expression."""
    rows = []
    for name, figures in one["evaluation"]["per_class"].items():
        cells = [
            replace(figure_cell(words, figures[part]), kind=f"c{i}")
            for i, part in enumerate(("precision", "recall", "f1"))
        ]
        rows.append([TableCell(shown[name], kind="name"), *cells, number_cell(figures["support"], count)])
    return Table(
        headed(words, "expression", "precision", "recall", "f1", "images"), rows, words("caption.class")
    )


def subgroup_tables(values: Values, words: Translations) -> list[Table]:
    """For each column that groups are compared by, the best candidate by group, then all candidates' gaps."""
    found = []
    for i, column in enumerate(values["protocol"]["by"]):
        best = values["contenders"][values["best"]]
        groups = best["subgroups"][i]
        if "reason" in groups:
            continue
        found.append(_groups_of_one(groups, column, values, words))
        if len(figure_rows(values)) > 1:
            found.append(_gaps_of_all(i, column, values, words))
    return found


def _groups_of_one(groups: Values, column: str, values: Values, words: Translations) -> Table:
    rows = []
    for row in groups["rows"]:
        cells = [TableCell(row["value"], note=words("part.few") if row["few"] else "", kind="name")]
        cells += [number_cell(row["n"], count), number_cell(row["persons"], count)]
        cells += [figure_cell(words, row[name]) for name in ("accuracy", "macro_f1")]
        rows.append([*cells, figure_cell(words, row["gap"], "points")])
    name = values["contenders"][values["best"]]["name"]
    caption = words("caption.subgroups", column=column, name=name, units=unit_words(values, words))
    for note in groups["notes"]:
        said = translated(note, words.language)
        caption += f" {said[0].upper()}{said[1:]}."
    header = (column, *headed(words, "images", "persons", "accuracy", "macro_f1", "gap"))
    return Table(header, rows, caption)


def _gaps_of_all(i: int, column: str, values: Values, words: Translations) -> Table:
    rows = []
    for one in figure_rows(values):
        groups = one["subgroups"][i]
        gap = replace(
            figure_cell(words, groups["gap"], "points"), best=groups["p"] is not None and groups["p"] < ALPHA
        )
        ends = [TableCell(groups[end] or MISSING) for end in ("best", "worst")]
        rows.append([name_cell(one, words), *ends, gap, number_cell(groups["p"], p_value)])
    header = headed(words, "contender", "best_group", "worst_group", "widest_gap", "p_groups")
    return Table(header, rows, words("caption.gaps", column=column), frozenset({1, 2}))


def cross_tables(values: Values, words: Translations) -> list[tuple[str, Table]]:
    """For each candidate, accuracy by the data trained on (rows) and tested on (columns)."""
    names = values["data"]
    found = []
    for name, matrix in values["contenders"].items():
        rows = []
        for i, row in enumerate(matrix):
            cells = []
            for j, cell in enumerate(row):
                if cell is None:
                    cells.append(TableCell(words("part.failed")))
                    continue
                note = words("part.in_classes", k=len(cell["classes"]))
                cells.append(replace(figure_cell(words, cell["accuracy"]), note=note, best=i == j))
            rows.append([TableCell(names[i], kind="name"), *cells])
        found.append((name, Table((words("column.trained_tested"), *names), rows)))
    return found


Recalls = list[tuple[str, list[tuple[str, Values, Values | None]]]]


def recalls_of(values: Values, candidate: str, words: Translations) -> Recalls:
    """Of each expression of each data set tested on: trained on what, the recall, and its change.

    Args:
        values: of :func:`ferkit.evaluation.compare.matrix_values`.
        candidate: its name.
        words: of the language.
    """
    found = []
    for j, tested in enumerate(values["data"]):
        own = values["contenders"][candidate][j][j]
        classes = own["classes"] if own else []
        shown = LabelSet.from_names(classes).display(words.language) if classes else ()
        for name, word in zip(classes, shown, strict=True):
            rows = [
                (trained, cell["recall"][name], cell["recall_change"].get(name))
                for trained, row in zip(values["data"], values["contenders"][candidate], strict=True)
                if (cell := row[j]) is not None and name in cell["recall"]
            ]
            found.append((f"{word} ({words('part.tested_on', name=tested)})", rows))
    return [(title, rows) for title, rows in found if len(rows) > 1]


def recall_table(found: Recalls, words: Translations) -> Table:
    """The recalls of :func:`recalls_of`, a row for each training."""
    rows = []
    for title, group in found:
        for trained, recall, change in group:
            changed = TableCell("") if change is None else figure_cell(words, change, "points")
            if change and (n := change["units"]) < FEW_FOR_RESAMPLES:
                changed = replace(changed, note=words("part.newcombe", n=n))
            rows.append(
                [TableCell(title, kind="name"), TableCell(trained), figure_cell(words, recall), changed]
            )
    return Table(
        headed(words, "expression", "trained_on", "recall", "change"),
        rows,
        words("caption.recalls", n=FEW_FOR_RESAMPLES),
        frozenset({1}),
    )


def split_table(values: Values, words: Translations) -> Table:
    """The rows of each repeat."""
    names = ("train_rows", "test_rows", "leaking_rows")
    rows = [
        [
            number_cell(one["seed"], str),
            TableCell(words(f"part.{one['origin']}")),
            *(number_cell(one[n], count) for n in names),
        ]
        for one in values["splits"]
    ]
    return Table(headed(words, "seed", "origin", *names), rows, left=frozenset({1}))


def data_table(values: Values, words: Translations) -> Table:
    """The data sets."""
    rows = [
        [
            TableCell(one["name"], kind="name"),
            TableCell(words(f"part.{one['part']}")),
            number_cell(one["n"], count),
            TableCell(one["digest"][:16], kind="wide"),
        ]
        for one in values["data"]
    ]
    return Table(headed(words, "data", "used_for", "images", "digest"), rows, left=frozenset({1, 3}))
