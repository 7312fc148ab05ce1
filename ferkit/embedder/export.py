"""Embeddings as a table for other programs: Parquet for DuckDB, Polars and pandas, Lance for vector search."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import DataError, DependencyError
from ferkit.core.files import write_atomically
from ferkit.embedder.shards import PlacedRow, ShardRows
from ferkit.embedder.store import EmbeddingStore, Snapshot

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
            raise DataError(f"expected embeddings in {store.folder}, found none; run 'fer embed' to its end")

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
