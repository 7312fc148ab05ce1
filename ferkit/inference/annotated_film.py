"""Images made of a video and its table: a copy with everything drawn in, its frames, and its faces."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.errors import FerkitError, ImageError
from ferkit.core.faces import Faces
from ferkit.core.files import write_atomically
from ferkit.core.labels import LabelSet
from ferkit.core.progress import progress
from ferkit.faces.crop import square_crop
from ferkit.inference.engine import FrameResult
from ferkit.inference.film import UNSURE_NAME, FaceRow, boxes, frames_of, read_rows
from ferkit.inference.overlay import Overlay, Status
from ferkit.inference.sinks import VideoWriter
from ferkit.inference.smoothing import UNSURE
from ferkit.inference.sources import VideoSource

HOLD_S = 0.5
"""Where a video is looked at seldom, a face without a next reading is shown for so long."""

_CROP_MARGIN = 0.2


def annotate_film(
    video: str | os.PathLike[str],
    table: Path,
    out: Path,
    overlay: Overlay,
    labels: LabelSet,
    *,
    every_s: float = 0.0,
    on_frame: Callable[[int, int], None] | None = None,
) -> None:
    """Write a copy of a video, with its sound; boxes move evenly from one look at the video to the next.

    Args:
        video: path or address.
        table: what was found in it.
        out: video file to make; complete or not there at all.
        overlay: draws.
        labels: the classes of the table.
        every_s: seconds between the frames that were looked at.
        on_frame: called with frames done, and how many the video says it has.

    Raises:
        DataError: the video or the table cannot be read.
        FerkitError: ``out`` cannot be written.
    """
    source = VideoSource(video)
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    readings = _Readings(frames_of(read_rows(table)), labels, max(HOLD_S, 1.5 * every_s))
    try:
        with (
            VideoWriter(partial, source.fps, sound_of=os.fspath(video)) as writer,
            progress("drawing", source.n_frames, unit="frames") as shown,
        ):
            for frame in source:
                result = readings.at(frame.timestamp_s)
                writer.write(overlay.draw(frame.rgb, result, Status()), frame.timestamp_s)
                shown.update(1)
                if on_frame is not None:
                    on_frame(frame.index + 1, source.n_frames)
        partial.replace(out)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def save_images(
    video: str | os.PathLike[str], table: Path, every_s: float, frames: Path | None, faces: Path | None
) -> tuple[int, int]:
    """Save the frames that were looked at, and a square around each face found in them, as JPEG files.

    Args:
        video: path or address.
        table: what was found in it.
        every_s: seconds between the frames that were looked at; 0 for all.
        frames, faces: folders; None saves no such images.

    Returns:
        How many frames and faces were saved.

    Raises:
        DataError: the video or the table cannot be read.
        FerkitError: a folder cannot be written.
    """
    n_frames = n_faces = 0
    rows_of_frames = frames_of(read_rows(table))
    rows = next(rows_of_frames, [])
    for frame in VideoSource(video, every_s):
        name = f"{frame.index:06d}-{frame.timestamp_s:.3f}s"
        if frames is not None:
            save_jpeg(frames / f"{name}.jpg", frame.rgb)
            n_frames += 1
        while rows and rows[0].frame < frame.index:
            rows = next(rows_of_frames, [])
        if faces is None or not rows or rows[0].frame != frame.index:
            continue
        for row in rows:
            with suppress(ImageError):  # a box that has left the image by now
                crop = square_crop(frame.rgb, np.array(row.xyxy), _CROP_MARGIN)
                save_jpeg(faces / f"{name}-face{row.face}.jpg", crop)
                n_faces += 1
    return n_frames, n_faces


def save_jpeg(path: Path, rgb: np.ndarray) -> None:
    """Write an image, uint8 (H, W, 3). Raises FerkitError if that is not possible."""
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not done:
        raise FerkitError(f"{path} could not be written: JPEG takes at most 65535 pixels a side")
    write_atomically(path, lambda file: file.write(np.asarray(jpeg).tobytes()))


class _Readings:
    """Readings at any time, asked for in rising order; two are held at once."""

    def __init__(self, frames: Iterator[list[FaceRow]], labels: LabelSet, longest_s: float) -> None:
        self._frames, self._labels, self._longest_s = frames, labels, longest_s
        self._last: list[FaceRow] = []
        self._next: list[FaceRow] = next(frames, [])

    def at(self, time_s: float) -> FrameResult:
        # The table has milliseconds.
        while self._next and self._next[0].time_s <= time_s + 0.0006:
            self._last, self._next = self._next, next(self._frames, [])
        rows, moved = [], []
        following = {row.face: row for row in self._next}
        for row in self._last:
            later = following.get(row.face)
            if later is not None and later.time_s - row.time_s > self._longest_s:
                later = None  # out of sight in between
            if later is None and time_s - row.time_s > HOLD_S:
                continue
            share = 0.0 if later is None else (time_s - row.time_s) / max(later.time_s - row.time_s, 1e-6)
            here, there = np.array(row.xyxy), np.array((later or row).xyxy)
            rows.append(row)
            moved.append(here + np.clip(share, 0, 1) * (there - here))
        return self._result(rows, moved, time_s)

    def _result(self, rows: list[FaceRow], moved: list[np.ndarray], time_s: float) -> FrameResult:
        number = {name: i for i, name in enumerate(self._labels.names)} | {UNSURE_NAME: UNSURE}
        proba = np.array([row.proba for row in rows], np.float32).reshape(-1, len(self._labels))
        xyxy = boxes(rows) if not moved else np.array(moved, np.float32)
        found = np.array([row.found for row in rows], np.float32)
        faces = Faces(xyxy, found, None, np.array([row.face for row in rows], np.int64))
        quality = np.array([row.quality for row in rows], np.float32)
        label = np.array([number[row.label] for row in rows], np.int64)
        return FrameResult(time_s, faces, quality, proba, proba, label)
