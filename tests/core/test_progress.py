import math
import time
from pathlib import Path

import pytest

from ferkit.core import console as module


def test_without_a_terminal_there_is_a_plain_line_now_and_then(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level("INFO", "ferkit")
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 10.0)
    clock = iter([0.0, 3.0, 10.0, 10.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with module.progress("embedding", total=100, done=20) as shown:
        shown.update(10)
        shown.update(20, failures=2)
        shown.update(10)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["embedding: 50/100 images (50%), 3/s, 00:16 left, 2 failed"]


def test_hidden_progress_shows_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    caplog.set_level("INFO", "ferkit")
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    with module.hidden_progress(), module.progress("embedding", total=10) as shown:
        shown.update(10, failures=1)
    assert not caplog.messages


def test_cores_are_those_that_the_control_groups_allow(tmp_path: Path) -> None:
    own, mount = tmp_path / "cgroup", tmp_path / "fs"
    group = mount / "user.slice" / "mine"
    group.mkdir(parents=True)
    own.write_text("0::/user.slice/mine\n")
    (group / "cpu.max").write_text("max 100000\n")
    assert module._cgroup_limit("cpu", module._quota, mount, own) == math.inf
    (group.parent / "cpu.max").write_text("350000 100000\n")
    assert module._cgroup_limit("cpu", module._quota, mount, own) == 3.5  # of a group around it
    (group / "cpu.max").write_text("150000 100000\n")
    assert module._cgroup_limit("cpu", module._quota, mount, own) == 1.5
    own.write_text("5:memory:/x\n4:cpu,cpuacct:/docker/1\n")  # version 1
    first = mount / "cpu" / "docker" / "1"
    first.mkdir(parents=True)
    (first / "cpu.cfs_quota_us").write_text("-1\n")
    (first / "cpu.cfs_period_us").write_text("100000\n")
    assert module._cgroup_limit("cpu", module._quota, mount, own) == math.inf
    (first / "cpu.cfs_quota_us").write_text("50000\n")
    assert module._cgroup_limit("cpu", module._quota, mount, own) == 0.5
    assert module._cgroup_limit("cpu", module._quota, mount, tmp_path / "none") == math.inf


def test_memory_is_what_the_control_groups_leave(tmp_path: Path) -> None:
    own, mount = tmp_path / "cgroup", tmp_path / "fs"
    group = mount / "slurm" / "job"
    group.mkdir(parents=True)
    own.write_text("0::/slurm/job\n")
    assert module._cgroup_limit("memory", module._room, mount, own) == math.inf
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("1000\n")
    (group.parent / "memory.current").write_text("900\n")
    (group.parent / "memory.stat").write_text("anon 300\ninactive_file 500\nactive_file 100\n")
    assert (
        module._cgroup_limit("memory", module._room, mount, own) == 600
    )  # of a group around it; pages of files are given back
    own.write_text("5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n")  # version 1
    first = mount / "memory" / "docker" / "1"
    first.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text("100\n")
    (first / "memory.usage_in_bytes").write_text("90\n")
    (first / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 7\n")
    assert module._cgroup_limit("memory", module._room, mount, own) == 17


def test_there_is_one_count_of_cores() -> None:
    root = Path(module.__file__).parents[1]
    users = [path.name for path in root.rglob("*.py") if "cpu_count" in path.read_text(encoding="utf-8")]
    assert users == ["console.py"]


def test_times_of_stages_add_up_over_threads() -> None:
    times = module.StageTimes()

    def work(_: int) -> None:
        with times.measure("sleep"):
            time.sleep(0.01)

    list(module.map_ahead(work, range(8), workers=4))
    assert 0.08 <= times.seconds["sleep"] < 0.8
