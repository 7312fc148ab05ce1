"""Rows into training and test parts for every repeat, and what is wrong with that division."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.progress import progress
from ferkit.datasets.split import SplitSettings, make_split
from ferkit.evaluation.contenders.workbench import BenchOptions
from ferkit.evaluation.leaks import LeakSettings, find_leaks
from ferkit.evaluation.pictures import Pictures
from ferkit.evaluation.protocol import ProtocolSettings, SplitRows

Say = Callable[[str], None]


def draw_splits(
    pictures: Pictures, protocol: ProtocolSettings, rows: np.ndarray | None = None
) -> list[SplitRows]:
    """The rows of each repeat: the data's own training and test part, or stratified ones, persons kept apart.

    Args:
        pictures: all rows.
        protocol: how.
        rows: int64 row numbers to divide; None for all.

    Raises:
        DataError: no split can be made; the message says why.
    """
    rows = np.arange(len(pictures)) if rows is None else rows
    y, groups, given = pictures.y[rows], pictures.groups[rows], pictures.given_split[rows]
    splits = []
    for repeat in range(protocol.repeats):
        seed = protocol.seed + repeat
        settings = SplitSettings(test_size=protocol.test_size, seed=seed, by_group=protocol.by_group)
        split = make_split(y, groups, given, settings)
        lacking = sorted(set(y[split.test]) - set(y[split.train]))
        if lacking:
            raise DataError(
                f"the test part has pictures of {', '.join(lacking)} and the training part has none; add some, or "
                "leave the class out"
            )
        splits.append(SplitRows(seed, split.origin, rows[split.train], rows[split.test]))
    return splits


def odd_splits(
    pictures: Pictures, splits: Sequence[SplitRows], protocol: ProtocolSettings
) -> tuple[str, ...]:
    """What a reader must know of the splits, in sentences."""
    notes = []
    for split in splits:
        share = len(split.test) / (len(split.train) + len(split.test))
        if split.origin == "drawn" and abs(share - protocol.test_size) > 0.05:
            notes.append(
                f"{protocol.test_size:.0%} were to be held out, whole persons make it {share:.0%}: some have many "
                "pictures"
            )
        absent = sorted(set(pictures.labels.names) - set(pictures.y[split.test]))
        if absent:
            notes.append(f"the test part has no pictures of {', '.join(absent)}")
    return tuple(dict.fromkeys(notes))


def check_columns(pictures: Pictures, protocol: ProtocolSettings) -> None:
    """The columns that the protocol compares by are there. Raises DataError if not."""
    unknown = [column for column in protocol.by if column not in pictures.attributes]
    if unknown:
        known = ", ".join(pictures.attributes) or "none"
        raise DataError(f"the data have no column {', '.join(unknown)}; they have {known}")


def check_leaks(
    pictures: Pictures,
    splits: tuple[SplitRows, ...],
    protocol: ProtocolSettings,
    options: BenchOptions,
    say: Say,
) -> tuple[tuple[SplitRows, ...], dict[str, object]]:
    """Look for test pictures and persons that are in training too.

    Returns:
        The splits with their leaking rows; and what to write down of the first split that leaks, or of the first.

    Raises:
        DataError: there are leaks, and the protocol does not allow them.
    """
    settings = LeakSettings(persons=protocol.by_group)
    checked: list[SplitRows] = []
    report: dict[str, object] | None = None
    for split in splits:
        same = [done for done in checked if np.array_equal(done.test, split.test) and done.origin == "given"]
        if same:
            checked.append(replace(split, leaking=same[0].leaking))
            continue
        with progress("looking for leaks", len(pictures)) as shown:
            leaks = find_leaks(
                pictures.dataset,
                split.train,
                split.test,
                settings,
                cache_dir=options.cache_dir,
                workers=options.workers,
                progress=shown,
            )
        if leaks:
            say(f"leaks: {leaks.sentence()}")
            if not protocol.allow_leaks:
                raise DataError(
                    _refusal(leaks.sentence(), [(pair.test, pair.train) for pair in leaks.pairs[:3]])
                )
        if report is None or (leaks and not report["leaking_test_rows"]):
            report = {**leaks.describe(), "sentence": leaks.sentence()}
        checked.append(replace(split, leaking=leaks.leaking))
    assert report is not None
    return tuple(checked), report


def _refusal(sentence: str, pairs: Sequence[tuple[str, str]]) -> str:
    examples = "; ".join(f"{test} is {train}" for test, train in pairs)
    return (
        f"{sentence} ({examples}). Such scores measure memory: remove them ('fer audit' lists them), or give "
        "--allow-leaks and see every score with and without them"
    )
