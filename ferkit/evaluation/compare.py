"""``fer compare`` as one function: every contender under one protocol, on the same pictures."""

import datetime
import logging
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ferkit.classifiers.model import installed_versions
from ferkit.core.errors import DataError, FerkitError
from ferkit.core.files import exclusive_lock
from ferkit.evaluation.cells import CellCache, Finished
from ferkit.evaluation.comparison import Cell, Comparison, ContenderResult, Costs
from ferkit.evaluation.contenders.contender import Contender, Outcome, Task
from ferkit.evaluation.contenders.workbench import BenchOptions, Workbench
from ferkit.evaluation.costs import Meter, milliseconds
from ferkit.evaluation.division import check_columns, check_leaks, draw_splits, odd_splits
from ferkit.evaluation.pairs import pairs_of
from ferkit.evaluation.pictures import Pictures
from ferkit.evaluation.protocol import ProtocolSettings, SplitRows

Say = Callable[[str], None]


def compare(
    pictures: Pictures,
    contenders: Sequence[Contender],
    protocol: ProtocolSettings,
    options: BenchOptions,
    *,
    splits: Sequence[SplitRows] | None = None,
    parts: Sequence[str] = ("both",),
    say: Say,
) -> Comparison:
    """Run every contender in every repeat, going on where an interrupted comparison of the same stopped.

    A contender that fails gets a row with its reason, and is tried again the next time.

    Args:
        pictures: the rows.
        contenders: who takes part.
        protocol: how all are treated.
        options: where things are kept, and how faces are taken out.
        splits: the rows of each repeat; None draws them, or takes those of the data.
        parts: for each data set, whether it was used for ``train``, ``test`` or ``both``.
        say: takes sentences for the user.

    Raises:
        DataError: the pictures cannot be divided, or the test part leaks and that is not allowed.
        StoreLockedError: another process works on the same comparison.
        FerkitError: the disk is full or a folder cannot be written.
    """
    check_columns(pictures, protocol)
    splits = tuple(splits if splits is not None else draw_splits(pictures, protocol))
    notes = (*pictures.notes, *odd_splits(pictures, splits, protocol))
    for note in notes:
        say(f"note: {note}")
    splits, leaks = check_leaks(pictures, splits, protocol, options, say)
    with exclusive_lock(options.out / ".lock", "comparing into"):
        bench = Workbench(pictures, options)
        results = _run_all(pictures, contenders, splits, bench, say)
    comparison = Comparison(
        name=pictures.name,
        labels=pictures.labels,
        y=pictures.y,
        paths=np.array(pictures.own_paths, object),
        groups=pictures.groups,
        source=pictures.source,
        data=pictures.used(parts),
        attributes=pictures.attributes,
        protocol=protocol,
        splits=splits,
        contenders=tuple(results),
        leaks=leaks,
        notes=notes,
        versions={"python": platform.python_version(), **installed_versions()},
        machine={
            "processor": platform.machine(),
            "cores": str(os.cpu_count()),
            "system": platform.system(),
        },
        date=datetime.date.today().isoformat(),
    )
    return replace(comparison, pairs=pairs_of(comparison))


def _run_all(
    pictures: Pictures,
    contenders: Sequence[Contender],
    splits: tuple[SplitRows, ...],
    bench: Workbench,
    say: Say,
) -> list[ContenderResult]:
    digests = [(pictures.digest(split.train), pictures.digest(split.test)) for split in splits]
    earlier: list[dict[str, Cell]] = [{} for _ in splits]
    results = []
    for number, contender in enumerate(contenders, 1):
        done: list[Finished] = []
        failure = None
        for repeat, split in enumerate(splits):
            where = f"[{number}/{len(contenders)}] {contender.name}"
            where += f", repeat {repeat + 1} of {len(splits)}" if len(splits) > 1 else ""
            task = Task(pictures, split.train, split.test, split.seed, split.origin, earlier[repeat])
            finished = _run(contender, task, repeat, digests[repeat], bench, where, say)
            if isinstance(finished, str):
                failure = finished
                break
            done.append(finished)
            earlier[repeat][contender.name] = finished.cell
        results.append(_result(contender, done, failure))
    return results


def _result(contender: Contender, done: Sequence[Finished], failure: str | None) -> ContenderResult:
    cells = tuple(one.cell for one in done)
    return ContenderResult(
        contender.name,
        contender.kind,
        cells,
        failure,
        done[-1].unmapped if done else (),
        done[-1].unreached if done else (),
        np.unique(np.concatenate([one.seen for one in done])) if done else np.zeros(0, np.int64),
        tuple(dict.fromkeys(note for cell in cells for note in cell.notes)),
    )


def _run(
    contender: Contender,
    task: Task,
    repeat: int,
    digests: tuple[str, str],
    bench: Workbench,
    where: str,
    say: Say,
) -> Finished | str:
    """A cell from the cache, or made now and kept there; or the reason why there is none."""
    cache = CellCache(bench.options.out / "cells")
    try:
        settings = contender.settings(bench)
        labels = list(task.pictures.labels.names)
        path = None
        if settings is not None:
            path = cache.path(contender.name, [dict(settings), *digests, task.seed, task.origin, labels])
            there = cache.load(path, repeat)
            if there is not None:
                say(f"{where}: finished before")
                return there
        say(where)
        with Meter() as meter:
            outcome = contender.run(task, bench)
        finished = _finished(outcome, task, repeat, meter, bench)
    except Exception as error:  # whatever it is, the others go on; anybody's code may raise anything
        reason = _reason(error)
        say(f"{where}: failed: {reason}")
        return reason
    if path is not None:
        cache.save(path, finished)
    return finished


def _reason(error: Exception) -> str:
    if isinstance(error, FerkitError):
        return " ".join(str(error).split())
    logging.getLogger("ferkit").info("a contender failed", exc_info=error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def _finished(outcome: Outcome, task: Task, repeat: int, meter: Meter, bench: Workbench) -> Finished:
    """The outcome in the classes of the comparison, with what it cost."""
    labels = task.pictures.labels
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
    cell = Cell(repeat, np.asarray(proba, np.float32), costs, outcome.history, outcome.notes)
    return Finished(cell, mapping.unmapped, mapping.unreached, outcome.seen)
