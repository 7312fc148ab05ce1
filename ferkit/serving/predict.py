"""Images to expressions, in batches that form across requests."""

import asyncio
import contextlib
import io
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from ferkit.classifiers.model import ListedModel, Model, choose_model, list_models, read_model
from ferkit.core.errors import FerkitError, ImageError
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier, Faces
from ferkit.datasets.images import decode_image
from ferkit.faces.cropping import Cropping, DetectorPerThread, FaceCropper, cropping_as_trained
from ferkit.faces.drawing import label_colors
from ferkit.faces.quality import face_quality
from ferkit.inference.engine import open_tracking_detector
from ferkit.serving.api import ApiError
from ferkit.serving.monitoring import Metrics
from ferkit.serving.settings import ServeSettings

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


MAX_OPEN = 4
"""Models that are held open; of more, the one used longest ago is closed."""


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model ready for use by many threads.

    Attributes:
        model: reads crops.
        faces: how faces are found for it.
        cropper: cuts faces out of images.
        detector: for streams; tells of doubtful faces too.
    """

    model: Model
    faces: Cropping
    cropper: FaceCropper
    detector: DetectorPerThread

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def labels(self) -> LabelSet:
        return self.model.labels


class ModelCache:
    """Gives models by name.

    Args:
        settings: which folder, which default, which detector.
        workers: open models.

    Raises:
        FerkitError: the default model cannot be opened.
    """

    def __init__(self, settings: ServeSettings, workers: Workers) -> None:
        self._settings, self._workers = settings, workers
        self._default_folder = choose_model(settings.model, settings.models_dir).folder
        self.default = self._default_folder.resolve().name
        default = self._open_folder(self._default_folder)
        self._open: OrderedDict[str, OpenModel] = OrderedDict({self.default: default})
        self._opening = asyncio.Lock()

    def describe(self) -> list[dict[str, Any]]:
        """Each model as the API tells of it."""
        return [
            {
                "name": name,
                "kind": model.kind,
                "labels": describe_labels(model.labels),
                "size_mb": round(sum(model.file(file).stat().st_size for file in model.files) / 1e6, 1),
                "licence": model.record.licence,
            }
            for name, model in ((name, entry.model) for name, entry in self._known().items())
            if model is not None
        ]

    async def get(self, name: str | None) -> OpenModel:
        """The model called ``name``, or the default.

        Raises:
            Refused: there is none (404), or it cannot be opened (503).
        """
        name = name or self.default
        if name not in self._open:
            async with self._opening:
                if name not in self._open:
                    self._open[name] = await self._workers.run(lambda: self._load(name))
                    if len(self._open) > MAX_OPEN:
                        self._open.popitem(last=False)  # whoever uses it still has it
        self._open.move_to_end(name)
        return self._open[name]

    def close(self) -> None:
        """End detectors that run in processes of their own."""
        for model in self._open.values():
            model.detector.close()
        self._open.clear()

    def _known(self) -> dict[str, ListedModel]:
        listed = list_models(self._settings.models_dir) + list_models(self._default_folder.parent)
        default = [entry for entry in listed if entry.name == self.default]
        return {entry.name: entry for entry in (*list_models(self._settings.models_dir), *default)}

    def _load(self, name: str) -> OpenModel:
        # By the list, never by the path: a name comes from outside.
        entry = self._known().get(name)
        if entry is None:
            raise ApiError(404, "no_model", "No model has that name; GET /v1/models lists those there are.")
        try:
            return self._open_folder(entry.folder)
        except FerkitError as error:
            reason = str(error).replace(str(entry.folder), name)  # where it lies is nobody's business
            raise ApiError(503, "model_unusable", f"The model {name} cannot be opened: {reason}") from error

    def _open_folder(self, folder: Path) -> OpenModel:
        model = read_model(folder, threads=1)
        faces = cropping_as_trained(model.crops, self._settings.detector, self._settings.detector_weights)
        detector = DetectorPerThread(faces.settings.detector, lambda: open_tracking_detector(faces))
        return OpenModel(model, faces, faces.cropper(model), detector)


def describe_labels(labels: LabelSet) -> list[dict[str, str]]:
    """The classes with their names for people and their colours."""
    return [
        {"name": name, "en": en, "ko": ko, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for name, en, ko, color in zip(
            labels.names, labels.display("en"), labels.display("ko"), label_colors(labels), strict=True
        )
    ]


KINDS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}

MAX_SCANS = 100
"""A progressive JPEG repeats the work on all its pixels with each scan; encoders write about ten."""


def image_kind(content: bytes) -> str | None:
    """What the first bytes say that it is; None for anything that is not taken."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for start, kind in KINDS.items() if content.startswith(start)), None)


def read_image(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode an image, uint8 RGB (H, W, 3).

    Raises:
        Refused: no image of a known kind (415), too many pixels (413), or damaged (422).
    """
    kind = image_kind(content)
    if kind is None:
        raise ApiError(415, "unknown_kind", "Expected a JPEG, PNG, WebP, GIF or BMP image.")
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise ApiError(413, "too_many_pixels", _too_many(max_pixels)) from None
    except Exception:  # Pillow's readers raise whatever a damaged file leads them into
        raise ApiError(422, "damaged", "The image is damaged: its header cannot be read.") from None
    if width * height > max_pixels:
        raise ApiError(413, "too_many_pixels", f"{width}x{height} pixels: {_too_many(max_pixels)}")
    if kind == "JPEG" and content.count(b"\xff\xda") > MAX_SCANS:
        raise ApiError(422, "damaged", "The image is damaged: a JPEG of more than a hundred scans.")
    try:
        return decode_image(content)
    except ImageError as error:
        raise ApiError(422, "damaged", f"The image cannot be read: {error}.") from None


def _too_many(max_pixels: int) -> str:
    return f"at most {max_pixels / 1e6:.3g} million pixels are taken; send a smaller image."


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
class _Cut:
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
        self._batchers: WeakKeyDictionary[OpenModel, _Batcher] = WeakKeyDictionary()
        self.n_waiting = 0

    @contextlib.contextmanager
    def place(self) -> Any:
        """A place among the requests that wait, for as long as the block lasts; taken before a body is read.

        Raises:
            Refused: there is none (503).
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
        self, model: OpenModel, uploads: Sequence[Upload], max_pixels: int
    ) -> list[dict[str, Any]]:
        """What is in each image, as the API says it.

        Raises:
            Refused: no image could be read; for the first one's reason.
        """
        found = await asyncio.gather(*(self._one(model, u, max_pixels) for u in uploads))
        refused = [refusal for _, refusal in found if refusal is not None]
        if refused and len(refused) == len(found):
            raise refused[0]
        return [entry for entry, _ in found]

    async def _one(
        self, model: OpenModel, upload: Upload, max_pixels: int
    ) -> tuple[dict[str, Any], ApiError | None]:
        entry: dict[str, Any] = {
            "name": upload.name,
            "width": None,
            "height": None,
            "faces": [],
            "error": None,
        }
        try:
            cut = await self._workers.run(lambda: _cut(model, upload.content, max_pixels))
        except ApiError as refusal:
            return {**entry, "error": refusal.message}, refusal
        entry["width"], entry["height"] = cut.size_wh
        if len(cut.crops):
            proba = await self._batcher(model).classify(cut.crops)
            entry["faces"] = [
                describe_face(model.labels.names, *face)
                for face in zip(cut.xyxy, cut.quality, proba, strict=True)
            ]
        return entry, None

    def _batcher(self, model: OpenModel) -> "_Batcher":
        if model not in self._batchers:
            self._batchers[model] = _Batcher(model.model, self._workers, self._metrics)
        return self._batchers[model]


@dataclass
class _Batcher:
    """Crops that come while a batch is worked on make the next batch."""

    classifier: ExpressionClassifier
    workers: Workers
    metrics: Metrics
    _waiting: _Asked = field(default_factory=list)
    _task: "asyncio.Task[None] | None" = None

    async def classify(self, crops: np.ndarray) -> np.ndarray:
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((crops, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch: _Asked = []
            try:
                proba = await self.workers.run_latest(partial(self._take, batch), self._classify)
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            first = 0
            for crops, future in batch:
                if not future.done():  # whoever asked may have gone
                    future.set_result(proba[first : first + len(crops)])
                first += len(crops)

    def _take(self, batch: _Asked) -> np.ndarray:
        """Move what fits into one batch there; its crops as one array."""
        n = 0
        while self._waiting and (not batch or n + len(self._waiting[0][0]) <= BATCH):
            batch.append(self._waiting.pop(0))
            n += len(batch[-1][0])
        self.metrics.batch.observe(n)
        return np.concatenate([crops for crops, _ in batch])

    def _classify(self, crops: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(crops)


def describe_face(names: Sequence[str], box: np.ndarray, quality: float, proba: np.ndarray) -> dict[str, Any]:
    """A face as the API says it."""
    best = int(proba.argmax())
    return {
        "box": [round(float(value), 1) for value in box],
        "confidence": round(float(proba[best]), 4),
        "quality": round(float(quality), 3),
        "label": names[best],
        "probabilities": {name: round(float(p), 4) for name, p in zip(names, proba, strict=True)},
    }


def _cut(model: OpenModel, content: bytes, max_pixels: int) -> _Cut:
    rgb = read_image(content, max_pixels)
    found = model.cropper.cut(rgb)
    faces = Faces(found.xyxy, np.ones(len(found.xyxy), np.float32))
    return _Cut((rgb.shape[1], rgb.shape[0]), found.xyxy, found.rgb, face_quality(found.rgb, faces))
