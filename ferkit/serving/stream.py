"""``WS /v1/stream``: frames in, expressions out; of the frames that wait only the newest is kept."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from ferkit.serving.errors import Refused, own_fault
from ferkit.serving.frames import (
    StreamFrame,
    StreamSettings,
    calibrate_stream,
    parse_frame,
    prepare_stream,
    read_frame,
    reset_stream,
)
from ferkit.serving.log import EventLog
from ferkit.serving.metrics import Metrics
from ferkit.serving.purposes import check_purpose
from ferkit.serving.settings import ServeSettings
from ferkit.serving.shelf import ModelCatalog, ModelChoice, describe_labels
from ferkit.serving.workers import Workers, new_id

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
    fps: float = Field(10.0, ge=0.1, le=60)


class StreamSession:
    """One client's stream, from its start to its end.

    Args:
        socket: accepted already.
        settings, catalog, workers, metrics, log: the server's.
        may_enter: whether a token is right; asked only where the handshake showed none.
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
    ) -> None:
        self._socket, self._settings, self._limits = socket, settings, settings.limits
        self._catalog, self._workers, self._metrics, self._log = catalog, workers, metrics, log
        self._may_enter = may_enter
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
        except Refused as refused:
            code = refused.close_code
            self._metrics.refused.labels(refused.code).inc()
            await self._say_no(refused)
        except Exception as error:
            fault = own_fault(self._log.fault(error))
            code = fault.close_code
            await self._say_no(fault)
        finally:
            self._worker.n_streams -= 1
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
            raise Refused(400, "bad_start", f"Expected a message of type start: {_first(error)}.") from None
        if not self._may_enter(start.token):
            raise Refused(401, "no_token", "Expected the server's token in the message start.")
        allowed = frozenset(self._settings.allow_purpose)
        self._purpose = check_purpose(start.purpose, self._settings.purpose, allowed)
        self._fps = min(start.fps, self._limits.max_fps)
        await self._use(start.model)

    async def _use(self, name: str | None) -> None:
        choice = await run_in_threadpool(self._catalog.get, name)
        limits, settings = self._limits, self._settings
        reader = StreamSettings(new_id(), self._fps, limits.max_frame_pixels, settings.detect_size)
        await self._workers.run(prepare_stream, choice, reader, worker=self._worker)
        if self._reader is not None:
            self._worker.forgotten.append(self._reader.id)
        self._choice, self._reader = choice, reader
        await self._send({"type": "ready", "model": choice.name, "labels": describe_labels(choice.labels)})

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
            text, n_faces = await self._ask(read_frame, take=self._take)
        except Refused as refused:
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
            raise Refused(400, "bad_command", "Expected a JSON object with a type.") from None
        async with self._engine:
            try:
                if kind == "neutral":
                    await self._ask(calibrate_stream, _seconds(command.get("seconds", 5)))
                elif kind == "reset":
                    await self._ask(reset_stream)
                elif kind == "model":
                    await self._use(str(command.get("name")))
                else:
                    raise Refused(400, "bad_command", "Expected a command neutral, reset or model.")
            except Refused as refused:
                if refused.status == 400:
                    raise
                await self._send({"type": "error", "fatal": False, **refused.body})

    async def _receive(self, timeout_s: float, what: str, text_only: bool = False) -> Any:
        """The next message: str or bytes."""
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._socket.receive()
        except TimeoutError:
            raise Refused(408, "idle", f"No {what} came for {timeout_s:g} s.") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        content = message.get("text")
        if content is None:
            if text_only:
                raise Refused(400, "bad_start", "Expected a text message of type start first.")
            content = message.get("bytes") or b""
        elif len(content) > 4096:
            raise Refused(400, "bad_command", "Expected a command of at most 4096 characters.")
        return content

    def _count(self) -> None:
        """Let ``max_fps`` messages a second pass, with bursts of two seconds."""
        now_s = time.monotonic()
        most = 2 * self._limits.max_fps
        self._tokens = min(most, self._tokens + (now_s - self._counted_s) * self._limits.max_fps)
        self._counted_s = now_s
        self._tokens -= 1
        if self._tokens < 0:
            raise Refused(429, "too_fast", f"At most {self._limits.max_fps:g} frames a second are taken.")

    async def _send(self, message: dict[str, Any]) -> None:
        await self._send_text(json.dumps(message, ensure_ascii=False))

    async def _send_text(self, text: str) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._socket.send_text(text)
        except TimeoutError:
            raise Refused(408, "slow", "The answers were not read in time.") from None
        except RuntimeError:  # closed meanwhile
            raise WebSocketDisconnect(1006) from None

    async def turn_away(self, refused: Refused) -> None:
        """Close without serving."""
        self._metrics.refused.labels(refused.code).inc()
        await self._say_no(refused)

    async def _say_no(self, refused: Refused) -> None:
        with contextlib.suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
            message = {"type": "error", "fatal": True, **refused.body}
            async with asyncio.timeout(1.0):
                await self._socket.send_text(json.dumps(message))
            async with asyncio.timeout(1.0):
                await self._socket.close(refused.close_code, refused.code)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 60:
        raise Refused(400, "bad_command", "Expected seconds above 0 and up to 60.")
    return float(value)


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where}: {found['msg']}" if where else str(found["msg"])
