"""Videos that wait, are read or were read: each a folder that goes when its time is over."""

import asyncio
import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from ferkit.core.errors import StoreLockedError
from ferkit.core.files import exclusive_lock
from ferkit.serving.api import ApiError
from ferkit.serving.monitoring import Metrics
from ferkit.serving.settings import Limits
from ferkit.serving.video_job import ANNOTATED, RESULT, TABLE, TIMELINE, VideoJob

FILES = {
    RESULT: "application/json",
    TABLE: "text/csv; charset=utf-8",
    TIMELINE: "image/png",
    ANNOTATED: "video/mp4",
}
STATUSES = ("queued", "running", "done", "failed", "cancelled")
_NAME = "ferkit-jobs-"


@dataclass
class Job:
    """A video on its way.

    Attributes:
        id: unguessable.
        client: whose it is.
        folder: of its video and results.
        status: one of :data:`STATUSES`.
        progress: 0..1.
        reason: why it failed.
        ended_s: by ``time.monotonic``.
    """

    id: str
    client: str
    folder: Path
    status: str = "queued"
    progress: float = 0.0
    reason: str | None = None
    ended_s: float | None = None
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    def describe(self, root_path: str = "") -> dict[str, Any]:
        """The job as the API tells of it, its links under a prefix."""
        here = f"{root_path}/v1/jobs/{self.id}"
        files = [name for name in FILES if self.status == "done" and (self.folder / name).is_file()]
        return {
            "id": self.id,
            "status": self.status,
            "progress": round(self.progress, 3),
            "reason": self.reason,
            "links": {"self": here, **{name: f"{here}/{name}" for name in files}},
        }


class JobQueue:
    """All videos of a server.

    Args:
        limits: how many videos there may be, how long they may take, how long and how large results may stay.
        metrics: are told how many there are.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        # On busy cores a video can take several times as long as it lasts.
        self._max_run_s = 4 * limits.max_duration_s
        self._jobs: dict[str, Job] = {}
        self._turn = asyncio.Semaphore(1)
        self._stack = contextlib.ExitStack()
        self._sweeper: asyncio.Task[None] | None = None
        self._root: Path | None = None

    async def open(self) -> None:
        """Make the folder of all jobs, and remove those that a server left which was killed."""
        parent = Path(tempfile.gettempdir())
        for left in parent.glob(f"{_NAME}*"):
            _remove_if_left(left)
        self._root = Path(tempfile.mkdtemp(prefix=_NAME))
        self._stack.enter_context(exclusive_lock(self._root / ".lock", "keeping jobs in"))
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop everything and remove it."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._stack.close()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    @contextlib.contextmanager
    def new(self, client: str) -> Iterator[Job]:
        """A job with a folder to put the video into; gone again if the block fails.

        Raises:
            ApiError: too many videos are waiting, or half as many of this client (503).
        """
        active = [job for job in self._jobs.values() if job.ended_s is None]
        own = sum(job.client == client for job in active)
        if len(active) >= self._limits.max_jobs or own >= max(1, self._limits.max_jobs // 2):
            raise ApiError(503, "busy", "Too many videos are waiting; try again later.", retry_after_s=30)
        assert self._root is not None
        id = secrets.token_urlsafe(18)
        job = Job(id, client, self._root / id)
        try:
            job.folder.mkdir(mode=0o700, parents=True)  # all of it: folders of temporary files are swept
        except OSError:
            raise ApiError(503, "no_room", "There is no room for the video; try again later.", 60) from None
        self._jobs[id] = job
        try:
            yield job
        except BaseException:
            self._forget(job)
            raise
        self._count()

    def start(self, job: Job, what: VideoJob) -> None:
        """Queue it."""
        what.write(job.folder)
        job.task = asyncio.create_task(self._run(job, job.folder / what.video))

    def get(self, id: str) -> Job:
        """The job with this id.

        Raises:
            ApiError: there is none, any more (404).
        """
        job = self._jobs.get(id)
        if job is None:
            raise ApiError(404, "no_job", "There is no such job; results are removed after a while.")
        return job

    async def remove(self, id: str) -> None:
        """Stop a job if it runs, and remove all of it.

        Raises:
            ApiError: there is none (404).
        """
        job = self.get(id)
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
        self._forget(job)

    async def _run(self, job: Job, video: Path) -> None:
        try:
            async with self._turn:
                job.status = "running"
                self._count()
                async with asyncio.timeout(self._max_run_s):
                    await self._read(job)
            job.status, job.progress = "done", 1.0
        except asyncio.CancelledError:
            job.status = "cancelled"
            raise
        except TimeoutError:
            job.status, job.reason = "failed", f"The video took longer than {self._max_run_s:.0f} s."
        except ApiError as refused:
            job.status, job.reason = "failed", refused.message
        except OSError:
            job.status, job.reason = "failed", "The video's reader could not be started; try again later."
        finally:
            job.ended_s = time.monotonic()
            # Only what was asked for stays.
            video.unlink(missing_ok=True)
            self._make_room()
            self._count()

    def _make_room(self) -> None:
        """Remove the oldest results while all together are too large."""
        ended = sorted((job.ended_s, job.id) for job in self._jobs.values() if job.ended_s is not None)
        sizes = {id: _size(self._jobs[id].folder) for _, id in ended}
        for _, id in ended:
            if sum(sizes.values()) <= self._limits.max_results_bytes:
                return
            del sizes[id]
            self._forget(self._jobs[id])

    async def _read(self, job: Job) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ferkit.serving.video_job", str(job.folder),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=_environment(), start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        reason = None
        try:
            async for line in process.stdout:
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    job.progress = float(said.get("progress", job.progress))
                    reason = said.get("reason", reason)
            code = await process.wait()
        finally:
            if process.returncode is None:
                _kill(process.pid)
                await process.wait()
            process.stdin.close()  # type: ignore[union-attr]
        if code != 0:
            raise ApiError(
                422, "unreadable_film", reason or "The video could not be read: its reader broke down on it."
            )

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)
        self._count()

    def _count(self) -> None:
        for status in STATUSES:
            self._metrics.jobs.labels(status).set(sum(j.status == status for j in self._jobs.values()))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(30.0, self._limits.job_ttl_s / 4))
            old = time.monotonic() - self._limits.job_ttl_s
            for job in [j for j in self._jobs.values() if j.ended_s is not None and j.ended_s < old]:
                self._forget(job)


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FER_SERVE_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def _kill(pid: int) -> None:
    """The process with all that it started."""
    import signal

    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError, StoreLockedError):
        if not hasattr(os, "getuid"):
            return
        found = folder.lstat()
        # A minute, since another server may be about to lock the folder that it has just made.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > 60:
            with exclusive_lock(folder / ".lock", "keeping jobs in"):
                shutil.rmtree(folder, ignore_errors=True)


_PIECE = 1 << 20


_HEAD = 400
"""Bytes that tell what a video is."""


_OTHERS = (
    (b"OggS", ".ogv"), (b"FLV\x01", ".flv"), (b"\0\0\1\xba", ".mpg"),
    (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), ".wmv"),
)  # fmt: skip


def video_suffix(start: bytes) -> str | None:
    """What the first 400 bytes of a video say that it is; None for all that is not taken.

    Playlists and scripts, which could make a reader open other files, begin otherwise.
    """
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return ".mp4"
    if start[:4] == b"\x1aE\xdf\xa3":
        return ".mkv"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return ".gif"
    if (
        start[:1] == start[188:189] == start[376:377] == b"G"
        or start[4:5] == start[196:197] == start[388:389] == b"G"
    ):
        return ".ts"
    if start[:4] == b"RIFF":
        return ".avi" if start[8:12] == b"AVI " else None
    return next((suffix for begins, suffix in _OTHERS if start.startswith(begins)), None)


async def receive_video(request: Request, folder: Path) -> Path:
    """Write the video of a request into ``folder`` and give its path.

    Raises:
        ApiError: there is none (422), or it is of no known kind (415).
    """
    path = folder / "upload"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            await _from_form(request, path)
        else:
            await _from_body(request, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ApiError(503, "no_room", "There is no room for the video; try again later.", 60) from None
    with path.open("rb") as file:
        suffix = _checked(file.read(_HEAD))
    return path.rename(path.with_name(f"film{suffix}"))


async def _from_form(request: Request, path: Path) -> None:
    async with request.form(max_files=1, max_fields=16, max_part_size=1000) as form:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise ApiError(422, "no_film", "Expected a video as the part called 'file', with a file name.")
        _checked(await part.read(_HEAD))
        await part.seek(0)
        with path.open("wb") as file:
            await run_in_threadpool(shutil.copyfileobj, part.file, file, _PIECE)


async def _from_body(request: Request, path: Path) -> None:
    waiting = bytearray()
    known = False
    with path.open("wb") as file:
        async for piece in request.stream():
            waiting += piece
            if not known and len(waiting) >= _HEAD:
                _checked(bytes(waiting[:_HEAD]))
                known = True
            if len(waiting) >= _PIECE:
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
        if waiting:
            await run_in_threadpool(file.write, bytes(waiting))


def _checked(start: bytes) -> str:
    if not start:
        raise ApiError(422, "no_film", "Expected a video as the body, or as the part 'file'.")
    suffix = video_suffix(start)
    if suffix is None:
        raise ApiError(
            415, "unknown_kind", "Expected a video: MP4, MOV, WebM, MKV, AVI, TS, MPEG, Ogg, FLV, WMV or GIF."
        )
    return suffix
