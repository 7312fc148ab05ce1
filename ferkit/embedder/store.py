"""Keep embeddings on disk in verified shards, find stores and load them as a table.

A store is a folder ``<dataset>--<backbone>--<fp8>/``:

    manifest.json      the settings that every number in it depends on, and their digest
    shard-00000.npy    embeddings of a fixed range of the sorted images, float32 or float16
    shard-00000.json   what each row is; written last, so that a shard is whole or absent
    time-00000.json    when its images were read, which decides whether one may have changed since
    view.json          which data set the store mirrors now: what was deleted from it or got another label since

Rows are never changed: an image that changed gets a new row in a new shard, and the newest row counts.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ferkit.core.errors import DataError, SettingsMismatchError, StoreDamagedError, StoreError
from ferkit.core.files import (
    LATER,
    differing_keys,
    exclusive_lock,
    fingerprint,
    parse_json,
    remove_leftovers,
    settings_dict,
    write_atomically,
    write_json,
)
from ferkit.datasets.dataset import Sample
from ferkit.embedder.engines import Engine
from ferkit.embedder.settings import FORMAT, EmbedderSettings, StoreSettings

DAMAGE_REMEDY = "run 'fer embed' with --repair to make it anew; all other shards stay"


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
        """Write all files; ``started_ns`` is when the first image was read.

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


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings and what is known of each, row by row, sorted by path.

    Attributes:
        X: (n, dim) float32 or float16, finite.
        y: (n,) str objects, class names; None where unknown.
        paths, groups, split: (n,) str objects; None where unknown.
    """

    X: np.ndarray
    y: np.ndarray
    paths: np.ndarray
    groups: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: np.ndarray) -> "EmbeddingTable":
        """The rows at ``index``, a mask or positions."""
        return EmbeddingTable(
            self.X[index], self.y[index], self.paths[index], self.groups[index], self.split[index]
        )

    def labelled(self) -> "EmbeddingTable":
        """The rows that have a label.

        Raises:
            DataError: there are none.
        """
        known = np.array([label is not None for label in self.y], bool)
        if not known.any():
            raise DataError(
                "expected labelled images, found none with a label; lay them out as data/<class>/*.jpg"
            )
        return self if known.all() else self[known]


_REPAIR = (
    "'fer embed' with --repair and the settings it was made with writes it anew, without them the embeddings in its "
    "folder are lost"
)
_ALTERED = f"was altered after it was written; {_REPAIR}"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Which data set a store mirrors, and what is worth knowing of the last run: ``view.json``.

    Attributes:
        root: the data set's folder or file.
        n_samples: how many images it has.
        weights: where the backbone's weights were, None without.
        licence: of these weights.
        deleted: paths in the store that the data set no longer has.
        relabelled: label, split and group of the paths for which they changed since they were embedded.
        crops: what was embedded of the images, see :data:`ferkit.faces.cropping.CropKind`; None in version 0.1.
        cosine: of some embeddings with those of ONNX Runtime in float32, where another engine or precision made them.
    """

    root: str
    n_samples: int
    weights: str | None = None
    licence: str = "unknown"
    deleted: list[str] = field(default_factory=list)
    relabelled: dict[str, list[str | None]] = field(default_factory=dict)
    crops: str | None = field(default=None, metadata=LATER)
    cosine: float | None = field(default=None, metadata=LATER)


class EmbeddingStore:
    """One folder of embeddings. Made by :meth:`create` or :meth:`open`.

    >>> import ferkit, tempfile
    >>> from ferkit.datasets.synthetic import write_dataset
    >>> write_dataset(folder := tempfile.mkdtemp(), n_per_class=2, n_persons=4)
    >>> store = ferkit.embed(folder, "raw", detector="none", cache_dir=tempfile.mkdtemp())
    >>> table = EmbeddingStore.open(store.folder).load()
    >>> table.X.shape == (len(table.y), store.dim)
    True
    """

    def __init__(self, folder: Path, settings: StoreSettings, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self.dim, self.rows_per_shard = _positive(manifest["dim"]), _positive(manifest["rows_per_shard"])
        self.batch_size = _positive(manifest["batch_size"])
        """The batch size of the first run: another one may change the last bits of the numbers."""

    @staticmethod
    def create(
        root: Path,
        dataset: str,
        settings: StoreSettings,
        *,
        dim: int,
        rows_per_shard: int,
        batch_size: int,
        repair: bool = False,
    ) -> "EmbeddingStore":
        """The store of ``dataset`` with these settings below ``root``; opened if it is there already.

        Args:
            root: folder of all stores.
            dataset: the name's first part.
            settings: what every number depends on; their digest is the name's last part.
            dim: numbers an embedding.
            rows_per_shard, batch_size: of a new store.
            repair: write a damaged manifest anew, as these settings give its digest.

        Raises:
            StoreError: the folder is not what it should be.
            FerkitError: it cannot be written.
        """
        if not dataset.strip(". ") or set(dataset) & set('/\\:*?"<>|\0'):
            raise StoreError(
                f"expected a name that a folder can have, found {dataset!r}; give another --name"
            )
        digest = fingerprint(settings)
        backbone = Path(settings.embedder.backbone.replace(":", "-")).stem
        folder = root / f"{dataset}--{backbone}--{digest[:8]}"
        manifest = {
            "format": FORMAT,
            "fingerprint": digest,
            "settings": settings_dict(settings),
            "dim": dim,
            "rows_per_shard": rows_per_shard,
            "batch_size": batch_size,
        }
        # A folder that cannot be entered counts as absent, which Path.exists does not allow.
        if not os.path.exists(folder / "manifest.json"):
            write_json(folder / "manifest.json", manifest)
        try:
            store = EmbeddingStore.open(folder, settings)
            if store.dim != dim:
                raise StoreDamagedError(f"{folder / 'manifest.json'} {_ALTERED}")
            return store
        except StoreDamagedError as error:
            if not repair:
                raise
            logger.warning("%s; it is written anew", str(error).partition(";")[0])
        store = EmbeddingStore(folder, settings, manifest)
        if len(shards := store.shards()) > 1:  # all but the last of a run are full
            with contextlib.suppress(StoreDamagedError):
                manifest["rows_per_shard"] = max(1, *(len(shard.read_rows()) for shard in shards[:2]))
        write_json(folder / "manifest.json", manifest)
        return EmbeddingStore.open(folder, settings)

    @staticmethod
    def open(folder: Path, settings: StoreSettings | None = None) -> "EmbeddingStore":
        """The store in ``folder``.

        Args:
            folder: with its ``manifest.json``.
            settings: what it must have been made with; None takes any.

        Raises:
            StoreError: no store, or one of a newer format.
            StoreDamagedError: the manifest was altered.
            SettingsMismatchError: made with other settings; the message names them.
        """
        path = folder / "manifest.json"
        try:
            manifest = parse_json(path.read_bytes())
        except FileNotFoundError:
            raise StoreError(
                f"expected embeddings in {folder}, found no manifest.json; run 'fer embed'"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreDamagedError(f"{path} cannot be read ({error}); {_REPAIR}") from None
        try:
            if manifest["format"] > FORMAT:
                newer = f"{folder} has format {manifest['format']}, this ferkit knows {FORMAT}"
                raise StoreError(f"{newer}; update ferkit, or embed into another --cache-dir")
            found = StoreSettings.from_dict(manifest["settings"])
            damaged = fingerprint(found) != manifest["fingerprint"]
            store = EmbeddingStore(folder, found, manifest)
        except (KeyError, TypeError, ValueError, AttributeError, SettingsMismatchError):
            damaged = True
        if damaged:
            raise StoreDamagedError(f"{path} {_ALTERED}")
        if settings is not None and fingerprint(settings) != manifest["fingerprint"]:
            keys = ", ".join(differing_keys(settings, found))
            raise SettingsMismatchError(
                f"{folder} was made with other settings: {keys}; choose another folder"
            )
        return store

    def shards(self) -> list[ShardFiles]:
        """The complete shards, in order."""
        names = (path.stem.removeprefix("shard-") for path in self.folder.glob("shard-*.json"))
        return [
            ShardFiles(self.folder, number)
            for number in sorted(int(name) for name in names if name.isdigit())
        ]

    def rows(self) -> dict[str, Row]:
        """The newest row of each path, also of images that were deleted since."""
        return {row.path: row for shard in self.shards() for row in shard.read_rows()}

    def view(self) -> Snapshot | None:
        """Which data set the store mirrors; None before the first run."""
        path = self.folder / "view.json"
        if not path.exists():
            return None
        try:
            view = Snapshot(**parse_json(path.read_bytes()))
            if not (isinstance(view.deleted, list) and isinstance(view.relabelled, dict)):
                raise TypeError("it is not what was written")
            return view
        except (OSError, ValueError, TypeError) as error:
            raise StoreDamagedError(
                f"{path} cannot be read ({error}); delete this file and run 'fer embed' again"
            ) from None

    def write_view(self, view: Snapshot) -> None:
        """Say which data set the store mirrors now. Raises FerkitError if it cannot be written."""
        write_json(self.folder / "view.json", settings_dict(view))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one who writes.

        Raises:
            StoreLockedError: another process is writing.
        """
        with exclusive_lock(self.folder / ".lock", "writing to"):
            remove_leftovers(self.folder)
            yield

    def append(self, rows: list[Row], X: np.ndarray, started_ns: int, *, fill_gaps: bool = True) -> None:
        """Write one shard.

        Args:
            rows: what each row of ``X`` is.
            X: (n, dim), NaN where there is no embedding.
            started_ns: when the first of the images was read.
            fill_gaps: take the lowest free number, so that a repaired shard takes its old place; rows that replace
                older ones must come after those instead.

        Raises:
            FerkitError: the disk is full or the folder cannot be written.
        """
        taken = {shard.number for shard in self.shards()}
        number = (
            next(n for n in range(len(taken) + 1) if n not in taken)
            if fill_gaps
            else max(taken, default=-1) + 1
        )
        ShardFiles(self.folder, number).write(rows, X.astype(self.settings.dtype), started_ns)

    def load(self, dtype: Literal["float32", "float16"] = "float32") -> EmbeddingTable:
        """All embeddings of images that are still there, sorted by path; failures are left out.

        Args:
            dtype: of ``X``.

        Raises:
            StoreDamagedError: a shard is not what was written.
            DataError: there are no embeddings.
        """
        view = self.view() or Snapshot("", 0)
        hidden, newest = set(view.deleted), {}
        shards = [shard.read(self.dim, np.dtype(self.settings.dtype)) for shard in self.shards()]
        for s, (rows, _) in enumerate(shards):
            newest.update({row.path: (s, i) for i, row in enumerate(rows) if row.path not in hidden})
        kept = sorted((p, s, i) for p, (s, i) in newest.items() if shards[s][0][i].error is None)
        if not kept:
            raise DataError(f"expected embeddings in {self.folder}, found none; run 'fer embed' to its end")
        X = np.empty((len(kept), self.dim), dtype)
        positions = np.array([(s, i) for _, s, i in kept])
        for s, (_, block) in enumerate(shards):
            of_shard = np.flatnonzero(positions[:, 0] == s)
            X[of_shard] = block[positions[of_shard, 1]]
        chosen = [shards[s][0][i] for _, s, i in kept]
        known = [view.relabelled.get(row.path, (row.label, row.split, row.group)) for row in chosen]
        label, split, group = zip(*known, strict=True)
        paths = tuple(row.path for row in chosen)
        return EmbeddingTable(X, *(np.array(column, object) for column in (label, paths, group, split)))

    def failures(self) -> list[Row]:
        """Rows of images that are still there and have no embedding, sorted by path."""
        hidden = set((self.view() or Snapshot("", 0)).deleted)
        rows = self.rows().values()
        return sorted(
            (r for r in rows if r.error is not None and r.path not in hidden), key=lambda row: row.path
        )

    def verify(self) -> list[tuple[ShardFiles, str]]:
        """Every shard that is not what was written, with the reason; empty if all is well."""
        damaged = []
        for shard in self.shards():
            try:
                shard.read(self.dim, np.dtype(self.settings.dtype))
            except StoreDamagedError as error:
                damaged.append((shard, str(error)))
        return damaged

    def mirrored(
        self,
        samples: tuple[Sample, ...],
        root: Path,
        weights: Path | None = None,
        licence: str = "unknown",
        crops: str | None = None,
    ) -> Snapshot:
        """The view that shows exactly ``samples``.

        Raises:
            StoreError: the store mirrors another data set that is still there.
        """
        before = self.view()
        here = str(root.resolve())
        if before is not None and before.root != here and Path(before.root).exists():
            raise StoreError(
                f"{self.folder} holds the embeddings of {before.root}, not of {here}; give this one another --name"
            )
        rows = self.rows()
        listed = {sample.path: sample for sample in samples}
        relabelled = {
            path: [sample.label, sample.split, sample.group]
            for path, sample in listed.items()
            if path in rows and rows[path].relabelled(sample) != rows[path]
        }
        weights_file = None if weights is None else str(weights.resolve())
        deleted = sorted(rows.keys() - listed.keys())
        cosine = None if before is None else before.cosine
        return Snapshot(here, len(samples), weights_file, licence, deleted, relabelled, crops, cosine)


def _positive(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number above 0, found {value!r}")
    return value


def find_stores(cache_dir: Path) -> list[Path]:
    """Folders of embeddings in ``cache_dir``, the one that was worked on last first."""
    views = sorted(cache_dir.glob("*/view.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [path.parent for path in views]


def stores_of(
    root: Path, dataset: str, settings: EmbedderSettings
) -> Iterator[tuple[Path, Engine, EmbedderSettings, float | None]]:
    """Stores of a data set by the same network, whatever ran it, worked on last first.

    Yields:
        Folder, engine, settings, and the cosine of the embeddings with those in float32.
    """
    for folder in find_stores(root):
        if folder.name.rpartition("--")[0].rpartition("--")[0] != dataset:
            continue
        with contextlib.suppress(StoreError):
            store = EmbeddingStore.open(folder)
            made, view = store.settings.embedder, store.view()
            own = replace(made, engine=settings.engine, precision=settings.precision, ranges=settings.ranges)
            if own == settings:
                cosine = None if view is None else view.cosine
                yield folder, Engine(made.engine, made.precision), made, cosine


def find_embeddings(cache_dir: Path, name: str | None = None) -> Path:
    """The folder of embeddings that is, is called, or begins with ``name``; the newest if None.

    Raises:
        DataError: there is none, or several begin so.
    """
    if name is not None and (Path(name) / "manifest.json").is_file():
        return Path(name)
    stores = find_stores(cache_dir)
    matching = [folder for folder in stores if name is None or folder.name.startswith(name)]
    if name is not None and len(matching) > 1:
        listed = ", ".join(folder.name for folder in matching)
        raise DataError(f"{name!r} begins the names of several embeddings: {listed}; give more of the name")
    if not matching:
        known = ", ".join(folder.name for folder in stores) or "none"
        wanted = f"embeddings called {name!r}" if name else "embeddings"
        raise DataError(f"expected {wanted} in {cache_dir}, found {known}; run 'fer embed DATA' first")
    return matching[0]
