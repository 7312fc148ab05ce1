"""The protocol of a comparison: which data, which rows, how often."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import fingerprint
from ferkit.core.labels import LabelSet, same_meaning
from ferkit.datasets.dataset import Dataset, Sample, Stamp
from ferkit.datasets.image_stats import image_stats


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
class ReadDataset:
    """A data set of which every labelled image was read once.

    Attributes:
        dataset: as it was loaded.
        content: digest of each labelled image that can be decoded, by path.
        failures: path and reason of the others.
    """

    dataset: Dataset
    content: Mapping[str, str]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class EvaluationData:
    """Rows of a comparison.

    Attributes:
        name: for titles.
        dataset: the rows as a data set: sorted by path, labels in those of the comparison. Paths begin with the
            name of the data set where there are several.
        parts: the data sets as they were loaded, which embedding stores mirror.
        names: of the data sets, distinct.
        source: (n,) int64, the data set of each row.
        own_paths: (n,) the path of each row within its data set.
        content: (n,) digest of each image.
        labels: the classes, sorted.
        notes: what was left out, in sentences.
    """

    name: str
    dataset: Dataset
    parts: tuple[Dataset, ...]
    names: tuple[str, ...]
    source: np.ndarray
    own_paths: tuple[str, ...]
    content: tuple[str, ...]
    labels: LabelSet
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> np.ndarray:
        """uint8 RGB (H, W, 3) of a row."""
        return self.dataset.read(self.dataset.samples[row])

    @property
    def y(self) -> np.ndarray:
        """(n,) str objects, class names."""
        return self.dataset.labels

    @property
    def groups(self) -> np.ndarray:
        """(n,) str objects, who is shown; None where unknown."""
        return self.dataset.groups

    @functools.cached_property
    def attributes(self) -> dict[str, np.ndarray]:
        """By column, (n,) str objects; with several data sets also ``data set``."""
        found = attribute_columns(self.dataset.samples)
        if len(self.parts) > 1:
            found["data set"] = np.array([self.names[i] for i in self.source], object)
        return found

    def digest(self, rows: np.ndarray) -> str:
        """SHA-256 of everything about ``rows`` that a result may depend on."""
        facts = [(self.own_paths[i], self.content[i], self.y[i], self.groups[i]) for i in rows]
        return fingerprint(facts)

    def used(self, parts: Sequence[str]) -> tuple[DataUsed, ...]:
        """The data sets for the record; ``parts`` says what each was used for."""
        return tuple(
            DataUsed(
                name,
                str(dataset.root.resolve()),
                part,
                int((self.source == i).sum()),
                self.digest(np.flatnonzero(self.source == i)),
            )
            for i, (name, dataset, part) in enumerate(zip(self.names, self.parts, parts, strict=True))
        )


def attribute_columns(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The attributes of samples: by column, (n,) str objects, None where a sample has no such attribute."""
    columns = sorted({name for sample in samples for name in sample.attributes})
    return {name: np.array([sample.attributes.get(name) for sample in samples], object) for name in columns}


def check_columns(known: Collection[str], by: Sequence[str]) -> None:
    """The columns to compare groups ``by`` are among the ``known`` ones. Raises DataError if not."""
    unknown = [column for column in by if column not in known]
    if unknown:
        listed = ", ".join(sorted(known)) or "none"
        raise DataError(f"the data have no column {', '.join(unknown)}; they have {listed}")


def read_labelled(dataset: Dataset, cache_dir: Path | None, *, workers: int | None = None) -> ReadDataset:
    """Read and decode every labelled image once; what was seen is kept in the cache, for the leak check too.

    Raises:
        DataError: no image has a label, or none can be read.
    """
    labelled = [sample for sample in dataset.samples if sample.label is not None]
    if not labelled:
        raise DataError(
            f"expected labelled images in {dataset.root}, found none; lay them out as <class>/*.jpg"
        )
    seen = image_stats(dataset.subset(labelled), cache_dir, workers=workers)
    digests = {
        sample.path: seen.content[i].decode() for i, sample in enumerate(labelled) if i not in seen.errors
    }
    failures = tuple((labelled[i].path, reason) for i, reason in sorted(seen.errors.items()))
    if not digests:
        raise DataError(
            f"none of the {len(labelled)} labelled images of {dataset.root} can be read; the first: "
            f"{': '.join(failures[0])}"
        )
    return ReadDataset(dataset, digests, failures)


def build_evaluation_data(
    read: Sequence[ReadDataset],
    *,
    name: str | None = None,
    relabel: Sequence[Callable[[str], str | None]] | None = None,
    notes: Sequence[str] = (),
) -> EvaluationData:
    """The rows of one data set, or of several in one.

    Args:
        read: the data sets.
        name: for titles; None takes that of the data set.
        relabel: for each data set, what becomes of a label; an image whose label becomes None is left out.
        notes: sentences to keep.

    Raises:
        DataError: fewer than two classes are left, or two names mean one class.
    """
    names = _distinct([one.dataset.name for one in read])
    several = len(read) > 1
    rows: list[tuple[str, int, str, Sample, str]] = []
    notes = list(notes)
    for i, one in enumerate(read):
        for sample in one.dataset.samples:
            label = sample.label
            if label is not None and relabel is not None:
                label = relabel[i](label)
            if label is None or sample.path not in one.content:
                continue
            path = f"{names[i]}/{sample.path}" if several else sample.path
            changed = replace(sample, path=path, label=label)
            rows.append((path, i, sample.path, changed, one.content[sample.path]))
        if one.failures:
            path, reason = one.failures[0]
            notes.append(
                f"{len(one.failures)} images of {names[i]} cannot be read and are left out for all; the first: "
                f"{path}: {reason}"
            )
    rows.sort(key=lambda row: row[0])
    classes = sorted({str(row[3].label) for row in rows})
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise DataError(
            f"expected at least two classes to tell apart, found {found}; check the folder names or the label column"
        )
    labels = LabelSet.from_names(classes)
    for name, other, *_ in same_meaning(labels.names).values():
        raise DataError(f"{name!r} and {other!r} are two names of one class; give the images one of them")
    first = read[0].dataset
    source = _Merged({names[i]: one.dataset for i, one in enumerate(read)}) if several else first.source
    title = name or " + ".join(names)
    return EvaluationData(
        title,
        Dataset(title, first.root, tuple(row[3] for row in rows), source),
        tuple(one.dataset for one in read),
        names,
        np.array([row[1] for row in rows], np.int64),
        tuple(row[2] for row in rows),
        tuple(row[4] for row in rows),
        labels,
        tuple(notes),
    )


class _Content(bytes):
    """The bytes of an image, which know how to be decoded: data sets differ in that."""

    decode_with: Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class _Merged:
    """Several data sets behind paths that begin with their names."""

    datasets: Mapping[str, Dataset]

    def stamp(self, path: str) -> Stamp:
        dataset, own = self._find(path)
        return dataset.source.stamp(own)

    def read(self, path: str) -> bytes:
        dataset, own = self._find(path)
        content = _Content(dataset.source.read(own))
        content.decode_with = dataset.source.decode
        return content

    def decode(self, content: bytes) -> np.ndarray:
        assert isinstance(content, _Content)
        return content.decode_with(content)

    def _find(self, path: str) -> tuple[Dataset, str]:
        name, _, own = path.partition("/")
        return self.datasets[name], own


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    last = [Path(name).name for name in names]
    earlier = [last[:i].count(name) for i, name in enumerate(last)]
    return tuple(f"{name}-{n + 1}" if n else name for name, n in zip(last, earlier, strict=True))
