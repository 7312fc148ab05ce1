"""Embedding under faults: damage, locks, full disks, interrupts."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_runs import SHARD, Counting, contents, embed, write_image, write_images

from ferkit.core import files
from ferkit.core.errors import FerkitError, StoreDamagedError, StoreError, StoreLockedError
from ferkit.datasets.dataset import Dataset, Sample, Stamp
from ferkit.datasets.load import load_dataset
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.extract import extract
from ferkit.embedder.settings import StoreSettings
from ferkit.embedder.store import EmbeddingStore
from ferkit.faces.cropping import CropSettings, FaceCropper


def test_a_repair_makes_the_damaged_shards_anew_and_nothing_else(tmp_path: Path):
    data = write_images(tmp_path / "data", 40)
    store, _ = embed(data, tmp_path / "cache")
    before = contents(store.folder)
    shards = store.shards()
    content = bytearray(shards[0].npy.read_bytes())
    content[-1] ^= 1
    shards[0].npy.write_bytes(content)
    shards[1].json.write_bytes(shards[1].json.read_bytes()[:300])
    shards[2].npy.unlink()
    shards[3].json.unlink()
    with pytest.raises(StoreDamagedError, match="--repair"):
        embed(data, tmp_path / "cache")
    counting = Counting()
    embed(data, tmp_path / "cache", counting, repair=True)
    assert counting.n == 4 * SHARD
    assert contents(store.folder) == before


def test_a_repair_and_a_change_at_once_keep_the_newest_row(tmp_path: Path):
    data = write_images(tmp_path / "data", 20)
    store, _ = embed(data, tmp_path / "cache")
    write_image(data / "sad" / "0018.bmp", 70)
    embed(data, tmp_path / "cache")
    write_image(data / "sad" / "0018.bmp", 71)
    store.shards()[0].npy.unlink()
    embed(data, tmp_path / "cache", repair=True)
    dataset = load_dataset(data)
    alone = open_embedder("raw").embed(np.stack([dataset.read(s) for s in dataset.samples]))
    assert np.array_equal(store.load().X, alone)
    assert embed(data, tmp_path / "cache")[1].n_done == 0


def test_two_data_sets_of_one_name_do_not_mix(tmp_path: Path):
    first, second = write_images(tmp_path / "a" / "data", 3), write_images(tmp_path / "b" / "data", 5)
    store, _ = embed(first, tmp_path / "cache")
    before = contents(store.folder)
    with pytest.raises(StoreError, match="give this one another --name"):
        embed(second, tmp_path / "cache")
    assert contents(store.folder) == before
    other, _ = embed(second, tmp_path / "cache", name="other")
    assert len(other.load()) == 5
    assert len(store.load()) == 3


def test_a_data_set_that_was_moved_keeps_its_embeddings(tmp_path: Path):
    data = write_images(tmp_path / "a" / "data", 3)
    embed(data, tmp_path / "cache")
    (tmp_path / "b").mkdir()
    shutil.move(data, tmp_path / "b" / "data")
    assert embed(tmp_path / "b" / "data", tmp_path / "cache")[1].n_kept == 3


def test_another_process_that_writes_is_not_disturbed(tmp_path: Path):
    data = write_images(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    write_images(data, 2, start=10)
    code = (
        "import sys; from pathlib import Path; from ferkit.embedder.store import EmbeddingStore\n"
        "with EmbeddingStore.open(Path(sys.argv[1])).writing():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"held\n"
        before = contents(store.folder)
        with pytest.raises(
            StoreLockedError, match=r"another process is writing to .*; wait until it has finished"
        ):
            embed(data, tmp_path / "cache")
        assert contents(store.folder) == before
        assert len(store.load()) == 10  # who reads is not kept waiting
        writer.communicate(b"")
    assert embed(data, tmp_path / "cache")[1].n_done == 2


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_up_in_the_middle_loses_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    data = write_images(tmp_path / "data", 30)
    expected = contents(embed(data, tmp_path / "undisturbed")[0].folder)
    real, calls = getattr(os, step), iter(range(1000))

    def filling(*arguments):
        if next(calls) >= 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, filling)
        with pytest.raises(
            FerkitError, match=r"the disk is full: .*make room and run the same command again"
        ):
            embed(data, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    store = EmbeddingStore.open(folder)
    assert 0 < len(store.load()) < 30
    assert store.verify() == []
    assert not list(folder.glob(".*.tmp"))
    embed(data, tmp_path / "cache")
    assert contents(folder) == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_truly_full_disk_loses_no_shard(tmp_path: Path, small_disk: Path):
    data = write_images(tmp_path / "data", 30)
    with pytest.raises(FerkitError, match="the disk is full"):
        embed(data, small_disk)
    (folder,) = small_disk.iterdir()
    store = EmbeddingStore.open(folder)
    assert len(store.load()) in (SHARD, 2 * SHARD)
    assert not list(folder.glob(".*.tmp"))
    expected = contents(embed(data, tmp_path / "undisturbed")[0].folder)
    assert contents(folder).items() <= expected.items()


def test_half_precision_keeps_three_digits_in_half_the_space(tmp_path: Path):
    data = write_images(tmp_path / "data", 9)
    single, _ = embed(data, tmp_path / "cache")
    half, _ = embed(data, tmp_path / "cache", dtype="float16")
    assert half.folder != single.folder
    assert np.abs(half.load().X - single.load().X).max() < 5e-4
    sizes = [sum(p.stat().st_size for p in store.folder.glob("*.npy")) for store in (half, single)]
    assert sizes[0] < 0.52 * sizes[1]


class CountingSource:
    """A source that counts how many images are read and not yet embedded."""

    def __init__(self) -> None:
        self.read_count = 0
        self.lock = threading.Lock()

    def stamp(self, path: str) -> Stamp:
        return Stamp(64 * 64 * 3, 0)

    def read(self, path: str) -> bytes:
        with self.lock:
            self.read_count += 1
        return bytes([int(path) % 256]) * (64 * 64 * 3)

    def decode(self, content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8).reshape(64, 64, 3)


def test_no_more_images_are_read_ahead_than_the_bound(tmp_path: Path):
    source, workers, batch = CountingSource(), 2, 4
    most = 0

    class Watching(Counting):
        def embed(self, crops: np.ndarray) -> np.ndarray:
            nonlocal most
            time.sleep(0.002)  # a slow network: the threads have all the time to run ahead
            most = max(most, source.read_count - self.n)
            return super().embed(crops)

    dataset = Dataset("counted", tmp_path, tuple(Sample(f"{i:04d}") for i in range(300)), source)
    embedder = Watching()
    store = EmbeddingStore.create(
        tmp_path,
        "counted",
        StoreSettings(embedder.settings, CropSettings.whole()),
        dim=embedder.dim,
        rows_per_shard=50,
        batch_size=batch,
    )
    cropper = FaceCropper(CropSettings.whole(), lambda: None, embedder.input_size_wh, embedder.resize)
    extract(dataset, embedder, cropper, store, workers=workers)
    assert embedder.n == source.read_count == 300
    # What is read and cropped, and the batches that wait for the network or are in it.
    assert batch <= most <= max(2 * batch, 4 * workers) + (embedder.at_once + 1) * batch


def test_an_interrupt_does_not_wait_for_what_is_still_queued(tmp_path: Path):
    data = write_images(tmp_path / "data", 30)

    class Interrupted(Counting):
        def embed(self, crops: np.ndarray) -> np.ndarray:
            if self.n >= 2 * SHARD:
                raise KeyboardInterrupt
            return super().embed(crops)

    with pytest.raises(KeyboardInterrupt):
        embed(data, tmp_path / "cache", Interrupted())
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(EmbeddingStore.open(folder).load()) == 2 * SHARD
    assert embed(data, tmp_path / "cache")[1].n_done == 30 - 2 * SHARD
    assert contents(folder) == contents(embed(data, tmp_path / "undisturbed")[0].folder)
