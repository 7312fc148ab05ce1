"""Make a store in parts: plan it once, let any machine make any part of it, and finish it.

A part reads the plan and the images, and nothing else: it neither lists the data nor decides anything.
"""

import contextlib
import glob
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.console import Progress, progress
from ferkit.core.errors import DataError, SettingsMismatchError, StoreError, StoreLockedError
from ferkit.core.files import as_path, exclusive_lock
from ferkit.datasets.dataset import Dataset, ImageSource
from ferkit.datasets.load import open_source
from ferkit.embedder.embedders import Embedder, load_embedder
from ferkit.embedder.engines import Engine, requested
from ferkit.embedder.extract import (
    Done,
    ExtractionSummary,
    StoreOptions,
    compare,
    open_store,
    ranges_of,
    removing,
    write_ranges,
    write_view,
)
from ferkit.embedder.shards import Plan, Range, Request
from ferkit.embedder.store import EmbeddingStore, full_name
from ferkit.faces.cropping import Cropping, cropping_as_planned

_WITNESSES = 8


@dataclass(frozen=True)
class Planned:
    """What a planning gave.

    Attributes:
        store: which is to be made.
        plan: what stands in it.
        n_open: shards that are planned and not there.
        n_new: images of the data set that this planning found, and had not found before.
        n_kept: images whose rows are there.
    """

    store: EmbeddingStore
    plan: Plan
    n_open: int
    n_new: int
    n_kept: int


def make_plan(
    dataset: Dataset, embedder: Embedder, asked: Cropping, options: StoreOptions, request: Request
) -> Planned:
    """Settle everything that decides about a byte of a store, and write it next to the shards.

    Images that came, or changed, since an earlier planning get ranges of their own.

    Args:
        dataset: the images.
        embedder: the network.
        asked: how faces are taken out.
        options: where the embeddings go.
        request: what the user asked for.

    Raises:
        StoreError: the store is damaged, mirrors another data set, or somebody else is planning.
        FerkitError: it cannot be written.
    """
    store, cropping = open_store(dataset, embedder, asked, options)
    store.check_root(dataset.root)
    alone = exclusive_lock(store.folder / ".lock-plan", "planning")
    with store.writing(alone=options.repair), alone:
        plan = Plan.read(store.folder)
        changes = compare(dataset, store, removing(options.repair))
        _, new = ranges_of(changes, store, plan)
        ranges = list(new)
        if plan is None:
            seen = _witnesses(dataset)
            weights = None if embedder.weights_path is None else full_name(embedder.weights_path)
            plan = Plan(request, cropping.kind, weights, embedder.licence, embedder.cosine, seen, ())
            plan = plan.extended(store.folder, ranges)
        elif ranges:
            plan = plan.extended(store.folder, ranges)
        n_open = len(missing_shards(store, plan.numbers))
    return Planned(store, plan, n_open, sum(len(one.samples) for one in ranges), changes.n_kept)


def _witnesses(dataset: Dataset) -> dict[str, str]:
    found = {}
    for position in np.unique(np.linspace(0, len(dataset) - 1, _WITNESSES).astype(int)):
        path = dataset.samples[position].path
        with contextlib.suppress(OSError):
            found[path] = hashlib.sha256(dataset.source.read(path)).hexdigest()
    return found


def missing_shards(store: EmbeddingStore, numbers: Iterable[int]) -> list[int]:
    """Which of these shards are not there."""
    there = {shard.number for shard in store.shards()}
    return [number for number in numbers if number not in there]


def find_plan(root: Path, name: str, asked: Mapping[str, str]) -> Path:
    """The folder of the one store of a data set that was planned with these wishes.

    Args:
        root: folder of all stores.
        name: of the data set.
        asked: fields of :class:`ferkit.embedder.shards.Request`, as far as the user gave them.

    Raises:
        StoreError: there is none, or there are several.
    """
    folders = [path.parent for path in sorted(root.glob(f"{glob.escape(name)}--*/plan.json"))]
    if not folders:
        raise StoreError(
            f"expected a plan for {name} in {root}, found none; run 'fer embed' with --plan first, or give the --name "
            "that was planned"
        )
    plans = [(folder, plan) for folder in folders if (plan := Plan.read(folder)) is not None]
    fitting = [folder for folder, plan in plans if not plan.request.differing(asked)]
    if not fitting:
        others = ", ".join(plans[0][1].request.differing(asked))
        raise SettingsMismatchError(
            f"{plans[0][0]} was planned with something else than {others}; leave it out, or plan again with it"
        )
    if len(fitting) > 1:
        listed = ", ".join(folder.name for folder in fitting)
        raise StoreError(f"{name} has several plans: {listed}; name one of them by its --backbone or --layer")
    return fitting[0]


@dataclass(frozen=True)
class Job:
    """What a worker has to know: plain values, which go to other processes and machines.

    Attributes:
        store: folder of the store that was planned.
        data: what the user named as data.
        columns: names of a table's columns, as pairs.
        weights, detector_weights: files, where they lie elsewhere than on the machine that planned.
        workers, threads: see :class:`ferkit.embedder.extract.StoreOptions`; None for one a core.
    """

    store: str
    data: str
    columns: tuple[tuple[str, str], ...] = ()
    weights: str | None = None
    detector_weights: str | None = None
    workers: int | None = None
    threads: int | None = None


class PartWorker:
    """Makes shards of a plan: the network is loaded once.

    Raises:
        SettingsMismatchError: this machine would make other numbers than the plan says.
        DataError: the images are not those that were planned with.
        FerkitError: see :func:`ferkit.embedder.embedders.load_embedder` and :func:`ferkit.datasets.load.open_source`.
    """

    def __init__(self, job: Job) -> None:
        self.store = EmbeddingStore.open(as_path(job.store))
        plan = Plan.read(self.store.folder)
        if plan is None:
            raise StoreError(
                f"expected a plan in {self.store.folder}, found none; run 'fer embed' with --plan first"
            )
        self.plan, self._workers = plan, job.workers
        _, self._source = open_source(as_path(job.data), dict(job.columns))
        _check_witnesses(self._source, plan, job.data)
        settings, request = self.store.settings, plan.request
        own = Engine(settings.embedder.engine, settings.embedder.precision)
        device, precision = requested()
        if precision not in (None, "auto", own.precision):
            raise SettingsMismatchError(
                f"planned with {own}, not with precision {precision}; leave --precision out"
            )
        weights = job.weights or request.weights
        self.embedder = load_embedder(
            settings.embedder, weights=None if weights is None else Path(weights), threads=job.threads
        )
        if self.embedder.settings != settings.embedder:
            raise SettingsMismatchError(
                f"planned with {own}, which is not here: {Engine(self.embedder.settings.engine)} on {device} would "
                "make other numbers"
            )
        looked = job.detector_weights or request.detector_weights
        cropping = cropping_as_planned(settings.faces, plan.crops, None if looked is None else Path(looked))
        self._cropper = cropping.cropper(self.embedder)

    def run(self, numbers: Sequence[int], *, shown: Progress, again: bool = False) -> Iterator[Done]:
        """Make these shards, but those that are there; what another process is making is said and passed over.

        Args:
            numbers: of the shards.
            shown: is told of every image.
            again: make them even though another process is at it: the bytes are the same.
        """
        held: dict[int, contextlib.ExitStack] = {}
        busy: list[int] = []

        def claimed() -> Iterator[Range]:
            for number in numbers:
                shard, lock = self.store.shard(number), contextlib.ExitStack()
                if shard.is_there():
                    continue
                try:
                    if not again:
                        lock.enter_context(
                            exclusive_lock(_lock_of(self.store, number), "making", optional=True)
                        )
                except StoreLockedError:
                    busy.append(number)
                    continue
                if shard.is_there():  # made while the lock was being taken
                    lock.close()
                    continue
                held[number] = lock
                yield from self.plan.load(self.store.folder, [number])

        try:
            with self.store.writing(alone=False):
                made = write_ranges(
                    claimed(), self._source, self.embedder, self._cropper, self.store,
                    workers=self._workers, shown=shown,
                )  # fmt: skip
                with contextlib.closing(made):
                    for done in made:
                        held.pop(done.number).close()
                        if not again:  # who takes the lock from now on finds the shard
                            with contextlib.suppress(OSError):
                                _lock_of(self.store, done.number).unlink()
                        yield done
        finally:
            for lock in held.values():
                lock.close()
        yield from (Done(number, busy=True) for number in busy)


def _lock_of(store: EmbeddingStore, number: int) -> Path:
    return store.folder / f".lock-{number:05d}"


def _check_witnesses(source: ImageSource, plan: Plan, data: str) -> None:
    """Refuse images of another data set, or a folder that is not mounted: all would be written as failures."""
    for path, digest in plan.witnesses.items():
        with contextlib.suppress(OSError):
            if hashlib.sha256(source.read(path)).hexdigest() == digest:
                return
    if plan.witnesses:
        path = next(iter(plan.witnesses))
        raise DataError(
            f"expected the images in {data} that the plan was made with, found none of {len(plan.witnesses)} looked "
            f"for ({path}, …); is it mounted here, and the same?"
        )


def run_part(worker: PartWorker, numbers: Sequence[int]) -> tuple[ExtractionSummary, list[int]]:
    """Make shards of a plan here.

    Returns:
        What was done, and the shards that other processes are making.
    """
    started, summary, busy = time.monotonic(), ExtractionSummary(), []
    images = {number: n for number, _, _, n in worker.plan.ranges}
    total = sum(images[number] for number in numbers)
    left = set(missing_shards(worker.store, numbers))
    summary.n_kept = sum(images[number] for number in numbers if number not in left)
    with progress("embedding", total, done=summary.n_kept) as shown:
        for done in worker.run(numbers, shown=shown):
            if done.busy:
                busy.append(done.number)
            else:
                summary.count(done)
    summary.seconds = time.monotonic() - started
    return summary, busy


@dataclass(frozen=True)
class Finished:
    """What was found when a store was finished.

    Attributes:
        n_kept, n_failed: images with a row, and those of them without an embedding.
        n_deleted: images of the store that the data set has no longer.
        n_later: images that came, or changed, since the last planning.
    """

    n_kept: int
    n_failed: int
    n_deleted: int
    n_later: int


def finish(dataset: Dataset, folder: Path, *, repair: bool = False) -> Finished:
    """Check every shard of a planned store, and write which data set it mirrors.

    Args:
        dataset: the images.
        folder: of the store.
        repair: delete damaged shards, so that they can be made again.

    Raises:
        StoreError: shards are missing or damaged; the message names them.
    """
    store, plan = EmbeddingStore.open(folder), Plan.read(folder)
    if plan is None:
        raise StoreError(f"expected a plan in {folder}, found none; run 'fer embed' with --plan first")
    store.check_root(dataset.root)
    with store.writing(alone=repair):
        changes = compare(dataset, store, removing(repair))
        missing = missing_shards(store, plan.numbers)
        if missing:
            raise StoreError(
                f"{len(missing)} of {len(plan.ranges)} shards are missing: {spans(missing)}; run the parts again, "
                "which pass over what is there"
            )
        weights = None if plan.weights is None else as_path(plan.weights)
        write_view(store, dataset, changes, weights, plan.licence, plan.crops, plan.cosine)
    return Finished(changes.n_kept, changes.n_failed, len(changes.deleted), len(changes.todo))


def spans(numbers: Sequence[int], most: int = 10) -> str:
    """Numbers in few words: ``3, 7 to 12, 20``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in found]
    return ", ".join(words[:most]) + (" …" if len(words) > most else "")
