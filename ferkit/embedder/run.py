"""``fer embed`` as one function: settle what was asked for, then run the extraction loop."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ferkit.core.errors import DataError, StoreDamagedError
from ferkit.datasets.dataset import Dataset
from ferkit.embedder.backbones import Embedder
from ferkit.embedder.extract import ExtractionSummary, extract
from ferkit.embedder.settings import StoreSettings
from ferkit.embedder.store import EmbeddingStore
from ferkit.embedder.tap_search import SAMPLE, TapScore, find_best_tap
from ferkit.faces.cropping import Cropping, resolve_cropping
from ferkit.faces.reading import some_crops

logger = logging.getLogger(__name__)


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


def embed_dataset(
    dataset: Dataset,
    embedder: Embedder,
    asked: Cropping,
    options: StoreOptions,
    *,
    workers: int | None = None,
) -> tuple[EmbeddingStore, ExtractionSummary]:
    """Embed what is missing, into the store that these settings belong to.

    Args:
        dataset: the images.
        embedder: the network.
        asked: how faces are taken out.
        options: where the embeddings go.
        workers: threads that read and crop; one a core if None.

    Raises:
        FerkitError: see :func:`ferkit.embedder.extract.extract`; also for weights that are missing.
    """
    cropping = resolve_cropping(dataset, asked)
    if cropping is not asked:
        logger.info(cropping.reason)
    store = EmbeddingStore.create(
        options.root,
        options.name or dataset.name,
        StoreSettings(embedder.settings, cropping.settings, options.dtype),
        dim=embedder.dim,
        rows_per_shard=options.rows_per_shard,
        batch_size=options.batch_size,
    )
    logger.info(f"embeddings: {store.folder} ({store.dim} numbers each)")
    with store.writing():
        for shard, reason in store.verify():
            if not options.repair:
                raise StoreDamagedError(reason)
            logger.info(f"{shard.npy.name} is damaged and made anew")
            shard.remove()
        summary = extract(
            dataset, embedder, cropping.cropper(embedder), store, crops=cropping.kind, workers=workers
        )
    if summary.n_whole:
        logger.info(f"{summary.n_whole} images without a face were taken whole")
    return store, summary


def search_tap(
    dataset: Dataset, embedder: Embedder, asked: Cropping, *, seed: int, threads: int | None = None
) -> list[TapScore]:
    """What ``--tap auto`` finds on the labelled images of the training part: every tap, the best first.

    Raises:
        DataError: too few labelled images that can be read, or a backbone without inner layers.
    """
    candidates = [s for s in dataset.samples if s.label is not None and s.split in (None, "train")]
    order = np.random.default_rng(seed).permutation(len(candidates))
    cropper = resolve_cropping(dataset, asked).cropper(embedder)
    chosen = some_crops(dataset.source, (candidates[i] for i in order), cropper, SAMPLE)
    if not chosen:
        raise DataError(
            f"expected labelled images in {dataset.root} to try taps on, found none that can be read"
        )
    crops = np.concatenate([image.found.rgb for image in chosen])
    groups = [image.sample.group or image.sample.path for image in chosen]
    labels = [str(image.sample.label) for image in chosen]
    return find_best_tap(embedder, crops, labels, groups, seed=seed, threads=threads)
