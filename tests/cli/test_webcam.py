import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ferkit.cli.main import main
from tests.inference.squares import moving_squares, write_video
from tests.inference.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "models"
    write_tiny_model(folder / "tiny")
    write_tiny_model(folder / "other")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", moving_squares(50))


def run(models_dir: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(main, ["webcam", "--models-dir", str(models_dir), *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_without_a_window_changes_are_printed(models_dir: Path, video: Path) -> None:
    common = ("tiny", "--source", video, "--view", "none", "--detector", "none", "--min-confidence", "0")
    result = run(models_dir, *common, "--json", "--min-quality", "0")
    assert result.exit_code == 0, result.output
    changes = [json.loads(line) for line in result.stdout.splitlines()]
    assert changes[0]["face"] == 1
    assert changes[0]["label"] in ("sad", "neutral", "happy")
    assert "face 1" in run(models_dir, *common, "--duration", "0.3").stdout


def test_no_window_no_camera_no_model_are_clear_sentences(
    models_dir: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for arguments, words in (
        (("--source", "9", "--view", "none", "--detector", "haar"), "camera 9 cannot be opened"),
        (("nobody", "--view", "none"), "no model is called 'nobody'"),
        (
            ("--source", tmp_path / "none.mp4", "--view", "none", "--detector", "haar"),
            "found nothing; check the path",
        ),
        (("--view", "none", "--smooth", "ema", "--dwell", "-1"), "min_dwell_s of 0 or more"),
        (("--view", "none", "--set", "fps=0"), "expected fps above 0, found 0.0"),
        (("--view", "browser", "--set", "port=99999"), "port 99999 cannot be had"),
    ):
        result = run(models_dir, *arguments)
        assert result.exit_code == 1, result.output
        assert words in result.stderr
        assert "Traceback" not in result.output


def test_where_no_window_opens_a_browser_takes_its_place(
    models_dir: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    result = run(models_dir, "tiny", "--source", video, "--detector", "none", "--duration", "0.3")
    assert result.exit_code == 0, result.output
    assert "there is no display (DISPLAY is not set); the browser takes its place" in result.stderr
    assert re.search(r"open http://127\.0\.0\.1:\d+/\S+/ in a browser", result.stderr)
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        result = run(models_dir, "tiny", "--source", video, "--view", "browser", "--port", port)
    assert result.exit_code == 1
    assert f"port {port} cannot be had" in result.stderr


def test_a_real_window_opens_obeys_its_keys_and_ends_with_q(
    models_dir: Path, tmp_path: Path, display: str
) -> None:
    video = write_video(tmp_path / "long.mp4", moving_squares(60) * 15)
    environment = {**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "ferkit", "webcam", "tiny", "--models-dir", models_dir, "--source", video,
        "--detector", "none", "--out", tmp_path / "out",
    ]  # fmt: skip
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            window = _window(environment, process)
            for key in ("s", "r", "l", "h", "m", "s", "r", "q"):
                press = ["xdotool", "key", "--window", window, key]
                # The window is gone before the release of q can reach it, and xdotool takes that for a failure.
                subprocess.run(press, env=environment, capture_output=True, check=key != "q")
                time.sleep(0.4)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "recording-1.mp4", "snapshot-1.jpg", "snapshot-2.jpg",
    ]  # fmt: skip
    assert Image.open(tmp_path / "out" / "snapshot-1.jpg").size == (640, 480)
    assert "model: other" in said


def _window(environment: dict[str, str], process: subprocess.Popen) -> str:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        found = subprocess.run(
            ["xdotool", "search", "--name", "^ferkit$"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        if found:
            time.sleep(0.5)
            return found[-1]
        time.sleep(0.2)
    raise AssertionError("no window came up")
