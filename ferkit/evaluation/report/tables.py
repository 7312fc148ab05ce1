"""The tables of a report on who is how good, at which cost, on which data."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ferkit.evaluation.report import format as fmt
from ferkit.evaluation.report.cells import (
    Cell,
    Table,
    Values,
    figure_cell,
    frozen,
    mark_best,
    name_cell,
    unit_words,
)
from ferkit.evaluation.report.format import Words
from ferkit.evaluation.report.sentences import ALPHA, is_distinct, verdict
from ferkit.evaluation.report.values import figure_rows

_SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "top2")
_COSTS: dict[str, Callable[[float | None], str]] = {
    "train_s": fmt.duration, "ms_batch1": fmt.amount, "ms_batch32": fmt.amount, "size_mb": fmt.amount,
    "memory_mb": fmt.amount, "energy_j": fmt.amount,
}  # fmt: skip


def headline_table(values: Values, words: Words) -> Table:
    """All figures of all contenders, the most accurate first, then those that failed."""
    header = [words("column.contender"), *(words(f"column.{name}") for name in (*_SHARES, "log_loss", "ece"))]
    rows = []
    for one in figure_rows(values):
        found = one["evaluation"]
        cells = [figure_cell(found[name]) for name in _SHARES]
        cells += [figure_cell(found["log_loss"], "number"), figure_cell(found["ece"])]
        rows.append([name_cell(one, words), *cells])
    for column in range(1, len(header)):
        mark_best(rows, column, least=column > len(_SHARES))
    caption = words("caption.headline", units=unit_words(values, words))
    if len(rows) > 1:
        caption += " " + words("caption.in_bold")
    return Table(tuple(header), frozen(rows), caption)


def cost_table(values: Values, words: Words) -> Table | None:
    """What each contender takes, without columns that nobody has; None if nothing was measured."""
    done = figure_rows(values)
    known = [name for name in _COSTS if any(one["costs"][name] is not None for one in done)]
    if not known:
        return None
    rows = [
        [name_cell(one, words), *(Cell(_COSTS[c](one["costs"][c]), one["costs"][c]) for c in known)]
        for one in done
    ]
    for column in range(1, len(known) + 1):
        mark_best(rows, column, least=True)
    caption = words("caption.costs")
    missing = [words(f"column.{name}") for name in _COSTS if name not in known]
    if missing:
        caption += " " + words("caption.unmeasured", names="; ".join(missing))
    header = (words("column.contender"), *(words(f"column.{name}") for name in known))
    return Table(header, frozen(rows), caption)


def pair_matrix(values: Values, words: Words) -> Table:
    """Accuracy of each contender less that of each other, the most accurate first."""
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
                row.append(Cell(""))
                continue
            difference = sign * pair["difference"]
            kind = ("better" if difference > 0 else "worse") if is_distinct(pair) else ""
            row.append(
                Cell(
                    fmt.points(difference),
                    difference,
                    small=f"p {fmt.p_value(pair['p_adjusted'])}",
                    kind=kind,
                )
            )
        rows.append(row)
    caption = words("caption.matrix", n=len(values["pairs"]))
    return Table((words("column.contender"), *(str(i + 1) for i in range(len(done)))), frozen(rows), caption)


def pair_table(values: Values, words: Words) -> Table:
    """Each two contenders."""
    names = ("contender", "contender", "difference", "p_mcnemar", "p_bootstrap", "p", "verdict")
    rows = []
    for pair in values["pairs"]:
        difference = {"value": pair["difference"], "low": pair["low"], "high": pair["high"]}
        ps = [Cell(fmt.p_value(pair[p]), pair[p]) for p in ("p_mcnemar", "p_bootstrap", "p_adjusted")]
        same = verdict(pair, words)
        rows.append(
            [
                Cell(pair["a"], kind="name"),
                Cell(pair["b"], kind="name"),
                figure_cell(difference, "points"),
                *ps,
                Cell(same, best=is_distinct(pair), kind="wide"),
            ]
        )
    header = tuple(words(f"column.{name}") for name in names)
    return Table(header, frozen(rows), words("caption.pairs"), frozenset({1, 6}))


def leak_table(values: Values, words: Words) -> Table | None:
    """Accuracy with and without leaking rows; None if none leaks."""
    rows = []
    for one in figure_rows(values):
        if "evaluation_without_leaks" not in one:
            continue
        whole, clean = one["evaluation"]["accuracy"], one["evaluation_without_leaks"]["accuracy"]
        gain = whole["value"] - clean["value"]
        rows.append([name_cell(one, words), figure_cell(whole), figure_cell(clean), Cell(fmt.points(gain))])
    header = tuple(words(f"column.{name}") for name in ("contender", "with_leaks", "without_leaks", "memory"))
    return Table(header, frozen(rows), words("caption.leaks")) if rows else None


def class_table(one: Values, shown: Mapping[str, str], words: Words) -> Table:
    """Precision, recall and F1 of each expression."""
    rows = []
    for name, figures in one["evaluation"]["per_class"].items():
        cells = [
            replace(figure_cell(figures[part]), kind=f"c{i}")
            for i, part in enumerate(("precision", "recall", "f1"))
        ]
        support = figures["support"]
        rows.append([Cell(shown[name], kind="name"), *cells, Cell(f"{support:,}", support)])
    header = tuple(words(f"column.{name}") for name in ("expression", "precision", "recall", "f1", "images"))
    return Table(header, frozen(rows), words("caption.class"))


def subgroup_tables(values: Values, words: Words) -> list[Table]:
    """For each column that groups are compared by, the best contender by group, then all contenders' gaps."""
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


def _groups_of_one(groups: Values, column: str, values: Values, words: Words) -> Table:
    names = ["images", "persons", "accuracy", "macro_f1", "gap"]
    rows = []
    for row in groups["rows"]:
        cells = [Cell(f"{row['n']:,}", row["n"])]
        cells.append(Cell(fmt.MISSING if row["persons"] is None else f"{row['persons']:,}", row["persons"]))
        cells += [
            figure_cell(row["accuracy"]),
            figure_cell(row["macro_f1"]),
            figure_cell(row["gap"], "points"),
        ]
        rows.append([Cell(row["value"], note=words("part.few") if row["few"] else "", kind="name"), *cells])
    name = values["contenders"][values["best"]]["name"]
    caption = words("caption.subgroups", column=column, name=name, units=unit_words(values, words))
    for note in groups["notes"]:
        caption += f" {note[0].upper()}{note[1:]}."
    return Table((column, *(words(f"column.{name}") for name in names)), frozen(rows), caption)


def _gaps_of_all(i: int, column: str, values: Values, words: Words) -> Table:
    rows = []
    for one in figure_rows(values):
        groups = one["subgroups"][i]
        gap = replace(
            figure_cell(groups["gap"], "points"), best=groups["p"] is not None and groups["p"] < ALPHA
        )
        ends = [Cell(groups[end] or fmt.MISSING) for end in ("best", "worst")]
        rows.append([name_cell(one, words), *ends, gap, Cell(fmt.p_value(groups["p"]), groups["p"])])
    names = ("contender", "best_group", "worst_group", "widest_gap", "p_groups")
    header = tuple(words(f"column.{name}") for name in names)
    return Table(header, frozen(rows), words("caption.gaps", column=column), frozenset({1, 2}))


def cross_tables(values: Values, words: Words) -> list[tuple[str, Table]]:
    """For each contender, accuracy by the data trained on (rows) and tested on (columns)."""
    names = values["data"]
    found = []
    for name, matrix in values["contenders"].items():
        rows = []
        for i, row in enumerate(matrix):
            cells = []
            for j, cell in enumerate(row):
                if cell is None:
                    cells.append(Cell(words("part.failed")))
                    continue
                note = words("part.in_classes", k=len(cell["classes"]))
                cells.append(replace(figure_cell(cell["accuracy"]), note=note, best=i == j))
            rows.append([Cell(names[i], kind="name"), *cells])
        found.append((name, Table((words("column.trained_tested"), *names), frozen(rows))))
    return found


def split_table(values: Values, words: Words) -> Table:
    """The rows of each repeat."""
    names = ("seed", "origin", "train_rows", "test_rows", "leaking_rows")
    rows = [
        [
            Cell(str(split["seed"]), split["seed"]),
            Cell(words(f"part.{split['origin']}")),
            *(Cell(f"{split[name]:,}", split[name]) for name in names[2:]),
        ]
        for split in values["splits"]
    ]
    return Table(tuple(words(f"column.{n}") for n in names), frozen(rows), left=frozenset({1}))


def data_table(values: Values, words: Words) -> Table:
    """The data sets."""
    rows = [
        [
            Cell(one["name"], kind="name"),
            Cell(words(f"part.{one['part']}")),
            Cell(f"{one['n']:,}", one["n"]),
            Cell(one["digest"][:16], kind="wide"),
        ]
        for one in values["data"]
    ]
    header = tuple(words(f"column.{name}") for name in ("data", "used_for", "images", "digest"))
    return Table(header, frozen(rows), left=frozenset({1, 3}))
