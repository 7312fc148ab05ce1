"""Draw a report's charts as SVG.

Colours are classes of the page's style sheet, so that a chart follows light and dark, and Hangul needs no font on the
machine that wrote it. Charts are some 400 units wide with letters of 12, which a phone shows almost at full size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from ferkit.core.console import width as text_width

N_COLOURS = 8
"""Classes ``c0`` to ``c7``; further series take them again, with dashes."""


@dataclass(frozen=True)
class Scale:
    """Numbers to a stretch of the image.

    Attributes:
        low, high: the numbers at its ends.
        start, end: where these lie, in units of the image.
        log: whether equal factors, and not equal differences, are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where ``value`` lies; values beyond the ends lie at them."""
        low, high, value = (np.log(v) if self.log else v for v in (self.low, self.high, max(value, 1e-12)))
        share = (value - low) / (high - low) if high > low else 0.5
        return float(self.start + np.clip(share, 0, 1) * (self.end - self.start))

    def ticks(self, n: int = 5) -> list[float]:
        """About ``n`` round numbers between the ends."""
        if self.log and self.high > 8 * self.low:
            span = np.log10(self.high / self.low)
            steps = (1.0,) if span > 3 else (1.0, 3.0) if span > 1.5 else (1.0, 2.0, 5.0)
            powers = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
            marks = [step * 10.0**power for power in powers for step in steps]
        else:
            raw = (self.high - self.low) / n
            power = 10.0 ** np.floor(np.log10(raw)) if raw > 0 else 1.0
            step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw - 1e-12)
            marks = [i * step for i in range(int(np.floor(self.low / step)), int(self.high / step) + 2)]
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        return [float(mark) for mark in marks if self.low - slack <= mark <= self.high + slack]


def percent_ticks(scale: Scale, n: int = 5) -> list[tuple[float, str]]:
    """Ticks of a share, written as percentages."""
    marks = scale.ticks(n)
    digits = 1 if any(abs(100 * mark - round(100 * mark)) > 1e-6 for mark in marks) else 0
    return [(mark, f"{100 * mark:.{digits}f}%") for mark in marks]


def number_ticks(scale: Scale, n: int = 5) -> list[tuple[float, str]]:
    """Ticks written as numbers."""
    return [(mark, f"{mark:g}") for mark in scale.ticks(n)]


def text(x: float, y: float, content: str, classes: str = "", anchor: str = "start", turn: float = 0) -> str:
    """Escaped text; ``turn`` degrees about its own place."""
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{classes}"{turned}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def rectangle(x: float, y: float, width: float, height: float, classes: str, hint: str = "") -> str:
    """A filled box; ``hint`` is shown when it is pointed at."""
    title = f"<title>{escape(hint)}</title>" if hint else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
        f'class="{classes}">{title}</rect>'
    )


def polyline(points: Sequence[tuple[float, float]], classes: str) -> str:
    """Points joined by lines."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" class="{classes}"/>'


def dot(x: float, y: float, classes: str, hint: str = "", radius: float = 4) -> str:
    """A round mark; ``hint`` is shown when it is pointed at."""
    title = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{classes}">{title}</circle>'


def frame(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_label: str,
    y_label: str,
) -> list[str]:
    """Grid, ticks and the names of the axes; the one of ``y`` stands above it, to be read without turning."""
    parts = [line(x.start, y(v), x.end, y(v), "grid") for v, _ in y_ticks]
    parts += [line(x(v), y.start, x(v), y.end, "grid") for v, _ in x_ticks]
    parts += [text(x.start - 5, y(v) + 4, name, "tick", "end") for v, name in y_ticks]
    parts += [text(x(v), y.start + 15, name, "tick", "middle") for v, name in x_ticks]
    parts.append(text((x.start + x.end) / 2, y.start + 32, x_label, "axis", "middle"))
    parts.append(text(x.start - 30, y.end - 9, y_label, "axis"))
    return parts


def svg_image(width: float, height: float, parts: Sequence[str], label: str) -> Markup:
    """The whole chart; ``label`` is what a screen reader says."""
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def colour_of(i: int) -> str:
    """Classes of the i-th series."""
    return f"c{i % N_COLOURS}" + (f" dash{i // N_COLOURS}" if i >= N_COLOURS else "")


Values = Mapping[str, Any]

_WIDTH = 420.0
_FEW = 10
"""Images of a bin below which its accuracy says little."""


def intervals_chart(rows: Sequence[tuple[str, Values, str]], label: str, reference: float | None) -> Markup:
    """A dot with its interval for each row, from the top.

    Args:
        rows: name, figure (``value``, ``low``, ``high``, shares) and how it is written.
        label: for screen readers.
        reference: a value to draw through all rows, such as that of guessing; None for none.
    """
    height, step = 46 + 34 * len(rows), 34
    numbers = [v for _, f, _ in rows for v in (f["value"], f["low"], f["high"]) if v is not None]
    numbers += [] if reference is None else [reference]
    room = 0.06 * (max(numbers) - min(numbers)) + 0.01
    x = Scale(max(0, min(numbers) - room), min(1, max(numbers) + room), 14, _WIDTH - 22)
    parts = [line(x(v), 8, x(v), height - 32, "grid") for v, _ in percent_ticks(x)]
    parts += [text(x(v), height - 16, name, "tick", "middle") for v, name in percent_ticks(x)]
    if reference is not None:
        parts.append(line(x(reference), 8, x(reference), height - 32, "reference"))
    for i, (name, figure, written) in enumerate(rows):
        y = 30 + step * i
        parts.append(text(14, y - 11, _shortened(name, 46), "label halo"))
        parts.append(text(_WIDTH - 4, y - 11, written, "value", "end"))
        if figure["low"] is not None:
            parts.append(line(x(figure["low"]), y, x(figure["high"]), y, "whisker c0"))
        parts.append(dot(x(figure["value"]), y, "dot c0", f"{name}: {written}"))
    return svg_image(_WIDTH, height, parts, label)


def reliability_chart(bins: Sequence[Sequence[float | None]], words: Mapping[str, str], label: str) -> Markup:
    """Accuracy in each bin of confidence against the diagonal, and how many images each bin has; pale if few.

    Args:
        bins: images, mean confidence and accuracy of each bin.
        words: names of the axes: ``confidence``, ``accuracy``, ``images``.
        label: for screen readers.
    """
    x, y = Scale(0, 1, 40, 284), Scale(0, 1, 262, 26)
    below = Scale(0, 1, 350, 312)
    parts = frame(x, y, percent_ticks(x), percent_ticks(y), words["confidence"], words["accuracy"])
    total, step = sum(count or 0 for count, _, _ in bins), 1 / len(bins)
    for i, (count, confidence, accuracy) in enumerate(bins):
        left, wide = x(i * step) + 0.7, x(step) - x(0) - 1.4
        if not count or confidence is None or accuracy is None:
            continue
        hint = f"{int(count)}: {100 * confidence:.1f}% / {100 * accuracy:.1f}%"
        bar = "bar c0" if count >= _FEW else "bar c0 faint"
        parts.append(rectangle(left, y(accuracy), wide, y(0) - y(accuracy), bar, hint))
        share = count / total
        parts.append(rectangle(left, below(share), wide, below(0) - below(share), "bar c0 faint", hint))
    parts.append(line(x(0), y(0), x(1), y(1), "reference"))
    for count, confidence, accuracy in bins:
        if count and confidence is not None and accuracy is not None:
            parts.append(dot(x(confidence), y(accuracy), "dot c1", radius=3))
    parts.append(text(x.start, 309, words["images"], "axis"))
    parts.append(line(x(0), below(0), x(1), below(0), "grid"))
    return svg_image(304, 356, parts, label)


def curves_chart(
    series: Sequence[tuple[str, Sequence[Sequence[float]]]],
    x_label: str,
    y_label: str,
    label: str,
    *,
    shares: bool = True,
    first_colour: int = 0,
) -> Markup:
    """Lines of several series in one frame.

    Args:
        series: name and (x, y) points.
        x_label, y_label: names of the axes.
        label: for screen readers.
        shares: whether both axes are shares in percent; otherwise plain numbers.
        first_colour: of the first series.
    """
    values = np.array([point for _, points in series for point in points], float)
    (x_low, low), (x_high, high) = values.min(axis=0), values.max(axis=0)
    room = 0.04 * (high - low) or 0.01
    x = Scale(0 if shares else x_low, 1 if shares else x_high, 48, _WIDTH - 18)
    y = Scale(max(0, low - room), min(1, high + room) if shares else high + room, 254, 28)
    ticks = percent_ticks if shares else number_ticks
    parts = frame(x, y, ticks(x), ticks(y), x_label, y_label)
    for i, (_, points) in enumerate(series):
        drawn = [(x(float(a)), y(float(b))) for a, b in points]
        parts.append(polyline(drawn, f"curve {colour_of(first_colour + i)}"))
        if len(drawn) == 1:
            parts.append(dot(*drawn[0], f"dot {colour_of(first_colour + i)}"))
    return svg_image(_WIDTH, 294, parts, label)


def trade_chart(points: Sequence[tuple[str, float, Values]], words: Mapping[str, str], label: str) -> Markup:
    """Accuracy against milliseconds an image, on a scale of factors.

    Args:
        points: a short name, milliseconds (above 0), and figure of accuracy.
        words: names of the axes: ``ms``, ``accuracy``.
        label: for screen readers.
    """
    times = [ms for _, ms, _ in points]
    numbers = [v for _, _, f in points for v in (f["value"], f["low"], f["high"]) if v is not None]
    room = 0.05 * (max(numbers) - min(numbers)) + 0.01
    x = Scale(min(times) / 1.6, max(times) * 1.6, 48, _WIDTH - 18, log=True)
    y = Scale(max(0, min(numbers) - room), min(1, max(numbers) + room), 280, 28)
    parts = frame(x, y, number_ticks(x), percent_ticks(y), words["ms"], words["accuracy"])
    for _, ms, figure in points:
        if figure["low"] is not None:
            parts.append(line(x(ms), y(figure["low"]), x(ms), y(figure["high"]), "whisker c0 thin"))
    taken: list[tuple[float, float]] = []
    for name, ms, figure in sorted(points, key=lambda point: -point[2]["value"]):
        at, up = x(ms), y(figure["value"])
        parts.append(dot(at, up, "dot c0", f"{name}: {ms:.3g} ms, {100 * figure['value']:.1f}%"))
        places = [(at + 7, up + 4), (at - 15, up + 4), (at + 7, up + 17), (at - 15, up - 9), (at + 7, up - 9)]
        free = [p for p in places if all(abs(p[0] - a) > 13 or abs(p[1] - b) > 12 for a, b in taken)]
        place = (free or places)[0]
        taken += [place, (at - 4, up + 4)]
        parts.append(text(*place, name, "label halo strong"))
    return svg_image(_WIDTH, 320, parts, label)


def histogram_chart(title: str, own: Sequence[float], others: Sequence[float], label: str) -> Markup:
    """The probability that one class got on its own images and on those of others, as shares of each."""
    x, y = Scale(0, 1, 8, 198), Scale(0, max([*own, *others, 0.01]), 92, 24)
    parts, step = [text(8, 14, _shortened(title, 26), "label")], 1 / max(len(own), 1)
    for shares, colour in ((others, "c1"), (own, "c0")):
        for i, share in enumerate(shares):
            hint = f"{100 * i * step:.0f}–{100 * (i + 1) * step:.0f}%: {100 * share:.1f}%"
            left, wide = x(i * step) + 0.3, x(step) - x(0) - 0.6
            parts.append(rectangle(left, y(share), wide, y(0) - y(share), f"bar {colour} half", hint))
    parts.append(line(x(0), y(0), x(1), y(0), "grid"))
    ends = ((0, "start"), (0.5, "middle"), (1, "end"))
    parts += [text(x(v), 106, f"{100 * v:.0f}%", "tick", anchor) for v, anchor in ends]
    return svg_image(206, 110, parts, label)


def _shortened(name: str, columns: int) -> str:
    if text_width(name) <= columns:
        return name
    while text_width(name) > columns - 1:
        name = name[:-1]
    return name + "…"
