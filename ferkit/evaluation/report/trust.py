"""The tables on how far a classifier's probabilities can be trusted."""

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
    whole_persons,
    words_of,
)
from ferkit.evaluation.report.format import Words
from ferkit.evaluation.report.values import figure_rows


def calibration_table(values: Values, words: Words) -> Table:
    """Calibration error and log-loss before and after each correction."""
    methods = ("before", "temperature", "isotonic")
    header = [words("column.contender")]
    header += [
        f"{words(f'column.{part}')}, {words(f'column.{m}')}" for part in ("ece", "log_loss") for m in methods
    ]
    rows = []
    for one in figure_rows(values):
        if "reason" in one["calibration"]:
            reason = words("caption.not_done", reason=one["calibration"]["reason"])
            rows.append([name_cell(one, words), Cell(reason, kind="wide")])
            continue
        results = one["calibration"]["results"]
        cells = [Cell(fmt.percent(result["ece"]), result["ece"]) for result in results]
        cells += [Cell(fmt.number(result["log_loss"]), result["log_loss"]) for result in results]
        warmth = results[1]["temperature"]
        rows.append([name_cell(one, words), *cells, Cell(fmt.number(warmth, 2), warmth)])
    caption = (
        words("caption.calibration", whole=whole_persons(values, words)) + " " + words("caption.temperature")
    )
    return Table((*header, words("column.temperature")), frozen(rows), caption)


def abstention_table(values: Values, words: Words) -> Table:
    """Accuracy if the least sure are left out."""
    done = figure_rows(values)
    shares = [one["share"] for one in done[0]["abstention"]["left_out"]]
    header = [words("column.contender"), words("column.aurc")]
    header += [words("column.left_out", share=share) for share in shares] + [words("column.answer_above")]
    rows = []
    for one in done:
        left_out = one["abstention"]["left_out"]
        threshold = next(part["threshold"] for part in left_out if part["share"] == 0.2)
        cells = [figure_cell(one["abstention"]["aurc"], "number")]
        cells += [figure_cell(part["accuracy"]) for part in left_out]
        rows.append([name_cell(one, words), *cells, Cell(fmt.percent(threshold, 0), threshold)])
    mark_best(rows, 1, least=True)
    for column in range(2, len(header) - 1):
        mark_best(rows, column)
    return Table(tuple(header), frozen(rows), words("caption.left_out"))


def conformal_table(values: Values, words: Words) -> Table | None:
    """How often the sets of each method and level held the true expression, and their mean size."""
    done = figure_rows(values)
    kinds = next((_set_kinds(one) for one in done if "results" in one["conformal"]), ())
    rows = []
    for one in done:
        if "reason" in one["conformal"]:
            reason = words("caption.not_done", reason=one["conformal"]["reason"])
            rows.append([name_cell(one, words), Cell(reason, kind="wide")])
            continue
        cells = []
        for result in one["conformal"]["results"]:
            cell, size = figure_cell(result["coverage"]), result["mean_size"]["value"]
            cells.append(replace(cell, note=words("column.set_size", size=size)))
        rows.append([name_cell(one, words), *cells])
    best = values["contenders"][values["best"]]["name"]
    caption = words("caption.conformal", whole=whole_persons(values, words), name=best)
    return Table((words("column.contender"), *kinds), frozen(rows), caption)


def coverage_table(values: Values, one: Values, words: Words) -> Table | None:
    """How often the sets held each expression; None where there are no sets."""
    if "reason" in one["conformal"]:
        return None
    rows = [
        [
            Cell(name, kind="name"),
            *(Cell(fmt.percent(r["per_class"][c]), r["per_class"][c]) for r in one["conformal"]["results"]),
        ]
        for c, name in enumerate(words_of(values, words).values())
    ]
    return Table((words("column.expression"), *_set_kinds(one)), frozen(rows))


def _set_kinds(one: Values) -> tuple[str, ...]:
    return tuple(f"{r['method'].upper()} {fmt.percent(r['level'], 0)}" for r in one["conformal"]["results"])
