from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.core import style
from ferkit.core.labels import LabelSet
from ferkit.core.types import Faces
from ferkit.faces.drawing import TextPainter, label_colors
from ferkit.inference.engine import Engine, FrameResult
from ferkit.inference.live import ChangePrinter, LiveSettings, LiveSource, LiveView, for_view
from ferkit.inference.overlay import History, Overlay, Status
from ferkit.inference.smoothing import UNSURE
from ferkit.inference.sources import VideoSource
from tests.inference.brightness import LABELS
from tests.inference.squares import frame_with, moving_squares, new_engine, write_video


class KeyedView:
    """A window in which keys are pressed at given frames."""

    def __init__(self, keys: dict[int, str]) -> None:
        self.keys = keys
        self.frames: list[np.ndarray] = []
        self.closed = False

    def show(self, rgb: np.ndarray) -> None:
        self.frames.append(rgb.copy())

    def key(self) -> str | None:
        return self.keys.get(len(self.frames))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_video(tmp_path_factory.mktemp("films") / "film.mp4", moving_squares(40)))


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_video(tmp_path_factory.mktemp("films") / "long.mp4", moving_squares(40) * 20))


def watch(
    video: str, keys: dict[int, str], folder: Path, **settings: object
) -> tuple[LiveView, KeyedView, list[str]]:
    view, loaded = KeyedView(keys), []

    def load(name: str) -> Engine:
        loaded.append(name)
        return new_engine()

    live = LiveView(
        LiveSource(video),
        ["first", "second"],
        load,
        view,
        LiveSettings(folder=folder, **settings),  # type: ignore[arg-type]
    )
    live.run()
    return live, view, loaded


def test_keys_save_record_change_and_quit(
    long_video: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ferkit")
    keys = {3: "s", 5: "r", 12: "m", 14: "h", 18: "r", 20: "s", 22: "q"}
    _, view, loaded = watch(long_video, keys, tmp_path)
    assert len(view.frames) == 22
    assert view.closed
    assert loaded == ["first", "second"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "recording-1.mp4",
        "snapshot-1.jpg",
        "snapshot-2.jpg",
    ]
    assert len(list(VideoSource(tmp_path / "recording-1.mp4"))) >= 6
    assert [line.split(":")[0] for line in caplog.messages] == ["saved", "model", "recorded", "saved"]
    # The help in the middle of the image is there between 14 and the end.
    middle = (slice(200, 280), slice(200, 440))
    assert (view.frames[13][middle] != view.frames[16][middle]).mean() > 0.2


def test_the_view_goes_on_where_nothing_can_be_written(
    long_video: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ferkit")
    (tmp_path / "file").touch()
    _, view, _ = watch(long_video, {3: "s", 6: "r", 9: "q"}, tmp_path / "file")
    assert len(view.frames) == 9
    assert view.closed
    assert len([line for line in caplog.messages if str(tmp_path / "file") in line]) == 2


def test_it_ends_with_the_video_or_after_the_time_given(video: str, tmp_path: Path) -> None:
    live, _, _ = watch(video, {}, tmp_path)
    assert live.n_frames > 8
    live, _, _ = watch(video, {}, tmp_path, duration_s=0.5)
    assert 3 < live.n_frames <= 15


def test_small_frames_are_shown_larger(video: str, tmp_path: Path) -> None:
    _, view, _ = watch(video, {2: "q"}, tmp_path)
    assert view.frames[0].shape == (480, 640, 3)


def test_without_a_font_the_key_for_korean_says_so(
    video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ferkit")
    monkeypatch.setattr(style, "hangul_font_file", lambda: None)
    watch(video, {2: "l", 4: "q"}, tmp_path)
    assert "no font with Hangul" in caplog.messages[0]


@pytest.mark.skipif(style.hangul_font_file() is None, reason="no font with Hangul")
def test_all_that_the_window_says_is_korean(
    long_video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ferkit")
    drawn: set[str] = set()
    draw = TextPainter.draw

    def noted(self: TextPainter, rgb: np.ndarray, text: str, *rest: object) -> None:
        drawn.add(text)
        draw(self, rgb, text, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TextPainter, "draw", noted)
    watch(long_video, {2: "h", 4: "r", 8: "r", 10: "s", 14: "l", 18: "q"}, tmp_path, language="ko")
    assert {
        "q  끝내기",
        "r  녹화 시작 / 정지",
        "녹화 중",
        "녹화됨: recording-1.mp4",
        "저장됨: snapshot-1.jpg",
    } <= drawn
    assert {"h  this help", "saved: snapshot-1.jpg"} <= drawn  # after the key l
    assert "saved: " in caplog.messages[1]  # the log is English: it is translated at the border


def result_of(*faces: tuple[float, float, int], t: float = 0.0) -> FrameResult:
    n = len(faces)
    xyxy = np.array([(x, y, x + 60, y + 60) for x, y, _ in faces], np.float32).reshape(n, 4)
    proba = np.full((n, 3), 0.1, np.float32)
    for i, (_, _, label) in enumerate(faces):
        proba[i, label] = 0.8
    ids = np.arange(1, n + 1)
    label = np.array([label for _, _, label in faces], np.int64)
    return FrameResult(
        t, Faces(xyxy, np.ones(n, np.float32), None, ids), np.ones(n, np.float32), proba, proba, label
    )


def test_a_mirror_turns_the_image_and_its_faces_and_small_ones_are_enlarged() -> None:
    rgb, result = for_view(frame_with((20, 100, 200)), result_of((10, 90, 2)), mirror=True)
    assert rgb.shape == (480, 640, 3)
    assert result.faces.xyxy.tolist() == [[500, 180, 620, 300]]
    assert (rgb[210:270, 530:590] > 180).all()  # the bright square
    large = np.zeros((720, 1280, 3), np.uint8)
    same, _ = for_view(large, result_of(), mirror=False)
    assert same is large


@pytest.mark.parametrize("size_wh", [(64, 48), (320, 240), (3840, 2160), (90, 700)])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_any_size_and_any_number_of_faces_can_be_drawn(size_wh: tuple[int, int], language: str) -> None:
    overlay = Overlay(LabelSet.named("ferplus"), language)
    rng = np.random.default_rng(0)
    for n in (0, 1, 100):
        xyxy = rng.uniform(-50, max(size_wh), (n, 4)).astype(np.float32)
        xyxy[:, 2:] = xyxy[:, :2] + rng.uniform(2, 200, (n, 2))
        proba = rng.dirichlet(np.ones(8), n).astype(np.float32)
        faces = Faces(xyxy, np.ones(n, np.float32), None, np.arange(n))
        result = FrameResult(n / 10, faces, np.ones(n, np.float32), proba, proba, rng.integers(-1, 8, n))
        drawn = overlay.draw(
            np.zeros((size_wh[1], size_wh[0], 3), np.uint8), result, Status(fps=9.0, rest_s=2.1)
        )
        assert drawn.shape == (size_wh[1], size_wh[0], 3)
        assert drawn.any()


def test_history_shows_what_stood_when() -> None:
    history = History(seconds=10.0)
    for i in range(201):
        history.add(result_of((0, 0, 0 if i < 100 else 2), t=i / 10))
    columns = history.columns(1, 100)
    assert (columns == 2).all()
    for i in range(201, 251):
        history.add(result_of(t=i / 10))
    columns = history.columns(1, 100)
    assert (columns[:45] == 2).all()
    assert (columns[55:] == -2).all()
    assert (history.columns(9, 100) == -2).all()


def test_only_changes_are_printed() -> None:
    lines: list[tuple] = []
    printer = ChangePrinter(lambda *values: lines.append(values))
    for i, label in enumerate([0, 0, 2, 2, UNSURE]):
        printer(result_of((0, 0, label), t=float(i)), LABELS)
    printer(result_of(t=5.0), LABELS)
    printer(result_of((0, 0, 2), t=6.0), LABELS)
    assert [(t, track, name) for t, track, name, _ in lines] == [
        (0.0, 1, "sad"), (2.0, 1, "happy"), (4.0, 1, None), (6.0, 1, "happy"),
    ]  # fmt: skip


def test_a_label_that_another_one_outweighs_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr(TextPainter, "draw", lambda self, rgb, text, *more: texts.append(text))
    overlay = Overlay(LABELS, bars=False, history=False)
    result = result_of((40, 90, 2))
    overlay.draw(frame_with((40, 90, 200)), result, Status())
    result.proba[0] = [0.5, 0.1, 0.4]
    overlay.draw(frame_with((40, 90, 200)), result, Status())
    overlay.set_language("ko")
    overlay.draw(frame_with((40, 90, 200)), result, Status())
    assert texts[:2] == ["happy 80%", "happy 40% (held)"]
    assert texts[2].startswith("기쁨 40%") or overlay.hint


@given(k=st.integers(2, 40), long=st.integers(1, 40), width=st.integers(960, 1280))
@settings(max_examples=25, deadline=None)
def test_bars_are_shown_whatever_the_classes_are_called_the_likeliest_first(
    k: int, long: int, width: int
) -> None:
    labels = LabelSet(tuple(f"{'x' * long}{i}" for i in range(k)))
    proba = np.full((1, k), 0.1 / k, np.float32)
    proba[0, k - 1] = 0.9
    face = Faces(np.array([[0.4 * width, 90, 0.6 * width, 260]], np.float32), np.ones(1), None, np.array([1]))
    result = FrameResult(0.0, face, np.ones(1, np.float32), proba, proba, np.array([k - 1]))
    drawn, plain = (
        Overlay(labels, bars=bars, history=False).draw(np.zeros((360, width, 3), np.uint8), result, Status())
        for bars in (True, False)
    )
    color = np.array(label_colors(labels)[k - 1])
    outside = np.r_[0 : int(0.4 * width) - 4, int(0.6 * width) + 4 : width]
    assert (drawn[:, outside] == color).all(axis=2).sum() > (plain[:, outside] == color).all(axis=2).sum()


def test_the_bars_give_way_to_faces() -> None:
    size_wh = (1280, 720)
    corners = [(40, 60), (1180, 60), (40, 600), (1180, 600)]
    for n in range(5):
        faces = result_of(*[(x, y, 1) for x, y in corners[:n]], (600, 300, 2))
        drawn, plain = (
            Overlay(LABELS, bars=bars, history=False).draw(
                np.zeros((size_wh[1], size_wh[0], 3), np.uint8), faces, Status()
            )
            for bars in (True, False)
        )
        assert ((drawn != plain).any()) == (n < 4)
        for x, y in corners[:n]:
            inside = slice(y + 5, y + 55), slice(x + 5, x + 55)
            assert (drawn[inside] == plain[inside]).all()
