"""The shards of an embedding store: their files, and their rows in one pass, however many there are.

Rows within a shard are sorted by path, and so are successive shards of one run. :func:`newest_rows` merges the runs, so
that one shard of each is held at a time.
"""

import contextlib
import hashlib
import heapq
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferkit.core.errors import StoreDamagedError
from ferkit.core.files import fresh, is_local, parse_json, write_atomically, write_json
from ferkit.datasets.dataset import Sample

DAMAGE_REMEDY = "run 'fer embed' with --repair to make it again; all other shards stay"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a shard: an embedding, or the reason why there is none.

    Attributes:
        path, label, split, group: as in :class:`ferkit.datasets.dataset.Sample`.
        size: of the content, in bytes; -1 if it could not be read.
        sha256: of the content; None if it could not be read, so that it is tried again the next time.
        box: left, top, right, bottom of the face in pixels; None for the whole image.
        error: why there is no embedding; None if there is one.
    """

    path: str
    label: str | None
    split: str | None
    group: str | None
    size: int
    sha256: str | None
    box: tuple[float, float, float, float] | None = None
    error: str | None = None

    def fits(self, sample: Sample) -> bool:
        """Whether label, split and group are those of ``sample``."""
        return (self.label, self.split, self.group) == (sample.label, sample.split, sample.group)


@dataclass(frozen=True, slots=True)
class Times:
    """What decides whether an image may have changed since its shard was made.

    Attributes:
        read_ns: when the first image was read, or all of them were compared again, nanoseconds since 1970.
        tags: what the object store called the content of each, see :class:`ferkit.datasets.dataset.Stamp`; none for
            files.
    """

    read_ns: int
    tags: Sequence[str | None] = ()


@dataclass(frozen=True)
class ShardContent:
    """What the ``.json`` of a shard says: the digests of the ``.npy`` and of the rows, and the rows."""

    npy_sha256: str
    rows_sha256: str
    rows: list[Row]


@dataclass(frozen=True)
class ShardFiles:
    """The files of a shard; the ``.json`` is written last and says that the ``.npy`` is complete."""

    folder: Path
    number: int

    @property
    def npy(self) -> Path:
        """float32 or float16 (rows, dim); rows without an embedding are NaN."""
        return self.folder / f"shard-{self.number:05d}.npy"

    @property
    def json(self) -> Path:
        """A line with the digests of the ``.npy`` and of what follows: one :class:`Row` a row, a line each."""
        return self.folder / f"shard-{self.number:05d}.json"

    @property
    def time(self) -> Path:
        """When the first image of the shard was read, so that a copy of the store knows it too."""
        return self.folder / f"time-{self.number:05d}.json"

    def is_there(self) -> bool:
        """Whether it is complete, also where another machine has just made it."""
        return fresh(self.json).exists()

    def write(self, rows: list[Row], X: np.ndarray, started_ns: int, tags: Sequence[str | None] = ()) -> None:
        """Write all files; ``started_ns`` is when the first image was read, for ``tags`` see :class:`Times`.

        Raises:
            FerkitError: the disk is full or the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, X, allow_pickle=False)
        content = buffer.getbuffer()
        write_atomically(self.npy, lambda file: file.write(content))
        lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
        # File names that are not UTF-8 pass through as the bytes they are.
        body = f"{lines}\n]}}\n".encode("utf-8", "surrogateescape")
        digests = {
            "npy_sha256": hashlib.sha256(content).hexdigest(),
            "rows_sha256": hashlib.sha256(body).hexdigest(),
        }
        head = f'{json.dumps(digests)[:-1]}, "rows": [\n'.encode()
        # An image that changes while the shard is made must look younger than the shard.
        self._write_times(digests["rows_sha256"], Times(started_ns, tags))
        write_atomically(self.json, lambda file: file.write(head + body))

    def times(self, rows_sha256: str) -> Times | None:
        """What is known of the rows of this digest; None if it is not known for sure."""
        try:
            known = parse_json(self.time.read_bytes())
            times, is_of_this = (
                Times(known["read_ns"], known.get("tags", ())),
                known["rows_sha256"] == rows_sha256,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sure = is_of_this and isinstance(times.read_ns, int) and times.read_ns <= time.time_ns()
        return times if sure else None

    def compared(self, read_ns: int, tags: Sequence[str | None] = ()) -> None:
        """Remember that the content of all images was compared at ``read_ns``. Raises FerkitError if it cannot."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with self.json.open("rb") as file:
                digest = str(parse_json(file.readline(1000).rstrip() + b"]}")["rows_sha256"])
            self._write_times(digest, Times(read_ns, tags))

    def _write_times(self, rows_sha256: str, times: Times) -> None:
        tags = {"tags": list(times.tags)} if any(times.tags) else {}
        write_json(self.time, {"rows_sha256": rows_sha256, "read_ns": times.read_ns, **tags})

    def read_rows(self) -> list[Row]:
        """The rows.

        Raises:
            StoreDamagedError: not what :meth:`write` wrote.
        """
        return self.content().rows

    def content(self) -> ShardContent:
        """What the ``.json`` says. Raises StoreDamagedError: not what :meth:`write` wrote."""
        try:
            content = self.json.read_bytes()
            values = parse_json(content)
            body = content[content.index(b"\n") + 1 :]
            whole = values["rows_sha256"] == hashlib.sha256(body).hexdigest()
            rows = [
                Row(**row) if row["box"] is None else Row(**{**row, "box": tuple(row["box"])})
                for row in values["rows"]
            ]
            npy_sha256 = values["npy_sha256"]
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"{self.json} cannot be read ({error}); {DAMAGE_REMEDY}") from None
        except (TypeError, KeyError):
            whole = False
        if not whole:
            raise StoreDamagedError(f"{self.json} is not what was written; {DAMAGE_REMEDY}")
        return ShardContent(npy_sha256, values["rows_sha256"], rows)

    def checked(self, content: ShardContent, dim: int, dtype: np.dtype) -> np.ndarray:
        """The embeddings, see :meth:`map`, after their digest was checked.

        Raises:
            StoreDamagedError: not what :meth:`write` wrote.
        """
        try:
            with self.npy.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            X = self.map() if digest == content.npy_sha256 else None
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"{self.npy} cannot be read ({error}); {DAMAGE_REMEDY}") from None
        if X is None or X.shape != (len(content.rows), dim) or X.dtype != dtype:
            raise StoreDamagedError(f"{self.npy} is not what was written; {DAMAGE_REMEDY}")
        return X

    def map(self) -> np.ndarray:
        """The embeddings (rows, dim): memory-mapped, or read where the shard is in an object store."""
        if is_local(self.npy):
            array: np.ndarray = np.load(self.npy, mmap_mode="r", allow_pickle=False)
            return array
        return np.load(io.BytesIO(self.npy.read_bytes()), allow_pickle=False)

    def ends(self) -> tuple[str, str]:
        """The first and the last path, without parsing what is between. Raises OSError, ValueError or KeyError."""
        with self.json.open("rb") as file:
            file.readline()
            first = file.readline().rstrip(b",\n")
            size, step, tail = file.seek(0, 2), 1 << 12, b""
            while tail.count(b"\n") < 3 and len(tail) < size:  # the last row, "]}" and nothing
                file.seek(max(0, size - step))
                tail, step = file.read(), step * 8
        return parse_json(first)["path"], parse_json(tail.split(b"\n")[-3])["path"]

    def remove(self) -> None:
        """Delete all files, the commit mark first."""
        self.json.unlink(missing_ok=True)
        self.time.unlink(missing_ok=True)
        self.npy.unlink(missing_ok=True)


class PlacedRow(NamedTuple):
    """A row, and where it is.

    Attributes:
        row: what it says.
        shard: the shard's number.
        position: in the shard, from 0.
        times: of its shard; None if they are not known for sure.
    """

    row: Row
    shard: int
    position: int
    times: Times | None

    @property
    def tag(self) -> str | None:
        """What the object store called the content."""
        return self.times.tags[self.position] if self.times is not None and self.times.tags else None


def newest_rows(
    shards: Sequence[ShardFiles], read: Callable[[ShardFiles], ShardContent | None]
) -> Iterator[PlacedRow]:
    """The newest row of each path, sorted by path, in one pass; a few shards are held at a time.

    Args:
        shards: in order.
        read: gives what a shard says; None passes over it.

    Raises:
        StoreDamagedError: rows are not in order.
    """

    def rows(run: list[ShardFiles]) -> Iterator[PlacedRow]:
        before = ""
        for shard in run:
            content = read(shard)
            if content is None:
                continue
            times = shard.times(content.rows_sha256)
            for position, row in enumerate(content.rows):
                if row.path < before:
                    raise StoreDamagedError(f"the rows of {shard.json} are not in order; {DAMAGE_REMEDY}")
                before = row.path
                yield PlacedRow(row, shard.number, position, times)

    runs = list(_runs(shards))
    merged = (
        rows(runs[0]) if len(runs) == 1 else heapq.merge(*map(rows, runs), key=lambda placed: placed.row.path)
    )
    newest: PlacedRow | None = None
    for placed in merged:
        if newest is not None and placed.row.path != newest.row.path:
            yield newest
        newest = placed  # of one path, the merge gives the row of the latest run last
    if newest is not None:
        yield newest


def _runs(shards: Sequence[ShardFiles]) -> Iterator[list[ShardFiles]]:
    """Successive shards whose paths go up from one to the next."""
    run: list[ShardFiles] = []
    end = ""
    for shard in shards:
        first = last = ""
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError, IndexError
        ):  # it is named when it is read
            first, last = shard.ends()
        if run and first <= end:
            yield run
            run = []
        run.append(shard)
        end = last
    if run:
        yield run


class ShardRows:
    """Embeddings that stay on the disk: rows of shards, in any order; ``np.asarray`` reads those that it names.

    Args:
        shards: the files, by number.
        shard, position: of each row, (n,) of int32.
        dim: numbers a row.
        dtype: on the disk.
    """

    ndim = 2

    def __init__(
        self,
        shards: dict[int, ShardFiles],
        shard: np.ndarray,
        position: np.ndarray,
        dim: int,
        dtype: np.dtype,
    ) -> None:
        self._shards, self._shard, self._position = shards, shard, position
        self.dtype = dtype
        self.shape = (len(shard), dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> "ShardRows":
        """The rows at a slice, mask or positions; nothing is read."""
        return ShardRows(self._shards, self._shard[index], self._position[index], self.shape[1], self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read the rows, (n, dim)."""
        X = np.empty(self.shape, dtype or self.dtype)
        order = np.argsort(self._shard, kind="stable")
        ends = np.flatnonzero(np.diff(self._shard[order], append=-1)) + 1
        for rows in np.split(order, ends[:-1]) if len(order) else ():
            # Mapped for this moment only: pages of many open maps would count as memory of this process.
            X[rows] = self._shards[int(self._shard[rows[0]])].map()[self._position[rows]]
        return X
