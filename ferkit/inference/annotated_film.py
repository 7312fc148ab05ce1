"""A film with what was read drawn into it, from the film and its table."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from ferkit.core.faces import Faces
from ferkit.core.labels import LabelSet
from ferkit.inference.engine import FrameResult
from ferkit.inference.film import UNSURE_NAME, FaceRow, boxes, frames_of, read_rows
from ferkit.inference.overlay import Overlay, Status
from ferkit.inference.sinks import Recorder
from ferkit.inference.smoothing import UNSURE
from ferkit.inference.sources import FilmSource

HOLD_S = 0.5
"""Where a film is looked at seldom, a face without a next reading is shown for so long."""


def annotate_film(
    film: Path,
    table: Path,
    out: Path,
    overlay: Overlay,
    labels: LabelSet,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``out``; boxes move evenly from reading to reading, sound is kept where ffmpeg is there.

    Args:
        film: video file.
        table: what was read in it.
        out: video file to make, ``.mp4``; complete or not there at all.
        overlay: draws.
        labels: the classes of the table.
        progress: called with frames done, and how many the film says it has.

    Raises:
        DataError: the film or the table cannot be read.
        FerkitError: ``out`` cannot be written.
    """
    source = FilmSource(film)
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    readings = _Readings(frames_of(read_rows(table)), labels)
    try:
        with Recorder(partial, source.fps, sound_of=film) as recorder:
            for frame in source:
                result = readings.at(frame.timestamp_s)
                recorder.write(overlay.draw(frame.rgb, result, Status()), frame.timestamp_s)
                if progress is not None:
                    progress(frame.index + 1, source.n_frames)
        partial.replace(out)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


class _Readings:
    """Readings at any time, asked for in rising order; two are held at once."""

    def __init__(self, frames: Iterator[list[FaceRow]], labels: LabelSet) -> None:
        self._frames = frames
        self._labels = labels
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
