"""Draw a report's charts: one description for the page and for files.

In the page they are SVG whose colours are classes of the style sheet, so that a chart follows light and dark, and
Hangul needs no font on the machine that wrote it. They are some 400 units wide with letters of 12, which a phone shows
almost at full size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from ferkit.core.console import shortened
from ferkit.core.console import width as text_width
from ferkit.core.style import SERIES
from ferkit.core.texts import MISSING, Translations, percent, points

N_COLOURS = len(SERIES)
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
        low, high = self.low, self.high
        if self.log:
            low, high, value = (float(np.log(v)) for v in (low, high, max(value, 1e-12)))
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


def percent_ticks(scale: Scale) -> list[tuple[float, str]]:
    """Ticks of a share, written as percentages."""
    marks = scale.ticks()
    digits = 1 if any(abs(100 * mark - round(100 * mark)) > 1e-6 for mark in marks) else 0
    return [(mark, f"{100 * mark:.{digits}f}%") for mark in marks]


def number_ticks(scale: Scale) -> list[tuple[float, str]]:
    """Ticks written as numbers."""
    return [(mark, f"{mark:g}") for mark in scale.ticks()]


@dataclass(frozen=True)
class Shape:
    """One mark of a drawing.

    Attributes:
        kind: ``text``, ``line``, ``rect``, ``polyline`` or ``dot``.
        points: where it lies, (x, y) each; of a box its left upper and right lower corner.
        classes: of the style sheet.
        words: what is written, or shown when a mark is pointed at.
        anchor: which part of a text lies at its point: ``start``, ``middle`` or ``end``.
        strength: of a coloured box, 0..1; of a dot its radius.
    """

    kind: str
    points: tuple[tuple[float, float], ...]
    classes: str = ""
    words: str = ""
    anchor: str = "start"
    strength: float = 1.0


@dataclass(frozen=True)
class Drawing:
    """Marks on a sheet: shown by a browser as SVG, or written as PNG by :func:`ferkit.evaluation.plots.draw_png`.

    Attributes:
        width, height: of the sheet.
        shapes: from back to front.
        label: what a screen reader says.
    """

    width: float
    height: float
    shapes: tuple[Shape, ...]
    label: str

    def __html__(self) -> Markup:
        """The SVG, for pages."""
        body = "".join(map(_svg, self.shapes))
        return Markup(
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}" '
            f'role="img" aria-label="{escape(self.label)}">{body}</svg>'
        )


def _svg(shape: Shape) -> str:
    (x, y), (right, low) = shape.points[0], shape.points[-1]
    title = f"<title>{escape(shape.words)}</title>" if shape.words else ""
    if shape.kind == "text":
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{shape.anchor}"'
        return f'<text {place} class="{shape.classes}">{escape(shape.words)}</text>'
    if shape.kind == "line":
        return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{low:.1f}" class="{shape.classes}"/>'
    if shape.kind == "polyline":
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        return f'<polyline points="{joined}" class="{shape.classes}"/>'
    if shape.kind == "dot":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{shape.strength:g}" class="{shape.classes}">{title}</circle>'
    opacity = f' opacity="{shape.strength:.3f}"' if shape.strength < 1 else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(right - x, 0):.1f}" height="{max(low - y, 0):.1f}" '
        f'class="{shape.classes}"{opacity}>{title}</rect>'
    )


def text(x: float, y: float, content: str, classes: str = "", anchor: str = "start") -> Shape:
    """A line of text."""
    return Shape("text", ((x, y),), classes, content, anchor)


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> Shape:
    """A straight line."""
    return Shape("line", ((x1, y1), (x2, y2)), classes)


def bar(x: float, scale: Scale, value: float, width: float, classes: str, hint: str = "") -> Shape:
    """A box from the bottom of a scale to a value."""
    return rectangle(x, scale(value), width, scale(0) - scale(value), classes, hint)


def rectangle(
    x: float, y: float, width: float, height: float, classes: str, hint: str = "", strength: float = 1.0
) -> Shape:
    """A filled box; ``hint`` is shown when it is pointed at."""
    return Shape("rect", ((x, y), (x + width, y + height)), classes, hint, strength=strength)


def dot(x: float, y: float, classes: str, hint: str = "", radius: float = 4) -> Shape:
    """A round mark; ``hint`` is shown when it is pointed at."""
    return Shape("dot", ((x, y),), classes, hint, strength=radius)


def together(
    drawings: Sequence[Drawing],
    title: str,
    *,
    columns: int = 1,
    detail: str = "",
    key: Sequence[tuple[str, str]] = (),
) -> Drawing:
    """Several drawings in rows on one sheet, under a title: what a file needs that has no page around it.

    Args:
        drawings: from left to right, then down.
        title: above all, and for screen readers.
        columns: in a row.
        detail: below the title.
        key: below all: the colour and the name of each series.
    """
    gap, x, y = 14.0, 14.0, 64.0 if detail else 44.0
    shapes = [text(14, 28, title, "title"), *([text(14, 48, detail, "axis")] if detail else [])]
    width = 28 + max([columns * (d.width + gap) - gap for d in drawings] + [text_width(detail) * 6.4])
    for first in range(0, len(drawings), columns):
        row = drawings[first : first + columns]
        for place, drawing in enumerate(row):
            dx = x + place * (drawing.width + gap)
            shapes += [replace(s, points=tuple((a + dx, b + y) for a, b in s.points)) for s in drawing.shapes]
        y += max(drawing.height for drawing in row) + gap
    for colour, name in key:
        shapes += [rectangle(x, y - 4, 14, 9, f"bar {colour}"), text(x + 19, y + 5, name)]
        x += 40 + 7.4 * text_width(name)
    return Drawing(max(width, x + 14 if key else 0), y + (22 if key else 0), tuple(shapes), title)


def frame(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_label: str,
    y_label: str,
) -> list[Shape]:
    """Grid, ticks and the names of the axes; the one of ``y`` stands above it, to be read without turning."""
    parts = [line(x.start, y(v), x.end, y(v), "grid") for v, _ in y_ticks]
    parts += [line(x(v), y.start, x(v), y.end, "grid") for v, _ in x_ticks]
    parts += [text(x.start - 5, y(v) + 4, name, "tick", "end") for v, name in y_ticks]
    parts += [text(x(v), y.start + 15, name, "tick", "middle") for v, name in x_ticks]
    parts.append(text((x.start + x.end) / 2, y.start + 32, x_label, "axis", "middle"))
    parts.append(text(x.start - 30, y.end - 9, y_label, "axis"))
    return parts


def colour_of(i: int) -> str:
    """Classes of the i-th series."""
    return f"c{i % N_COLOURS}" + (f" dash{i // N_COLOURS}" if i >= N_COLOURS else "")


Values = Mapping[str, Any]

_WIDTH = 420.0
_FEW = 10
"""Images of a bin below which its accuracy says little."""


def intervals_chart(rows: Sequence[tuple[str, Values, str]], label: str, reference: float | None) -> Drawing:
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
        parts.append(text(14, y - 11, shortened(name, 46), "label halo"))
        parts.append(text(_WIDTH - 4, y - 11, written, "value", "end"))
        if figure["low"] is not None:
            parts.append(line(x(figure["low"]), y, x(figure["high"]), y, "whisker c0"))
        parts.append(dot(x(figure["value"]), y, "dot c0", f"{name}: {written}"))
    return Drawing(_WIDTH, height, tuple(parts), label)


def reliability_chart(
    bins: Sequence[Sequence[float | None]], words: Mapping[str, str], label: str
) -> Drawing:
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
        classes = "bar c0" if count >= _FEW else "bar c0 faint"
        parts.append(bar(left, y, accuracy, wide, classes, hint))
        parts.append(bar(left, below, count / total, wide, "bar c0 faint", hint))
    parts.append(line(x(0), y(0), x(1), y(1), "reference"))
    for count, confidence, accuracy in bins:
        if count and confidence is not None and accuracy is not None:
            parts.append(dot(x(confidence), y(accuracy), "dot c1", radius=3))
    parts.append(text(x.start, 309, words["images"], "axis"))
    parts.append(line(x(0), below(0), x(1), below(0), "grid"))
    return Drawing(304, 356, tuple(parts), label)


def curves_chart(
    series: Sequence[tuple[str, Sequence[Sequence[float]]]],
    x_label: str,
    y_label: str,
    label: str,
    *,
    shares: bool = True,
) -> Drawing:
    """Lines of several series in one frame.

    Args:
        series: name and (x, y) points.
        x_label, y_label: names of the axes.
        label: for screen readers.
        shares: whether both axes are shares in percent; otherwise plain numbers.
    """
    values = np.array([point for _, points in series for point in points], float)
    (x_low, low), (x_high, high) = values.min(axis=0), values.max(axis=0)
    room = 0.04 * (high - low) or 0.01
    x = Scale(0 if shares else x_low, 1 if shares else x_high, 48, _WIDTH - 18)
    y = Scale(max(0, low - room), min(1, high + room) if shares else high + room, 254, 28)
    ticks = percent_ticks if shares else number_ticks
    parts = frame(x, y, ticks(x), ticks(y), x_label, y_label)
    for i, (_, places) in enumerate(series):
        drawn = [(x(float(a)), y(float(b))) for a, b in places]
        parts.append(Shape("polyline", tuple(drawn), f"curve {colour_of(i)}"))
        if len(drawn) == 1:
            parts.append(dot(*drawn[0], f"dot {colour_of(i)}"))
    return Drawing(_WIDTH, 294, tuple(parts), label)


def trade_chart(points: Sequence[tuple[str, float, Values]], words: Mapping[str, str], label: str) -> Drawing:
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
    return Drawing(_WIDTH, 320, tuple(parts), label)


def histogram_chart(title: str, own: Sequence[float], others: Sequence[float], label: str) -> Drawing:
    """The probability that one class got on its own images and on those of others, as shares of each."""
    x, y = Scale(0, 1, 8, 198), Scale(0, max([*own, *others, 0.01]), 92, 24)
    parts, step = [text(8, 14, shortened(title, 26), "label")], 1 / max(len(own), 1)
    for shares, colour in ((others, "c1"), (own, "c0")):
        for i, share in enumerate(shares):
            hint = f"{100 * i * step:.0f}–{100 * (i + 1) * step:.0f}%: {100 * share:.1f}%"
            left, wide = x(i * step) + 0.3, x(step) - x(0) - 0.6
            parts.append(bar(left, y, share, wide, f"bar {colour} half", hint))
    parts.append(line(x(0), y(0), x(1), y(0), "grid"))
    ends = ((0, "start"), (0.5, "middle"), (1, "end"))
    parts += [text(x(v), 106, f"{100 * v:.0f}%", "tick", anchor) for v, anchor in ends]
    return Drawing(206, 110, tuple(parts), label)


def confusion_chart(one: Values, shown: Mapping[str, str], words: Translations) -> Drawing:
    """The confusion matrix of an evaluation: colour and percentage by row, counts below them.

    Args:
        one: with ``evaluation``, as in ``report.json``.
        shown: what the classes are called.
        words: of the language.
    """
    names = [shown[name] for name in one["evaluation"]["labels"]]
    matrix = one["evaluation"]["confusion"]
    rows = [shown.get(name, f"{name} *") for name in matrix["rows"]]
    totals = [sum(counts) for counts in matrix["counts"]]
    left = [f"{shortened(name, 26)} ({n:,})" for name, n in zip(rows, totals, strict=True)]
    wide = float(np.clip(7.4 * max(map(text_width, names)) + 8, 58, 104))
    start, step = 18 + 7.0 * max(map(text_width, left)), 40.0
    parts = [
        text(start, 16, f"{words('column.predicted')} →", "axis"),
        text(8, 38, f"{words('column.true')} ↓", "axis"),
    ]
    for j, name in enumerate(names):
        parts.append(text(start + (j + 0.5) * wide, 38, shortened(name, 13), "tick", "middle"))
    for i, counts in enumerate(matrix["counts"]):
        top = 46 + i * step
        parts.append(text(start - 8, top + 24, left[i], "label", "end"))
        for j, n in enumerate(counts):
            share = n / totals[i] if totals[i] else 0.0
            place = start + j * wide
            parts.append(rectangle(place + 0.5, top + 0.5, wide - 1, step - 1, "bar c0", strength=share))
            on = "on " if share > 0.55 else ""
            written = percent(share, 0) if totals[i] else MISSING
            parts.append(text(place + wide / 2, top + 18, written, f"{on}strong", "middle"))
            parts.append(text(place + wide / 2, top + 33, f"{n:,}", f"{on}tick", "middle"))
    label = words("part.confusion")
    return Drawing(start + len(names) * wide + 12, 54 + len(rows) * step, tuple(parts), label)


def classes_chart(one: Values, shown: Mapping[str, str], words: Translations) -> Drawing:
    """Precision, recall and F1 of each class with their intervals; arguments as of :func:`confusion_chart`."""
    per_class = one["evaluation"]["per_class"]
    wide = float(np.clip(7.4 * max(text_width(shown[name]) for name in per_class) + 10, 96, 150))
    x0, y = 48.0, Scale(0, 1, 290, 14)
    end = x0 + wide * len(per_class)
    parts = [line(x0, y(v), end, y(v), "grid") for v, _ in percent_ticks(y)]
    parts += [text(x0 - 5, y(v) + 4, name, "tick", "end") for v, name in percent_ticks(y)]
    for i, (name, figures) in enumerate(per_class.items()):
        middle = x0 + (i + 0.5) * wide
        parts.append(text(middle, 308, shortened(shown[name], 20), "label", "middle"))
        parts.append(text(middle, 323, f"{figures['support']:,}", "tick", "middle"))
        for k, part in enumerate(PARTS_OF_CLASS):
            figure, at = figures[part], middle + (k - 1) * 26
            if figure["value"] is None:
                parts.append(text(at, y(0) - 4, MISSING, "tick", "middle"))
                continue
            hint = f"{shown[name]}, {words(f'column.{part}')}: {percent(figure['value'])}"
            parts.append(bar(at - 12, y, figure["value"], 24, f"bar c{k}", hint))
            if figure["low"] is not None:
                parts.append(line(at, y(figure["low"]), at, y(figure["high"]), "error"))
    return Drawing(end + 14, 332, tuple(parts), words("part.class"))


PARTS_OF_CLASS = ("precision", "recall", "f1")


def recalls_chart(
    groups: Sequence[tuple[str, Sequence[tuple[str, Values, Values | None]]]], label: str, words: Translations
) -> Drawing:
    """For each expression the recall by the data trained on, and its change against the data's own, with intervals.

    Args:
        groups: what was tested, and for each row of it the name of what was trained on, the recall, and its change;
            None for the change of the data's own training part.
        label: for screen readers.
        words: of the language.
    """
    named = 8.0 + 7.0 * min(30, max(text_width(name) for _, rows in groups for name, *_ in rows))
    x = Scale(0, 1, named + 12, named + 232)
    changes = [change for _, rows in groups for *_, change in rows if change]
    ends = [change[end] for change in changes for end in ("value", "low", "high")]
    reach = max([0.1, *(abs(end) for end in ends if end is not None)])
    change = Scale(-reach, reach, x.end + 72, x.end + 272)
    height = 54 + sum(24 + 18 * len(rows) for _, rows in groups)
    parts = [
        text(x.start, 16, words("column.recall"), "axis"),
        text(change.start, 16, words("column.change"), "axis"),
    ]
    ticks = [(scale, value) for scale in (x, change) for value in scale.ticks(4)]
    for scale, value in ticks:
        written = percent(value, 0) if scale is x else points(value)
        parts.append(text(scale(value), 32, written, "tick", "middle"))
    at = 54.0
    for title, rows in groups:
        parts.append(text(8, at, title, "label strong"))
        top, bottom = at + 8, at + 10 + 18 * len(rows)  # lines end where a title is
        parts += [line(scale(value), top, scale(value), bottom, "grid") for scale, value in ticks]
        parts.append(line(change(0), top, change(0), bottom, "reference"))
        for k, (name, recall, difference) in enumerate(rows):
            at += 18
            colour = colour_of(k)
            parts.append(text(x.start - 8, at + 4, shortened(name, 30), "label", "end"))
            for scale, figure, written in (
                (x, recall, percent(recall["value"])),
                (change, difference, points(difference["value"]) if difference else ""),
            ):
                if figure is None or figure["value"] is None:
                    continue
                if figure["low"] is not None:
                    parts.append(
                        line(scale(figure["low"]), at, scale(figure["high"]), at, f"whisker {colour}")
                    )
                parts.append(dot(scale(figure["value"]), at, f"dot {colour}", f"{title}, {name}: {written}"))
                parts.append(text(scale.end + 56, at + 4, written, "value", "end"))
        at += 24
    return Drawing(change.end + 68, height, tuple(parts), label)
