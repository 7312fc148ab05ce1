"""Where frames come from: films, every frame of which is given in order, and folders of pictures.

Cameras and addresses are in :mod:`ferkit.inference.live_source`.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ferkit.core.errors import ImageError
from ferkit.core.files import read_regular
from ferkit.datasets.images import decode_image
from ferkit.datasets.load import list_source
from ferkit.inference.capture import Capture

_AHEAD = 4
"""Frames that are decoded ahead of those that are worked on."""


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
        self._paths = list_source(folder).paths
        self.n_frames = len(self._paths)
        self._stopped = False

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if self._stopped:
                return
            try:
                rgb = decode_image(read_regular(self._folder / path))
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
    """The same picture, scaled down so that its longer side is at most ``longest`` pixels."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return rgb
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA)
