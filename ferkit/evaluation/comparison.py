"""How candidates are compared, and what was found: the types, and their way to disk and back.

A :class:`Comparison` holds every probability that every candidate gave, so that each figure, interval and plot
can be made from it again without a model. On disk it is two files: ``comparison.json``, which people and programs
read, and ``comparison.npz`` next to it, with the arrays.

    Comparison
    ├── splits       SplitRows, one a repeat: the same rows for every candidate
    ├── candidates   CandidateResult ── RepeatResult, one a repeat ── Costs
    └── pairs        PairTest, each two candidates that finished
"""

import datetime
import json
import platform
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ferkit.classifiers.model import installed_versions
from ferkit.core.console import n_cores
from ferkit.core.errors import DataError
from ferkit.core.files import fingerprint, json_values, parse_json, read_regular, write_atomically, write_json
from ferkit.core.labels import LabelSet
from ferkit.evaluation.metrics import Evaluation, evaluate

Kind = Literal["dummy", "head", "network", "ensemble", "peer", "callable"]


@dataclass(frozen=True)
class ProtocolSettings:
    """How all candidates are treated.

    Attributes:
        repeats: how often the data are divided, or, where they come divided, how often training begins again.
        test_size: share held out, 0..1, where the data do not come divided.
        seed: of the first repeat; the next ones take the numbers after it.
        by_group: keep each person on one side, where persons are known.
        allow_leaks: go on where test images, or persons, lie in the training part too.
        by: columns of the data whose values are compared (``sex``, ``age``, ``source`` …).

    Raises:
        DataError: a value out of range.
    """

    repeats: int = 1
    test_size: float = 0.2
    seed: int = 0
    by_group: bool = True
    allow_leaks: bool = False
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise DataError(f"expected at least one repeat, found {self.repeats}")
        if not 0 < self.test_size < 1:
            raise DataError(f"expected a test share between 0 and 1, found {self.test_size}")


@dataclass(frozen=True)
class DataUsed:
    """A data set that took part.

    Attributes:
        name: of the data set.
        root: folder or file it was read from; ``ferkit.datasets.load.load_dataset`` opens it again.
        part: ``train``, ``test`` or ``both``: what it was used for.
        n: its images that took part.
        digest: SHA-256 of their paths, labels and persons.
    """

    name: str
    root: str
    part: str
    n: int
    digest: str


@dataclass(frozen=True)
class SplitRows:
    """Row numbers of one repeat, into the arrays of the comparison.

    Attributes:
        seed: of this repeat, also of what is trained in it.
        origin: ``given`` by the data, ``drawn``, or ``cross`` (one data set against another).
        train, test: int64, ascending, disjoint.
        leaking: int64, ascending: the rows of ``test`` whose image, or person, is in ``train`` too.
    """

    seed: int
    origin: str
    train: np.ndarray
    test: np.ndarray
    leaking: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Costs:
    """What a candidate takes; None where it was not or cannot be measured.

    Attributes:
        train_s: seconds of training, embeddings not counted; None where nothing was trained here.
        ms_batch1, ms_batch32: milliseconds an image, from the crop to the probabilities, one at a time and 32
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
class RepeatResult:
    """One candidate in one repeat.

    Attributes:
        repeat: number of the repeat, an index into ``Comparison.splits``.
        proba: float32 (test rows of that repeat, classes of the comparison); rows sum to 1.
        costs: what it took.
        history: figures after each pass of training, in order (``accuracy``, ``log_loss``, ``val_accuracy`` …);
            empty where nothing is learnt in passes.
        notes: what a reader must know, in sentences.
    """

    repeat: int
    proba: np.ndarray = field(repr=False)
    costs: Costs = field(default_factory=Costs)
    history: tuple[Mapping[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CandidateResult:
    """One candidate in all repeats.

    Attributes:
        name: as it was asked for: ``mlp@ferkit``, ``peer:fer`` …
        kind: what it is.
        cells: one a repeat, in order; fewer, or none, if it failed.
        failure: the reason, in a sentence; None if it did not fail.
        unmapped: its own classes that have no place here; their probability is shared out among the others.
        unreached: classes of the comparison that it can never say; its probability for them is 0.
        seen: int64 row numbers of test images that it is known to have been trained on elsewhere.
        notes: what a reader must know, in sentences.
    """

    name: str
    kind: Kind
    cells: tuple[RepeatResult, ...] = ()
    failure: str | None = None
    unmapped: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
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
    """Two candidates on the same test images.

    Attributes:
        a, b: their names.
        difference: accuracy of ``a`` minus that of ``b``, -1..1.
        low, high: its 95 % interval by paired bootstrap over persons, or over images.
        p_mcnemar: of McNemar's test on the images that only one of them got right, or, with persons or several
            repeats, of its form for clusters (``ferkit.evaluation.significance.sign_flip_p``).
        p_bootstrap: two-sided, of the paired bootstrap.
        p_adjusted: the p-value that the sentence rests on, corrected for the number of pairs (Holm, 1979).
        sentence: what it means, in plain English.
        f1_difference, f1_low, f1_high: of macro-F1, as of accuracy.
        f1_p_adjusted: its p-value by paired bootstrap, corrected for the number of pairs.
        p_retraining: as ``p_mcnemar``, but counting too how results vary from one training to another
            (``ferkit.evaluation.significance.retraining_p``); NaN with fewer than three repeats.
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
    """The predictions of one candidate over all repeats, one below the other.

    Attributes:
        rows: int64 (m,) row numbers of the comparison; a row occurs once for each repeat that tested it.
        repeats: int64 (m,) which repeat.
        y_true: (m,) str objects, class names.
        proba: float32 (m, k).
        units: (m,) str objects, what is independent: the person, or the image where the person is unknown; None
            if no row occurs twice and no person is known, so that every row is a unit of its own.
    """

    rows: np.ndarray
    repeats: np.ndarray
    y_true: np.ndarray
    proba: np.ndarray
    units: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Candidates under one protocol, on the same images.

    Attributes:
        name: of the data, for titles: ``faces``, or ``A -> B`` across data sets.
        labels: the classes; ``y`` and the columns of all probabilities are in these.
        y, paths, groups: (n,) str objects: class names, paths within the data set, and who is shown (None where
            unknown), of all images that took part.
        source: (n,) int64, the data set of each image, an index into ``data``.
        data: the data sets.
        attributes: by column, (n,) str objects, None where unknown.
        protocol: how all were treated.
        splits: one a repeat.
        candidates: in the order they were named.
        pairs: tests of each two candidates that finished.
        leaks: what the leak check says, as JSON values; None if there was none.
        notes: what a reader must know: classes that do not map, images that could not be read …
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
    candidates: tuple[CandidateResult, ...]
    pairs: tuple[PairTest, ...] = ()
    leaks: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def finished(self) -> tuple[CandidateResult, ...]:
        """The candidates that did not fail."""
        return tuple(one for one in self.candidates if one.failure is None)

    @property
    def leaking(self) -> bool:
        """Whether a test image, or its person, is in the training part of its repeat."""
        return any(len(split.leaking) for split in self.splits)

    @property
    def separable(self) -> bool:
        """Whether leaking test images can be left out: there are some, and others remain."""
        return self.leaking and any(len(split.leaking) < len(split.test) for split in self.splits)

    def candidate(self, name: str) -> CandidateResult:
        """The candidate called ``name``. Raises DataError if there is none."""
        for one in self.candidates:
            if one.name == name:
                return one
        raise DataError(
            f"no candidate is called {name!r}; there are {', '.join(c.name for c in self.candidates)}"
        )

    def pooled(self, name: str, *, with_leaks: bool = True) -> Pooled:
        """All predictions of a candidate; ``with_leaks=False`` leaves leaking test rows out.

        Pooled arrays of two candidates of one comparison have the same rows in the same order.

        Raises:
            DataError: no such candidate, it failed, or no row is left.
        """
        one = self.candidate(name)
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
            raise DataError("no test image is left without the leaking ones; draw another split")
        return Pooled(
            all_rows, np.concatenate(repeats), self.y[all_rows], np.concatenate(proba), self._units(all_rows)
        )

    def evaluation(self, name: str, *, with_leaks: bool = True) -> Evaluation:
        """All figures of a candidate, over all repeats together.

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


def circumstances() -> dict[str, Any]:
    """The versions, the machine and the date of a :class:`Comparison` made here and now."""
    return {
        "versions": {"python": platform.python_version(), **installed_versions()},
        "machine": {"processor": platform.machine(), "cores": str(n_cores()), "system": platform.system()},
        "date": datetime.date.today().isoformat(),
    }


FORMAT = 1


@dataclass(frozen=True)
class CachedResult:
    """A result, and what it says of its candidate.

    Attributes:
        result: of the candidate in one repeat.
        unmapped, unreached, seen: see :class:`ferkit.evaluation.comparison.CandidateResult`.
    """

    result: RepeatResult
    unmapped: tuple[str, ...]
    unreached: tuple[str, ...]
    seen: np.ndarray


def cache_path(folder: Path, name: str, depends_on: Any) -> Path:
    """The file of a result, found again by everything that it depends on.

    Its name begins with the candidate's, as it was called then, and ends with the digest.
    """
    slug = re.sub(r"[^\w.@+-]+", "-", name)[-60:].strip("-")
    digest = fingerprint([FORMAT, depends_on])[:24]
    path = folder / f"{slug}--{digest}.npz"
    known = sorted(folder.glob(f"*--{digest}.npz"))
    return known[0] if known and not path.exists() else path


def load_cached(path: Path, repeat: int) -> CachedResult | None:
    """The result in ``path``; None if there is none, or it cannot be read and has to be made again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = json.loads(file["values"].tobytes().decode())
            result, seen = _repeat_result(repeat, file["proba"], values), file["seen"]
        return CachedResult(result, tuple(values["unmapped"]), tuple(values["unreached"]), seen)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def save_cached(path: Path, finished: CachedResult) -> None:
    """Write a result, whole or not at all.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    result = finished.result
    values = {
        "costs": asdict(result.costs),
        "history": [dict(entry) for entry in result.history],
        "notes": list(result.notes),
        "unmapped": list(finished.unmapped),
        "unreached": list(finished.unreached),
    }
    packed = np.frombuffer(json.dumps(values).encode(), np.uint8)
    write_atomically(
        path, lambda file: np.savez_compressed(file, proba=result.proba, seen=finished.seen, values=packed)
    )


JSON_NAME = "comparison.json"
NPZ_NAME = "comparison.npz"


def save_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write both files into ``folder``; the JSON, written last, says that both are there.

    Returns:
        The JSON file.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    arrays: dict[str, np.ndarray] = {"source": comparison.source}
    for name in ("y", "paths", "groups"):
        arrays[name] = _pack(getattr(comparison, name))
    for column, values in comparison.attributes.items():
        arrays[f"attribute/{column}"] = _pack(values)
    for r, split in enumerate(comparison.splits):
        for name in ("train", "test", "leaking"):
            arrays[f"split/{r}/{name}"] = getattr(split, name)
    for i, one in enumerate(comparison.candidates):
        arrays[f"seen/{i}"] = one.seen
        for cell in one.cells:
            arrays[f"proba/{i}/{cell.repeat}"] = cell.proba.astype(np.float32)
    write_atomically(folder / NPZ_NAME, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    write_json(folder / JSON_NAME, to_dict(comparison))
    return folder / JSON_NAME


def load_comparison(folder: Path) -> Comparison:
    """What :func:`save_comparison` wrote.

    Raises:
        DataError: there is none, or the files are damaged or of a newer ferkit.
    """
    path = folder / JSON_NAME
    try:
        values = parse_json(read_regular(path))
        if values["format"] > FORMAT:
            raise DataError(
                f"{path} has format {values['format']}, this ferkit reads {FORMAT}; update ferkit"
            )
        with np.load(folder / NPZ_NAME, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _from_parts(values, arrays)
    except FileNotFoundError as error:
        raise DataError(
            f"expected a comparison in {folder}, found no {Path(error.filename).name}; run 'fer compare'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read ({error}); run 'fer compare' again") from None


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything but the single images, as JSON values; each candidate with its figures."""
    names = ("name", "date", "data", "protocol", "pairs", "leaks", "notes", "versions", "machine")
    return {
        "format": FORMAT,
        **{name: json_values(getattr(comparison, name)) for name in names},
        "labels": {"name": comparison.labels.name, "names": list(comparison.labels.names)},
        "splits": [
            {"seed": split.seed, "origin": split.origin}
            | {f"{part}_rows": len(getattr(split, part)) for part in ("train", "test", "leaking")}
            for split in comparison.splits
        ],
        "contenders": [_candidate_to_dict(comparison, one) for one in comparison.candidates],
    }


def _candidate_to_dict(comparison: Comparison, one: CandidateResult) -> dict[str, Any]:
    values: dict[str, Any] = {
        **json_values(one),
        "seen_rows": len(one.seen),
        "costs": json_values(one.costs),
        "cells": json_values(one.cells),
    }
    if one.failure is None:
        values["evaluation"] = comparison.evaluation(one.name).to_dict()
        if comparison.separable:
            clean = comparison.evaluation(one.name, with_leaks=False)
            values["evaluation_without_leaks"] = clean.to_dict()
    return values


def _from_parts(values: dict[str, Any], arrays: dict[str, np.ndarray]) -> Comparison:
    protocol = values["protocol"] | {"by": tuple(values["protocol"]["by"])}
    return Comparison(
        name=values["name"],
        labels=LabelSet(tuple(values["labels"]["names"]), values["labels"]["name"]),
        y=_unpack(arrays["y"]),
        paths=_unpack(arrays["paths"]),
        groups=_unpack(arrays["groups"]),
        source=arrays["source"],
        data=tuple(DataUsed(**one) for one in values["data"]),
        attributes={
            name.removeprefix("attribute/"): _unpack(packed)
            for name, packed in arrays.items()
            if name.startswith("attribute/")
        },
        protocol=ProtocolSettings(**protocol),
        splits=tuple(
            SplitRows(
                one["seed"],
                one["origin"],
                *(arrays[f"split/{r}/{name}"] for name in ("train", "test", "leaking")),
            )
            for r, one in enumerate(values["splits"])
        ),
        candidates=tuple(_candidate(i, one, arrays) for i, one in enumerate(values["contenders"])),
        pairs=tuple(_pair(one) for one in values["pairs"]),
        leaks=values["leaks"],
        notes=tuple(values["notes"]),
        versions=values["versions"],
        machine=values["machine"],
        date=values["date"],
    )


def _repeat_result(repeat: int, proba: np.ndarray, values: Mapping[str, Any]) -> RepeatResult:
    history, notes = tuple(values["history"]), tuple(values["notes"])
    return RepeatResult(repeat, proba, Costs(**values["costs"]), history, notes)


def _candidate(i: int, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> CandidateResult:
    return CandidateResult(
        values["name"],
        values["kind"],
        tuple(
            _repeat_result(one["repeat"], arrays[f"proba/{i}/{one['repeat']}"], one)
            for one in values["cells"]
        ),
        values["failure"],
        tuple(values["unmapped"]),
        tuple(values["unreached"]),
        arrays[f"seen/{i}"],
        tuple(values["notes"]),
    )


def _pair(values: dict[str, Any]) -> PairTest:
    known: dict[str, Any] = {name: float("nan") if value is None else value for name, value in values.items()}
    return PairTest(**known)


def _pack(strings: np.ndarray | Sequence[str | None]) -> np.ndarray:
    # JSON as bytes keeps None and file names that are not UTF-8, which arrays of text cannot without pickling.
    text = json.dumps([None if value is None else str(value) for value in strings])
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def _unpack(packed: np.ndarray) -> np.ndarray:
    return np.array(json.loads(packed.tobytes().decode("utf-8", "surrogateescape")), object)
