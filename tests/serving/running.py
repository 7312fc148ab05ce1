"""A real server on a free port of loopback, in a thread of the test's process."""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from ferkit.serving.app import create_app, listen, serve_on, uvicorn_config
from ferkit.serving.routes import Service
from ferkit.serving.settings import settings_from

TOKEN = "a-token-that-nobody-guesses"

PATIENCE_S = 60.0
"""How long tests wait for what must come: a busy machine is slow, and waiting ends when it has come."""


@dataclass
class Running:
    """A server, and ways to talk to it."""

    server: uvicorn.Server
    service: Service
    http: httpx.Client
    port: int

    @property
    def stream_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    @contextmanager
    def stream(self, **start: Any) -> Iterator[ClientConnection]:
        """A stream that is ready, without its message ready."""
        with connect(self.stream_url, compression=None) as stream:
            stream.send(json.dumps({"type": "start", "purpose": "personal", **start}))
            assert json.loads(stream.recv(PATIENCE_S))["type"] == "ready"
            yield stream


@contextmanager
def running(models_dir: Path, **options: Any) -> Iterator[Running]:
    """A server with the model ``tiny`` that takes every image as a face."""
    values = {
        "models_dir": models_dir, "model": "tiny", "detector": "none", "port": 0, "rate": 0.0, "processes": 1,
    }  # fmt: skip
    settings = settings_from({**values, **options})
    app = create_app(settings, console=False)
    listening = listen(settings.host, settings.port)
    listening.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, 65536
    )  # so that those who take nothing show soon
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn_config(app, settings))
    thread = threading.Thread(target=serve_on, args=(listening, server, app), name="server")
    thread.start()
    try:
        assert until(lambda: server.started)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", params={"purpose": "personal"}, timeout=PATIENCE_S
        ) as http:
            yield Running(server, app.state.service, http, port)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def image(level: int = 225, size_wh: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    """A flat image's file; the model tiny reads 30 as sad, 128 as neutral, 225 as happy."""
    file = io.BytesIO()
    Image.fromarray(np.full((size_wh[1], size_wh[0], 3), level, np.uint8)).save(file, kind)
    return file.getvalue()


def frame(number: int, content: bytes, captured_ms: float | None = None) -> bytes:
    """A frame as a client sends it."""
    return struct.pack("<Id", number, time.time() * 1000 if captured_ms is None else captured_ms) + content


def until(condition: Any, timeout_s: float = PATIENCE_S) -> bool:
    """Wait until something holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def held(server: Running, worker: int = 0) -> Iterator[Any]:
    """Let a worker stand still; gives what lets it go on, which happens at the end at the latest."""
    pid = server.service.workers.all[worker].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    try:
        yield go_on
    finally:
        go_on()
