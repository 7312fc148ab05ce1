"""Heads fitted out of core are those fitted in memory, within a point, in flat memory and as saved models."""

import hashlib
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ferkit.classifiers.fitting import fit_rows
from ferkit.classifiers.head_onnx import head_to_onnx
from ferkit.classifiers.heads import fit_head, head_settings
from ferkit.core.errors import DataError
from ferkit.core.files import fingerprint
from ferkit.core.labels import LabelSet
from ferkit.datasets.dataset import FileSource, Listing, labelled_by_folders
from ferkit.datasets.split import SplitSettings
from ferkit.embedder.settings import EmbedderSettings, StoreSettings
from ferkit.embedder.shards import Row, ShardRows
from ferkit.embedder.store import EmbeddingStore, EmbeddingTable
from ferkit.evaluation.evaluate_model import _rows_digest, fit_request
from ferkit.faces.cropping import CropSettings

N, DIM = 6_000, 24
CLASSES = ("angry", "happy", "neutral", "sad")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Embeddings of four classes, sorted by class as folders are, in shards of 512; a hundredth has failed."""
    settings = StoreSettings(EmbedderSettings("raw", None, (48, 48)), CropSettings.whole(), "float16")
    made = EmbeddingStore.create(
        tmp_path_factory.mktemp("cache"), "x", settings, dim=DIM, rows_per_shard=512, batch_size=32
    )
    rng = np.random.default_rng(0)
    y = np.sort(rng.integers(0, 4, N))
    X = rng.normal(0, 0.5, (4, DIM))[y] + rng.normal(size=(N, DIM))
    X[::100] = np.nan
    for number, first in enumerate(range(0, N, 512)):
        some = range(first, min(first + 512, N))
        errors = [None if i % 100 else "no face" for i in some]
        rows = [
            Row(
                f"{CLASSES[y[i]]}/{i:05d}.png", CLASSES[y[i]], None, f"p{i // 7}", 9, f"{i:064x}", None, error
            )
            for i, error in zip(some, errors, strict=True)
        ]
        made.shard(number).write(rows, X[some.start : some.stop].astype(np.float16), 0)
    return made


@pytest.fixture(scope="module")
def tables(store: EmbeddingStore) -> tuple[EmbeddingTable, EmbeddingTable]:
    return store.load(), store.load(mapped=True)


def test_rows_on_the_disk_are_those_in_memory(tables: tuple[EmbeddingTable, EmbeddingTable]):
    here, there = tables
    assert isinstance(there.X, ShardRows)
    assert there.X.shape == here.X.shape == (N - N // 100, DIM)
    assert there.n_failed == N // 100
    assert here.paths.tolist() == list(there.paths) == sorted(here.paths)
    assert np.array_equal(here.keys, there.keys)
    assert np.array_equal(np.asarray(there.X, np.float32), here.X)
    rng = np.random.default_rng(1)
    for index in (
        slice(3, 900, 7),
        rng.permutation(len(here))[:500],
        rng.random(len(here)) < 0.1,
        np.arange(0),
    ):
        assert np.array_equal(np.asarray(there.X[index], np.float32), here.X[index])
        assert list(there[index].paths) == here[index].paths.tolist()


def test_a_row_takes_little_memory(store: EmbeddingStore):
    store.load(mapped=True)  # what is imported and kept once
    tracemalloc.start()
    try:
        table = store.load(mapped=True)
        held, most = tracemalloc.get_traced_memory()
        assert held / len(table) < 90  # paths 24 with their ends, names 24, keys 8, places 8
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        listing = Listing([f"{i % 7}/p{i % 100}_{i:09d}.jpg" for i in range(20_000)], (), FileSource(Path()))
        labelled_by_folders(Path(), listing, r"(p\d+)_")
        held, most = tracemalloc.get_traced_memory()
        assert (most - before) / 20_000 < 250  # a string of 70, a sample of 80, and what points to them
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("logistic", {"C": 0.01}),
        ("logistic", {"C": 0.01, "class_weights": True, "pca": 8}),
        ("mlp", {"hidden": (16,), "max_epochs": 30}),
        ("svm", {"landmarks": 200, "exact_rows": 0}),
        ("dummy", {}),
    ],
)
def test_a_head_is_within_a_point_of_the_one_in_memory(tables, kind: str, options: dict):
    here, there = tables
    settings = head_settings(kind, **options)
    test = np.random.default_rng(2).random(len(here)) < 0.3
    in_memory = fit_head(here.X[~test], here.y[~test], settings, here.groups[~test])
    on_disk = fit_rows(there.X[~test], there.y[~test], settings, there.groups[~test])
    truth = here.y[test]

    def accuracy(head) -> float:
        return float((np.array(head.classes)[head.predict_proba(here.X[test]).argmax(1)] == truth).mean())

    assert accuracy(on_disk) > accuracy(in_memory) - 0.01
    assert on_disk.classes == in_memory.classes
    assert "fitted out of core" in on_disk.notes[-1]
    proba = on_disk.predict_proba(there.X[test])
    assert np.array_equal(proba, on_disk.predict_proba(here.X[test]))
    assert proba.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert type(on_disk.pipeline[-1]) is type(in_memory.pipeline[-1]) or kind == "svm"
    assert head_to_onnx(on_disk.pipeline, here.X[test][:64])


def test_so_few_rows_as_the_exact_svm_takes_are_read(tables: tuple[EmbeddingTable, EmbeddingTable]):
    here, there = tables
    some, settings = np.arange(0, len(here), 20), head_settings("svm")
    in_memory, on_disk = (fit_rows(t.X[some], t.y[some], settings, t.groups[some]) for t in tables)
    assert np.array_equal(on_disk.predict_proba(here.X), in_memory.predict_proba(here.X))
    assert np.array_equal(on_disk.predict_proba(there.X[:9]), in_memory.predict_proba(here.X[:9]))


def test_classes_that_cannot_be_held_out_are_fitted_without(tables: tuple[EmbeddingTable, EmbeddingTable]):
    _, there = tables
    few = np.concatenate([np.arange(400), [len(there) - 2, len(there) - 1]])
    head = fit_rows(there.X[few], there.y[few], head_settings("logistic", C=0.01))
    assert head.classes == ("angry", "sad")
    assert not head.history


def test_a_fit_is_known_by_all_its_rows_as_before(
    store: EmbeddingStore, tables: tuple[EmbeddingTable, EmbeddingTable], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ferkit.evaluation.evaluate_model._HASHED_ROWS", 1_000)
    settings, split = head_settings("mlp"), SplitSettings()
    for table in tables:
        names = [list(column) for column in (table.paths, table.y, table.split, table.groups)]
        X = hashlib.sha256(np.ascontiguousarray(table.X).data).hexdigest()
        parts = [names, X, fingerprint(store.settings), settings.to_dict(), asdict(split), None]
        assert fit_request(table, store, settings, split) == fingerprint(parts)
        labels = LabelSet.from_names(CLASSES)
        wanted = fingerprint([*parts, list(CLASSES)])
        assert fit_request(table, store, settings, split, labels=labels) == wanted
        assert _rows_digest(table) == fingerprint(list(zip(*names[:3], strict=True)))
        assert _rows_digest(table[np.arange(0)]) == fingerprint([])


def test_a_fit_command_takes_rows_from_the_disk_where_memory_is_short(store: EmbeddingStore, tmp_path: Path):
    from click.testing import CliRunner

    from ferkit.cli.main import main

    words = ["fit", "--head", "logistic", "--embeddings", str(store.folder), "--models-dir", str(tmp_path)]
    run = CliRunner().invoke(main, [*words, "--set", "memory_gb=0.0001", "--name", "far"])
    assert run.exit_code == 0, run.output
    assert "stay on the disk" in run.output
    run = CliRunner().invoke(main, [*words, "--set", "memory_gb=0.0001", "--name", "far"])
    assert "unchanged" in run.output
    assert CliRunner().invoke(main, [*words, "--name", "near"]).exit_code == 0
    from ferkit.classifiers.model import read_model

    far, near = (read_model(tmp_path / name).report["accuracy"]["value"] for name in ("far", "near"))
    assert far > near - 0.01


def test_what_needs_memory_is_said(tables: tuple[EmbeddingTable, EmbeddingTable]):
    _, there = tables
    with pytest.raises(DataError, match="isotonic calibration needs the embeddings in memory"):
        fit_rows(there.X, there.y, head_settings("logistic", calibration="isotonic"))
    with pytest.raises(DataError, match="at least two classes"):
        fit_rows(there.X[:20], there.y[:20], head_settings("logistic"))
