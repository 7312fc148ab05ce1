"""A classifier on the pictures of a data set."""

from dataclasses import dataclass

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.core.progress import progress
from ferkit.core.protocols import ExpressionClassifier
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.reading import apply_network, read_crops


@dataclass(frozen=True)
class Scores:
    """Probabilities of the pictures that could be read.

    Attributes:
        samples: the pictures, ``m`` of them.
        proba: float32 (m, k), columns in the order of the classifier's labels.
        failures: path and reason of the others.
    """

    samples: tuple[Sample, ...]
    proba: np.ndarray
    failures: tuple[tuple[str, str], ...]

    @property
    def y_true(self) -> np.ndarray:
        """(m,) str objects, class names."""
        return np.array([sample.label for sample in self.samples], object)

    @property
    def groups(self) -> np.ndarray:
        """(m,) str objects, who is shown; None where unknown."""
        return np.array([sample.group for sample in self.samples], object)


def score(
    dataset: Dataset,
    classifier: ExpressionClassifier,
    cropper: FaceCropper,
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> Scores:
    """Probabilities of every picture, the largest face of each.

    Raises:
        DataError: no picture could be read.
    """
    samples: list[Sample] = []
    rows: list[np.ndarray] = []
    failures: list[tuple[str, str]] = []
    images = read_crops(dataset.source, dataset.samples, cropper, batch_size=batch_size, workers=workers)
    scored = apply_network(images, classifier.predict_proba, len(classifier.labels), batch_size)
    with progress("evaluating", len(dataset)) as shown:
        for image, proba in scored:
            if image.error is None:
                samples.append(image.sample)
                rows.append(proba)
            else:
                failures.append((image.sample.path, image.error))
            shown.update(1, failures=image.error is not None)
    if not rows:
        raise DataError(
            f"none of the {len(dataset)} pictures could be read; the first: {': '.join(failures[0])}"
        )
    return Scores(tuple(samples), np.concatenate(rows), tuple(failures))


def labelled_part(dataset: Dataset, split: str = "auto") -> Dataset:
    """The labelled pictures of one split; ``auto`` takes ``test`` where there is one, or else all.

    Raises:
        DataError: there are none.
    """
    found = {sample.split for sample in dataset.samples}
    if split == "auto":
        split = "test" if "test" in found else "all"
    keep = [s for s in dataset.samples if s.label is not None and split in ("all", s.split)]
    if not keep:
        names = ", ".join(sorted(name or "none" for name in found))
        raise DataError(
            f"expected labelled pictures of the split {split!r} in {dataset.root}, found splits: {names}"
        )
    return dataset.subset(keep)


def in_words_of(labels: LabelSet, y: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Class names of other data in the classifier's own words: ``happiness`` becomes ``happy``, ``기쁨`` too.

    Returns:
        The names (n,), unchanged where the classifier has no such class, and what became what.
    """
    mapping = LabelSet.of(sorted(set(y))).map_to(labels)
    table = {
        name: labels.names[i] for name, i in zip(mapping.source.names, mapping.index, strict=True) if i >= 0
    }
    changed = {name: known for name, known in table.items() if name != known}
    return np.array([table.get(name, name) for name in y], object), changed
