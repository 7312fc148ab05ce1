"""The server attacked at random: a short form in every run of the tests, ``make attack`` for all of it.

Each test ends with a count of what was tried, and with a server that has lost nothing: no task, no slot, no gauge,
no answer of 500 or more that was not asked for.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect as connect_plainly

from tests.serving import bad_models as bad
from tests.serving.running import PATIENCE_S, TOKEN, Running, frame, image, running, until
from tests.serving.test_stream import close_code

pytestmark = [pytest.mark.attack, pytest.mark.timeout(3600)]

WHOLE = os.environ.get("FER_ATTACK") == "whole"
SEED = 20261126


def times(short: int, whole: int) -> int:
    return whole if WHOLE else short


@pytest.fixture(scope="module")
def target(models_dir: Path) -> Iterator[Running]:
    if not (models_dir / "nan").exists():
        bad.network_model(models_dir / "nan", bad.nan_network())
    with running(models_dir, processes=2, max_streams=16, max_frame_bytes=200_000, idle_s=5.0) as found:
        yield found
        assert lost(found) == {}


def lost(server: Running, within_s: float = 2.0 if WHOLE else PATIENCE_S) -> dict[str, float]:
    """What is still held after two seconds, longer on machines that run all tests: nothing should be."""

    def now() -> dict[str, float]:
        workers = server.service.workers.all
        counts = {
            "streams": sum(server.service.streams.values()),
            "gauge": server.metric("ferkit_streams"),
            "tasks": len(server.server.server_state.tasks),
            "pinned": sum(worker.n_streams for worker in workers),
            "waiting": sum(worker.n_waiting for worker in workers) + server.service.predictor.n_waiting,
        }
        return {name: count for name, count in counts.items() if count}

    until(lambda: not now(), within_s)
    return now()


def faults(server: Running) -> dict[str, float]:
    """Answers of 500 and more, by route and status; 503 says no, and is none."""
    return {
        f"{sample.labels['route']} {sample.labels['status']}": sample.value
        for metric in server.service.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "ferkit_requests_total" and sample.labels["status"] in ("500", "501", "502", "504")
    }


def test_a_frame_that_cannot_be_read_and_a_word_back_to_back(target: Running) -> None:
    """The case of edition one: half of these streams never ended on Python 3.11."""
    half = image(kind="PNG")[:60]
    for _ in range(times(30, 1000)):
        with connect_plainly(target.stream_url, compression=None) as stream:
            stream.send(json.dumps({"type": "start", "purpose": "art"}))
            assert json.loads(stream.recv(PATIENCE_S))["type"] == "ready"
            stream.send(frame(0, half))
            stream.send("[]")
            assert close_code(stream) == 4400
    assert lost(target) == {}


STARTS: list[Any] = [
    {"type": "start", "purpose": "art"},
    {"type": "start", "purpose": "art", "model": "ferkit", "fps": 60},
    {"type": "start", "purpose": "art", "model": "nobody"},
    {"type": "start", "purpose": "art", "model": "nan"},
    {"type": "start", "purpose": "hiring"},
    {"type": "start", "purpose": "art", "fps": -1},
    {"type": "begin"},
    [],
    b"\0" * 20,
    "{",
    "x" * 5000,
]
COMMANDS: list[Any] = [
    "[]", "{", "7", "null", '{"type": "reset"}', '{"type": "neutral", "seconds": 1}', "[" * 4000, "x" * 5000,
    '{"type": "model", "name": "ferkit"}', '{"type": "model", "name": "nobody"}', '{"type": "model"}',
    '{"type": "model", "name": "nan"}', '{"type": "neutral", "seconds": -1}', '{"type": "start", "purpose": "art"}',
]  # fmt: skip


def frames(rng: random.Random) -> bytes:
    whole = image(rng.randrange(256), kind=rng.choice(("JPEG", "PNG", "WEBP")))
    cut = whole[: rng.randrange(len(whole))]
    spoilt = bytearray(whole)
    for _ in range(5):
        spoilt[rng.randrange(12, len(spoilt))] = rng.randrange(256)
    return rng.choice(
        [
            frame(
                rng.randrange(2**32), whole, captured_ms=rng.choice((0.0, 1e300, -1.0, time.time() * 1000))
            ),
            frame(0, whole),
            frame(1, cut),
            frame(2, bytes(spoilt)),
            frame(3, image(kind="GIF")),
            frame(4, whole, captured_ms=float("nan")),
            frame(5, whole + bytes(200_000)),
            bytes(12),
            b"",
            rng.randbytes(100),
        ]
    )


async def one_session(url: str, rng: random.Random, seen: Counter[str]) -> None:
    with contextlib.suppress(ConnectionClosed, InvalidHandshake, TimeoutError, OSError):
        async with connect(url, compression=None, close_timeout=0.5, open_timeout=20) as stream:
            if rng.random() < 0.1:
                stream.transport.abort()
                seen["aborted at once"] += 1
                return
            start = STARTS[0] if rng.random() < 0.7 else rng.choice(STARTS)
            await stream.send(json.dumps(start) if isinstance(start, (dict, list)) else start)
            if rng.random() < 0.7:
                await asyncio.wait_for(stream.recv(), PATIENCE_S)
            for _ in range(rng.randrange(6)):
                await stream.send(rng.choice(COMMANDS) if rng.random() < 0.3 else frames(rng))
                seen["messages"] += 1
                if rng.random() < 0.4:
                    await asyncio.wait_for(stream.recv(), PATIENCE_S)
            end = rng.choice(("abort", "close", "wait", "half"))
            seen[end] += 1
            if end == "abort":
                stream.transport.abort()
            elif end == "wait":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        while True:
                            await stream.recv()
            elif end == "half" and stream.transport.can_write_eof():
                stream.transport.write_eof()


def test_every_kind_of_start_frame_word_and_end_in_random_order(target: Running) -> None:
    n, seen = times(100, 5000), Counter[str]()

    async def all_of_them() -> None:
        turn = asyncio.Semaphore(8)

        async def one(seed: int) -> None:
            async with turn:
                await one_session(target.stream_url, random.Random(seed), seen)

        await asyncio.gather(*(one(SEED + i) for i in range(n)))

    asyncio.run(all_of_them())
    assert lost(target) == {}, seen
    assert sum(seen[end] for end in ("abort", "close", "wait", "half")) > n / 10
    # And it serves as before.
    with target.stream() as stream:
        stream.send(frame(1, image()))
        assert json.loads(stream.recv(PATIENCE_S))["type"] == "result"


def damaged(rng: random.Random) -> bytes:
    content = bytearray(image(rng.randrange(256), kind=rng.choice(("JPEG", "PNG", "WEBP", "GIF", "BMP"))))
    for _ in range(rng.randrange(8)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(len(content) + 1)] if rng.random() < 0.5 else content)


def test_images_of_any_damage(target: Running) -> None:
    rng, statuses = random.Random(SEED), Counter[int]()
    for _ in range(times(60, 3000)):
        files = [("images", (f"{i}", damaged(rng))) for i in range(rng.randrange(1, 9))]
        statuses[target.http.post("/v1/predict", files=files).status_code] += 1
    assert statuses.keys() <= {200, 413, 415, 422}, statuses
    assert lost(target) == {}


def test_sessions_of_teaching(target: Running) -> None:
    """Any change in any order, with names, ids and images that are none."""
    rng, statuses = random.Random(SEED), Counter[int]()
    names = ["a", "b", "", "../x", "씩 웃음", "a" * 200, "\u202e", "unsure", "CON", None, 7, ["a"]]
    ids = [
        target.http.post("/v1/teach", json={"labels": ["a", "b"]}).json()["id"],
        "nobody",
        "..%2f..",
        "0" * 5000,
    ]
    for _ in range(times(60, 3000)):
        at = f"/v1/teach/{rng.choice(ids)}"
        name, query = rng.choice(names), {"label": rng.choice(("a", "x", "", "a" * 99)), "take": "1"}
        change = {"do": rng.choice(("move", "rename", "remove", "undo", "add_label", "remove_label", "fly"))}
        change |= {
            "label": name,
            "to": rng.choice(names),
            "ids": rng.choice(([1], [-1], ["x"], [2**70], 3, [])),
        }
        answer = rng.choice((
            lambda: target.http.post(at + "/changes", json=change),  # noqa: B023
            lambda: target.http.post(at + "/examples", params=query, files=[("images", ("i", damaged(rng)))]),  # noqa: B023
            lambda: target.http.post(at + "/save", json={"name": name}),  # noqa: B023
            lambda: target.http.post(at + "/save", content=rng.randbytes(50)),  # noqa: B023
            lambda: target.http.get(at),  # noqa: B023
            lambda: target.http.get(at + "/zip"),  # noqa: B023
            lambda: target.http.post("/v1/teach", json={"labels": [name], "model": rng.choice(names)}),  # noqa: B023
        ))()  # fmt: skip
        statuses[answer.status_code] += 1
        if answer.status_code == 201:
            target.http.delete(f"/v1/teach/{answer.json()['id']}")
    assert statuses.keys() <= {200, 201, 204, 404, 409, 413, 414, 415, 422, 429}, statuses
    target.http.delete(f"/v1/teach/{ids[0]}")
    assert len(target.service.teaching) == 0
    assert lost(target) == {}


HEADS = [
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\nHost: user@127.0.0.1\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:80@evil.example\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET /v1/jobs/..%2f..%2fetc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /static/..%2f..%2fapp.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /static/%2e%2e/app.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "POST /v1/predict?purpose=art HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    "POST /v1/predict?purpose=art HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "POST /v1/predict?purpose=art HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "POST /v1/predict?purpose=art HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9\r\n\r\n--x\r\n\r\n\r\n",
    "POST /v1/predict?purpose=art HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data\r\n"
    "Content-Length: 3\r\n\r\nabc",
    "GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "GET /" + "a" * 70_000 + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: \xff\xfe\r\n\r\n",
    "GET /?%ff%00%0d%0a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
]


def test_heads_of_any_kind(target: Running) -> None:
    rng = random.Random(SEED)
    answers = Counter[str]()
    for i in range(times(2 * len(HEADS), 3000)):
        head = HEADS[i % len(HEADS)].encode("latin-1")
        if i >= len(HEADS):
            spoilt = bytearray(head)
            for _ in range(3):
                spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
            head = bytes(spoilt)
        with socket.create_connection(("127.0.0.1", target.port), timeout=15) as connection:
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            found = b""
            with contextlib.suppress(ConnectionResetError, TimeoutError):
                while piece := connection.recv(65536):
                    found += piece
        answers[found[9:12].decode("latin-1")] += 1
        assert b"def create_app" not in found
        assert b"root:" not in found
    assert answers.keys() <= {
        "",
        "200",
        "400",
        "403",
        "404",
        "405",
        "408",
        "413",
        "415",
        "422",
        "426",
        "431",
    }, answers
    assert lost(target) == {}
    assert target.http.get("/health").status_code == 200


def test_silent_and_slow_clients_do_not_keep_others_out(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferkit.serving.app.HEAD_S", 1.0)
    with running(models_dir, max_connections=40) as server:
        silent = []
        for i in range(times(60, 400)):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            if i % 2:
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET /health HTTP/1.1\r\nX-")
            silent.append(connection)
        assert until(lambda: _healthy(server))
        for connection in silent:
            connection.close()
        assert until(lambda: len(server.server.server_state.connections) <= 2)


def _healthy(server: Running) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{server.port}/health", timeout=2).status_code == 200
    return False


def test_tokens_cannot_be_tried_for_long(models_dir: Path) -> None:
    with running(models_dir, token=TOKEN) as server:
        statuses = Counter(
            server.http.get("/v1/models", headers={"Authorization": f"Bearer {i}"}).status_code
            for i in range(times(60, 2000))
        )
        assert statuses[401] == 20
        assert statuses.keys() == {401, 429}
        right = server.http.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (right.status_code, right.json()["code"]) == (429, "locked_out")
        assert int(right.headers["Retry-After"]) > 0
        # What needs no token is served on.
        assert server.http.get("/health").status_code == 200


def test_many_come_and_go_and_nothing_grows(target: Running) -> None:
    async def burst(n: int) -> None:
        turn = asyncio.Semaphore(16)

        async def one(client: httpx.AsyncClient, i: int) -> int:
            async with turn:
                answer = await client.post("/v1/predict", content=image(i % 256))
                return answer.status_code

        base = f"http://127.0.0.1:{target.port}"
        async with httpx.AsyncClient(base_url=base, params={"purpose": "art"}, timeout=60) as client:
            assert set(await asyncio.gather(*(one(client, i) for i in range(n)))) == {200}

    def held() -> dict[str, float]:
        workers = [psutil.Process(worker.pid) for worker in target.service.workers.all]
        return {
            "descriptors": psutil.Process().num_fds(),
            "memory": sum(worker.memory_info().rss for worker in workers) / 1e6,
        }

    asyncio.run(burst(times(50, 500)))
    before = held()
    asyncio.run(burst(times(200, 20_000)))
    assert lost(target) == {}
    assert until(lambda: held()["descriptors"] <= before["descriptors"] + 2)
    assert held()["memory"] < before["memory"] + 60


def test_nothing_of_all_this_was_a_fault(target: Running) -> None:
    assert faults(target) == {}
