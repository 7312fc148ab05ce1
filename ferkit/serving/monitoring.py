"""Log requests and count them."""

import json
import secrets
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ferkit.core.errors import FerkitError


class EventLog:
    """Writes to standard error, and to one file a day where a folder is given.

    Args:
        folder: for ``fer-serve-<date>.jsonl``; None for none.
        console: whether to write to standard error.

    Raises:
        FerkitError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None = None, console: bool = True) -> None:
        self._folder, self._console = folder, console
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._day = ""
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._file_of(folder, datetime.now(UTC).strftime("%Y-%m-%d"))
            except OSError as error:
                raise FerkitError(f"{folder} cannot be written: {error.strerror or error}") from None

    def write(self, event: str, **fields: Any) -> None:
        """Add a line; a full disk must not stop the server, so that errors of writing are swallowed."""
        now = datetime.fromtimestamp(time.time(), UTC)
        line = json.dumps(
            {"time": now.isoformat(timespec="milliseconds"), "event": event, **fields}, ensure_ascii=False
        )
        with self._lock:
            if self._console:
                print(line, file=sys.stderr, flush=True)
            if self._folder is not None:
                with suppress(OSError):
                    file = self._file_of(self._folder, now.strftime("%Y-%m-%d"))
                    file.write(line + "\n")
                    file.flush()

    def fault(self, error: BaseException) -> str:
        """Add what went wrong in the server itself; gives a word under which it is found."""
        incident = secrets.token_hex(4)
        self.write("fault", incident=incident, error="".join(traceback.format_exception(error)))
        return incident

    def close(self) -> None:
        """Finish the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _file_of(self, folder: Path, day: str) -> IO[str]:
        if self._file is None or day != self._day:
            if self._file is not None:
                self._file.close()
            self._file = (folder / f"fer-serve-{day}.jsonl").open("a", encoding="utf-8")
            self._day = day
        return self._file


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What the server counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "ferkit_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ferkit_request_seconds", "From the head of a request to its answer.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.refused = Counter("ferkit_refused", "Requests refused, by reason.", ["code"], registry=registry)
        self.faces = Counter("ferkit_faces", "Faces read.", ["source"], registry=registry)
        self.batch = Histogram(
            "ferkit_batch_faces", "Faces read together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.streams = Gauge("ferkit_streams", "Streams that are open.", registry=registry)
        self.frames = Counter("ferkit_frames", "Frames, by what became of them.", ["fate"], registry=registry)
        self.age = Histogram(
            "ferkit_frame_age_seconds", "From a frame's receipt to its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.jobs = Gauge("ferkit_jobs", "Videos, by status.", ["status"], registry=registry)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
