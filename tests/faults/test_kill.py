"""``fer embed`` as a real process that is killed in the middle of its work, again and again."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from networks import small_network
from small_runs import contents, write_images

from ferkit.embedder.store import EmbeddingStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

N_KILLS = 25
N_IMAGES = 1200
SHARD = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and all that can stand in for one, spread over the shards; a network beside them."""
    folder = tmp_path_factory.mktemp("kill")
    small_network(folder / "network.onnx", size_wh=(64, 64))
    root = write_images(folder / "data", N_IMAGES)
    images = sorted(root.rglob("*.bmp"))
    whole = images[0].read_bytes()
    for i, path in enumerate(images[5::40]):
        match i % 4:
            case 0:
                path.write_text("dear diary")
            case 1:
                path.write_bytes(whole[: 1000 + i])
            case 2:
                path.write_bytes(b"")
            case 3:
                path.unlink()
                path.symlink_to(folder / "nowhere")
    return root


def start(data: Path, cache: Path) -> subprocess.Popen[bytes]:
    """``fer embed`` in a process group of its own, returned when it has opened its store."""
    command = [
        *(sys.executable, "-m", "ferkit", "embed", str(data), "--cache-dir", str(cache)),
        *("--backbone", f"onnx:{data.parent / 'network.onnx'}", "--detector", "none"),
        *("--shard-size", str(SHARD), "--batch-size", "3", "--workers", "2", "--threads", "1"),
    ]
    # Unbuffered, so that what follows the line waited for is left to those who read on.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        cwd=data.parent,
    )
    assert process.stderr is not None
    said = []
    for line in iter(process.stderr.readline, b""):
        said.append(line)
        if line.startswith(b"embeddings: "):
            return process
    raise AssertionError(b"".join(said))


def finish(process: subprocess.Popen[bytes]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.decode()


def wait_for(process: subprocess.Popen[bytes], cache: Path, n_new: int, *, half: bool = False) -> None:
    """Until the process has finished ``n_new`` shards more, or, with ``half``, is seen writing one after that."""

    def seen() -> int:
        return len(list(cache.glob("*/shard-*.json")))

    enough = seen() + n_new
    while seen() < enough or (half and not list(cache.glob("*/.shard-*.tmp"))):
        assert process.poll() is None, "the work was done before it could be disturbed"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody stopped."""
    cache = tmp_path_factory.mktemp("undisturbed")
    finish(start(data, cache))
    (folder,) = cache.iterdir()
    return folder


def check_same(folder: Path, undisturbed: Path, data: Path) -> None:
    """Byte for byte the same shards, each image once, the failures with their reasons."""
    assert contents(folder) == contents(undisturbed)
    store = EmbeddingStore.open(folder)
    paths = [row.path for shard in store.shards() for row in shard.read_rows()]
    assert paths == sorted(path.relative_to(data).as_posix() for path in data.rglob("*.bmp"))
    failed = [row.path for row in store.failures()]
    assert len(failed) == N_IMAGES // 40
    table = store.load()
    assert sorted([*table.paths, *failed]) == paths
    assert np.isfinite(table.X).all()
    assert store.verify() == []
    assert not list(folder.glob(".*.tmp"))


def test_25_kills_at_random_moments_leave_no_trace(data: Path, undisturbed: Path, tmp_path: Path):
    """Before the first shard, between two and within one: counted in shards, whatever the machine's speed."""
    chance = random.Random(20)
    n_shards, torn = [], 0
    for _ in range(N_KILLS):
        process = start(data, tmp_path)
        wait_for(process, tmp_path, n_new=chance.randrange(4), half=chance.random() < 0.3)
        time.sleep(chance.choice([0, chance.uniform(0, 0.04)]))
        assert process.poll() is None, "the work was done before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        (folder,) = tmp_path.iterdir()
        numbers = {path.stem for path in folder.glob("shard-*.json")}
        n_shards.append(len(numbers))
        torn += bool(list(folder.glob(".*.tmp")) or {p.stem for p in folder.glob("shard-*.npy")} - numbers)
    total = -(-N_IMAGES // SHARD)
    assert n_shards == sorted(n_shards), "a kill lost a shard that was complete"
    assert sum(0 < n < total for n in n_shards) >= N_KILLS // 2
    assert len(set(n_shards)) >= N_KILLS // 3, f"hardly a kill fell into the work: {n_shards}"
    assert torn, "no kill fell into the writing of a shard"
    out = finish(start(data, tmp_path))
    there = re.search(r", (\d+) were there, \d+ failed(?:, (\d+) failed before)?,", out)
    assert there
    assert sum(int(n or 0) for n in there.groups()) == n_shards[-1] * SHARD
    check_same(folder, undisturbed, data)


def test_ctrl_c_says_that_nothing_is_lost_and_nothing_is(data: Path, undisturbed: Path, tmp_path: Path):
    process = start(data, tmp_path)
    wait_for(process, tmp_path, n_new=20)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.decode().strip() == "stopped; what was finished is kept, run the same command again to go on"
    assert out == b""
    (folder,) = tmp_path.iterdir()
    assert 0 < len(EmbeddingStore.open(folder).load()) < N_IMAGES
    finish(start(data, tmp_path))
    check_same(folder, undisturbed, data)


def test_a_second_writer_is_refused_while_the_first_goes_on(data: Path, undisturbed: Path, tmp_path: Path):
    first = start(data, tmp_path)
    wait_for(first, tmp_path, n_new=1)
    os.killpg(first.pid, signal.SIGSTOP)  # it holds its lock, however long the second takes to start
    second = start(data, tmp_path)
    out, err = second.communicate(timeout=60)
    os.killpg(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    assert out == b""
    assert len(err.splitlines()) == 1
    assert err.startswith(b"Error: another process is writing to ")
    finish(first)
    (folder,) = tmp_path.iterdir()
    check_same(folder, undisturbed, data)
