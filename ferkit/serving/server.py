"""Uvicorn with what it lacks against clients that connect and stay silent."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ferkit.serving.log import EventLog
from ferkit.serving.settings import ServeSettings

HEAD_S = 10.0
"""The head of a request must be complete so soon after the connection is made, or after its first byte."""

KEEP_ALIVE_S = 10
GRACE_S = 10


class PatientlessProtocol(H11Protocol):
    """HTTP/1.1 that gives up connections whose request does not come, and has no more of them than it should."""

    max_connections = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.max_connections and len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._deadline = self.loop.call_later(HEAD_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self._waiting:  # the next request of a connection that is kept
            self._deadline = self.loop.call_later(HEAD_S, self._give_up)
        super().data_received(data)
        if not self._waiting:
            self._cancel()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    @property
    def _waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def uvicorn_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How the application is served.

    Args:
        app: of :func:`ferkit.serving.app.create_app`.
        settings: the same as the application's.
    """
    protocol = type("Protocol", (PatientlessProtocol,), {"max_connections": settings.limits.max_connections})
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="websockets-sansio",
        # A frame with its header, or a command.
        ws_max_size=settings.limits.max_frame_bytes + 1024,
        ws_per_message_deflate=False,  # pictures are compressed already, and what is small could unfold to much
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


class FerkitServer(uvicorn.Server):
    """Serves an application until it is told to stop.

    Args:
        app: of :func:`ferkit.serving.app.create_app`.
        settings: the same as the application's.
        say: told where the server is, once it listens.
    """

    def __init__(self, app: FastAPI, settings: ServeSettings, say: Callable[[str], object]) -> None:
        super().__init__(uvicorn_config(app, settings))
        self._say = say

    @property
    def port(self) -> int:
        """Where it listens, once it has started."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host = self.config.host
            shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(
                host, f"[{host}]" if ":" in host else host
            )
            self._say(f"ferkit is at http://{shown}:{self.port}  (stop: Ctrl+C)")


class FaultHandler(logging.Handler):
    """Takes what Uvicorn complains of into the log of events."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._log.write("uvicorn", level=record.levelname, message=text)
