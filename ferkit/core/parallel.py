"""Work done ahead by threads, in order and within bounds."""

import contextlib
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@functools.cache
def n_cores() -> int:
    """How many processor cores this process may use: those of the machine, as far as affinity and cgroup allow."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(
        OSError, ValueError
    ):  # cgroup v2; elsewhere there is no such file, or it says "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        n = min(n, math.ceil(int(quota) / int(period)))
    return max(n, 1)


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """``map(work, items)`` by ``workers`` threads, with at most ``ahead`` results waiting: that bounds the memory.

    When the iterator is closed or an interrupt comes, what has not begun is dropped.
    """
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
