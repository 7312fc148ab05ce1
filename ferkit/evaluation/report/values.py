"""Gather what a report shows: numbers and sentences.

The page, the Markdown and ``report.json`` are all made of what :func:`report_values` gives, so that they cannot
differ.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import json_values
from ferkit.core.labels import LabelSet
from ferkit.core.texts import LANGUAGES, Translations, amount, p_value, points, translated
from ferkit.evaluation.calibration import abstention, judge_calibration, judge_conformal
from ferkit.evaluation.comparison import CandidateResult, Comparison, Pooled, to_dict
from ferkit.evaluation.metrics import histograms
from ferkit.evaluation.subgroups import subgroups_of

N_IMAGES = 24
"""In each grid."""

N_LEAK_PAIRS = 8
"""Of each kind."""


Values = Mapping[str, Any]


@functools.lru_cache(maxsize=1)  # the page and the terminal show the same comparison
def report_values(comparison: Comparison) -> dict[str, Any]:
    """The comparison's own values, and for each candidate that finished what follows from its probabilities.

    Added to those of ``comparison.json``: ``words`` (the classes' names in each language), ``test`` (how much was
    tested), ``best`` (index of the most accurate candidate, of those that did not see the test images before if
    there is any), ``hard`` (test images that every candidate gets wrong), ``leak_pairs`` (some examples), and to
    each candidate ``calibration``, ``abstention``, ``conformal``, ``histogram``, ``subgroups`` (one for each
    column of the protocol), ``right``, ``mistakes`` and ``unsure``. A part that these data do not allow is
    ``{"reason": …}``.

    Args:
        comparison: what was found.
    """
    values = to_dict(comparison)
    values["words"] = {
        language: _distinct(list(comparison.labels.display(language)), comparison.labels)
        for language in LANGUAGES
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
    for i, one in enumerate(comparison.candidates):
        values["contenders"][i]["number"] = i + 1
        if one.failure is None:
            values["contenders"][i] |= _judged(comparison, one)
            finished.append(i)
    # Who was trained on the test images elsewhere is the best only where nobody else is there.
    fair = [i for i in finished if not len(comparison.candidates[i].seen)] or finished
    accuracy = {i: values["contenders"][i]["evaluation"]["accuracy"]["value"] for i in fair}
    values["best"] = max(accuracy, key=lambda i: accuracy[i]) if fair else None
    values["hard"] = _hard(comparison)
    values["leak_pairs"] = _leak_pairs(comparison)
    return values


def _judged(comparison: Comparison, one: CandidateResult) -> dict[str, Any]:
    pooled = comparison.pooled(one.name)
    column = {name: i for i, name in enumerate(comparison.labels.names)}
    known = np.array([name in column for name in pooled.y_true], bool)
    truth = np.array([column[name] for name in pooled.y_true[known]], int)
    proba = pooled.proba[known].astype(np.float64)
    units = None if pooled.units is None else pooled.units[known]
    seed = comparison.protocol.seed
    return {
        "calibration": _or_reason(lambda: {"results": judge_calibration(truth, proba, units, seed=seed)}),
        "abstention": abstention(truth, proba, units, seed=seed).to_dict(),
        "conformal": _or_reason(lambda: {"results": judge_conformal(truth, proba, units, seed=seed)}),
        "histogram": histograms(truth, proba),
        "subgroups": [
            {"column": by, **_or_reason(functools.partial(subgroups_of, comparison, one.name, by))}
            for by in comparison.protocol.by
        ],
        **_notable(comparison, pooled),
    }


def _or_reason(judge: Callable[[], Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json_values(judge())
        return found
    except DataError as error:
        return {"reason": str(error)}


def _image(comparison: Comparison, row: int, predicted: str, confidence: float) -> dict[str, Any]:
    return {
        "row": int(row),
        "path": str(comparison.paths[row]),
        "true": str(comparison.y[row]),
        "predicted": str(predicted),
        "confidence": float(confidence),
    }


def _notable(comparison: Comparison, pooled: Pooled) -> dict[str, Any]:
    """The surest right predictions of each class in turn, the surest mistakes and the least sure images."""
    names = np.array(comparison.labels.names, object)
    predicted, confidence = names[pooled.proba.argmax(axis=1)], pooled.proba.max(axis=1)

    def listed(order: np.ndarray) -> list[dict[str, Any]]:
        _, first = np.unique(pooled.rows[order], return_index=True)
        chosen = order[np.sort(first)[:N_IMAGES]]
        return [_image(comparison, pooled.rows[i], predicted[i], confidence[i]) for i in chosen]

    sorted_rows = np.argsort(-confidence, kind="stable")
    is_right = (predicted == pooled.y_true)[sorted_rows]
    right, surest = sorted_rows[is_right], sorted_rows[~is_right]
    turn = np.zeros(len(right), np.int64)
    for name in names:
        own = predicted[right] == name
        turn[own] = np.arange(own.sum())
    right = right[np.argsort(turn, kind="stable")]
    return {
        "right": listed(right),
        "mistakes": listed(surest),
        "unsure": listed(np.argsort(confidence, kind="stable")),
    }


def _hard(comparison: Comparison) -> dict[str, Any]:
    """Test images that no candidate ever gets right: hard ones, or wrongly labelled ones."""
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
            _image(comparison, row, names[mean[row].argmax()], mean[row].max()) for row in rows[:N_IMAGES]
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
    """The candidates that finished, the most accurate first."""
    done = [one for one in values["contenders"] if one["failure"] is None]
    return sorted(done, key=lambda one: -one["evaluation"]["accuracy"]["value"])


ALPHA = 0.05
_FLAT_ECE = 0.01
"""A temperature that lowers the calibration error by less is not worth a sentence."""

_SMALL_ECE = 0.05
"""Calibration errors below it do not mislead anybody who reads a percentage."""


def findings_text(values: Values, words: Translations) -> list[str]:
    """The report in short, most important first.

    Args:
        values: of :func:`ferkit.evaluation.report.values.report_values`.
        words: of the language.
    """
    if values["best"] is None:
        return [words("say.none"), *_failures(values, words)]
    best = values["contenders"][values["best"]]
    return [
        *_accuracy(values, best, words),
        *_ties(values, best, words),
        *_weakest(values, best, words),
        *_gaps(best, words),
        *_calibration(best, words),
        *_abstention(best, words),
        *_leaks(values, best, words),
        *_seen(values, words),
        *_sentences_hard(values, words),
        *_failures(values, words),
    ]


def verdict(pair: Values, words: Translations) -> str:
    """Which of two candidates is better, if either."""
    if not is_distinct(pair):
        return words("say.pair_same")
    return words("say.pair_better", name=pair["a"] if pair["difference"] > 0 else pair["b"])


def is_distinct(pair: Values) -> bool:
    """Whether two candidates can be told apart on these images."""
    return pair["p_adjusted"] is not None and pair["p_adjusted"] < ALPHA


def pair_sentences(values: Values, words: Translations) -> list[str]:
    """Of the best candidate against each other one: the tests' own sentences, which are English, or short ones."""
    if values["best"] is None:
        return []
    best = values["contenders"][values["best"]]["name"]
    found = []
    for pair in values["pairs"]:
        if best not in (pair["a"], pair["b"]):
            continue
        if words.language == "en" and pair["sentence"]:
            found.append(pair["sentence"])
            continue
        other, sign = (pair["b"], -1) if pair["a"] == best else (pair["a"], 1)
        facts = {"difference": points(sign * pair["difference"]), "p": p_value(pair["p_adjusted"])}
        found.append(words("say.pair_line", name=best, other=other, verdict=verdict(pair, words), **facts))
    return found


def tied_with(name: str, values: Values) -> list[str]:
    """Candidates that are not distinguishable from ``name``."""
    pairs = [pair for pair in values["pairs"] if name in (pair["a"], pair["b"]) and not is_distinct(pair)]
    return [pair["b"] if pair["a"] == name else pair["a"] for pair in pairs]


def dummy_accuracy(values: Values) -> float:
    """What always saying the most frequent expression of the test part would reach."""
    best = values["contenders"][values["best"]]["evaluation"]
    return max(one["support"] for one in best["per_class"].values()) / best["n"]


def _accuracy(values: Values, best: Values, words: Translations) -> list[str]:
    accuracy = best["evaluation"]["accuracy"]
    n = best["evaluation"]["n"] if len(values["splits"]) == 1 else values["test"]["images"]
    key = "say.best_plain" if accuracy["low"] is None else "say.best"
    return [words(key, name=best["name"], n=n, **accuracy), words("say.dummy", value=dummy_accuracy(values))]


def _ties(values: Values, best: Values, words: Translations) -> list[str]:
    if not values["pairs"]:
        return []
    tied = tied_with(best["name"], values)
    if not tied:
        return [words("say.alone", n=len(values["pairs"]))]
    found = [words("say.tied", names=", ".join(tied))]
    equal = [one for one in figure_rows(values) if one["name"] in (*tied, best["name"])]
    fast = [one for one in equal if one["costs"]["ms_batch1"] is not None]
    if len(fast) == len(equal):
        one = min(fast, key=lambda one: one["costs"]["ms_batch1"])
        found.append(words("say.tied_fastest", name=one["name"], ms=amount(one["costs"]["ms_batch1"])))
    trained = [one for one in equal if one["costs"]["train_s"] is not None]
    if len(trained) > 1:
        one = min(trained, key=lambda one: one["costs"]["train_s"])
        found.append(
            words("say.tied_quickest", name=one["name"], seconds=words.duration(one["costs"]["train_s"]))
        )
    return found


def _weakest(values: Values, best: Values, words: Translations) -> list[str]:
    shown = dict(zip(values["labels"]["names"], values["words"][words.language], strict=True))
    some = {name: one for name, one in best["evaluation"]["per_class"].items() if one["support"]}
    if len(some) < 2:
        return []
    name = min(some, key=lambda name: some[name]["f1"]["value"])
    recall, precision = (some[name][part]["value"] for part in ("recall", "precision"))
    return [words("say.weakest", name=shown[name], recall=recall, precision=precision)]


def _gaps(best: Values, words: Translations) -> list[str]:
    """Columns whose groups differ more than chance explains."""
    found = []
    for groups in best["subgroups"]:
        if "reason" in groups or groups["p"] is None or groups["p"] >= ALPHA:
            continue
        facts = {name: groups[name] for name in ("column", "best", "worst")}
        found.append(words("say.gap", **facts, value=groups["gap"]["value"], p=p_value(groups["p"])))
    return found


def _calibration(best: Values, words: Translations) -> list[str]:
    if "reason" in best["calibration"]:
        return []
    plain, temperature = best["calibration"]["results"][:2]
    before, after = plain["ece"], temperature["ece"]
    if after > before - _FLAT_ECE:
        key = "say.calibrated" if before < _SMALL_ECE else "say.uncalibrated"
        return [words(key, before=before, n=best["evaluation"]["n"])]
    key = "say.overconfident" if temperature["temperature"] > 1 else "say.underconfident"
    return [
        words(
            key,
            confidence=mean_confidence(plain["reliability"]),
            temperature=temperature["temperature"],
            before=before,
            after=after,
        )
    ]


def mean_confidence(reliability: list[list[Any]]) -> float:
    """Over all images, from the bins."""
    total = sum(count for count, _, _ in reliability)
    return sum(count * confidence for count, confidence, _ in reliability if count) / total


def _abstention(best: Values, words: Translations) -> list[str]:
    one = next(one for one in best["abstention"]["left_out"] if one["share"] == 0.2)
    return [words("say.abstain", share=one["share"], value=one["accuracy"]["value"])]


def _leaks(values: Values, best: Values, words: Translations) -> list[str]:
    if len(values["contenders"]) == 1 and not values["test"]["train_images"]:
        # Nothing was trained here: what counts is what the model's record says of its own training.
        if best["seen_rows"]:
            return []
        notes = [translated(note, words.language) for note in best["notes"]]
        return [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes] or [words("say.unseen")]
    leaking = max(split["leaking_rows"] for split in values["splits"])
    if leaking and "evaluation_without_leaks" in best:
        clean = best["evaluation_without_leaks"]["accuracy"]["value"]
        return [words("say.leaking", n=leaking, name=best["name"], clean=clean)]
    if leaking:
        return [words("say.all_leaking")]
    return [words("say.clean" if values["leaks"] is not None else "say.unchecked")]


def _seen(values: Values, words: Translations) -> list[str]:
    return [
        words("say.seen", name=one["name"], n=one["seen_rows"])
        for one in values["contenders"]
        if one["seen_rows"] and one["failure"] is None
    ]


def _sentences_hard(values: Values, words: Translations) -> list[str]:
    n = values["hard"]["images"]
    if len(figure_rows(values)) < 2 or not n:
        return []
    return [words("say.hard", n=n, share=n / values["test"]["images"])]


def _failures(values: Values, words: Translations) -> list[str]:
    failed = [one["name"] for one in values["contenders"] if one["failure"] is not None]
    if not failed:
        return []
    return [words("say.failed", n=len(failed), all=len(values["contenders"]), names=", ".join(failed))]
