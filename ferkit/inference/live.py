"""The live view: the newest frame of a source, through the engine, into a window, until it is closed."""

import contextlib
import functools
import locale
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from ferkit.core.errors import DataError, FerkitError
from ferkit.core.files import is_address
from ferkit.core.labels import LabelSet
from ferkit.core.texts import translated
from ferkit.inference.engine import Engine, FrameResult
from ferkit.inference.overlay import Overlay, Status
from ferkit.inference.sinks import VideoWriter
from ferkit.inference.smoothing import UNSURE
from ferkit.inference.sources import Frame, OpenVideo, is_camera, source_name
from ferkit.inference.video import save_jpeg

if TYPE_CHECKING:
    from av import VideoFrame


_LONGEST_PAUSE_S = 5.0
"""Between tries to reach a camera again."""

_LONGEST_STILL_S = 15.0
"""That one frame of a file is shown live."""


@contextlib.contextmanager
def _open_camera(spec: str, size_wh: tuple[int, int] | None) -> Iterator[cv2.VideoCapture]:
    """A camera of this machine.

    Raises:
        DataError: there is none, or another program has it.
    """
    with _quiet():
        camera = cv2.VideoCapture(int(spec) if spec.isdigit() else os.path.realpath(spec))
    if not camera.isOpened():
        found = sorted(path.name for path in Path("/dev").glob("video[0-9]*"))
        there = f"there are {', '.join(found)}" if found else "no camera was found on this machine"
        raise DataError(
            f"camera {spec} cannot be opened: {there}; close other programs that use it, choose "
            "another number, or give a video file or an address as --source"
        )
    try:
        if size_wh is not None:
            camera.set(cv2.CAP_PROP_FRAME_WIDTH, size_wh[0])
            camera.set(cv2.CAP_PROP_FRAME_HEIGHT, size_wh[1])
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        yield camera
    finally:
        camera.release()


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) of what OpenCV gives: BGR, BGRA or gray, 8 or 16 bits."""
    if frame.dtype == np.uint16:
        frame = (frame >> 8).astype(np.uint8)
    if frame.ndim == 2 or frame.shape[2] == 1:
        return cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(frame, cv2.COLOR_BGRA2RGB if frame.shape[2] == 4 else cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV's own remarks would stand next to the one clear sentence."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class LiveSource:
    """The newest frame of a camera, an address, or a file played at its own speed; the others are forgotten.

    What is shown so never lags behind what happens, however slow the machine is. A camera or broadcast that falls
    silent is opened again and again until it is back; a file ends, at an address too.

    Args:
        spec: number or device path of a camera, address (rtsp, http, …) or path of a file.
        size_wh: frame size to ask a camera for.
        timeout_s: how long an address may take to answer.

    Attributes:
        name: for messages, without credentials.
        problem: what is wrong at the moment, for the user; None while frames come.

    Raises:
        DataError: when iterated, if it cannot be opened at all.
        DependencyError: when iterated, if PyAV is needed and not installed.
    """

    def __init__(self, spec: str, size_wh: tuple[int, int] | None = None, timeout_s: float = 8.0) -> None:
        self.name = source_name(spec)
        self.problem: str | None = None
        self._spec, self._size_wh, self._timeout_s = spec, size_wh, timeout_s
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._newest: tuple[Callable[[], np.ndarray], float] | None = None
        self._newest_at = 0.0
        self._error: BaseException | None = None
        self._n_openings = 0
        self._ended = False

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame in self.frames(60.0) if frame is not None)

    def frames(self, patience_s: float = 0.1) -> Iterator[Frame | None]:
        """Frames as they come; None whenever there was no new one for ``patience_s``, so that whoever waits
        can do something else, such as look whether a key was pressed."""
        thread = threading.Thread(target=self._run, name="camera", daemon=True)
        began = time.monotonic()
        thread.start()
        index, last_s, opening = 0, -1.0, 1
        try:
            while not self._stop.is_set():
                newest = self._wait(patience_s)
                if newest is None:
                    if self._ended:
                        return
                    self._check_silence(began)
                    yield None
                    continue
                last_s = max(newest[1], last_s + 1e-4)
                yield Frame(index, last_s, newest[0](), cut=self._n_openings != opening)
                index, opening = index + 1, self._n_openings
        finally:
            self.close()
            thread.join(1.0)

    def close(self) -> None:
        """Stop reading; the iteration ends."""
        self._stop.set()
        with self._news:
            self._news.notify_all()

    def _wait(self, patience_s: float) -> "tuple[Callable[[], np.ndarray], float] | None":
        """The newest frame, still to be converted, and its time; None if none comes for so long, or at the end."""
        with self._news:
            if self._newest is None and not self._ended:
                self._news.wait(patience_s)
            if self._newest is None and self._error is not None:
                raise self._error
            newest, self._newest = self._newest, None
            return newest

    def _check_silence(self, began: float) -> None:
        waited_s = time.monotonic() - max(began, self._newest_at)
        if not self._n_openings and waited_s > self._timeout_s + 2:
            raise DataError(
                f"{self.name} did not answer within {self._timeout_s:.0f} s; check the address and the network"
            )
        if self.problem is None and waited_s > 2.0:
            self.problem = f"no image from {self.name}; waiting"

    def _run(self) -> None:
        began, pause_s = time.monotonic(), 0.5
        try:
            while not self._stop.is_set():
                try:
                    n_frames, at_end = self._follow(began)
                except DataError:
                    if not self._n_openings:
                        raise
                    n_frames, at_end = 0, False
                if at_end:
                    break
                pause_s = 0.5 if n_frames else min(2 * pause_s, _LONGEST_PAUSE_S)
                self.problem = f"{self.name} is gone; trying to reach it again"
                self._stop.wait(pause_s)
        except BaseException as error:
            self._error = error
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _follow(self, began: float) -> tuple[int, bool]:
        """Open it and give its frames until there are no more: how many there were, and whether that was its end."""
        n_frames = 0
        if is_camera(self._spec):
            with _open_camera(self._spec, self._size_wh) as camera:
                self._n_openings += 1
                while not self._stop.is_set() and camera.grab():
                    done, image = camera.retrieve()
                    if done and image is not None and image.size:
                        n_frames += 1
                        self._give(functools.partial(to_rgb, image), time.monotonic() - began)
            return n_frames, False
        with OpenVideo(self._spec, self._timeout_s, live=is_address(self._spec)) as video:
            self._n_openings += 1
            frames = self._in_time(video) if video.is_finite else video.play()
            for timestamp_s, frame in frames:
                n_frames += 1
                taken_s = timestamp_s if video.is_finite else time.monotonic() - began
                self._give(functools.partial(video.to_rgb, frame), taken_s)
                if self._stop.is_set():
                    break
            return n_frames, video.is_finite

    def _in_time(self, video: OpenVideo) -> "Iterator[tuple[float, VideoFrame]]":
        """The frames of a file when they are to be shown, without those that are late."""
        began = given_at = None
        for timestamp_s, frame in video.play():
            now = time.monotonic()
            began = now - timestamp_s if began is None else began
            late_s = now - began - timestamp_s
            if late_s > 1.0 or late_s < -_LONGEST_STILL_S:  # the pace cannot be held; or the stamps jump
                began, late_s = began + late_s, 0.0
            elif late_s > 0.25 and given_at is not None and now - given_at < 0.25:
                continue
            self._stop.wait(max(0.0, -late_s))
            given_at = time.monotonic()
            yield timestamp_s, frame

    def _give(self, rgb: Callable[[], np.ndarray], timestamp_s: float) -> None:
        with self._news:
            self._newest, self._newest_at = (rgb, timestamp_s), time.monotonic()
            self.problem = None
            self._news.notify_all()


class LiveWindow:
    """Shows images and tells which keys are pressed. It can be resized; the key f fills the screen and back.

    Args:
        title: of the window.

    Raises:
        FerkitError: no window can be opened here; the message says why.
    """

    def __init__(self, title: str) -> None:
        self._pygame = _open_display()
        self._title = title
        self._screen: Any = None
        self._full = False
        self._shown: np.ndarray | None = None
        self._pressed: deque[str] = deque()

    def show(self, rgb: np.ndarray) -> None:
        """Show an image, uint8 (H, W, 3), as large as fits into the window."""
        pygame = self._pygame
        if self._screen is None:
            self._open_screen(_comfortable(rgb.shape[1], rgb.shape[0]), pygame.RESIZABLE)
        self._shown = rgb
        width, height = self._screen.get_size()
        scale = min(width / rgb.shape[1], height / rgb.shape[0])
        size_wh = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
        if size_wh != (rgb.shape[1], rgb.shape[0]):
            rgb = cv2.resize(rgb, size_wh, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        image = pygame.image.frombuffer(np.ascontiguousarray(rgb).data, size_wh, "RGB")
        self._screen.fill((0, 0, 0))
        self._screen.blit(image, ((width - size_wh[0]) // 2, (height - size_wh[1]) // 2))
        pygame.display.flip()

    def key(self) -> str | None:
        """The next key that was pressed, in lower case; ``q`` also for Escape and when the window was closed."""
        if self._screen is None:
            return None
        pygame = self._pygame
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                self._pressed.append("q")
            elif event.type == pygame.VIDEORESIZE and self._shown is not None:
                self._screen = pygame.display.get_surface()
                self.show(self._shown)
            elif event.type == pygame.KEYDOWN:
                self._press(event)
        return self._pressed.popleft() if self._pressed else None

    def _press(self, event: Any) -> None:
        if event.key == self._pygame.K_ESCAPE:
            if self._full:
                self._fill_screen(False)
            else:
                self._pressed.append("q")
        elif key := _letter(event.key, event.scancode):
            if key == "f":
                self._fill_screen(not self._full)
            else:
                self._pressed.append(key)

    def _fill_screen(self, full: bool) -> None:
        pygame = self._pygame
        self._full = full
        assert self._shown is not None
        size_wh = (0, 0) if full else _comfortable(self._shown.shape[1], self._shown.shape[0])
        self._open_screen(size_wh, pygame.FULLSCREEN if full else pygame.RESIZABLE)
        self.show(self._shown)

    def _open_screen(self, size_wh: tuple[int, int], flags: int) -> None:
        self._screen = self._pygame.display.set_mode(size_wh, flags)
        # Xlib knows no C.UTF-8, common in containers, and would give a name that other programs cannot read.
        kept = locale.setlocale(locale.LC_CTYPE)
        locale.setlocale(locale.LC_CTYPE, "C")
        try:
            self._pygame.display.set_caption(self._title)
        finally:
            locale.setlocale(locale.LC_CTYPE, kept)

    def close(self) -> None:
        """Take the window away."""
        self._screen = None
        self._pygame.display.quit()


def _open_display() -> Any:
    # Without a display SDL may open one that nobody sees.
    named = any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")))
    if sys.platform.startswith("linux") and not named:
        raise FerkitError("there is no display (DISPLAY is not set)")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError:
        raise FerkitError("pygame-ce is not installed (pip install 'ferkit[window]')") from None
    try:
        pygame.display.init()
    except pygame.error as error:
        raise FerkitError(f"the display cannot be used ({error})") from None
    if pygame.display.get_driver() == "offscreen" and not os.environ.get("SDL_VIDEODRIVER"):
        pygame.display.quit()
        raise FerkitError("the display cannot be used (no program answers there)")
    return pygame


def _letter(key: int, scancode: int) -> str | None:
    """The Latin letter of a key: where another script is being typed, the one that a Latin keyboard has there."""
    if ord("a") <= key <= ord("z"):
        return chr(key)
    return chr(ord("a") + scancode - 4) if key > 127 and 4 <= scancode <= 29 else None


def _comfortable(width: int, height: int) -> tuple[int, int]:
    """Small images are shown larger, large ones as they fit most screens."""
    scale = min(1280 / width, 760 / height, 2.0)
    return round(width * scale), round(height * scale)


logger = logging.getLogger(__name__)

MESSAGE_S = 2.5


class View(Protocol):
    """What :class:`ferkit.inference.live.LiveWindow` does."""

    def show(self, rgb: np.ndarray) -> None: ...

    def key(self) -> str | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class LiveSettings:
    """How the live view looks and ends.

    Attributes:
        language: ``en`` or ``ko``.
        mirror: show as a mirror does.
        duration_s: end by itself after so long; None to go on.
        folder: where snapshots and recordings go.
        bars: show all probabilities of the largest face.
        history: show a strip with the last 20 seconds.
    """

    language: str = "en"
    mirror: bool = True
    duration_s: float | None = None
    folder: Path = Path()
    bars: bool = True
    history: bool = True


class LiveView:
    """Runs the live view.

    Args:
        source: of the frames.
        models: names or folders of the models to go through with the key m, the first one first.
        load: opens one of them.
        view: shows the frames; None for none.
        settings: see there.
        on_result: is given every result, with the labels that it is about.
    """

    def __init__(
        self,
        source: LiveSource,
        models: list[str],
        load: Callable[[str], Engine],
        view: View | None,
        settings: LiveSettings,
        on_result: Callable[[FrameResult, LabelSet], None] | None = None,
    ) -> None:
        self._source, self._models, self._load, self._view = source, models, load, view
        self._settings, self._on_result = settings, on_result
        self._which = 0
        self._language = settings.language
        self._help = False
        self._recorder: VideoWriter | None = None
        self._message, self._message_until = "", 0.0
        self._fps: float | None = None
        self._last_at = self._now_s = 0.0
        self._shown: np.ndarray | None = None
        self.n_frames = 0

    def run(self) -> None:
        """Go on until q, the end of the source, or the duration.

        Raises:
            FerkitError: the source, a model or a file fails in a way that cannot be lived with.
        """
        self._take(self._models[0])
        try:
            for frame in self._source.frames():
                if frame is not None:
                    self._work_on(frame)
                if self._view is not None and self._show_and_act():
                    return
                limit_s = self._settings.duration_s
                if frame is not None and limit_s is not None and frame.timestamp_s >= limit_s:
                    return
        finally:
            with contextlib.ExitStack() as last_first:  # each, also where one fails
                if self._view is not None:
                    last_first.callback(self._view.close)
                last_first.callback(self._stop_recording)
                last_first.callback(self._source.close)

    def _work_on(self, frame: Frame) -> None:
        if frame.cut:
            self._engine.reset(renumber=False)
        result = self._engine.process(frame.rgb, frame.timestamp_s)
        self.n_frames += 1
        self._now_s = frame.timestamp_s
        now = time.monotonic()
        if self._last_at:
            fps = 1 / max(now - self._last_at, 1e-4)
            self._fps = fps if self._fps is None else self._fps + 0.1 * (fps - self._fps)
        self._last_at = now
        if self._on_result is not None:
            self._on_result(result, self._engine.labels)
        if self._view is not None:
            self._shown = self._draw(frame.rgb, result)
            if self._recorder is not None:
                try:
                    self._recorder.write(self._shown, frame.timestamp_s)
                except FerkitError as error:  # the view goes on
                    self._recorder = None
                    self._tell(str(error), short="the recording failed: see the terminal")

    def _show_and_act(self) -> bool:
        """Show what there is and do what a key asks for; True to end."""
        assert self._view is not None
        if self._shown is None:
            return False
        shown = self._shown
        if self._source.problem:
            problem = translated(self._source.problem, self._overlay.language)
            shown = self._overlay.with_line(shown, problem)
        self._view.show(shown)
        try:
            return self._act(self._view.key(), shown)
        except FerkitError as error:  # the view goes on
            self._tell(str(error), short="that failed: see the terminal")
            return False

    def _take(self, model: str) -> None:
        self._engine = self._load(model)
        self._model = Path(model).name
        self._overlay = Overlay(
            self._engine.labels, self._language, bars=self._settings.bars, history=self._settings.history
        )
        if self._overlay.hint:
            logger.info(self._overlay.hint)

    def _draw(self, rgb: np.ndarray, result: FrameResult) -> np.ndarray:
        neutral = self._engine.neutral
        message = self._message if time.monotonic() < self._message_until else ""
        status = Status(
            fps=self._fps,
            model=self._model,
            rest_s=0.0 if neutral is None else neutral.seconds_left(result.timestamp_s),
            recording=self._recorder is not None,
            help=self._help,
            message=translated(message, self._overlay.language),
        )
        rgb, result = for_view(rgb, result, self._settings.mirror)
        return self._overlay.draw(rgb, result, status)

    def _act(self, key: str | None, shown: np.ndarray) -> bool:
        """Do what a key asks for; True to end."""
        if key == "q":
            return True
        if key == "h":
            self._help = not self._help
        elif key == "s":
            self._snapshot(shown)
        elif key == "r":
            self._start_or_stop_recording()
        elif key == "l":
            self._language = "ko" if self._overlay.language == "en" else "en"
            self._overlay.set_language(self._language)
            if self._overlay.hint:
                self._tell(self._overlay.hint, short="no font with Hangul was found")
        elif key == "m":
            self._next_model()
        return False

    def _snapshot(self, shown: np.ndarray) -> None:
        path = _free_path(self._settings.folder, "snapshot", ".jpg")
        save_jpeg(path, shown)
        self._tell(f"saved: {path}", short=f"saved: {path.name}")

    def _start_or_stop_recording(self) -> None:
        if self._recorder is None:
            path = _free_path(self._settings.folder, "recording", ".mp4")
            self._recorder = VideoWriter(path, begin_s=self._now_s)
        else:
            self._stop_recording()

    def _stop_recording(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()
            self._tell(f"recorded: {recorder.path}", short=f"recorded: {recorder.path.name}")

    def _next_model(self) -> None:
        if len(self._models) < 2:
            self._tell("there is no other model", short="there is no other model")
            return
        self._which = (self._which + 1) % len(self._models)
        self._take(self._models[self._which])
        self._tell(f"model: {self._model}", short=self._model)

    def _tell(self, message: str, short: str) -> None:
        logger.info(message)
        self._message, self._message_until = short, time.monotonic() + MESSAGE_S


class ChangePrinter:
    """Tells of every change of a person's label, for machines without a window."""

    def __init__(self, write: Callable[[float, int, str | None, float], None]) -> None:
        self._write = write
        self._shown: dict[int, int] = {}

    def __call__(self, result: FrameResult, labels: LabelSet) -> None:
        """Take a result; write (time, track, label or None, probability) for each change."""
        ids = [] if result.faces.track_id is None else result.faces.track_id.tolist()
        for i, track in enumerate(ids):
            label = int(result.label[i])
            if self._shown.get(track) != label:
                name = None if label == UNSURE else labels.names[label]
                share = result.proba[i, label] if name else result.proba[i].max()
                self._write(result.timestamp_s, track, name, float(share))
        self._shown = dict(zip(ids, result.label.tolist(), strict=True))


def for_view(rgb: np.ndarray, result: FrameResult, mirror: bool) -> tuple[np.ndarray, FrameResult]:
    """A frame and its faces as they are shown: as in a mirror if that is wanted, and larger if the frame is small,
    so that letters are sharp in a window of usual size."""
    (height, width), xyxy = rgb.shape[:2], result.faces.xyxy
    if mirror:  # before it is made larger, which is quicker
        rgb = cv2.flip(rgb, 1)
        xyxy = np.stack([width - xyxy[:, 2], xyxy[:, 1], width - xyxy[:, 0], xyxy[:, 3]], axis=1)
    factor = min(2.0, 1280 / max(height, width))
    if factor > 1.2:
        size_wh = round(width * factor), round(height * factor)
        rgb, xyxy = cv2.resize(rgb, size_wh, interpolation=cv2.INTER_LINEAR), xyxy * np.float32(factor)
    return rgb, replace(result, faces=replace(result.faces, xyxy=xyxy, keypoints=None))


def _free_path(folder: Path, stem: str, suffix: str) -> Path:
    n = 1
    while (path := folder / f"{stem}-{n}{suffix}").exists():
        n += 1
    return path
