"""``fer embed`` as one function: settle what was asked for, then run the extraction loop."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ferkit.core.errors import DataError, ImageError, StoreDamagedError, WeightsError
from ferkit.core.fingerprint import file_sha256
from ferkit.core.progress import Progress
from ferkit.core.protocols import ExpressionClassifier
from ferkit.datasets.dataset import Dataset
from ferkit.embedder.backbones import Embedder
from ferkit.embedder.extract import ExtractionSummary, extract
from ferkit.embedder.settings import StoreSettings
from ferkit.embedder.store import EmbeddingStore
from ferkit.embedder.tap_search import SAMPLE, TapScore, find_best_tap
from ferkit.faces.auto import choose_cropping
from ferkit.faces.cropper import FaceCropper
from ferkit.faces.detectors import open_detector
from ferkit.faces.settings import FaceSettings
from ferkit.zoo.fetch import weights_file


@dataclass(frozen=True)
class CropOptions:
    """How a user wants faces taken out of pictures; ``auto`` looks at some pictures first.

    Attributes:
        detector: see :mod:`ferkit.faces.detectors`; ``given`` takes the boxes that the data set has, and ``auto`` does
            so too where it has some and its other pictures are crops.
        weights: a file for the detector to take instead of the one that would be fetched.
        align, margin, faceless: see :class:`ferkit.faces.settings.FaceSettings`.
    """

    detector: Literal["auto", "none", "given", "haar", "yunet", "mediapipe"] = "auto"
    weights: Path | None = None
    align: bool = True
    margin: float = 0.1
    faceless: Literal["skip", "whole"] = "skip"


@dataclass(frozen=True)
class StoreOptions:
    """Where and how embeddings are kept.

    Attributes:
        root: folder of all stores.
        name: of the data set in the store's name; None takes the data set's own.
        dtype: ``float16`` halves the disk and keeps three digits.
        batch_size: pictures a run of the network.
        rows_per_shard: pictures a shard, the most that an interrupt can lose.
        repair: delete damaged shards and make them anew.
    """

    root: Path = Path("cache")
    name: str | None = None
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = 32
    rows_per_shard: int = 1024
    repair: bool = False


@dataclass(frozen=True)
class Cropping:
    """Settled: the settings, the detector's weights, and the sentence that says why."""

    settings: FaceSettings
    weights: Path | None
    reason: str


def embed_dataset(
    dataset: Dataset,
    embedder: Embedder,
    crop: CropOptions,
    options: StoreOptions,
    *,
    workers: int | None = None,
    progress: Progress,
    say: Callable[[str], None],
) -> tuple[EmbeddingStore, ExtractionSummary]:
    """Embed what is missing, into the store that these settings belong to.

    Args:
        dataset: the pictures.
        embedder: the network.
        crop: how faces are taken out.
        options: where the embeddings go.
        workers: threads that read and crop; one a core if None.
        progress: is told of every batch.
        say: takes sentences for the user: what was chosen, and where things are.

    Raises:
        FerkitError: see :func:`ferkit.embedder.extract.extract`; also for weights that are missing.
    """
    cropping = settle_cropping(dataset, crop)
    say(cropping.reason)
    store = EmbeddingStore.create(
        options.root,
        options.name or dataset.name,
        StoreSettings(embedder.settings, cropping.settings, options.dtype),
        dim=embedder.dim,
        rows_per_shard=options.rows_per_shard,
        batch_size=options.batch_size,
        repair=options.repair,
    )
    say(f"embeddings: {store.folder} ({store.dim} numbers each)")
    with store.writing():
        for shard, reason in store.verify():
            if not options.repair:
                raise StoreDamagedError(reason)
            say(f"{shard.npy.name} is damaged and made anew")
            shard.remove()
        cropper = open_cropper(cropping, embedder)
        return store, extract(dataset, embedder, cropper, store, workers=workers, progress=progress)


def settle_cropping(dataset: Dataset, options: CropOptions) -> Cropping:
    """What ``auto`` becomes for these pictures.

    Raises:
        WeightsError: the named detector's weights are missing; ``auto`` takes Haar then.
        DataError: ``given``, and no picture has a box.
    """
    unmarked = [sample for sample in dataset.samples if sample.box is None]
    n_marked = len(dataset) - len(unmarked)
    if options.detector == "given":
        return _given(options, n_marked, len(dataset), dataset.root)
    if options.detector != "auto":
        return _cropping(options, options.detector, f"faces: detector {options.detector}")
    if not unmarked:
        return _given(options, n_marked, len(dataset), dataset.root)
    detector, weights = best_detector(options.weights)
    choice = choose_cropping(dataset.subset(unmarked), open_detector(detector, weights))
    if choice.whole and n_marked:
        crops = replace(options, faceless="whole")
        return _given(crops, n_marked, len(dataset), dataset.root)
    if choice.whole:
        return _cropping(
            options, "none", f"faces: pictures are taken whole, as the crops they are ({choice.reason})"
        )
    reason = f"faces: detector {detector} ({choice.reason})"
    if n_marked:
        reason += (
            f"; only {n_marked:,} of {len(dataset):,} pictures have a box, so that none is used (--detector given "
            "takes those alone)"
        )
    return _cropping(options, detector, reason)


def best_detector(given: Path | None = None) -> tuple[Literal["haar", "yunet"], Path | None]:
    """YuNet if its weights can be had, or else Haar, which needs none.

    Raises:
        WeightsError: the given file is missing.
    """
    try:
        return "yunet", weights_file("yunet", given=given)
    except WeightsError:
        if given is not None:
            raise
        return "haar", None


def open_cropper(cropping: Cropping, network: Embedder | ExpressionClassifier) -> FaceCropper:
    """The cropper that feeds ``network``."""
    settings, weights = cropping.settings, cropping.weights
    return FaceCropper(
        settings, lambda: open_detector(settings.detector, weights), network.input_size_wh, network.resize
    )


def _given(options: CropOptions, n_marked: int, n: int, root: Path) -> Cropping:
    if not n_marked:
        raise DataError(
            f"expected pictures with boxes (columns left, top, right, bottom) in {root}, found none; name a detector"
        )
    reason = f"faces: the boxes of the data set, {n_marked:,} of {n:,} pictures have one"
    if n_marked < n:
        others = "taken whole, as the crops they are" if options.faceless == "whole" else "left out"
        reason += f", the others are {others}"
    # People who draw boxes draw no points to turn a face by.
    settings = FaceSettings("given", None, align=False, margin=options.margin, faceless=options.faceless)
    return Cropping(settings, None, reason)


def _cropping(
    options: CropOptions, detector: Literal["none", "haar", "yunet", "mediapipe"], reason: str
) -> Cropping:
    if detector == "none":
        return Cropping(FaceSettings.whole(), None, reason)
    names = {"yunet": "yunet", "mediapipe": "blaze_face"}
    weights = weights_file(names[detector], given=options.weights) if detector in names else None
    digest = file_sha256(weights) if weights is not None else None
    return Cropping(
        FaceSettings(detector, digest, options.align, options.margin, options.faceless), weights, reason
    )


def search_tap(
    dataset: Dataset, embedder: Embedder, crop: CropOptions, *, seed: int, threads: int | None = None
) -> list[TapScore]:
    """What ``--tap auto`` finds on the labelled pictures of the training part: every tap, the best first.

    Raises:
        DataError: too few labelled pictures that can be read, or a backbone without inner layers.
    """
    candidates = [s for s in dataset.samples if s.label is not None and s.split in (None, "train")]
    order = np.random.default_rng(seed).permutation(len(candidates))
    cropper = open_cropper(settle_cropping(dataset, crop), embedder)
    crops: list[np.ndarray] = []
    chosen = []
    for sample in (candidates[i] for i in order):
        if len(crops) == SAMPLE:
            break
        try:
            crops.append(cropper.largest(dataset.read(sample), sample.box).rgb)
        except (ImageError, OSError):
            continue
        chosen.append(sample)
    if not crops:
        raise DataError(
            f"expected labelled pictures in {dataset.root} to try taps on, found none that can be read"
        )
    groups = [sample.group or sample.path for sample in chosen]
    labels = [str(sample.label) for sample in chosen]
    return find_best_tap(embedder, np.stack(crops), labels, groups, seed=seed, threads=threads)
