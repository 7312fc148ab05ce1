"""The part of a data set that is learnt from, and the part that chooses the best epoch."""

from dataclasses import dataclass

import numpy as np

from ferkit.classifiers.finetune.options import RunOptions
from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.split import holdout

LEAST_PER_CLASS = 2


@dataclass(frozen=True)
class Parts:
    """The two parts of a data set, with their classes."""

    train: Dataset
    validation: Dataset
    labels: LabelSet
    origin: str


def divide(dataset: Dataset, options: RunOptions) -> Parts:
    """The parts to learn from and to choose by.

    Raises:
        DataError: fewer than two classes, an empty one, or parts of different classes.
    """
    labelled = [sample for sample in dataset.samples if sample.label is not None]
    if not labelled:
        raise DataError(
            f"expected pictures with labels in {dataset.root}, found none; sort them into folders by class"
        )
    by_split: dict[str | None, list] = {}
    for sample in labelled:
        by_split.setdefault(sample.split, []).append(sample)
    train = by_split.get("train", []) + by_split.get(None, [])
    if not train:
        raise DataError(
            f"expected a part train/ in {dataset.root}, found only {', '.join(map(str, by_split))}"
        )
    validation = by_split.get(options.validate_on, [])
    labels = options.labels or LabelSet.of(sorted({str(sample.label) for sample in train}))
    counts = {name: sum(sample.label == name for sample in train) for name in labels.names}
    if len(labels) < 2:
        raise DataError(f"expected at least two classes to tell apart, found only {labels.names[0]!r}")
    foreign = sorted({str(sample.label) for sample in train + validation} - set(labels.names))
    if foreign:
        raise DataError(
            f"training and validation must have the same classes: {', '.join(foreign)} not among "
            f"{', '.join(labels.names)}"
        )
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise DataError(f"no training pictures of {', '.join(empty)}; add some, or leave the class out")
    if options.validate_on == "test" and not validation:
        raise DataError(f"expected a part test/ in {dataset.root} to choose the best epoch by, found none")
    origin = "given"
    if not validation:
        few = [f"{name} ({count})" for name, count in counts.items() if count < LEAST_PER_CLASS]
        if few:
            raise DataError(
                f"expected at least {LEAST_PER_CLASS} pictures of every class, so that one can be "
                f"held out, found {', '.join(few)}"
            )
        y = np.array([sample.label for sample in train])
        groups = np.array([sample.group for sample in train], dtype=object)
        keep, held = holdout(y, groups, options.holdout)
        train, validation, origin = [train[i] for i in keep], [train[i] for i in held], "drawn"
    return Parts(dataset.subset(train), dataset.subset(validation), labels, origin)


def check_classes(train_y: np.ndarray, validation_y: np.ndarray, labels: LabelSet) -> None:
    """Every class has images on both sides, after unreadable ones are left out.

    Raises:
        DataError: naming the classes that lack some.
    """
    for y, part in ((train_y, "training"), (validation_y, "validation")):
        empty = [name for i, name in enumerate(labels.names) if not (y == i).any()]
        if empty:
            raise DataError(
                f"training and validation must have the same classes: no {part} pictures of "
                f"{', '.join(empty)}; "
                "add some, or leave the class out"
            )
