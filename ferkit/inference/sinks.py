"""Where frames go: video files, with the sound of another one where ffmpeg can bring it over."""

import contextlib
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import cv2
import numpy as np

from ferkit.core.errors import FerkitError


class VideoSink(Protocol):
    """Takes frames of one size."""

    def write(self, rgb: np.ndarray) -> None:
        """Add a frame, uint8 (H, W, 3). Raises FerkitError if it cannot be written."""
        ...

    def close(self) -> None:
        """Finish the file. Raises FerkitError if it cannot be finished."""
        ...


class FfmpegSink:
    """H.264 through ffmpeg, which plays everywhere.

    Args:
        path: of the file to make.
        size_wh: of the frames.
        fps: frames a second.
        sound_of: a video whose sound is kept; None for silence.
    """

    def __init__(
        self, path: Path, size_wh: tuple[int, int], fps: float, sound_of: Path | None = None
    ) -> None:
        self._path = path
        sound_in = [] if sound_of is None else ["-i", str(sound_of)]
        sound_out = [] if sound_of is None else ["-map", "0:v:0", "-map", "1:a?", "-c:a", "aac"]
        even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # H.264 wants even sides
        command = [
            "ffmpeg", "-y", "-loglevel", "error",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size_wh[0]}x{size_wh[1]}", "-r", f"{fps:.6f}", "-i", "-",
            *sound_in, *sound_out, "-vf", even, "-c:v", "libx264", "-preset", "veryfast", "-crf", "20",
            "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def write(self, rgb: np.ndarray) -> None:
        try:
            self._pipe.write(np.ascontiguousarray(rgb).reshape(-1).data)
        except OSError:
            raise FerkitError(f"{self._path} could not be written: {self._words()}") from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()
        if self._process.wait() != 0:
            raise FerkitError(f"{self._path} could not be written: {self._words()}")

    def _words(self) -> str:
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "ffmpeg ended without a word"


class OpenCVSink:
    """MPEG-4 through OpenCV: no sound, but nothing needs to be installed."""

    def __init__(self, path: Path, size_wh: tuple[int, int], fps: float) -> None:
        self._path = path
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_wh)
        if not self._writer.isOpened():
            raise FerkitError(
                f"{path} cannot be written as a video; check the folder and its permissions, and name it .mp4"
            )

    def write(self, rgb: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()


def ffmpeg_is_there() -> bool:
    """Whether sound can be kept and H.264 be written."""
    return shutil.which("ffmpeg") is not None


def open_video_sink(
    path: Path, size_wh: tuple[int, int], fps: float, sound_of: Path | None = None
) -> VideoSink:
    """The best writer that is there.

    Raises:
        FerkitError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FerkitError(f"{path.parent} cannot be made: {error.strerror}; choose another folder") from None
    return FfmpegSink(path, size_wh, fps, sound_of) if ffmpeg_is_there() else OpenCVSink(path, size_wh, fps)


class Recorder:
    """A video from frames that come when they come: they are repeated or left out to keep the pace.

    Args:
        path: of the file to make.
        fps: frames a second of the file.
        sound_of: a video whose sound is kept, where ffmpeg is there.
    """

    def __init__(self, path: Path, fps: float = 25.0, sound_of: Path | None = None) -> None:
        self.path = path
        self._fps = fps
        self._sound_of = sound_of
        self._sink: VideoSink | None = None
        self._size_wh = (0, 0)
        self._began_s = 0.0
        self._n = 0

    def write(self, rgb: np.ndarray, timestamp_s: float) -> None:
        """Add what was seen at ``timestamp_s``; a frame of another size is fitted. Raises FerkitError."""
        if self._sink is None:
            self._size_wh, self._began_s = (rgb.shape[1], rgb.shape[0]), timestamp_s
            self._sink = open_video_sink(self.path, self._size_wh, self._fps, self._sound_of)
        if (rgb.shape[1], rgb.shape[0]) != self._size_wh:
            rgb = cv2.resize(rgb, self._size_wh)
        while self._n <= (timestamp_s - self._began_s) * self._fps + 0.5:
            self._sink.write(rgb)
            self._n += 1

    def close(self) -> None:
        """Finish the file. Raises FerkitError."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
