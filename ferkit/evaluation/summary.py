"""A comparison in one table and a few sentences, for the terminal and for documents."""

from collections.abc import Sequence

import numpy as np

from ferkit.core.console import table
from ferkit.evaluation.compare import matrix_notes, matrix_values
from ferkit.evaluation.comparison import CandidateResult, Comparison
from ferkit.evaluation.metrics import Evaluation
from ferkit.evaluation.subgroups import subgroups_of

_ENOUGH_TRAININGS = 3
"""From so many on, the tests count how much one training differs from the next."""


def format_summary(comparison: Comparison) -> str:
    """The candidates in the order they were named, what failed, and what follows."""
    parts = [_title(comparison), _table(comparison)]
    if comparison.finished:
        parts += [_subgroups(comparison, best_of(comparison), column) for column in comparison.protocol.by]
    sentences = summary_sentences(comparison)
    if sentences:
        parts.append("\n".join(sentences))
    return "\n\n".join(parts)


def summary_sentences(comparison: Comparison) -> list[str]:
    """The best candidate against each other one, what failed, and what a reader must know."""
    found = []
    if comparison.finished:
        best = best_of(comparison)
        found += [pair.sentence for pair in comparison.pairs if best in (pair.a, pair.b)]
        if comparison.separable:
            found.append(_memory(comparison, best))
        trained = [one for one in comparison.finished if one.kind == "head" or one.costs.train_s]
        if len(comparison.splits) < _ENOUGH_TRAININGS and len(trained) > 1:
            found.append(
                f"Each was trained {'once' if len(comparison.splits) == 1 else 'twice'}: the verdicts are on these "
                f"models; for ways of training give --repeats {_ENOUGH_TRAININGS + 2}."
            )
        kinds = {one.kind for one in comparison.finished if one.costs.train_s}
        if "head" in kinds and "network" in kinds:
            found.append("Seconds of training do not count those that a head's embeddings took.")
    found += [f"{one.name} failed: {one.failure}" for one in comparison.candidates if one.failure is not None]
    for one in comparison.finished:
        if one.kind in ("network", "peer"):  # what others trained may know more than it should
            found += [f"{one.name}: {note}." for note in one.notes]
        if one.unmapped:
            found.append(f"{one.name} also knows {', '.join(one.unmapped)}, which these data do not have.")
        if one.unreached:
            found.append(f"{one.name} cannot say {', '.join(one.unreached)}: such images are its mistakes.")
    return [*found, *(f"note: {note}" for note in comparison.notes)]


def best_of(comparison: Comparison) -> str:
    """The name of the candidate of highest accuracy, of those that did not see the test images before."""
    fair = [one for one in comparison.finished if not len(one.seen)] or list(comparison.finished)
    return max(fair, key=lambda one: _accuracy(comparison, one)).name


def format_matrix(matrix: Sequence[Sequence[Comparison]]) -> str:
    """A table a candidate: trained on (rows), tested on (columns)."""
    values = matrix_values(matrix)
    names = values["data"]
    parts = []
    for candidate, rows in values["contenders"].items():
        body = [
            (name, *("failed" if cell is None else f"{cell['accuracy']['value']:.1%}" for cell in row))
            for name, row in zip(names, rows, strict=True)
        ]
        header = ("trained on \\ tested on", *names)
        parts.append(f"{candidate}: accuracy\n{table(header, body, right=range(1, len(names) + 1))}")
    notes = "\n".join(f"note: {note}" for note in matrix_notes(matrix))
    return "\n\n".join([*parts, notes]).strip()


def _title(comparison: Comparison) -> str:
    split = comparison.splits[0]
    tested = np.unique(np.concatenate([one.test for one in comparison.splits]))
    how = {"given": "the data's own test part", "drawn": "held out", "cross": "of other data"}[split.origin]
    repeats = f", {len(comparison.splits)} repeats" if len(comparison.splits) > 1 else ""
    persons = {group for group in comparison.groups[tested] if group is not None}
    over = f"{len(persons):,} persons" if persons else "images"
    return (
        f"{comparison.name}: {len(split.train):,} training images, {len(split.test):,} tested ({how}){repeats}, "
        f"{len(comparison.labels)} classes; 95 % intervals over {over}"
    )


def _table(comparison: Comparison) -> str:
    leaking = comparison.separable
    header = ["contender", "accuracy", "95 % interval"]
    header += ["without leaks"] if leaking else []
    header += ["macro-F1", "log-loss", "ECE", "train s", "ms x1", "ms x32", "MB"]
    rows = []
    for one in comparison.candidates:
        if one.failure is not None:
            rows.append([one.name, "failed", *[""] * (len(header) - 2)])
            continue
        evaluation = comparison.evaluation(one.name)
        clean = comparison.evaluation(one.name, with_leaks=False) if leaking else None
        rows.append(_row(one, evaluation, clean))
    return table(header, rows, right=[1, *range(3, len(header))])


def _row(one: CandidateResult, evaluation: Evaluation, clean: Evaluation | None) -> list[str]:
    accuracy = evaluation.figures["accuracy"]
    interval = "" if np.isnan(accuracy.low) else f"{accuracy.low:.1%} to {accuracy.high:.1%}"
    costs = one.costs
    return [
        one.name,
        f"{accuracy.value:.1%}",
        interval,
        *([] if clean is None else [f"{clean.figures['accuracy'].value:.1%}"]),
        f"{evaluation.figures['macro_f1'].value:.1%}",
        f"{evaluation.figures['log_loss'].value:.3f}",
        f"{evaluation.figures['ece'].value:.1%}",
        _number(costs.train_s),
        _number(costs.ms_batch1),
        _number(costs.ms_batch32),
        _number(costs.size_mb),
    ]


def _subgroups(comparison: Comparison, name: str, column: str) -> str:
    found = subgroups_of(comparison, name, column)
    rows = [
        (
            row.value,
            f"{row.n:,}",
            f"{row.accuracy.value:.1%}",
            _points(row.gap.value),
            "few" if row.few else "",
        )
        for row in found.rows
    ]
    lines = [
        f"{name} by {column}",
        table((column, "images", "accuracy", "against others", ""), rows, right=[1, 2, 3]),
    ]
    if found.best is not None:
        gap = found.gap
        lines.append(
            f"from {found.worst} to {found.best}: {100 * gap.value:.1f} points (95 % interval {100 * gap.low:.1f} to "
            f"{100 * gap.high:.1f}, p = {found.p:.2g})"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def _points(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:+.1f}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2f}"


def _memory(comparison: Comparison, name: str) -> str:
    whole, clean = (comparison.evaluation(name, with_leaks=leaks) for leaks in (True, False))
    share = sum(len(split.leaking) for split in comparison.splits) / sum(
        len(split.test) for split in comparison.splits
    )
    before, after = (one.figures["accuracy"].value for one in (whole, clean))
    memory = f"{100 * (before - after):.1f} points may be memory" if before > after else "no sign of memory"
    return (
        f"{share:.1%} of the tested images leak from training; without them {name} has {after:.1%} instead of "
        f"{before:.1%}: {memory}."
    )


def _accuracy(comparison: Comparison, one: CandidateResult) -> float:
    pooled = comparison.pooled(one.name)
    names = np.array(comparison.labels.names, object)
    return float((names[pooled.proba.argmax(axis=1)] == pooled.y_true).mean())
