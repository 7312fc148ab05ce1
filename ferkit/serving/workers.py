"""The processes that read images: what a hostile file or a stuck model breaks is one of them, and nothing else.

The server itself has all limits, streams and jobs; its workers only compute. So nothing has to be shared between
them, and one that hangs or breaks down is ended and started again.
"""

import asyncio
import atexit
import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection
from typing import Any

from ferkit.core.errors import FerkitError
from ferkit.serving.errors import Refused
from ferkit.serving.settings import ServeSettings
from ferkit.serving.shelf import ModelCatalog, ModelChoice, OpenModels

WORK_S = 20.0
"""A worker that takes longer for an image, a frame or a batch is ended."""

OPEN_S = 40.0
"""Longer, if it has to open the model first."""

MOST = 8
"""Workers, unless more are asked for."""


class WorkerFaultError(Exception):
    """What went wrong in a worker, with its traceback."""


class _LostError(Exception):
    """The worker is gone: it broke down, or was ended."""


class Worker:
    """One process, and the turn to use it."""

    def __init__(self, settings: ServeSettings) -> None:
        self.lock = asyncio.Lock()
        self.n_waiting = self.n_streams = 0
        self.forgotten: list[int] = []
        self.timed_out = False
        self.opened: set[str] = set()
        self._settings = settings
        self._process: Any = None
        self._pipe: Any = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def exchange(self, function: Callable[..., Any], choice: ModelChoice, args: tuple[Any, ...]) -> Any:
        """What ``function(open_models, choice, *args)`` gives in the process; called in a thread."""
        self.timed_out = False
        forgotten, self.forgotten = self.forgotten, []
        if self._process is None:
            self._start()
        try:
            self._pipe.send((function, choice, args, forgotten))
            kind, value = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._drop()
            raise _LostError from None
        if kind == "refused":
            raise Refused(*value)
        if kind == "fault":
            raise WorkerFaultError(value)
        self.opened.add(choice.stamp)
        return value

    def end(self, timed_out: bool = False) -> None:
        """End the process, whatever it is doing; the next exchange starts another."""
        self.timed_out = timed_out
        if self._process is not None:
            with contextlib.suppress(ValueError):  # closed meanwhile
                self._process.kill()

    def _start(self) -> None:
        here, there = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_work, args=(there, self._settings), name="ferkit-worker", daemon=True
        )
        self._process.start()
        there.close()
        self._pipe = here

    def _drop(self) -> None:
        self.opened.clear()
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()
        self._process = self._pipe = None


class Workers:
    """All workers of a server.

    Args:
        settings: how many there are, and what they need to open models.
        catalog: told which models hang or break their worker.
    """

    def __init__(self, settings: ServeSettings, catalog: ModelCatalog) -> None:
        self.n = settings.processes or min(os.cpu_count() or 1, MOST)
        self.all = [Worker(settings) for _ in range(self.n)]
        self._catalog = catalog
        self._pool = ThreadPoolExecutor(self.n, thread_name_prefix="ferkit-worker")
        atexit.register(self.close)  # before Python waits for all processes, whose end is ours to bring about

    def warm_up(self, choice: ModelChoice) -> None:
        """Start all of them, and let each open a model.

        Raises:
            FerkitError: it cannot be opened.
        """
        starting = [self._pool.submit(worker.exchange, _nothing, choice, ()) for worker in self.all]
        try:
            for future in starting:
                future.result(WORK_S + OPEN_S)
        except Refused as refused:
            raise FerkitError(refused.message) from None
        except (_LostError, TimeoutError, WorkerFaultError) as error:
            raise FerkitError(f"the model {choice.name} breaks its reader down or hangs {error}") from None
        finally:
            if not all(future.done() for future in starting):
                self.close()

    def for_stream(self) -> Worker:
        """The worker that has the fewest streams; count the stream in its ``n_streams``."""
        return min(self.all, key=lambda worker: worker.n_streams)

    async def run(
        self,
        function: Callable[..., Any],
        choice: ModelChoice,
        *args: Any,
        take: Callable[[], Any] | None = None,
        worker: Worker | None = None,
        by_image: bool = False,
    ) -> Any:
        """What ``function(open_models, choice, *args)`` gives in a worker.

        Args:
            function: of a module, so that the worker finds it.
            choice: the model.
            args: what it gets.
            take: called in the event loop when the worker is free, gives one more argument: so work that waited
                long is done on what is newest by then. If it gives None, nothing is done, and None is given.
            worker: which one; None for the one that has least to do.
            by_image: whether it is the image's fault, not the model's, if it takes too long.

        Raises:
            Refused: the image cannot be read, or the model not be used.
            WorkerFaultError: a fault of our own.
        """
        worker = worker or min(self.all, key=lambda each: each.n_waiting)
        worker.n_waiting += 1
        try:
            await worker.lock.acquire()
        except BaseException:
            worker.n_waiting -= 1
            raise
        loop = asyncio.get_running_loop()
        is_open = choice.stamp in worker.opened
        limit_s = WORK_S if is_open else WORK_S + OPEN_S
        watch = loop.call_later(limit_s, worker.end, True)

        def free() -> None:
            watch.cancel()
            worker.lock.release()
            worker.n_waiting -= 1

        def done(_: "Future[Any]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(free)

        try:
            if take is not None:
                taken = take()
                if taken is None:
                    free()
                    return None
                args = (*args, taken)
            future = self._pool.submit(worker.exchange, function, choice, args)
        except BaseException:
            free()
            raise
        # When the worker is done, not when nobody waits for it any more: only then is it free.
        future.add_done_callback(done)
        try:
            return await asyncio.wrap_future(future)
        except _LostError:
            raise self._blame(choice, limit_s, worker.timed_out, by_image and is_open) from None
        except Refused as refused:
            if refused.code == "model_unusable":
                self._catalog.mark_broken(choice, refused.message)
            raise

    def _blame(self, choice: ModelChoice, limit_s: float, timed_out: bool, by_image: bool) -> Refused:
        if not timed_out:
            return Refused(500, "reader_lost", "What reads images broke down on this; try another image.")
        if by_image:
            return Refused(422, "damaged", f"The image could not be read within {limit_s:g} s.")
        reason = f"The model {choice.name} took longer than {limit_s:g} s and was ended."
        self._catalog.mark_broken(choice, reason)
        return Refused(503, "model_stuck", reason)

    def close(self) -> None:
        """End all of them at once, and what they are doing; may be called twice."""
        atexit.unregister(self.close)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self.all:
            worker.end()


_CONTEXT: Any = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
if hasattr(_CONTEXT, "set_forkserver_preload"):
    _CONTEXT.set_forkserver_preload([__name__])

new_id = itertools.count(1).__next__
"""Numbers for what workers keep for a stream."""


def _nothing(models: OpenModels, choice: ModelChoice) -> None:
    models.get(choice)


def _work(pipe: Any, settings: ServeSettings) -> None:
    """What a worker does until it is ended, or its server is gone."""
    import cv2

    for name in (signal.SIGINT, signal.SIGTERM):  # the server ends it when all is answered
        signal.signal(name, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # images are read side by side; threads within one would be in the way
    models = OpenModels(settings)
    while True:
        function, choice, args, forgotten = pipe.recv()
        try:
            answer = ("done", function(models, choice, *args))
        except Refused as refused:
            answer = ("refused", (refused.status, refused.code, refused.message, refused.retry_after_s))
        except Exception as error:
            answer = ("fault", "".join(traceback.format_exception(error)))
        for stream in forgotten:  # afterwards: one of them may have been opened just now, for nobody
            models.streams.pop(stream, None)
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(3)
