"""Fetching weights from a real server, and what is said when that fails."""

import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ferkit.core import weights as fetch
from ferkit.core.errors import WeightsError
from ferkit.core.weights import WeightsEntry, _opener, known_weights, list_weights, verify, weights_file

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404, "Not Found")
            return
        page = b"<html>too many downloads</html>"
        body = {"page": page, "other": CONTENT[::-1], "truncated": CONTENT[:1000], "cut": CONTENT[:1000]}.get(
            kind, CONTENT
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if kind == "page" else "application/octet-stream")
        length = {"truncated": len(CONTENT), "nonsense": "abc", "negative": "-5", "huge": 10**13}
        if kind not in ("cut", "unsaid"):
            self.send_header("Content-Length", str(length.get(kind, len(body))))
        self.end_headers()
        if kind == "slow":
            for start in range(0, len(body), 100):
                self.wfile.write(body[start : start + 100])
                time.sleep(0.05)
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "deepface"))
    monkeypatch.delenv("FER_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "weights"


def register(monkeypatch: pytest.MonkeyPatch, urls: list[str], sha256: str | None = None) -> None:
    entry = WeightsEntry("net", "net.onnx", tuple(urls), "a test network", "MIT", sha256=sha256)
    monkeypatch.setattr("ferkit.core.weights.known_weights", lambda: {"net": entry})
    monkeypatch.setattr(fetch, "known_weights", lambda: {"net": entry})


def test_a_good_file_is_fetched_once_and_kept(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, [f"{server}/good/net.onnx"], SHA256)
    (status,) = list_weights()
    assert (status.present, status.hash_known, status.path) == (False, "published", cache / "net.onnx")
    path = weights_file("net")
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in cache.iterdir()) == ["net.onnx"]
    register(monkeypatch, [f"{server}/missing/net.onnx"], SHA256)
    assert weights_file("net") == path
    assert verify("net").present


def test_without_a_published_hash_the_first_use_is_remembered(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, [f"{server}/good/net.onnx"])
    assert list_weights()[0].hash_known == "no"
    path = weights_file("net")
    assert (cache / "net.onnx.sha256").read_text() == f"{SHA256}  net.onnx\n"
    assert verify("net").hash_known == "first use"
    path.write_bytes(CONTENT[:-1])
    for refuses in (weights_file, verify):
        with pytest.raises(WeightsError, match=r"net\.onnx\.sha256 remembers from the first use, found"):
            refuses("net")
    path.unlink()
    register(monkeypatch, [f"{server}/other/net.onnx"])
    with pytest.raises(WeightsError, match=rf"instead of {SHA256} \(to take the new one, delete"):
        weights_file("net")


def test_a_file_put_there_by_hand_is_taken_and_remembered(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, ["http://127.0.0.1:9/net.onnx"])
    cache.mkdir()
    (cache / "net.onnx").write_bytes(CONTENT)
    assert weights_file("net") == cache / "net.onnx"
    assert (cache / "net.onnx.sha256").read_text().startswith(SHA256)


def test_deepfaces_own_copy_is_read_and_left_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, ["http://127.0.0.1:9/net.onnx"], SHA256)
    theirs = Path(os.environ["DEEPFACE_HOME"], ".deepface", "weights", "net.onnx")
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(CONTENT)
    assert weights_file("net") == theirs
    assert [p.name for p in theirs.parent.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("other", "sent a file with SHA-256 [0-9a-f]{64} instead of"),
        ("truncated", r"(sent 1,000 of 1,280,000 bytes|the connection broke)"),
        ("missing", "answered 404 Not Found"),
        ("page", "answered with a web page instead of the file"),
    ],
)
def test_what_is_not_the_file_is_not_kept(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    register(monkeypatch, [f"{server}/{kind}/net.onnx"], SHA256)
    with pytest.raises(WeightsError, match=reason) as caught:
        weights_file("net")
    assert "\n" not in str(caught.value)
    assert not list(cache.glob("*"))


def test_the_second_address_is_tried(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, [f"{server}/missing/net.onnx", f"{server}/good/net.onnx"], SHA256)
    assert weights_file("net").read_bytes() == CONTENT


def test_unreachable_fails_at_once_with_file_place_and_addresses(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/net.onnx"
    register(monkeypatch, [url, "http://127.0.0.1:9/net.onnx"])
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        weights_file("net")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in ("net.onnx is needed", "is not reachable", str(cache), url, "http://127.0.0.1:9/net.onnx"):
        assert part in message


def test_offline_asks_nobody(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, [f"{server}/good/net.onnx"])
    monkeypatch.setenv("FER_OFFLINE", "1")
    with pytest.raises(
        WeightsError, match=r"net\.onnx is needed, but fetching is switched off; put it into .*weights"
    ):
        weights_file("net")
    with pytest.raises(WeightsError, match="it is not on this machine"):
        verify("net")
    assert not cache.exists()


def test_a_given_file_is_taken_as_it_is(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    assert weights_file("arcface", given=tmp_path / "mine.onnx") == tmp_path / "mine.onnx"
    with pytest.raises(WeightsError, match="found no such file; correct the path"):
        weights_file("arcface", given=tmp_path / "absent.onnx")
    with pytest.raises(WeightsError, match="no weights are called 'arcfac'; known: ferkit, ferkit2, arcface"):
        weights_file("arcfac")


def test_the_registry_names_official_places_and_plausible_hashes() -> None:
    for entry in known_weights().values():
        assert all(url.startswith("https://") for url in entry.urls)
        assert entry.licence
        assert entry.about
        assert entry.sha256 is None or (entry.size and re.fullmatch("[0-9a-f]{64}", entry.sha256))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "file"),
    [("face_landmarker", "face_landmarker.task"), ("blaze_face", "blaze_face_short_range.tflite")],
)
def test_hashes_of_the_registry_are_those_of_the_files(shared: Path, name: str, file: str) -> None:
    content = (shared / "models" / file).read_bytes()
    entry = known_weights()[name]
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("cut", "does not say how long the file is"),
        ("unsaid", "does not say how long the file is"),
        ("nonsense", "says a length of 'abc'"),
        ("negative", "says a length of '-5'"),
        ("huge", "offers 10,000,000,000,000 bytes"),
        ("slow", "which is too slow"),
    ],
)
def test_what_might_be_a_part_or_never_end_is_not_kept_nor_pinned(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    monkeypatch.setattr("ferkit.core.weights.SLOW_S", 0.3)
    register(monkeypatch, [f"{server}/{kind}/net.onnx"])
    with pytest.raises(WeightsError, match=reason):
        weights_file("net")
    assert not list(cache.glob("*"))


def test_a_length_that_nobody_says_is_no_matter_where_the_hash_is_known(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, [f"{server}/unsaid/net.onnx"], SHA256)
    assert weights_file("net").read_bytes() == CONTENT


def test_more_than_is_published_is_given_up(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = WeightsEntry(
        "net", "net.onnx", (f"{server}/good/net.onnx",), "a test network", "MIT", size=1000, sha256=SHA256
    )
    monkeypatch.setattr("ferkit.core.weights.known_weights", lambda: {"net": entry})
    with pytest.raises(WeightsError, match="more than 1,000 bytes"):
        weights_file("net")


def test_no_redirection_leads_away_from_encryption() -> None:
    from urllib.error import URLError
    from urllib.request import HTTPRedirectHandler, Request

    (handler,) = (one for one in _opener().handlers if isinstance(one, HTTPRedirectHandler))
    asked = Request("https://weights.example/net.onnx")
    with pytest.raises(URLError, match="without encryption"):
        handler.redirect_request(asked, None, 302, "Found", {}, "http://weights.example/net.onnx")
    assert handler.redirect_request(asked, None, 302, "Found", {}, "https://cdn.example/net.onnx") is not None
    plain = Request("http://weights.example/net.onnx")
    assert handler.redirect_request(plain, None, 302, "Found", {}, "https://cdn.example/net.onnx") is not None


def test_what_a_broken_download_left_goes_with_the_next_one(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, [f"{server}/good/net.onnx"], SHA256)
    cache.mkdir(parents=True)
    left = cache / ".net.onnx.a.tmp"
    left.write_bytes(b"x")
    weights_file("net")
    assert sorted(path.name for path in cache.iterdir()) == ["net.onnx"]


def test_who_can_do_without_does_not_wait_for_a_dead_address_each_time(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, [f"{server}/missing/net.onnx"], SHA256)
    with pytest.raises(WeightsError, match="404"):
        weights_file("net", insist=False)
    register(monkeypatch, [f"{server}/good/net.onnx"], SHA256)
    with pytest.raises(WeightsError, match="within the last hour"):
        weights_file("net", insist=False)
    an_hour_ago_s = time.time() - 3601
    os.utime(cache / "net.onnx.failed", (an_hour_ago_s, an_hour_ago_s))
    assert weights_file("net", insist=False).read_bytes() == CONTENT
    (cache / "net.onnx").unlink()
    (cache / "net.onnx.failed").touch()
    assert weights_file("net").read_bytes() == CONTENT  # who insists is not told to wait
    assert not (cache / "net.onnx.failed").exists()
