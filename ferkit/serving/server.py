"""The server that ``fer serve`` runs: Uvicorn, set up for strangers."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import cv2
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ferkit.core.errors import FerkitError
from ferkit.serving.monitoring import EventLog
from ferkit.serving.settings import Limits, ServeSettings

HEAD_S = 10.0
"""The head of a request must be complete so soon after the connection is made, or after the head's first byte."""

STALL_S = 20.0
"""An answer must move within this time, and a connection that is to be closed be gone."""


class _Stall(asyncio.Protocol):
    """Looks every now and then whether what was written is taken."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _timer: asyncio.TimerHandle | None = None
    _stalled = False
    _paused = False

    def watch(self) -> None:
        self._timer = self.loop.call_later(STALL_S, self._look)

    def unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        self._paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused = self._stalled = False
        super().resume_writing()

    def _look(self) -> None:
        stalls = self._paused or self.transport.is_closing()
        if stalls and self._stalled:  # for at least one whole period
            self.transport.abort()
            return
        self._stalled = stalls
        self.watch()


class TimeoutHttp(_Stall, H11Protocol):
    """HTTP/1.1 with limits; :func:`http_protocol` sets how many connections there may be."""

    max_connections: int
    max_of_one: int
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        of_one = sum(_host(other) == _host(self) for other in self.connections)
        if len(self.connections) > self.max_connections or of_one > self.max_of_one:
            transport.abort()
            return
        self._deadline = self.loop.call_later(HEAD_S, self._give_up)
        self.watch()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self._between_requests:
            self._deadline = self.loop.call_later(HEAD_S, self._give_up)
        super().data_received(data)
        if not self._between_requests:
            self._cancel_deadline()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel_deadline()
        self.unwatch()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self.unwatch()
        super().connection_lost(exc)

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        self.transport.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class TimeoutWebSocket(_Stall, WebSocketsSansIOProtocol):
    """A WebSocket that is cut when its client takes nothing any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.unwatch()
        super().connection_lost(exc)


def _host(connection: object) -> str | None:
    client = getattr(connection, "client", None)
    return client[0] if client else None


def http_protocol(limits: Limits, behind_proxy: bool) -> type[TimeoutHttp]:
    """The protocol with these limits; a proxy may have all connections, any other address half of them."""
    most = limits.max_connections
    of_one = most if behind_proxy else max(1, most // 2)
    return type("ServerHttp", (TimeoutHttp,), {"max_connections": most, "max_of_one": of_one})


KEEP_ALIVE_S = 10
GRACE_S = 10


class FerkitServer(uvicorn.Server):
    """Serves an application until it is told to stop.

    Args:
        app: of :func:`ferkit.serving.app.create_app`.
        settings: the same as the application's.
        say: told where the server is, once it listens.
    """

    def __init__(self, app: FastAPI, settings: ServeSettings, say: Callable[[str], object]) -> None:
        super().__init__(uvicorn_config(app, settings))
        self._settings, self._say = settings, say
        self._log: EventLog = app.state.service.log
        self.port = settings.port

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            FerkitError: the address cannot be listened on.
        """
        # The process is this server's own. Images are read side by side; threads within one would be in the way.
        cv2.setNumThreads(1)
        listening = listen(self._settings.host, self._settings.port)
        self.port = listening.getsockname()[1]
        complaints = Complaints(self._log)
        complaints.addFilter(
            lambda record: not record.name.startswith("python_multipart")
        )  # of what clients send
        logging.getLogger().addHandler(complaints)
        try:
            super().run([listening])
        finally:
            logging.getLogger().removeHandler(complaints)
            listening.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host = self._settings.host
        shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
        self._say(f"ferkit is at http://{shown}:{self.port}  (stop: Ctrl+C)")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Being told to stop is no failure: the signal is not raised again after the end, as Uvicorn would.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def uvicorn_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=http_protocol(settings.limits, bool(settings.trusted_proxy)),
        ws=TimeoutWebSocket,
        # A frame with its header, or a command.
        ws_max_size=settings.limits.max_frame_bytes + 1024,
        ws_per_message_deflate=False,  # images are compressed already, and what is small could unfold to much
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxy),
        forwarded_allow_ips=list(settings.trusted_proxy),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address.

    Raises:
        FerkitError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        listening.close()
        raise FerkitError(
            f"{host} port {port} cannot be listened on: {error.strerror or error}; "
            "choose another with --port or --host, or stop the program that has it"
        ) from None
    return listening


class Complaints(logging.Handler):
    """Takes what libraries warn of into the log of events."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._log.write("warning", source=record.name, message=text)
