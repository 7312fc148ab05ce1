"""The threads that read pictures: as many as there are cores, and a queue in which the first come first."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Taken = TypeVar("Taken")
Result = TypeVar("Result")


class Workers:
    """Runs work in threads, so that the event loop stays free.

    Args:
        n: threads; None for one a core.
    """

    def __init__(self, n: int | None = None) -> None:
        self.n = n or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self.n, thread_name_prefix="ferkit")
        self._free = asyncio.Semaphore(self.n)

    async def run(self, work: Callable[[], Result]) -> Result:
        """What ``work`` gives."""
        return await self.run_latest(lambda: None, lambda _: work())

    async def run_latest(self, take: Callable[[], Taken], work: Callable[[Taken], Result]) -> Result:
        """What ``work`` gives for what ``take`` gives at the moment when a thread is free, in the event loop.

        So work that waited long is done on what is newest by then.
        """
        await self._free.acquire()
        try:
            future = self._pool.submit(work, take())
        except BaseException:
            self._free.release()
            raise
        loop = asyncio.get_running_loop()

        def done(_: "Future[Result]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._free.release)

        # When the thread is done, not when nobody waits for it any more: only then is it free.
        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Drop what has not begun, and wait for the rest, which is short."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
