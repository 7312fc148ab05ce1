"""The extraction loop: images in, rows of a store out; stopped at any time, it goes on where it was."""

import contextlib
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ferkit.core.console import Progress, StageTimes, n_cores, progress, some
from ferkit.core.errors import DataError, DependencyError, StoreDamagedError
from ferkit.core.weights import BUNDLED, DEFAULT_EDITION, EDITIONS
from ferkit.datasets.dataset import Dataset, ImageSource, Sample
from ferkit.datasets.object_store import ReadAhead
from ferkit.embedder.embedders import SAMPLE, LayerScore, find_best_layer, load_embedder, open_embedder
from ferkit.embedder.engines import (
    CPU,
    INT8_COSINE,
    LEAST_COSINE,
    Engine,
    cosines,
    requested,
    resolve_engines,
    resolve_stored,
)
from ferkit.embedder.onnx_network import NetworkEmbedder, calibrated
from ferkit.embedder.settings import Embedder, StoreSettings
from ferkit.embedder.shards import PlacedRow, Plan, Range, Row, ShardFiles, new_ranges
from ferkit.embedder.store import EmbeddingStore, EmbeddingTable, Snapshot, find_stores, full_name, stores_of
from ferkit.faces.cropping import CropKind, Cropping, FaceCropper, resolve_cropping
from ferkit.faces.reading import ImageCrops, apply_network, read_crops, some_crops

_COARSEST_CLOCK_NS = 2 * 10**9
"""File systems round the time of a change, FAT to two seconds: what is younger than that is looked at again."""


@dataclass(frozen=True)
class Done:
    """A shard that a worker made, or left to another that was making it.

    Attributes:
        number: of the shard.
        n_rows: its images.
        failures: path and reason of those that could not be embedded.
        whole: images that were taken whole for want of a face.
        busy: another process is making it.
        error: why it could not be made, where the user can mend it.
    """

    number: int
    n_rows: int = 0
    failures: tuple[tuple[str, str], ...] = ()
    whole: tuple[str, ...] = ()
    busy: bool = False
    error: str | None = None


def done_with(number: int, rows: Sequence[Row], whole: Sequence[str] = ()) -> Done:
    """What a shard with these rows is reported as."""
    failures = tuple((row.path, row.error) for row in rows if row.error is not None)
    return Done(number, len(rows), failures, tuple(whole))


@dataclass
class ExtractionSummary:
    """What a run did.

    Attributes:
        n_done: images embedded in this run.
        n_kept: images whose embedding was there already.
        n_failed_before: images that an earlier run could not embed, and that have not changed since.
        n_deleted: images that are in the store but no longer in the data set.
        whole: images of this run that were taken whole for want of a face.
        failures: path and reason of the images of this run that could not be embedded.
        seconds: that the run took.
        stages: seconds that each stage of the work took, added up over threads.
    """

    n_done: int = 0
    n_kept: int = 0
    n_failed_before: int = 0
    n_deleted: int = 0
    whole: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def count(self, done: Done) -> None:
        """Add a shard that was made."""
        self.n_done += done.n_rows - len(done.failures)
        self.failures += done.failures
        self.whole += done.whole


@dataclass
class Changes:
    """How a data set differs from what a store holds of it.

    Attributes:
        todo: samples that are new, or whose content or given box changed, in the order of the data set.
        replaces: whether some of them have a row already.
        n_kept, n_failed: rows that stay, and of these, those without an embedding.
        deleted, relabelled: see :class:`ferkit.embedder.store.Snapshot`.
    """

    todo: list[Sample] = field(default_factory=list)
    replaces: bool = False
    n_kept: int = 0
    n_failed: int = 0
    deleted: list[str] = field(default_factory=list)
    relabelled: dict[str, list[str | None]] = field(default_factory=dict)


def compare(
    dataset: Dataset, store: EmbeddingStore, damaged: Callable[[ShardFiles, str], object] | None = None
) -> Changes:
    """Go once through a data set and a store, both sorted by path, and check the store's digests on the way.

    Content counts as unchanged if it has the same size and has not been touched since its shard was made, or else,
    also where the store does not say when that was, if its digest is the same. What could not be read and still
    cannot is not tried again: a run that was interrupted would shift all its shards by it.

    Args:
        dataset: the images.
        store: holds some of them.
        damaged: see :meth:`ferkit.embedder.store.EmbeddingStore.newest`.

    Raises:
        StoreDamagedError: a shard is not what was written, and ``damaged`` is not given.
    """
    found, undated, started_ns = Changes(), set(), time.time_ns()
    faces = store.settings.faces
    rows = store.newest(damaged=damaged)
    placed = next(rows, None)
    for sample in dataset.samples:
        while placed is not None and placed.row.path < sample.path:
            found.deleted.append(placed.row.path)
            placed = next(rows, None)
        if placed is None or placed.row.path != sample.path:
            found.todo.append(sample)
            continue
        row = placed.row
        if placed.times is None:
            undated.add(placed.shard)
        if not row.fits(sample):
            found.relabelled[row.path] = [sample.label, sample.split, sample.group]
        has_moved = faces.detector == "given" and row.box != faces.box_for(sample.box)
        if has_moved or _changed(dataset, sample, placed):
            found.todo.append(sample)
            found.replaces = True
        else:
            found.n_kept += 1
            found.n_failed += row.error is not None
        placed = next(rows, None)
    while placed is not None:
        found.deleted.append(placed.row.path)
        placed = next(rows, None)
    for number in undated:  # all its images have just been compared by their digests
        store.shard(number).compared(started_ns - _COARSEST_CLOCK_NS)
    return found


def changed_since(dataset: Dataset, store: EmbeddingStore, table: EmbeddingTable) -> int:
    """How many images were added, changed, deleted, or moved to another class or part since the store was made.

    Args:
        dataset: the images as they are now.
        store: their embeddings.
        table: the store's rows, as :meth:`ferkit.embedder.store.EmbeddingStore.load` gives them, or some of them.
    """
    found, before = compare(dataset, store), store.view()
    known = (
        dict(zip(table.paths, zip(table.y, table.split, strict=True), strict=True))
        if found.relabelled
        else {}
    )
    moved = sum(path in known and known[path] != (now[0], now[1]) for path, now in found.relabelled.items())
    return len(found.todo) + len({*found.deleted}.difference(before.deleted if before else ())) + moved


def _changed(dataset: Dataset, sample: Sample, placed: PlacedRow) -> bool:
    row = placed.row
    try:
        stamp = dataset.source.stamp(sample.path)
        if row.sha256 is None:
            dataset.source.read(sample.path)
            return True
        if stamp.size != row.size:
            return True
        if stamp.tag is not None and stamp.tag == placed.tag:
            return False
        made_ns = -1 if placed.times is None else placed.times.read_ns
        if stamp.changed_ns < made_ns:
            return False
        return hashlib.sha256(dataset.source.read(sample.path)).hexdigest() != row.sha256
    except OSError:
        return row.sha256 is not None  # a file that was lost is tried again once, to record why


def write_ranges(
    ranges: Iterable[Range],
    source: ImageSource,
    embedder: Embedder,
    cropper: FaceCropper,
    store: EmbeddingStore,
    *,
    workers: int | None = None,
    shown: Progress,
    times: StageTimes | None = None,
) -> Generator[Done, None, None]:
    """Embed ranges of images and write their shards.

    Images are read, decoded and cropped by threads a few batches ahead, and the network runs in others. Every batch is
    a fixed range of a shard: an interrupted and resumed run writes the same bytes as an undisturbed one.

    Args:
        ranges: which; asked for shortly before the first image of the next one is read.
        source: gives the images.
        embedder: the network.
        cropper: takes out the faces, in the embedder's input size.
        store: made with the settings of both.
        workers: threads that read and crop; one a core if None.
        shown: is told of every image.
        times: takes how long each stage took.

    Yields:
        What was done of each range, when its shard is on the disk.

    Raises:
        FerkitError: the disk is full or the folder cannot be written; all complete shards stay.
    """
    begun: deque[Range] = deque()
    lengths: deque[int] = deque()
    size, times = store.batch_size, times or StageTimes()
    ahead = ReadAhead(source) if getattr(source, "tagged", False) else None

    def samples() -> Iterator[Sample]:
        for one in ranges:
            begun.append(one)
            lengths.append(len(one.samples))
            for sample in one.samples:
                if ahead is not None:
                    ahead.begin(sample.path)
                yield sample

    images = read_crops(ahead or source, samples(), cropper, batch_size=size, workers=workers, times=times)
    embedded = apply_network(
        images, embedder.embed, embedder.dim, size, blocks=lengths, at_once=embedder.at_once, times=times
    )
    with contextlib.closing(ahead or images), contextlib.closing(images), contextlib.closing(embedded):
        while (first := next(embedded, None)) is not None:
            one = begun.popleft()
            n_rows, whole = len(one.samples), list[str]()
            rows: list[Row] = []
            X = np.full((n_rows, embedder.dim), np.nan, np.float32)
            read_ns = time.time_ns()
            for i, (image, vector) in enumerate(chain([first], islice(embedded, n_rows - 1))):
                row = _row(image, vector, cropper, store.settings.dtype)
                rows.append(row)
                read_ns = min(read_ns, image.read_ns)
                if row.error is None:
                    X[i] = vector[0]
                    if image.found.whole and cropper.settings.detector != "none":
                        whole.append(row.path)
                shown.update(1, failures=row.error is not None)
            with times.measure("write"):
                store.shard(one.number).write(
                    rows, X.astype(store.settings.dtype), read_ns - _COARSEST_CLOCK_NS, _tags(source, one)
                )
            yield done_with(one.number, rows, whole)


def _tags(source: ImageSource, one: Range) -> list[str | None]:
    """What an object store calls the contents; files have their times."""
    tags: list[str | None] = []
    for sample in one.samples if getattr(source, "tagged", False) else ():
        tag = None
        with contextlib.suppress(OSError):
            tag = source.stamp(sample.path).tag
        tags.append(tag)
    return tags


def extract(
    dataset: Dataset,
    embedder: Embedder,
    cropper: FaceCropper,
    store: EmbeddingStore,
    *,
    crops: CropKind = "crops",
    workers: int | None = None,
    repair: bool = False,
) -> ExtractionSummary:
    """Embed all images of ``dataset`` that ``store`` does not hold yet; planned shards are made as planned.

    Args:
        dataset: the images.
        embedder: the network.
        cropper: takes out the faces, in the embedder's input size.
        store: made with the settings of both; the caller holds its :meth:`~EmbeddingStore.writing`.
        crops: what the cropper makes of the images, for the heads that will be fitted.
        workers: threads that read and crop; one a core if None.
        repair: delete damaged shards and make them again.

    Raises:
        StoreError: the store is damaged, or mirrors another data set.
        FerkitError: the disk is full or the folder cannot be written; all complete shards stay.
    """
    started = time.monotonic()
    store.check_root(dataset.root)
    changes = compare(dataset, store, removing(repair))
    write_view(store, dataset, changes, embedder.weights_path, embedder.licence, crops, embedder.cosine)
    ranges = chain(*ranges_of(changes, store, Plan.read(store.folder)))
    summary = ExtractionSummary(
        n_kept=changes.n_kept - changes.n_failed,
        n_failed_before=changes.n_failed,
        n_deleted=len(changes.deleted),
    )
    times = StageTimes()
    with progress("embedding", len(dataset), done=changes.n_kept) as shown:
        for done in write_ranges(
            ranges, dataset.source, embedder, cropper, store, workers=workers, shown=shown, times=times
        ):
            summary.count(done)
    summary.seconds, summary.stages = time.monotonic() - started, times.seconds
    return summary


def ranges_of(
    changes: Changes, store: EmbeddingStore, plan: Plan | None
) -> tuple[Iterator[Range], Iterator[Range]]:
    """Shards to be made: those that are planned and not there, and those of images that nobody planned for."""
    there = {shard.number for shard in store.shards()}
    planned = [] if plan is None else plan.numbers
    open_numbers = [number for number in planned if number not in there]
    if plan is None or not open_numbers:
        numbers = store.free_numbers(fill_gaps=not changes.replaces)
        return iter(()), new_ranges(changes.todo, numbers, store.rows_per_shard)
    taken = {sample.path for one in plan.load(store.folder, open_numbers) for sample in one.samples}
    todo = [sample for sample in changes.todo if sample.path not in taken]
    numbers = store.free_numbers(fill_gaps=not changes.replaces, taken=open_numbers)
    return plan.load(store.folder, open_numbers), new_ranges(todo, numbers, store.rows_per_shard)


def removing(repair: bool) -> Callable[[ShardFiles, str], object]:
    """What becomes of a damaged shard: it is deleted to be made again, or named and left."""

    def remove(shard: ShardFiles, reason: str) -> None:
        if not repair:
            raise StoreDamagedError(reason)
        logger.info(f"{shard.npy.name} is damaged and made again")
        shard.remove()

    return remove


def write_view(
    store: EmbeddingStore,
    dataset: Dataset,
    changes: Changes,
    weights: Path | None,
    licence: str,
    crops: str,
    cosine: float | None = None,
) -> None:
    """Say that the store mirrors ``dataset`` now; for the rest see :class:`ferkit.embedder.store.Snapshot`."""
    before = store.view()
    store.write_view(
        Snapshot(
            full_name(dataset.root),
            len(dataset),
            None if weights is None else full_name(weights),
            licence,
            changes.deleted,
            changes.relabelled,
            crops,
            cosine if cosine is not None or before is None else before.cosine,
        )
    )


def _row(image: ImageCrops, vector: np.ndarray, cropper: FaceCropper, dtype: str) -> Row:
    """The row, with a reason if its vector (1 or 0, dim) is no embedding: some networks look for a face themselves."""
    sample, error = image.sample, image.error
    box = cropper.settings.box_for(sample.box)
    if error is None:
        box = None
        if not image.found.whole:
            x0, y0, x1, y1 = (round(float(value), 1) for value in image.found.xyxy[0])
            box = (x0, y0, x1, y1)
        with np.errstate(over="ignore"):
            stored = vector.astype(dtype)
        if not np.isfinite(stored).all():
            no_face = np.isnan(vector).any()
            error = "the embedder found no face, or gave NaN" if no_face else f"too large for {dtype}"
    return Row(sample.path, sample.label, sample.split, sample.group, image.size, image.sha256, box, error)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreOptions:
    """Where and how embeddings are kept.

    Attributes:
        root: folder of all stores.
        name: of the data set in the store's name; None takes the data set's own.
        dtype: ``float16`` halves the disk and keeps three digits.
        batch_size: images a run of the network; None for what the engine does best.
        rows_per_shard: images a shard, the most that an interrupt can lose.
        repair: delete damaged shards and make them again.
    """

    root: Path = Path("cache")
    name: str | None = None
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int | None = None
    rows_per_shard: int = 1024
    repair: bool = False


def open_for_store(
    spec: str,
    dataset: Dataset,
    asked: Cropping,
    options: StoreOptions,
    /,
    *,
    device: str | None = None,
    precision: str | None = None,
    **arguments: Any,
) -> Embedder:
    """A backbone for the embeddings of a data set, run by what made those that there are.

    Another engine than ONNX Runtime in float32 is compared with that on some images, and calibrated on them for int8.

    Args:
        spec: see :func:`ferkit.embedder.embedders.open_embedder`.
        dataset: the images.
        asked: how faces are taken out of them.
        options: where the embeddings are.
        device, precision: see :func:`ferkit.embedder.engines.resolve_engines`. None takes what is asked for in the
            process, or that of the embeddings that there are; for the first ones the device ``auto``, and float32.
        arguments: of :func:`ferkit.embedder.embedders.open_embedder`.

    Raises:
        DependencyError: what is asked for, or made the embeddings, is not here.
        DataError: embeddings in that precision would be too far from those in float32.
        FerkitError: see :func:`ferkit.embedder.embedders.open_embedder`.
    """
    device, precision = device or requested()[0], precision or requested()[1]
    engines = resolve_engines(device or "auto", precision or "float32")
    # Several batches at a time by a thread each are faster than one by all: none waits for the others.
    threads = arguments.pop("threads", None) or -(-n_cores() // _MOST_AT_ONCE)
    exact = open_embedder(spec, engines=[CPU], threads=threads, **arguments)
    if not isinstance(exact, NetworkEmbedder):
        return exact
    file = exact.weights_path
    for folder, made_by, settings, cosine in stores_of(
        options.root, options.name or dataset.name, exact.settings
    ):
        try:
            stored = resolve_stored(made_by, device, precision)
        except DependencyError as error:
            raise DependencyError(
                f"{folder} was made by {made_by}: {error}; or ask for another precision to embed again"
            ) from None
        if stored is not None:
            if made_by == CPU:
                return exact
            embedder = load_embedder(settings, weights=file, threads=threads, engines=stored)
            embedder.cosine = cosine
            return embedder
    if engines[0] == CPU:
        return exact
    cropper = resolve_cropping(dataset, asked).cropper(exact)
    chosen = some_crops(dataset.source, dataset.samples, cropper, _COMPARED)
    crops = np.concatenate([image.found.rgb for image in chosen]) if chosen else None
    return _first_that_agrees(exact, engines, crops, threads)


_MOST_AT_ONCE = 8
"""Batches at a time, on processors with more cores of several threads each: what is read ahead takes memory."""

_COMPARED = 64
"""Images that another engine is compared on with float32, and calibrated on."""


def _first_that_agrees(
    exact: NetworkEmbedder, engines: list[Engine], crops: np.ndarray | None, threads: int
) -> Embedder:
    """The embedder by the first of some engines whose embeddings are near those of ``exact``."""
    settings, file = exact.settings, exact.weights_path
    assert file is not None
    if engines[0].precision == "int8":
        if crops is None:
            raise DataError("expected images to calibrate int8 on, found none that can be read")
        settings = calibrated(file, settings, crops)
    while engines and engines[0] != CPU:
        found = load_embedder(settings, weights=file, threads=threads, engines=engines)
        assert isinstance(found, NetworkEmbedder)
        if found.engine == CPU:
            break
        if crops is None:
            return found
        found.cosine = round(float(cosines(exact.embed(crops), found.embed(crops)).mean()), 6)
        logger.info(f"{found.engine}; cosine with ONNX Runtime in float32 {found.cosine:.5f}")
        least = INT8_COSINE if found.engine.precision == "int8" else LEAST_COSINE
        if found.cosine >= least:
            return found
        problem = (
            f"expected embeddings by {found.engine} with a cosine of at least {least} with those in float32, "
            f"found {found.cosine:.5f}"
        )
        engines = engines[engines.index(found.engine) + 1 :]
        if not engines:
            raise DataError(f"{problem}; take float32")
        logger.info(f"{problem}; {engines[0]} is taken")
    return exact


def default_backbone(root: Path, name: str) -> str:
    """Return the network that comes along: its second edition, or the first where that has embedded these data.

    Args:
        root: folder of all stores.
        name: of the data set.
    """
    folders = [folder.name for folder in find_stores(root)]
    has = {one: any(folder.startswith(f"{name}--{one}--") for folder in folders) for one in EDITIONS}
    if has[DEFAULT_EDITION] or not has[BUNDLED]:
        return DEFAULT_EDITION
    logger.info(
        f"these data are embedded by {BUNDLED}, the first edition, which goes on; {DEFAULT_EDITION} as the backbone "
        "embeds them again by the second, next to it"
    )
    return BUNDLED


def open_store(
    dataset: Dataset, embedder: Embedder, asked: Cropping, options: StoreOptions
) -> tuple[EmbeddingStore, Cropping]:
    """The store that these settings belong to, made where it is not there, and what the cropping became.

    Raises:
        FerkitError: see :func:`ferkit.embedder.store.EmbeddingStore.create`; also for weights that are missing.
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
        batch_size=options.batch_size or embedder.batch_size,
        repair=options.repair,
    )
    logger.info(f"embeddings: {store.folder} ({store.dim} numbers each)")
    return store, cropping


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
    store, cropping = open_store(dataset, embedder, asked, options)
    with store.writing():
        summary = extract(
            dataset,
            embedder,
            cropping.cropper(embedder),
            store,
            crops=cropping.kind,
            workers=workers,
            repair=options.repair,
        )
    if summary.whole:
        logger.info(f"{len(summary.whole)} images without a face were taken whole: {some(summary.whole)}")
    return store, summary


def search_layer(
    dataset: Dataset, embedder: Embedder, asked: Cropping, *, seed: int, threads: int | None = None
) -> list[LayerScore]:
    """What ``--layer auto`` finds on the labelled images of the training part: every layer, the best first.

    Raises:
        DataError: too few labelled images that can be read, or a backbone without inner layers.
    """
    candidates = [s for s in dataset.samples if s.label is not None and s.split in (None, "train")]
    order = np.random.default_rng(seed).permutation(len(candidates))
    cropper = resolve_cropping(dataset, asked).cropper(embedder)
    chosen = some_crops(dataset.source, (candidates[i] for i in order), cropper, SAMPLE)
    if not chosen:
        raise DataError(
            f"expected labelled images in {dataset.root} to try layers on, found none that can be read"
        )
    crops = np.concatenate([image.found.rgb for image in chosen])
    groups = [image.sample.group or image.sample.path for image in chosen]
    labels = [str(image.sample.label) for image in chosen]
    return find_best_layer(embedder, crops, labels, groups, seed=seed, threads=threads)
