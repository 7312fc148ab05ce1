"""``WS /v1/stream``: frames in, expressions out; of the frames that wait only the newest is kept."""

import asyncio
import contextlib
import json
import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet
from ferkit.core.weights import DEFAULT_EDITION
from ferkit.faces.tracking import FaceTracker, TrackerSettings
from ferkit.inference.engine import Engine, EngineSettings, FrameResult, LiveScheduler, SteadyScheduler
from ferkit.inference.smoothing import UNSURE, LabelSmoother, NeutralCalibration, SmoothingSettings
from ferkit.inference.video import UNSURE_NAME
from ferkit.serving.api import (
    ApiError,
    check_purpose,
    describe_labels,
    image_kind,
    internal_error,
    read_image,
)
from ferkit.serving.monitoring import EventLog, Metrics
from ferkit.serving.predict import ModelCatalog, ModelChoice, OpenModel, OpenModels, Workers, new_id
from ferkit.serving.settings import ServeSettings
from ferkit.serving.teach import Collect, TaughtClassifier, TaughtModel, TeachSession, TeachSessions
from ferkit.teaching.head import LinearHead

HEADER = struct.Struct("<Id")
"""Before each image: the frame's number, and when it was taken, in milliseconds of the client's clock."""

KINDS = ("JPEG", "WEBP", "PNG")

LONGEST_GAP_S = 10.0

KEEP_S = 3.0
"""A face keeps its number so long without being seen: a line may stall for a second or two."""


@dataclass(frozen=True)
class StreamFrame:
    """A frame as it came.

    Attributes:
        number: the client's.
        captured_ms: by the client's clock, finite.
        content: the image's bytes.
        received_s: by this process's ``time.perf_counter``.
    """

    number: int
    captured_ms: float
    content: bytes
    received_s: float


def parse_frame(message: bytes, max_bytes: int) -> StreamFrame:
    """The frame in a binary message.

    Raises:
        ApiError: it is none (400), of another kind (415), or too large (413).
    """
    if len(message) <= HEADER.size:
        raise ApiError(
            400,
            "bad_frame",
            f"Expected {HEADER.size} bytes of header and an image, found {len(message)} bytes.",
        )
    number, captured_ms = HEADER.unpack_from(message)
    if not math.isfinite(captured_ms):
        raise ApiError(400, "bad_frame", "Expected a finite time of capture in the frame's header.")
    content = message[HEADER.size :]
    if len(content) > max_bytes:
        raise ApiError(413, "large_frame", f"A frame has at most {max_bytes} bytes; send smaller ones.")
    if image_kind(content) not in KINDS:
        raise ApiError(415, "unknown_kind", "Expected JPEG, WebP or PNG after the frame's header.")
    return StreamFrame(number, captured_ms, content, time.perf_counter())


@dataclass(frozen=True)
class StreamSettings:
    """What a worker needs to read a stream, at any time again.

    Attributes:
        id: under which the worker keeps what it knows of the stream.
        fps: that the client means to send, so that the work fits between two frames.
        max_pixels: of a frame.
        detect_size: the detector sees frames scaled down to this longer side, in pixels.
    """

    id: int
    fps: float
    max_pixels: int
    detect_size: int


class StreamReader:
    """Reads the frames of one client, in a worker.

    Args:
        model: whose classifier and detector it shares.
        settings: the stream's.
    """

    def __init__(self, model: "OpenModel | TaughtModel", settings: StreamSettings) -> None:
        start_confidence = 0.0 if model.faces.settings.detector == "haar" else 0.6  # not on others' scale
        self.engine = Engine(
            model.model,
            model.detector,
            LabelSmoother(SmoothingSettings(), len(model.labels)),
            EngineSettings(model.faces.settings, model.model.resize, settings.detect_size),
            FaceTracker(TrackerSettings(start_confidence=start_confidence, keep_s=KEEP_S)),
            LiveScheduler(settings.fps),
        )
        self.model = model
        self._max_pixels = settings.max_pixels
        self._clock = _StreamClock()

    def read(self, frame: StreamFrame, n_dropped: int) -> tuple[str, int]:
        """The answer as JSON, and how many faces are in it.

        Raises:
            ApiError: the image cannot be read.
        """
        rgb = read_image(frame.content, self._max_pixels)
        result = self.engine.process(rgb, self._clock.at(frame))
        neutral = self.engine.neutral
        answer = {
            "type": "result",
            "frame": frame.number,
            "captured_ms": frame.captured_ms,
            "age_ms": round((time.perf_counter() - frame.received_s) * 1000, 1),
            "dropped": n_dropped,
            "width": rgb.shape[1],
            "height": rgb.shape[0],
            "faces": _faces(result, self.model.labels.names),
            "neutral_left_s": 0.0 if neutral is None else round(neutral.seconds_left(result.timestamp_s), 2),
        }
        return json.dumps(answer, ensure_ascii=False, allow_nan=False), len(result)


def open_reader(models: OpenModels, choice: ModelChoice, settings: StreamSettings) -> StreamReader:
    """The stream's reader in this worker; a new one if it has none. Raises ApiError."""
    if settings.id not in models.streams:
        models.streams[settings.id] = StreamReader(models.get(choice), settings)
    reader: StreamReader = models.streams[settings.id]
    return reader


def read_frame(
    models: OpenModels, choice: ModelChoice, settings: StreamSettings, taken: tuple[StreamFrame, int]
) -> tuple[str, int]:
    """See :meth:`StreamReader.read`; in a worker. Raises ApiError."""
    return open_reader(models, choice, settings).read(*taken)


def read_taught_frame(
    models: OpenModels,
    choice: ModelChoice,
    settings: StreamSettings,
    labels: tuple[str, ...],
    head: LinearHead | None,
    taken: tuple[StreamFrame, int],
) -> tuple[str, int, np.ndarray, np.ndarray]:
    """The same by a head that is being taught, and the crops and embeddings of the faces that were read.

    Raises:
        ApiError: the image cannot be read.
    """
    reader: StreamReader | None = models.streams.get(settings.id)
    if reader is None or not isinstance(reader.model, TaughtModel) or reader.model.labels.names != labels:
        reader = StreamReader(TaughtModel.with_labels(models.get(choice), labels), settings)
        reader.engine.scheduler = SteadyScheduler()  # every face of every frame may be an example
        models.streams[settings.id] = reader
    classifier = reader.model.model
    assert isinstance(classifier, TaughtClassifier)
    classifier.head = head
    return *reader.read(*taken), *classifier.take_seen()


def calibrate_stream(
    models: OpenModels, choice: ModelChoice, settings: StreamSettings, seconds: float
) -> None:
    """Learn from resting faces for so long from now on; in a worker.

    Raises:
        ApiError: the model has no neutral class.
    """
    reader = open_reader(models, choice, settings)
    try:
        reader.engine.neutral = NeutralCalibration(reader.model.labels, seconds)
    except DataError as error:
        raise ApiError(422, "no_neutral", f"{error}.") from None


def reset_stream(models: OpenModels, choice: ModelChoice, settings: StreamSettings) -> None:
    """Open what the stream needs, and forget everybody; in a worker. Raises ApiError."""
    open_reader(models, choice, settings).engine.reset()


class _StreamClock:
    """Seconds that never run backwards, from the client's clock as far as it can be believed."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._last: StreamFrame | None = None

    def at(self, frame: StreamFrame) -> float:
        if self._last is not None:
            gap_s = (frame.captured_ms - self._last.captured_ms) / 1000
            if not 0 < gap_s < LONGEST_GAP_S:
                gap_s = frame.received_s - self._last.received_s
            self._now_s += max(0.0, gap_s)
        self._last = frame
        return self._now_s


def _faces(result: FrameResult, names: tuple[str, ...]) -> list[dict[str, Any]]:
    ids = result.faces.track_id
    return [
        {
            "id": 0 if ids is None else int(ids[i]),
            "box": [round(float(v), 1) for v in result.faces.xyxy[i]],
            "confidence": round(float(proba.max() if shown == UNSURE else proba[shown]), 4),
            "quality": round(float(result.quality[i]), 3),
            "label": UNSURE_NAME if shown == UNSURE else names[shown],
            "probabilities": [round(float(p), 4) for p in proba],
            "raw": [round(float(p), 4) for p in result.raw[i]],
        }
        for i, (shown, proba) in enumerate(zip(result.label.tolist(), result.proba, strict=True))
    ]


START_S = 10.0
SEND_S = 10.0
MAX_UNREADABLE = 20
"""Frames in a row that cannot be decoded, after which the stream is closed."""


class Start(BaseModel):
    """The first message."""

    model_config = ConfigDict(extra="ignore")
    type: str = Field(pattern="^start$")
    model: str | None = None
    purpose: str | None = None
    token: str | None = None
    teach: str | None = None
    fps: float = Field(10.0, ge=0.1, le=60)


class StreamSession:
    """One client's stream, from its start to its end.

    Args:
        socket: accepted already.
        settings, catalog, workers, metrics, log: the server's.
        may_enter: whether a token is right; asked only where the handshake showed none.
        teaching: the sessions in which classes are taught.
    """

    def __init__(
        self,
        socket: WebSocket,
        settings: ServeSettings,
        catalog: ModelCatalog,
        workers: Workers,
        metrics: Metrics,
        log: EventLog,
        may_enter: Callable[[str | None], bool],
        teaching: TeachSessions,
    ) -> None:
        self._socket, self._settings, self._limits = socket, settings, settings.limits
        self._catalog, self._workers, self._metrics, self._log = catalog, workers, metrics, log
        self._may_enter, self._teaching = may_enter, teaching
        self._lesson: TeachSession | None = None
        self._taught: tuple[str, ...] = ()  # the classes that the client was told of
        self._worker = workers.for_stream()
        self._choice: ModelChoice | None = None
        self._reader: StreamSettings | None = None  # of the worker's reader
        self._fps = 10.0
        self._purpose: str | None = None
        self._newest: StreamFrame | None = None
        self._arrived = asyncio.Event()
        self._engine = asyncio.Lock()  # it serves one at a time: a frame, or a command
        self._n_dropped = self._n_answered = self._n_unreadable = 0
        self._received_s = 0.0
        self._tokens, self._counted_s = 2 * self._limits.max_fps, time.monotonic()

    async def run(self) -> None:
        """Serve until the client goes, or is sent away."""
        code: int | None = None
        began_s = time.monotonic()
        self._worker.n_streams += 1
        try:
            await self._start()
            await self._serve()
        except WebSocketDisconnect as end:
            code = end.code
        except ApiError as refused:
            code = refused.close_code
            self._metrics.refused.labels(refused.code).inc()
            await self._say_no(refused)
        except Exception as error:
            fault = internal_error(self._log.fault(error))
            code = fault.close_code
            await self._say_no(fault)
        finally:
            self._worker.n_streams -= 1
            if self._lesson is not None:  # a page that was closed in mid-burst collects no more
                self._lesson.collecting = None
                self._lesson.wake()
            if self._reader is not None:
                self._worker.forgotten.append(self._reader.id)
            self._log.write(
                "stream",
                client=self._socket.client.host if self._socket.client else None,
                close=code,
                purpose=self._purpose,
                model=self._choice.name if self._choice else None,
                seconds=round(time.monotonic() - began_s, 1),
                answered=self._n_answered,
                dropped=self._n_dropped,
            )

    async def _start(self) -> None:
        text = await self._receive(START_S, "start", text_only=True)
        try:
            start = Start.model_validate_json(text)
        except ValidationError as error:
            raise ApiError(400, "bad_start", f"Expected a message of type start: {_first(error)}.") from None
        if not self._may_enter(start.token):
            raise ApiError(401, "no_token", "Expected the server's token in the message start.")
        allowed = frozenset(self._settings.allow_purpose)
        self._purpose = check_purpose(start.purpose, self._settings.purpose, allowed)
        self._fps = min(start.fps, self._limits.max_fps)
        self._lesson = None if start.teach is None else self._teaching.get(start.teach)
        await self._use(start.model if self._lesson is None else DEFAULT_EDITION)

    async def _use(self, name: str | None) -> None:
        choice = await run_in_threadpool(self._catalog.get, name)
        limits, settings = self._limits, self._settings
        reader = StreamSettings(new_id(), self._fps, limits.max_frame_pixels, settings.detect_size)
        await self._workers.run(reset_stream, choice, reader, worker=self._worker)
        if self._reader is not None:
            self._worker.forgotten.append(self._reader.id)
        self._choice, self._reader = choice, reader
        if self._lesson is None:
            await self._send(
                {"type": "ready", "model": choice.name, "labels": describe_labels(choice.labels)}
            )
        else:
            await self._tell_taught(self._lesson)

    async def _tell_taught(self, lesson: TeachSession) -> tuple[str, ...]:
        """Tell the client of the classes that are taught, where they changed; gives them."""
        labels = lesson.examples.labels or (UNSURE_NAME,)
        if labels != self._taught:
            self._taught = labels
            described = describe_labels(LabelSet.from_names(labels))
            await self._send({"type": "ready", "model": "teach", "labels": described})
        return labels

    async def _ask(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Let the stream's worker do something with its reader."""
        assert self._choice is not None
        return await self._workers.run(
            function, self._choice, self._reader, *args, worker=self._worker, **options
        )

    async def _serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._answer_all())
                both.create_task(self._receive_all())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _receive_all(self) -> None:
        while True:
            message = await self._receive(self._limits.idle_s, "frame")
            self._count()
            if isinstance(message, str):
                await self._obey(message)
                continue
            frame = parse_frame(message, self._limits.max_frame_bytes)
            if self._newest is not None:
                self._n_dropped += 1
                self._metrics.frames.labels("dropped").inc()
            self._newest = frame
            self._arrived.set()

    async def _answer_all(self) -> None:
        while True:
            await self._arrived.wait()
            async with self._engine:
                await self._answer()

    async def _answer(self) -> None:
        try:
            if self._lesson is None:
                text, n_faces = await self._ask(read_frame, take=self._take)
            else:
                text, n_faces = await self._read_taught(self._teaching.get(self._lesson.id))
        except ApiError as refused:
            self._n_unreadable += 1
            self._metrics.frames.labels("unreadable").inc()
            one_frame = refused.status == 422 or refused.code == "reader_lost"
            if not one_frame or self._n_unreadable >= MAX_UNREADABLE:
                raise
            await self._send({"type": "error", "fatal": False, **refused.body})
            return
        self._n_unreadable = 0
        self._n_answered += 1
        self._metrics.age.observe(time.perf_counter() - self._received_s)
        await self._send_text(text)
        self._metrics.frames.labels("answered").inc()
        self._metrics.faces.labels("stream").inc(n_faces)

    async def _read_taught(self, lesson: TeachSession) -> tuple[str, int]:
        """The newest frame's answer by the head that is being taught; collects its face where that is wanted."""
        labels = await self._tell_taught(lesson)
        text, n_faces, crops, X = await self._ask(read_taught_frame, labels, lesson.head, take=self._take)
        answer = json.loads(text)
        collected = lesson.collect(answer["captured_ms"], crops, X, [face["id"] for face in answer["faces"]])
        collected |= {
            "version": lesson.examples.version,
            "n": len(lesson.examples),
            "pending": lesson.pending,
        }
        return json.dumps({**answer, "taught": collected}, ensure_ascii=False), n_faces

    def _take(self) -> tuple[StreamFrame, int]:
        frame = self._newest
        assert frame is not None
        self._newest = None
        self._arrived.clear()
        self._received_s = frame.received_s
        return frame, self._n_dropped

    async def _obey(self, text: str) -> None:
        """A command."""
        try:
            command = json.loads(text)
            kind = command["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ApiError(400, "bad_command", "Expected a JSON object with a type.") from None
        async with self._engine:
            try:
                if kind == "neutral":
                    await self._ask(calibrate_stream, _seconds(command.get("seconds", 5)))
                elif kind == "reset":
                    await self._ask(reset_stream)
                elif kind == "model":
                    await self._use(str(command.get("name")))
                elif kind == "collect" and self._lesson is not None:
                    self._lesson.collecting = parse_collect(command, self._lesson.collecting)
                    self._lesson.wake()
                else:
                    raise ApiError(400, "bad_command", "Expected a command neutral, reset or model.")
            except ApiError as refused:
                if refused.status == 400:
                    raise
                await self._send({"type": "error", "fatal": False, **refused.body})

    async def _receive(self, timeout_s: float, what: str, text_only: bool = False) -> Any:
        """The next message: str or bytes."""
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._socket.receive()
        except TimeoutError:
            raise ApiError(408, "idle", f"No {what} came for {timeout_s:g} s.") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        content = message.get("text")
        if content is None:
            if text_only:
                raise ApiError(400, "bad_start", "Expected a text message of type start first.")
            content = message.get("bytes") or b""
        elif len(content) > 4096:
            raise ApiError(400, "bad_command", "Expected a command of at most 4096 characters.")
        return content

    def _count(self) -> None:
        """Let ``max_fps`` messages a second pass, with bursts of two seconds."""
        now_s = time.monotonic()
        most = 2 * self._limits.max_fps
        self._tokens = min(most, self._tokens + (now_s - self._counted_s) * self._limits.max_fps)
        self._counted_s = now_s
        self._tokens -= 1
        if self._tokens < 0:
            raise ApiError(429, "too_fast", f"At most {self._limits.max_fps:g} frames a second are taken.")

    async def _send(self, message: dict[str, Any]) -> None:
        await self._send_text(json.dumps(message, ensure_ascii=False))

    async def _send_text(self, text: str) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._socket.send_text(text)
        except TimeoutError:
            raise ApiError(408, "slow", "The answers were not read in time.") from None
        except RuntimeError:  # closed meanwhile
            raise WebSocketDisconnect(1006) from None

    async def turn_away(self, refused: ApiError) -> None:
        """Close without serving."""
        self._metrics.refused.labels(refused.code).inc()
        await self._say_no(refused)

    async def _say_no(self, refused: ApiError) -> None:
        with contextlib.suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
            message = {"type": "error", "fatal": True, **refused.body}
            async with asyncio.timeout(1.0):
                await self._socket.send_text(json.dumps(message))
            async with asyncio.timeout(1.0):
                await self._socket.close(refused.close_code, refused.code)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 60:
        raise ApiError(400, "bad_command", "Expected seconds above 0 and up to 60.")
    return float(value)


def parse_collect(command: dict[str, Any], before: Collect | None) -> Collect | None:
    """What is to be collected from now on; without a label, the end of what was collected before. Raises ApiError."""
    label, take, face = command.get("label"), command.get("take"), command.get("face")
    start, end = command.get("from_ms", 0.0), command.get("until_ms", 0.0)
    times = all(isinstance(ms, int | float) and abs(ms) < 1e15 for ms in (start, end))  # nor nan
    if not times or not isinstance(face, int | None):
        raise ApiError(400, "bad_command", "Expected from_ms, until_ms and face to be numbers.")
    if label is None:
        return None if before is None else replace(before, until_ms=float(end))
    if not isinstance(label, str) or not isinstance(take, str):
        raise ApiError(400, "bad_command", "Expected a label and a take as text.")
    return Collect(label, take, float(start), face=face)


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where}: {found['msg']}" if where else str(found["msg"])
