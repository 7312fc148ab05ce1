"""Pictures to expressions, in batches that form across requests."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ferkit.core.faces import Faces
from ferkit.faces.quality import face_quality
from ferkit.serving.errors import Refused
from ferkit.serving.metrics import Metrics
from ferkit.serving.pictures import read_picture
from ferkit.serving.shelf import ModelChoice, OpenModels
from ferkit.serving.workers import Workers

BATCH = 32

_Asked: TypeAlias = "list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]"


@dataclass(frozen=True)
class Upload:
    """A picture as it came.

    Attributes:
        name: of the file, as the client calls it.
        content: the file's bytes.
    """

    name: str
    content: bytes


@dataclass(frozen=True)
class FaceCrops:
    """The faces of a picture, cut out by a worker."""

    size_wh: tuple[int, int]
    xyxy: np.ndarray
    crops: np.ndarray
    quality: np.ndarray


class Predictor:
    """Reads pictures.

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
            Refused: there is none (503).
        """
        if self.n_waiting >= self._max_waiting:
            raise Refused(
                503, "busy", "Too many pictures are waiting; try again in a moment.", retry_after_s=1
            )
        self.n_waiting += 1
        try:
            yield
        finally:
            self.n_waiting -= 1

    async def predict(
        self, choice: ModelChoice, uploads: Sequence[Upload], max_pixels: int
    ) -> list[dict[str, Any]]:
        """What is in each picture, as the API says it.

        Raises:
            Refused: no picture could be read, for the first one's reason; or the model cannot be used.
        """
        found = await asyncio.gather(*(self._one(choice, u, max_pixels) for u in uploads))
        refused = [refusal for _, refusal in found if refusal is not None]
        if refused and len(refused) == len(found):
            raise refused[0]
        return [entry for entry, _ in found]

    async def _one(
        self, choice: ModelChoice, upload: Upload, max_pixels: int
    ) -> tuple[dict[str, Any], Refused | None]:
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
        except Refused as refusal:
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
    """The faces of a picture; in a worker. Raises Refused."""
    rgb = read_picture(content, max_pixels)
    xyxy, crops, _ = models.get(choice).cropper.cut(rgb)
    faces = Faces(xyxy, np.ones(len(xyxy), np.float32))
    return FaceCrops((rgb.shape[1], rgb.shape[0]), xyxy, crops, face_quality(crops, faces))


def classify_crops(models: OpenModels, choice: ModelChoice, crops: np.ndarray) -> np.ndarray:
    """Probabilities float32 (n, k) of crops; in a worker. Raises Refused."""
    return models.get(choice).classifier.predict_proba(crops)


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
