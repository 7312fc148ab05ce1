"""Parts of a store by a plan: the bytes of one undisturbed run, whoever makes them, in any order, once or twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import BATCH, SHARD, contents, embed, write_image, write_images

from ferkit.core.console import hidden_progress
from ferkit.core.errors import DataError, FerkitError, SettingsMismatchError, StoreDamagedError, StoreError
from ferkit.datasets.load import load_dataset
from ferkit.embedder import cluster
from ferkit.embedder.cluster import Cluster, parse_cluster, run_on
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.extract import StoreOptions
from ferkit.embedder.parts import Job, PartWorker, Planned, find_plan, finish, make_plan, run_part, spans
from ferkit.embedder.shards import Part, Plan, Request, parse_part
from ferkit.embedder.store import EmbeddingStore
from ferkit.faces.cropping import Cropping

N = 70


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, some of which are none."""
    root = write_images(tmp_path_factory.mktemp("parts") / "data", N)
    (root / "sad" / "0004.bmp").write_text("dear diary")
    (root / "happy" / "0021.bmp").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embed(data, tmp_path_factory.mktemp("undisturbed"))[0].folder


def plan(data: Path, cache: Path, crop: Cropping | None = None, **options) -> Planned:
    options = {"batch_size": BATCH, "rows_per_shard": SHARD, **options}
    dataset, raw = load_dataset(data), open_embedder("raw")
    return make_plan(
        dataset, raw, crop or Cropping.ask("none"), StoreOptions(cache, **options), Request("raw")
    )


def part(planned: Planned, data: Path, index: int = 1, n: int = 1, **job):
    worker = PartWorker(Job(str(planned.store.folder), str(data), workers=1, threads=1, **job))
    with hidden_progress():
        return run_part(worker, Part(index, n).of(worker.plan.numbers))


def test_parts_in_any_order_once_or_twice_give_the_bytes_of_one_run(
    data: Path, undisturbed: Path, tmp_path: Path
):
    planned = plan(data, tmp_path)
    n_shards = -(-N // SHARD)
    assert (planned.n_open, planned.n_new) == (n_shards, N)
    for index in (3, 1, 3, 2):
        part(planned, data, index, 4)
    with pytest.raises(StoreError, match=r"3 of 9 shards are missing: 6 to 8; run the parts again"):
        finish(load_dataset(data), planned.store.folder)
    assert planned.store.view() is None
    shutil.rmtree(data.parent / "elsewhere", ignore_errors=True)
    mounted = shutil.copytree(data, data.parent / "elsewhere" / "data")  # another machine, another place
    summary, busy = part(planned, mounted, 4, 4)
    assert (summary.n_done + len(summary.failures), busy) == (N - 6 * SHARD, [])
    done = finish(load_dataset(data), planned.store.folder)
    assert (done.n_kept, done.n_failed, done.n_deleted, done.n_later) == (N, 2, 0, 0)
    assert contents(planned.store.folder) == contents(undisturbed)
    assert planned.store.view() == EmbeddingStore.open(undisturbed).view()
    assert not list(planned.store.folder.glob(".lock-0*"))
    assert part(planned, data)[0].n_kept == N  # run late
    assert embed(data, tmp_path)[1].n_kept == N - 2


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 300), st.integers(1, 70))
def test_parts_are_a_division(n_shards: int, n: int):
    numbers = list(range(5, 5 + n_shards))
    parts = [list(Part(index, n).of(numbers)) for index in range(1, n + 1)]
    assert [number for one in parts for number in one] == numbers
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_images_that_come_later_get_ranges_of_their_own(data: Path, tmp_path: Path):
    root = shutil.copytree(data, tmp_path / "data")
    planned = plan(root, tmp_path / "cache")
    part(planned, root, 1, 2)
    write_images(root, 10, start=N)
    (root / "sad" / "0000.bmp").unlink()
    part(planned, root, 2, 2)
    done = finish(load_dataset(root), planned.store.folder)
    assert (done.n_later, done.n_deleted) == (10, 1)
    again = plan(root, tmp_path / "cache")
    assert (again.n_new, again.n_open) == (10, 2)
    assert again.plan.numbers == list(range(11))
    part(again, root)
    finish(load_dataset(root), again.store.folder)
    assert len(again.store.load()) == N + 10 - 1 - 2
    assert plan(root, tmp_path / "cache").n_open == 0


def test_a_plain_run_makes_what_is_planned_as_it_is_planned(data: Path, undisturbed: Path, tmp_path: Path):
    planned = plan(data, tmp_path)
    part(planned, data, 2, 3)
    store, summary = embed(data, tmp_path)
    assert summary.n_kept + summary.n_failed_before == 3 * SHARD
    assert contents(store.folder) == contents(undisturbed)


def test_what_another_process_is_making_is_passed_over(data: Path, tmp_path: Path):
    planned = plan(data, tmp_path)
    code = (
        "import sys; from pathlib import Path; from ferkit.core.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), 'making'):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(planned.store.folder / ".lock-00002")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert part(planned, data)[1] == [2]
        other.communicate(b"")
    summary, busy = part(planned, data)
    assert (summary.n_done + len(summary.failures), busy) == (SHARD, [])


def test_a_part_that_would_make_other_numbers_is_refused(data: Path, tmp_path: Path):
    planned = plan(data, tmp_path)
    folder = planned.store.folder
    (tmp_path / "empty" / "data").mkdir(parents=True)
    with pytest.raises(DataError, match=r"found none of 8 looked for .*; is it mounted here"):
        part(planned, tmp_path / "empty" / "data")
    other = write_images(tmp_path / "other" / "data", N, start=500)
    with pytest.raises(DataError, match="that the plan was made with"):
        part(planned, other)
    assert find_plan(tmp_path, "data", {"backbone": "raw"}) == folder
    with pytest.raises(SettingsMismatchError, match="planned with something else than backbone ferkit"):
        find_plan(tmp_path, "data", {"backbone": "ferkit"})
    with pytest.raises(StoreError, match="found none; run 'fer embed' with --plan first"):
        find_plan(tmp_path, "faces", {})
    (folder / "plan-00000.jsonl").write_bytes((folder / "plan-00000.jsonl").read_bytes()[:900])
    with pytest.raises(StoreDamagedError, match=r"plan-00000\.jsonl cannot be read"):
        part(planned, data)
    (folder / "plan.json").write_text("{")
    with pytest.raises(StoreDamagedError, match="with --plan again"):
        part(planned, data)
    (folder / "plan.json").unlink()
    with pytest.raises(StoreError, match="expected a plan in"):
        part(planned, data)


@pytest.mark.shared
def test_a_node_without_the_planned_detector_does_not_take_another(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(shared / "media" / "img5.jpg", photos)
    yunet = shared / "models" / "face_detection_yunet_640.onnx"
    planned = plan(photos, tmp_path / "cache", Cropping.ask("yunet", yunet))
    for variable in ("FER_WEIGHTS_DIR", "DEEPFACE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    monkeypatch.setenv("FER_OFFLINE", "1")
    with pytest.raises(FerkitError, match="--detector-weights, or take"):
        part(planned, photos)
    other = tmp_path / "other.onnx"
    other.write_bytes(yunet.read_bytes() + b"\0")
    with pytest.raises(SettingsMismatchError, match="expected weights of yunet with the SHA-256"):
        part(planned, photos, detector_weights=str(other))
    assert not planned.store.shards()
    assert part(planned, photos, detector_weights=str(yunet))[0].n_done == 1


SLURM = {f"SLURM_ARRAY_TASK_{key}": "" for key in ("ID", "MIN", "MAX", "STEP", "COUNT")}


def slurm(task: int, first: int, last: int, step: int, count: int) -> dict[str, str]:
    return dict(zip(SLURM, map(str, (task, first, last, step, count)), strict=True))


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("3/64", {}, (3, 64)),
        ("auto", slurm(0, 0, 63, 1, 64), (1, 64)),
        ("auto", slurm(64, 1, 64, 1, 64), (64, 64)),
        ("auto", slurm(30, 10, 50, 10, 5), (3, 5)),
        ("auto/64", slurm(7, 1, 64, 1, 2), (7, 64)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, (8, 8)),
        ("auto", slurm(5, 3, 9, 1, 2), "array without gaps"),
        ("auto", {"JOB_COMPLETION_INDEX": "7"}, "auto/64 for a job with completions"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "7"}, "from 1 to 4, found 8"),
        ("auto", {}, "found neither"),
        ("0/4", {}, "from 1 to 4, found 0"),
        ("5/4", {}, "from 1 to 4, found 5"),
        ("3", {}, "expected a part such as"),
        ("a/b", {}, "expected a part such as"),
    ],
)
def test_parts_are_read_from_words_and_from_what_schedulers_say(text, environment, expected):
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            parse_part(text, environment)
    else:
        assert parse_part(text, environment) == Part(*expected)


def test_numbers_are_said_in_few_words():
    assert spans([3, 7, 8, 9, 20]) == "3, 7 to 9, 20"
    assert spans(range(0, 100, 2)) == "0, 2, 4, 6, 8, 10, 12, 14, 16, 18 …"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processes:4", Cluster("processes", None, 4)),
        ("ray", Cluster("ray")),
        ("ray://auto", Cluster("ray", "auto")),
        ("dask://host:8786", Cluster("dask", "host:8786")),
        ("spark", None),
        ("processes://x", None),
        ("processes:0", None),
    ],
)
def test_engines_are_read_from_words(text: str, expected: Cluster | None):
    if expected is None:
        with pytest.raises(DataError, match="expected processes:N, ray"):
            parse_cluster(text)
    else:
        assert parse_cluster(text) == expected


def children(pid: int) -> list[int]:
    """Processes that make shards, started by a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(path.name))
    return found


def until(condition, process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def start(data: Path, cache: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "ferkit", "embed", str(data), "--cache-dir", str(cache), "--backbone", "raw"),
        *("--detector", "none", "--set", f"rows_per_shard={SHARD}", "--set", f"batch_size={BATCH}", *more),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes as Linux lists them")
def test_a_worker_that_is_killed_is_replaced_and_leaves_no_trace(tmp_path: Path):
    data = write_images(tmp_path / "data", 400)
    expected = contents(embed(data, tmp_path / "undisturbed")[0].folder)
    process = start(data, tmp_path / "cache", "--on", "processes:2")
    until(lambda: len(list(tmp_path.glob("cache/*/shard-*.json"))) > 5, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert b"it is made again" in err
    assert out.startswith(b"400 embedded")
    (folder,) = (tmp_path / "cache").iterdir()
    assert contents(folder) == expected
    # And the whole run, in the middle of a part:
    cache = tmp_path / "parts"
    assert start(data, cache, "--plan").wait() == 0
    process = start(data, cache, "--part", "1/1")
    until(lambda: len(list(cache.glob("*/shard-*.json"))) > 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert start(data, cache, "--finish").wait() == 1
    for more in (("--part", "1/1"), ("--finish",)):
        process = start(data, cache, *more)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert out.startswith(b"finished: 400 images, 0 of them failed")
    (folder,) = cache.iterdir()
    assert contents(folder) == expected


class Threads:
    """A pool of threads: a real engine for :func:`ferkit.embedder.cluster._drive`, which can be told to fail."""

    def __init__(self, worker: PartWorker, hang: set[int] = frozenset(), fail: int = 0) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.worker, self.hang, self.fail, self.running = worker, set(hang), fail, []
        self.pool = ThreadPoolExecutor(4)
        self.ended = False

    def idle(self) -> bool:
        self.running = [future for future in self.running if not future.done()]
        return len(self.running) < 2

    def submit(self, number: int, again: bool):
        self.running.append(self.pool.submit(self.make, number, again))
        return self.running[-1]

    def make(self, number: int, again: bool):
        if number in self.hang and not again:
            while not self.ended:
                time.sleep(0.01)
        if self.fail:
            self.fail -= 1
            raise OSError("the node is gone")
        from ferkit.core.console import progress

        with hidden_progress(), progress("embedding", 0) as shown:
            return next(self.worker.run([number], shown=shown, again=again))

    def mend(self) -> None:
        pass


@pytest.mark.parametrize(("hang", "fail"), [({2}, 0), (set(), 3), (set(), 10**6)])
def test_what_is_late_is_made_twice_and_what_fails_is_tried_again(
    data: Path, undisturbed: Path, tmp_path: Path, monkeypatch, hang: set[int], fail: int
):
    monkeypatch.setattr(cluster, "LATE_S", 0.5)
    planned = plan(data, tmp_path)
    pool = Threads(PartWorker(Job(str(planned.store.folder), str(data), workers=1)), hang, fail)
    try:
        if fail > 100:
            with pytest.raises(FerkitError, match=r"failed 4 times, the last: the node is gone"):
                list(cluster._drive(pool, planned.plan.numbers))
            return
        made = list(cluster._drive(pool, planned.plan.numbers))
    finally:
        pool.ended = True
    assert sorted(done.number for done in made) == planned.plan.numbers
    assert contents(planned.store.folder) == contents(undisturbed)


def test_a_refusal_of_a_worker_ends_the_run_in_its_words(data: Path, tmp_path: Path):
    planned = plan(data, tmp_path)
    job = Job(str(planned.store.folder), str(tmp_path / "nowhere"), workers=1)
    with pytest.raises(FerkitError, match="found nothing at"):
        run_on(Cluster("processes", None, 1), planned, job)


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    data: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(FerkitError, match=rf"pip install 'ferkit\[{engine}\]'"):
        run_on(Cluster(engine), plan(data, tmp_path), Job(str(tmp_path), str(data)))


def test_a_changed_image_keeps_its_old_row_until_its_range_is_made(data: Path, tmp_path: Path):
    root = shutil.copytree(data, tmp_path / "data")
    planned = plan(root, tmp_path / "cache")
    part(planned, root)
    finish(load_dataset(root), planned.store.folder)
    before = planned.store.load()
    write_image(root / "happy" / "0003.bmp", 99)
    again = plan(root, tmp_path / "cache")
    assert (again.n_new, again.n_open, again.plan.numbers[-1]) == (1, 1, 9)
    assert np.array_equal(again.store.load().X, before.X)
    part(again, root)
    after = again.store.load()
    assert after.paths[(before.X != after.X).any(axis=1)].tolist() == ["happy/0003.bmp"]
    assert Plan.read(again.store.folder) == again.plan
