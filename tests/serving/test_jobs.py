import asyncio
import csv
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from click.testing import CliRunner
from PIL import Image

from ferkit.cli.main import main
from ferkit.inference.sources import VideoSource
from ferkit.serving.jobs import JobQueue
from ferkit.serving.monitoring import Metrics
from ferkit.serving.settings import Limits
from tests.inference.squares import moving_squares, write_video
from tests.serving.running import Running, running, until


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", moving_squares(50)).read_bytes()


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    frames = moving_squares(50) * 12
    return write_video(tmp_path_factory.mktemp("films") / "long.mp4", frames).read_bytes()


def finished(server: Running, link: str, timeout_s: float = 240) -> dict:
    found: dict = {}

    def ended() -> bool:
        found.update(server.http.get(link).json())
        return found["status"] in ("done", "failed", "cancelled")

    assert until(ended, timeout_s), found
    return found


def test_a_video_becomes_a_table_a_timeline_and_an_annotated_video(
    server: Running, video: bytes, tmp_path: Path
) -> None:
    files = {"file": ("my holidays.mp4", video, "video/mp4")}
    started = server.http.post("/v1/video", params={"every": 0.5, "language": "ko"}, files=files)
    assert started.status_code == 202
    job = started.json()
    assert job["status"] in ("queued", "running")
    assert len(job["id"]) >= 20
    job = finished(server, job["links"]["self"])
    assert (job["status"], job["progress"], job["reason"]) == ("done", 1.0, None)
    links = job["links"]
    assert set(links) == {"self", "result.json", "faces.csv", "timeline.png", "annotated.mp4"}
    result = server.http.get(links["result.json"]).json()
    rows = list(csv.DictReader(io.StringIO(server.http.get(links["faces.csv"]).text)))
    assert len(result["faces"]) == len(rows) == result["n_frames"] == 4
    assert [face["label"] for face in result["faces"]] == [row["label"] for row in rows]
    assert result["labels"] == ["happy", "neutral", "sad"]
    assert result["summary"]["n_readings"] == 4
    timeline = Image.open(io.BytesIO(server.http.get(links["timeline.png"]).content))
    assert timeline.width > 600
    part = server.http.get(links["annotated.mp4"], headers={"Range": "bytes=0-99"})
    assert (part.status_code, len(part.content)) == (206, 100)
    drawn = tmp_path / "drawn.mp4"
    drawn.write_bytes(server.http.get(links["annotated.mp4"]).content)
    assert VideoSource(drawn).size_wh == (320, 240)
    assert len(list(VideoSource(drawn))) == 50
    # The video itself is gone as soon as it has been read.
    folder = server.service.jobs.get(job["id"]).folder
    assert not [path for path in folder.iterdir() if path.name.startswith(("film", "upload"))]
    assert server.http.delete(links["self"]).status_code == 204
    assert server.http.get(links["self"]).status_code == 404
    assert not folder.exists()


def test_the_video_as_the_body_without_a_copy(server: Running, video: bytes) -> None:
    asked = {"every": 0.2, "annotated": False, "model": "ferkit"}
    job = server.http.post("/v1/video", params=asked, content=video).json()
    job = finished(server, job["links"]["self"])
    assert job["status"] == "done"
    assert "annotated.mp4" not in job["links"]
    result = server.http.get(job["links"]["result.json"]).json()
    assert (result["model"], result["n_frames"]) == ("ferkit", 10)
    assert server.http.get(f"{job['links']['self']}/annotated.mp4").status_code == 404
    assert server.http.get(f"{job['links']['self']}/job.json").status_code == 404
    assert server.http.get(f"{job['links']['self']}/..%2f..%2fjob.json").status_code == 404
    server.http.delete(job["links"]["self"])


@pytest.mark.parametrize(
    ("kind", "codec", "pixels"), [("gif", "gif", "rgb8"), ("mpegts", "mpeg2video", "yuv420p")]
)
def test_what_the_command_reads_the_server_reads(server: Running, kind: str, codec: str, pixels: str) -> None:
    content = io.BytesIO()
    with av.open(content, "w", format=kind) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, pixels
        for rgb in moving_squares(25):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixels)))
        out.mux(stream.encode(None))
    asked = {"every": 0.2, "annotated": False}
    job = server.http.post("/v1/video", params=asked, content=content.getvalue()).json()
    job = finished(server, job["links"]["self"])
    assert job["status"] == "done", job
    assert server.http.get(job["links"]["result.json"]).json()["n_frames"] == 5
    server.http.delete(job["links"]["self"])


def test_without_the_extra_a_video_is_refused_before_it_is_sent(
    server: Running, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.service, "reads_videos", False)
    refused = server.http.post("/v1/video", content=video)
    assert (refused.status_code, refused.json()["code"]) == (501, "no_video")
    assert "ferkit[video]" in refused.json()["message"]
    assert not server.service.jobs._jobs


def test_without_the_extra_the_command_says_so_at_its_start(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferkit.serving.routes.find_spec", lambda name: None)
    monkeypatch.setattr("ferkit.serving.routes.Workers.warm_up", lambda self, choice: None)
    monkeypatch.setattr("ferkit.serving.app.run_server", lambda app, settings: None)
    result = CliRunner().invoke(main, ["serve", "tiny", "--models-dir", str(models_dir)])
    assert result.exit_code == 0, result.output
    assert "videos are not taken" in result.stderr
    assert "ferkit[video]" in result.stderr


def test_a_video_that_is_read_or_waits_can_be_stopped(server: Running, long_video: bytes) -> None:
    first, second = (
        server.http.post("/v1/video", params={"every": 0}, content=long_video).json() for _ in "ab"
    )
    running_now = first["links"]["self"]
    assert until(lambda: server.http.get(running_now).json()["progress"] > 0, 120)
    assert server.http.get(second["links"]["self"]).json()["status"] == "queued"
    began_s = time.monotonic()
    for job in (first, second):
        assert server.http.delete(job["links"]["self"]).status_code == 204
        assert server.http.get(job["links"]["self"]).status_code == 404
    assert time.monotonic() - began_s < 5
    assert server.metric("ferkit_jobs", status="running") == 0


@pytest.mark.parametrize("limit", [{"max_duration_s": 1.0}, {"max_film_pixels": 10_000}])
def test_videos_that_are_too_long_or_large_fail_at_once(models_dir: Path, video: bytes, limit: dict) -> None:
    with running(models_dir, **limit) as server:
        job = finished(server, server.http.post("/v1/video", content=video).json()["links"]["self"])
        assert job["status"] == "failed"
        assert "at most" in job["reason"]


def test_too_many_videos_and_too_large_ones_are_refused(models_dir: Path, long_video: bytes) -> None:
    with running(models_dir, max_jobs=2, max_film_bytes=len(long_video)) as server:
        assert server.http.post("/v1/video", content=long_video).status_code == 202
        busy = server.http.post("/v1/video", content=long_video)
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "30")
        assert server.http.post("/v1/video", content=long_video + b"x").status_code == 413


def test_results_go_when_their_time_is_over_and_with_the_server(models_dir: Path, video: bytes) -> None:
    with running(models_dir, job_ttl_s=1.0) as server:
        link = server.http.post("/v1/video", params={"annotated": False}, content=video).json()["links"][
            "self"
        ]
        folder = next(iter(server.service.jobs._jobs.values())).folder
        finished(server, link)
        assert until(lambda: server.http.get(link).status_code == 404)
        assert not folder.exists()
        server.http.post("/v1/video", params={"every": 0}, content=video)
        root = folder.parent
        assert root.exists()
    assert not root.exists()


@pytest.fixture
def left() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ferkit-jobs-"))
    (folder / "film.mp4").write_bytes(b"x")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def _open_and_close() -> None:
    board = JobQueue(Limits(), Metrics())
    await board.open()
    await board.close()


def test_what_a_killed_server_left_goes_with_the_next_start(left: Path) -> None:
    asyncio.run(_open_and_close())
    assert left.exists()  # it is new: another server may just be starting
    hour_ago = time.time() - 3600
    os.utime(left, (hour_ago, hour_ago))
    asyncio.run(_open_and_close())
    assert not left.exists()


def test_a_reader_that_breaks_down_takes_nothing_with_it(
    server: Running, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferkit.serving.jobs.sys", type("S", (), {"executable": "/bin/false"}))
    job = finished(server, server.http.post("/v1/video", content=video).json()["links"]["self"])
    assert job["status"] == "failed"
    assert "broke down" in job["reason"]
    assert server.http.get("/health").status_code == 200
