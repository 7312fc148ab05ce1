"""A real server on a free port of loopback, in a thread of the test's process."""

import io
import json
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
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from ferkit.serving.app import create_app
from ferkit.serving.routes import Service
from ferkit.serving.server import FerkitServer
from ferkit.serving.settings import settings_from

TOKEN = "a-token-that-nobody-guesses"


@dataclass
class Running:
    """A server, and ways to talk to it."""

    server: FerkitServer
    service: Service
    http: httpx.Client

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def stream_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    @contextmanager
    def stream(self, **start: Any) -> Iterator[ClientConnection]:
        """A stream that is ready, without its message ready."""
        with connect(self.stream_url, compression=None) as socket:
            socket.send(json.dumps({"type": "start", "purpose": "personal", **start}))
            assert json.loads(socket.recv(10))["type"] == "ready"
            yield socket


@contextmanager
def running(models_dir: Path, **options: Any) -> Iterator[Running]:
    """A server with the model ``tiny`` that takes every image as a face."""
    values = {"models_dir": models_dir, "model": "tiny", "detector": "none", "port": 0, "rate": 0.0}
    settings = settings_from({**values, **options})
    app = create_app(settings, console=False)
    started = threading.Event()
    server = FerkitServer(app, settings, lambda _: started.set())
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        assert started.wait(30)
        base = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=base, params={"purpose": "personal"}, timeout=20) as http:
            yield Running(server, app.state.service, http)
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


def until(condition: Any, timeout_s: float = 10.0) -> bool:
    """Wait until something holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


class Gate:
    """A classifier that waits until it is let through."""

    def __init__(self, inner: Any) -> None:
        self.sizes: list[int] = []
        self.inner, self.open, self.entered = inner, threading.Event(), threading.Event()
        self.labels, self.input_size_wh, self.resize = inner.labels, inner.input_size_wh, inner.resize

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        self.sizes.append(len(crops))
        self.entered.set()
        assert self.open.wait(10)
        return self.inner.predict_proba(crops)


def hold(server: Running) -> Gate:
    """Let the model tiny wait from now on, until its gate is opened."""
    trained = server.service.shelf._open["tiny"].trained
    gate = Gate(trained.classifier)
    object.__setattr__(trained, "classifier", gate)
    return gate
