"""What the figures of a comparison mean, in sentences."""

from collections.abc import Mapping
from typing import Any

from ferkit.evaluation.report.format import Words, amount, duration, p_value, points
from ferkit.evaluation.report.values import figure_rows

Values = Mapping[str, Any]

ALPHA = 0.05
_FLAT_ECE = 0.01
"""A temperature that lowers the calibration error by less is not worth a sentence."""

_SMALL_ECE = 0.05
"""Calibration errors below it do not mislead anybody who reads a percentage."""


def sentences(values: Values, words: Words) -> list[str]:
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
        *_hard(values, words),
        *_failures(values, words),
    ]


def verdict(pair: Values, words: Words) -> str:
    """Which of two contenders is better, if either."""
    if not is_distinct(pair):
        return words("say.pair_same")
    return words("say.pair_better", name=pair["a"] if pair["difference"] > 0 else pair["b"])


def is_distinct(pair: Values) -> bool:
    """Whether two contenders can be told apart on these images."""
    return pair["p_adjusted"] is not None and pair["p_adjusted"] < ALPHA


def pair_sentences(values: Values, words: Words) -> list[str]:
    """Of the best contender against each other one: the tests' own sentences, which are English, or short ones."""
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
    """Contenders that are not distinguishable from ``name``."""
    tied = []
    for pair in values["pairs"]:
        if name in (pair["a"], pair["b"]) and not is_distinct(pair):
            tied.append(pair["b"] if pair["a"] == name else pair["a"])
    return tied


def dummy_accuracy(values: Values) -> float:
    """What always saying the most frequent expression of the test part would reach."""
    best = values["contenders"][values["best"]]["evaluation"]
    return max(one["support"] for one in best["per_class"].values()) / best["n"]


def _accuracy(values: Values, best: Values, words: Words) -> list[str]:
    accuracy = best["evaluation"]["accuracy"]
    n = best["evaluation"]["n"] if len(values["splits"]) == 1 else values["test"]["images"]
    key = "say.best_plain" if accuracy["low"] is None else "say.best"
    return [
        words(key, name=best["name"], n=n, **accuracy),
        words("say.dummy", value=dummy_accuracy(values)),
    ]


def _ties(values: Values, best: Values, words: Words) -> list[str]:
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
        found.append(words("say.tied_quickest", name=one["name"], seconds=duration(one["costs"]["train_s"])))
    return found


def _weakest(values: Values, best: Values, words: Words) -> list[str]:
    shown = dict(zip(values["labels"]["names"], values["words"][words.language], strict=True))
    some = {name: one for name, one in best["evaluation"]["per_class"].items() if one["support"]}
    if len(some) < 2:
        return []
    name = min(some, key=lambda name: some[name]["f1"]["value"])
    recall, precision = (some[name][part]["value"] for part in ("recall", "precision"))
    return [words("say.weakest", name=shown[name], recall=recall, precision=precision)]


def _gaps(best: Values, words: Words) -> list[str]:
    """Columns whose groups differ more than chance explains."""
    found = []
    for groups in best["subgroups"]:
        if "reason" in groups or groups["p"] is None or groups["p"] >= ALPHA:
            continue
        facts = {name: groups[name] for name in ("column", "best", "worst")}
        found.append(words("say.gap", **facts, value=groups["gap"]["value"], p=p_value(groups["p"])))
    return found


def _calibration(best: Values, words: Words) -> list[str]:
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


def _abstention(best: Values, words: Words) -> list[str]:
    one = next(one for one in best["abstention"]["left_out"] if one["share"] == 0.2)
    return [words("say.abstain", share=one["share"], value=one["accuracy"]["value"])]


def _leaks(values: Values, best: Values, words: Words) -> list[str]:
    if len(values["contenders"]) == 1 and not values["test"]["train_images"]:
        # Nothing was trained here: what counts is what the model's record says of its own training.
        return (
            [] if best["seen_rows"] else [_sentence(note) for note in best["notes"]] or [words("say.unseen")]
        )
    leaking = max(split["leaking_rows"] for split in values["splits"])
    if leaking and "evaluation_without_leaks" in best:
        clean = best["evaluation_without_leaks"]["accuracy"]["value"]
        return [words("say.leaking", n=leaking, name=best["name"], clean=clean)]
    if leaking:
        return [words("say.all_leaking")]
    return [words("say.clean" if values["leaks"] is not None else "say.unchecked")]


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:].rstrip('.')}."


def _seen(values: Values, words: Words) -> list[str]:
    return [
        words("say.seen", name=one["name"], n=one["seen_rows"])
        for one in values["contenders"]
        if one["seen_rows"] and one["failure"] is None
    ]


def _hard(values: Values, words: Words) -> list[str]:
    n = values["hard"]["images"]
    if len(figure_rows(values)) < 2 or not n:
        return []
    return [words("say.hard", n=n, share=n / values["test"]["images"])]


def _failures(values: Values, words: Words) -> list[str]:
    failed = [one["name"] for one in values["contenders"] if one["failure"] is not None]
    if not failed:
        return []
    return [words("say.failed", n=len(failed), all=len(values["contenders"]), names=", ".join(failed))]
