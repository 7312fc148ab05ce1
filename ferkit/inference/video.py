"""Predict the expressions in a video over time: table, summary, timeline and images."""

import contextlib
import csv
import io
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import DataError, FerkitError, ImageError
from ferkit.core.files import (
    csv_cell,
    csv_text,
    exclusive_lock,
    file_sha256,
    fingerprint,
    is_address,
    write_atomically,
    write_json,
)
from ferkit.core.labels import LabelSet
from ferkit.core.style import HINT, can_draw, drawable_names, set_fonts
from ferkit.core.texts import Translations
from ferkit.faces.cropping import square_crop
from ferkit.faces.drawing import UNSURE_COLOR, label_colors
from ferkit.inference.engine import Engine, FrameResult
from ferkit.inference.sources import VideoSource, source_name

logger = logging.getLogger(__name__)

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
class VideoRun:
    """What became of a video.

    Attributes:
        table: the CSV file with all rows.
        n_frames: frames looked at, those of earlier runs included.
        n_faces: rows.
        resumed_at_s: where in the video this run went on; 0 from the beginning, None if all was there already.
        broken_at_s: where the video could no longer be read, None if it could to its end.
        n_damaged: how many parts of it were damaged.
    """

    table: Path
    n_frames: int
    n_faces: int
    resumed_at_s: float | None
    broken_at_s: float | None
    n_damaged: int


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


def analyse_video(
    video: str | os.PathLike[str],
    folder: Path,
    engine: Engine,
    settings: Any,
    *,
    every_s: float = 0.0,
    on_frame: Callable[[int, int], None] | None = None,
) -> VideoRun:
    """Write all faces of a video into ``folder/faces.csv``.

    A run with the same video and settings goes on where the last one ended, to the same result; with others the
    table is started again.

    Args:
        video: path or address.
        folder: where the table goes; made if it is not there.
        engine: fresh.
        settings: all that the result depends on, besides the video; plain values or a dataclass.
        every_s: seconds between the frames that are looked at; 0 for all.
        on_frame: called with frames of the video that are behind, and how many it says it has (0: it does not say).

    Raises:
        DataError: the video cannot be read.
        StoreLockedError: another process is at it.
        FerkitError: the folder cannot be written.
    """
    spec = os.fspath(video)
    content = source_name(spec)
    with suppress(OSError):  # whoever opens it says why
        if not is_address(spec) and Path(spec).is_file():  # a pipe can be read only once
            content = file_sha256(Path(spec))
    identity = fingerprint([content, every_s, settings])
    with exclusive_lock(folder / ".lock", "analysing a video into"):
        start = _Checkpoint.read(folder, identity)
        if start.done:
            return start.as_run(folder, None)
        if start.engine is not None:
            engine.restore(start.engine)
        source = VideoSource(spec, every_s, start.next_frame)
        # A face that one look misses is not forgotten, however seldom the looks are.
        followed, gap_s = engine.tracker.settings, max(every_s, 1 / source.fps)
        engine.tracker.settings = replace(followed, keep_s=max(followed.keep_s, 2.1 * gap_s))
        for remark in source.remarks:
            logger.info(remark)
        with (
            _open_table(folder / TABLE, start, engine.labels) as table,
            progress("analysing", source.n_frames, done=start.next_frame, unit="frames") as shown,
        ):
            now = start
            saved_at = time.monotonic()
            for frame in source:
                if frame.cut:
                    engine.reset(renumber=False)
                result = engine.process(frame.rgb, frame.timestamp_s)
                table.write(_as_csv(rows_of(frame.index, result, engine.labels)))
                shown.update(frame.index + 1 - now.next_frame)
                now = now.after(frame.index + 1, frame.timestamp_s, len(result))
                if on_frame is not None:
                    on_frame(frame.index + 1, source.n_frames)
                if time.monotonic() - saved_at > _CHECKPOINT_S:
                    now.save(folder, identity, table, engine)
                    saved_at = time.monotonic()
            now = replace(now, done=True, broken_at_s=source.broken_at_s, n_damaged=source.n_damaged)
            now.save(folder, identity, table, engine)
        return now.as_run(folder, start.time_s)


def rows_of(index: int, result: FrameResult, labels: LabelSet) -> list[FaceRow]:
    """The rows of one frame."""
    faces, names, rows = result.faces, [*labels.names, UNSURE_NAME], []
    ids = np.zeros(len(faces), int) if faces.track_id is None else faces.track_id
    for i, (xyxy, raw) in enumerate(zip(faces.xyxy.tolist(), result.raw.argmax(axis=1), strict=True)):
        found, quality = float(faces.confidence[i]), float(result.quality[i])
        shown, proba = names[result.label[i]], tuple(result.proba[i].tolist())  # unsure is -1
        rows.append(FaceRow(index, result.timestamp_s, int(ids[i]), tuple(xyxy), found, quality,
                            shown, names[raw], proba))  # fmt: skip
    return rows


def read_rows(table: Path) -> Iterator[FaceRow]:
    """The rows of a table that :func:`analyse_video` wrote, one after the other.

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
            for row in reader:
                frame, time_s, face, *numbers, label, raw_label = row[: len(FIXED)]
                left, top, right, bottom, found, quality = map(float, numbers)
                xyxy, proba = (left, top, right, bottom), tuple(map(float, row[len(FIXED) :]))
                yield FaceRow(int(frame), float(time_s), int(face), xyxy, found, quality,
                              csv_text(label), csv_text(raw_label), proba)  # fmt: skip
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error}); delete it and run 'fer video' again") from None


def json_pieces(head: dict[str, Any], table: Path, names: Sequence[str]) -> Iterator[str]:
    """A JSON document of ``head`` and all rows of a table as ``faces``, piece by piece: it may be long."""
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "faces": ['
    for i, row in enumerate(read_rows(table)):
        proba = dict(zip(names, row.proba, strict=True))
        face = {
            "frame": row.frame, "time_s": row.time_s, "face": row.face, "box": row.xyxy,
            "confidence": proba.get(row.label, max(row.proba)), "quality": row.quality,
            "label": row.label, "raw_label": row.raw_label, "probabilities": proba,
        }  # fmt: skip
        yield (",\n" if i else "\n") + json.dumps(face, ensure_ascii=False)
    yield "\n]}\n"


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
    n_damaged: int = 0

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

    def as_run(self, folder: Path, resumed_at_s: float | None) -> VideoRun:
        counts = self.n_frames, self.n_faces
        return VideoRun(folder / TABLE, *counts, resumed_at_s, self.broken_at_s, self.n_damaged)

    def save(self, folder: Path, identity: str, table: IO[bytes], engine: Engine) -> None:
        """Make sure that the rows are on the disk, then note that they are."""
        table.flush()
        os.fsync(table.fileno())
        saved = replace(self, n_bytes=table.tell(), engine=None if self.done else engine.state())
        write_json(folder / RESUME, {"identity": identity, **asdict(saved)})


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


FULL_SCORE = 100
"""Points that everybody starts with; every negative reading takes one away."""


@dataclass
class PersonSummary:
    """One person of a video.

    Attributes:
        face: number in the table.
        first_s, last_s: when first and last seen.
        n: readings.
        labels: how many of them showed each label, ``unsure`` among them.
        changes: how often the label changed.
        n_negative: readings with a negative expression.
    """

    face: int
    first_s: float
    last_s: float
    n: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    n_negative: int = 0
    _last: str | None = None

    @property
    def score(self) -> int:
        """100 points, minus one for each negative reading, not below 0: so it falls with the number of readings,
        and says something only between videos that were looked at equally often and long."""
        return max(0, FULL_SCORE - self.n_negative)

    @property
    def changes_per_minute(self) -> float:
        """Changes of the label in a minute that the person was seen."""
        return 60 * self.changes / max(self.last_s - self.first_s, 1.0)


@dataclass(frozen=True)
class VideoSummary:
    """All persons of a video, who was seen longest first."""

    people: list[PersonSummary]
    n_readings: int

    @property
    def labels(self) -> Counter[str]:
        """Readings of each label, of all people."""
        return sum((person.labels for person in self.people), Counter())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        people = [{
            "face": p.face, "first_s": round(p.first_s, 3), "last_s": round(p.last_s, 3), "n_readings": p.n,
            "labels": dict(p.labels), "changes_per_minute": round(p.changes_per_minute, 2),
            "n_negative": p.n_negative, "score": p.score,
        } for p in self.people]  # fmt: skip
        return {"n_readings": self.n_readings, "labels": dict(self.labels), "people": people}


def summarise(rows: Iterable[FaceRow], labels: LabelSet) -> VideoSummary:
    """Go through all rows once; memory grows with the number of people only."""
    negative = negative_labels(labels)
    people: dict[int, PersonSummary] = {}
    n = 0
    for row in rows:
        n += 1
        person = people.setdefault(row.face, PersonSummary(row.face, row.time_s, row.time_s))
        person.last_s = row.time_s
        person.n += 1
        person.labels[row.label] += 1
        person.n_negative += row.label in negative
        if person._last is not None and row.label != person._last:
            person.changes += 1
        person._last = row.label
    return VideoSummary(sorted(people.values(), key=lambda p: (-p.n, p.face)), n)


def negative_labels(labels: LabelSet) -> frozenset[str]:
    """The classes that count as negative."""
    valence = LabelSet.named("valence3")
    index = labels.map_to(valence).index
    return frozenset(
        name for name, i in zip(labels.names, index, strict=True) if i >= 0 and valence.names[i] == "negative"
    ) - {UNSURE_NAME}


N_PEOPLE = 6
N_COLUMNS = 900


class Timeline:
    """Probabilities and labels of the people seen longest, in as many columns as an image can show.

    Args:
        summary: of the video.
        labels: the classes.
    """

    def __init__(self, summary: VideoSummary, labels: LabelSet) -> None:
        self.people = summary.people[:N_PEOPLE]
        self.labels = labels
        self.end_s = max((p.last_s for p in self.people), default=0.0)
        self.start_s = min((p.first_s for p in self.people), default=0.0)
        self._row_of = {p.face: i for i, p in enumerate(self.people)}
        n_readings = max((p.n for p in self.people), default=1)
        self.n_columns = int(np.clip(n_readings, 1, N_COLUMNS))
        self.proba = np.zeros((len(self.people), self.n_columns, len(labels)))
        self.counts = np.zeros((len(self.people), self.n_columns), np.int64)
        self.shown = np.full((len(self.people), self.n_columns), -2, np.int64)

    def add(self, rows: Iterable[FaceRow]) -> "Timeline":
        """Take in all rows."""
        span_s = max(self.end_s - self.start_s, 1e-6)
        number = {name: i for i, name in enumerate(self.labels.names)} | {UNSURE_NAME: -1}
        for row in rows:
            i = self._row_of.get(row.face)
            if i is None:
                continue
            column = min(self.n_columns - 1, int((row.time_s - self.start_s) / span_s * self.n_columns))
            self.proba[i, column] += row.proba
            self.counts[i, column] += 1
            self.shown[i, column] = number[row.label]
        return self

    @property
    def edges_s(self) -> np.ndarray:
        """Where columns begin and end, (n_columns + 1,)."""
        return np.linspace(self.start_s, max(self.end_s, self.start_s + 1e-3), self.n_columns + 1)


def plot_timeline(timeline: Timeline, path: Path, title: str, language: str = "en") -> str | None:
    """Write a PNG: for each person the probabilities, stacked, and below them the label shown.

    Returns:
        What to tell the user if Hangul could not be drawn; None otherwise.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    words = Translations(language, "live")
    hint = None if can_draw([*timeline.labels.display(language), words("word.unsure")]) else HINT
    words = Translations("en", "live") if hint else words
    n = max(1, len(timeline.people))
    # At least as high as the list of classes.
    height = max(1.1 + 1.7 * n, 0.3 + 0.19 * (1 + len(timeline.labels)))
    figure = Figure(figsize=(11, height), dpi=120, layout="constrained")
    axes = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
    palette = np.array([*label_colors(timeline.labels), UNSURE_COLOR]) / 255
    for i, axis in enumerate(axes[: len(timeline.people)]):
        _person(axis, timeline, i, palette)
    axes[-1].set_xlabel(words("word.time"))
    axes[0].set_title(title, loc="left", fontsize=11)
    names = (*drawable_names(timeline.labels, words.language), words("word.unsure"))
    patches = [Patch(color=color, label=name) for name, color in zip(names, palette, strict=True)]
    figure.legend(handles=patches, loc="outside right upper", frameon=False, fontsize=9)
    set_fonts(figure)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return hint


def _person(axis: Any, timeline: Timeline, i: int, palette: np.ndarray) -> None:
    edges = timeline.edges_s
    there = timeline.counts[i] > 0
    mean = timeline.proba[i] / np.maximum(timeline.counts[i], 1)[:, None]
    # A column without a reading between two readings is a matter of rounding, not an absence.
    mean, shown, there = _filled(mean, timeline.shown[i], there)
    top = np.cumsum(mean, axis=1)
    for k, color in enumerate(palette[:-1]):
        low = top[:, k - 1] if k else np.zeros(len(top))
        axis.stairs(np.where(there, top[:, k], np.nan), edges, baseline=np.where(there, low, np.nan),
                    fill=True, color=color, alpha=0.85, linewidth=0)  # fmt: skip
    for first, last, label in _runs(np.where(there, shown, -2)):
        if label != -2:
            axis.axvspan(edges[first], edges[last], ymin=0, ymax=0.14, color=palette[label], linewidth=0)
    axis.axhline(0, color="white", linewidth=1.5)
    axis.set_ylim(-0.1628, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "", "1"])
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylabel(f"#{timeline.people[i].face}", rotation=0, labelpad=16, va="center")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _filled(
    mean: np.ndarray, shown: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, shown, there = mean.copy(), shown.copy(), there.copy()
    for a, b in pairwise(np.flatnonzero(there).tolist()):
        if 1 < b - a <= 3:
            mean[a + 1 : b], shown[a + 1 : b], there[a + 1 : b] = mean[a], shown[a], True
    return mean, shown, there


def _runs(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, one past the last, label) of each stretch of equal labels."""
    cuts = np.flatnonzero(np.diff(labels)) + 1
    return [(a, b, int(labels[a])) for a, b in pairwise([0, *cuts.tolist(), len(labels)])]


_CROP_MARGIN = 0.2


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
