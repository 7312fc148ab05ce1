import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.inference.live import LiveSource, to_rgb
from ferkit.inference.sources import Frame, VideoSource
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


@pytest.mark.parametrize(
    ("content", "words"), [(None, "found nothing"), (b"", "is empty"), (b"no video" * 99, "damaged, cut off")]
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        VideoSource(path)


def test_a_video_that_may_not_be_read_or_is_no_file_is_called_so(unprivileged: Path, video: Path) -> None:
    locked = unprivileged / "locked.mp4"
    locked.write_bytes(b"0" * 99)
    locked.chmod(0)
    os.mkfifo(unprivileged / "pipe.mp4")
    for name, words in (
        ("locked.mp4", "cannot be opened: Permission denied"),
        ("pipe.mp4", "found no regular file"),
    ):
        with pytest.raises(DataError, match=words):
            VideoSource(unprivileged / name)


def test_a_video_without_its_index_is_refused(video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged, cut off"):
        VideoSource(cut)


@pytest.mark.parametrize(
    "frame",
    [np.full((4, 6), 90, np.uint8), np.full((4, 6, 1), 90, np.uint8), np.full((4, 6, 4), 90, np.uint8),
     np.full((4, 6), 90 * 257, np.uint16), np.full((4, 6, 3), 90, np.uint8)],
)  # fmt: skip
def test_every_pixel_format_becomes_rgb(frame: np.ndarray) -> None:
    rgb = to_rgb(frame)
    assert (rgb.shape, rgb.dtype) == ((4, 6, 3), np.uint8)
    assert (rgb == 90).all()


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

    def set(self, prop: int, value: float) -> bool:
        return True

    def grab(self) -> bool:
        time.sleep(0.01)
        self.n += 1
        return self.n <= 5 or self.opened >= 3

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((8, 8, 3), self.opened, np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("spec", ["0", "/dev/video0", "/dev/v4l/by-id/usb-a-camera"])
def test_a_camera_that_disappears_is_waited_for(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FlakyStream.opened = 0
    asked: list[object] = []

    def open_it(what: object) -> FlakyStream:
        asked.append(what)
        return FlakyStream()

    monkeypatch.setattr("cv2.VideoCapture", open_it)
    source = LiveSource(spec)
    first: dict[int, Frame] = {}
    problems = set()
    for frame in source.frames():
        problems.add(source.problem)
        if frame is not None:
            first.setdefault(int(frame.rgb[0, 0, 0]), frame)
            if 3 in first:
                break
    assert [(level, frame.cut) for level, frame in first.items()] == [(1, False), (2, True), (3, True)]
    assert f"camera {spec} is gone; trying to reach it again" in problems
    assert asked == [0 if spec == "0" else os.path.realpath(spec)] * 3


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
