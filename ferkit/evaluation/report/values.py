"""Everything that a report of a comparison says in numbers, as JSON values.

The page, the Markdown and ``report.json`` are all made of what :func:`report_values` gives, so that they cannot
differ.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.evaluation.abstention import abstention
from ferkit.evaluation.calibration import judge_calibration
from ferkit.evaluation.comparison import Comparison, ContenderResult, Pooled
from ferkit.evaluation.comparison_file import to_dict
from ferkit.evaluation.conformal import judge_conformal
from ferkit.evaluation.subgroups import subgroups_of

N_PICTURES = 24
"""In each grid."""

N_LEAK_PAIRS = 8
"""Of each kind."""

HISTOGRAM_BINS = 20


def report_values(
    comparison: Comparison, say: Callable[[str], None] = lambda message: None
) -> dict[str, Any]:
    """The comparison's own values, and for each contender that finished what follows from its probabilities.

    Added to those of ``comparison.json``: ``words`` (the classes' names in each language), ``test`` (how much was
    tested), ``best`` (index of the most accurate contender, of those that did not see the test pictures before if
    there is any), ``hard`` (test pictures that every contender gets wrong), ``leak_pairs`` (some examples), and to
    each contender ``calibration``, ``abstention``, ``conformal``, ``histogram``, ``subgroups`` (one for each
    column of the protocol), ``mistakes`` and ``unsure``. A part that these data do not allow is ``{"reason": …}``.

    Args:
        comparison: what was found.
        say: told which contender is being looked at.
    """
    values = to_dict(comparison)
    values["words"] = {
        language: _distinct(list(comparison.labels.display(language)), comparison.labels)
        for language in ("en", "ko")
    }
    tested = np.unique(np.concatenate([split.test for split in comparison.splits]))
    persons = {group for group in comparison.groups[tested] if group is not None}
    values["test"] = {
        "images": len(tested),
        "persons": len(persons),
        "all_persons_known": all(group is not None for group in comparison.groups[tested]),
        "predictions": sum(len(split.test) for split in comparison.splits),
        "train_images": max(len(split.train) for split in comparison.splits),
    }
    finished = []
    for i, one in enumerate(comparison.contenders):
        values["contenders"][i]["number"] = i + 1
        if one.failure is None:
            say(one.name)
            values["contenders"][i] |= _judged(comparison, one)
            finished.append(i)
    # Who was trained on the test pictures elsewhere is the best only where nobody else is there.
    fair = [i for i in finished if not len(comparison.contenders[i].seen)] or finished
    accuracy = {i: values["contenders"][i]["evaluation"]["accuracy"]["value"] for i in fair}
    values["best"] = max(accuracy, key=lambda i: accuracy[i]) if fair else None
    values["hard"] = _hard(comparison)
    values["leak_pairs"] = _leak_pairs(comparison)
    return values


def _judged(comparison: Comparison, one: ContenderResult) -> dict[str, Any]:
    pooled = comparison.pooled(one.name)
    column = {name: i for i, name in enumerate(comparison.labels.names)}
    known = np.array([name in column for name in pooled.y_true], bool)
    truth = np.array([column[name] for name in pooled.y_true[known]], int)
    proba = pooled.proba[known].astype(np.float64)
    units = None if pooled.units is None else pooled.units[known]
    seed = comparison.protocol.seed
    return {
        "calibration": _or_reason(lambda: judge_calibration(truth, proba, units, seed=seed)),
        "abstention": abstention(truth, proba, units, seed=seed).to_dict(),
        "conformal": _or_reason(lambda: judge_conformal(truth, proba, units, seed=seed)),
        "histogram": _histograms(truth, proba),
        "subgroups": [_groups(comparison, one.name, column) for column in comparison.protocol.by],
        **_notable(comparison, pooled),
    }


def _groups(comparison: Comparison, name: str, column: str) -> dict[str, Any]:
    try:
        return subgroups_of(comparison, name, column).to_dict()
    except DataError as error:
        return {"column": column, "reason": str(error)}


class _Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def _or_reason(judge: Callable[[], tuple[_Result, ...]]) -> dict[str, Any]:
    try:
        return {"results": [result.to_dict() for result in judge()]}
    except DataError as error:
        return {"reason": str(error)}


def _histograms(truth: np.ndarray, proba: np.ndarray) -> list[dict[str, Any]]:
    """For each class, the shares of its own and of other images with each probability of it."""
    each = []
    for c in range(proba.shape[1]):
        index = np.minimum((proba[:, c] * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        parts = {}
        for part, rows in (("own", truth == c), ("others", truth != c)):
            count = np.bincount(index[rows], minlength=HISTOGRAM_BINS)
            parts[part] = (count / max(1, count.sum())).tolist()
        each.append(parts)
    return each


def _notable(comparison: Comparison, pooled: Pooled) -> dict[str, Any]:
    """The surest mistakes and the least sure images, each picture once."""
    names = np.array(comparison.labels.names, object)
    predicted, confidence = names[pooled.proba.argmax(axis=1)], pooled.proba.max(axis=1)

    def listed(order: np.ndarray) -> list[dict[str, Any]]:
        _, first = np.unique(pooled.rows[order], return_index=True)
        chosen = order[np.sort(first)[:N_PICTURES]]
        return [
            {
                "row": int(pooled.rows[i]),
                "path": str(comparison.paths[pooled.rows[i]]),
                "true": str(pooled.y_true[i]),
                "predicted": str(predicted[i]),
                "confidence": float(confidence[i]),
            }
            for i in chosen
        ]

    wrong = np.flatnonzero(predicted != pooled.y_true)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return {"mistakes": listed(surest), "unsure": listed(np.argsort(confidence, kind="stable"))}


def _hard(comparison: Comparison) -> dict[str, Any]:
    """Test pictures that no contender ever gets right: hard ones, or wrongly labelled ones."""
    names = np.array(comparison.labels.names, object)
    right = np.zeros(len(comparison.y), bool)
    votes = np.zeros((len(comparison.y), len(names)))
    for one in comparison.finished:
        pooled = comparison.pooled(one.name)
        hit = names[pooled.proba.argmax(axis=1)] == pooled.y_true
        right[pooled.rows[hit]] = True
        np.add.at(votes, pooled.rows, pooled.proba)
    tested = np.unique(np.concatenate([split.test for split in comparison.splits]))
    known = np.isin(comparison.y.astype(str), comparison.labels.names)
    rows = tested[~right[tested] & known[tested]]
    mean = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-12)
    rows = rows[np.argsort(-mean[rows].max(axis=1), kind="stable")]
    return {
        "images": len(rows),
        "pictures": [
            {
                "row": int(row),
                "path": str(comparison.paths[row]),
                "true": str(comparison.y[row]),
                "predicted": str(names[mean[row].argmax()]),
                "confidence": float(mean[row].max()),
            }
            for row in rows[:N_PICTURES]
        ],
    }


def row_of_path(comparison: Comparison) -> dict[str, int]:
    """Row numbers by path, also with the name of the data set before it, as several data sets in one are named."""
    found: dict[str, int] = {}
    for row, path in enumerate(comparison.paths):
        found.setdefault(str(path), row)
        found[f"{comparison.data[comparison.source[row]].name}/{path}"] = row
    return found


def _leak_pairs(comparison: Comparison) -> list[dict[str, Any]]:
    """Some examples of each kind, with their rows."""
    listed = list((comparison.leaks or {}).get("pairs", []))
    chosen = [
        pair
        for kind in dict.fromkeys(pair["kind"] for pair in listed)
        for pair in [pair for pair in listed if pair["kind"] == kind][:N_LEAK_PAIRS]
    ]
    row = row_of_path(comparison) if chosen else {}
    return [
        {**pair, "test_row": row.get(pair["test"]), "train_row": row.get(pair["train"])} for pair in chosen
    ]


def _distinct(shown: list[str], labels: LabelSet) -> list[str]:
    """Two spellings of one expression in one data set keep their own names."""
    return [name if shown.count(word) > 1 else word for name, word in zip(labels.names, shown, strict=True)]


def figure_rows(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The contenders that finished, the most accurate first."""
    done = [one for one in values["contenders"] if one["failure"] is None]
    return sorted(done, key=lambda one: -one["evaluation"]["accuracy"]["value"])
