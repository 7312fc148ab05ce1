"""Images to expressions, in batches that form across requests.

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
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ferkit.classifiers.model import RECORD, Model, choose_model, inspect_model, read_model
from ferkit.core.console import n_cores
from ferkit.core.errors import FerkitError, ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.types import FaceDetector, Faces
from ferkit.core.weights import EDITIONS, bundled_folder
from ferkit.faces.cropping import cropping_as_trained
from ferkit.faces.detectors import face_quality
from ferkit.inference.engine import open_tracking_detector
from ferkit.serving.api import ApiError, describe_face, describe_labels, read_image
from ferkit.serving.monitoring import Metrics
from ferkit.serving.settings import ServeSettings

MAX_OPEN = 4
"""Models that a worker holds open; of more, the one used longest ago is closed."""

BROKEN_S = 120.0
"""A model that hung, or could not be opened, is not tried again for so long, unless its files change."""


@dataclass(frozen=True)
class ModelChoice:
    """A model that may be asked for.

    Attributes:
        name: of its folder.
        folder: where it lies.
        labels: its classes.
        stamp: tells it from what lay or will lie there at other times.
    """

    name: str
    folder: Path
    labels: LabelSet
    stamp: str


class ModelCatalog:
    """Knows the models of a server, and which of them are broken.

    Args:
        settings: which folder, which default.

    Raises:
        FerkitError: the default model is not there or damaged.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._models_dir = settings.models_dir
        self._default_folder = choose_model(settings.model, settings.models_dir).folder
        self.default = _as_text(self._default_folder.resolve().name)
        self._broken: dict[str, tuple[str, float]] = {}

    def describe(self) -> list[dict[str, Any]]:
        """Each model as the API tells of it; of a broken one the reason."""
        return [self._describe(name, folder) for name, folder in self._folders().items()]

    def get(self, name: str | None) -> ModelChoice:
        """The model called ``name``, or the default; reads files.

        Raises:
            ApiError: there is none (404), or it is broken (503).
        """
        # By the list, never by the path: a name comes from outside.
        name = name or self.default
        folder = self._folders().get(name)
        if folder is None:
            raise ApiError(404, "no_model", "No model has that name; GET /v1/models lists those there are.")
        found = self._look(folder)
        if isinstance(found, str):
            raise ApiError(503, "model_unusable", f"The model {name} is broken: {found}.")
        model, stamp, broken = found
        if broken is not None:
            raise ApiError(503, "model_unusable", broken, round(BROKEN_S))
        return ModelChoice(name, folder, model.labels, stamp)

    def mark_broken(self, choice: ModelChoice, reason: str) -> None:
        """Do not use a model for a while."""
        self._broken[choice.stamp] = (reason, time.monotonic() + BROKEN_S)

    def _folders(self) -> dict[str, Path]:
        trained = sorted(path.parent for path in self._models_dir.glob(f"[!.]*/{RECORD}"))
        folders = {_as_text(folder.name): folder for folder in (*map(bundled_folder, EDITIONS), *trained)}
        return folders | {self.default: self._default_folder}

    def _describe(self, name: str, folder: Path) -> dict[str, Any]:
        found = self._look(folder)
        if isinstance(found, str):
            nothing = {"kind": "unknown", "labels": [], "size_mb": 0.0, "licence": "unknown"}
            return {"name": name, **nothing, "broken": found}
        model, _, broken = found
        return {
            "name": name,
            "kind": model.kind,
            "labels": describe_labels(model.labels),
            "size_mb": round(sum((folder / file).stat().st_size for file in model.files) / 1e6, 1),
            "licence": model.record.licence,
            "broken": broken,
        }

    def _look(self, folder: Path) -> tuple[Model, str, str | None] | str:
        """A model, its stamp, and why it must not be used now, if so; the reason alone where it is none."""
        listed = inspect_model(folder)
        if listed.model is None:
            return _told(listed.problem, folder)
        status = [(folder / file).stat() for file in (RECORD, *listed.model.files)]
        stamp = f"{folder.resolve()} {[(s.st_size, s.st_mtime_ns, s.st_ino) for s in status]}"
        reason, until_s = self._broken.get(stamp, (None, 0.0))
        return listed.model, stamp, reason if time.monotonic() < until_s else None


class OpenModel:
    """A model in a worker, tried once.

    Args:
        choice: which.
        settings: how faces are found.
    """

    def __init__(self, choice: ModelChoice, settings: ServeSettings) -> None:
        self.model = read_model(choice.folder, threads=1)
        self.labels = choice.labels
        self.faces = cropping_as_trained(self.model.crops, settings.detector, settings.detector_weights)
        self.cropper = self.faces.cropper(self.model)
        width, height = self.model.input_size_wh
        self.model.classifier.predict_proba(np.zeros((1, height, width, 3), np.uint8))
        self.detector: FaceDetector = open_tracking_detector(self.faces)


class OpenModels:
    """The models that a worker holds open, and what it keeps for streams.

    Args:
        settings: the server's.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._open: OrderedDict[str, OpenModel] = OrderedDict()
        self.streams: dict[int, Any] = {}

    def get(self, choice: ModelChoice) -> OpenModel:
        """The model, opened now if need be.

        Raises:
            ApiError: it cannot be opened (503).
        """
        if choice.stamp not in self._open:
            try:
                self._open[choice.stamp] = OpenModel(choice, self._settings)
            except ApiError:
                raise
            except Exception as error:  # a foreign file fails in as many ways as there are
                what = str(error) if isinstance(error, FerkitError) else f"{type(error).__name__}: {error}"
                reason = f"The model {choice.name} cannot be opened: {_told(what, choice.folder)}."
                raise ApiError(503, "model_unusable", reason) from error
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)  # a stream that uses it still has it
        self._open.move_to_end(choice.stamp)
        return self._open[choice.stamp]


def _told(error: object, folder: Path) -> str:
    """A reason without where the model lies, which is nobody's business."""
    text = str(error).replace(str(folder.resolve()), folder.name).replace(str(folder), folder.name)
    return _as_text(text)[:500].rstrip(".")


def _as_text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


WORK_S = 20.0
"""A worker that takes more processor time for an image, a frame or a batch is ended."""

OPEN_S = 40.0
"""More, if it has to open the model first."""

PATIENCE = 5
"""A worker that is not done after so many times as long by the clock is ended too: it waits for something, or where
processor time cannot be limited. A busy machine makes good models slow, but hardly so slow."""

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

    def exchange(
        self, function: Callable[..., Any], choice: ModelChoice, args: tuple[Any, ...], limit_s: float
    ) -> Any:
        """What ``function(open_models, choice, *args)`` gives in the process within ``limit_s`` of processor time;
        called in a thread."""
        self.timed_out = False
        forgotten, self.forgotten = self.forgotten, []
        if self._process is None:
            self._start()
        try:
            self._pipe.send((function, choice, args, forgotten, limit_s))
            kind, value = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._drop()
            raise _LostError from None
        if kind == "refused":
            raise ApiError(*value)
        if kind == "fault":
            raise WorkerFaultError(value)
        self.opened.add(choice.stamp)
        return value

    def end(self, timed_out: bool = False) -> None:
        """End the process, even in the middle of its work; the next exchange starts another."""
        self.timed_out = timed_out
        if self._process is not None:
            with contextlib.suppress(ValueError):  # closed meanwhile
                self._process.kill()

    def _start(self) -> None:
        here, there = _CONTEXT.Pipe()
        process = _CONTEXT.Process(
            target=_work, args=(there, self._settings), name="ferkit-worker", daemon=True
        )
        if hasattr(signal, "pthread_sigmask"):  # of this thread: Ctrl-C is the server's, also while it starts
            resource_tracker.ensure_running()  # would allow it again
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process.start()
        there.close()
        self._process, self._pipe = process, here

    def _drop(self) -> None:
        self.opened.clear()
        self._process.kill()
        self._process.join()
        self.timed_out |= self._process.exitcode == -getattr(signal, "SIGPROF", -1)
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
        self.n = settings.processes or min(n_cores(), MOST)
        self.all = [Worker(settings) for _ in range(self.n)]
        self._catalog = catalog
        self._pool = ThreadPoolExecutor(self.n, thread_name_prefix="ferkit-worker")
        atexit.register(self.close)  # before Python waits for all processes, whose end is ours to bring about

    def warm_up(self, choice: ModelChoice) -> None:
        """Start all of them, and let each open a model.

        Raises:
            FerkitError: it cannot be opened.
        """
        limit_s = WORK_S + OPEN_S
        starting = [self._pool.submit(worker.exchange, _nothing, choice, (), limit_s) for worker in self.all]
        try:
            for future in starting:
                future.result(PATIENCE * limit_s)
        except ApiError as refused:
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
            ApiError: the image cannot be read, or the model not be used.
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
        watch = loop.call_later(PATIENCE * limit_s, worker.end, True)

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
            future = self._pool.submit(worker.exchange, function, choice, args, limit_s)
        except BaseException:
            free()
            raise
        # When the worker is done, not when nobody waits for it any more: only then is it free.
        future.add_done_callback(done)
        try:
            return await asyncio.wrap_future(future)
        except _LostError:
            raise self._blame(choice, limit_s, worker.timed_out, by_image and is_open) from None
        except ApiError as refused:
            if refused.code == "model_unusable":
                self._catalog.mark_broken(choice, refused.message)
            raise

    def _blame(self, choice: ModelChoice, limit_s: float, timed_out: bool, by_image: bool) -> ApiError:
        if not timed_out:
            return ApiError(500, "reader_lost", "What reads images broke down on this; try another image.")
        if by_image:
            return ApiError(422, "damaged", f"The image could not be read within {limit_s:g} s.")
        reason = f"The model {choice.name} took longer than {limit_s:g} s and was ended."
        self._catalog.mark_broken(choice, reason)
        return ApiError(503, "model_stuck", reason)

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
    with contextlib.suppress(EOFError, OSError):  # the server is gone
        while True:
            function, choice, args, forgotten, limit_s = pipe.recv()
            if hasattr(signal, "setitimer"):  # what loops for ever in C listens to nobody, but this ends it
                signal.setitimer(signal.ITIMER_PROF, limit_s)
            try:
                answer = ("done", function(models, choice, *args))
            except ApiError as refused:
                answer = ("refused", (refused.status, refused.code, refused.message, refused.retry_after_s))
            except ModelError as error:  # what it gives are no probabilities
                answer = ("refused", (500, "bad_model", f"{error}.", None))
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


BATCH = 32

_Asked: TypeAlias = "list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]"


@dataclass(frozen=True)
class Upload:
    """An image as it came.

    Attributes:
        name: of the file, as the client calls it.
        content: the file's bytes.
    """

    name: str
    content: bytes


@dataclass(frozen=True)
class FaceCrops:
    """The faces of an image, cut out by a worker."""

    size_wh: tuple[int, int]
    xyxy: np.ndarray
    crops: np.ndarray
    quality: np.ndarray


class Predictor:
    """Reads images.

    Args:
        workers: decode, crop and classify.
        metrics: are told the sizes of batches.
        max_waiting: requests at a time; more are refused.
    """

    def __init__(self, workers: Workers, metrics: Metrics, max_waiting: int) -> None:
        self._workers, self._metrics, self._max_waiting = workers, metrics, max_waiting
        self._batchers: dict[str, _Batcher] = {}
        self.n_waiting = 0

    @contextlib.contextmanager
    def place(self) -> Any:
        """A place among the requests that wait, for as long as the block lasts; taken before a body is read.

        Raises:
            ApiError: there is none (503).
        """
        if self.n_waiting >= self._max_waiting:
            raise ApiError(
                503, "busy", "Too many images are waiting; try again in a moment.", retry_after_s=1
            )
        self.n_waiting += 1
        try:
            yield
        finally:
            self.n_waiting -= 1

    async def predict(
        self, choice: ModelChoice, uploads: Sequence[Upload], max_pixels: int
    ) -> list[dict[str, Any]]:
        """What is in each image, as the API says it.

        Raises:
            ApiError: no image could be read, for the first one's reason; or the model cannot be used.
        """
        found = await asyncio.gather(*(self._one(choice, u, max_pixels) for u in uploads))
        refused = [refusal for _, refusal in found if refusal is not None]
        if refused and len(refused) == len(found):
            raise refused[0]
        return [entry for entry, _ in found]

    async def _one(
        self, choice: ModelChoice, upload: Upload, max_pixels: int
    ) -> tuple[dict[str, Any], ApiError | None]:
        entry: dict[str, Any] = {
            "name": upload.name,
            "width": None,
            "height": None,
            "faces": [],
            "error": None,
        }
        try:
            found: FaceCrops = await self._workers.run(
                cut_faces, choice, upload.content, max_pixels, by_image=True
            )
        except ApiError as refusal:
            return {**entry, "error": refusal.message}, refusal
        entry["width"], entry["height"] = found.size_wh
        if len(found.crops):
            proba = await self._classify(choice, found.crops)
            entry["faces"] = [
                describe_face(choice.labels.names, *face)
                for face in zip(found.xyxy, found.quality, proba, strict=True)
            ]
        return entry, None

    async def _classify(self, choice: ModelChoice, crops: np.ndarray) -> np.ndarray:
        batcher = self._batchers.get(choice.name)
        if batcher is None or batcher.choice != choice:
            batcher = self._batchers[choice.name] = _Batcher(choice, self._workers, self._metrics)
        return await batcher.classify(crops)


@dataclass
class _Batcher:
    """Crops that come while all workers are busy make the next batch."""

    choice: ModelChoice
    workers: Workers
    metrics: Metrics
    _waiting: _Asked = field(default_factory=list)
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)

    async def classify(self, crops: np.ndarray) -> np.ndarray:
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((crops, future))
        if len(self._tasks) < self.workers.n:
            self._tasks.add(asyncio.create_task(self._work()))
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._work_once()
        finally:  # in the same step in which nothing was waiting: who comes next starts another
            self._tasks.discard(asyncio.current_task())

    async def _work_once(self) -> None:
        batch: _Asked = []
        try:
            proba = await self.workers.run(classify_crops, self.choice, take=partial(self._take, batch))
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        first = 0
        for crops, future in batch:
            if not future.done():  # whoever asked may have gone
                future.set_result(proba[first : first + len(crops)])
            first += len(crops)

    def _take(self, batch: _Asked) -> np.ndarray | None:
        """Move what fits into one batch there; its crops as one array, None if others took all."""
        n = 0
        while self._waiting and (not batch or n + len(self._waiting[0][0]) <= BATCH):
            batch.append(self._waiting.pop(0))
            n += len(batch[-1][0])
        if not batch:
            return None
        self.metrics.batch.observe(n)
        return np.concatenate([crops for crops, _ in batch])


def cut_faces(models: OpenModels, choice: ModelChoice, content: bytes, max_pixels: int) -> FaceCrops:
    """The faces of an image; in a worker. Raises ApiError."""
    rgb = read_image(content, max_pixels)
    found = models.get(choice).cropper.cut(rgb)
    faces = Faces(found.xyxy, np.ones(len(found.xyxy), np.float32))
    quality = face_quality(found.rgb, faces)
    return FaceCrops((rgb.shape[1], rgb.shape[0]), found.xyxy, found.rgb, quality)


def classify_crops(models: OpenModels, choice: ModelChoice, crops: np.ndarray) -> np.ndarray:
    """Probabilities float32 (n, k) of crops; in a worker. Raises ApiError."""
    return models.get(choice).model.predict_proba(crops)
