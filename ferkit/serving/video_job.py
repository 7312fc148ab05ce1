"""A video read in a process of its own: what a hostile file breaks is this process, and nothing else.

``python -m ferkit.serving.video_job FOLDER`` reads ``job.json`` there, writes its results there, and tells how far
it is on standard output, a JSON object a line. It ends when its standard input does.
"""

import contextlib
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from ferkit.core.errors import DataError, FerkitError
from ferkit.core.files import write_atomically, write_json

JOB = "job.json"
FASTEST_FPS = 120
MEMORY = 6 << 30
"""Bytes of address space; a video that needs more is no video."""

LARGEST_FILE = 4 << 30
"""Bytes of any result."""

TABLE, RESULT, TIMELINE, ANNOTATED = "faces.csv", "result.json", "timeline.png", "annotated.mp4"


@dataclass(frozen=True)
class VideoJob:
    """What to do.

    Attributes:
        video: name of the file in the job's folder.
        model: the model's folder.
        detector, detector_weights: see :func:`ferkit.faces.cropping.cropping_as_trained`.
        detect_size: the detector sees frames scaled down to this longer side, in pixels.
        every_s: seconds between the frames that are looked at; 0 for all.
        annotated: whether to draw into a copy.
        language: ``en`` or ``ko``, of the drawings.
        max_pixels, max_duration_s: longer or larger videos are refused.
    """

    video: str
    model: str
    detector: str
    detector_weights: str | None
    detect_size: int
    every_s: float
    annotated: bool
    language: str
    max_pixels: int
    max_duration_s: float

    def write(self, folder: Path) -> None:
        """Leave it for the process."""
        write_json(folder / JOB, asdict(self))


def predict_video(folder: Path) -> None:
    """Do what ``folder/job.json`` says.

    Raises:
        FerkitError: the video or the model cannot be read.
    """
    job = VideoJob(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    video = folder / job.video
    _check(video, job)
    most = int(FASTEST_FPS * job.max_duration_s)
    from ferkit.classifiers.model import read_model
    from ferkit.inference.engine import EngineOptions, build_engine
    from ferkit.inference.video import (
        Timeline,
        analyse_video,
        json_pieces,
        plot_timeline,
        read_rows,
        summarise,
    )

    model = read_model(Path(job.model), threads=1)
    weights = None if job.detector_weights is None else Path(job.detector_weights)
    options = EngineOptions(job.detector, weights, job.detect_size, detect_every=1 if job.every_s else 3)
    engine, _ = build_engine(model, options)
    share = 0.5 if job.annotated else 0.95

    def progress(done: int, total: int) -> None:
        if done > most:  # the video did not say how long it is
            raise DataError(f"the video has more than {most} frames; send a shorter one")
        _tell(share, done, total)

    run = analyse_video(video, folder, engine, job, every_s=job.every_s, on_frame=progress)
    summary = summarise(read_rows(run.table), engine.labels)
    head = {
        "model": model.name,
        "labels": list(engine.labels.names),
        "every_s": job.every_s,
        "n_frames": run.n_frames,
        "broken_at_s": run.broken_at_s,
        "n_damaged": run.n_damaged,
        "summary": summary.as_dict(),
    }
    pieces = json_pieces(head, run.table, engine.labels.names)
    write_atomically(folder / RESULT, lambda file: file.writelines(piece.encode() for piece in pieces))
    timeline = Timeline(summary, engine.labels).add(read_rows(run.table))
    plot_timeline(timeline, folder / TIMELINE, "", job.language)
    if job.annotated:
        from ferkit.inference.overlay import Overlay
        from ferkit.inference.sinks import annotate_video

        annotate_video(
            video, run.table, folder / ANNOTATED, Overlay(engine.labels, job.language), engine.labels,
            every_s=job.every_s, on_frame=lambda done, total: _tell(0.49, done, total, 0.5),
        )  # fmt: skip


def _check(video: Path, job: VideoJob) -> None:
    from ferkit.inference.sources import VideoSource

    source = VideoSource(video)
    width, height = source.size_wh
    if width * height > job.max_pixels:
        raise DataError(
            f"the video's frames have {width}x{height} pixels; at most {job.max_pixels / 1e6:.3g} million are taken"
        )
    if source.duration_s > job.max_duration_s:
        raise DataError(
            f"the video lasts {source.duration_s:.0f} s; at most {job.max_duration_s:.0f} s are taken"
        )


def _tell(share: float, done: int, total: int, before: float = 0.0) -> None:
    total = max(total, done, 1)
    if done % 5 == 0 or done == total:
        print(json.dumps({"progress": round(before + share * done / total, 4)}), flush=True)


def _limit_itself() -> None:
    try:
        import resource
    except ImportError:  # there is no such thing on Windows
        return
    for what, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, LARGEST_FILE)):
        with contextlib.suppress(OSError, ValueError):  # macOS refuses some
            resource.setrlimit(what, (limit, limit))
    os.nice(5)  # those who look at a stream come first


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(3)


def main() -> int:
    """Read the video in the folder that the command line names; 1 if it cannot be read, with the reason said."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_itself()
    try:
        predict_video(Path(sys.argv[1]))
    except FerkitError as error:
        reason = str(error).replace(f"{sys.argv[1]}{os.sep}", "")  # where it lies is nobody's business
        print(json.dumps({"reason": reason}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    # Past the interpreter's own end, which would wait for the thread that reads standard input.
    code = main()
    sys.stdout.flush()
    os._exit(code)
