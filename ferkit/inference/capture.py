"""OpenCV's video reader with clear errors, time-outs, and frames that are always uint8 RGB."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ferkit.core.errors import DataError

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
        """When frame ``index`` is shown, later than ``last_s``: by its own time stamp, so that films of
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
