"""The proxies of docs/proxy in front of a real server, under a prefix."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.inference.squares import moving_squares, write_video
from tests.serving.running import PATIENCE_S, TOKEN, Running, frame, image, running, until

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "proxy"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def nginx(folder: Path, port: int, behind: int) -> list[str]:
    text = (EXAMPLES / "nginx.conf").read_text()
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port}").replace(":8000/", f":{behind}/")
    text = re.sub(r"\n\s*ssl_[^\n]*", "", text).replace("_timeout 10s", "_timeout 1s")
    text = re.sub(r"(client_\w+_timeout)\s+10s", r"\1 1s", text)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = f"daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}}\nhttp {{ access_log off;"
    (folder / "nginx.conf").write_text(f"{whole} {temporary}\n{text}\n}}")
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]


def caddy(folder: Path, port: int, behind: int) -> list[str]:
    text = (EXAMPLES / "Caddyfile").read_text()
    text = text.replace("faces.example.org {", f"http://faces.example.org:{port} {{").replace(
        ":8000", f":{behind}"
    )
    text = text.replace("{\n\tservers", "{\n\tadmin off\n\tauto_https off\n\tservers", 1)
    (folder / "Caddyfile").write_text(text.replace("read_header 10s", "read_header 1s"))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@pytest.fixture(scope="module", params=[nginx, caddy])
def front(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, int]]:
    """A server behind a proxy, and the proxy's port."""
    name = request.param.__name__
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} (Debian: apt-get install {name})")
    folder, port = tmp_path_factory.mktemp(name), free_port()
    options = {"trusted_proxy": ("127.0.0.1",), "allowed_host": ("faces.example.org",), "root_path": "/faces"}
    with running(models_dir, token=TOKEN, rate=20.0, log_dir=folder / "log", **options) as server:
        command = request.param(folder, port, server.port)
        environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin:/usr/local/bin"}
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            assert until(lambda: ask(port, "/faces/health") is not None), (folder / "said").read_text()
            yield server, port
        finally:
            process.terminate()
            process.wait(10)


def ask(port: int, path: str, method: str = "GET", **options: object) -> httpx.Response | None:
    headers = {"Host": "faces.example.org", **RIGHT, **options.pop("headers", {})}  # type: ignore[dict-item]
    try:
        return httpx.request(method, f"http://127.0.0.1:{port}{path}", headers=headers, timeout=20, **options)  # type: ignore[arg-type]
    except httpx.TransportError:
        return None


def test_all_works_under_a_prefix_and_the_client_is_known(front: tuple[Running, int]) -> None:
    server, port = front
    for path in ("", "docs", "docs.css", "static/js/main.js", "openapi.json", "health", "v1/models"):
        answer = ask(port, f"/faces/{path}")
        assert answer is not None
        assert answer.status_code == 200, path
    page = ask(port, "/faces/docs").text  # type: ignore[union-attr]
    assert not re.search(r'(src|href)="/', page)
    answer = ask(port, "/faces/v1/predict?purpose=art", "POST", content=image())
    assert answer is not None
    assert answer.json()["images"][0]["faces"][0]["label"] == "happy"
    assert b"models" not in ask(port, "/v1/models").content  # type: ignore[union-attr]
    log = next((Path(server.service.log._folder or ".")).iterdir()).read_text()
    assert '"client": "127.0.0.1"' in log


def test_a_video_s_links_lead_through_the_proxy(front: tuple[Running, int], tmp_path: Path) -> None:
    _, port = front
    video = write_video(tmp_path / "film.mp4", moving_squares(10)).read_bytes()
    job = ask(port, "/faces/v1/video?purpose=art&annotated=false", "POST", content=video)
    assert job is not None
    link = job.json()["links"]["self"]
    assert link.startswith("/faces/v1/jobs/")
    assert until(lambda: ask(port, link).json()["status"] == "done", 200)  # type: ignore[union-attr]
    links = ask(port, link).json()["links"]  # type: ignore[union-attr]
    assert ask(port, links["faces.csv"]).status_code == 200  # type: ignore[union-attr]


def test_streams_pass_and_end_as_they_do_without_a_proxy(front: tuple[Running, int]) -> None:
    server, port = front
    headers = {"Origin": f"http://faces.example.org:{port}", **RIGHT}
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    address = f"ws://faces.example.org:{port}/faces/v1/stream"
    with connect(address, sock=raw, compression=None, additional_headers=headers) as stream:
        stream.send(json.dumps({"type": "start", "purpose": "art"}))
        assert json.loads(stream.recv(PATIENCE_S))["type"] == "ready"
        stream.send(frame(1, image()))
        assert json.loads(stream.recv(PATIENCE_S))["frame"] == 1
    assert until(lambda: not server.service.streams)


def test_slow_heads_end_at_the_proxy(front: tuple[Running, int]) -> None:
    server, port = front
    before = len(server.server.server_state.connections)
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
    began_s = time.monotonic()
    for connection in slow:
        connection.sendall(b"GET /faces/health HTTP/1.1\r\nHost: faces.")
    for connection in slow:
        assert b"200" not in connection.recv(1000)[:15]
        connection.close()
    assert time.monotonic() - began_s < 9
    assert len(server.server.server_state.connections) <= before + 2
