"""Keep embeddings on disk in verified shards, find stores and load them as a table.

A store is a folder ``<dataset>--<backbone>--<fp8>/``:

    manifest.json      the settings that every number in it depends on, and their digest
    shard-00000.npy    embeddings of a fixed range of the sorted images, float32 or float16
    shard-00000.json   what each row is; written last, so that a shard is whole or absent
    time-00000.json    when its images were read, which decides whether one may have changed since
    view.json          which data set the store mirrors now: what was deleted from it or got another label since

Rows are never changed: an image that changed gets a new row in a new shard, and the newest row counts.
:func:`export_embeddings` writes them as a table for other programs.
"""

import contextlib
import itertools
import logging
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from ferkit.core.console import free_memory, progress
from ferkit.core.errors import (
    DataError,
    DependencyError,
    SettingsMismatchError,
    StoreDamagedError,
    StoreError,
    checked,
    mask_credentials,
)
from ferkit.core.files import (
    LATER,
    as_path,
    differing_keys,
    exclusive_lock,
    fingerprint,
    fresh,
    is_local,
    parse_json,
    remove_leftovers,
    settings_dict,
    spelled,
    write_atomically,
    write_json,
)
from ferkit.datasets.dataset import place_name
from ferkit.datasets.leakage import image_key
from ferkit.embedder.engines import Engine
from ferkit.embedder.settings import FORMAT, EmbedderSettings, StoreSettings
from ferkit.embedder.shards import PlacedRow, Row, ShardContent, ShardFiles, ShardRows, newest_rows


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings and what is known of each, row by row, sorted by path.

    Attributes:
        X: (n, dim) float32 or float16, finite; a :class:`ferkit.embedder.shards.ShardRows` where it stays on the disk.
        y: (n,) str objects, class names; None where unknown.
        paths: (n,) str objects; :class:`Paths` where ``X`` stays on the disk.
        groups, split: (n,) str objects; None where unknown.
        n_failed: images that are still there and have no embedding.
        keys: (n,) uint64, see :func:`ferkit.datasets.leakage.image_keys`; None where the contents are not known.
    """

    X: np.ndarray
    y: np.ndarray
    paths: np.ndarray
    groups: np.ndarray
    split: np.ndarray
    keys: np.ndarray | None = None
    n_failed: int = 0

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: np.ndarray) -> "EmbeddingTable":
        """The rows at ``index``, a mask or positions."""
        keys = None if self.keys is None else self.keys[index]
        return EmbeddingTable(
            self.X[index], self.y[index], self.paths[index], self.groups[index], self.split[index], keys,
            self.n_failed,
        )  # fmt: skip

    def labelled(self) -> "EmbeddingTable":
        """The rows that have a label.

        Raises:
            DataError: there are none.
        """
        known = np.fromiter((label is not None for label in self.y), bool, len(self.y))
        if not known.any():
            raise DataError(
                "expected labelled images, found none with a label; lay them out as data/<class>/*.jpg"
            )
        return self if known.all() else self[known]


class Paths:
    """A column of paths (n,) in a quarter of the memory that as many strings take.

    Args:
        text: the paths in UTF-8, one after the other.
        ends: where each ends, int64.
        rows: which of them, and in which order; None for all.
    """

    def __init__(self, text: bytearray, ends: np.ndarray, rows: np.ndarray | None = None) -> None:
        self._text, self._ends, self._rows = text, ends, rows

    def __len__(self) -> int:
        return len(self._ends if self._rows is None else self._rows)

    def __getitem__(self, index: Any) -> "Paths":
        """The rows at a slice, mask or positions."""
        rows = np.arange(len(self._ends), dtype=np.int32) if self._rows is None else self._rows
        return Paths(self._text, self._ends, rows[index])

    def __iter__(self) -> Iterator[str]:
        for i in range(len(self._ends)) if self._rows is None else self._rows:
            start = self._ends[i - 1] if i else 0
            yield self._text[start : self._ends[i]].decode("utf-8", "surrogateescape")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, (n,) str objects."""
        return _column(list(self))


_REPAIR = (
    "'fer embed' with --repair and the settings it was made with writes it again, without them the embeddings in its "
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
            repair: write a damaged manifest again, as these settings give its digest.

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
        mark = folder / "manifest.json"
        if not (os.path.exists(mark) if is_local(mark) else mark.exists()):
            write_json(folder / "manifest.json", manifest)
        try:
            store = EmbeddingStore.open(folder, settings)
            if store.dim != dim:
                raise StoreDamagedError(f"{folder / 'manifest.json'} {_ALTERED}")
            return store
        except StoreDamagedError as error:
            if not repair:
                raise
            logger.warning("%s; it is written again", str(error).partition(";")[0])
        store = EmbeddingStore(folder, settings, manifest)
        if len(shards := store.shards()) > 1:  # all but the last of a run are full
            with contextlib.suppress(StoreDamagedError):
                manifest["rows_per_shard"] = max(1, *(len(shard.read_rows()) for shard in shards[:2]))
        write_json(folder / "manifest.json", manifest)
        return EmbeddingStore.open(folder, settings)

    @staticmethod
    @checked
    def open(folder: str | os.PathLike[str], settings: StoreSettings | None = None) -> "EmbeddingStore":
        """The store in ``folder``.

        Args:
            folder: with its ``manifest.json``.
            settings: what it must have been made with; None takes any.

        Raises:
            StoreError: no store, or one of a newer format.
            StoreDamagedError: the manifest was altered.
            SettingsMismatchError: made with other settings; the message names them.
        """
        folder = as_path(folder)
        path = folder / "manifest.json"
        try:
            manifest = parse_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            message = f"expected embeddings in {folder}, found no manifest.json; run 'fer embed'"
            raise StoreError(message) from None
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
        names = (path.stem.removeprefix("shard-") for path in fresh(self.folder).glob("shard-*.json"))
        return [
            ShardFiles(self.folder, number)
            for number in sorted(int(name) for name in names if name.isdigit())
        ]

    def newest(
        self, *, arrays: bool = True, damaged: Callable[[ShardFiles, str], object] | None = None
    ) -> Iterator[PlacedRow]:
        """The newest row of each path, also of images that were deleted since, sorted by path; in one pass.

        Args:
            arrays: check the digests of the embeddings too.
            damaged: is told of each damaged shard, which is then passed over, and of the reason.

        Raises:
            StoreDamagedError: a shard is not what was written, and nobody is told of it.
        """

        def read(shard: ShardFiles) -> ShardContent | None:
            try:
                content = shard.content()
                if arrays:
                    shard.checked(content, self.dim, np.dtype(self.settings.dtype))
                return content
            except StoreDamagedError as error:
                if damaged is None:
                    raise
                damaged(shard, str(error))
                return None

        return newest_rows(self.shards(), read)

    def rows(self) -> dict[str, Row]:
        """The newest row of each path, also of images that were deleted since."""
        return {placed.row.path: placed.row for placed in self.newest(arrays=False)}

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
    def writing(self, alone: bool = True) -> Iterator[None]:
        """Be the only one who writes, or one of those who each write shards of their own.

        Raises:
            StoreLockedError: another process is writing.
        """
        with exclusive_lock(self.folder / ".lock", "writing to", shared=not alone, optional=not alone):
            if alone:
                remove_leftovers(self.folder)
            yield

    def free_numbers(self, *, fill_gaps: bool = True, taken: Iterable[int] = ()) -> Iterator[int]:
        """Numbers for new shards, without end.

        Args:
            fill_gaps: the lowest free ones first, so that a repaired shard takes its old place; rows that replace
                older ones must come after those instead.
            taken: numbers that are taken although their shards are not there yet.
        """
        there = {shard.number for shard in self.shards()}.union(taken)
        start = 0 if fill_gaps else max(there, default=-1) + 1
        return (number for number in itertools.count(start) if number not in there)

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
        number = next(self.free_numbers(fill_gaps=fill_gaps))
        self.shard(number).write(rows, X.astype(self.settings.dtype), started_ns)

    def shard(self, number: int) -> ShardFiles:
        """The files of a shard, whether they are there or not."""
        return ShardFiles(self.folder, number)

    @checked
    def load(
        self, dtype: Literal["float32", "float16"] = "float32", *, mapped: bool = False
    ) -> EmbeddingTable:
        """All embeddings of images that are still there, sorted by path; failures are left out.

        Args:
            dtype: of ``X``.
            mapped: leave ``X`` on the disk, where it may be larger than the memory.

        Raises:
            StoreDamagedError: a shard is not what was written.
            DataError: there are no embeddings, or more than the memory holds.
        """
        view = self.view() or Snapshot("", 0)
        hidden = set(view.deleted)
        text, ends = bytearray(), array("q")
        columns = array("i"), array("i"), array("i")
        number: dict[str | None, int] = {}  # of the same few names in all rows
        shards, positions, keys, n_failed = array("i"), array("i"), array("Q"), 0
        for row, shard, position, _ in self.newest():
            if row.path in hidden:
                continue
            if row.error is not None:
                n_failed += 1
                continue
            text += row.path.encode("utf-8", "surrogateescape")
            ends.append(len(text))
            known = view.relabelled.get(row.path, (row.label, row.split, row.group))
            for column, name in zip(columns, known, strict=True):
                column.append(number.setdefault(name, len(number)))
            shards.append(shard)
            positions.append(position)
            keys.append(image_key(row.sha256))
        n = len(ends)
        needed = n * self.dim * np.dtype(dtype).itemsize
        if not mapped and needed > (free := free_memory()):
            raise DataError(
                f"{n:,} embeddings of {self.dim} numbers take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB "
                "of memory are free; only 'fer fit' and 'fer dataset export' take more than fits: for the rest draw a "
                "part of the data with 'fer dataset sample', or embed with a narrower layer"
            )
        if not n:
            raise self.why_empty()
        files, stored = {shard.number: shard for shard in self.shards()}, np.dtype(self.settings.dtype)
        places = np.frombuffer(shards, np.int32), np.frombuffer(positions, np.int32)
        rows, paths = ShardRows(files, *places, self.dim, stored), Paths(text, np.frombuffer(ends, np.int64))
        X, found = cast(Any, (rows, paths) if mapped else (np.asarray(rows, dtype), np.asarray(paths)))
        names = _column(list(number))
        y, split, groups = (names[np.frombuffer(column, np.int32)] for column in columns)
        return EmbeddingTable(X, y, found, groups, split, np.frombuffer(keys, np.uint64), n_failed)

    def failures(self) -> list[Row]:
        """Rows of images that are still there and have no embedding, sorted by path."""
        hidden = set((self.view() or Snapshot("", 0)).deleted)
        newest = (placed.row for placed in self.newest(arrays=False))
        return [row for row in newest if row.error is not None and row.path not in hidden]

    def why_empty(self) -> DataError:
        """What to raise where embeddings are expected and there are none."""
        if failed := self.failures():
            first = f"{failed[0].path}: {failed[0].error}"
            return DataError(f"none of the {len(failed)} images could be embedded; the first, {first}")
        return DataError(f"expected embeddings in {self.folder}, found none; run 'fer embed' to its end")

    def verify(self) -> list[tuple[ShardFiles, str]]:
        """Every shard that is not what was written, with the reason; empty if all is well."""
        damaged: list[tuple[ShardFiles, str]] = []
        deque(self.newest(damaged=lambda shard, reason: damaged.append((shard, reason))), maxlen=0)
        return sorted(damaged, key=lambda one: one[0].number)

    def check_root(self, root: Path) -> None:
        """Refuse a data set other than the one that the store mirrors.

        Raises:
            StoreError: the store mirrors another data set that is still there.
        """
        before, here = self.view(), full_name(root)
        if before is not None and before.root != here and as_path(before.root).exists():
            raise StoreError(
                f"{self.folder} holds the embeddings of {before.root}, not of {here}; give this one another --name"
            )


def full_name(path: Path) -> str:
    """A path from the root of its disk, or an address without its secrets."""
    return mask_credentials(spelled(path))


def _column(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _positive(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number above 0, found {value!r}")
    return value


def find_stores(cache_dir: Path) -> list[Path]:
    """Folders of embeddings in ``cache_dir``, the one that was worked on last first."""
    views = sorted(cache_dir.glob("*/view.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in views]


def stores_of(
    root: Path, dataset: str, settings: EmbedderSettings
) -> Iterator[tuple[Path, Engine, EmbedderSettings, float | None]]:
    """Stores of a data set by the same network, by any engine, worked on last first.

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
    """The folder of embeddings that is, is called, or begins with ``name``, or is the newest of the data at ``name``.

    Without a name it is the newest of all.

    Raises:
        DataError: there is none, or several begin so.
    """
    stores = matching = find_stores(cache_dir)
    wanted, data = "embeddings", "DATA"
    if name is not None:
        given = as_path(name)
        if (given / "manifest.json").is_file():
            return given
        wanted = f"embeddings called {name!r}"
        matching = [folder for folder in stores if folder.name.startswith(name)]
        if given.exists():
            wanted, data = f"embeddings of {name}", name
            names = (place_name(given), given.stem)
            matching = [one for one in stores if one.name.rpartition("--")[0].rpartition("--")[0] in names][
                :1
            ]
        if len(matching) > 1:
            listed = ", ".join(folder.name for folder in matching)
            raise DataError(
                f"{name!r} begins the names of several embeddings: {listed}; give more of the name"
            )
    if not matching:
        known = ", ".join(folder.name for folder in stores) or "none"
        raise DataError(f"expected {wanted} in {cache_dir}, found {known}; run 'fer embed {data}' first")
    return matching[0]


_ROWS = 4_096


def export_embeddings(store: EmbeddingStore, out: Path) -> int:
    """Write path, label, split, group, box, SHA-256 and embedding of every image that is still there, sorted by path.

    Memory stays flat. The embedding is a list of fixed size in the store's own precision.

    Args:
        store: which.
        out: ``.parquet``, or ``.lance`` where pylance is installed.

    Returns:
        The number of rows.

    Raises:
        DependencyError: pyarrow or pylance is not installed.
        DataError: another suffix, or no embeddings.
        StoreDamagedError: a shard is not what was written.
        FerkitError: the disk is full.
    """
    kind = out.suffix.lower()
    if kind not in (".parquet", ".lance"):
        raise DataError(
            f"expected {out.name} to end in .parquet or .lance, to which embeddings can be written"
        )
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if kind == ".lance":
            import lance
    except ImportError as error:
        package = "pip install pylance" if kind == ".lance" else "pip install 'ferkit[parquet]'"
        raise DependencyError(
            f"writing {kind} needs a package that is not here ({error}): {package}"
        ) from None
    number = pa.from_numpy_dtype(np.dtype(store.settings.dtype))
    text = [(name, pa.string()) for name in ("path", "label", "split", "group")]
    box = [(name, pa.float32()) for name in ("left", "top", "right", "bottom")]
    vector = pa.list_(number, store.dim)
    metadata = {"ferkit": f"{store.folder.name}: {store.settings.embedder.backbone}"}
    schema = pa.schema([*text, *box, ("sha256", pa.string()), ("embedding", vector)], metadata=metadata)
    view, n = store.view() or Snapshot("", 0), 0
    total = sum(1 for _ in store.shards()) * store.rows_per_shard

    def batches() -> Iterator[Any]:
        nonlocal n
        hidden = set(view.deleted)
        files = {shard.number: shard for shard in store.shards()}
        with progress("writing", total) as shown:
            rows = (p for p in store.newest() if p.row.error is None and p.row.path not in hidden)
            while some := list(itertools.islice(rows, _ROWS)):
                at = np.array([(placed.shard, placed.position) for placed in some])
                X = np.asarray(
                    ShardRows(files, at[:, 0], at[:, 1], store.dim, np.dtype(store.settings.dtype))
                )
                columns = [pa.array(list(column), kind) for column, (_, kind) in zip(
                    zip(*(_cells(placed, view) for placed in some), strict=True),
                    [*text, *box, ("sha256", pa.string())], strict=True,
                )]  # fmt: skip
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), store.dim))
                yield pa.record_batch(columns, schema=schema)
                n += len(some)
                shown.update(len(some))
        if not n:
            raise store.why_empty()

    if kind == ".lance":
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(out), mode="overwrite")
        return n

    def write(file: Any) -> None:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in batches():
                writer.write_batch(batch)

    write_atomically(out, write)
    return n


def _cells(placed: PlacedRow, view: Snapshot) -> list[Any]:
    row = placed.row
    names = view.relabelled.get(row.path, (row.label, row.split, row.group))
    # Bytes of names that are not UTF-8 cannot stand in a column of text.
    path = row.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return [path, *names, *(row.box or (None,) * 4), row.sha256]
