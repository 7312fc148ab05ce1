"""Teaching by the API: collect by upload and stream, mend, save, and what is refused."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import ferkit
from tests.serving.drawn_people import drawn_frames
from tests.serving.running import PATIENCE_S, TOKEN, Running, frame, running, until

LEVELS = {"밤": 40, "day": 220}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("teach") / "models"
    with running(folder, model="ferkit2", max_examples=60, max_teach_sessions=6, idle_s=2.0) as found:
        yield found


def noisy(level: int, seed: int) -> bytes:
    """Dark images lie in rows, bright ones in columns: the network looks at shapes, not at brightness."""
    stripes = np.repeat(np.arange(5) % 2 * 60, 8)[:, None, None] + np.zeros((40, 40, 1))
    shape = stripes if level < 128 else stripes.transpose(1, 0, 2)
    pixels = np.random.default_rng([level, seed]).normal(0, 12, (40, 40, 3)) + shape + level - 30
    content = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def begin(server: Running, *labels: str, **more: Any) -> str:
    answer = server.http.post("/v1/teach", json={"labels": list(labels), **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def add(server: Running, id: str, label: str, images: list[bytes], **query: Any) -> dict[str, Any]:
    files = [("images", (f"{i}.png", content, "image/png")) for i, content in enumerate(images)]
    answer = server.http.post(f"/v1/teach/{id}/examples", params={"label": label, **query}, files=files)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def change(server: Running, id: str, **what: Any) -> dict[str, Any]:
    answer = server.http.post(f"/v1/teach/{id}/changes", json=what)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def settled(server: Running, id: str) -> dict[str, Any]:
    def state() -> dict[str, Any]:
        return dict(server.http.get(f"/v1/teach/{id}").json())

    assert until(lambda: not state()["pending"], 200)
    return state()


def test_a_session_from_the_first_example_to_the_saved_model(server: Running, tmp_path: Path):
    id = begin(server, *LEVELS)
    assert settled(server, id)["report"]["missing"][0] == {"code": "example", "label": "밤", "count": 0}
    for label, level in LEVELS.items():
        for take in range(3):
            found = add(
                server, id, label, [noisy(level, 10 * take + i) for i in range(2)], take=f"{label}{take}"
            )
            assert [one["label"] for one in found["added"]] == [label] * 2
            assert base64.b64decode(found["added"][0]["jpeg"]).startswith(b"\xff\xd8")
    state = settled(server, id)
    assert state["counts"] == {"밤": 6, "day": 6}
    assert state["report"]["accuracy"]["low"] < state["report"]["accuracy"]["value"]
    assert state["report"]["n_units"] == 6

    # A wrong example is named, moved, and the class renamed; undo takes that back.
    wrong = add(server, id, "day", [noisy(40, 99)], take="wrong")["added"][0]["id"]
    assert settled(server, id)["report"]["disagreements"][0]["id"] == wrong
    assert change(server, id, do="move", ids=[wrong], to="밤")["counts"] == {"밤": 7, "day": 6}
    assert change(server, id, do="rename", label="day", to="낮")["labels"] == ["밤", "낮"]
    assert change(server, id, do="undo")["labels"] == ["밤", "day"]
    assert change(server, id, do="remove_take", take="wrong")["counts"] == {"밤": 6, "day": 6}

    saved = server.http.post(f"/v1/teach/{id}/save", json={"name": "빛"})
    assert saved.json() == {"model": "빛"}, saved.text
    model = ferkit.load_model(server.service.settings.models_dir / "빛")
    assert model.labels.names == ("day", "밤")
    assert server.service.catalog.default == "ferkit2"
    shown = server.http.post(
        "/v1/predict", params={"model": "빛"}, files=[("images", ("x.png", noisy(220, 7)))]
    )
    assert shown.json()["images"][0]["faces"][0]["label"] == "day"
    again = server.http.post(f"/v1/teach/{id}/save", json={"name": "빛"})
    assert again.json()["code"] == "name_taken"
    assert server.http.post(f"/v1/teach/{id}/save", json={"name": "빛", "overwrite": True}).status_code == 200

    packed = server.http.get(f"/v1/teach/{id}/zip")
    with zipfile.ZipFile(io.BytesIO(packed.content)) as file:
        assert sum(name.startswith("images/") for name in file.namelist()) == 12

    other = begin(server, "dusk", model="빛")
    assert server.http.get(f"/v1/teach/{other}").json()["counts"] == {"day": 6, "밤": 6, "dusk": 0}
    for one in (id, other):
        assert server.http.delete(f"/v1/teach/{one}").status_code == 204
        assert server.http.get(f"/v1/teach/{one}").json()["code"] == "no_teacher"


def test_a_stream_collects_and_shows_what_was_learnt_at_once(server: Running):
    id = begin(server, *LEVELS)
    number = iter(range(1000))

    def read(stream: Any, level: int, at_ms: float) -> dict[str, Any]:
        stream.send(frame(next(number), noisy(level, next(number)), at_ms))
        while (answer := json.loads(stream.recv(PATIENCE_S)))["type"] != "result":
            assert answer["type"] == "ready"
        return dict(answer)

    with server.stream(teach=id) as stream:
        assert read(stream, 40, 1.0)["taught"]["status"] == "idle"
        at_ms = 1000.0
        for label, level in LEVELS.items():
            stream.send(json.dumps({"type": "collect", "label": label, "take": label, "from_ms": at_ms}))
            assert (
                read(stream, level, at_ms - 50)["taught"]["status"] == "idle"
            )  # taken before the button was pressed
            for i in range(3):
                found = read(stream, level, at_ms + 200 * i)["taught"]
                assert (found["status"], len(found["added"])) == ("added", 1)
            stream.send(json.dumps({"type": "collect", "until_ms": at_ms + 700}))
            assert read(stream, level, at_ms + 700)["taught"]["status"] == "added"  # was on its way
            assert read(stream, level, at_ms + 900)["taught"]["status"] == "idle"
            at_ms += 2000
        assert until(lambda: server.http.get(f"/v1/teach/{id}").json()["fitted"])
        face = read(stream, 220, at_ms)["faces"][0]
        assert int(np.argmax(face["raw"])) == 1
        change(server, id, do="add_label", label="dusk")
        assert len(read(stream, 220, at_ms + 200)["faces"][0]["raw"]) == 3
        # The page is closed in mid-burst.
        stream.send(json.dumps({"type": "collect", "label": "dusk", "take": "cut", "from_ms": 0}))
        read(stream, 130, at_ms + 400)
    state = settled(server, id)
    assert state["counts"] == {"밤": 4, "day": 4, "dusk": 1}
    server.http.delete(f"/v1/teach/{id}")


def test_a_stream_of_a_session_that_is_gone_ends(server: Running):
    id = begin(server, *LEVELS)
    with server.stream(teach=id) as stream:
        server.http.delete(f"/v1/teach/{id}")  # as after a restart of the server
        stream.send(frame(1, noisy(40, 1)))
        assert json.loads(stream.recv(PATIENCE_S))["code"] == "no_teacher"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"labels": ["a", "unsure"]}, "bad_example"),
        ({"labels": ["a" * 41]}, "bad_example"),
        ({"labels": ["a\u202eb"]}, "bad_example"),
        ({"labels": [str(i) for i in range(21)]}, "invalid"),
        ({"labels": "a"}, "invalid"),
        ({"model": "../../etc"}, "no_model"),
        ({"more": 1}, "invalid"),
    ],
)
def test_beginnings_that_are_refused(server: Running, body: dict[str, Any], code: str):
    assert server.http.post("/v1/teach", json=body).json()["code"] == code
    assert len(server.service.teaching) == 0


def test_changes_and_names_that_are_refused(server: Running):
    id = begin(server, "a", "b")
    for what in ({"do": "rename", "label": "a", "to": "b"}, {"do": "rename", "label": "x", "to": "c"},
                 {"do": "move", "ids": [1], "to": "x"}, {"do": "add_label", "label": "\n"}):  # fmt: skip
        assert server.http.post(f"/v1/teach/{id}/changes", json=what).json()["code"] == "bad_example"
    assert server.http.post(f"/v1/teach/{id}/save", json={"name": "ok"}).json()["code"] == "nothing_taught"
    for name in ("../x", "ferkit", "CON", "", "a/b", "a" * 64):
        assert server.http.post(f"/v1/teach/{id}/save", json={"name": name}).json()["code"] == "bad_name"
    assert server.http.get(f"/v1/teach/{id}/zip").json()["code"] == "nothing_taught"
    assert not list(server.service.settings.models_dir.glob("ok*"))
    server.http.delete(f"/v1/teach/{id}")


def test_purposes_tokens_and_quotas_hold(server: Running, tmp_path: Path):
    assert (
        server.http.post("/v1/teach", params={"purpose": "hiring"}, json={}).json()["code"]
        == "prohibited_purpose"
    )
    ids = [begin(server, "a", "b") for _ in range(3)]
    assert server.http.post("/v1/teach", json={}).json()["code"] == "too_many"  # half of all for one client
    add(server, ids[0], "a", [noisy(90, i) for i in range(10)])
    for take in range(5):
        add(server, ids[0], "b", [noisy(120 + take, i) for i in range(10)], take=str(take))
    full = add(server, ids[0], "a", [noisy(91, 1)])
    assert full["added"] == []
    assert "at most 60 examples" in full["refused"][0]["message"]
    for id in ids:
        server.http.delete(f"/v1/teach/{id}")
    with running(tmp_path / "models", model="ferkit2", token=TOKEN, teach_ttl_s=1.0) as guarded:
        assert guarded.http.post("/v1/teach", json={}).status_code == 401
        guarded.http.headers["Authorization"] = f"Bearer {TOKEN}"
        begin(guarded, "a", "b")
        assert until(lambda: len(guarded.service.teaching) == 0)  # nobody used it


def test_one_face_is_wanted_or_said_which(tmp_path: Path):
    whole = next(drawn_frames(1, drawn_px=120))
    several, empty = (cv2.imencode(".png", image)[1].tobytes() for image in (whole[..., ::-1], 0 * whole))
    with running(tmp_path / "models", model="ferkit2", detector="haar") as server:
        id = begin(server, "a", "b")
        refused = add(server, id, "a", [several, empty])["refused"]
        assert [one["code"] for one in refused] == ["several_faces", "no_face"]
        assert len(add(server, id, "a", [several], face=2)["added"]) == 1
        with server.stream(teach=id) as stream:
            stream.send(json.dumps({"type": "collect", "label": "b", "take": "1", "from_ms": 0}))
            seen: list[dict[str, Any]] = []

            def answer(content: bytes) -> dict[str, Any]:
                stream.send(frame(len(seen), content, 100.0 * len(seen)))
                seen.append(json.loads(stream.recv(PATIENCE_S)))
                return seen[-1]

            assert until(lambda: answer(several)["taught"]["status"] == "several")
            faces = seen[-1]["faces"]
            command = {"type": "collect", "label": "b", "take": "1", "from_ms": 0, "face": faces[1]["id"]}
            stream.send(json.dumps(command))
            assert until(lambda: answer(several)["taught"]["status"] in ("added", "same"))
            assert until(lambda: answer(empty)["taught"]["status"] == "nobody")
