import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import BATCH, SHARD, Counting, contents, embed, write_image, write_images

from ferkit.datasets.load import load_dataset
from ferkit.embedder import extract
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.store import EmbeddingStore


def paths(store: EmbeddingStore) -> list[str]:
    return store.load().paths.tolist()


def test_every_image_becomes_the_row_that_the_network_gives_for_it(tmp_path: Path):
    data = write_images(tmp_path / "data", 20)
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
    embed(write_images(tmp_path / "data", 20), tmp_path / "cache", counting)
    assert counting.batches == [3, 3, 2, 3, 3, 2, 3, 1]
    assert (SHARD, BATCH) == (8, 3)


def test_a_second_run_has_nothing_to_do(tmp_path: Path):
    data = write_images(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before, counting = contents(store.folder), Counting()
    _, summary = embed(data, tmp_path / "cache", counting)
    assert (summary.n_done, summary.n_kept, counting.n) == (0, 10, 0)
    assert contents(store.folder) == before


def test_new_images_add_shards_and_touch_no_other(tmp_path: Path):
    data = write_images(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before = contents(store.folder)
    write_images(data, 5, start=10)
    _, summary = embed(data, tmp_path / "cache")
    assert (summary.n_done, summary.n_kept) == (5, 10)
    after = contents(store.folder)
    assert {name: after[name] for name in before} == before
    assert len(paths(store)) == 15


@pytest.mark.parametrize(
    "how", ["other size", "same size, now", "same size, old time", "copied over with its old time"]
)
def test_a_changed_image_is_embedded_again_and_its_new_row_counts(tmp_path: Path, how: str):
    data = write_images(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before = store.load().X
    image = data / "happy" / "0003.bmp"
    if how == "other size":
        write_image(tmp_path / "x.bmp", 99)
        image.write_bytes((tmp_path / "x.bmp").read_bytes() + b"\0")
    elif how == "copied over with its old time":
        write_image(tmp_path / "x.bmp", 99)
        os.utime(tmp_path / "x.bmp", (1_000_000_000, 1_000_000_000))
        shutil.copy2(tmp_path / "x.bmp", image)
    else:
        write_image(image, 99)
        if how == "same size, old time":
            os.utime(image, (1_000_000_000, 1_000_000_000))
    counting = Counting()
    _, summary = embed(data, tmp_path / "cache", counting)
    assert (summary.n_done, counting.n) == (1, 1)
    after = store.load()
    different = (before != after.X).any(axis=1)
    assert after.paths[different].tolist() == ["happy/0003.bmp"]
    assert embed(data, tmp_path / "cache")[1].n_done == 0


def test_a_changed_image_is_noticed_in_a_copy_of_the_store(tmp_path: Path):
    data = write_images(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    write_image(data / "happy" / "0003.bmp", 99)
    shutil.copytree(
        tmp_path / "cache", tmp_path / "copy", copy_function=shutil.copyfile
    )  # all its files are new
    copied, summary = embed(data, tmp_path / "copy")
    assert summary.n_done == 1
    assert contents(store.folder).items() < contents(copied.folder).items()


@pytest.mark.parametrize("what", ["missing", "in the future"])
def test_without_a_time_the_content_decides_once(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch):
    data = write_images(tmp_path / "data", 10)
    store, _ = embed(data, tmp_path / "cache")
    before = contents(store.folder)
    for shard in store.shards():
        if what == "missing":  # as in version 0.1
            shard.time.unlink()
        else:
            shard.compared(time.time_ns() + 10**15)
        os.utime(shard.json, (2**31, 2**31))  # which decided in version 0.1
    write_image(data / "happy" / "0003.bmp", 99)
    assert embed(data, tmp_path / "cache")[1].n_done == 1
    assert contents(store.folder).items() > before.items()
    assert all(shard.times(shard.content().rows_sha256) for shard in store.shards())
    for image in data.rglob("*.bmp"):
        os.utime(image, (1, 1))  # touched: only ctime says so
    monkeypatch.setattr(extract, "hashlib", None)  # no content is compared
    past = time.time_ns() + 10**10
    for shard in store.shards():
        monkeypatch.setattr(time, "time_ns", lambda: past + 10**9)
        shard.compared(past)
    assert embed(data, tmp_path / "cache")[1].n_done == 0


def test_a_image_that_changes_while_others_are_embedded_is_noticed_the_next_time(tmp_path: Path):
    """It was read ahead, in the second before its shard was begun."""
    data = write_images(tmp_path / "data", 20)

    class Changing(Counting):
        def embed(self, crops: np.ndarray) -> np.ndarray:
            if self.n == 0:
                time.sleep(0.3)  # the threads read ahead into the second shard
                write_image(data / "sad" / "0000.bmp", 99)
                write_image(data / "happy" / "0019.bmp", 98)
                write_image(data / "happy" / "0015.bmp", 97)
            return super().embed(crops)

    store, _ = embed(data, tmp_path / "cache", Changing())
    embed(data, tmp_path / "cache")
    dataset = load_dataset(data)
    alone = open_embedder("raw").embed(np.stack([dataset.read(s) for s in dataset.samples]))
    assert np.array_equal(store.load().X, alone)


def test_touched_but_equal_images_are_not_embedded_again(tmp_path: Path):
    data = write_images(tmp_path / "data", 6)
    embed(data, tmp_path / "cache")
    for image in data.rglob("*.bmp"):
        image.touch()
    assert embed(data, tmp_path / "cache")[1].n_done == 0


def test_deleted_images_leave_the_view_and_come_back_unharmed(tmp_path: Path):
    data = write_images(tmp_path / "data", 10)
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
    write_images(tmp_path / "pictures", 4)
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


def test_a_moved_image_is_embedded_under_its_new_name(tmp_path: Path):
    data = write_images(tmp_path / "data", 4)
    store, _ = embed(data, tmp_path / "cache")
    (data / "sad" / "0000.bmp").rename(data / "happy" / "0000.bmp")
    _, summary = embed(data, tmp_path / "cache")
    assert (summary.n_done, summary.n_deleted) == (1, 1)
    table = store.load()
    assert dict(zip(table.paths, table.y, strict=True))["happy/0000.bmp"] == "happy"


def test_failures_are_rows_with_a_reason(tmp_path: Path):
    data = write_images(tmp_path / "data", 4)
    (data / "sad" / "text.jpg").write_text("dear diary")
    (data / "sad" / "empty.png").write_bytes(b"")
    (data / "sad" / "0000.bmp").write_bytes((data / "sad" / "0000.bmp").read_bytes()[:2000])
    (data / "sad" / "lost.jpg").symlink_to(tmp_path / "nowhere")
    (data / "sad" / "endless.jpg").symlink_to("/dev/zero")  # passed over
    store, summary = embed(data, tmp_path / "cache")
    reasons = dict(summary.failures)
    assert reasons.keys() == {f"sad/{name}" for name in ("text.jpg", "empty.png", "0000.bmp", "lost.jpg")}
    assert "known format" in reasons["sad/text.jpg"]
    assert "empty" in reasons["sad/empty.png"]
    assert "damaged" in reasons["sad/0000.bmp"]
    assert "cannot be read: No such file" in reasons["sad/lost.jpg"]
    assert {row.path: row.error for row in store.failures()} == reasons
    assert summary.n_done == len(store.load()) == 3
    stored = np.load(store.folder / "shard-00000.npy")
    assert np.isnan(stored[[row.error is not None for row in store.shards()[0].read_rows()]]).all()


def test_what_could_not_be_read_is_tried_again_once_it_can(tmp_path: Path):
    data = write_images(tmp_path / "data", 4)
    lost = data / "sad" / "lost.bmp"
    lost.symlink_to(tmp_path / "later.bmp")
    store, _ = embed(data, tmp_path / "cache")
    before = contents(store.folder)
    assert embed(data, tmp_path / "cache")[1].n_done == 0
    assert contents(store.folder) == before
    write_image(tmp_path / "later.bmp", 50)
    _, summary = embed(data, tmp_path / "cache")
    assert summary.n_done == 1
    assert "sad/lost.bmp" in paths(store)
    assert store.failures() == []


def test_what_could_be_read_once_and_no_longer_can_is_a_failure(tmp_path: Path):
    data = write_images(tmp_path / "data", 4)
    store, _ = embed(data, tmp_path / "cache")
    (data / "sad" / "0000.bmp").unlink()
    (data / "sad" / "0000.bmp").symlink_to(tmp_path / "nowhere")
    for expected in (1, 0):
        assert len(embed(data, tmp_path / "cache")[1].failures) == expected
        assert [row.path for row in store.failures()] == ["sad/0000.bmp"]


def test_a_image_without_permission_is_a_failure_until_it_has_one(unprivileged: Path):
    data = write_images(unprivileged / "data", 3)
    open_embedder("raw").embed(np.zeros((1, 64, 64, 3), np.uint8))
    (data / "sad" / "0002.bmp").chmod(0)
    store, summary = embed(data, unprivileged / "cache")
    assert summary.failures == [("sad/0002.bmp", "cannot be read: Permission denied")]
    (data / "sad" / "0002.bmp").chmod(0o644)
    assert embed(data, unprivileged / "cache")[1].n_done == 1
    assert len(store.load()) == 3


def test_a_mended_image_is_embedded(tmp_path: Path):
    data = write_images(tmp_path / "data", 3)
    (data / "sad" / "0002.bmp").write_bytes(b"")
    store, _ = embed(data, tmp_path / "cache")
    write_image(data / "sad" / "0002.bmp", 2)
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
    data = write_images(tmp_path / "data", 5)
    store, summary = embed(data, tmp_path / "cache", Counting({2: value}), dtype=dtype)
    assert [path for path, _ in summary.failures] == ["sad/0000.bmp"]
    assert reason in summary.failures[0][1]
    assert len(store.load()) == 4
    assert np.isfinite(store.load().X).all()
