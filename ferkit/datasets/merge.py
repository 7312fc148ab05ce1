"""Several data sets as one."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ferkit.core.errors import DataError
from ferkit.core.labels import meaning_of, same_meaning
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource
from ferkit.datasets.manifest import SOURCE, relocated

Conflict = Literal["refuse", "first", "last", "drop"]


@dataclass(frozen=True)
class Merged:
    """Data sets put together.

    Attributes:
        dataset: all pictures, with paths relative to the folder asked for and the attribute ``source``.
        n_same: pictures that were in several of the data sets and are taken once.
        conflicts: path, and the labels that several data sets give it.
        lookalikes: pairs of different pictures whose names differ only in case or in how Hangul is composed: where
            file systems do not tell them apart, copying the folder would lose one.
        spellings: names of classes that mean the same, side by side: ``{"happy": ("happy", "기쁨")}``.
    """

    dataset: Dataset
    n_same: int
    conflicts: tuple[tuple[str, tuple[str, ...]], ...]
    lookalikes: tuple[tuple[str, str], ...]
    spellings: dict[str, tuple[str, ...]]


def merge(
    datasets: Sequence[Dataset],
    folder: Path,
    names: Sequence[str] | None = None,
    conflict: Conflict = "refuse",
) -> Merged:
    """Put data sets together; no picture is touched.

    Persons of one source stay apart from those of another: ``7`` of ``ckplus`` becomes ``ckplus/7``. Pictures that
    already have a source keep it.

    Args:
        datasets: of pictures in files.
        folder: that the paths will be relative to.
        names: what each data set's pictures have as ``source``; by default the data sets' own names. Given twice, a
            name says that the persons are the same too.
        conflict: what becomes of a picture to which data sets give labels of different meaning.

    Raises:
        DataError: pictures in arrays, two data sets of one name, or conflicts where ``conflict`` is ``refuse``.
    """
    if names is None:
        names = [dataset.name for dataset in datasets]
        used = [d.name for d in datasets if any(SOURCE not in sample.attributes for sample in d.samples)]
        twice = next((name for name in used if used.count(name) > 1), None)
        if twice is not None:
            raise DataError(
                f"two of the data sets are called {twice!r}, so that their persons could not be told apart; "
                "name the sources: --source NAME for each data set, in their order"
            )
    if len(names) != len(datasets):
        raise DataError(f"expected {len(datasets)} names of sources, one a data set, found {len(names)}")
    sources = [unicodedata.normalize("NFC", name) for name in names]
    parts = [
        [_from_source(sample, source) for sample in relocated(dataset, folder)]
        for dataset, source in zip(datasets, sources, strict=True)
    ]
    samples, n_same, conflicts, lookalikes = _once(parts, folder, conflict)
    if conflicts and conflict == "refuse":
        path, labels = conflicts[0]
        raise DataError(
            f"the data sets give {len(conflicts):,} pictures different labels, first {path}: {' and '.join(labels)}; "
            "decide with --conflict first, last or drop"
        )
    merged = Dataset(folder.resolve().name, folder, tuple(samples), FileSource(folder))
    return Merged(merged, n_same, tuple(conflicts), tuple(lookalikes), same_meaning(merged.class_counts()))


def _from_source(sample: Sample, source: str) -> Sample:
    source = sample.attributes.get(SOURCE, source)
    group = sample.group
    if group is not None and not group.startswith(f"{source}/"):
        group = f"{source}/{group}"
    attributes = sample.attributes if SOURCE in sample.attributes else {SOURCE: source, **sample.attributes}
    return Sample(sample.path, sample.label, sample.split, group, sample.box, attributes)


def _once(
    parts: list[list[Sample]], folder: Path, conflict: Conflict
) -> tuple[list[Sample], int, list[tuple[str, tuple[str, ...]]], list[tuple[str, str]]]:
    """Every picture once; how many were there again; conflicts and names that are alike."""
    real: dict[str, str] = {}
    kept: dict[tuple[str, str], list[Sample]] = {}
    disputed: dict[str, list[str]] = {}
    lookalikes: list[tuple[str, str]] = []
    n_same = 0
    for sample in (sample for part in parts for sample in part):
        parent, _, name = sample.path.rpartition("/")
        if parent not in real:
            real[parent] = os.path.realpath(folder / parent)
        alike = kept.setdefault((real[parent], unicodedata.normalize("NFC", name).casefold()), [])
        same = next((i for i, other in enumerate(alike) if _is_same(other, sample, folder)), None)
        if same is None:
            lookalikes += [(other.path, sample.path) for other in alike]
            alike.append(sample)
            continue
        n_same += 1
        before = alike[same]
        labels = [label for label in (before.label, sample.label) if label is not None]
        if len(set(map(meaning_of, labels))) > 1:
            disputed.setdefault(before.path, [labels[0]]).append(labels[1])
        if before.label is None or (conflict == "last" and sample.label is not None):
            alike[same] = replace(before, label=sample.label)
    samples = [sample for alike in kept.values() for sample in alike]
    if conflict == "drop":
        samples = [sample for sample in samples if sample.path not in disputed]
    return samples, n_same, [(path, tuple(labels)) for path, labels in disputed.items()], lookalikes


def _is_same(a: Sample, b: Sample, folder: Path) -> bool:
    """Whether two names that are alike lead to one file; only those that differ in spelling are looked up."""
    if a.path.rpartition("/")[2] == b.path.rpartition("/")[2]:
        return True
    try:
        return os.path.samefile(folder / a.path, folder / b.path)
    except OSError:
        return False
