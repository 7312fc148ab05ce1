import contextlib
import json
import random
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.serving.running import PATIENCE_S, Running, frame, image, running, until


def png_of(width: int, height: int) -> bytes:
    """A valid head of an image of any size, with hardly any content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def webp_of(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize(
    "bomb",
    [png_of(60_000, 60_000), png_of(5001, 5000), png_of(2**31 - 1, 2**31 - 1), webp_of(16_000, 16_000)],
)
def test_decompression_bombs_are_refused_by_their_head(server: Running, bomb: bytes) -> None:
    before_mb = psutil.Process().memory_info().rss / 1e6
    began_s = time.monotonic()
    for _ in range(5):
        refused = server.http.post("/v1/predict", content=bomb)
        assert refused.status_code in (413, 422)
    assert time.monotonic() - began_s < 2
    assert psutil.Process().memory_info().rss / 1e6 - before_mb < 50


def test_a_bomb_in_a_stream_ends_it(server: Running) -> None:
    with server.stream() as stream:
        stream.send(frame(0, png_of(3000, 2000)))
        assert json.loads(stream.recv(PATIENCE_S))["code"] == "too_many_pixels"


def test_text_that_unfolds_in_a_image_is_refused(server: Running) -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = image(kind="PNG")
    bomb = whole[:33] + chunk + whole[33:]
    before_mb = psutil.Process().memory_info().rss / 1e6
    assert server.http.post("/v1/predict", content=bomb).status_code == 422
    assert psutil.Process().memory_info().rss / 1e6 - before_mb < 50


def test_a_image_of_endless_scans_is_refused(server: Running) -> None:
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00"
    whole = image()
    refused = server.http.post("/v1/predict", content=whole[:-2] + scan * 200 + whole[-2:])
    assert (refused.status_code, refused.json()["code"]) == (422, "damaged")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 415),
        (b"<html><script>alert(1)</script></html>", 415),
        (b"PK\x03\x04" + bytes(100), 415),
        (b"%!PS\n(/etc/passwd) (r) file", 415),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415),
        (b"RIFF\x00\x00\x00\x00AVI " + bytes(100), 415),
        (b"GIF89a/*<svg/onload=alert(1)>*/=1;", 422),
    ],
)
def test_what_is_no_image_is_never_opened(server: Running, content: bytes, status: int) -> None:
    assert server.http.post("/v1/predict", content=content).status_code == status


def test_a_image_that_is_a_page_too_is_read_as_a_image_and_given_back_as_nothing(server: Running) -> None:
    polyglot = image() + b"<script>alert(1)</script>PK\x05\x06"
    files = {"images": ("<script>alert(1)</script>.html", polyglot, "text/html")}
    answer = server.http.post("/v1/predict", files=files)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert len(answer.json()["images"][0]["faces"]) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\nconcat:http://127.0.0.1/a|file:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\xff\xd8\xff" + bytes(50),
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
        b"<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'/>",
    ],
)
def test_playlists_and_other_files_that_open_files_are_no_videos(server: Running, content: bytes) -> None:
    for asked in ({"content": content}, {"files": {"file": ("film.mp4", content, "video/mp4")}}):
        refused = server.http.post("/v1/video", **asked)
        assert (refused.status_code, refused.json()["code"]) == (415, "unknown_kind")
    assert not server.service.jobs._jobs


@pytest.mark.parametrize(
    ("query", "header"),
    [
        ("purpose=hiring&purpose=personal", None),
        ("purpose=personal&purpose=hiring", None),
        ("purpose=art", "hiring"),
    ],
)
def test_no_second_purpose_hides_a_prohibited_one(server: Running, query: str, header: str | None) -> None:
    for path in ("/v1/predict", "/v1/video"):
        address = f"http://127.0.0.1:{server.port}{path}?{query}"
        refused = httpx.post(
            address, content=b"GIF89a", headers={"x-ferkit-purpose": header} if header else None
        )
        assert (refused.status_code, refused.json()["code"]) == (403, "prohibited_purpose")


def test_videos_that_are_only_a_beginning_fail_with_a_reason(server: Running) -> None:
    noise = random.Random(0).randbytes(100_000)
    others = (b"OggS", b"FLV\x01", b"\0\0\1\xba", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"))
    for start in (b"\x00\x00\x00\x18ftypmp42", b"\x1aE\xdf\xa3", b"RIFF\xff\xff\xff\xffAVI LIST", *others):
        job = server.http.post("/v1/video", content=start + noise).json()
        link = job["links"]["self"]
        assert until(lambda here=link: server.http.get(here).json()["status"] == "failed")
        reason = server.http.get(link).json()["reason"]
        assert "not a video that can be read" in reason or "expected a moving image" in reason
        assert "/tmp" not in reason
        assert "ferkit-jobs" not in reason
        assert server.http.get(f"{link}/result.json").status_code == 409
        assert server.http.delete(link).status_code == 204


def raw(server: Running, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection


HEAD = "POST /v1/predict?purpose=art HTTP/1.1\nHost: localhost\nContent-Type: image/jpeg\n"


def rest_of(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def test_an_endless_upload_is_cut_off_and_told_so(models_dir: Path) -> None:
    with (
        running(models_dir, max_bytes=100_000) as server,
        raw(server, HEAD + "Transfer-Encoding: chunked\n\n") as c,
    ):
        sent = 0
        piece = f"{65536:x}\r\n".encode() + b"\xff" * 65536 + b"\r\n"
        try:
            while sent < 200_000_000:
                c.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = rest_of(c)
        assert sent < 30_000_000
        assert server.metric("ferkit_refused_total", code="too_large") == 1
        assert answer == b"" or b" 413 " in answer.splitlines()[0]


def test_a_large_upload_is_refused_by_its_head(server: Running) -> None:
    with raw(server, HEAD + "Content-Length: 99999999999\n\n") as connection:
        began_s = time.monotonic()
        answer = rest_of(connection)
        assert time.monotonic() - began_s < 3
    assert b" 413 " in answer.splitlines()[0]
    assert b"connection: close" in answer.lower()


def trickle(connection: socket.socket) -> None:
    for _ in range(1000):
        connection.sendall(b"x")
        time.sleep(0.02)


def test_bodies_that_trickle_are_given_up(models_dir: Path) -> None:
    with running(models_dir, body_timeout_s=0.15) as server:
        with raw(server, HEAD + "Content-Length: 1000\n\n") as connection:
            began_s = time.monotonic()
            answer = rest_of(connection)
        assert b" 408 " in answer.splitlines()[0]
        assert time.monotonic() - began_s < 4
        with raw(server, HEAD + "Content-Length: 1000\n\n") as connection:
            began_s = time.monotonic()
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                trickle(connection)
            assert time.monotonic() - began_s < 8
        assert until(lambda: server.service.predictor.n_waiting == 0)


def test_heads_that_trickle_are_given_up(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferkit.serving.app.HEAD_S", 0.4)
    with running(models_dir) as server:
        silent = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        half = raw(server, "GET /health HTTP/1.1\nHost: ")
        second = raw(server, "GET /health HTTP/1.1\nHost: localhost\n\n")
        assert second.recv(65536).startswith(b"HTTP/1.1 200")
        second.sendall(b"GET /health HT")
        began_s = time.monotonic()
        assert rest_of(silent) == rest_of(half) == b""
        assert b"HTTP" not in rest_of(second)
        assert time.monotonic() - began_s < 4
        assert server.http.get("/health").status_code == 200


def test_heads_of_any_length_are_refused(server: Running) -> None:
    with raw(server, "GET /health HTTP/1.1\nHost: localhost\n") as connection:
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 20_000_000:
                connection.sendall(b"X: " + b"x" * 10_000 + b"\r\n")
                sent += 10_000
        assert rest_of(connection).splitlines()[:1] in ([], [b"HTTP/1.1 400 Bad Request"])
    assert sent < 20_000_000


def test_one_client_cannot_take_all_connections(models_dir: Path) -> None:
    with running(models_dir, max_connections=8) as server:
        taken = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(8)]
        for connection in taken:
            connection.settimeout(0.2)
        time.sleep(0.2)
        open_now = 0
        for connection in taken:
            try:
                open_now += connection.recv(1) != b""
            except TimeoutError:
                open_now += 1
            except ConnectionResetError:
                pass
        assert open_now == 4
        for connection in taken:
            connection.close()
        assert until(lambda: _answers(server))


def _answers(server: Running) -> bool:
    try:
        return server.http.get("/health").status_code == 200
    except Exception:
        return False


def test_a_stream_that_takes_no_answers_is_cut(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferkit.serving.stream.SEND_S", 0.5)
    monkeypatch.setattr("ferkit.serving.app.STALL_S", 0.5)
    with running(models_dir, max_fps=60_000) as server:
        options = {"compression": None, "max_queue": 1, "ping_interval": None, "close_timeout": 0.1}
        with connect(server.stream_url, **options) as deaf:
            deaf.send(json.dumps({"type": "start", "purpose": "art"}))
            assert until(lambda: server.service.streams)
            # Each answer lists the labels, and is longer than its question.
            flood = threading.Thread(
                target=ask_without_end, args=(deaf, '{"type": "model", "name": "ferkit"}')
            )
            flood.start()
            assert until(lambda: not server.service.streams)
            assert until(lambda: len(server.server.server_state.connections) == 0)
        flood.join(10)
        assert not flood.is_alive()


def ask_without_end(stream: ClientConnection, question: str) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            stream.send(question)


def test_garbage_instead_of_http(server: Running) -> None:
    noise = random.Random(1)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port), timeout=12) as connection:
            connection.sendall(noise.randbytes(500) + b"\r\n\r\n")
            assert rest_of(connection)[:12] in (b"", b"HTTP/1.1 400")
    assert server.http.get("/health").status_code == 200


def test_answers_that_nobody_takes_are_cut(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferkit.serving.app.STALL_S", 0.4)
    with running(models_dir) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(0.5)
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.suppress(TimeoutError):
            for _ in range(3000):  # 60 MB of answers
                connection.sendall(asked)
        assert until(lambda: len(server.server.server_state.connections) == 0)
        assert until(lambda: len(server.server.server_state.tasks) == 0)
