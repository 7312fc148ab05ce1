import configparser
import contextlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from click.testing import CliRunner
from websockets.exceptions import ConnectionClosed

from ferkit.cli.main import main
from ferkit.serving import predict
from ferkit.serving.app import api_page
from ferkit.serving.monitoring import EventLog
from ferkit.serving.settings import ServeSettings
from tests.inference.squares import moving_squares, write_video
from tests.serving.running import PATIENCE_S, TOKEN, Running, held, image, running, until


@contextmanager
def process(command: list[str], folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A server as users start it, and the file with what it says."""
    said = folder / "said.txt"
    own = {k: v for k, v in os.environ.items() if not k.startswith("FER_SERVE_")}
    repository = str(Path(__file__).resolve().parents[2])
    own["PYTHONPATH"] = os.pathsep.join([repository, own.get("PYTHONPATH", "")])
    with said.open("wb") as file:
        started = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env={**own, **environment}, stdout=file, stderr=file
        )
    try:
        yield started, said
    finally:
        started.kill()
        started.wait()


def test_fer_serve_says_where_it_is_logs_and_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"FER_SERVE_TOKEN={TOKEN}\nFER_SERVE_PURPOSE=art\n")
    command = ["-m", "ferkit", "serve", "--port", "0", "--detector", "haar", "--log-dir", "logs"]
    with process(command, tmp_path) as (started, said):
        assert until(lambda: "ferkit is at" in said.read_text(), 60), said.read_text()
        address = re.search(r"http://\S+", said.read_text())
        assert address is not None
        files = {"images": ("private-name.jpg", image())}
        assert httpx.post(f"{address[0]}/v1/predict", files=files).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.post(f"{address[0]}/v1/predict", files=files, headers=headers, timeout=30)
        assert answer.status_code == 200
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0
    (log,) = (tmp_path / "logs").iterdir()
    assert re.fullmatch(r"fer-serve-\d{4}-\d\d-\d\d\.jsonl", log.name)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "refused", "request", "request", "stopped"]
    served = lines[3]
    assert (served["route"], served["status"], served["purpose"], served["model"]) == (
        "/v1/predict", 200, "art", "ferkit2",
    )  # fmt: skip
    everything = log.read_text() + said.read_text()
    assert TOKEN not in everything
    assert "private-name" not in everything
    assert "Traceback" not in everything


def test_uvicorn_serves_the_application_with_settings_from_the_environment(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "uvicorn", "ferkit.serving.app:app", "--port", str(port), "--log-level", "warning"]
    with process(command, tmp_path, FER_SERVE_PURPOSE="research", FER_SERVE_DETECTOR="haar") as (
        started,
        said,
    ):
        assert until(lambda: "started" in said.read_text(), 60), said.read_text()
        assert until(lambda: _info(port) is not None)
        assert _info(port) == "research"
        started.send_signal(signal.SIGTERM)
        started.wait(20)


def _info(port: int) -> str | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/info").json()["default_purpose"]
    except httpx.TransportError:
        return None


def one_line(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(main, ["serve", *arguments], env={"FER_SERVE_TOKEN": None, **environment})
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    *remarks, line = result.stderr.strip().splitlines()
    assert all(remark.startswith("model: ") for remark in remarks)
    return line


def test_what_cannot_be_served_is_said_in_a_line(server: Running, tmp_path: Path) -> None:
    port = str(server.port)
    assert "cannot be listened on" in one_line("--port", port, "--detector", "haar", "-q")
    assert "FER_SERVE_TOKEN" in one_line("--host", "0.0.0.0")
    assert "at least 16" in one_line("--host", "0.0.0.0", FER_SERVE_TOKEN="short")
    assert "no model is called 'nobody'" in one_line("nobody")
    (tmp_path / "file").write_text("")
    wrong = CliRunner().invoke(main, ["serve", "--log-dir", str(tmp_path / "file")])
    assert wrong.exit_code == 2
    assert "--allow-purpose" in one_line("--purpose", "hiring")


def test_the_page_of_the_api_needs_nothing_from_elsewhere(server: Running) -> None:
    page = server.http.get("/docs").text
    assert "script" not in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    for path in server.http.get("/openapi.json").json()["paths"]:
        assert path in page
    assert "/v1/stream" in page
    assert api_page(server.http.get("/openapi.json").json()) == page


def test_metrics_are_prometheus_text_and_hold_no_paths_of_clients(server: Running) -> None:
    server.http.post("/v1/predict", content=image())
    server.http.get("/secret-word")
    text = server.http.get("/metrics").text
    assert 'ferkit_requests_total{method="POST",route="/v1/predict",status="200"}' in text
    assert "process_resident_memory_bytes" in text
    assert "ferkit_batch_faces_bucket" in text
    assert "secret-word" not in text


def test_the_log_begins_a_file_each_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path, console=False)
    now_s = time.time()
    for day in range(3):
        monkeypatch.setattr("ferkit.serving.monitoring.time.time", lambda day=day: now_s + 86_400 * day)
        log.write("request", status=200, text="기쁨\n")
    log.close()
    assert len(list(tmp_path.iterdir())) == 3
    for file in tmp_path.iterdir():
        (line,) = file.read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["text"] == "기쁨\n"


def test_a_server_that_is_stopped_says_goodbye_and_finishes_what_it_has(models_dir: Path) -> None:
    with running(models_dir) as server, server.stream() as stream, held(server) as go_on:
        asked: list[int] = []

        def ask() -> None:
            asked.append(server.http.post("/v1/predict", content=image()).status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        assert until(lambda: server.service.workers.all[0].n_waiting == 1)
        server.server.should_exit = True
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        go_on()
        thread.join(10)
        assert asked == [200]


def test_a_worker_that_hangs_delays_the_end_no_longer_than_the_grace(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferkit.serving.app.GRACE_S", 1)
    with running(models_dir) as server, held(server):

        def ask() -> None:
            with contextlib.suppress(httpx.HTTPError):
                server.http.post("/v1/predict", content=image())

        thread = threading.Thread(target=ask)
        thread.start()
        assert until(lambda: server.service.workers.all[0].n_waiting == 1)
        began_s = time.monotonic()
        server.server.should_exit = True
        assert until(lambda: not server.service.ready)
        thread.join(10)
        assert time.monotonic() - began_s < 5


def test_every_file_of_the_page_is_packaged() -> None:
    repository = Path(__file__).resolve().parents[2]
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg")
    patterns = config["options.package_data"]["ferkit.serving"].split(",")
    package = repository / "ferkit" / "serving"
    packaged = {path for pattern in patterns for path in package.glob(pattern.strip())}
    files = {path for path in (package / "static").rglob("*") if path.is_file()}
    assert files
    assert files <= packaged


def test_the_example_of_a_client_runs_as_it_is_written(server: Running, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(image())
    write_video(tmp_path / "talk.mp4", moving_squares(5))
    example = Path(__file__).resolve().parents[2] / "examples" / "client.py"
    command = [sys.executable, example, "photo.jpg", "talk.mp4", f"127.0.0.1:{server.port}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("happy")
    assert lines[1] == "model tiny"
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2", "3", "4"]


def test_a_worker_may_be_ended_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C; a process that was not started yet cannot be ended."""
    worker = predict.Worker(ServeSettings())

    class Process:
        def __init__(self, **_: object) -> None:
            self.kills = 0

        def start(self) -> None:
            worker.end()
            assert self.kills == 0

        def kill(self) -> None:
            self.kills += 1

    monkeypatch.setattr(predict, "_CONTEXT", SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Process))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(worker._start).result(10)
    worker.end()
    assert worker._process.kills == 1
