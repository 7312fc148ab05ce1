"""What is drawn over live images and annotated videos."""

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from ferkit.core.console import shortened
from ferkit.core.console import width as text_width
from ferkit.core.labels import LabelSet
from ferkit.core.style import HINT, can_draw, drawable_names, open_font
from ferkit.core.texts import Translations, text_table
from ferkit.faces.drawing import RGB, UNSURE_COLOR, TextPainter, draw_boxes, label_colors, shared_area
from ferkit.inference.engine import FrameResult
from ferkit.inference.smoothing import UNSURE as UNSURE_LABEL

HISTORY_S = 20.0
_PEOPLE_IN_HISTORY = 3
_STRIP_S = 0.1
"""The strip is drawn again after so long: that is the width of a few pixels."""

_DARK: RGB = (18, 20, 24)
_PALE: RGB = (236, 238, 240)


@dataclass
class History:
    """Which label stood when, for the last seconds of each track."""

    seconds: float = HISTORY_S
    _past: deque[tuple[float, dict[int, int]]] = field(default_factory=deque)

    def add(self, result: FrameResult) -> None:
        """Take note of one frame."""
        ids = [] if result.faces.track_id is None else result.faces.track_id.tolist()
        self._past.append((result.timestamp_s, dict(zip(ids, result.label.tolist(), strict=True))))
        while result.timestamp_s - self._past[0][0] > self.seconds:
            self._past.popleft()

    def columns(self, track: int, n: int) -> np.ndarray:
        """int64 (n,): the label at each of ``n`` moments up to now, -2 where the track was not there."""
        labels = np.full(n, -2, np.int64)
        if not self._past:
            return labels
        end_s = self._past[-1][0]
        for timestamp_s, by_track in self._past:
            column = int((1 - (end_s - timestamp_s) / self.seconds) * (n - 1))
            if track in by_track and 0 <= column < n:
                labels[column] = by_track[track]
        seen = np.flatnonzero(labels > -2)
        # Frames are sparser than columns: fill the small holes between them.
        for a, b in pairwise(seen.tolist()):
            if 1 < b - a <= n / self.seconds + 1:
                labels[a + 1 : b] = labels[a]
        return labels


@dataclass(frozen=True)
class Status:
    """What is shown next to the faces.

    Attributes:
        fps: frames a second; None to leave it out.
        model: name of the model.
        rest_s: seconds that a resting face is still looked at; 0 if none is.
        recording: whether it is.
        help: show the keys.
        message: a line for a moment, such as where an image was saved.
    """

    fps: float | None = None
    model: str = ""
    rest_s: float = 0.0
    recording: bool = False
    help: bool = False
    message: str = ""


class Overlay:
    """Draws results into frames.

    Args:
        labels: the classes.
        language: ``en`` or ``ko``.
        bars: show all probabilities of the largest face.
        history: show the strip of the last seconds.

    Attributes:
        hint: what to tell the user if Hangul cannot be drawn; None otherwise.
    """

    def __init__(
        self, labels: LabelSet, language: str = "en", *, bars: bool = True, history: bool = True
    ) -> None:
        self._labels, self._bars, self._with_history = labels, bars, history
        self._colors = label_colors(labels)
        self._history = History()
        self._painters: dict[int, TextPainter] = {}
        self._corner: tuple[bool, bool] | None = None
        self._strip: tuple[object, float, list[np.ndarray]] = None, 0.0, []
        self.hint: str | None = None
        self.language = "en"
        self.set_language(language)

    def set_language(self, language: str) -> None:
        """Change the language; without a font for it English stays, and :attr:`hint` says so."""
        self._words = Translations(language, "live")
        self.hint = None
        if not can_draw([*self._labels.display(language), self._words("word.unsure")]):
            language, self.hint, self._words = "en", HINT, Translations("en", "live")
        self.language = language
        self._names = drawable_names(self._labels, language)
        self._painters.clear()

    def draw(self, rgb: np.ndarray, result: FrameResult, status: Status) -> np.ndarray:
        """Draw everything into ``rgb``, uint8 (H, W, 3), and give it back."""
        self._history.add(result)
        painter = self._painter(_text_size(rgb))
        order = np.argsort(-_areas(result), kind="stable").tolist()
        taken = [self._header(rgb, status, painter)]
        if order and self._bars:
            taken += self._bar_chart(rgb, result, order[0], painter, taken[0][3])
        self._faces(rgb, result, painter, taken)
        if self._with_history:
            self._history_strip(rgb, result, order, painter)
        self._notices(rgb, status, painter)
        return rgb

    def with_line(self, rgb: np.ndarray, line: str) -> np.ndarray:
        """A copy of a drawn frame with a line of text on it."""
        rgb = rgb.copy()
        self._centred(rgb, (line,), self._painter(_text_size(rgb)), 0.86)
        return rgb

    def _faces(
        self,
        rgb: np.ndarray,
        result: FrameResult,
        painter: TextPainter,
        taken: list[tuple[int, int, int, int]],
    ) -> None:
        if len(result) > 1:  # small faces in a crowd get small labels
            widths = result.faces.xyxy[:, 2] - result.faces.xyxy[:, 0]
            least = max(13, max(rgb.shape[:2]) // 90)
            painter = self._painter(int(np.clip(np.median(widths) / 4.5, least, _text_size(rgb))))
        texts, colors, shares = [], [], []
        for label, proba in zip(result.label.tolist(), result.proba, strict=True):
            if label == UNSURE_LABEL:
                text, color, share = self._words("word.unsure"), UNSURE_COLOR, 0.0
            else:
                color, share = self._colors[label], float(proba[label])
                text = f"{self._names[label]} {share:.0%}"
                if share < proba.max() - 0.005:  # steadied: another one is more probable at the moment
                    text += f" ({self._words('word.held')})"
            texts.append(text)
            colors.append(color)
            shares.append(share)
        # How sure it is, as a bar along the lower edge of the box.
        thick = max(3, painter.height // 4)
        for (x0, _, x1, y1), color, share in zip(
            np.round(result.faces.xyxy).astype(int).tolist(), colors, shares, strict=True
        ):
            cv2.rectangle(rgb, (x0, y1), (x1, y1 + thick), _DARK, cv2.FILLED)
            cv2.rectangle(rgb, (x0, y1), (x0 + round((x1 - x0) * share), y1 + thick), color, cv2.FILLED)
        draw_boxes(rgb, result.faces.xyxy, texts, colors, painter, taken)

    def _bar_chart(
        self, rgb: np.ndarray, result: FrameResult, i: int, painter: TextPainter, header: int
    ) -> list[tuple[int, int, int, int]]:
        """Probabilities of one face, the highest if not all fit, in a corner without faces; nothing where there is
        none. What it covers."""
        row = painter.height + max(3, painter.height // 4)
        n = min(len(self._names), int(rgb.shape[0] * 0.8) // row - 1)
        bar_w, pad = 5 * painter.height, painter.height // 2
        percent_w, widest = painter.width("100%"), max(self._names, key=painter.width)
        height = row * n + pad
        for share in (0.6, 0.33):  # rather shortened names than no chart
            room = int(rgb.shape[1] * share) - bar_w - percent_w - 4 * pad
            columns = room * text_width(widest) // painter.width(widest)
            names = [shortened(name, columns) for name in self._names]
            name_w = max(painter.width(name) for name in names)
            width = name_w + bar_w + percent_w + 4 * pad
            spot = self._free_corner(rgb, result, i, (width, height), header)
            if spot is not None and columns >= 6 and n >= 2:
                break
        else:
            return []
        left, top = spot
        shade(rgb, left, top, width, height)
        for place, k in enumerate(sorted(np.argsort(-result.proba[i], kind="stable")[:n].tolist())):
            y = top + pad // 2 + place * row + 2
            p = float(result.proba[i, k])
            painter.draw(rgb, names[k], (left + pad, y), _PALE)
            x = left + 2 * pad + name_w
            cv2.rectangle(rgb, (x, y + 2), (x + bar_w, y + painter.height - 2), (70, 74, 80), cv2.FILLED)
            if p > 0.005:
                end = x + max(2, round(bar_w * p))
                cv2.rectangle(rgb, (x, y + 2), (end, y + painter.height - 2), self._colors[k], cv2.FILLED)
            text = f"{p:.0%}"
            right = left + width - pad
            painter.draw(rgb, text, (right - painter.width(text), y), _PALE)
        return [(left, top, left + width, top + height)]

    def _free_corner(
        self, rgb: np.ndarray, result: FrameResult, i: int, size_wh: tuple[int, int], header: int
    ) -> tuple[int, int] | None:
        """Left and top of a corner that no face reaches into: rather the last one, and away from face ``i``."""
        (height, width), (w, h) = rgb.shape[:2], size_wh
        x0, _, x1, _ = result.faces.xyxy[i]
        side = bool(x0 + x1 < width)
        corners = [(side, False), (not side, False), (side, True), (not side, True)]
        if self._corner is not None:
            corners.insert(0, self._corner)
        for right, low in corners:
            left, top = (width - w if right else 0), (height - h - header if low else header + 2)
            spot = np.array([[left, top, left + w, top + h]], np.float32)
            if not shared_area(spot, result.faces.xyxy).any():
                self._corner = right, low
                return left, top
        return None

    def _history_strip(
        self, rgb: np.ndarray, result: FrameResult, order: list[int], painter: TextPainter
    ) -> None:
        """A coloured line for each of the largest faces: what was shown in the last seconds, now at the right."""
        if result.faces.track_id is None:
            return
        ids = tuple(int(result.faces.track_id[i]) for i in order[:_PEOPLE_IN_HISTORY])
        row = max(6, painter.height // 2)
        width = rgb.shape[1]
        key, drawn_s, lines = self._strip
        if key != (ids, width) or not 0 <= result.timestamp_s - drawn_s < _STRIP_S:
            colors = np.array([*self._colors, _DARK, UNSURE_COLOR], np.uint8)  # -2 is absent, -1 unsure
            lines = [colors[self._history.columns(track, width)] for track in ids]
            self._strip = (ids, width), result.timestamp_s, lines
        for number, line in enumerate(lines):
            top = rgb.shape[0] - (number + 1) * (row + 1)
            if top < 0:
                return
            rgb[top : top + row] = line

    def _header(self, rgb: np.ndarray, status: Status, painter: TextPainter) -> tuple[int, int, int, int]:
        """The line at the top right: model and frame rate. What it covers."""
        pad = max(3, painter.height // 3)
        parts = [status.model] if status.model else []
        if status.fps is not None:
            parts.append(f"{status.fps:.0f} fps")
        text = "   ".join(parts)
        if not text:
            return rgb.shape[1], 0, rgb.shape[1], 0
        width, height = painter.width(text) + 2 * pad, painter.height + 2 * pad
        left = rgb.shape[1] - width
        shade(rgb, left, 0, width, height)
        painter.draw(rgb, text, (left + pad, pad), _PALE)
        return left, 0, rgb.shape[1], height

    def _notices(self, rgb: np.ndarray, status: Status, painter: TextPainter) -> None:
        pad = max(3, painter.height // 3)
        if status.recording:
            center = (pad + painter.height // 2, pad + painter.height // 2)
            said = self._words("word.record")
            shade(rgb, 0, 0, painter.height + 3 * pad + painter.width(said), painter.height + 2 * pad)
            cv2.circle(rgb, center, painter.height // 3, (226, 50, 50), cv2.FILLED, cv2.LINE_AA)
            painter.draw(rgb, said, (2 * pad + painter.height, pad), _PALE)
        rest = self._words("word.rest", n=np.ceil(status.rest_s))
        line = rest if status.rest_s > 0 else status.message
        if line:
            self._centred(rgb, (line,), painter, 0.86)
        if status.help:
            self._centred(rgb, self._help(), painter, 0.5)

    def _help(self) -> tuple[str, ...]:
        return tuple(self._words(f"help.{key}") for key in text_table()["live"]["help"])

    def _centred(self, rgb: np.ndarray, lines: tuple[str, ...], painter: TextPainter, at: float) -> None:
        pad = painter.height // 2
        row = painter.height + pad // 2
        width = max(painter.width(line) for line in lines) + 2 * pad
        height = row * len(lines) + 2 * pad - pad // 2
        left, top = (rgb.shape[1] - width) // 2, round((rgb.shape[0] - height) * at)
        shade(rgb, left, top, width, height)
        for i, line in enumerate(lines):
            painter.draw(rgb, line, (left + pad, top + pad + i * row), _PALE)

    def _painter(self, size: int) -> TextPainter:
        if size not in self._painters:
            font = open_font([*self._names, *self._help()], size) or open_font((), size)
            assert font is not None  # Latin letters always have one
            self._painters[size] = TextPainter(font)
        return self._painters[size]


def shade(rgb: np.ndarray, left: int, top: int, width: int, height: int) -> None:
    """Darken a rectangle of ``rgb``, so that pale text can be read on it."""
    part = rgb[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    part[:] = (part.astype(np.uint16) * 3 // 10 + 12).astype(np.uint8)


def _text_size(rgb: np.ndarray) -> int:
    return int(np.clip(round(max(rgb.shape[:2]) / 46), 13, 40))


def _areas(result: FrameResult) -> np.ndarray:
    xyxy = result.faces.xyxy
    return (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
