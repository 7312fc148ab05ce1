"""The server that ``fer serve`` runs: Uvicorn, set up for strangers."""

import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import cv2
import uvicorn
from fastapi import FastAPI

from ferkit.core.errors import FerkitError
from ferkit.serving.connections import ImpatientWebSocket, http_protocol
from ferkit.serving.log import EventLog
from ferkit.serving.settings import ServeSettings

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
        # The process is this server's own. Pictures are read side by side; threads within one would be in the way.
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
        ws=ImpatientWebSocket,
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
