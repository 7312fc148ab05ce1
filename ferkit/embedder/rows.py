"""What a store knows of each row, and how a shard is written and read."""

import contextlib
import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ferkit.core.errors import StoreDamagedError
from ferkit.core.files import parse_json, write_atomically, write_json
from ferkit.datasets.dataset import Sample

DAMAGE_REMEDY = "run 'fer embed' with --repair to make it anew; all other shards stay"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a shard: an embedding, or the reason why there is none.

    Attributes:
        path, label, split, group: as in :class:`ferkit.datasets.dataset.Sample`.
        size: of the content, in bytes; -1 if it could not be read.
        sha256: of the content; None if it could not be read, so that it is tried again the next time.
        box: left, top, right, bottom of the face in pixels; None for the whole picture.
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

    def relabelled(self, sample: Sample) -> "Row":
        """The same row with label, split and group of ``sample``."""
        known = (self.size, self.sha256, self.box, self.error)
        return Row(self.path, sample.label, sample.split, sample.group, *known)


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

    def write(self, rows: list[Row], X: np.ndarray, started_ns: int) -> None:
        """Write all files; ``started_ns`` is when the first picture was read.

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
        # A picture that changes while the shard is made must look younger than the shard.
        self._write_time(digests["rows_sha256"], started_ns)
        write_atomically(self.json, lambda file: file.write(head + body))

    def read_ns(self) -> int | None:
        """When the first image was read, or all of them were compared again; None if that is not known for sure."""
        try:
            known = parse_json(self.time.read_bytes())
            read_ns, is_of_this = known["read_ns"], known["rows_sha256"] == self._rows_sha256()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return read_ns if is_of_this and isinstance(read_ns, int) and read_ns <= time.time_ns() else None

    def compared(self, read_ns: int) -> None:
        """Remember that the content of all images was compared at ``read_ns``. Raises FerkitError if it cannot."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self._write_time(self._rows_sha256(), read_ns)

    def _write_time(self, rows_sha256: str, read_ns: int) -> None:
        write_json(self.time, {"rows_sha256": rows_sha256, "read_ns": read_ns})

    def _rows_sha256(self) -> str:
        with self.json.open("rb") as file:
            return str(parse_json(file.readline(1000).rstrip() + b"]}")["rows_sha256"])

    def read_rows(self) -> list[Row]:
        """The rows.

        Raises:
            StoreDamagedError: not what :meth:`write` wrote.
        """
        return self._parsed()[1]

    def read(self, dim: int, dtype: np.dtype) -> tuple[list[Row], np.ndarray]:
        """The rows, and the embeddings memory-mapped, after their digest was checked.

        Raises:
            StoreDamagedError: not what :meth:`write` wrote.
        """
        npy_sha256, rows = self._parsed()
        try:
            with self.npy.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            X = np.load(self.npy, mmap_mode="r", allow_pickle=False) if digest == npy_sha256 else None
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"{self.npy} cannot be read ({error}); {DAMAGE_REMEDY}") from None
        if X is None or X.shape != (len(rows), dim) or X.dtype != dtype:
            raise StoreDamagedError(f"{self.npy} is not what was written; {DAMAGE_REMEDY}")
        return rows, X

    def remove(self) -> None:
        """Delete all files, the commit mark first."""
        self.json.unlink(missing_ok=True)
        self.time.unlink(missing_ok=True)
        self.npy.unlink(missing_ok=True)

    def _parsed(self) -> tuple[str, list[Row]]:
        try:
            content = self.json.read_bytes()
            values = parse_json(content)
            body = content[content.index(b"\n") + 1 :]
            whole = values["rows_sha256"] == hashlib.sha256(body).hexdigest()
            rows = [
                Row(**{**row, "box": tuple(row["box"]) if row["box"] else None}) for row in values["rows"]
            ]
            npy_sha256 = values["npy_sha256"]
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"{self.json} cannot be read ({error}); {DAMAGE_REMEDY}") from None
        except (TypeError, KeyError):
            whole = False
        if not whole:
            raise StoreDamagedError(f"{self.json} is not what was written; {DAMAGE_REMEDY}")
        return npy_sha256, rows
