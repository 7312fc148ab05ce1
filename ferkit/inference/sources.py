"""Open what frames come from: cameras, addresses, videos and images.

Cameras and addresses are in :mod:`ferkit.inference.sources`.

What is shown so never lags behind what happens, however slow the machine is.
"""

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np

from ferkit.core.errors import DataError, ImageError
from ferkit.datasets.dataset import image_paths
from ferkit.datasets.images import decode_image

_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_address(spec: str) -> bool:
    """Whether ``spec`` is an address such as ``rtsp://…`` or ``http://…``."""
    return bool(_ADDRESS.match(spec))


class Capture:
    """An open video stream.

    Attributes:
        fps: frames a second, 25 if the stream does not say.
        n_frames: how many it says that it has; 0 for cameras and broken headers.
        size_wh: of the frames in pixels.
    """

    def __init__(self, stream: cv2.VideoCapture) -> None:
        self._stream = stream
        fps = stream.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps < 1000 else 25.0
        n_frames = stream.get(cv2.CAP_PROP_FRAME_COUNT)
        self.n_frames = int(n_frames) if 0 < n_frames < 1e9 else 0
        self.size_wh = int(stream.get(cv2.CAP_PROP_FRAME_WIDTH)), int(stream.get(cv2.CAP_PROP_FRAME_HEIGHT))

    @staticmethod
    def of(spec: str, size_wh: tuple[int, int] | None = None, timeout_s: float = 8.0) -> "Capture":
        """Open a camera by number, an address, or a file.

        Raises:
            DataError: it cannot be opened.
        """
        if spec.isdigit():
            return Capture.of_camera(int(spec), size_wh)
        if is_address(spec):
            return Capture.of_address(spec, timeout_s)
        return Capture.of_file(Path(spec))

    @staticmethod
    def of_camera(number: int, size_wh: tuple[int, int] | None = None) -> "Capture":
        """Open a camera.

        Raises:
            DataError: there is none, or another program has it.
        """
        with _quiet():
            stream = cv2.VideoCapture(number)
        if not stream.isOpened():
            found = sorted(path.name for path in Path("/dev").glob("video[0-9]*"))
            there = f"there are {', '.join(found)}" if found else "no camera was found on this machine"
            raise DataError(
                f"camera {number} cannot be opened: {there}; close other programs that use it, choose "
                "another number, or give a video file or an address as --source"
            )
        if size_wh is not None:
            stream.set(cv2.CAP_PROP_FRAME_WIDTH, size_wh[0])
            stream.set(cv2.CAP_PROP_FRAME_HEIGHT, size_wh[1])
        stream.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return Capture(stream)

    @staticmethod
    def of_address(address: str, timeout_s: float) -> "Capture":
        """Open a network stream.

        Raises:
            DataError: nobody answers there in time, or no video.
        """
        limit_ms = int(timeout_s * 1000)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
        with _quiet():
            stream = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
        if not stream.isOpened():
            raise DataError(
                f"no video from {address} within {timeout_s:.0f} s; check the address, the network, "
                "and any password"
            )
        return Capture(stream)

    @staticmethod
    def of_file(path: Path) -> "Capture":
        """Open a video file.

        Raises:
            DataError: there is none, or it is no video that can be read.
        """
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise DataError(f"expected a video file at {path}, found {found}; check the path")
        if path.stat().st_size == 0:
            raise DataError(f"the video {path} is empty; copy or download it again")
        with _quiet():
            stream = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
            opened = stream.isOpened() and stream.grab()
        if not opened:
            raise DataError(
                f"{path} is not a video that can be read: it is damaged, cut off, or of an unknown format; "
                "try 'ffmpeg -i' on it, or convert it to MP4 with H.264"
            )
        stream.release()
        with _quiet():  # opened again, since going back to the first frame is not exact in every format
            return Capture(cv2.VideoCapture(str(path), cv2.CAP_FFMPEG))

    def grab(self) -> bool:
        """Go to the next frame; False at the end. A few frames that are damaged are passed over."""
        if self._stream.grab():
            return True
        if self.n_frames and self._stream.get(cv2.CAP_PROP_POS_FRAMES) < self.n_frames - 1:
            return any(self._stream.grab() for _ in range(10))
        return False

    def retrieve(self) -> np.ndarray | None:
        """The frame, uint8 RGB (H, W, 3); None if it cannot be decoded."""
        done, frame = self._stream.retrieve()
        return to_rgb(frame) if done and frame is not None and frame.size else None

    def timestamp_s(self, index: int, last_s: float) -> float:
        """When frame ``index`` is shown, later than ``last_s``: by its own time stamp, so that videos of
        variable frame rate are right, and by the average rate where it has none."""
        stamp_s = self._stream.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if index == 0:
            return max(0.0, stamp_s) if stamp_s < 1 else 0.0
        return stamp_s if stamp_s > last_s else last_s + 1 / self.fps

    def __enter__(self) -> "Capture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.release()


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) of what OpenCV gives: BGR, BGRA or gray, 8 or 16 bits."""
    if frame.dtype == np.uint16:
        frame = (frame >> 8).astype(np.uint8)
    if frame.ndim == 2 or frame.shape[2] == 1:
        return cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(frame, cv2.COLOR_BGRA2RGB if frame.shape[2] == 4 else cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV's own remarks would stand beside the one clear sentence."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


_AHEAD = 4
"""Frames that are decoded ahead of those that are worked on."""


@dataclass(frozen=True)
class Frame:
    """One image of a stream.

    Attributes:
        index: its number in the video, from 0; for live sources the number of frames given so far.
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


class VideoSource:
    """Every frame of a video file, or one every ``every_s``, in order.

    Args:
        path: of the file.
        every_s: seconds between frames; 0 gives all.
        start_index: the first frame to give, as its number in the video.

    Attributes:
        n_frames: how many the file says that it has; 0 if it does not say.
        fps: frames a second, on average.
        size_wh: of the frames in pixels.
        broken_at_s: where the video could no longer be read, if that was before its end; None otherwise.

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
                _make_room(frames)
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
            # Kept on the grid, so that a video of any frame rate is looked at as often as was asked for.
            next_s += (
                self._every_s * max(1, int((timestamp_s - next_s) / self._every_s + 1))
                if self._every_s
                else 0
            )
            if index >= self._start_index and (rgb := capture.retrieve()) is not None:
                yield Frame(index, timestamp_s, rgb)
        if 0 < index + 1 < 0.97 * self.n_frames - 2:
            self.broken_at_s = last_s


class ImageFrames:
    """The images of a folder as a video, sorted by name; unreadable ones are left out.

    Raises:
        DataError: there are none.
    """

    def __init__(self, folder: Path, fps: float = 10.0) -> None:
        self.name = folder.name
        self._folder, self.fps = folder, fps
        self._paths = list(image_paths(folder))
        if not self._paths:
            raise DataError(f"expected images in the folder {folder}, found none")
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


def _make_room(frames: "queue.Queue[Frame | BaseException | None]") -> None:
    """Take one item out, if there is any, so that a writer that waits for room can go on."""
    try:
        frames.get_nowait()
    except queue.Empty:
        return


def resize_to_fit(rgb: np.ndarray, longest: int) -> np.ndarray:
    """The same image, scaled down so that its longer side is at most ``longest`` pixels."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return rgb
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA)


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
            self.problem = f"no image from {self.name}; waiting"

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
