"""The server that ``fer serve`` runs: Uvicorn, set up for strangers."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from ferkit.core.errors import FerkitError
from ferkit.serving.monitoring import EventLog
from ferkit.serving.settings import ServeSettings

HEAD_S = 10.0
"""A connection that waits for so long without the whole head of a request is cut."""

STALL_S = 20.0
"""An answer must move within this time, and a connection that is to be closed be gone."""


class Connections:
    """Knows which connections are in use, and cuts those that hold one for nothing.

    Args:
        app: the application, around which it is put.
        most: connections there may be.
        most_of_one: connections of one address.
    """

    def __init__(self, app: ASGIApp, most: int, most_of_one: int) -> None:
        self._app, self._most, self._most_of_one = app, most, most_of_one
        self._open: dict[tuple[Any, Any], _Watched] = {}

    def protocol(self, **options: Any) -> asyncio.Protocol:
        """A new connection's protocol, for ``uvicorn.Config(http=…)``."""
        return _Watched(H11Protocol(**options), self._enter, self._leave)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watched = None
        if scope["type"] in ("http", "websocket"):
            watched = self._open.get((_pair(scope.get("client")), _pair(scope.get("server"))))
        if watched is None:
            await self._app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(STALL_S):
                    await send(message)
            except TimeoutError:
                watched.cut()
                raise

        watched.cut_after(None)
        try:
            await self._app(scope, receive, send_in_time)
        finally:
            watched.cut_after(HEAD_S if scope["type"] == "http" else STALL_S)

    def _enter(self, watched: "_Watched") -> bool:
        host = watched.key[0] and watched.key[0][0]
        here = [other for other in self._open.values() if not other.is_closing]
        of_one = sum(other.key[0][0] == host for other in here if other.key[0])
        if len(here) >= self._most or of_one >= self._most_of_one:
            return False
        self._open[watched.key] = watched
        return True

    def _leave(self, watched: "_Watched") -> None:
        if self._open.get(watched.key) is watched:
            del self._open[watched.key]


class _Watched(asyncio.Protocol):
    """Passes everything on to Uvicorn's protocol, and can cut the connection."""

    key: tuple[Any, Any]
    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None
    _is_in = False

    def __init__(
        self,
        inner: asyncio.Protocol,
        enter: "Callable[[_Watched], bool]",
        leave: "Callable[[_Watched], None]",
    ) -> None:
        self._inner, self._enter, self._leave = inner, enter, leave

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def cut(self) -> None:
        """End the connection at once; what was not taken is lost."""
        self._leave(self)
        self._transport.abort()

    def cut_after(self, seconds: float | None) -> None:
        """Cut the connection when so much time is over; None takes that back."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.cut)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.key = _pair(transport.get_extra_info("peername")), _pair(transport.get_extra_info("sockname"))
        self._is_in = self._enter(self)
        if not self._is_in:
            transport.abort()
            return
        self.cut_after(HEAD_S)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_in:
            self.cut_after(None)
            self._leave(self)
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def _pair(address: Any) -> tuple[str, int] | None:
    """Host and port, as Uvicorn tells them to the application."""
    return (str(address[0]), int(address[1])) if isinstance(address, (tuple, list)) else None


KEEP_ALIVE_S = 10
GRACE_S = 10

logger = logging.getLogger(__name__)


def run_server(app: FastAPI, settings: ServeSettings) -> None:
    """Serve an application of :func:`ferkit.serving.app.create_app` until SIGINT or SIGTERM.

    Raises:
        FerkitError: the address cannot be listened on.
    """
    with listen(settings.host, settings.port) as listening, stopping_is_no_failure():
        serve_on(listening, uvicorn.Server(uvicorn_config(app, settings)), app)


def serve_on(listening: socket.socket, server: uvicorn.Server, app: FastAPI) -> None:
    """Serve on a bound socket; what libraries warn of goes into the application's log."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    complaints = Complaints(app.state.service.log)
    logging.getLogger().addHandler(complaints)
    listening.listen(128)  # from now on clients can come; they are answered when all is ready
    logger.info("ferkit is at http://%s:%s  (stop: Ctrl+C)", shown, port)
    try:
        server.run([listening])
    finally:
        logging.getLogger().removeHandler(complaints)
        app.state.service.workers.close()  # in whichever way the server ended


def uvicorn_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How the application is served."""
    limits = settings.limits
    most, behind_proxy = limits.max_connections, bool(settings.trusted_proxy)
    # Inside: whoever the proxy speaks for; outside: the connection itself.
    inner: Any = ProxyHeadersMiddleware(cast(Any, app), list(settings.trusted_proxy)) if behind_proxy else app
    watched = Connections(inner, most, most if behind_proxy else max(1, most // 2))
    return uvicorn.Config(
        cast(Any, watched),
        host=settings.host,
        port=settings.port,
        http=cast(Any, watched.protocol),
        ws="websockets-sansio",
        # Frames that are too large are to be answered as such, not only cut off.
        ws_max_size=4 * limits.max_frame_bytes,
        ws_per_message_deflate=False,  # images are compressed already, and what is small could unfold to much
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=32_768,
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


@contextlib.contextmanager
def stopping_is_no_failure() -> Iterator[None]:
    """Let the process end well after a signal to stop, which Uvicorn raises once more at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


class Complaints(logging.Handler):
    """Takes what libraries warn of into the log of events."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self.addFilter(lambda record: not record.name.startswith("python_multipart"))  # of what clients send

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._log.write("warning", source=record.name, message=text)
