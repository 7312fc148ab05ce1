"""Where frames come from: films, cameras, addresses and folders of pictures.

Each source reads in a thread of its own. A film gives every frame in order; a live source gives the newest
frame and forgets the others, so that what is shown never lags behind.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ferkit.core.errors import DataError, ImageError
from ferkit.datasets.files import picture_paths
from ferkit.datasets.images import decode_image
from ferkit.inference.capture import Capture, is_address

_AHEAD = 4
"""Frames that are decoded ahead of those that are worked on."""

_MAX_WAIT_S = 5.0


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    Attributes:
        index: its number in the film, from 0; for live sources the number of frames given so far.
        timestamp_s: since the beginning; rising.
        rgb: uint8 (H, W, 3).
    """

    index: int
    timestamp_s: float
    rgb: np.ndarray


class FrameSource(Protocol):
    """A stream of frames; iterating it once opens and closes it."""

    name: str

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Stop reading; the iteration ends."""
        ...


class FilmSource:
    """Every frame of a video file, or one every ``every_s``, in order.

    Args:
        path: of the file.
        every_s: seconds between frames; 0 gives all.
        start_index: the first frame to give, as its number in the film.

    Attributes:
        n_frames: how many the file says that it has; 0 if it does not say.
        fps: frames a second, on average.
        size_wh: of the frames in pixels.
        broken_at_s: where the film could no longer be read, if that was before its end; None otherwise.

    Raises:
        DataError: there is no such file, or it is no video.
    """

    def __init__(self, path: Path, every_s: float = 0.0, start_index: int = 0) -> None:
        self.name = path.name
        self._path, self._every_s, self._start_index = path, every_s, start_index
        with Capture.of_file(path) as capture:
            self.n_frames, self.fps, self.size_wh = capture.n_frames, capture.fps, capture.size_wh
        self.broken_at_s: float | None = None
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        frames: queue.Queue[Frame | BaseException | None] = queue.Queue(_AHEAD)
        thread = threading.Thread(target=self._read_into, args=(frames,), name="film", daemon=True)
        thread.start()
        try:
            while (item := frames.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.close()
            while thread.is_alive():  # it may wait for room
                with_room(frames)
                thread.join(0.05)

    def close(self) -> None:
        self._stop.set()

    def _read_into(self, frames: "queue.Queue[Frame | BaseException | None]") -> None:
        try:
            with Capture.of_file(self._path) as capture:
                for frame in self._wanted(capture):
                    frames.put(frame)
                    if self._stop.is_set():
                        break
            frames.put(None)
        except BaseException as error:  # whoever iterates gets it
            frames.put(error)

    def _wanted(self, capture: Capture) -> Iterator[Frame]:
        index, last_s, next_s = -1, -1.0, 0.0
        while capture.grab():
            index += 1
            timestamp_s = capture.timestamp_s(index, last_s)
            last_s = timestamp_s
            if timestamp_s < next_s - 1e-6:
                continue
            # Kept on the grid, so that a film of any frame rate is looked at as often as was asked for.
            next_s += (
                self._every_s * max(1, int((timestamp_s - next_s) / self._every_s + 1))
                if self._every_s
                else 0
            )
            if index >= self._start_index and (rgb := capture.retrieve()) is not None:
                yield Frame(index, timestamp_s, rgb)
        if 0 < index + 1 < 0.97 * self.n_frames - 2:
            self.broken_at_s = last_s


class PictureSource:
    """The pictures of a folder as a film, sorted by name; unreadable ones are left out.

    Raises:
        DataError: there are none.
    """

    def __init__(self, folder: Path, fps: float = 10.0) -> None:
        self.name = folder.name
        self._folder, self.fps = folder, fps
        self._paths = list(picture_paths(folder))
        if not self._paths:
            raise DataError(f"expected pictures in the folder {folder}, found none")
        self.n_frames = len(self._paths)
        self._stopped = False

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if self._stopped:
                return
            try:
                rgb = decode_image((self._folder / path).read_bytes())
            except (ImageError, OSError):
                continue
            yield Frame(index, index / self.fps, rgb)

    def close(self) -> None:
        self._stopped = True


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


def with_room(frames: "queue.Queue[Frame | BaseException | None]") -> None:
    """Take one item out, if there is any, so that a writer that waits for room can go on."""
    try:
        frames.get_nowait()
    except queue.Empty:
        return


def resize_to_fit(rgb: np.ndarray, longest: int) -> np.ndarray:
    """The same picture, scaled down so that its longer side is at most ``longest`` pixels."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return rgb
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA)
