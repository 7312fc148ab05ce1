"""What a comparison of contenders found: the types, and their way to disk and back.

A :class:`Comparison` holds every probability that every contender gave, so that each figure, interval and plot
can be made from it again without a model. On disk it is two files: ``comparison.json``, which people and programs
read, and ``comparison.npz`` beside it, with the arrays.

    Comparison
    ├── splits       SplitRows, one a repeat: the same rows for every contender
    ├── contenders   ContenderResult ── cells: Cell, one a repeat ── costs: Costs
    └── pairs        PairTest, each two contenders that finished
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.evaluation.metrics import Evaluation, evaluate
from ferkit.evaluation.protocol import DataUsed, ProtocolSettings, SplitRows

__all__ = [
    "Cell", "Comparison", "ContenderResult", "Costs", "DataUsed", "Kind", "PairTest", "Pooled", "ProtocolSettings",
    "SplitRows",
]  # fmt: skip

Kind = Literal["dummy", "head", "network", "ensemble", "peer", "callable"]


@dataclass(frozen=True)
class Costs:
    """What a contender takes; None where it was not or cannot be measured.

    Attributes:
        train_s: seconds of training, embeddings not counted; None where nothing was trained here.
        ms_batch1, ms_batch32: milliseconds a picture, from the crop to the probabilities, one at a time and 32
            together.
        size_mb: all files that it needs to predict, in 10^6 bytes.
        memory_mb: by how much the memory of the process rose at most while it trained and predicted, 10^6 bytes.
        energy_j: joules of the processor while it trained and predicted, where the machine counts them.
    """

    train_s: float | None = None
    ms_batch1: float | None = None
    ms_batch32: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True)
class Cell:
    """One contender in one repeat.

    Attributes:
        repeat: number of the repeat, an index into ``Comparison.splits``.
        proba: float32 (test rows of that repeat, classes of the comparison); rows sum to 1.
        costs: what it took.
        history: figures after each pass of training, in order (``accuracy``, ``log_loss``, ``val_accuracy`` …);
            empty where nothing is learnt in passes.
        notes: what a reader must know, in sentences.
    """

    repeat: int
    proba: np.ndarray
    costs: Costs = field(default_factory=Costs)
    history: tuple[Mapping[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ContenderResult:
    """One contender in all repeats.

    Attributes:
        name: as it was asked for: ``mlp@ferkit``, ``peer:fer`` …
        kind: what it is.
        cells: one a repeat, in order; fewer, or none, if it failed.
        failure: the reason, in a sentence; None if it did not fail.
        unmapped: its own classes that have no place here; their probability is shared out among the others.
        unreached: classes of the comparison that it can never say; its probability for them is 0.
        seen: int64 row numbers of test pictures that it is known to have been trained on elsewhere.
        notes: what a reader must know, in sentences.
    """

    name: str
    kind: Kind
    cells: tuple[Cell, ...] = ()
    failure: str | None = None
    unmapped: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    notes: tuple[str, ...] = ()

    @property
    def costs(self) -> Costs:
        """The mean over the repeats, of each figure where it is known."""
        means: dict[str, float | None] = {}
        for name in Costs.__dataclass_fields__:
            known = [value for cell in self.cells if (value := getattr(cell.costs, name)) is not None]
            means[name] = float(np.mean(known)) if known else None
        return Costs(**means)


@dataclass(frozen=True)
class PairTest:
    """Two contenders on the same test pictures.

    Attributes:
        a, b: their names.
        difference: accuracy of ``a`` minus that of ``b``, -1..1.
        low, high: its 95 % interval by paired bootstrap over persons, or over pictures.
        p_mcnemar: of McNemar's test on the pictures that only one of them got right, or, with persons or several
            repeats, of its form for clusters (``ferkit.evaluation.statistics.sign_flip_p``).
        p_bootstrap: two-sided, of the paired bootstrap.
        p_adjusted: the p-value that the sentence rests on, corrected for the number of pairs (Holm, 1979).
        sentence: what it means, in plain English.
        f1_difference, f1_low, f1_high: of macro-F1, as of accuracy.
        f1_p_adjusted: its p-value by paired bootstrap, corrected for the number of pairs.
        p_retraining: as ``p_mcnemar``, but counting too how results vary from one training to another
            (``ferkit.evaluation.statistics.retraining_p``); NaN with fewer than three repeats.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p_mcnemar: float
    p_bootstrap: float
    p_adjusted: float
    sentence: str
    f1_difference: float = float("nan")
    f1_low: float = float("nan")
    f1_high: float = float("nan")
    f1_p_adjusted: float = float("nan")
    p_retraining: float = float("nan")


@dataclass(frozen=True)
class Pooled:
    """The predictions of one contender over all repeats, one below the other.

    Attributes:
        rows: int64 (m,) row numbers of the comparison; a row occurs once for each repeat that tested it.
        repeats: int64 (m,) which repeat.
        y_true: (m,) str objects, class names.
        proba: float32 (m, k).
        units: (m,) str objects, what is independent: the person, or the picture where the person is unknown; None
            if no row occurs twice and no person is known, so that every row is a unit of its own.
    """

    rows: np.ndarray
    repeats: np.ndarray
    y_true: np.ndarray
    proba: np.ndarray
    units: np.ndarray | None


@dataclass(frozen=True)
class Comparison:
    """Contenders under one protocol, on the same pictures.

    Attributes:
        name: of the data, for titles: ``faces``, or ``A -> B`` across data sets.
        labels: the classes; ``y`` and the columns of all probabilities are in these.
        y, paths, groups: (n,) str objects: class names, paths within the data set, and who is shown (None where
            unknown), of all pictures that took part.
        source: (n,) int64, the data set of each picture, an index into ``data``.
        data: the data sets.
        attributes: by column, (n,) str objects, None where unknown.
        protocol: how all were treated.
        splits: one a repeat.
        contenders: in the order they were named.
        pairs: tests of each two contenders that finished.
        leaks: what the leak check says, as JSON values; None if there was none.
        notes: what a reader must know: classes that do not map, pictures that could not be read …
        versions: of Python and the packages that numbers depend on.
        machine: what it ran on: ``processor``, ``cores``, ``system``.
        date: day of the run, ISO 8601.
    """

    name: str
    labels: LabelSet
    y: np.ndarray
    paths: np.ndarray
    groups: np.ndarray
    source: np.ndarray
    data: tuple[DataUsed, ...]
    attributes: Mapping[str, np.ndarray]
    protocol: ProtocolSettings
    splits: tuple[SplitRows, ...]
    contenders: tuple[ContenderResult, ...]
    pairs: tuple[PairTest, ...] = ()
    leaks: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def finished(self) -> tuple[ContenderResult, ...]:
        """The contenders that did not fail."""
        return tuple(one for one in self.contenders if one.failure is None)

    @property
    def leaking(self) -> bool:
        """Whether a test picture, or its person, is in the training part of its repeat."""
        return any(len(split.leaking) for split in self.splits)

    @property
    def separable(self) -> bool:
        """Whether leaking test pictures can be left out: there are some, and others remain."""
        return self.leaking and any(len(split.leaking) < len(split.test) for split in self.splits)

    def contender(self, name: str) -> ContenderResult:
        """The contender called ``name``. Raises DataError if there is none."""
        for one in self.contenders:
            if one.name == name:
                return one
        raise DataError(
            f"no contender is called {name!r}; there are {', '.join(c.name for c in self.contenders)}"
        )

    def pooled(self, name: str, *, with_leaks: bool = True) -> Pooled:
        """All predictions of a contender; ``with_leaks=False`` leaves leaking test rows out.

        Pooled arrays of two contenders of one comparison have the same rows in the same order.

        Raises:
            DataError: no such contender, it failed, or no row is left.
        """
        one = self.contender(name)
        if one.failure is not None:
            raise DataError(f"{name} has no result: {one.failure}")
        rows, repeats, proba = [], [], []
        for cell in one.cells:
            split = self.splits[cell.repeat]
            keep = np.ones(len(split.test), bool) if with_leaks else ~np.isin(split.test, split.leaking)
            rows.append(split.test[keep])
            repeats.append(np.full(int(keep.sum()), cell.repeat, np.int64))
            proba.append(cell.proba[keep])
        all_rows = np.concatenate(rows)
        if not len(all_rows):
            raise DataError("no test picture is left without the leaking ones; draw another split")
        return Pooled(
            all_rows,
            np.concatenate(repeats),
            self.y[all_rows],
            np.concatenate(proba),
            self._units(all_rows),
        )

    def evaluation(self, name: str, *, with_leaks: bool = True) -> Evaluation:
        """All figures of a contender, over all repeats together.

        Raises:
            DataError: see :meth:`pooled`.
        """
        pooled = self.pooled(name, with_leaks=with_leaks)
        return evaluate(pooled.y_true, pooled.proba, self.labels, pooled.units, self.protocol.seed)

    def _units(self, rows: np.ndarray) -> np.ndarray | None:
        groups = self.groups[rows]
        if all(group is None for group in groups) and len(np.unique(rows)) == len(rows):
            return None
        return np.array(
            [f"row {row}" if group is None else group for row, group in zip(rows, groups, strict=True)],
            object,
        )
