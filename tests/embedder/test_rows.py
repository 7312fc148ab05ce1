import json
import os
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import StoreDamagedError
from ferkit.datasets.dataset import Sample
from ferkit.embedder.shards import Row, ShardFiles

ROWS = [
    Row("기쁨/가.jpg", "기쁨", "train", "p1", 10, "ab" * 32, (1.5, 2.0, 3.0, 4.0)),
    Row(os.fsdecode(b"x/\xff.jpg"), None, None, None, -1, None, None, "cannot be read: Permission denied"),
    Row('x/"quoted",\n.jpg', "x", None, None, 3, "cd" * 32),
]
X = np.array([[1, 2], [np.nan, np.nan], [3, 4]], np.float32)


@pytest.fixture
def shard(tmp_path: Path) -> ShardFiles:
    files = ShardFiles(tmp_path, 7)
    files.write(ROWS, X, started_ns=1_700_000_000_000_000_000)
    return files


def test_what_was_written_is_read(shard: ShardFiles):
    rows, found = read(shard, 2, np.dtype("float32"))
    assert rows == ROWS
    assert np.array_equal(found, X, equal_nan=True)
    assert isinstance(found, np.memmap)
    assert shard.read_rows() == ROWS
    assert sorted(p.name for p in shard.folder.iterdir()) == [
        "shard-00007.json", "shard-00007.npy", "time-00007.json",
    ]  # fmt: skip


def test_other_programs_can_read_both_files(shard: ShardFiles):
    assert np.load(shard.npy).shape == (3, 2)
    values = json.loads(shard.json.read_bytes().decode("utf-8", "replace"))
    assert [row["label"] for row in values["rows"]] == ["기쁨", None, "x"]


def read(shard: ShardFiles, dim: int, dtype: np.dtype) -> tuple[list[Row], np.ndarray]:
    content = shard.content()
    return content.rows, shard.checked(content, dim, dtype)


def read_ns(shard: ShardFiles) -> int | None:
    digest = json.loads(shard.json.read_bytes().splitlines()[0] + b"]}")["rows_sha256"]
    times = shard.times(digest)
    return times and times.read_ns


def test_the_commit_mark_is_as_old_as_the_reading_of_its_images(shard: ShardFiles):
    assert read_ns(shard) == 1_700_000_000_000_000_000
    for content in (
        b"",
        b"[]",
        b"[" * 10**5,
        b'{"read_ns": 1}',
        shard.time.read_bytes().replace(b"17", b"97"),
    ):
        before = shard.time.read_bytes()
        shard.time.write_bytes(content)  # damaged, of another shard, or in the future
        assert read_ns(shard) is None
        shard.time.write_bytes(before)
    shard.json.write_bytes(shard.json.read_bytes().replace(b'rows_sha256": "', b'rows_sha256": "0'))
    assert read_ns(shard) is None


def test_equal_rows_give_equal_bytes(shard: ShardFiles, tmp_path: Path):
    again = ShardFiles(tmp_path / "again", 0)
    again.write(ROWS, X, started_ns=1)
    assert again.json.read_bytes() == shard.json.read_bytes()
    assert again.npy.read_bytes() == shard.npy.read_bytes()


@pytest.mark.parametrize("file", ["npy", "json"])
def test_any_flipped_byte_is_noticed(shard: ShardFiles, file: str):
    path: Path = getattr(shard, file)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(StoreDamagedError, match="--repair"):
            read(shard, 2, np.dtype("float32"))


@pytest.mark.parametrize("file", ["npy", "json"])
@pytest.mark.parametrize("left", [0, 1, 50, -1])
def test_a_file_that_breaks_off_is_noticed(shard: ShardFiles, file: str, left: int):
    path: Path = getattr(shard, file)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(StoreDamagedError, match="--repair"):
        read(shard, 2, np.dtype("float32"))


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}\n", b"3\n4", b'{"npy_sha256": 3, "rows_sha256": 4,\n "rows": 5}']
)
def test_json_of_others_is_noticed(shard: ShardFiles, content: bytes):
    shard.json.write_bytes(content)
    with pytest.raises(StoreDamagedError):
        shard.read_rows()


def test_an_array_of_another_shape_or_type_is_noticed(shard: ShardFiles):
    for dim, dtype in ((3, "float32"), (2, "float16")):
        with pytest.raises(StoreDamagedError):
            read(shard, dim, np.dtype(dtype))


def test_a_missing_array_is_noticed_and_removal_leaves_nothing(shard: ShardFiles):
    shard.npy.unlink()
    with pytest.raises(StoreDamagedError, match="No such file"):
        read(shard, 2, np.dtype("float32"))
    shard.remove()
    shard.remove()
    assert list(shard.folder.iterdir()) == []


def test_a_new_label_part_or_person_is_seen():
    row = ROWS[0]
    assert row.fits(Sample(row.path, "기쁨", "train", "p1", (1, 2, 3, 4)))
    for other in (("happy", "train", "p1"), ("기쁨", "test", "p1"), ("기쁨", "train", None)):
        assert not row.fits(Sample(row.path, *other))
