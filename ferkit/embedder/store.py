"""Embeddings on disk: shards that are written once, found again, and never mixed with those of other settings.

A store is a folder ``<dataset>--<backbone>--<fp8>/``:

    manifest.json      the settings that every number in it depends on, and their digest
    shard-00000.npy    embeddings of a fixed range of the sorted pictures, float32 or float16
    shard-00000.json   what each row is; written last, so that a shard is whole or absent
    time-00000.json    when its images were read, which decides whether one may have changed since
    view.json          which data set the store mirrors now: what was deleted from it or got another label since

Rows are never changed: a picture that changed gets a new row in a new shard, and the newest row counts.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ferkit.core.errors import (
    DataError,
    SettingsMismatchError,
    StoreDamagedError,
    StoreError,
)
from ferkit.core.files import exclusive_lock, parse_json, remove_leftovers, write_json
from ferkit.core.fingerprint import differing_keys, fingerprint
from ferkit.datasets.dataset import Sample
from ferkit.embedder.rows import Row, ShardFiles
from ferkit.embedder.settings import FORMAT, StoreSettings
from ferkit.embedder.table import EmbeddingTable

_REPAIR = (
    "'fer embed' with --repair and the settings it was made with writes it anew, without them the embeddings in its "
    "folder are lost"
)
_ALTERED = f"was altered after it was written; {_REPAIR}"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """Which data set a store mirrors, and what is worth knowing of the last run: ``view.json``.

    Attributes:
        root: the data set's folder or file.
        n_samples: how many pictures it has.
        weights: where the backbone's weights were, None without.
        licence: of these weights.
        deleted: paths in the store that the data set no longer has.
        relabelled: label, split and group of the paths for which they changed since they were embedded.
    """

    root: str
    n_samples: int
    weights: str | None = None
    licence: str = "unknown"
    deleted: list[str] = field(default_factory=list)
    relabelled: dict[str, list[str | None]] = field(default_factory=dict)


class EmbeddingStore:
    """One folder of embeddings. Made by :meth:`create` or :meth:`open`."""

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
            "settings": asdict(settings),
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
        """The newest row of each path, also of pictures that were deleted since."""
        return {row.path: row for shard in self.shards() for row in shard.read_rows()}

    def view(self) -> View | None:
        """Which data set the store mirrors; None before the first run."""
        path = self.folder / "view.json"
        if not path.exists():
            return None
        try:
            view = View(**parse_json(path.read_bytes()))
            if not (isinstance(view.deleted, list) and isinstance(view.relabelled, dict)):
                raise TypeError("it is not what was written")
            return view
        except (OSError, ValueError, TypeError) as error:
            raise StoreDamagedError(
                f"{path} cannot be read ({error}); delete this file and run 'fer embed' again"
            ) from None

    def write_view(self, view: View) -> None:
        """Say which data set the store mirrors now. Raises FerkitError if it cannot be written."""
        write_json(self.folder / "view.json", asdict(view))

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
            started_ns: when the first of the pictures was read.
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
        """All embeddings of pictures that are still there, sorted by path; failures are left out.

        Args:
            dtype: of ``X``.

        Raises:
            StoreDamagedError: a shard is not what was written.
            DataError: there are no embeddings.
        """
        view = self.view() or View("", 0)
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
        """Rows of pictures that are still there and have no embedding, sorted by path."""
        hidden = set((self.view() or View("", 0)).deleted)
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
        self, samples: tuple[Sample, ...], root: Path, weights: Path | None = None, licence: str = "unknown"
    ) -> View:
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
        return View(here, len(samples), weights_file, licence, deleted, relabelled)


def _positive(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number above 0, found {value!r}")
    return value
