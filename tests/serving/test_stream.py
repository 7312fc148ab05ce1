import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ferkit.serving.api import ApiError
from ferkit.serving.stream import StreamFrame, _StreamClock, parse_collect
from tests.serving.running import PATIENCE_S, Running, frame, held, image, running, until


def ask(socket: ClientConnection, message: Any) -> dict:
    socket.send(message if isinstance(message, (bytes, str)) else json.dumps(message))
    return json.loads(socket.recv(PATIENCE_S))


def close_code(socket: ClientConnection) -> int:
    """With which code the server closes, whatever it still says before."""
    with pytest.raises(ConnectionClosed) as closed:
        take_all(socket)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def take_all(socket: ClientConnection) -> None:
    while True:
        socket.recv(PATIENCE_S)


def test_ready_tells_the_labels(server: Running) -> None:
    with connect(server.stream_url) as socket:
        ready = ask(socket, {"type": "start", "purpose": "personal", "language": "ko", "fps": 12})
    assert (ready["type"], ready["model"]) == ("ready", "tiny")
    assert [label["ko"] for label in ready["labels"]] == ["기쁨", "중립", "슬픔"]


def test_an_answer_names_its_frame_and_its_age(server: Running) -> None:
    with server.stream() as socket:
        for number in (7, 8):
            answer = ask(socket, frame(number, image(225), captured_ms=1000.25 + 100 * number))
            assert (answer["type"], answer["frame"]) == ("result", number)
            assert answer["captured_ms"] == 1000.25 + 100 * number
            assert 0 < answer["age_ms"] < 5000
            assert (answer["width"], answer["height"], answer["dropped"]) == (64, 48, 0)
            (face,) = answer["faces"]
            assert face["box"] == [0, 0, 64, 48]
            assert len(face["probabilities"]) == len(face["raw"]) == 3
            assert face["probabilities"].index(max(face["probabilities"])) == 0
            # A flat image has no edges: it is no face that could be read.
            assert (face["id"], face["label"], face["quality"]) == (1, "unsure", 0)


def test_every_kind_of_frame_is_read(server: Running) -> None:
    with server.stream() as socket:
        for number, kind in enumerate(("JPEG", "WEBP", "PNG")):
            assert ask(socket, frame(number, image(30, kind=kind)))["faces"][0]["probabilities"][2] > 0.5


def test_of_the_frames_that_wait_the_newest_is_read(models_dir: Path) -> None:
    with running(models_dir) as server, server.stream() as socket:
        with held(server) as go_on:
            socket.send(frame(0, image()))
            assert until(lambda: server.service.workers.all[0].n_waiting == 1)
            for number in range(1, 11):
                socket.send(frame(number, image()))
            assert until(lambda: server.metric("ferkit_frames_total", fate="dropped") == 9)
            time.sleep(0.3)
            go_on()
            answers = [json.loads(socket.recv(PATIENCE_S)) for _ in range(2)]
        assert [answer["frame"] for answer in answers] == [0, 10]
        assert [answer["dropped"] for answer in answers] == [0, 9]
        assert answers[0]["age_ms"] >= 300  # since it came, not since it was read


def test_a_busy_stream_does_not_hold_up_the_others_nor_the_rest(models_dir: Path) -> None:
    with (
        running(models_dir, processes=2) as server,
        server.stream() as waits,
        server.stream() as other,
        held(server, 0) as go_on,
    ):
        waits.send(frame(0, image()))
        assert until(lambda: server.service.workers.all[0].n_waiting == 1)
        assert ask(other, frame(0, image()))["type"] == "result"
        assert server.http.get("/health").status_code == 200
        assert server.http.post("/v1/predict", content=image()).status_code == 200
        go_on()
        assert json.loads(waits.recv(PATIENCE_S))["frame"] == 0


def test_a_worker_that_breaks_down_costs_a_frame_and_no_more(models_dir: Path) -> None:
    with running(models_dir) as server, server.stream() as socket:
        assert ask(socket, frame(0, image()))["type"] == "result"
        with held(server):
            socket.send(frame(1, image()))
            assert until(lambda: server.service.workers.all[0].n_waiting == 1)
            server.service.workers.all[0].end()
            said = json.loads(socket.recv(PATIENCE_S))
        assert (said["type"], said["code"], said["fatal"]) == ("error", "reader_lost", False)
        assert ask(socket, frame(2, image()))["frame"] == 2
        assert server.http.post("/v1/predict", content=image()).status_code == 200


def test_commands_between_frames(server: Running) -> None:
    with server.stream() as socket:
        socket.send(json.dumps({"type": "neutral", "seconds": 2}))
        now_ms = 5000.0
        left = [
            ask(socket, frame(i, image(), captured_ms=now_ms + 500 * i))["neutral_left_s"] for i in range(6)
        ]
        assert left == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
        socket.send(json.dumps({"type": "reset"}))
        ready = ask(socket, {"type": "model", "name": "ferkit"})
        assert (ready["type"], ready["model"], len(ready["labels"])) == ("ready", "ferkit", 7)
        assert len(ask(socket, frame(7, image()))["faces"][0]["probabilities"]) == 7


def test_an_unknown_model_is_said_and_the_stream_goes_on(server: Running) -> None:
    with server.stream() as socket:
        for name in ("nobody", "../tiny", 5, None):
            said = ask(socket, {"type": "model", "name": name})
            assert (said["type"], said["code"], said["fatal"]) == ("error", "no_model", False)
        assert ask(socket, frame(0, image()))["type"] == "result"


def test_a_image_that_cannot_be_read_is_said_and_the_stream_goes_on(server: Running) -> None:
    with server.stream() as socket:
        said = ask(socket, frame(0, image()[:300]))
        assert (said["type"], said["code"], said["fatal"]) == ("error", "damaged", False)
        assert ask(socket, frame(1, image()))["type"] == "result"


def test_many_images_that_cannot_be_read_end_it(server: Running) -> None:
    with server.stream() as socket:
        for number in range(20):
            said = ask(socket, frame(number, image()[:300]))
        assert said["fatal"]
        assert close_code(socket) == 4422


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", 4400),
        (b"\x00" * 12, 4400),
        (frame(0, image(), captured_ms=float("nan")), 4400),
        (frame(0, b"%PDF-1.7" + bytes(100)), 4415),
        (frame(0, image(kind="GIF")), 4415),
        (frame(0, image(size_wh=(4000, 1001))), 4413),
        (frame(0, image() + bytes(2_000_100 - len(image()))), 4413),
        (frame(0, image() + bytes(7_000_000)), 4413),
        ("{", 4400),
        ("[" * 4000, 4400),
        ("7", 4400),
        ('{"type": "shutdown"}', 4400),
        ('{"type": "neutral", "seconds": 1e9}', 4400),
        ('{"type": "neutral", "seconds": NaN}', 4400),
        ('{"type": "neutral", "seconds": "5"}', 4400),
        ("x" * 5000, 4400),
    ],
)
def test_malformed_messages_end_it(server: Running, message: bytes | str, code: int) -> None:
    with server.stream() as socket:
        socket.send(message)
        assert close_code(socket) == code


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ('{"type": "start"}', 4400),
        ('{"type": "start", "purpose": "hiring"}', 4403),
        ('{"type": "start", "purpose": "fun"}', 4400),
        ('{"type": "start", "purpose": "art", "model": "nobody"}', 4404),
        ('{"type": "start", "purpose": "art", "fps": 1e9}', 4400),
        ('{"type": "start", "purpose": ["art"]}', 4400),
        ('{"type": "begin"}', 4400),
        ("hello", 4400),
        (b"\x00\x01", 4400),
    ],
)
def test_a_start_that_is_refused(server: Running, start: bytes | str, code: int) -> None:
    with connect(server.stream_url) as socket:
        said = ask(socket, start)
        assert (said["type"], said["fatal"]) == ("error", True)
        assert said["message"]
        assert close_code(socket) == code


@pytest.mark.parametrize("ms", ["1", None, [], float("nan"), float("inf"), 10**400, {}])
@pytest.mark.parametrize("key", ["from_ms", "until_ms"])
def test_times_that_are_none_are_refused(key: str, ms: object) -> None:
    with pytest.raises(ApiError, match="numbers"):
        parse_collect({"label": "a", "take": "1", key: ms}, None)


def test_silence_ends_a_stream(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferkit.serving.stream.START_S", 0.3)
    with running(models_dir, idle_s=0.3) as server:
        with connect(server.stream_url) as socket:
            assert close_code(socket) == 4408
        with server.stream() as socket:
            assert close_code(socket) == 4408
        assert until(lambda: server.metric("ferkit_streams") == 0)


def test_more_frames_than_anybody_needs_end_it(models_dir: Path) -> None:
    with running(models_dir, max_fps=5) as server, server.stream() as socket:
        with contextlib.suppress(ConnectionClosed):
            for number in range(1000):
                socket.send(frame(number, image()))
        assert close_code(socket) == 4429


def test_more_streams_than_there_may_be(models_dir: Path) -> None:
    with running(models_dir, max_streams=4) as server:
        with server.stream(), server.stream(), connect(server.stream_url) as third:
            said = json.loads(third.recv(PATIENCE_S))
            assert (said["code"], said["fatal"]) == ("too_many", True)
            assert close_code(third) == 4429
        assert until(lambda: not server.service.streams)
        with server.stream() as again:
            assert ask(again, frame(0, image()))["type"] == "result"


def test_the_clock_never_runs_backwards_whatever_a_client_says() -> None:
    clock, now_s = _StreamClock(), time.perf_counter()
    captured = [1e12, 1e12 + 100, 1e12 - 1e9, -1e300, 1e300, 1e300, 0.0, 40.0]
    frames = [StreamFrame(i, ms, b"", now_s + 0.1 * i) for i, ms in enumerate(captured)]
    times_s = [clock.at(frame) for frame in frames]
    assert times_s == sorted(times_s)
    assert times_s[1] == pytest.approx(0.1)
    assert times_s[-1] - times_s[-2] == pytest.approx(0.04)
    assert times_s[-1] < 1


def _fails(*_: object) -> None:
    raise AttributeError("a fault of our own")


def test_a_fault_of_the_server_ends_one_stream_and_is_found_in_the_log(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(models_dir, log_dir=tmp_path) as server:
        with server.stream() as socket:
            monkeypatch.setattr("ferkit.serving.stream.read_frame", _fails)
            said = ask(socket, frame(0, image()))
            assert (said["code"], said["fatal"]) == ("fault", True)
            assert close_code(socket) == 4500
        monkeypatch.setattr("ferkit.serving.predict.classify_crops", _fails)
        failed = server.http.post("/v1/predict", content=image())
        assert failed.status_code == 500
        assert "Content-Security-Policy" in failed.headers
    (log,) = tmp_path.iterdir()
    faults = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "fault"]
    assert len(faults) == 2
    for fault, told in zip(faults, (said, failed.json()), strict=True):
        assert fault["incident"] in told["message"]
        assert "AttributeError" in fault["error"]
        assert "AttributeError" not in told["message"]
