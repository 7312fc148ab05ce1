"""The shards of an embedding store: their files, and their rows in one pass, however many there are.

Rows within a shard are sorted by path, and so are successive shards of one run. :func:`newest_rows` merges the runs, so
that one shard of each is held at a time.

A plan says which shards a store is to get, so that several machines can make them without asking each other:
``plan.json`` next to the shards says what was asked for and where each range is listed; ``plan-00000.jsonl`` has a line
a range, and every later planning adds one such file. A range is a shard to be made: its number and its images.
"""

import contextlib
import hashlib
import heapq
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferkit.core.errors import DataError, StoreDamagedError
from ferkit.core.files import fresh, is_local, parse_json, write_atomically, write_json
from ferkit.datasets.dataset import Sample
from ferkit.faces.cropping import CropKind

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
        content = buffer.getvalue()  # a view would outlive its buffer where Ctrl-C ends the process
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
            times = Times(known["read_ns"], known.get("tags", ()))
            is_of_this = known["rows_sha256"] == rows_sha256
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sure = is_of_this and isinstance(times.read_ns, int) and times.read_ns <= time.time_ns()
        return times if sure else None

    def compared(self, read_ns: int) -> None:
        """Remember that the content of all images was compared at ``read_ns``. Raises FerkitError if it cannot."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with self.json.open("rb") as file:
                digest = str(parse_json(file.readline(1000).rstrip() + b"]}")["rows_sha256"])
            self._write_times(digest, Times(read_ns))

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
            return np.load(self.npy, mmap_mode="r", allow_pickle=False)
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
        # What is damaged is named when it is read.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
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


_AGAIN = "delete it and run 'fer embed' with --plan again; the shards that are there stay"


@dataclass(frozen=True)
class Range:
    """A shard that is to be made.

    Attributes:
        number: of the shard.
        samples: its images, sorted by path.
    """

    number: int
    samples: Sequence[Sample]


def new_ranges(todo: Sequence[Sample], numbers: Iterator[int], rows_per_shard: int) -> Iterator[Range]:
    """Divide samples among new shards with these numbers."""
    for first in range(0, len(todo), rows_per_shard):
        yield Range(next(numbers), todo[first : first + rows_per_shard])


@dataclass(frozen=True)
class Request:
    """What was asked for when a store was planned; what became of it is in the manifest.

    Attributes:
        backbone, layer, detector: as asked for.
        weights, detector_weights: files that were named.
    """

    backbone: str
    layer: str | None = None
    detector: str = "auto"
    weights: str | None = None
    detector_weights: str | None = None

    def differing(self, asked: Mapping[str, str]) -> list[str]:
        """Which of the values in ``asked`` are others."""
        return [f"{key} {value}" for key, value in asked.items() if value != getattr(self, key)]


@dataclass(frozen=True)
class Plan:
    """What stands in ``plan.json``.

    Attributes:
        request: what was asked for.
        crops: see :data:`ferkit.faces.cropping.CropKind`.
        weights, licence, cosine: see :class:`ferkit.embedder.store.Snapshot`.
        witnesses: SHA-256 of some of the images, by which other machines see that they have the same data.
        ranges: number of the shard, file that lists its images, place in that file, and how many they are.
    """

    request: Request
    crops: CropKind
    weights: str | None
    licence: str
    cosine: float | None
    witnesses: Mapping[str, str]
    ranges: Sequence[Sequence[int]]

    @property
    def numbers(self) -> list[int]:
        """Of the shards, in order."""
        return [number for number, *_ in self.ranges]

    @staticmethod
    def read(folder: Path) -> "Plan | None":
        """The plan of the store in ``folder``; None if it has none. Raises StoreDamagedError if it cannot be read."""
        path = folder / "plan.json"
        if not path.exists():
            return None
        try:
            values = parse_json(path.read_bytes())
            return Plan(Request(**values.pop("request")), **values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreDamagedError(f"{path} cannot be read ({error}); {_AGAIN}") from None

    def extended(self, folder: Path, ranges: Iterable[Range]) -> "Plan":
        """Write the plan with further ranges; they are listed first, the plan itself is the commit mark.

        Raises:
            FerkitError: it cannot be written.
        """
        number = 1 + max((file for _, file, *_ in self.ranges), default=-1)
        known = list(self.ranges)

        def write(file: Any) -> None:
            for one in ranges:
                known.append([one.number, number, file.tell(), len(one.samples)])
                rows = [[s.path, s.label, s.split, s.group, s.box] for s in one.samples]
                line = json.dumps({"shard": one.number, "rows": rows}, ensure_ascii=False)
                file.write(f"{line}\n".encode("utf-8", "surrogateescape"))

        write_atomically(_listing(folder, number), write)
        plan = replace(self, ranges=known)
        write_json(folder / "plan.json", vars(plan) | {"request": vars(plan.request)})
        return plan

    def load(self, folder: Path, numbers: Iterable[int]) -> Iterator[Range]:
        """The ranges of these shards, one after the other.

        Raises:
            StoreDamagedError: the listing is not what was written.
        """
        places = {number: (file, offset, n) for number, file, offset, n in self.ranges}
        for number in numbers:
            file, offset, n = places[number]
            path = _listing(folder, file)
            try:
                with path.open("rb") as listing:
                    listing.seek(offset)
                    line = parse_json(listing.readline())
                rows = [
                    Sample(path, label, split, group, tuple(box) if box else None)
                    for path, label, split, group, box in line["rows"]
                ]
                whole = line["shard"] == number and len(rows) == n
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreDamagedError(f"{path} cannot be read ({error}); {_AGAIN}") from None
            if not whole:
                raise StoreDamagedError(f"{path} is not what was written; {_AGAIN}")
            yield Range(number, rows)


def _listing(folder: Path, number: int) -> Path:
    return folder / f"plan-{number:05d}.jsonl"


@dataclass(frozen=True)
class Part:
    """The ``index``-th of ``n`` parts, counted from 1."""

    index: int
    n: int

    def of(self, numbers: Sequence[int]) -> Sequence[int]:
        """The shards of this part: successive ones, so that what lies together is read together."""
        return numbers[(self.index - 1) * len(numbers) // self.n : self.index * len(numbers) // self.n]


def parse_part(text: str, environment: Mapping[str, str] | None = None) -> Part:
    """Read ``3/64``, or ``auto`` or ``auto/64``, which take the index that Slurm or Kubernetes gives to a process.

    Args:
        text: what a user wrote.
        environment: variables; None for those of this process.

    Raises:
        DataError: it is none of these, or the variables are not there.
    """
    known = os.environ if environment is None else environment
    match = re.fullmatch(r"(auto|\d+)(?:/(\d+))?", text.strip())
    if match is None or (match[1] != "auto" and match[2] is None):
        raise DataError(f"expected a part such as 3/64, auto or auto/64, found {text!r}")
    index, n = match[1], int(match[2] or 0)
    part = Part(int(index), n) if index != "auto" else _given_part(known, n)
    if not 1 <= part.index <= part.n:
        raise DataError(f"expected a part from 1 to {part.n}, found {part.index}")
    return part


def _given_part(known: Mapping[str, str], n: int) -> Part:
    slurm = {key: known.get(f"SLURM_ARRAY_TASK_{key}", "") for key in ("ID", "MIN", "MAX", "STEP", "COUNT")}
    if slurm["ID"].isdigit():
        number = {key: int(value) for key, value in slurm.items() if value.isdigit()}
        least, step = number.get("MIN", 0), max(1, number.get("STEP", 1))
        count = number.get("COUNT", 0)
        if not n and (number.get("MAX", -1) - least) // step + 1 != count:
            raise DataError(
                "expected a Slurm array without gaps, such as --array=1-64, to tell the part by; give --part auto/64, "
                "where 64 is how many there are in all"
            )
        return Part((number["ID"] - least) // step + 1, n or count)
    index = known.get("JOB_COMPLETION_INDEX", "")
    if index.isdigit():
        if not n:
            raise DataError(
                "Kubernetes does not tell a pod how many there are; give --part auto/64 for a job with completions: 64"
            )
        return Part(int(index) + 1, n)
    raise DataError(
        "expected SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX in the environment for --part auto, found neither; give "
        "--part 3/64"
    )
