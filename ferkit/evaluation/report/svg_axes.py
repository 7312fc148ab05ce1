"""The frame of a chart as SVG: scales, ticks, grid, and text that the reader's browser draws.

Colours are classes of the page's style sheet, so that a chart follows light and dark, and Hangul needs no font on the
machine that wrote it. Charts are some 400 units wide with letters of 12, which a phone shows almost at full size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

N_COLOURS = 8
"""Classes ``c0`` to ``c7``; further series take them again, with dashes."""


@dataclass(frozen=True)
class Scale:
    """Numbers to a stretch of the picture.

    Attributes:
        low, high: the numbers at its ends.
        start, end: where these lie, in units of the picture.
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


def picture(width: float, height: float, parts: Sequence[str], label: str) -> Markup:
    """The whole chart; ``label`` is what a screen reader says."""
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def colour_of(i: int) -> str:
    """Classes of the i-th series."""
    return f"c{i % N_COLOURS}" + (f" dash{i // N_COLOURS}" if i >= N_COLOURS else "")
