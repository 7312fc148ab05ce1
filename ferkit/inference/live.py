"""The live view: frames from a source, through the engine, into a window, until somebody has seen enough."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ferkit.core.files import write_atomically
from ferkit.core.labels import LabelSet
from ferkit.inference.engine import Engine, FrameResult
from ferkit.inference.overlay import Overlay, Status
from ferkit.inference.sinks import Recorder
from ferkit.inference.smoothing import UNSURE
from ferkit.inference.sources import Frame, LiveSource

_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"


def window_problem() -> str | None:
    """Why no window can be opened here, for the user; None if one can."""
    # OpenCV's Qt ends the whole process where it finds no display, so this is tried out in another one.
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "there is no display (DISPLAY is not set)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return "opening a window took more than 30 s"
    if done.returncode == 0:
        return None
    if "not implemented" in done.stderr:
        return "this OpenCV was built without windows (opencv-python-headless); install opencv-python instead"
    words = done.stderr.strip().splitlines()
    return f"the display could not be used: {words[-1].strip()}" if words else "the display could not be used"


class LiveWindow:
    """Shows images and tells which keys are pressed.

    Args:
        title: of the window.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown = False

    def show(self, rgb: np.ndarray) -> None:
        """Show an image, uint8 (H, W, 3)."""
        if not self._shown:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(self._title, *_comfortable(rgb.shape[1], rgb.shape[0]))
            self._shown = True
        cv2.imshow(self._title, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def key(self) -> str | None:
        """The key that was pressed, in lower case; ``q`` also for Escape and when the window was closed."""
        code = cv2.waitKey(1) & 0xFF
        if code == 27 or (self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1):
            return "q"
        return None if code == 0xFF else chr(code).lower()

    def close(self) -> None:
        """Take the window away."""
        if self._shown:
            cv2.destroyAllWindows()
            cv2.waitKey(1)


def _comfortable(width: int, height: int) -> tuple[int, int]:
    """Small images are shown larger, large ones as they fit most screens."""
    scale = min(1280 / width, 760 / height)
    scale = min(scale, 2.0)
    return round(width * scale), round(height * scale)


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
        bars, history: see :class:`ferkit.inference.overlay.Overlay`.
    """

    language: str = "en"
    mirror: bool = True
    duration_s: float | None = None
    folder: Path = Path()
    bars: bool = True
    history: bool = True


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready for frames."""

    name: str
    engine: Engine


class LiveView:
    """Runs the live view.

    Args:
        source: of the frames.
        models: names of the models to go through with the key m, the first one first.
        load: opens one of them.
        view: shows the frames; None for none.
        settings: see there.
        say: takes sentences for the user.
        on_result: is given every result, with the labels that it is about.
    """

    def __init__(
        self,
        source: LiveSource,
        models: list[str],
        load: Callable[[str], LoadedModel],
        view: View | None,
        settings: LiveSettings,
        say: Callable[[str], None],
        on_result: Callable[[FrameResult, LabelSet], None] | None = None,
    ) -> None:
        self._source, self._models, self._load, self._view = source, models, load, view
        self._settings, self._say, self._on_result = settings, say, on_result
        self._which = 0
        self._language = settings.language
        self._help = False
        self._recorder: Recorder | None = None
        self._message, self._message_until = "", 0.0
        self._fps: float | None = None
        self._last_at = 0.0
        self._shown: np.ndarray | None = None
        self.n_frames = 0

    def run(self) -> None:
        """Go on until q, the end of the source, or the duration.

        Raises:
            FerkitError: the source, a model or a file fails in a way that cannot be lived with.
        """
        self._take(self._load(self._models[0]))
        try:
            for frame in self._source.frames():
                if frame is not None:
                    self._work_on(frame)
                if self._view is not None and self._show_and_act():
                    return
                if self._is_over(frame):
                    return
        finally:
            self._source.close()
            self._stop_recording()
            if self._view is not None:
                self._view.close()

    def _work_on(self, frame: Frame) -> None:
        result = self._engine.process(frame.rgb, frame.timestamp_s)
        self.n_frames += 1
        now = time.monotonic()
        if self._last_at:
            self._fps = _steadied(self._fps, 1 / max(now - self._last_at, 1e-4))
        self._last_at = now
        if self._on_result is not None:
            self._on_result(result, self._engine.labels)
        if self._view is not None:
            self._shown = self._draw(frame.rgb, result)
            if self._recorder is not None:
                self._recorder.write(self._shown, frame.timestamp_s)

    def _show_and_act(self) -> bool:
        """Show what there is and do what a key asks for; True to end."""
        assert self._view is not None
        if self._shown is None:
            return False
        shown = self._shown
        if self._source.problem:
            shown = self._overlay.with_line(shown, self._source.problem)
        self._view.show(shown)
        return self._act(self._view.key(), shown)

    def _is_over(self, frame: Frame | None) -> bool:
        limit_s = self._settings.duration_s
        return frame is not None and limit_s is not None and frame.timestamp_s >= limit_s

    def _take(self, model: LoadedModel) -> None:
        self._model = model
        self._engine = model.engine
        self._overlay = Overlay(
            self._engine.labels, self._language, bars=self._settings.bars, history=self._settings.history
        )
        if self._overlay.hint:
            self._say(self._overlay.hint)

    def _draw(self, rgb: np.ndarray, result: FrameResult) -> np.ndarray:
        neutral = self._engine.neutral
        message = self._message if time.monotonic() < self._message_until else ""
        status = Status(
            fps=self._fps,
            model=self._model.name,
            rest_s=0.0 if neutral is None else neutral.seconds_left(result.timestamp_s),
            recording=self._recorder is not None,
            help=self._help,
            message=message,
        )
        rgb, result = enlarged_for_view(rgb, result)
        return self._overlay.draw(rgb, result, status, mirror=self._settings.mirror)

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
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
        write_atomically(path, lambda file: file.write(np.asarray(jpeg).tobytes()))
        self._tell(f"saved: {path}", short=f"saved: {path.name}")

    def _start_or_stop_recording(self) -> None:
        if self._recorder is None:
            self._recorder = Recorder(_free_path(self._settings.folder, "recording", ".mp4"))
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
        self._take(self._load(self._models[self._which]))
        self._tell(f"model: {self._model.name}", short=self._model.name)

    def _tell(self, message: str, short: str) -> None:
        self._say(message)
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
                self._write(result.timestamp_s, track, name, float(result.proba[i].max()))
        self._shown = dict(zip(ids, result.label.tolist(), strict=True))


def enlarged_for_view(rgb: np.ndarray, result: FrameResult) -> tuple[np.ndarray, FrameResult]:
    """A small frame larger, so that letters are sharp in a window of usual size, and its faces with it."""
    factor = min(2.0, 1280 / max(rgb.shape[:2]))
    if factor <= 1.2:
        return rgb, result
    size_wh = round(rgb.shape[1] * factor), round(rgb.shape[0] * factor)
    faces = replace(result.faces, xyxy=result.faces.xyxy * np.float32(factor), keypoints=None)
    return cv2.resize(rgb, size_wh, interpolation=cv2.INTER_LINEAR), replace(result, faces=faces)


def _steadied(mean: float | None, value: float) -> float:
    return value if mean is None else mean + 0.1 * (value - mean)


def _free_path(folder: Path, stem: str, suffix: str) -> Path:
    n = 1
    while (path := folder / f"{stem}-{n}{suffix}").exists():
        n += 1
    return path
