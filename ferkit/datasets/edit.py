"""Change a data set: merge several, rename classes, draw a sample, assign splits."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet, LabelTables, meaning_of, same_meaning
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.export import relocated
from ferkit.datasets.split import assign_groups, n_persons, numbered
from ferkit.datasets.tables import SOURCE

logger = logging.getLogger(__name__)

Conflict = Literal["refuse", "first", "last", "drop"]


@dataclass(frozen=True)
class Merged:
    """Data sets put together.

    Attributes:
        dataset: all images, with paths relative to the folder asked for and the attribute ``source``.
        n_same: images that were in several of the data sets and are taken once.
        conflicts: path, and the labels that several data sets give it.
        lookalikes: pairs of different images whose names differ only in case or in how Hangul is composed: where
            file systems do not tell them apart, copying the folder would lose one.
        spellings: names of classes that mean the same, next to each other: ``{"happy": ("happy", "기쁨")}``.
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
    """Put data sets together; no image is touched.

    Persons of one source stay apart from those of another: ``7`` of ``ckplus`` becomes ``ckplus/7``. Images that
    already have a source keep it.

    Args:
        datasets: of images in files.
        folder: that the paths will be relative to.
        names: what each data set's images have as ``source``; by default the data sets' own names. Given twice, a
            name says that the persons are the same too.
        conflict: what becomes of an image to which data sets give labels of different meaning.

    Raises:
        DataError: images in arrays, two data sets of one name, or conflicts where ``conflict`` is ``refuse``.
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
            f"the data sets give {len(conflicts):,} images different labels, first {path}: {' and '.join(labels)}; "
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
    """Every image once; how many were there again; conflicts and names that are alike."""
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


Unmapped = Literal["refuse", "keep", "unlabel", "drop"]


@dataclass(frozen=True)
class Relabelled:
    """A data set with other classes.

    Attributes:
        dataset: the same images, or fewer.
        changes: number of images by the class they had and the one they have, the most frequent first.
        unmapped: number of images of the classes that have no place in the target, by class.
        unreached: classes of the target that no image falls into.
    """

    dataset: Dataset
    changes: Mapping[tuple[str, str], int]
    unmapped: Mapping[str, int]
    unreached: tuple[str, ...]


def relabel(
    dataset: Dataset,
    target: str | LabelSet | None = None,
    *,
    tables: LabelTables | None = None,
    language: str | None = None,
    unmapped: Unmapped = "refuse",
) -> Relabelled:
    """Give every image its class of the set ``target``; images without a label stay without.

    Args:
        dataset: with class names in any spelling and language that the tables know.
        target: a label set or its name; None gives classes that mean the same the spelling that most images have.
        tables: label sets and maps; those that come along by default.
        language: ``en`` or ``ko`` spells the classes so; None as the set does.
        unmapped: what becomes of images whose class has no place in the target.

    Raises:
        DataError: no such set, nothing left, or classes without a place and ``unmapped`` is ``refuse``.
    """
    tables = tables or LabelTables.built_in()
    counts = dataset.class_counts()
    if not counts:
        raise DataError(f"expected labelled images in {dataset.root}, found none with a label")
    if target is None:
        most = {tables.meaning_of(name): name for name in sorted(counts, key=lambda name: counts[name])}
        labels = LabelSet(tuple(sorted(most.values())))
    else:
        labels = target if isinstance(target, LabelSet) else LabelSet.named(target, tables)
        target = labels.name if labels.name in tables.sets else ", ".join(labels.names)
    mapping = LabelSet(tuple(counts)).map_to(labels, tables)
    spelled = labels.names if language is None else labels.display(language, tables)
    new = {name: spelled[i] if i >= 0 else None for name, i in zip(counts, mapping.index, strict=True)}
    without = {name: counts[name] for name in mapping.unmapped}
    if without and unmapped == "refuse":
        listed = ", ".join(f"{name} ({n:,})" for name, n in without.items())
        raise DataError(
            f"{sum(without.values()):,} images are of classes that have no place in {target}: {listed}; give them "
            "one in a file of your own (--map), or say what becomes of them (--unmapped drop, keep or unlabel)"
        )
    becomes = {name: name if cls is None and unmapped == "keep" else cls for name, cls in new.items()}
    samples = [
        s if s.label is None or becomes[s.label] == s.label else replace(s, label=becomes[s.label])
        for s in dataset.samples
        if unmapped != "drop" or s.label not in without
    ]
    if not samples:
        raise DataError(
            f"no class of {dataset.root} has a place in {target}; its classes are {', '.join(counts)}"
        )
    changes = {(name, cls): counts[name] for name, cls in new.items() if cls is not None}
    return Relabelled(
        dataset.subset(samples),
        dict(Counter(changes).most_common()),
        without,
        tuple(name for name, cls in zip(labels.names, spelled, strict=True) if cls not in set(new.values())),
    )


def only_labels(dataset: Dataset, labels: LabelSet) -> Dataset:
    """The images that have a class in ``labels``, by its name there; says what becomes of the others.

    Raises:
        DataError: there are none.
    """
    done = relabel(dataset, labels, unmapped="drop")
    changed = [f"{old} = {new}" for old, new in done.changes if old != new]
    if changed:
        logger.info(f"taken as: {', '.join(changed)}")
    if done.unmapped:
        listed = ", ".join(f"{name} {n:,}" for name, n in done.unmapped.items())
        logger.info(f"left out, since --labels does not name their class: {listed}")
    return done.dataset


Stratum = tuple[str, ...]
"""Class, then the value of each column drawn by; an empty text where unknown."""


@dataclass(frozen=True)
class Drawn:
    """A sample of a data set.

    Attributes:
        dataset: the images drawn.
        wanted: how many of each stratum were asked for; 0 for all.
        counts: how many of each stratum there are and were drawn, sorted by stratum.
        persons: known persons in the data set, and among the images drawn.
        n_unlabelled: images without a label, which are left out.
    """

    dataset: Dataset
    wanted: int
    counts: Mapping[Stratum, tuple[int, int]]
    persons: tuple[int, int]
    n_unlabelled: int


def draw(dataset: Dataset, per_class: int | None, by: Sequence[str] = (), seed: int = 0) -> Drawn:
    """Draw ``per_class`` images of each class, or all where there are fewer, out of those with a label.

    Of every person one image is taken before a second of anybody is: the sample shows as many persons as it can.

    Args:
        dataset: labelled images.
        per_class: images of each class; with ``by`` of each class and value; None takes all.
        by: ``split`` or names of attributes such as ``source``: so many of each of their values.
        seed: the same seed draws the same.

    Raises:
        DataError: no labels, or no image has such an attribute.
    """
    labelled = [sample for sample in dataset.samples if sample.label is not None]
    if not labelled:
        raise DataError(f"expected labelled images in {dataset.root}, found none with a label")
    strata = strata_of(labelled, by, dataset)
    names = sorted(set(strata))
    number = {stratum: i for i, stratum in enumerate(names)}
    stratum = np.array([number[s] for s in strata], np.int64)
    person = numbered(sample.group for sample in labelled)
    unknown = person < 0
    person[unknown] = person.max(initial=-1) + 1 + np.arange(unknown.sum())

    chance = np.random.default_rng(seed).random(len(labelled))
    one_person = stratum * (int(person.max(initial=0)) + 1) + person
    turn = _before(one_person, np.lexsort((chance, person, stratum)))
    place = _before(stratum, np.lexsort((chance, turn, stratum)))
    rows = np.flatnonzero(place < (len(labelled) if per_class is None else per_class))
    kept = [labelled[i] for i in rows.tolist()]
    there, drawn = (np.bincount(s, minlength=len(names)).tolist() for s in (stratum, stratum[rows]))
    return Drawn(
        dataset.subset(kept),
        per_class or 0,
        {name: (there[i], drawn[i]) for i, name in enumerate(names)},
        (len({s.group for s in labelled} - {None}), len({s.group for s in kept} - {None})),
        len(dataset) - len(labelled),
    )


def where(dataset: Dataset, wanted: Mapping[str, Collection[str]]) -> Dataset:
    """Only the images that have one of the wanted values in each of the columns.

    Args:
        dataset: any.
        wanted: values by ``class``, ``split`` or the name of an attribute; an empty text is for none.

    Raises:
        DataError: no image has such an attribute, or none has these values.
    """
    keep = np.ones(len(dataset), bool)
    for name, values in wanted.items():
        keep &= [value in values for value in _column(dataset.samples, name, dataset)]
    if not keep.any():
        asked = " and ".join(f"{name} {' or '.join(values)}" for name, values in wanted.items())
        raise DataError(f"no image of {dataset.root} has {asked}; see 'fer dataset info'")
    return dataset.subset([dataset.samples[i] for i in np.flatnonzero(keep)])


def strata_of(samples: Sequence[Sample], by: Sequence[str], dataset: Dataset) -> list[Stratum]:
    """Class and values of the columns ``by`` of each sample, as text.

    Raises:
        DataError: no sample has a value in such a column.
    """
    columns = [_column(samples, name, dataset) for name in by]
    return list(zip([sample.label or "" for sample in samples], *columns, strict=True))


def _column(samples: Sequence[Sample], name: str, dataset: Dataset) -> list[str]:
    if name in ("class", "split"):
        column = [(sample.split if name == "split" else sample.label) or "" for sample in samples]
    else:
        column = [sample.attributes.get(name, "") for sample in samples]
    if not any(column):
        known = sorted({key for sample in samples for key in sample.attributes})
        listed = "".join(f", {key}" for key in known)
        raise DataError(f"no image of {dataset.root} has a {name!r}; known are class, split{listed}")
    return column


def _before(key: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each row how many rows of its key come before it in an order in which equal keys follow each other."""
    begins = np.flatnonzero(np.diff(key[order], prepend=-1))
    counts = np.empty(len(key), np.int64)
    counts[order] = np.arange(len(key)) - np.repeat(begins, np.diff(begins, append=len(key)))
    return counts


PARTS = ("train", "val", "test")
_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How images are divided.

    Attributes:
        val, test: shares of the images, 0 to 1; training gets the rest.
        by: attributes that are kept in proportion next to the classes, such as ``source``.
        by_group: keep all images of one person in one part, where persons are known.
        within: divide only the images that are in this part now, and leave the others where they are.
        held_out: values of ``source`` all of whose images go to the test part.
        seed: the same seed divides the same.
    """

    val: float = 0.0
    test: float = 0.2
    by: tuple[str, ...] = ()
    by_group: bool = True
    within: str | None = None
    held_out: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise DataError(
                f"expected shares of val and test that leave something for training, found {self.val} and {self.test}"
            )
        if self.val + self.test == 0 and not self.held_out:
            raise DataError("expected a share for val or test, or a source that is held out, found none")

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part that has one."""
        shares = {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}
        return {part: share for part, share in shares.items() if share > 0}


@dataclass(frozen=True)
class SplitResult:
    """A data set whose images all have a part.

    Attributes:
        dataset: the same images.
        counts: images of each class in each part, by class and part.
        persons: known persons in each part.
        shared_persons: persons in more than one part, which only parts that were given before can cause, or
            ``by_group=False``.
    """

    dataset: Dataset
    counts: Mapping[str, Mapping[str, int]]
    persons: Mapping[str, int]
    shared_persons: tuple[str, ...]


def split_dataset(dataset: Dataset, settings: SplitSettings) -> SplitResult:
    """Divide a data set.

    Raises:
        DataError: persons or images are too few for every class to be in every part, or there is nothing to
            divide.
    """
    chosen = [i for i, s in enumerate(dataset.samples) if settings.within in (None, s.split)]
    if not chosen:
        raise DataError(f"expected images in the part {settings.within!r} of {dataset.root}, found none")
    known = {sample.attributes.get(SOURCE) for sample in dataset.samples} - {None}
    if unknown := sorted(set(settings.held_out) - known):
        found = ", ".join(sorted(map(str, known))) or "none"
        raise DataError(f"no image has the source {', '.join(unknown)}; known sources: {found}")
    parts: list[str | None] = [sample.split for sample in dataset.samples]
    held_out = {i for i in chosen if dataset.samples[i].attributes.get(SOURCE) in settings.held_out}
    for i in held_out:
        parts[i] = "test"
    free = [i for i in chosen if i not in held_out]
    if free:
        names = list(settings.shares)
        divided = _divided([dataset.samples[i] for i in free], dataset, settings)
        for i, number in zip(free, divided, strict=True):
            parts[i] = names[number]
    samples = [
        s if s.split == part else replace(s, split=part)
        for s, part in zip(dataset.samples, parts, strict=True)
    ]
    return _described(dataset.subset(samples))


def _divided(samples: Sequence[Sample], dataset: Dataset, settings: SplitSettings) -> list[int]:
    y = numbered(sample.label for sample in samples)
    strata = numbered(strata_of(samples, settings.by, dataset))
    persons = numbered(sample.group if settings.by_group else None for sample in samples)
    classes = sorted({sample.label for sample in samples} - {None}, key=str)
    shares = list(settings.shares.values())
    _check_enough(y, persons, [str(cls) for cls in classes], list(settings.shares))
    for attempt in range(_ATTEMPTS):
        part = assign_groups(strata, persons, shares, settings.seed + 1000 * attempt)
        missing = [cls for k, cls in enumerate(classes) if len(np.unique(part[y == k])) < len(shares)]
        if not missing and len(np.unique(part)) == len(shares):
            return part.tolist()
    if (persons < 0).all():
        remedy = "; add images, or make the small parts larger"
    else:
        remedy = (
            " with every person in one part; add persons, make the small parts larger, or divide without regard to "
            "persons (--no-group)"
        )
    found = ", ".join(map(str, missing)) or "images"
    raise DataError(f"no division found that has {found} in all of {', '.join(settings.shares)}{remedy}")


def _check_enough(y: np.ndarray, persons: np.ndarray, classes: list[str], parts: list[str]) -> None:
    for k, cls in enumerate(classes):
        rows = persons[y == k]
        n = n_persons(rows)
        if n < len(parts):
            what = "person" if (rows >= 0).any() else "image"
            raise DataError(
                f"class {cls!r} has only {n} {what}{'s' if n != 1 else ''}, but {', '.join(parts)} need one each; add "
                f"{what}s, leave the class out (fer dataset map), or make fewer parts"
            )


def _described(dataset: Dataset) -> SplitResult:
    counts: dict[str, Counter[str]] = {}
    parts_of: dict[str, set[str]] = {}
    for sample in dataset.samples:
        part = sample.split or ""
        counts.setdefault(sample.label or "", Counter())[part] += 1
        if sample.group is not None:
            parts_of.setdefault(sample.group, set()).add(part)
    persons = {part: sum(part in parts for parts in parts_of.values()) for part in PARTS}
    shared = tuple(sorted(group for group, parts in parts_of.items() if len(parts) > 1))
    return SplitResult(dataset, dict(sorted(counts.items())), persons, shared)
