"""A detector in a process of its own, which may crash, hang or grow without taking the session with it.

``python -m ferkit.faces.process`` is the other side.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import TracebackType

import numpy as np

from ferkit.core.arrays import check_image
from ferkit.core.errors import DependencyError, FerkitError, WeightsError
from ferkit.core.faces import Faces
from ferkit.faces.detectors import open_detector

START_S = 90.0
"""How long the other side may take to begin: importing MediaPipe may import TensorFlow."""

_KEY = "FERKIT_DETECTOR_KEY"


class ProcessDetector:
    """Runs a detector elsewhere and starts it again when it dies, hangs or grows.

    A frame in which it failed has no faces.

    Args:
        name, weights, min_confidence: see :func:`ferkit.faces.detectors.open_detector`.
        timeout_s: how long one picture may take.
        max_growth_mb: it is started anew when its memory grew by so much since its first pictures.
        patience: failures in a row after which it is given up.

    Attributes:
        n_restarts: how often it had to be started again.

    Raises:
        WeightsError, DependencyError: the detector cannot be opened over there.
    """

    def __init__(
        self,
        name: str,
        weights: Path | None = None,
        min_confidence: float | None = None,
        *,
        timeout_s: float = 10.0,
        max_growth_mb: float = 500.0,
        patience: int = 5,
    ) -> None:
        self.name = name
        self.n_restarts = 0
        self._spec = (name, None if weights is None else str(weights), min_confidence)
        self._timeout_s, self._max_growth_mb, self._patience = timeout_s, max_growth_mb, patience
        self._failures = self._n_pictures = 0
        self._first_mb = 0.0
        self._start()

    @property
    def pid(self) -> int:
        """Number of the process that detects."""
        return self._process.pid

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces of ``rgb``, uint8 (H, W, 3); none if the detector failed on it.

        Raises:
            FerkitError: it failed several times in a row.
        """
        check_image(rgb)
        try:
            self._link.send(rgb.shape)
            self._link.send_bytes(np.ascontiguousarray(rgb).reshape(-1).data)
            if not self._link.poll(self._timeout_s):
                raise TimeoutError
            faces, megabytes = self._link.recv()
        except (OSError, EOFError, TimeoutError):
            self._failures += 1
            if self._failures > self._patience:
                raise FerkitError(
                    f"the detector {self.name} failed {self._failures} times in a row; "
                    "take another one with --detector"
                ) from None
            self._restart()
            return Faces.none()
        self._failures = 0
        self._n_pictures += 1
        if self._n_pictures == 20:
            self._first_mb = megabytes
        elif self._n_pictures > 20 and megabytes - self._first_mb > self._max_growth_mb:
            self._restart()
        return faces

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._link.close()
        self._process.kill()
        self._process.wait()

    def _restart(self) -> None:
        self.close()
        self.n_restarts += 1
        self._start()

    def _start(self) -> None:
        key = secrets.token_bytes(16)
        self._n_pictures = 0
        with Listener(authkey=key) as listener:
            environment = {**os.environ, _KEY: key.hex()}
            command = [sys.executable, "-m", __name__, str(listener.address)]
            # What it prints is of no use to whoever looks at results; how it ended is said below.
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._link = self._accept(listener)
        self._link.send(self._spec)
        if not self._link.poll(START_S):
            self.close()
            raise FerkitError(f"the detector {self.name} did not start within {START_S:.0f} s; try again")
        try:
            answer = self._link.recv()
        except EOFError:
            self.close()
            raise FerkitError(
                f"the detector {self.name} ended while it started (code {self._process.returncode}); "
                "take another one with --detector"
            ) from None
        if isinstance(answer, str):
            self.close()
            raise (
                DependencyError(answer)
                if answer.startswith(f"{self.name} is not installed")
                else WeightsError(answer)
            )

    def _accept(self, listener: Listener) -> Connection:
        """Wait for the other side, but not for one that has died."""
        import threading

        links: list[Connection] = []
        thread = threading.Thread(target=lambda: links.append(listener.accept()), daemon=True)
        thread.start()
        began = time.monotonic()
        while thread.is_alive() and self._process.poll() is None and time.monotonic() - began < START_S:
            thread.join(0.05)
        if not links:
            self._process.kill()
            raise FerkitError(f"the detector {self.name} could not be started in a process of its own")
        return links[0]

    def __enter__(self) -> "ProcessDetector":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process") and self._process.poll() is None:
            self._process.kill()


def memory_mb() -> float:
    """Memory that this process holds, in megabytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, IndexError):
        return 0.0


def serve(address: str) -> None:
    """Detect whatever comes over ``address`` until it is closed."""
    with Client(address, authkey=bytes.fromhex(os.environ.pop(_KEY))) as link:
        name, weights, min_confidence = link.recv()
        try:
            detector = open_detector(name, None if weights is None else Path(weights), min_confidence)
        except FerkitError as error:
            link.send(str(error))
            return
        link.send(None)
        with contextlib.suppress(EOFError, OSError):
            while True:
                shape = link.recv()
                rgb = np.frombuffer(link.recv_bytes(), np.uint8).reshape(shape)
                link.send((detector.detect(rgb), memory_mb()))


if __name__ == "__main__":
    serve(sys.argv[1])
