"""``fer crop`` as a real process that is killed in the middle of its work, again and again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

N_IMAGES, N_KILLS = 400, 6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of noise with a known box each, some damaged, and their table."""
    folder = tmp_path_factory.mktemp("kill-crop")
    rng = np.random.default_rng(0)
    rows = ["path,label,group,left,top,right,bottom"]
    for i in range(N_IMAGES):
        name = f"{i:04d} 사진.jpg"
        Image.fromarray(rng.integers(0, 255, (120, 160, 3), np.uint8)).save(folder / name, quality=60)
        if i % 40 == 7:
            (folder / name).write_bytes((folder / name).read_bytes()[:500])
        rows.append(f"{name},{'기쁨' if i % 3 else 'sad'},p{i % 9},{10 + i % 7},20,90,100")
    (folder / "boxes.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "boxes.csv"


def start(table: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ferkit", "crop", str(table), str(out), "--size", "96", "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(out: Path) -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and ".crop" not in p.relative_to(out).parts
    }


def n_lines(out: Path) -> int:
    journal = out / ".crop" / "journal"
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


def test_kills_at_random_moments_leave_no_trace(table: Path, tmp_path: Path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start(table, whole).wait(60) == 0
    chance, seen = random.Random(7), []
    for _ in range(N_KILLS):
        process = start(table, out)
        enough = n_lines(out) + chance.randrange(1, 30)
        while n_lines(out) < enough:
            assert process.poll() is None, "the work was done before it could be disturbed"
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        seen.append(n_lines(out))
    assert seen == sorted(seen)
    assert seen[-1] < N_IMAGES
    last = start(table, out)
    said, err = last.communicate(timeout=60)
    assert last.returncode == 0, err
    # A line that was being written when the kill came is done again, no other.
    assert f"({N_IMAGES - seen[-1]} read now)" in said
    assert contents(out) == contents(whole)
    assert len([name for name in contents(out) if name.endswith(".jpg")]) == N_IMAGES - N_IMAGES // 40 + 2
    assert n_lines(out) == N_IMAGES


def test_ctrl_c_says_that_nothing_is_lost(table: Path, tmp_path: Path):
    process = start(table, tmp_path / "out")
    while n_lines(tmp_path / "out") < 20:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped; what was finished is kept, run the same command again to go on"
