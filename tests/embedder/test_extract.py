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
from small_runs import BATCH, SHARD, contents, embed, write_picture, write_pictures

from ferkit.core import files
from ferkit.core.errors import FerkitError, StoreDamagedError, StoreError, StoreLockedError
from ferkit.core.progress import Progress
from ferkit.datasets.dataset import Dataset, Sample, Stamp
from ferkit.datasets.load import load_dataset
from ferkit.embedder.backbones import open_embedder
from ferkit.embedder.extract import extract
from ferkit.embedder.hog import HogEmbedder
from ferkit.embedder.settings import StoreSettings
from ferkit.embedder.store import EmbeddingStore
from ferkit.faces.cropper import FaceCropper
from ferkit.faces.settings import FaceSettings


class Counting(HogEmbedder):
    """The weightless backbone, counting what it is given, and giving what it is told for some pictures."""

    def __init__(self, bad: dict[int, float] | None = None) -> None:
        super().__init__(open_embedder("raw").settings)
        self.n = 0
        self.batches: list[int] = []
        self.bad = bad or {}

    def embed(self, crops: np.ndarray) -> np.ndarray:
        features = super().embed(crops)
        for i in range(len(crops)):
            features[i, 3] = self.bad.get(self.n + i, features[i, 3])
        self.n += len(crops)
        self.batches.append(len(crops))
        return features


def paths(store: EmbeddingStore) -> list[str]:
    return store.load().paths.tolist()


def test_every_picture_becomes_the_row_that_the_network_gives_for_it(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 20)
    store, summary = embed(data, tmp_path / "cache")
    dataset = load_dataset(data)
    table = store.load()
    assert (summary.n_done, summary.n_kept, summary.failures) == (20, 0, [])
    assert table.paths.tolist() == [s.path for s in dataset.samples]
    assert table.y.tolist() == [s.label for s in dataset.samples]
    alone = open_embedder("raw").embed(np.stack([dataset.read(s) for s in dataset.samples]))
    assert np.array_equal(table.X, alone)
    assert [len(shard.read_rows()) for shard in store.shards()] == [8, 8, 4]


def test_batches_never_straddle_two_shards(tmp_path: Path):
    counting = Counting()
    embed(write_pictures(tmp_path / "data", 20), tmp_path / "cache", counting)
    assert counting.batches == [3, 3, 2, 3, 3, 2, 3, 1]
    assert (SHARD, BATCH) == (8, 3)


def test_a_second_run_has_nothing_to_do(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before, counting = contents(store.folder), Counting()
    _, summary = embed(data, tmp_path / "cache", counting)
    assert (summary.n_done, summary.n_kept, counting.n) == (0, 10, 0)
    assert contents(store.folder) == before


def test_new_pictures_add_shards_and_touch_no_other(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before = contents(store.folder)
    write_pictures(data, 5, start=10)
    _, summary = embed(data, tmp_path / "cache")
    assert (summary.n_done, summary.n_kept) == (5, 10)
    after = contents(store.folder)
    assert {name: after[name] for name in before} == before
    assert len(paths(store)) == 15


@pytest.mark.parametrize(
    "how", ["other size", "same size, now", "same size, old time", "copied over with its old time"]
)
def test_a_changed_picture_is_embedded_again_and_its_new_row_counts(tmp_path: Path, how: str):
    data = write_pictures(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before = store.load().X
    picture = data / "happy" / "0003.bmp"
    if how == "other size":
        write_picture(tmp_path / "x.bmp", 99)
        picture.write_bytes((tmp_path / "x.bmp").read_bytes() + b"\0")
    elif how == "copied over with its old time":
        write_picture(tmp_path / "x.bmp", 99)
        os.utime(tmp_path / "x.bmp", (1_000_000_000, 1_000_000_000))
        shutil.copy2(tmp_path / "x.bmp", picture)
    else:
        write_picture(picture, 99)
        if how == "same size, old time":
            os.utime(picture, (1_000_000_000, 1_000_000_000))
    counting = Counting()
    _, summary = embed(data, tmp_path / "cache", counting)
    assert (summary.n_done, counting.n) == (1, 1)
    after = store.load()
    different = (before != after.X).any(axis=1)
    assert after.paths[different].tolist() == ["happy/0003.bmp"]
    assert embed(data, tmp_path / "cache")[1].n_done == 0


def test_a_picture_that_changes_while_others_are_embedded_is_noticed_the_next_time(tmp_path: Path):
    """It was read ahead, in the second before its shard was begun."""
    data = write_pictures(tmp_path / "data", 20)

    class Changing(Counting):
        def embed(self, crops: np.ndarray) -> np.ndarray:
            if self.n == 0:
                time.sleep(0.3)  # the threads read ahead into the second shard
                write_picture(data / "sad" / "0000.bmp", 99)
                write_picture(data / "happy" / "0019.bmp", 98)
                write_picture(data / "happy" / "0015.bmp", 97)
            return super().embed(crops)

    store, _ = embed(data, tmp_path / "cache", Changing())
    embed(data, tmp_path / "cache")
    dataset = load_dataset(data)
    alone = open_embedder("raw").embed(np.stack([dataset.read(s) for s in dataset.samples]))
    assert np.array_equal(store.load().X, alone)


def test_touched_but_equal_pictures_are_not_embedded_again(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 6)
    embed(data, tmp_path / "cache")
    for picture in data.rglob("*.bmp"):
        picture.touch()
    assert embed(data, tmp_path / "cache")[1].n_done == 0


def test_deleted_pictures_leave_the_view_and_come_back_unharmed(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before = contents(store.folder)
    (data / "sad" / "0004.bmp").rename(tmp_path / "aside.bmp")
    _, summary = embed(data, tmp_path / "cache")
    assert summary.n_deleted == 1
    assert len(paths(store)) == 9
    assert "sad/0004.bmp" not in paths(store)
    (tmp_path / "aside.bmp").rename(data / "sad" / "0004.bmp")
    counting = Counting()
    _, summary = embed(data, tmp_path / "cache", counting)
    assert (summary.n_deleted, counting.n) == (0, 0)
    assert len(paths(store)) == 10
    assert contents(store.folder) == before


def test_new_labels_splits_and_persons_need_no_embedding(tmp_path: Path):
    write_pictures(tmp_path / "pictures", 4)
    lines = [f"pictures/{'happy' if i % 2 else 'sad'}/{i:04d}.bmp" for i in range(4)]

    def labelled(*extra: str) -> Path:
        rows = [f"{path},{more}" for path, more in zip(lines, extra, strict=True)]
        (tmp_path / "faces.csv").write_text("path,label,split,group\n" + "\n".join(rows), encoding="utf-8")
        return tmp_path / "faces.csv"

    store, _ = embed(labelled(*["sad,train,p1"] * 4), tmp_path / "cache")
    before = contents(store.folder)
    for extra in (("기쁨,test,p2", "sad,train,p1", ",,", "sad,val,p1"), ("sad,train,p1",) * 4):
        counting = Counting()
        embed(labelled(*extra), tmp_path / "cache", counting)
        table = store.load()
        order = np.argsort(lines)
        expected = [tuple(cell or None for cell in extra[i].split(",")) for i in order]
        assert list(zip(table.y, table.split, table.groups, strict=True)) == expected
        assert counting.n == 0
        assert contents(store.folder) == before


def test_a_moved_picture_is_embedded_under_its_new_name(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 4)
    store, _ = embed(data, tmp_path / "cache")
    (data / "sad" / "0000.bmp").rename(data / "happy" / "0000.bmp")
    _, summary = embed(data, tmp_path / "cache")
    assert (summary.n_done, summary.n_deleted) == (1, 1)
    table = store.load()
    assert dict(zip(table.paths, table.y, strict=True))["happy/0000.bmp"] == "happy"


def test_failures_are_rows_with_a_reason(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 4)
    (data / "sad" / "text.jpg").write_text("dear diary")
    (data / "sad" / "empty.png").write_bytes(b"")
    (data / "sad" / "0000.bmp").write_bytes((data / "sad" / "0000.bmp").read_bytes()[:2000])
    (data / "sad" / "lost.jpg").symlink_to(tmp_path / "nowhere")
    (data / "sad" / "endless.jpg").symlink_to("/dev/zero")
    store, summary = embed(data, tmp_path / "cache")
    reasons = dict(summary.failures)
    assert reasons.keys() == {
        f"sad/{name}" for name in ("text.jpg", "empty.png", "0000.bmp", "lost.jpg", "endless.jpg")
    }
    assert "known format" in reasons["sad/text.jpg"]
    assert "empty" in reasons["sad/empty.png"]
    assert "damaged" in reasons["sad/0000.bmp"]
    assert "cannot be read: No such file" in reasons["sad/lost.jpg"]
    assert "no regular file" in reasons["sad/endless.jpg"]
    assert {row.path: row.error for row in store.failures()} == reasons
    assert summary.n_done == len(store.load()) == 3
    stored = np.load(store.folder / "shard-00000.npy")
    assert np.isnan(stored[[row.error is not None for row in store.shards()[0].read_rows()]]).all()


def test_what_could_not_be_read_is_tried_again_once_it_can(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 4)
    lost = data / "sad" / "lost.bmp"
    lost.symlink_to(tmp_path / "later.bmp")
    store, _ = embed(data, tmp_path / "cache")
    before = contents(store.folder)
    assert embed(data, tmp_path / "cache")[1].n_done == 0
    assert contents(store.folder) == before
    write_picture(tmp_path / "later.bmp", 50)
    _, summary = embed(data, tmp_path / "cache")
    assert summary.n_done == 1
    assert "sad/lost.bmp" in paths(store)
    assert store.failures() == []


def test_what_could_be_read_once_and_no_longer_can_is_a_failure(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 4)
    store, _ = embed(data, tmp_path / "cache")
    (data / "sad" / "0000.bmp").unlink()
    (data / "sad" / "0000.bmp").symlink_to(tmp_path / "nowhere")
    for expected in (1, 0):
        assert len(embed(data, tmp_path / "cache")[1].failures) == expected
        assert [row.path for row in store.failures()] == ["sad/0000.bmp"]


def test_a_picture_without_permission_is_a_failure_until_it_has_one(unprivileged: Path):
    data = write_pictures(unprivileged / "data", 3)
    open_embedder("raw").embed(np.zeros((1, 64, 64, 3), np.uint8))
    (data / "sad" / "0002.bmp").chmod(0)
    store, summary = embed(data, unprivileged / "cache")
    assert summary.failures == [("sad/0002.bmp", "cannot be read: Permission denied")]
    (data / "sad" / "0002.bmp").chmod(0o644)
    assert embed(data, unprivileged / "cache")[1].n_done == 1
    assert len(store.load()) == 3


def test_a_mended_picture_is_embedded(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 3)
    (data / "sad" / "0002.bmp").write_bytes(b"")
    store, _ = embed(data, tmp_path / "cache")
    write_picture(data / "sad" / "0002.bmp", 2)
    embed(data, tmp_path / "cache")
    assert len(store.load()) == 3


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (np.nan, "float32", "gave NaN"),
        (np.inf, "float32", "too large"),
        (1e6, "float16", "too large for float16"),
    ],
)
def test_embeddings_that_are_not_finite_are_failures(tmp_path: Path, value: float, dtype: str, reason: str):
    data = write_pictures(tmp_path / "data", 5)
    store, summary = embed(data, tmp_path / "cache", Counting({2: value}), dtype=dtype)
    assert [path for path, _ in summary.failures] == ["sad/0000.bmp"]
    assert reason in summary.failures[0][1]
    assert len(store.load()) == 4
    assert np.isfinite(store.load().X).all()


def test_a_repair_makes_the_damaged_shards_anew_and_nothing_else(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 40)
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
    data = write_pictures(tmp_path / "data", 20)
    store, _ = embed(data, tmp_path / "cache")
    write_picture(data / "sad" / "0018.bmp", 70)
    embed(data, tmp_path / "cache")
    write_picture(data / "sad" / "0018.bmp", 71)
    store.shards()[0].npy.unlink()
    embed(data, tmp_path / "cache", repair=True)
    dataset = load_dataset(data)
    alone = open_embedder("raw").embed(np.stack([dataset.read(s) for s in dataset.samples]))
    assert np.array_equal(store.load().X, alone)
    assert embed(data, tmp_path / "cache")[1].n_done == 0


def test_two_data_sets_of_one_name_do_not_mix(tmp_path: Path):
    first, second = write_pictures(tmp_path / "a" / "data", 3), write_pictures(tmp_path / "b" / "data", 5)
    store, _ = embed(first, tmp_path / "cache")
    before = contents(store.folder)
    with pytest.raises(StoreError, match="give this one another --name"):
        embed(second, tmp_path / "cache")
    assert contents(store.folder) == before
    other, _ = embed(second, tmp_path / "cache", name="other")
    assert len(other.load()) == 5
    assert len(store.load()) == 3


def test_a_data_set_that_was_moved_keeps_its_embeddings(tmp_path: Path):
    data = write_pictures(tmp_path / "a" / "data", 3)
    embed(data, tmp_path / "cache")
    (tmp_path / "b").mkdir()
    shutil.move(data, tmp_path / "b" / "data")
    assert embed(tmp_path / "b" / "data", tmp_path / "cache")[1].n_kept == 3


def test_another_process_that_writes_is_not_disturbed(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    write_pictures(data, 2, start=10)
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
    data = write_pictures(tmp_path / "data", 30)
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
    data = write_pictures(tmp_path / "data", 30)
    with pytest.raises(FerkitError, match="the disk is full"):
        embed(data, small_disk)
    (folder,) = small_disk.iterdir()
    store = EmbeddingStore.open(folder)
    assert len(store.load()) in (SHARD, 2 * SHARD)
    assert not list(folder.glob(".*.tmp"))
    expected = contents(embed(data, tmp_path / "undisturbed")[0].folder)
    assert contents(folder).items() <= expected.items()


def test_half_precision_keeps_three_digits_in_half_the_space(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 9)
    single, _ = embed(data, tmp_path / "cache")
    half, _ = embed(data, tmp_path / "cache", dtype="float16")
    assert half.folder != single.folder
    assert np.abs(half.load().X - single.load().X).max() < 5e-4
    sizes = [sum(p.stat().st_size for p in store.folder.glob("*.npy")) for store in (half, single)]
    assert sizes[0] < 0.52 * sizes[1]


class CountingSource:
    """A source that counts how many pictures are read and not yet embedded."""

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


def test_no_more_pictures_are_read_ahead_than_the_bound(tmp_path: Path):
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
        StoreSettings(embedder.settings, FaceSettings.whole()),
        dim=embedder.dim,
        rows_per_shard=50,
        batch_size=batch,
    )
    cropper = FaceCropper(FaceSettings.whole(), lambda: None, embedder.input_size_wh, embedder.resize)
    extract(dataset, embedder, cropper, store, workers=workers, progress=Progress("", quiet=True))
    assert embedder.n == source.read_count == 300
    assert batch <= most <= max(2 * batch, 4 * workers) + batch


def test_an_interrupt_does_not_wait_for_what_is_still_queued(tmp_path: Path):
    data = write_pictures(tmp_path / "data", 30)

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
