"""What the network is asked to say for each training image: hard labels, votes, a teacher's opinion, or a
mixture.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ferkit.classifiers.finetune.settings import LossSettings
from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet, meaning_of
from ferkit.core.protocols import ExpressionClassifier
from ferkit.embedder.preprocess import resize_crops

TEACHER_BATCH = 64


def training_targets(
    y: np.ndarray,
    n_classes: int,
    loss: LossSettings,
    soft: np.ndarray | None = None,
    teacher: np.ndarray | None = None,
) -> np.ndarray:
    """Mix the sources of labels.

    Args:
        y: class numbers (n,).
        n_classes: k.
        loss: gives the weights of the sources and the teacher's temperature.
        soft: probabilities (n, k); a row of zeros says nothing and leaves the hard label alone.
        teacher: probabilities (n, k) of a trained classifier for the same images.

    Returns:
        float32 (n, k), rows sum to 1.
    """
    targets = np.eye(n_classes, dtype=np.float32)[y]
    if soft is not None:
        known = soft.sum(axis=1, keepdims=True) > 0
        targets = np.where(known, (1 - loss.soft_weight) * targets + loss.soft_weight * soft, targets)
    if teacher is not None:
        # softmax(log p / T) is p^(1/T), normalised.
        softened = np.power(np.clip(teacher, 1e-7, 1), 1 / loss.teacher_temperature)
        softened /= softened.sum(axis=1, keepdims=True)
        targets = (1 - loss.teacher_weight) * targets + loss.teacher_weight * softened
    return targets.astype(np.float32)


def teacher_opinion(teacher: ExpressionClassifier, images: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Probabilities (n, k) of a trained classifier for uint8 images (n, H, W, 1 or 3), averaged with the
    mirrored ones.

    Raises:
        DataError: the teacher knows other classes.
    """
    if set(teacher.labels.names) != set(labels.names):
        raise DataError(
            f"expected a teacher of the classes {', '.join(labels.names)}, found one of "
            f"{', '.join(teacher.labels.names)}"
        )
    order = [teacher.labels.names.index(name) for name in labels.names]
    proba = np.empty((len(images), len(labels)), np.float32)
    for start in range(0, len(images), TEACHER_BATCH):
        batch = images[start : start + TEACHER_BATCH]
        crops = resize_crops(np.repeat(batch, 3 // batch.shape[3], axis=3), teacher.input_size_wh)
        both = teacher.predict_proba(crops) + teacher.predict_proba(np.ascontiguousarray(crops[:, :, ::-1]))
        proba[start : start + TEACHER_BATCH] = both[:, order] / 2
    return proba


def read_votes(path: Path, image_paths: Sequence[str], labels: LabelSet) -> np.ndarray:
    """Shares of votes for each class, from a CSV with a column ``path`` and columns of counts named like
    classes.

    A column may carry a prefix (``ferplus_happiness``, the FER+ votes of Barsoum et al. 2016). Classes that
    ``labels`` lacks are mapped where a map is known (contempt to disgust in FER2013) and dropped otherwise.

    Returns:
        float32 (n, k) in the order of ``image_paths``; rows sum to 1, or are 0 where there are no votes.

    Raises:
        DataError: no such file, no vote columns, or none of the images is in it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = _vote_columns(reader.fieldnames or (), labels)
            votes = {row["path"]: [_count(row[name]) for name in columns] for row in reader}
    except OSError as error:
        raise DataError(f"votes cannot be read from {path}: {error.strerror}") from None
    index = np.array(list(columns.values()))
    table = np.zeros((len(image_paths), len(labels)), np.float32)
    found = 0
    for i, image in enumerate(image_paths):
        if image in votes:
            found += 1
            np.add.at(table[i], index, votes[image])
    if not found:
        raise DataError(
            f"none of the {len(image_paths)} images is in {path}; its column path must hold names "
            f"such as {image_paths[0]}"
        )
    total = table.sum(axis=1, keepdims=True)
    return np.divide(table, total, out=table, where=total > 0)


def _vote_columns(header: Sequence[str], labels: LabelSet) -> dict[str, int]:
    words = {name: meaning_of(name.rpartition("_")[2]) for name in header if name != "path"}
    known = tuple(dict.fromkeys(word for word in words.values()))
    if "path" not in header or not known:
        raise DataError(
            f"expected a CSV with columns path and one a class, found {', '.join(header) or 'an empty file'}"
        )
    index = dict(zip(known, LabelSet(known).map_to(labels).index, strict=True))
    columns = {name: index[word] for name, word in words.items() if index[word] >= 0}
    if not columns:
        raise DataError(
            f"none of the columns {', '.join(header)} is one of the classes {', '.join(labels.names)}"
        )
    return columns


def _count(value: str | None) -> float:
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        raise DataError(f"expected a number of votes, found {value!r}") from None
