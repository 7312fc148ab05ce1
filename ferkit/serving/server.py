"""The server that ``fer serve`` runs: Uvicorn, set up for strangers."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ferkit.core.errors import FerkitError
from ferkit.serving.connections import Connections
from ferkit.serving.log import EventLog
from ferkit.serving.settings import ServeSettings

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
        app.state.service.workers.close()  # whatever way the server ended


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
        ws_per_message_deflate=False,  # pictures are compressed already, and what is small could unfold to much
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
