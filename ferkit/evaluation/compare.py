"""``fer compare`` as one function: every candidate under one protocol, on the same images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError, FerkitError
from ferkit.core.files import exclusive_lock, json_values, write_json
from ferkit.core.labels import LabelSet
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.leakage import LeakSettings, find_leaks
from ferkit.datasets.split import SplitSettings, make_split
from ferkit.evaluation.candidates import Candidate, CandidateOutput, Task
from ferkit.evaluation.comparison import (
    CachedResult,
    CandidateResult,
    Comparison,
    Costs,
    ProtocolSettings,
    RepeatResult,
    SplitRows,
    cache_path,
    circumstances,
    load_cached,
    save_cached,
)
from ferkit.evaluation.metrics import FEW_FOR_RESAMPLES, Figure, effective_units, few_units_interval
from ferkit.evaluation.shared_inputs import (
    CompareOptions,
    EvaluationData,
    ReadDataset,
    ResourceMonitor,
    SharedInputs,
    build_evaluation_data,
    check_columns,
    milliseconds,
)
from ferkit.evaluation.significance import N_RESAMPLES, paired_bootstrap, pairs_of

logger = logging.getLogger(__name__)


def draw_splits(images: EvaluationData, protocol: ProtocolSettings) -> list[SplitRows]:
    """The rows of each repeat: the data's own training and test part, or stratified ones, persons kept apart.

    Raises:
        DataError: no split can be made; the message says why.
    """
    y = images.y
    splits = []
    for repeat in range(protocol.repeats):
        seed = protocol.seed + repeat
        settings = SplitSettings(test_size=protocol.test_size, seed=seed, by_group=protocol.by_group)
        split = make_split(y, images.groups, images.dataset.splits, settings)
        lacking = sorted(set(y[split.test]) - set(y[split.train]))
        if lacking:
            raise DataError(
                f"the test part has images of {', '.join(lacking)} and the training part has none; add some, or "
                "leave the class out"
            )
        splits.append(SplitRows(seed, split.origin, split.train, split.test))
    return splits


def odd_splits(
    images: EvaluationData, splits: Sequence[SplitRows], protocol: ProtocolSettings
) -> tuple[str, ...]:
    """What a reader must know of the splits, in sentences."""
    notes = []
    for split in splits:
        share = len(split.test) / (len(split.train) + len(split.test))
        if split.origin == "drawn" and abs(share - protocol.test_size) > 0.05:
            known = any(images.dataset.groups)
            why = " are: some persons have many images" if known else " are: there are few images"
            notes.append(f"{protocol.test_size:.0%} were to be held out, {share:.0%}{why}")
        absent = sorted(set(images.labels.names) - set(images.y[split.test]))
        if absent:
            notes.append(f"the test part has no images of {', '.join(absent)}")
    return tuple(dict.fromkeys(notes))


def check_leaks(
    images: EvaluationData, splits: tuple[SplitRows, ...], protocol: ProtocolSettings, options: CompareOptions
) -> tuple[tuple[SplitRows, ...], dict[str, object]]:
    """Look for test images and persons that are in training too.

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
        leaks = find_leaks(
            images.dataset,
            split.train,
            split.test,
            settings,
            cache_dir=options.cache_dir,
            workers=options.workers,
        )
        if leaks:
            logger.info(f"leaks: {leaks.sentence()}")
            if not protocol.allow_leaks:
                examples = "; ".join(f"{pair.test} is {pair.train}" for pair in leaks.pairs[:3])
                raise DataError(
                    f"{leaks.sentence()} ({examples}). Such scores measure memory: remove them ('fer audit' lists "
                    "them), or give --allow-leaks and see every score with and without them"
                )
        if report is None or (leaks and not report["leaking_test_rows"]):
            report = {**leaks.describe(), "sentence": leaks.sentence()}
        checked.append(replace(split, leaking=leaks.leaking))
    assert report is not None
    return tuple(checked), report


def compare(
    images: EvaluationData,
    candidates: Sequence[Candidate],
    protocol: ProtocolSettings,
    options: CompareOptions,
    *,
    splits: Sequence[SplitRows] | None = None,
    parts: Sequence[str] = ("both",),
) -> Comparison:
    """Run every candidate in every repeat, going on where an interrupted comparison of the same stopped.

    A candidate that fails gets a row with its reason, and is tried again the next time.

    Args:
        images: the rows.
        candidates: who takes part.
        protocol: how all are treated.
        options: where things are kept, and how faces are taken out.
        splits: the rows of each repeat; None draws them, or takes those of the data.
        parts: for each data set, whether it was used for ``train``, ``test`` or ``both``.

    Raises:
        DataError: the images cannot be divided, or the test part leaks and that is not allowed.
        StoreLockedError: another process works on the same comparison.
        FerkitError: the disk is full or a folder cannot be written.
    """
    check_columns(images.attributes, protocol.by)
    splits = tuple(splits if splits is not None else draw_splits(images, protocol))
    notes = (*images.notes, *odd_splits(images, splits, protocol))
    for note in notes:
        logger.info(f"note: {note}")
    splits, leaks = check_leaks(images, splits, protocol, options)
    with exclusive_lock(options.out / ".lock", "comparing into"):
        bench = SharedInputs(images, options)
        results = _run_all(images, candidates, splits, bench)
    comparison = Comparison(
        name=images.name,
        labels=images.labels,
        y=images.y,
        paths=np.array(images.own_paths, object),
        groups=images.groups,
        source=images.source,
        data=images.used(parts),
        attributes=images.attributes,
        protocol=protocol,
        splits=splits,
        candidates=tuple(results),
        leaks=leaks,
        notes=notes,
        **circumstances(),
    )
    return replace(comparison, pairs=pairs_of(comparison))


def _run_all(
    images: EvaluationData,
    candidates: Sequence[Candidate],
    splits: tuple[SplitRows, ...],
    bench: SharedInputs,
) -> list[CandidateResult]:
    digests = [(images.digest(split.train), images.digest(split.test)) for split in splits]
    earlier: list[dict[str, RepeatResult]] = [{} for _ in splits]
    results = []
    for number, candidate in enumerate(candidates, 1):
        done: list[CachedResult] = []
        failure = None
        for repeat, split in enumerate(splits):
            where = f"[{number}/{len(candidates)}] {candidate.name}"
            where += f", repeat {repeat + 1} of {len(splits)}" if len(splits) > 1 else ""
            task = Task(images, split.train, split.test, split.seed, split.origin, earlier[repeat])
            finished = _run(candidate, task, repeat, digests[repeat], bench, where)
            if isinstance(finished, str):
                failure = finished
                break
            done.append(finished)
            earlier[repeat][candidate.name] = finished.result
        result = CandidateResult(
            candidate.name,
            candidate.kind,
            tuple(one.result for one in done),
            failure,
            notes=tuple(dict.fromkeys(note for one in done for note in one.result.notes)),
        )
        if done:
            seen = np.unique(np.concatenate([one.seen for one in done]))
            result = replace(result, unmapped=done[-1].unmapped, unreached=done[-1].unreached, seen=seen)
        results.append(result)
    return results


def _run(
    candidate: Candidate, task: Task, repeat: int, digests: tuple[str, str], bench: SharedInputs, where: str
) -> CachedResult | str:
    """A result from the cache, or made now and kept there; or the reason why there is none."""
    try:
        settings = candidate.settings(bench)
        labels = list(task.images.labels.names)
        path = None
        if settings is not None:
            depends_on = [dict(settings), *digests, task.seed, task.origin, labels]
            path = cache_path(bench.options.out / "cells", candidate.name, depends_on)
            there = load_cached(path, repeat)
            if there is not None:
                logger.info(f"{where}: finished before")
                return there
        logger.info(where)
        with ResourceMonitor() as meter:
            outcome = candidate.run(task, bench)
        finished = _finished(outcome, task, repeat, meter, bench)
    except Exception as error:  # in any case the others go on; anybody's code may raise anything
        reason = _reason(error)
        logger.info(f"{where}: failed: {reason}")
        return reason
    if path is not None:
        save_cached(path, finished)
    return finished


def _reason(error: Exception) -> str:
    if isinstance(error, FerkitError):
        return " ".join(str(error).split())
    logger.info("a candidate failed", exc_info=error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def _finished(
    outcome: CandidateOutput, task: Task, repeat: int, meter: ResourceMonitor, bench: SharedInputs
) -> CachedResult:
    """The outcome in the classes of the comparison, with what it cost."""
    labels = task.images.labels
    mapping = outcome.labels.map_to(labels)
    if len(mapping.unmapped) == len(outcome.labels):
        raise DataError(
            f"its classes ({', '.join(outcome.labels.names)}) and those of the data ({', '.join(labels.names)}) have "
            "nothing in common"
        )
    proba = outcome.proba if mapping.index == tuple(range(len(labels))) else mapping.proba(outcome.proba)
    costs = outcome.costs or Costs()
    if outcome.predict is not None:
        crops = bench.some_crops(task.test, outcome.size_wh)
        costs = replace(
            costs,
            train_s=outcome.train_s,
            ms_batch1=milliseconds(outcome.predict, crops[:1], bench.options.timing_s),
            ms_batch32=milliseconds(outcome.predict, crops, bench.options.timing_s),
            size_mb=outcome.size_mb,
        )
    if outcome.costs is None:
        costs = replace(costs, memory_mb=meter.memory_mb, energy_j=meter.energy_j)
    result = RepeatResult(repeat, np.asarray(proba, np.float32), costs, outcome.history, outcome.notes)
    return CachedResult(result, mapping.unmapped, mapping.unreached, outcome.seen)


MATRIX_NAME = "matrix.json"


@dataclass(frozen=True)
class CommonClasses:
    """The classes in which two data sets meet.

    Attributes:
        train, test: what becomes of each label of the two; None where it has no place.
        notes: the labels that have none, and those that take another name, in sentences.
    """

    train: Mapping[str, str | None]
    test: Mapping[str, str | None]
    notes: tuple[str, ...]


def common_classes(train: ReadDataset, test: ReadDataset) -> CommonClasses:
    """How the labels of the data trained on fall into those of the data tested on.

    Raises:
        DataError: fewer than two classes meet.
    """
    counts = train.dataset.class_counts(), test.dataset.class_counts()
    names = train.dataset.name, test.dataset.name
    source, target = (LabelSet.from_names(sorted(count)) for count in counts)
    mapping = source.map_to(target)
    reached = {target.names[i] for i in mapping.index if i >= 0}
    if len(reached) < 2:
        found = "only " + ", ".join(reached) if reached else "none"
        raise DataError(
            f"expected classes that {names[0]} ({', '.join(source.names)}) and {names[1]} ({', '.join(target.names)}) "
            f"have in common, found {found}; map the labels of one of them first"
        )
    notes = []
    if mapping.unmapped:
        listed = ", ".join(f"{name} ({counts[0][name]})" for name in mapping.unmapped)
        notes.append(f"classes of {names[0]} that {names[1]} lacks, left out of training: {listed}")
    if mapping.unreached:
        listed = ", ".join(f"{name} ({counts[1][name]})" for name in mapping.unreached)
        notes.append(f"classes of {names[1]} that {names[0]} lacks, left out of the test: {listed}")
    table = dict(zip(source.names, mapping.labels(source.names), strict=True))
    renamed = [f"{name} = {known}" for name, known in table.items() if known not in (None, name)]
    if renamed:
        notes.append(f"classes of {names[0]} taken as those of {names[1]}: {', '.join(renamed)}")
    kept = {name: name if name in reached else None for name in target.names}
    return CommonClasses(table, kept, tuple(notes))


def cross_data(train: ReadDataset, test: ReadDataset) -> EvaluationData:
    """The rows of both data sets in their common classes, the one trained on first.

    Raises:
        DataError: fewer than two classes meet.
    """
    common = common_classes(train, test)
    return build_evaluation_data(
        [train, test],
        name=f"{train.dataset.name} → {test.dataset.name}",
        relabel=[common.train.get, common.test.get],
        notes=common.notes,
    )


def compare_across(
    images: EvaluationData,
    candidates: Sequence[Candidate],
    protocol: ProtocolSettings,
    options: CompareOptions,
    *,
    rows: Sequence[tuple[AbstractSet[str], AbstractSet[str]]] | None = None,
) -> Comparison:
    """Train on one data set and test on another.

    Args:
        images: of :func:`cross_data`.
        candidates, protocol, options: see :func:`ferkit.evaluation.compare.compare`.
        rows: for each repeat, the paths to train on in the one and to test on in the other; None takes the
            training part of the one and the test part of the other where they have such, or else all of it.

    Raises:
        DataError: see :func:`ferkit.evaluation.compare.compare`.
    """
    if rows is None:
        train, test = images.parts
        rows = [(_given_part(train, ("train", "val")), _given_part(test, ("test",)))] * protocol.repeats
    splits = []
    for repeat, paths in enumerate(rows):
        at = [
            [i for i, path in enumerate(images.own_paths) if images.source[i] == side and path in wanted]
            for side, wanted in enumerate(paths)
        ]
        splits.append(SplitRows(protocol.seed + repeat, "cross", *(np.array(one, np.int64) for one in at)))
    return compare(images, candidates, protocol, options, splits=splits, parts=("train", "test"))


def compare_matrix(
    read: Sequence[ReadDataset],
    candidates: Sequence[Candidate],
    protocol: ProtocolSettings,
    options: CompareOptions,
    *,
    keep: Callable[[Comparison, EvaluationData, Path], None],
) -> list[list[Comparison]]:
    """Every data set against every one, itself among them.

    Args:
        read: the data sets, of different names.
        candidates, protocol, options: see :func:`ferkit.evaluation.compare.compare`.
        keep: called with each comparison when it is done, its images, and the folder for it.

    Returns:
        Rows: trained on; columns: tested on.

    Raises:
        DataError: fewer than two data sets, or two of one name.
    """
    names = [one.dataset.name for one in read]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise DataError(f"expected at least two data sets of different names, found {', '.join(names)}")
    own = [build_evaluation_data([one]) for one in read]
    # One training part a row and one test part a column: those of each data set compared with itself.
    divided = [draw_splits(images, protocol) for images in own]
    matrix = []
    for i, train in enumerate(read):
        row = []
        for j, test in enumerate(read):
            place = replace(options, out=options.out / f"{names[i]}--{names[j]}")
            logger.info(f"== {names[i]} → {names[j]}")
            if i == j:
                images = own[i]
                found = compare(images, candidates, protocol, place, splits=divided[i])
            else:
                images = cross_data(train, test)
                rows = [
                    (_paths(own[i], mine.train), _paths(own[j], theirs.test))
                    for mine, theirs in zip(divided[i], divided[j], strict=True)
                ]
                found = compare_across(images, candidates, protocol, place, rows=rows)
            keep(found, images, place.out)
            row.append(found)
        matrix.append(row)
    write_json(options.out / MATRIX_NAME, matrix_values(matrix))
    return matrix


def matrix_values(matrix: Sequence[Sequence[Comparison]]) -> dict[str, Any]:
    """``data``: the names; ``contenders``: by name, rows (trained on) of columns (tested on) of figures.

    The figures are accuracy, balanced accuracy and macro-F1, the test rows and the classes, and by class the ``recall``
    and ``recall_change``, against training on the data set tested on; None where it failed.
    """
    own = [row[i] for i, row in enumerate(matrix)]
    return {
        "data": [cell.data[0].name for cell in own],
        "contenders": {
            one.name: [
                [_values(cell, own[j] if i != j else None, one.name) for j, cell in enumerate(row)]
                for i, row in enumerate(matrix)
            ]
            for one in matrix[0][0].candidates
        },
    }


def matrix_notes(matrix: Sequence[Sequence[Comparison]]) -> list[str]:
    """What a reader must know of the cells, each sentence once."""
    return list(dict.fromkeys(note for row in matrix for cell in row for note in cell.notes))


def recall_changes(cell: Comparison, own: Comparison, name: str) -> dict[str, dict[str, Any]]:
    """By class, the recall of a candidate in ``cell`` less that in ``own``, with 95 % intervals.

    Both are asked of the same images, in the classes of ``cell`` alone; intervals are by paired bootstrap over persons,
    of few ones by :func:`ferkit.evaluation.metrics.few_units_interval`; ``units`` is how many show the expression.

    Args:
        cell: trained on other data.
        own: trained on the data that both were tested on.
        name: of the candidate.
    """
    there, here = cell.pooled(name), own.pooled(name)
    place = {key: i for i, key in enumerate(zip(here.repeats, own.paths[here.rows], strict=True))}
    same = [place[key] for key in zip(there.repeats, cell.paths[there.rows], strict=True)]
    column = {label: i for i, label in enumerate(cell.labels.names)}
    mine = here.proba[same][:, [own.labels.names.index(label) for label in column]]
    truth = np.array([column[label] for label in there.y_true], int)
    answers = np.stack([there.proba.argmax(axis=1), mine.argmax(axis=1)])
    unit = np.arange(len(truth)) if there.units is None else np.unique(there.units, return_inverse=True)[1]
    found = {}
    for label, number in column.items():
        rows = truth == number
        if rows.any():
            units = np.unique(unit[rows], return_inverse=True)[1]
            seed = cell.protocol.seed
            by = paired_bootstrap(truth[rows], answers[:, rows], len(column), units, seed, N_RESAMPLES)
            (a, b), n = by.accuracy.tolist(), int(units.max()) + 1
            low, high = by.low[0, 1], by.high[0, 1]
            if n < FEW_FOR_RESAMPLES:
                low, high = few_units_interval(a, b, float(effective_units(np.bincount(units))))
            found[label] = {**json_values(Figure(a - b, low, high)), "units": n}
    return found


def _values(comparison: Comparison, own: Comparison | None, name: str) -> dict[str, Any] | None:
    if comparison.candidate(name).failure is not None:
        return None
    evaluation = comparison.evaluation(name)
    changed = own is not None and own.candidate(name).failure is None
    return {
        **{
            key: json_values(evaluation.figures[key]) for key in ("accuracy", "balanced_accuracy", "macro_f1")
        },
        "n": evaluation.n,
        "classes": list(comparison.labels.names),
        "recall": {label: json_values(one.recall) for label, one in evaluation.per_class.items()},
        "recall_change": recall_changes(comparison, own, name) if own is not None and changed else {},
    }


def _paths(images: EvaluationData, rows: np.ndarray) -> AbstractSet[str]:
    return {images.own_paths[row] for row in rows}


def _given_part(dataset: Dataset, names: Sequence[str]) -> AbstractSet[str]:
    """Paths of the data set's own part of these names; of all its images if it has no such parts."""
    divided = {"train", "test"} <= {sample.split for sample in dataset.samples}
    return {sample.path for sample in dataset.samples if not divided or sample.split in names}
