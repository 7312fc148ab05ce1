"""Cameras, addresses, and files as if they were cameras: the newest frame counts, and the others are forgotten.

What is shown so never lags behind what happens, however slow the machine is.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.inference.capture import Capture, is_address
from ferkit.inference.sources import Frame

_MAX_WAIT_S = 5.0


class LiveSource:
    """The newest frame of a camera, an address, or a file played at its own speed.

    A camera or address that falls silent is opened again and again until it is back.

    Args:
        spec: number of a camera, address (rtsp, http, …) or path of a file.
        size_wh: frame size to ask a camera for.
        timeout_s: how long an address may take to answer.

    Attributes:
        problem: what is wrong at the moment, for the user; None while frames come.

    Raises:
        DataError: when iterated, if it cannot be opened at all.
    """

    def __init__(self, spec: str, size_wh: tuple[int, int] | None = None, timeout_s: float = 8.0) -> None:
        self.name = f"camera {spec}" if spec.isdigit() else spec if is_address(spec) else Path(spec).name
        self.problem: str | None = None
        self._spec, self._size_wh, self._timeout_s = spec, size_wh, timeout_s
        self._is_file = not spec.isdigit() and not is_address(spec)
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._newest: np.ndarray | None = None
        self._newest_s = 0.0
        self._error: BaseException | None = None
        self._opened = self._ended = False

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame in self.frames(60.0) if frame is not None)

    def frames(self, patience_s: float = 0.1) -> Iterator[Frame | None]:
        """Frames as they come; None whenever there was no new one for ``patience_s``, so that whoever waits
        can do something else, such as look whether a key was pressed."""
        thread = threading.Thread(target=self._run, name="camera", daemon=True)
        began = time.monotonic()
        thread.start()
        index, last_s = 0, -1.0
        try:
            while not self._stop.is_set():
                item = self._wait(patience_s)
                if item is None:
                    if self._ended:
                        return
                    self._check_silence(began)
                    yield None
                    continue
                rgb, taken_s = item
                last_s = max(taken_s - (0.0 if self._is_file else began), last_s + 1e-4)
                yield Frame(index, last_s, rgb)
                index += 1
        finally:
            self.close()
            thread.join(1.0)

    def close(self) -> None:
        self._stop.set()
        with self._news:
            self._news.notify_all()

    def _wait(self, patience_s: float) -> tuple[np.ndarray, float] | None:
        """The newest frame and when it was taken; None if none comes for so long, or at the end."""
        with self._news:
            if self._newest is None and not self._ended:
                self._news.wait(patience_s)
            if self._newest is None:
                if self._error is not None:
                    raise self._error
                return None
            rgb, self._newest = self._newest, None
            return rgb, self._newest_s

    def _check_silence(self, began: float) -> None:
        waited_s = time.monotonic() - max(began, self._newest_s if self._opened else began)
        if not self._opened and waited_s > self._timeout_s + 2:
            raise DataError(
                f"{self._spec} did not answer within {self._timeout_s:.0f} s; check the address and the network"
            )
        if self.problem is None and waited_s > 2.0 and not self._is_file:
            self.problem = f"no picture from {self.name}; waiting"

    def _run(self) -> None:
        pause_s = 0.5
        while not self._stop.is_set():
            try:
                with Capture.of(self._spec, self._size_wh, self._timeout_s) as capture:
                    self._opened = True
                    n_frames = self._follow(capture)
                if n_frames:
                    pause_s = 0.5
            except DataError as error:
                if not self._opened:
                    self._end(error)
                    return
            except BaseException as error:
                self._end(error)
                return
            if self._is_file:
                break
            self.problem = f"{self.name} is gone; trying to reach it again"
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, _MAX_WAIT_S)
        self._end(None)

    def _follow(self, capture: Capture) -> int:
        index, began, last_s = 0, time.monotonic(), -1.0
        while not self._stop.is_set() and capture.grab():
            if self._is_file:
                last_s = capture.timestamp_s(index, last_s)
                self._stop.wait(max(0.0, began + last_s - time.monotonic()))
                if time.monotonic() > began + last_s + 0.25:  # too late to be seen by anybody
                    index += 1
                    continue
            rgb = capture.retrieve()
            if rgb is not None:
                with self._news:
                    self._newest = rgb
                    self._newest_s = last_s if self._is_file else time.monotonic()
                    self.problem = None
                    self._news.notify_all()
            index += 1
        return index

    def _end(self, error: BaseException | None) -> None:
        with self._news:
            self._error, self._ended = error, True
            self._news.notify_all()
