"""Prepare training data: parts, pixels and targets."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ferkit.classifiers.finetune.recipe import LossSettings, RunOptions
from ferkit.core.console import free_memory, progress, some
from ferkit.core.errors import DataError, TrainingError
from ferkit.core.labels import LabelSet, meaning_of
from ferkit.core.types import ExpressionClassifier
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.edit import only_labels
from ferkit.datasets.split import holdout
from ferkit.datasets.tables import table_rows
from ferkit.embedder.settings import resize_crops
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.reading import read_crops

logger = logging.getLogger(__name__)

LEAST_PER_CLASS = 2


@dataclass(frozen=True)
class TrainVal:
    """The two parts of a data set, with their classes."""

    train: Dataset
    validation: Dataset
    labels: LabelSet
    origin: str


def divide(dataset: Dataset, options: RunOptions) -> TrainVal:
    """The parts to learn from and to choose by, with just the classes of ``options.labels`` where those are given.

    Raises:
        DataError: fewer than two classes, an empty one, or parts of different classes.
    """
    if options.labels is not None:
        dataset = only_labels(dataset, options.labels)
    by_split: dict[str | None, list[Sample]] = {}
    for sample in dataset.samples:
        if sample.label is not None:
            by_split.setdefault(sample.split, []).append(sample)
    if not by_split:
        raise DataError(
            f"expected images with labels in {dataset.root}, found none; sort them into folders by class"
        )
    train = by_split.get("train", []) + by_split.get(None, [])
    if not train:
        raise DataError(
            f"expected a part train/ in {dataset.root}, found only {', '.join(map(str, by_split))}"
        )
    validation = by_split.get(options.validate_on, [])
    labels = options.labels or LabelSet.from_names(sorted({str(sample.label) for sample in train}))
    counts = Counter(sample.label for sample in train)
    if len(labels) < 2:
        raise DataError(f"expected at least two classes to tell apart, found only {labels.names[0]!r}")
    foreign = sorted({str(sample.label) for sample in train + validation} - set(labels.names))
    if foreign:
        raise DataError(
            f"training and validation must have the same classes: {', '.join(foreign)} not among "
            f"{', '.join(labels.names)}"
        )
    empty = [name for name in labels.names if not counts[name]]
    if empty:
        raise DataError(f"no training images of {', '.join(empty)}; add some, or leave the class out")
    if options.validate_on == "test" and not validation:
        raise DataError(f"expected a part test/ in {dataset.root} to choose the best epoch by, found none")
    origin = "given"
    if not validation:
        few = [f"{name} ({counts[name]})" for name in labels.names if counts[name] < LEAST_PER_CLASS]
        if few:
            raise DataError(
                f"expected at least {LEAST_PER_CLASS} images of every class, so that one can be "
                f"held out, found {', '.join(few)}"
            )
        y = np.array([sample.label for sample in train])
        groups = np.array([sample.group for sample in train], dtype=object)
        keep, held = holdout(y, groups, options.holdout)
        train, validation, origin = [train[i] for i in keep], [train[i] for i in held], "drawn"
    return TrainVal(dataset.subset(train), dataset.subset(validation), labels, origin)


def check_classes(train_y: np.ndarray, validation_y: np.ndarray, labels: LabelSet) -> None:
    """Every class has images on both sides, after unreadable ones are left out.

    Raises:
        DataError: naming the classes that lack some.
    """
    for y, part in ((train_y, "training"), (validation_y, "validation")):
        empty = [name for i, name in enumerate(labels.names) if not (y == i).any()]
        if empty:
            raise DataError(
                f"training and validation must have the same classes: no {part} images of {', '.join(empty)}; add "
                "some, or leave the class out"
            )


MEMORY_SHARE = 0.5
"""Part of the free memory that decoded images may take; the network needs the rest."""
CACHES = ("auto", "memory", "disk")


@dataclass(frozen=True)
class Pixels:
    """Decoded crops and what they show.

    Attributes:
        images: uint8 (n, H, W, C), C 1 or 3.
        y: int64 (n,), class numbers.
        paths: names of the samples, in the same order.
        failures: (path, reason) of what could not be read and is left out.
        sha256: of the images' files, in the same order.
    """

    images: np.ndarray
    y: np.ndarray
    paths: tuple[str, ...]
    failures: tuple[tuple[str, str], ...] = field(default=())
    sha256: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def load_pixels(
    dataset: Dataset,
    names: Sequence[str],
    cropper: FaceCropper,
    color: str,
    *,
    cache: str = "auto",
    cache_file: Path | None = None,
    doing: str = "reading",
) -> Pixels:
    """Decode and crop all samples, in threads, in their order.

    Args:
        dataset: all labelled with one of ``names``.
        names: the classes, in the order of the class numbers.
        cropper: makes crops of the network's input size.
        color: ``gray`` or ``rgb``.
        cache: ``memory``, ``disk`` (``cache_file``), or ``auto``: memory where at most half of what is free
            suffices.
        cache_file: a ``.npy`` file to write where the disk is used.
        doing: what the progress says.

    Raises:
        DataError: no image could be read.
        TrainingError: they do not fit in memory and there is no file to use instead.
    """
    width, height = cropper.size_wh
    shape = (len(dataset), height, width, 1 if color == "gray" else 3)
    images = _allocate(shape, cache, cache_file)
    number = {name: i for i, name in enumerate(names)}
    kept: list[tuple[Sample, str | None]] = []
    failures: list[tuple[str, str]] = []
    whole: list[str] = []
    with progress(doing, len(dataset)) as shown:
        for image in read_crops(dataset.source, dataset.samples, cropper):
            if image.error is not None:
                failures.append((image.sample.path, image.error))
            else:
                rgb = image.found.rgb[0]
                gray = color == "gray"
                images[len(kept)] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None] if gray else rgb
                kept.append((image.sample, image.sha256))
                if image.found.whole and cropper.settings.detector != "none":
                    whole.append(image.sample.path)
            shown.update(1, failures=image.error is not None)
    if whole:
        logger.info(f"{len(whole)} images without a face were taken whole: {some(whole)}")
    if not kept:
        raise DataError(
            f"none of the {len(dataset)} images of {dataset.root} could be read; first: {failures[0][1]}"
        )
    read, digests = zip(*kept, strict=True)
    y = np.array([number[sample.label or ""] for sample in read], np.int64)
    paths = tuple(sample.path for sample in read)
    return Pixels(images[: len(kept)], y, paths, tuple(failures), digests)


def _allocate(shape: tuple[int, ...], cache: str, cache_file: Path | None) -> np.ndarray:
    if cache not in CACHES:
        raise TrainingError(f"expected cache to be one of {', '.join(CACHES)}, found {cache!r}")
    wanted, free = int(np.prod(shape)), free_memory()
    if cache == "memory" or (cache == "auto" and wanted <= MEMORY_SHARE * free):
        try:
            return np.empty(shape, np.uint8)
        except MemoryError:
            cache = "disk" if cache == "auto" else cache
    if cache == "memory" or cache_file is None:
        raise TrainingError(
            f"{shape[0]} images of {shape[2]}x{shape[1]} take {wanted / 2**30:.1f} GiB, more than the memory has "
            "free; use --set cache=disk, a smaller network.input_size_wh, or network.color=gray"
        )
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        mapped = np.lib.format.open_memmap(cache_file, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            # A full disk is told of here; where a page is written, it kills the process.
            with cache_file.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, cache_file.stat().st_size)
        return mapped
    except OSError as error:
        with contextlib.suppress(OSError):
            cache_file.unlink()
        raise TrainingError(
            f"{wanted / 2**30:.1f} GiB for decoded images could not be written to {cache_file} ({error.strerror}); "
            "make room, or use a smaller network.input_size_wh, or network.color=gray"
        ) from None


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
    rows = table_rows(path)
    header = next(rows, [])
    columns = _vote_columns(header, labels)
    named = (dict(zip(header, row, strict=False)) for row in rows if row)
    votes = {cells.get("path", ""): [_count(cells.get(name)) for name in columns] for cells in named}
    if votes.keys().isdisjoint(image_paths):
        raise DataError(
            f"none of the {len(image_paths)} images is in {path}; its column path must hold names "
            f"such as {image_paths[0]}"
        )
    index = np.array(list(columns.values()))
    table = np.zeros((len(image_paths), len(labels)), np.float32)
    for i, image in enumerate(image_paths):
        if image in votes:
            np.add.at(table[i], index, votes[image])
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
