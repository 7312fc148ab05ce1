"""Make the shards of a plan on engines of others: a pool of processes, Ray or Dask.

Every engine runs one function, :func:`make_shard`, in workers that open the network once. What is common stands here
once: progress and failures come together, what died with its worker is tried again, and what is late is given to a
second worker, since two workers write the same bytes.
"""

import contextlib
import functools
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import Any

from ferkit.core.console import hidden_progress, n_cores, progress
from ferkit.core.errors import DataError, DependencyError, FerkitError, mask_credentials
from ferkit.embedder.extract import Done, ExtractionSummary, done_with
from ferkit.embedder.parts import Job, PartWorker, Planned, missing_shards

logger = logging.getLogger(__name__)

LATE_S = 20.0
"""A shard is late that takes so long, and three times as long as half of the others."""

_TRIES = 4


@dataclass(frozen=True)
class Cluster:
    """Where shards are made.

    Attributes:
        engine: ``processes``, ``ray`` or ``dask``.
        address: of a cluster that runs already; None starts one on this machine.
        n: workers on this machine; None for one a core.
    """

    engine: str
    address: str | None = None
    n: int | None = None


def parse_cluster(text: str) -> Cluster:
    """Read ``processes:4``, ``ray``, ``ray://HOST:10001``, ``ray://auto``, ``dask`` or ``dask://HOST:8786``.

    Raises:
        DataError: it is none of these.
    """
    match = re.fullmatch(r"(processes|ray|dask)(?::([1-9]\d*)|://(\S+))?", text.strip())
    if match is None or (match[1] == "processes" and match[3]):
        raise DataError(
            f"expected processes:N, ray, ray://ADDRESS, dask or dask://ADDRESS, found {mask_credentials(text)!r}"
        )
    return Cluster(match[1], match[3], int(match[2]) if match[2] else None)


@functools.lru_cache(maxsize=1)
def _worker(job: Job) -> PartWorker:
    return PartWorker(job)


def make_shard(job: Job, number: int, again: bool = False) -> Done:
    """Make one shard in a worker; a mistake that the user can mend comes back as :attr:`Done.error`."""
    try:
        with hidden_progress(), progress("embedding", 0) as shown:
            worker = _worker(job)
            made = list(worker.run([number], shown=shown, again=again))
            # It may be there already: a worker that died had written it, and could not say so any more.
            return made[0] if made else done_with(number, worker.store.shard(number).read_rows())
    except FerkitError as error:
        return Done(number, error=str(error))


class Workers(ABC):
    """A pool of workers of some engine; what is here is for those that work as executors do.

    Args:
        job: for the workers.
        threads: of each, where the job does not say so.
    """

    _pool: Any

    def __init__(self, job: Job, threads: int) -> None:
        self._job = replace(job, workers=job.workers or threads, threads=job.threads or threads)
        self._running: list[Future[Done]] = []

    @abstractmethod
    def idle(self) -> bool:
        """Whether another shard would be begun at once."""

    def n_running(self) -> int:
        """How many shards are being made."""
        self._running = [future for future in self._running if not future.done()]
        return len(self._running)

    def submit(self, number: int, again: bool) -> "Future[Done]":
        """Let a worker make a shard, see :func:`make_shard`."""
        future: Future[Done] = self._pool.submit(make_shard, self._job, number, again)
        self._running.append(future)
        return future

    def mend(self) -> None:  # noqa: B027 - two of three have nothing to do
        """Replace workers that died, where the engine does not do so itself as Ray and Dask do."""

    @abstractmethod
    def close(self) -> None:
        """End it, with what is still being done."""


class _Processes(Workers):
    def __init__(self, job: Job, cluster: Cluster) -> None:
        self._n = cluster.n or n_cores()
        super().__init__(job, max(1, n_cores() // self._n))
        self.mend()

    def idle(self) -> bool:
        return self.n_running() < self._n

    def mend(self) -> None:
        # Spawned, not forked: the threads of an open network do not survive a fork.
        self._pool = ProcessPoolExecutor(self._n, mp_context=get_context("spawn"))

    def close(self) -> None:
        late = list((self._pool._processes or {}).values()) if self.n_running() >= self._n else []
        self._pool.shutdown(wait=not late, cancel_futures=True)
        for process in late:  # a worker that hangs would keep this process from ending
            process.kill()


class _Ray(Workers):
    def __init__(self, job: Job, cluster: Cluster, accelerated: bool) -> None:
        threads = job.threads or 1
        super().__init__(job, threads)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with _installed("ray"):
            import ray
        self._ray = ray
        address = cluster.address
        if address is not None and address != "auto":
            address = f"ray://{address}"
        # What is started here listens to this machine alone.
        own: dict[str, Any] = {} if address else {
            "num_cpus": cluster.n or n_cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1",
        }  # fmt: skip
        self._began = not ray.is_initialized()
        if self._began:
            with _reached(cluster):
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        have = ray.cluster_resources()
        needs = {"num_gpus": 1} if accelerated else {"num_cpus": threads}
        n = int(have.get("GPU", 0) if accelerated else have.get("CPU", 0) // threads)
        if n < 1:
            raise DependencyError(f"expected a Ray cluster with what a worker needs ({needs}), found {have}")
        actor = ray.remote(max_restarts=-1, max_task_retries=-1, **needs)(_Actor)
        self._free = deque(actor.remote(self._job) for _ in range(n))
        self._all = list(self._free)

    def idle(self) -> bool:
        return bool(self._free)

    def submit(self, number: int, again: bool) -> "Future[Done]":
        actor = self._free.popleft()
        future: Future[Done] = actor.make.remote(number, again).future()
        future.add_done_callback(lambda _: self._free.append(actor))
        return future

    def close(self) -> None:
        for actor in self._all:
            self._ray.kill(actor)
        if self._began:
            self._ray.shutdown()


class _Actor:
    """A worker of Ray, which keeps its device and its open network."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def make(self, number: int, again: bool) -> Done:
        """See :func:`make_shard`."""
        return make_shard(self._job, number, again)


class _Dask(Workers):
    def __init__(self, job: Job, cluster: Cluster) -> None:
        super().__init__(job, job.threads or 1)
        with _installed("dask"):
            from distributed import Client, LocalCluster
        self._cluster = None
        with _reached(cluster):
            if cluster.address is None:
                n = cluster.n or n_cores()
                self._cluster = LocalCluster(n, threads_per_worker=1, dashboard_address=None)
            address = self._cluster or f"tcp://{cluster.address}"
            self._client = Client(address, timeout="30s")
        self._pool = self._client.get_executor(pure=False, retries=_TRIES)

    def idle(self) -> bool:
        return self.n_running() < max(1, sum(self._client.nthreads().values()))

    def close(self) -> None:
        self._pool.shutdown(wait=False)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


@contextlib.contextmanager
def _installed(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DependencyError(
            f"--on {package} needs {package} ({error}); pip install 'ferkit[{package}]'"
        ) from None


@contextlib.contextmanager
def _reached(cluster: Cluster) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        where = (
            mask_credentials(f"{cluster.engine}://{cluster.address}") if cluster.address else cluster.engine
        )
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FerkitError(
            f"{where} cannot be reached or started: {mask_credentials(first)}; check the address"
        ) from None


def run_on(cluster: Cluster, planned: Planned, job: Job) -> ExtractionSummary:
    """Make all shards of a plan that are not there.

    Args:
        cluster: where.
        planned: what is to be made.
        job: for the workers.

    Raises:
        DependencyError: the engine is not installed.
        FerkitError: a worker refuses, or a shard fails again and again.
    """
    images = {number: n for number, _, _, n in planned.plan.ranges}
    left = missing_shards(planned.store, images)
    summary = ExtractionSummary(n_kept=planned.n_kept)
    if not left:
        return summary
    started = time.monotonic()
    accelerated = planned.store.settings.embedder.engine not in ("onnxruntime", "openvino")
    pool: Workers
    if cluster.engine == "ray":
        pool = _Ray(job, cluster, accelerated)
    else:
        pool = _Dask(job, cluster) if cluster.engine == "dask" else _Processes(job, cluster)
    total = planned.n_kept + sum(images[number] for number in left)
    with contextlib.closing(pool), progress("embedding", total, done=planned.n_kept) as shown:
        for done in _drive(pool, left):
            summary.count(done)
            shown.update(done.n_rows, failures=len(done.failures))
    summary.seconds = time.monotonic() - started
    return summary


def _drive(pool: Workers, numbers: Sequence[int]) -> Iterator[Done]:
    """Let the pool make these shards, and give each once it is there."""
    waiting = deque((number, False) for number in numbers)
    running: dict[Future[Done], tuple[int, float]] = {}
    tries: Counter[int] = Counter()
    twice: set[int] = set()
    left, took = set(numbers), [LATE_S / 3]
    while left:
        while waiting and pool.idle():
            number, again = waiting.popleft()
            if number in left:
                running[pool.submit(number, again)] = number, time.monotonic()
        finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        broken = False
        for future in finished:
            number, began = running.pop(future)
            try:
                done = future.result()
            except Exception as error:  # every engine has its own words for a worker that died
                tries[number] += 1
                broken = True
                if tries[number] >= _TRIES:
                    raise FerkitError(
                        f"shard {number} failed {_TRIES} times, the last: {mask_credentials(str(error))}"
                    ) from error
                logger.info(f"the worker with shard {number} died ({type(error).__name__}); it is made again")
                waiting.append((number, False))
                continue
            if done.error is not None:
                raise FerkitError(done.error)
            if done.busy:  # by somebody else, who may be dead by now on another machine
                waiting.append((number, True))
            elif number in left:
                left.remove(number)
                took.append(time.monotonic() - began)
                yield done
        if broken:
            pool.mend()
        if not waiting and pool.idle():
            late = max(LATE_S, 3 * median(took))
            for number, began in sorted(running.values(), key=lambda one: one[1]):
                if number not in twice and time.monotonic() - began > late:
                    twice.add(number)
                    waiting.append((number, True))
                    break
