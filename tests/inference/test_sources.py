import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ferkit.core.errors import DataError
from ferkit.inference import sources
from ferkit.inference.sources import Capture, ImageFrames, LiveSource, VideoSource, to_rgb
from tests.inference.squares import frame_with, moving_squares, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("films") / "영화.mp4", moving_squares(50))


def test_a_video_gives_every_frame_in_order(video: Path) -> None:
    frames = list(VideoSource(video))
    assert [frame.index for frame in frames] == list(range(50))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 25 for i in range(50)], abs=0.002)
    assert frames[0].rgb.shape == (240, 320, 3)
    assert frames[0].rgb[50, 40].mean() > 180  # the bright square


def test_a_frame_every_so_often_from_anywhere(video: Path) -> None:
    assert [frame.index for frame in VideoSource(video, every_s=0.5)] == [0, 13, 25, 38]
    assert [frame.index for frame in VideoSource(video, every_s=0.5, start_index=14)] == [25, 38]
    assert [frame.index for frame in VideoSource(video, every_s=0.01)] == list(range(50))


def test_leaving_early_stops_the_reader(video: Path) -> None:
    before = threading.active_count()
    for frame in VideoSource(video):
        if frame.index == 3:
            break
    deadline = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_a_video_that_breaks_off_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg to make a video that can break off")
    whole = tmp_path / "whole.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (50, 120, 160, 3), np.uint8)
    source = write_video(tmp_path / "noise.mp4", list(noise))
    fast = ["-movflags", "+faststart"]
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", source, "-c", "copy", *fast, whole], check=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    video = VideoSource(cut)
    n = sum(1 for _ in video)
    assert 5 < n < 45
    assert video.broken_at_s == pytest.approx((n - 1) / 25, abs=0.2)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "found nothing"), (b"", "is empty"), (b"no video" * 99, "damaged, cut off")]
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        VideoSource(path)


def test_a_video_without_its_index_is_refused(video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged, cut off"):
        VideoSource(cut)


def test_variable_frame_rate_keeps_its_own_times(video: Path, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg to make a video of variable frame rate")
    out = tmp_path / "variable.mp4"
    keep = "select='lt(n,10)+gte(n,40)'"  # one second is missing in the middle
    command = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-i",
        video,
        "-vf",
        keep,
        "-fps_mode",
        "vfr",
        "-c:v",
        "mpeg4",
        out,
    ]
    subprocess.run(command, check=True)
    times = [frame.timestamp_s for frame in VideoSource(out)]
    assert len(times) == 20
    assert times[9] == pytest.approx(9 / 25, abs=0.01)
    assert times[10] == pytest.approx(40 / 25, abs=0.01)


@pytest.mark.parametrize(
    "frame",
    [np.full((4, 6), 90, np.uint8), np.full((4, 6, 1), 90, np.uint8), np.full((4, 6, 4), 90, np.uint8),
     np.full((4, 6), 90 * 257, np.uint16), np.full((4, 6, 3), 90, np.uint8)],
)  # fmt: skip
def test_every_pixel_format_becomes_rgb(frame: np.ndarray) -> None:
    rgb = to_rgb(frame)
    assert (rgb.shape, rgb.dtype) == ((4, 6, 3), np.uint8)
    assert (rgb == 90).all()


def test_images_of_a_folder_are_a_video(tmp_path: Path) -> None:
    for name, level in (("b.png", 20), ("a.png", 10)):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(tmp_path / name)
    (tmp_path / "c.png").write_text("broken")
    frames = list(ImageFrames(tmp_path, fps=4))
    assert [(frame.timestamp_s, int(frame.rgb[0, 0, 0])) for frame in frames] == [(0, 10), (0.25, 20)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found none"):
        ImageFrames(tmp_path / "empty")


def test_a_live_file_plays_at_its_own_speed_and_slow_work_skips_frames(video: Path) -> None:
    began = time.monotonic()
    seen = []
    for frame in LiveSource(str(video)):
        seen.append(frame.timestamp_s)
        time.sleep(0.2)
    assert time.monotonic() - began == pytest.approx(2.1, abs=0.6)
    assert 6 <= len(seen) <= 14
    assert seen == sorted(seen)


class FlakyStream:
    """Stands for a camera that gives five frames and is gone; the third time it stays."""

    opened = 0

    def __init__(self) -> None:
        type(self).opened += 1
        self.n = 0

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, prop: int) -> float:
        return 0.0

    def grab(self) -> bool:
        time.sleep(0.01)
        self.n += 1
        return self.n <= 5 or self.opened >= 3

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((8, 8, 3), self.opened, np.uint8)

    def release(self) -> None:
        pass


def test_a_camera_that_disappears_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    FlakyStream.opened = 0
    monkeypatch.setattr(Capture, "of", staticmethod(lambda *_: Capture(FlakyStream())))  # type: ignore[arg-type]
    source = LiveSource("0")
    levels, problems = [], set()
    for frame in source.frames():
        problems.add(source.problem)
        if frame is not None:
            levels.append(int(frame.rgb[0, 0, 0]))
            if levels[-1] == 3:
                break
    assert sorted(set(levels)) == [1, 2, 3]
    assert "camera 0 is gone; trying to reach it again" in problems


def test_no_camera_says_what_to_do() -> None:
    if Path("/dev/video9").exists():
        pytest.skip("this machine has ten cameras")
    with pytest.raises(DataError, match="camera 9 cannot be opened"):
        next(iter(LiveSource("9")))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/stream"


def test_an_address_that_hangs_ends_in_time(silent_server: str) -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=r"no video from|did not answer"):
        next(iter(LiveSource(silent_server, timeout_s=1.0)))
    assert time.monotonic() - began < 8


def test_large_frames_pass(tmp_path: Path) -> None:
    video = write_video(tmp_path / "4k.mp4", [frame_with((1000, 900, 200), size_wh=(3840, 2160))] * 2)
    assert [frame.rgb.shape for frame in VideoSource(video)] == [(2160, 3840, 3)] * 2
    assert cv2.mean(sources.resize_to_fit(next(iter(VideoSource(video))).rgb, 640))[0] < 5
