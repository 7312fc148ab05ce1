"""The charts of a report as SVG, from the report's own values; see :mod:`ferkit.evaluation.report.svg_axes`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ferkit.core.tables import width as text_width
from ferkit.evaluation.report.svg_axes import (
    Scale,
    colour_of,
    dot,
    frame,
    line,
    number_ticks,
    percent_ticks,
    picture,
    polyline,
    rectangle,
    text,
)

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
    return picture(_WIDTH, height, parts, label)


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
    return picture(304, 356, parts, label)


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
    return picture(_WIDTH, 294, parts, label)


def trade_chart(points: Sequence[tuple[str, float, Values]], words: Mapping[str, str], label: str) -> Markup:
    """Accuracy against milliseconds a picture, on a scale of factors.

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
    return picture(_WIDTH, 320, parts, label)


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
    return picture(206, 110, parts, label)


def _shortened(name: str, columns: int) -> str:
    if text_width(name) <= columns:
        return name
    while text_width(name) > columns - 1:
        name = name[:-1]
    return name + "…"
