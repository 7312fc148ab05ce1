"""From one data set's classes to another's."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ferkit.core.errors import DataError
from ferkit.core.label_tables import LabelTables
from ferkit.core.labels import LabelSet
from ferkit.datasets.dataset import Dataset, Sample

Unmapped = Literal["refuse", "keep", "unlabel", "drop"]


@dataclass(frozen=True)
class Relabelled:
    """A data set with other classes.

    Attributes:
        dataset: the same pictures, or fewer.
        changes: number of pictures by the class they had and the one they have, the most frequent first.
        unmapped: number of pictures of the classes that have no place in the target, by class.
        unreached: classes of the target that no picture falls into.
    """

    dataset: Dataset
    changes: Mapping[tuple[str, str], int]
    unmapped: Mapping[str, int]
    unreached: tuple[str, ...]


def relabel(
    dataset: Dataset,
    target: str | None = None,
    *,
    tables: LabelTables | None = None,
    language: str | None = None,
    unmapped: Unmapped = "refuse",
) -> Relabelled:
    """Give every picture its class of the set ``target``; pictures without a label stay without.

    Args:
        dataset: with class names in any spelling and language that the tables know.
        target: name of a label set; None gives classes that mean the same the spelling that most images have.
        tables: label sets and maps; those that come along by default.
        language: ``en`` or ``ko`` spells the classes so; None as the set does.
        unmapped: what becomes of pictures whose class has no place in the target.

    Raises:
        DataError: no such set, nothing left, or classes without a place and ``unmapped`` is ``refuse``.
    """
    tables = tables or LabelTables.built_in()
    counts = dataset.class_counts()
    if not counts:
        raise DataError(f"expected labelled pictures in {dataset.root}, found none with a label")
    if target is None:
        most = {tables.meaning_of(name): name for name in sorted(counts, key=lambda name: counts[name])}
        labels = LabelSet(tuple(sorted(most.values())))
    else:
        labels = LabelSet.named(target, tables)
    mapping = LabelSet(tuple(counts)).map_to(labels, tables)
    spelled = labels.names if language is None else labels.display(language, tables)
    new = {name: spelled[i] if i >= 0 else None for name, i in zip(counts, mapping.index, strict=True)}
    without = {name: counts[name] for name in mapping.unmapped}
    if without and unmapped == "refuse":
        listed = ", ".join(f"{name} ({n:,})" for name, n in without.items())
        raise DataError(
            f"{sum(without.values()):,} pictures are of classes that have no place in {target}: {listed}; give them "
            "one in a file of your own (--map), or say what becomes of them (--unmapped drop, keep or unlabel)"
        )
    samples = []
    for sample in dataset.samples:
        label = new[sample.label] if sample.label is not None else None
        if sample.label in without:
            if unmapped == "drop":
                continue
            if unmapped == "keep":
                label = sample.label
        if label != sample.label:
            sample = Sample(sample.path, label, sample.split, sample.group, sample.box, sample.attributes)
        samples.append(sample)
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
