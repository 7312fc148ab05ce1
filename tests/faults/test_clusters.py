"""``fer embed`` on Ray and Dask, and with an S3 server, killed in the middle: the bytes of an undisturbed run."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_runs import BATCH, SHARD, contents, embed, write_images

from ferkit.core.files import as_path
from ferkit.embedder.store import EmbeddingStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes as Linux lists them")

N = 1600
N_SHARDS = N // SHARD


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("clusters") / "data", N)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(embed(data, tmp_path_factory.mktemp("undisturbed"))[0].folder)


def start(data: str | Path, cache: str | Path, *more: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "ferkit", "embed", str(data), "--cache-dir", str(cache), "--backbone", "raw"),
        *("--detector", "none", "--set", f"rows_per_shard={SHARD}", "--set", f"batch_size={BATCH}", *more),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> bytes:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err.decode()
    return out


def until(seen: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not seen():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)


def n_shards(cache: Path) -> int:
    return len(list(cache.glob("*/shard-*.json")))


def processes(words: bytes, parent: int | None = None) -> list[int]:
    """Processes whose command has these words, the children of ``parent`` if it is given."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            of = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if words in (path / "cmdline").read_bytes() and parent in (None, of):
                found.append(int(path.name))
    return found


def check(cache: Path, undisturbed: dict[str, bytes]) -> None:
    (folder,) = cache.iterdir()
    assert contents(folder) == undisturbed
    assert len(EmbeddingStore.open(folder).load()) == N


def test_a_dask_worker_is_killed(data: Path, undisturbed: dict[str, bytes], tmp_path: Path):
    pytest.importorskip("distributed", reason="needs Dask: pip install 'ferkit[dask]'")
    process = start(data, tmp_path, "--on", "dask:2")
    until(lambda: n_shards(tmp_path) > N_SHARDS // 10, process)
    os.kill(processes(b"spawn_main", process.pid)[0], signal.SIGKILL)
    assert n_shards(tmp_path) < N_SHARDS
    finish(process)
    check(tmp_path, undisturbed)


@pytest.fixture
def ray_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[object, object]]:
    """A cluster of two nodes on this machine, a core each, and the second node."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all nodes at 127.0.0.1
    pytest.importorskip("ray", reason="needs Ray: pip install 'ferkit[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, second
    cluster.shutdown()


@pytest.mark.slow
def test_a_ray_worker_and_then_its_node_are_killed(
    data: Path, undisturbed: dict[str, bytes], tmp_path: Path, ray_nodes
):
    cluster, second = ray_nodes
    process = start(data, tmp_path, "--on", "ray://auto")
    until(lambda: n_shards(tmp_path) > N_SHARDS // 10, process)
    os.kill(processes(b"ray::_Actor")[0], signal.SIGKILL)
    there = n_shards(tmp_path)
    until(lambda: n_shards(tmp_path) > there + N_SHARDS // 10, process)
    cluster.remove_node(second, allow_graceful=False)
    assert n_shards(tmp_path) < N_SHARDS
    finish(process)
    check(tmp_path, undisturbed)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    pytest.importorskip("upath", reason="needs universal-pathlib: pip install 'ferkit[remote]'")
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'ferkit[remote]'")
    python = os.environ.get("FER_TEST_MOTO")
    if python is None:
        pytest.skip("needs a Python with moto[server], named by FER_TEST_MOTO")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "moto.log").open("wb")
    server = subprocess.Popen([python, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    for _ in range(600):
        with contextlib.suppress(Exception):
            files.mkdir("bucket")
            break
        time.sleep(0.1)
    yield "s3://bucket"
    server.terminate()
    server.wait()


@pytest.mark.slow
def test_a_run_from_and_to_a_bucket_is_killed(
    data: Path, undisturbed: dict[str, bytes], tmp_path: Path, s3: str
):
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.put(str(data), "bucket/data", recursive=True)
    process = start(f"{s3}/data", f"{s3}/cache")
    until(lambda: len(files.glob("bucket/cache/*/shard-*.json", refresh=True)) > N_SHARDS // 10, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    n = len(files.glob("bucket/cache/*/shard-*.json"))
    assert n < N_SHARDS
    process = start(f"{s3}/data", f"{s3}/cache")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err.decode()
    assert b"secret-of-the-test" not in out + err
    assert int(out.split(b",")[1].split()[0]) >= n * SHARD - SHARD
    (folder,) = as_path(f"{s3}/cache").iterdir()
    local = {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name.startswith("shard-") or path.name == "manifest.json"
    }
    assert local == undisturbed
    assert not any(b"secret-of-the-test" in path.read_bytes() for path in folder.iterdir())
