"""The extraction loop: images in, rows of a store out; stopped at any time, it goes on where it was."""

import contextlib
import functools
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ferkit.core.console import Progress, map_ahead
from ferkit.core.errors import DataError, ImageError, StoreDamagedError
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.embedder.embedders import Embedder
from ferkit.embedder.layer_search import SAMPLE, LayerScore, find_best_layer
from ferkit.embedder.settings import StoreSettings
from ferkit.embedder.store import EmbeddingStore, Row
from ferkit.faces.cropping import (
    Box,
    CropOptions,
    FaceCropper,
    open_cropper,
    resolve_cropping,
)

_COARSEST_CLOCK_NS = 2 * 10**9
"""File systems round the time of a change, FAT to two seconds: what is younger than that is looked at again."""


@dataclass
class ExtractionSummary:
    """What a run did.

    Attributes:
        n_done: images embedded in this run.
        n_kept: images whose embedding was there already.
        n_failed_before: images that an earlier run could not embed, and that have not changed since.
        n_deleted: images that are in the store but no longer in the data set.
        failures: path and reason of the images of this run that could not be embedded.
        seconds: that the run took.
    """

    n_done: int = 0
    n_kept: int = 0
    n_failed_before: int = 0
    n_deleted: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Loaded:
    """A sample read and cropped, or the reason why not, and when its file was opened."""

    row: Row
    crop: np.ndarray | None
    read_ns: int


def extract(
    dataset: Dataset,
    embedder: Embedder,
    cropper: FaceCropper,
    store: EmbeddingStore,
    *,
    workers: int | None = None,
    progress: Progress,
) -> ExtractionSummary:
    """Embed all images of ``dataset`` that ``store`` does not hold yet.

    Images are read, decoded and cropped by threads a few batches ahead; the network runs here. Every shard is a
    fixed range of the sorted images, and every batch a fixed range of a shard: an interrupted and resumed run
    writes the same bytes as an undisturbed one.

    Args:
        dataset: the images.
        embedder: the network.
        cropper: takes out the faces, in the embedder's input size.
        store: made with the settings of both; the caller holds its :meth:`~EmbeddingStore.writing`.
        workers: threads that read and crop; one a core if None.
        progress: is told of every batch.

    Raises:
        StoreError: the store is damaged, or mirrors another data set.
        FerkitError: the disk is full or the folder cannot be written; all complete shards stay.
    """
    started = time.monotonic()
    workers = workers or os.cpu_count() or 1
    view = store.mirrored(dataset.samples, dataset.root, embedder.weights_path, embedder.licence)
    store.write_view(view)
    known = store.rows()
    todo = missing(dataset, store)
    again = {sample.path for sample in todo}
    replaces = not again.isdisjoint(known)
    there = [known[sample.path] for sample in dataset.samples if sample.path not in again]
    n_failed = sum(row.error is not None for row in there)
    summary = ExtractionSummary(
        n_kept=len(there) - n_failed, n_failed_before=n_failed, n_deleted=len(view.deleted)
    )
    progress.start(total=len(dataset), done=len(there))
    load = functools.partial(_load, dataset, cropper)
    loaded = map_ahead(load, todo, workers=workers, ahead=max(2 * store.batch_size, 4 * workers))
    with contextlib.closing(loaded):
        for n_rows in _lengths(len(todo), store.rows_per_shard):
            rows, X, read_ns = _embed_shard(n_rows, loaded, embedder, store, summary, progress)
            store.append(rows, X, read_ns - _COARSEST_CLOCK_NS, fill_gaps=not replaces)
    summary.seconds = time.monotonic() - started
    return summary


def missing(dataset: Dataset, store: EmbeddingStore) -> list[Sample]:
    """Samples that are new, or whose content or given box changed, in the order of the data set.

    Content counts as unchanged if it has the same size and has not been touched since its shard was made, or else
    if its digest is the same. What could not be read and still cannot is not tried again: a run that was
    interrupted would shift all its shards by it.
    """
    known = {}
    for shard in store.shards():
        made_ns = shard.json.stat().st_mtime_ns
        known.update({row.path: (row, made_ns) for row in shard.read_rows()})
    faces = store.settings.faces

    def is_missing(sample: Sample) -> bool:
        if sample.path not in known:
            return True
        row, made_ns = known[sample.path]
        has_moved = faces.detector == "given" and row.box != faces.box_for(sample.box)
        return has_moved or _changed(dataset, sample, row, made_ns)

    return [sample for sample in dataset.samples if is_missing(sample)]


def _changed(dataset: Dataset, sample: Sample, row: Row, made_ns: int) -> bool:
    try:
        stamp = dataset.source.stamp(sample.path)
        if row.sha256 is None:
            dataset.source.read(sample.path)
            return True
        if stamp.size != row.size:
            return True
        return stamp.changed_ns >= made_ns and _digest(dataset.source.read(sample.path)) != row.sha256
    except OSError:
        return row.sha256 is not None  # a file that was lost is tried again once, to record why


def _embed_shard(
    n_rows: int,
    loaded: Iterator[_Loaded],
    embedder: Embedder,
    store: EmbeddingStore,
    summary: ExtractionSummary,
    progress: Progress,
) -> tuple[list[Row], np.ndarray, int]:
    """Rows, embeddings (n_rows, dim) with NaN where there is none, and when the first image was read."""
    rows: list[Row] = []
    blocks = []
    read_ns = time.time_ns()
    for size in _lengths(n_rows, store.batch_size):
        batch = list(itertools.islice(loaded, size))
        block = np.full((size, embedder.dim), np.nan, np.float32)
        crops = {i: item.crop for i, item in enumerate(batch) if item.crop is not None}
        if crops:
            block[list(crops)] = embedder.embed(np.stack(list(crops.values())))
        rows += [
            _checked(item, vector, store.settings.dtype) for item, vector in zip(batch, block, strict=True)
        ]
        blocks.append(block)
        read_ns = min(read_ns, *(item.read_ns for item in batch))
        failed = [(row.path, row.error) for row in rows[-size:] if row.error is not None]
        summary.failures += failed
        summary.n_done += size - len(failed)
        progress.update(size, failures=len(failed))
    X = np.concatenate(blocks)
    X[[row.error is not None for row in rows]] = np.nan
    return rows, X, read_ns


def _load(dataset: Dataset, cropper: FaceCropper, sample: Sample) -> _Loaded:
    """Never raises for what one image can have: the reason becomes part of its row."""
    size, digest, read_ns = -1, None, time.time_ns()
    given = cropper.settings.box_for(sample.box)
    try:
        content = dataset.source.read(sample.path)
        size, digest = len(content), _digest(content)
        crop = cropper.largest(dataset.source.decode(content), sample.box)
        return _Loaded(_row(sample, size, digest, crop.xyxy), crop.rgb, read_ns)
    except DataError as error:
        return _Loaded(_row(sample, size, digest, given, str(error)), None, read_ns)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return _Loaded(_row(sample, size, digest, given, reason), None, read_ns)


def _checked(item: _Loaded, vector: np.ndarray, dtype: str) -> Row:
    """The row, with a reason if its vector is no embedding: networks that look for a face may not find one."""
    with np.errstate(over="ignore"):
        stored = vector.astype(dtype)
    if item.crop is None or np.isfinite(stored).all():
        return item.row
    row = item.row
    reason = "the embedder found no face, or gave NaN" if np.isnan(vector).any() else f"too large for {dtype}"
    return Row(row.path, row.label, row.split, row.group, row.size, row.sha256, row.box, reason)


def _row(sample: Sample, size: int, digest: str | None, box: Box | None, error: str | None = None) -> Row:
    return Row(sample.path, sample.label, sample.split, sample.group, size, digest, box, error)


def _lengths(total: int, size: int) -> Iterator[int]:
    """Lengths of consecutive ranges of at most ``size`` that make up ``total``."""
    for start in range(0, total, size):
        yield min(size, total - start)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class StoreOptions:
    """Where and how embeddings are kept.

    Attributes:
        root: folder of all stores.
        name: of the data set in the store's name; None takes the data set's own.
        dtype: ``float16`` halves the disk and keeps three digits.
        batch_size: images a run of the network.
        rows_per_shard: images a shard, the most that an interrupt can lose.
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
    crop: CropOptions,
    options: StoreOptions,
    *,
    workers: int | None = None,
    progress: Progress,
    say: Callable[[str], None],
) -> tuple[EmbeddingStore, ExtractionSummary]:
    """Embed what is missing, into the store that these settings belong to.

    Args:
        dataset: the images.
        embedder: the network.
        crop: how faces are taken out.
        options: where the embeddings go.
        workers: threads that read and crop; one a core if None.
        progress: is told of every batch.
        say: takes sentences for the user: what was chosen, and where things are.

    Raises:
        FerkitError: see :func:`ferkit.embedder.extract.extract`; also for weights that are missing.
    """
    cropping = resolve_cropping(dataset, crop)
    say(cropping.reason)
    store = EmbeddingStore.create(
        options.root,
        options.name or dataset.name,
        StoreSettings(embedder.settings, cropping.settings, options.dtype),
        dim=embedder.dim,
        rows_per_shard=options.rows_per_shard,
        batch_size=options.batch_size,
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


def search_layer(
    dataset: Dataset, embedder: Embedder, crop: CropOptions, *, seed: int, threads: int | None = None
) -> list[LayerScore]:
    """What ``--tap auto`` finds on the labelled images of the training part: every tap, the best first.

    Raises:
        DataError: too few labelled images that can be read, or a backbone without inner layers.
    """
    candidates = [s for s in dataset.samples if s.label is not None and s.split in (None, "train")]
    order = np.random.default_rng(seed).permutation(len(candidates))
    cropper = open_cropper(resolve_cropping(dataset, crop), embedder)
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
            f"expected labelled images in {dataset.root} to try taps on, found none that can be read"
        )
    groups = [sample.group or sample.path for sample in chosen]
    labels = [str(sample.label) for sample in chosen]
    return find_best_layer(embedder, np.stack(crops), labels, groups, seed=seed, threads=threads)
