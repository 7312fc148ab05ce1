"""``WS /v1/stream``: frames in, expressions out; of the frames that wait only the newest is kept."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from ferkit.serving.errors import Refused, own_fault
from ferkit.serving.frames import StreamFrame, StreamReader, parse_frame
from ferkit.serving.log import EventLog
from ferkit.serving.metrics import Metrics
from ferkit.serving.purposes import check_purpose
from ferkit.serving.settings import ServeSettings
from ferkit.serving.shelf import ModelShelf, OpenModel, describe_labels
from ferkit.serving.workers import Workers

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
        settings, shelf, workers, metrics, log: the server's.
        may_enter: whether a token is right; asked only where the handshake showed none.
    """

    def __init__(
        self,
        socket: WebSocket,
        settings: ServeSettings,
        shelf: ModelShelf,
        workers: Workers,
        metrics: Metrics,
        log: EventLog,
        may_enter: Callable[[str | None], bool],
    ) -> None:
        self._socket, self._settings, self._limits = socket, settings, settings.limits
        self._shelf, self._workers, self._metrics, self._log = shelf, workers, metrics, log
        self._may_enter = may_enter
        self._reader: StreamReader | None = None
        self._fps = 10.0
        self._purpose: str | None = None
        self._newest: StreamFrame | None = None
        self._arrived = asyncio.Event()
        self._engine = asyncio.Lock()  # it serves one at a time: a frame, or a command
        self._n_dropped = self._n_answered = self._n_unreadable = 0
        self._tokens, self._counted_s = 2 * self._limits.max_fps, time.monotonic()

    async def run(self) -> None:
        """Serve until the client goes, or is sent away."""
        code: int | None = None
        began_s = time.monotonic()
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
            self._log.write(
                "stream",
                client=self._socket.client.host if self._socket.client else None,
                close=code,
                purpose=self._purpose,
                model=self._reader.model.name if self._reader else None,
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
        model = await self._shelf.get(name)
        self._reader = await self._workers.run(self._reader_of(model))
        await self._send({"type": "ready", "model": model.name, "labels": describe_labels(model.labels)})

    def _reader_of(self, model: OpenModel) -> Callable[[], StreamReader]:
        max_pixels, detect_size = self._limits.max_frame_pixels, self._settings.detect_size
        return lambda: StreamReader(model, self._fps, max_pixels, detect_size)

    async def _serve(self) -> None:
        answering = asyncio.create_task(self._answer_all())
        receiving = asyncio.create_task(self._receive_all())
        tasks = (answering, receiving)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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
            text, n_faces = await self._workers.run_latest(self._take, self._read)
        except Refused as refused:
            self._n_unreadable += 1
            self._metrics.frames.labels("unreadable").inc()
            if refused.status != 422 or self._n_unreadable >= MAX_UNREADABLE:
                raise
            await self._send({"type": "error", "fatal": False, **refused.body})
            return
        self._n_unreadable = 0
        self._n_answered += 1
        await self._send_text(text)
        self._metrics.frames.labels("answered").inc()
        self._metrics.faces.labels("stream").inc(n_faces)

    def _take(self) -> StreamFrame:
        frame = self._newest
        assert frame is not None
        self._newest = None
        self._arrived.clear()
        return frame

    def _read(self, frame: StreamFrame) -> tuple[str, int]:
        assert self._reader is not None
        answer = self._reader.read(frame, self._n_dropped)
        self._metrics.age.observe(time.perf_counter() - frame.received_s)
        return answer

    async def _obey(self, text: str) -> None:
        """A command."""
        try:
            command = json.loads(text)
            kind = command["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Refused(400, "bad_command", "Expected a JSON object with a type.") from None
        async with self._engine:
            assert self._reader is not None
            try:
                if kind == "neutral":
                    self._reader.calibrate(_seconds(command.get("seconds", 5)))
                elif kind == "reset":
                    self._reader.engine.reset()
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
            message = await asyncio.wait_for(self._socket.receive(), timeout_s)
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
            await asyncio.wait_for(self._socket.send_text(text), SEND_S)
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
            await asyncio.wait_for(self._socket.send_text(json.dumps(message)), 1.0)
            await asyncio.wait_for(self._socket.close(refused.close_code, refused.code), 1.0)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 60:
        raise Refused(400, "bad_command", "Expected seconds above 0 and up to 60.")
    return float(value)


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where}: {found['msg']}" if where else str(found["msg"])
