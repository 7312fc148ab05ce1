"""Show progress and tables on a terminal, and run work ahead by threads."""

import contextlib
import functools
import logging
import math
import os
import sys
import tempfile
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ferkit.core.errors import printable
from ferkit.core.texts import translated

if TYPE_CHECKING:
    from tqdm import tqdm


logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0
_hidden: ContextVar[bool] = ContextVar("progress_hidden", default=False)


@contextlib.contextmanager
def progress(doing: str, total: int, *, done: int = 0, unit: str = "images") -> Iterator["Progress"]:
    """Show how far a piece of work is while the block runs; call ``update`` on what it gives.

    Args:
        doing: what is being done, in a word or two.
        total: how many there are.
        done: how many of them were there before.
        unit: what is counted.
    """
    with contextlib.closing(Progress(doing, total, done, unit, quiet=_hidden.get())) as shown:
        yield shown


@contextlib.contextmanager
def hidden_progress() -> Iterator[None]:
    """Show no progress within the block: for ``--quiet``, servers and work inside other work."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


class Progress:
    """Shows how far, how fast, how long still, and how many failed, on a terminal's standard error or by logging.

    Args:
        doing, total, done, unit: see :func:`progress`.
        quiet: show nothing.
    """

    def __init__(self, doing: str, total: int, done: int, unit: str, quiet: bool) -> None:
        self._doing, self._unit, self._quiet = doing, unit, quiet
        self._bar: tqdm | None = None
        self._done = self._first = done
        self._total, self._failures = total, 0
        self._began = self._last_line = time.monotonic()
        if not quiet and sys.stderr.isatty():
            import tqdm as bars

            self._bar = bars.tqdm(
                total=total, initial=done, desc=translated(doing), unit=f" {translated(unit)}", smoothing=0.1
            )

    def update(self, n: int, failures: int = 0) -> None:
        """Count ``n`` more, ``failures`` of which failed."""
        self._done += n
        self._failures += failures
        if self._bar is not None:
            if failures:
                self._bar.set_postfix_str(translated(f"{self._failures} failed"), refresh=False)
            self._bar.update(n)
        elif not self._quiet and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._print_line()

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print_line(self) -> None:
        from tqdm import tqdm

        self._last_line = time.monotonic()
        rate = (self._done - self._first) / (self._last_line - self._began)
        left = (self._total - self._done) / rate if rate > 0 else 0.0
        failed = f", {self._failures} failed" if self._failures else ""
        if self._total < self._done:  # not known, or less than there are
            logger.info(f"{self._doing}: {self._done} {self._unit}, {rate:.0f}/s{failed}")
            return
        share = self._done / max(1, self._total)
        logger.info(
            f"{self._doing}: {self._done}/{self._total} {self._unit} ({share:.0%}), {rate:.0f}/s, "
            f"{tqdm.format_interval(left)} left{failed}"
        )


@contextlib.contextmanager
def native_output_to_log(name: str) -> Iterator[None]:
    """What libraries write to the process's standard output and error within the block goes to the log file alone."""
    with tempfile.TemporaryFile() as noise, contextlib.ExitStack() as restore:
        for stream in (1, 2):
            with contextlib.suppress(OSError):  # there is none: a service, a notebook
                real = os.dup(stream)
                restore.callback(os.close, real)
                restore.callback(os.dup2, real, stream)
                os.dup2(noise.fileno(), stream)
        try:
            yield
        finally:
            restore.close()
            noise.seek(0)
            for line in noise.read().decode(errors="replace").splitlines():
                logger.info("%s: %s", name, line, extra={"log_only": True})


Item = TypeVar("Item")
Result = TypeVar("Result")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of some names in a sentence, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@functools.cache
def n_cores() -> int:
    """How many processor cores this process may use: those of the machine, as far as affinity and cgroup allow."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(n, _cgroup_limit("cpu", _quota))))


def free_memory() -> float:
    """Bytes of memory that are free for this process: those of the machine, as far as cgroup allows."""
    free = _cgroup_limit("memory", _room)
    with contextlib.suppress(OSError, ValueError, StopIteration):  # Linux; elsewhere there is no such file
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:")).split()[1]
        free = min(free, 1024.0 * int(available))
    if free == math.inf:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2 if hasattr(os, "sysconf") else 8e9
    return max(free, 0.0)


def _cgroup_limit(
    controller: str,
    limit_of: Callable[[Path], float],
    mount: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> float:
    """The least that the control groups of this process, and those around them, allow; of version 2, then 1."""
    limits = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            group = (mount / controller if controllers else mount) / path.lstrip("/")
            limits += map(limit_of, (group, *group.parents))
    return min(limits)


def _quota(folder: Path) -> float:
    """Cores that a control group may use."""
    with contextlib.suppress(OSError, ValueError):  # no such file, or it says "max"
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf


def _room(folder: Path) -> float:
    """Bytes that a control group has free; pages of files that were read are given back when they are needed."""
    for limit, used, file_pages in (
        ("memory.max", "memory.current", "inactive_file "),  # of version 2
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        with contextlib.suppress(OSError, ValueError):
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
            return free + sum(int(line.split()[1]) for line in lines if line.startswith(file_pages))
    return math.inf


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    ahead: int | None = None,
) -> Generator[Result, None, None]:
    """``map(work, items)`` by ``workers`` threads, with at most ``ahead`` results waiting: that bounds the memory.

    None is one thread for each core that may be used, and 16 results a thread. When the iterator is closed or an
    interrupt comes, what has not begun is dropped.
    """
    workers = workers or n_cores()
    ahead = ahead or 16 * workers
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class StageTimes:
    """Adds up, from any thread, the seconds that stages of work take.

    Attributes:
        seconds: by stage, in the order in which they first ended; of threads, so that they may exceed the clock's.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - started
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + taken


def width(text: str) -> int:
    """Columns that a terminal gives to ``text``."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text if not unicodedata.combining(c))


@functools.lru_cache(1024)
def shortened(text: str, columns: int) -> str:
    """``text`` in at most so many columns, without its middle: names that begin alike often end differently."""
    left = right = len(text) // 2
    while width(kept := text if left == right else text[:left] + "…" + text[right:]) > max(columns, 1):
        left, right = (left - 1, right) if left > len(text) - right else (left, right + 1)
    return kept


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns under a header, in the language that is spoken; the columns numbered in ``right`` end flush.

    >>> print(table(["class", "n"], [["happy", "12"], ["슬픔", "7"]], right=[1]))
    class   n
    happy  12
    슬픔    7
    """
    header = [translated(name) for name in header]
    rows = [[printable(cell, lines=False) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = []
        for i, cell in enumerate(row):
            space = " " * (widths[i] - width(cell))
            cells.append(space + cell if i in right else cell + space)
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in (header, *rows))
