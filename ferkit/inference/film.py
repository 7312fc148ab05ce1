"""A whole film to a table, a row for each face and moment; stopped and resumed at any time, flat in memory."""

import contextlib
import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import csv_cell, csv_text, exclusive_lock, write_json
from ferkit.core.fingerprint import fingerprint
from ferkit.core.labels import LabelSet
from ferkit.inference.engine import Engine, FrameResult
from ferkit.inference.smoothing import UNSURE
from ferkit.inference.sources import FilmSource

TABLE = "faces.csv"
RESUME = "resume.json"
FIXED = (
    "frame",
    "time_s",
    "face",
    "left",
    "top",
    "right",
    "bottom",
    "found",
    "quality",
    "label",
    "raw_label",
)
"""Columns before those of the probabilities, which are called ``p_<class>``."""

UNSURE_NAME = "unsure"

_CHECKPOINT_S = 5.0


@dataclass(frozen=True)
class FilmRun:
    """What became of a film.

    Attributes:
        table: the CSV file with all rows.
        n_frames: frames looked at, those of earlier runs included.
        n_faces: rows.
        resumed_at_s: where in the film this run went on; 0 from the beginning, None if all was there already.
        broken_at_s: where the film could no longer be read, None if it could to its end.
    """

    table: Path
    n_frames: int
    n_faces: int
    resumed_at_s: float | None
    broken_at_s: float | None


@dataclass(frozen=True)
class FaceRow:
    """One row of the table."""

    frame: int
    time_s: float
    face: int
    xyxy: tuple[float, float, float, float]
    found: float
    quality: float
    label: str
    raw_label: str
    proba: tuple[float, ...]


def analyse_film(
    film: Path,
    folder: Path,
    engine: Engine,
    settings: Any,
    *,
    every_s: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> FilmRun:
    """Read all faces of a film into ``folder/faces.csv``.

    A run with the same film and settings goes on where the last one ended, to the same result; with others the
    table is begun anew.

    Args:
        film: video file.
        folder: where the table goes; made if it is not there.
        engine: fresh.
        settings: all that the result depends on, besides the film; plain values or a dataclass.
        every_s: seconds between the frames that are looked at; 0 for all.
        progress: called with frames of the film that are behind, and how many it says it has (0: it does not say).

    Raises:
        DataError: the film cannot be read.
        StoreLockedError: another process is at it.
        FerkitError: the folder cannot be written.
    """
    identity = fingerprint([film.name, film.stat().st_size if film.is_file() else 0, every_s, settings])
    with exclusive_lock(folder / ".lock", "analysing a film into"):
        start = _Checkpoint.read(folder, identity)
        if start.done:
            return FilmRun(folder / TABLE, start.n_frames, start.n_faces, None, start.broken_at_s)
        if start.engine is not None:
            engine.restore(start.engine)
        source = FilmSource(film, every_s, start.next_frame)
        with _open_table(folder / TABLE, start, engine.labels) as table:
            now = start
            saved_at = time.monotonic()
            for frame in source:
                result = engine.process(frame.rgb, frame.timestamp_s)
                table.write(_as_csv(rows_of(frame.index, result, engine.labels)))
                now = now.after(frame.index + 1, frame.timestamp_s, len(result))
                if progress is not None:
                    progress(frame.index + 1, source.n_frames)
                if time.monotonic() - saved_at > _CHECKPOINT_S:
                    now.save(folder, identity, table, engine)
                    saved_at = time.monotonic()
            now.save(folder, identity, table, engine, done=True, broken_at_s=source.broken_at_s)
        return FilmRun(folder / TABLE, now.n_frames, now.n_faces, start.time_s, source.broken_at_s)


def rows_of(index: int, result: FrameResult, labels: LabelSet) -> list[FaceRow]:
    """The rows of one frame."""
    rows = []
    for i in range(len(result)):
        shown = int(result.label[i])
        rows.append(
            FaceRow(
                index,
                result.timestamp_s,
                0 if result.faces.track_id is None else int(result.faces.track_id[i]),
                tuple(float(v) for v in result.faces.xyxy[i]),  # type: ignore[arg-type]
                float(result.faces.confidence[i]),
                float(result.quality[i]),
                UNSURE_NAME if shown == UNSURE else labels.names[shown],
                labels.names[int(result.raw[i].argmax())],
                tuple(float(p) for p in result.proba[i]),
            )
        )
    return rows


def read_rows(table: Path) -> Iterator[FaceRow]:
    """The rows of a table that :func:`analyse_film` wrote, one after the other.

    Raises:
        DataError: it is no such table.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())[: len(FIXED)]) != FIXED:
                raise DataError(
                    f"expected a table of faces in {table}, found other columns; run 'fer video' again"
                )
            for v in reader:
                numbers = [float(value) for value in v[3:9]]
                box = (numbers[0], numbers[1], numbers[2], numbers[3])
                proba = tuple(float(p) for p in v[len(FIXED) :])
                yield FaceRow(
                    int(v[0]),
                    float(v[1]),
                    int(v[2]),
                    box,
                    numbers[4],
                    numbers[5],
                    csv_text(v[9]),
                    csv_text(v[10]),
                    proba,
                )
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{table} cannot be read ({error}); delete it and run 'fer video' again") from None


def frames_of(rows: Iterable[FaceRow]) -> Iterator[list[FaceRow]]:
    """The rows of each frame together."""
    for _, group in groupby(rows, key=lambda row: row.frame):
        yield list(group)


@dataclass(frozen=True)
class _Checkpoint:
    next_frame: int = 0
    time_s: float = 0.0
    n_frames: int = 0
    n_faces: int = 0
    n_bytes: int = 0
    engine: dict[str, Any] | None = None
    done: bool = False
    broken_at_s: float | None = None

    @staticmethod
    def read(folder: Path, identity: str) -> "_Checkpoint":
        """Where the last run ended; the beginning if there was none, or one of other settings."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads((folder / RESUME).read_text(encoding="utf-8"))
            if values.pop("identity") == identity and (folder / TABLE).stat().st_size >= values["n_bytes"]:
                return _Checkpoint(**values)
        return _Checkpoint()

    def after(self, next_frame: int, time_s: float, n_faces: int) -> "_Checkpoint":
        return _Checkpoint(next_frame, time_s, self.n_frames + 1, self.n_faces + n_faces, self.n_bytes)

    def save(
        self,
        folder: Path,
        identity: str,
        table: IO[bytes],
        engine: Engine,
        *,
        done: bool = False,
        broken_at_s: float | None = None,
    ) -> None:
        """Make sure that the rows are on the disk, then note that they are."""
        table.flush()
        os.fsync(table.fileno())
        write_json(
            folder / RESUME,
            {
                "identity": identity,
                "next_frame": self.next_frame,
                "time_s": self.time_s,
                "n_frames": self.n_frames,
                "n_faces": self.n_faces,
                "n_bytes": table.tell(),
                "engine": None if done else engine.state(),
                "done": done,
                "broken_at_s": broken_at_s,
            },
        )


@contextlib.contextmanager
def _open_table(path: Path, start: _Checkpoint, labels: LabelSet) -> Iterator[IO[bytes]]:
    """The table, cut to what the checkpoint knows of."""
    with path.open("r+b" if start.n_bytes else "wb") as file:
        file.truncate(start.n_bytes)
        file.seek(start.n_bytes)
        if not start.n_bytes:
            file.write(_csv_line([*FIXED, *(f"p_{name}" for name in labels.names)]))
        yield file


def _as_csv(rows: list[FaceRow]) -> bytes:
    return b"".join(
        _csv_line([
            row.frame, f"{row.time_s:.3f}", row.face, *(f"{v:.1f}" for v in row.xyxy), f"{row.found:.3f}",
            f"{row.quality:.3f}", csv_cell(row.label), csv_cell(row.raw_label), *(f"{p:.4f}" for p in row.proba),
        ])
        for row in rows
    )  # fmt: skip


def _csv_line(values: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()


def boxes(rows: list[FaceRow]) -> np.ndarray:
    """float32 (n, 4)."""
    return np.array([row.xyxy for row in rows], np.float32).reshape(-1, 4)
