import errno
import tempfile
import threading
from pathlib import Path

import httpx
import pytest

from tests.serving.running import Running, held, image, running, until


def test_a_image_as_the_body(server: Running) -> None:
    answer = server.http.post("/v1/predict", content=image(225)).json()
    assert answer["model"] == "tiny"
    assert answer["labels"] == ["happy", "neutral", "sad"]
    (found,) = answer["images"]
    assert (found["width"], found["height"], found["error"]) == (64, 48, None)
    (face,) = found["faces"]
    assert face["box"] == [0, 0, 64, 48]
    assert face["label"] == "happy"
    assert face["confidence"] == max(face["probabilities"].values())
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_several_images_in_a_form_in_their_order_each_with_its_own_error(server: Running) -> None:
    files = [
        ("images", ("dark.png", image(30, kind="PNG"), "image/png")),
        ("images", ("notes.txt", b"no image", "text/plain")),
        ("images", ("bright.webp", image(225, kind="WEBP"), "image/webp")),
        ("images", ("cut.jpg", image()[:200], "image/jpeg")),
    ]
    answer = server.http.post("/v1/predict", files=files)
    assert answer.status_code == 200
    dark, notes, bright, cut = answer.json()["images"]
    assert [image_["name"] for image_ in (dark, notes, bright, cut)] == [name for _, (name, _, _) in files]
    assert dark["faces"][0]["label"] == "sad"
    assert bright["faces"][0]["label"] == "happy"
    assert notes["faces"] == cut["faces"] == []
    assert "Expected a JPEG" in notes["error"]
    assert "cannot be read" in cut["error"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "no_picture"),
        (b"%!PS-Adobe-3.0", 415, "unknown_kind"),
        (b"\xff\xd8\xff" + bytes(100), 422, "damaged"),
        (bytes(10_000_001), 413, "too_large"),
    ],
)
def test_where_nothing_can_be_read_the_status_says_why(
    server: Running, content: bytes, status: int, code: str
) -> None:
    answer = server.http.post("/v1/predict", content=content)
    assert answer.status_code == status
    assert answer.json()["code"] == code


def test_a_form_without_images(server: Running) -> None:
    answer = server.http.post("/v1/predict", files={"pictures": ("a.jpg", image())})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_picture")
    files = [("images", (f"{i}.jpg", image())) for i in range(17)]
    assert server.http.post("/v1/predict", files=files).status_code == 400


def test_images_stay_in_memory(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    large = image(225, (900, 900), "BMP")
    answer = server.http.post("/v1/predict", files={"images": ("large.bmp", large)})
    assert (answer.status_code, len(large) > 1 << 20) == (200, True)


def test_models_are_chosen_by_name_and_never_by_path(server: Running, models_dir: Path) -> None:
    answer = server.http.post("/v1/predict", params={"model": "ferkit"}, content=image()).json()
    assert answer["model"] == "ferkit"
    assert "surprise" in answer["labels"]
    for name in ("nobody", str(models_dir / "tiny"), "../models/tiny", "tiny/"):
        refused = server.http.post("/v1/predict", params={"model": name}, content=image())
        assert (refused.status_code, refused.json()["code"]) == (404, "no_model")


def test_models_are_listed_with_names_and_colours(server: Running) -> None:
    answer = server.http.get("/v1/models").json()
    assert answer["default"] == "tiny"
    tiny = {model["name"]: model for model in answer["models"]}["tiny"]
    assert tiny["kind"] == "embedding"
    assert {label["name"]: label["ko"] for label in tiny["labels"]} == {
        "happy": "기쁨", "neutral": "중립", "sad": "슬픔"
    }  # fmt: skip
    assert all(label["color"][0] == "#" and len(label["color"]) == 7 for label in tiny["labels"])


def test_a_purpose_is_declared_by_query_or_header(server: Running) -> None:
    with httpx.Client(base_url=server.http.base_url) as http:
        missing = http.post("/v1/predict", content=image())
        assert (missing.status_code, missing.json()["code"]) == (400, "no_purpose")
        assert "X-Ferkit-Purpose" in missing.json()["message"]
        assert http.post("/v1/predict?purpose=fun", content=image()).status_code == 400
        headers = {"X-Ferkit-Purpose": "accessibility"}
        assert http.post("/v1/predict", content=image(), headers=headers).status_code == 200
        for purpose in ("hiring", "workplace", "education"):
            refused = http.post(f"/v1/predict?purpose={purpose}", content=image())
            assert refused.status_code == 403
            assert "Article 5(1)(f)" in refused.json()["message"]
            assert http.post(f"/v1/video?purpose={purpose}", content=b"x").status_code == 403


def test_whoever_runs_the_server_sets_a_default_and_allows(models_dir: Path) -> None:
    with running(models_dir, purpose="research", allow_purpose=("education",)) as server:
        answer = httpx.post(f"{server.http.base_url}/v1/predict", content=image())
        assert answer.status_code == 200
        allowed = server.http.post("/v1/predict", params={"purpose": "education"}, content=image())
        assert allowed.status_code == 200
        assert (
            server.http.post("/v1/predict", params={"purpose": "hiring"}, content=image()).status_code == 403
        )
        info = server.http.get("/v1/info").json()
        assert info["default_purpose"] == "research"
        by_id = {purpose["id"]: purpose for purpose in info["purposes"]}
        assert by_id["education"]["allowed"]
        assert not by_id["hiring"]["allowed"]
        assert "제5조" in by_id["hiring"]["reason_ko"]


def test_images_of_several_clients_are_read_together(models_dir: Path) -> None:
    with running(models_dir) as server:
        answers: list[str] = []

        def ask(level: int) -> None:
            found = server.http.post("/v1/predict", content=image(level)).json()
            answers.append(f"{level}{found['images'][0]['faces'][0]['label']}")

        threads = [threading.Thread(target=ask, args=(level,)) for level in (30, 128, 225, 30, 128, 225)]
        with held(server):
            for thread in threads:
                thread.start()
            assert until(lambda: server.service.predictor.n_waiting == len(threads))
        for thread in threads:
            thread.join()
        assert sorted(answers) == ["128neutral"] * 2 + ["225happy"] * 2 + ["30sad"] * 2
        assert server.metric("ferkit_batch_faces_sum") == 6
        assert server.metric("ferkit_batch_faces_count") < 6


def test_a_full_queue_says_when_to_come_again(models_dir: Path) -> None:
    with running(models_dir, max_waiting=1) as server, server.service.predictor.place():
        answer = server.http.post("/v1/predict", content=image())
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert answer.headers["Retry-After"] == "1"
