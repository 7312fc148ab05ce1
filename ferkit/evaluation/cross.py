"""Comparisons across data sets: train on one, test on another, in the classes that both have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import write_json
from ferkit.core.labels import LabelSet
from ferkit.evaluation.compare import compare
from ferkit.evaluation.comparison import Comparison
from ferkit.evaluation.comparison_file import save_comparison
from ferkit.evaluation.contenders.contender import Contender
from ferkit.evaluation.contenders.workbench import BenchOptions
from ferkit.evaluation.division import draw_splits
from ferkit.evaluation.pictures import Pictures, ReadDataset, gather
from ferkit.evaluation.protocol import ProtocolSettings, SplitRows

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
    source, target = (LabelSet.of(sorted(count)) for count in counts)
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
    table = {
        name: target.names[i] if i >= 0 else None for name, i in zip(source.names, mapping.index, strict=True)
    }
    renamed = [f"{name} = {known}" for name, known in table.items() if known not in (None, name)]
    if renamed:
        notes.append(f"classes of {names[0]} taken as those of {names[1]}: {', '.join(renamed)}")
    kept = {name: name if name in reached else None for name in target.names}
    return CommonClasses(table, kept, tuple(notes))


def cross_pictures(train: ReadDataset, test: ReadDataset) -> Pictures:
    """The rows of both data sets in their common classes, the one trained on first.

    Raises:
        DataError: fewer than two classes meet.
    """
    common = common_classes(train, test)
    return gather(
        [train, test],
        name=f"{train.dataset.name} → {test.dataset.name}",
        relabel=[common.train.get, common.test.get],
        notes=common.notes,
    )


def cross_splits(pictures: Pictures, protocol: ProtocolSettings, *, whole: bool) -> list[SplitRows]:
    """Rows of the first data set to train on, and of the second to test on, for each repeat.

    Args:
        pictures: of :func:`cross_pictures`.
        protocol: how often, and how parts are drawn.
        whole: a data set without parts of its own is taken whole; otherwise its parts are drawn as they are when it
            is compared with itself, so that a row of a matrix has one training part and a column one test part.
    """
    splits = []
    for repeat in range(protocol.repeats):
        once = replace(protocol, repeats=1, seed=protocol.seed + repeat)
        rows = [_part(pictures, i, once, whole) for i in (0, 1)]
        splits.append(SplitRows(once.seed, "cross", rows[0][0], rows[1][1]))
    return splits


def compare_across(
    train: ReadDataset,
    test: ReadDataset,
    contenders: Sequence[Contender],
    protocol: ProtocolSettings,
    options: BenchOptions,
    *,
    whole: bool = True,
    say: Callable[[str], None],
) -> Comparison:
    """Train on one data set and test on another.

    Raises:
        DataError: see :func:`cross_pictures` and :func:`ferkit.evaluation.compare.compare`.
    """
    pictures = cross_pictures(train, test)
    splits = cross_splits(pictures, protocol, whole=whole)
    return compare(pictures, contenders, protocol, options, splits=splits, parts=("train", "test"), say=say)


def compare_matrix(
    read: Sequence[ReadDataset],
    contenders: Sequence[Contender],
    protocol: ProtocolSettings,
    options: BenchOptions,
    *,
    say: Callable[[str], None],
) -> list[list[Comparison]]:
    """Every data set against every one; each comparison is written into a folder of its own when it is done.

    Args:
        read: the data sets, of different names.
        contenders, protocol, options, say: see :func:`ferkit.evaluation.compare.compare`.

    Returns:
        Rows: trained on; columns: tested on.

    Raises:
        DataError: fewer than two data sets, or two of one name.
    """
    names = [one.dataset.name for one in read]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise DataError(f"expected at least two data sets of different names, found {', '.join(names)}")
    matrix = []
    for train in read:
        row = []
        for test in read:
            place = replace(options, out=options.out / f"{train.dataset.name}--{test.dataset.name}")
            say(f"== {train.dataset.name} → {test.dataset.name}")
            if train is test:
                found = compare(gather([train]), contenders, protocol, place, say=say)
            else:
                found = compare_across(train, test, contenders, protocol, place, whole=False, say=say)
            save_comparison(found, place.out)
            row.append(found)
        matrix.append(row)
    write_matrix(matrix, options.out)
    return matrix


def write_matrix(matrix: Sequence[Sequence[Comparison]], out: Path) -> Path:
    """Write the accuracies of all contenders in all cells as ``matrix.json``.

    Raises:
        FerkitError: the folder cannot be written.
    """
    names = [row[i].data[0].name for i, row in enumerate(matrix)]
    write_json(out / MATRIX_NAME, {"data": names, "contenders": matrix_values(matrix)})
    return out / MATRIX_NAME


def matrix_values(matrix: Sequence[Sequence[Comparison]]) -> dict[str, list[list[dict[str, Any] | None]]]:
    """By contender, rows (trained on) of columns (tested on): its accuracy, macro-F1, classes; None where it failed."""
    found: dict[str, list[list[dict[str, Any] | None]]] = {}
    for one in matrix[0][0].contenders:
        found[one.name] = [[_values(cell, one.name) for cell in row] for row in matrix]
    return found


def _values(comparison: Comparison, name: str) -> dict[str, Any] | None:
    if comparison.contender(name).failure is not None:
        return None
    evaluation = comparison.evaluation(name)
    figures = {
        key: evaluation.figures[key].to_dict() for key in ("accuracy", "balanced_accuracy", "macro_f1")
    }
    return {**figures, "n": evaluation.n, "classes": list(comparison.labels.names)}


def _part(
    pictures: Pictures, source: int, protocol: ProtocolSettings, whole: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows of one of the data sets."""
    rows = np.flatnonzero(pictures.source == source)
    if whole and not {"train", "test"} <= set(pictures.given_split[rows]):
        return rows, rows
    split = draw_splits(pictures, protocol, rows)[0]
    return split.train, split.test
