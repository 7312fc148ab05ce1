"""Comparisons across data sets: train on one, test on another, in the classes that both have."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import write_json
from ferkit.core.labels import LabelSet
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation.compare import compare
from ferkit.evaluation.comparison import Comparison
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


def compare_across(
    pictures: Pictures,
    contenders: Sequence[Contender],
    protocol: ProtocolSettings,
    options: BenchOptions,
    *,
    rows: Sequence[tuple[AbstractSet[str], AbstractSet[str]]] | None = None,
    say: Callable[[str], None],
) -> Comparison:
    """Train on one data set and test on another.

    Args:
        pictures: of :func:`cross_pictures`.
        contenders, protocol, options, say: see :func:`ferkit.evaluation.compare.compare`.
        rows: for each repeat, the paths to train on in the one and to test on in the other; None takes the
            training part of the one and the test part of the other where they have such, or else all of it.

    Raises:
        DataError: see :func:`ferkit.evaluation.compare.compare`.
    """
    if rows is None:
        train, test = pictures.parts
        rows = [(_given_part(train, ("train", "val")), _given_part(test, ("test",)))] * protocol.repeats
    splits = []
    for repeat, paths in enumerate(rows):
        at = [
            [i for i, path in enumerate(pictures.own_paths) if pictures.source[i] == side and path in wanted]
            for side, wanted in enumerate(paths)
        ]
        splits.append(SplitRows(protocol.seed + repeat, "cross", *(np.array(one, np.int64) for one in at)))
    return compare(pictures, contenders, protocol, options, splits=splits, parts=("train", "test"), say=say)


def compare_matrix(
    read: Sequence[ReadDataset],
    contenders: Sequence[Contender],
    protocol: ProtocolSettings,
    options: BenchOptions,
    *,
    keep: Callable[[Comparison, Pictures, Path], None],
    say: Callable[[str], None],
) -> list[list[Comparison]]:
    """Every data set against every one, itself among them.

    Args:
        read: the data sets, of different names.
        contenders, protocol, options, say: see :func:`ferkit.evaluation.compare.compare`.
        keep: called with each comparison when it is done, its pictures, and the folder for it.

    Returns:
        Rows: trained on; columns: tested on.

    Raises:
        DataError: fewer than two data sets, or two of one name.
    """
    names = [one.dataset.name for one in read]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise DataError(f"expected at least two data sets of different names, found {', '.join(names)}")
    own = [gather([one]) for one in read]
    # One training part a row and one test part a column: those of each data set compared with itself.
    divided = [draw_splits(pictures, protocol) for pictures in own]
    matrix = []
    for i, train in enumerate(read):
        row = []
        for j, test in enumerate(read):
            place = replace(options, out=options.out / f"{names[i]}--{names[j]}")
            say(f"== {names[i]} → {names[j]}")
            if i == j:
                pictures = own[i]
                found = compare(pictures, contenders, protocol, place, splits=divided[i], say=say)
            else:
                pictures = cross_pictures(train, test)
                rows = [
                    (_paths(own[i], mine.train), _paths(own[j], theirs.test))
                    for mine, theirs in zip(divided[i], divided[j], strict=True)
                ]
                found = compare_across(pictures, contenders, protocol, place, rows=rows, say=say)
            keep(found, pictures, place.out)
            row.append(found)
        matrix.append(row)
    write_json(options.out / MATRIX_NAME, matrix_values(matrix))
    return matrix


def matrix_values(matrix: Sequence[Sequence[Comparison]]) -> dict[str, Any]:
    """``data``: the names; ``contenders``: by name, rows (trained on) of columns (tested on) of figures.

    The figures are accuracy, balanced accuracy and macro-F1, the test rows and the classes; None where it failed.
    """
    return {
        "data": [row[i].data[0].name for i, row in enumerate(matrix)],
        "contenders": {
            one.name: [[_values(cell, one.name) for cell in row] for row in matrix]
            for one in matrix[0][0].contenders
        },
    }


def matrix_notes(matrix: Sequence[Sequence[Comparison]]) -> list[str]:
    """What a reader must know of the cells, each sentence once."""
    return list(dict.fromkeys(note for row in matrix for cell in row for note in cell.notes))


def _values(comparison: Comparison, name: str) -> dict[str, Any] | None:
    if comparison.contender(name).failure is not None:
        return None
    evaluation = comparison.evaluation(name)
    figures = {
        key: evaluation.figures[key].to_dict() for key in ("accuracy", "balanced_accuracy", "macro_f1")
    }
    return {**figures, "n": evaluation.n, "classes": list(comparison.labels.names)}


def _paths(pictures: Pictures, rows: np.ndarray) -> AbstractSet[str]:
    return {pictures.own_paths[row] for row in rows}


def _given_part(dataset: Dataset, names: Sequence[str]) -> AbstractSet[str]:
    """Paths of the data set's own part of these names; of all its pictures if it has no such parts."""
    divided = {"train", "test"} <= {sample.split for sample in dataset.samples}
    return {sample.path for sample in dataset.samples if not divided or sample.split in names}
