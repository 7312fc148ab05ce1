import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ferkit.core.errors import DataError
from ferkit.serving.api import ApiError
from ferkit.serving.security import Auth
from ferkit.serving.settings import Limits, ServeSettings, option_names, settings_from
from tests.serving.running import PATIENCE_S, TOKEN, Running, image, running


@pytest.fixture(scope="module")
def guarded(models_dir: Path) -> Iterator[Running]:
    with running(models_dir, token=TOKEN, allowed_origin=("https://faces.example.org",)) as found:
        yield found


RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("shown", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "é"])
def test_without_the_token_nothing_is_read(guarded: Running, shown: str | None) -> None:
    headers = [] if shown is None else [(b"Authorization", shown.encode("latin-1"))]
    asked = [
        guarded.http.get("/v1/models", headers=headers),
        guarded.http.get("/metrics", headers=headers),
        guarded.http.post("/v1/predict", content=image(), headers=headers),
        guarded.http.post("/v1/video", content=b"x", headers=headers),
        guarded.http.delete("/v1/jobs/x", headers=headers),
    ]
    assert {answer.status_code for answer in asked} == {401}
    assert {answer.headers["WWW-Authenticate"] for answer in asked} == {"Bearer"}


def test_with_the_token_all_is_open_and_the_rest_always_is(guarded: Running) -> None:
    assert guarded.http.post("/v1/predict", content=image(), headers=RIGHT).status_code == 200
    assert guarded.http.get("/metrics", headers=RIGHT).status_code == 200
    assert guarded.http.get("/v1/info").json()["token_required"]
    for path in ("/health", "/ready", "/docs", "/docs.css", "/openapi.json"):
        assert guarded.http.get(path).status_code == 200


@pytest.mark.parametrize("token", [None, "wrong", "\ud800"])
def test_a_stream_without_the_token_is_closed(guarded: Running, token: str | None) -> None:
    with connect(guarded.stream_url) as socket:
        socket.send(json.dumps({"type": "start", "purpose": "personal", "token": token}))
        said = json.loads(socket.recv(PATIENCE_S))
        assert said["type"] == "error"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(PATIENCE_S)
    # A lone surrogate is no text at all.
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == (4400 if token == "\ud800" else 4401)


def test_a_stream_shows_its_token_in_its_start_or_in_its_head(guarded: Running) -> None:
    with guarded.stream(token=TOKEN):
        pass
    with connect(guarded.stream_url, additional_headers=RIGHT) as socket:
        socket.send(json.dumps({"type": "start", "purpose": "art"}))
        assert json.loads(socket.recv(PATIENCE_S))["type"] == "ready"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://127.0.0.1.evil.example",
        "http://[",
        "file://",
    ],
)
def test_other_sites_pages_are_refused(server: Running, origin: str) -> None:
    headers = {"Origin": origin}
    refused = server.http.post("/v1/predict", content=image(), headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
    assert server.http.delete("/v1/jobs/x", headers=headers).status_code == 403
    with pytest.raises(InvalidStatus) as denied:
        connect(server.stream_url, additional_headers=headers)
    assert denied.value.response.status_code == 403


def test_a_cross_site_request_without_an_origin_is_refused(server: Running) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert server.http.post("/v1/predict", content=image(), headers=headers).status_code == 403


def test_the_own_page_and_allowed_ones_may_ask(server: Running, guarded: Running) -> None:
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    assert server.http.post("/v1/predict", content=image(), headers=own).status_code == 200
    with connect(server.stream_url, additional_headers=own):
        pass
    other = {"Origin": "https://faces.example.org", **RIGHT}
    answer = guarded.http.post("/v1/predict", content=image(), headers=other)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://faces.example.org"
    asks_first = {**other, "Access-Control-Request-Method": "POST"}
    assert guarded.http.options("/v1/predict", headers=asks_first).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "10.0.0.1"]
)
def test_a_name_that_was_made_to_point_here_is_refused(server: Running, host: str) -> None:
    refused = server.http.get("/v1/models", headers={"Host": host})
    assert (refused.status_code, refused.json()["code"]) == (400, "unknown_host")
    with pytest.raises(InvalidStatus):
        connect(server.stream_url, additional_headers={"Host": host})


def test_too_many_requests_of_a_client(models_dir: Path) -> None:
    with running(models_dir, rate=0.01) as server:
        statuses = [server.http.get("/health").status_code for _ in range(12)]
        assert statuses == [200] * 10 + [429] * 2
        assert server.http.get("/health").headers["Retry-After"] == "1"
        with pytest.raises(InvalidStatus) as denied:
            connect(server.stream_url)
        assert denied.value.response.status_code == 429


def scope(host: str = "192.0.2.1", server: str = "192.0.2.1") -> dict:
    return {
        "type": "http", "method": "GET", "path": "/v1/models", "server": (server, 80), "client": ("192.0.2.9", 1),
        "headers": [(b"host", host.encode()), (b"authorization", f"Bearer {TOKEN}".encode())],
    }  # fmt: skip


def test_an_address_that_others_reach_needs_a_token_whoever_bound_it() -> None:
    with pytest.raises(ApiError) as refused:
        Auth(ServeSettings()).check(scope())
    assert refused.value.code == "token_needed"


def test_beyond_loopback_numbers_and_given_names_are_known() -> None:
    access = Auth(ServeSettings(host="0.0.0.0", token=TOKEN, allowed_host=("faces.example.org",)))
    for host in ("192.0.2.1", "192.0.2.1:8000", "[2001:db8::1]:80", "faces.example.org", "localhost"):
        access.check(scope(host))
    with pytest.raises(ApiError, match="not called by this name"):
        access.check(scope("other.example.org"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "FER_SERVE_TOKEN"),
        ({"host": "::"}, "FER_SERVE_TOKEN"),
        ({"host": "faces.example.org"}, "FER_SERVE_TOKEN"),
        ({"allowed_host": ("faces.example.org",)}, "FER_SERVE_TOKEN"),
        ({"trusted_proxy": ("127.0.0.1",)}, "FER_SERVE_TOKEN"),
        ({"host": "0.0.0.0", "token": "short"}, "at least 16"),
        ({"purpose": "hiring"}, "allow-purpose"),
        ({"purpose": "fun"}, "expected a purpose"),
        ({"max_streams": 0}, "max_streams above 0"),
        ({"idle_s": float("nan")}, "idle_s above 0"),
    ],
)
def test_settings_that_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        settings_from(settings)


def test_settings_from_the_environment() -> None:
    found = ServeSettings.from_environment(
        {
            "FER_SERVE_HOST": "0.0.0.0",
            "FER_SERVE_PORT": "9000",
            "FER_SERVE_TOKEN": TOKEN,
            "FER_SERVE_ALLOWED_HOST": "a.example b.example",
            "FER_SERVE_MODELS_DIR": "/srv/models",
            "FER_SERVE_MAX_PIXELS": "1000",
            "FER_SERVE_RATE": "0",
            "FER_SERVE_PURPOSE": "",
        }
    )
    assert found == ServeSettings(
        host="0.0.0.0", port=9000, token=TOKEN, allowed_host=("a.example", "b.example"),
        models_dir=Path("/srv/models"), limits=Limits(max_pixels=1000, rate=0.0),
    )  # fmt: skip
    with pytest.raises(DataError, match="expected a number in FER_SERVE_PORT"):
        ServeSettings.from_environment({"FER_SERVE_PORT": "http"})


def test_the_command_has_an_option_or_a_setting_for_everything() -> None:
    from ferkit.cli.serve import serve

    defaults = {option.name: option.default for option in serve.params}
    defaults |= {setting.key: setting.default for setting in serve.settings.values()}
    for name in option_names():
        assert name in defaults
    for limit in dataclasses.fields(Limits):
        assert defaults[limit.name] == limit.default


def test_every_answer_carries_the_page_s_policy(server: Running) -> None:
    for answer in (
        server.http.get("/health"),
        server.http.get("/none"),
        httpx.get(f"{server.http.base_url}/docs"),
    ):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_only_a_trusted_proxy_says_who_the_client_is(models_dir: Path, tmp_path: Path) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.7", **RIGHT}
    clients = []
    for proxies in ((), ("127.0.0.1",)):
        logs = tmp_path / str(len(proxies))
        with running(models_dir, token=TOKEN, trusted_proxy=proxies, log_dir=logs) as server:
            assert server.http.get("/v1/models", headers=forwarded).status_code == 200
        (log,) = logs.iterdir()
        clients += [
            line["client"] for line in map(json.loads, log.read_text().splitlines()) if "client" in line
        ]
    assert clients == ["127.0.0.1", "203.0.113.7"]
