"""A film's expressions over time, as a picture."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.files import write_atomically
from ferkit.core.fonts import HINT, hangul_font_file, has_hangul
from ferkit.core.labels import LabelSet
from ferkit.inference.colors import RGB, UNSURE, label_colors
from ferkit.inference.film import UNSURE_NAME, FaceRow
from ferkit.inference.summary import FilmSummary

N_PEOPLE = 6
N_COLUMNS = 900


class Timeline:
    """Probabilities and labels of the people seen longest, in as many columns as a picture can show.

    Args:
        summary: of the film.
        labels: the classes.
    """

    def __init__(self, summary: FilmSummary, labels: LabelSet) -> None:
        self.people = summary.people[:N_PEOPLE]
        self.labels = labels
        self.end_s = max((p.last_s for p in self.people), default=0.0)
        self.start_s = min((p.first_s for p in self.people), default=0.0)
        self._row_of = {p.face: i for i, p in enumerate(self.people)}
        n_readings = max((p.n for p in self.people), default=1)
        self.n_columns = int(np.clip(n_readings, 1, N_COLUMNS))
        self.proba = np.zeros((len(self.people), self.n_columns, len(labels)))
        self.counts = np.zeros((len(self.people), self.n_columns), np.int64)
        self.shown = np.full((len(self.people), self.n_columns), -2, np.int64)

    def add(self, rows: Iterable[FaceRow]) -> "Timeline":
        """Take in all rows."""
        span_s = max(self.end_s - self.start_s, 1e-6)
        number = {name: i for i, name in enumerate(self.labels.names)} | {UNSURE_NAME: -1}
        for row in rows:
            i = self._row_of.get(row.face)
            if i is None:
                continue
            column = min(self.n_columns - 1, int((row.time_s - self.start_s) / span_s * self.n_columns))
            self.proba[i, column] += row.proba
            self.counts[i, column] += 1
            self.shown[i, column] = number[row.label]
        return self

    @property
    def edges_s(self) -> np.ndarray:
        """Where columns begin and end, (n_columns + 1,)."""
        return np.linspace(self.start_s, max(self.end_s, self.start_s + 1e-3), self.n_columns + 1)


def plot_timeline(timeline: Timeline, path: Path, title: str, language: str = "en") -> str | None:
    """Write a PNG: for each person the probabilities, stacked, and below them the label shown.

    Returns:
        What to tell the user if Hangul could not be drawn; None otherwise.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names, hint = timeline.labels.display(language), None
    unsure = {"en": "unsure", "ko": "불확실"}[language]
    font = hangul_font_file() if has_hangul([*names, title]) or language == "ko" else None
    if has_hangul(names) and font is None:
        names, unsure, hint = timeline.labels.display("en"), "unsure", HINT
    with rc_context(_font_settings(font)):  # type: ignore[arg-type]
        n = max(1, len(timeline.people))
        figure = Figure(figsize=(11, 1.1 + 1.7 * n), dpi=120, layout="constrained")
        axes = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
        colors = [_fractions(color) for color in label_colors(timeline.labels)]
        for i, axis in enumerate(axes[: len(timeline.people)]):
            _person(axis, timeline, i, colors)
        axes[-1].set_xlabel("시간 (초)" if language == "ko" and hint is None and font else "time in seconds")
        axes[0].set_title(title, loc="left", fontsize=11)
        _legend(figure, names, colors, unsure)

        def save(file: Any) -> None:
            figure.savefig(file, format="png")

        write_atomically(path, save)
    return hint


def _person(axis: Any, timeline: Timeline, i: int, colors: list[tuple[float, float, float]]) -> None:
    edges = timeline.edges_s
    there = timeline.counts[i] > 0
    mean = timeline.proba[i] / np.maximum(timeline.counts[i], 1)[:, None]
    # A column without a reading between two readings is a matter of rounding, not an absence.
    mean, shown, there = _filled(mean, timeline.shown[i], there)
    top = np.cumsum(mean, axis=1)
    for k, color in enumerate(colors):
        low = top[:, k - 1] if k else np.zeros(len(top))
        axis.stairs(np.where(there, top[:, k], np.nan), edges, baseline=np.where(there, low, np.nan),
                    fill=True, color=color, alpha=0.85, linewidth=0)  # fmt: skip
    palette = np.array([*colors, _fractions(UNSURE)])
    for first, last, label in _runs(np.where(there, shown, -2)):
        if label != -2:
            axis.axvspan(edges[first], edges[last], ymin=0, ymax=0.14, color=palette[label], linewidth=0)
    axis.axhline(0, color="white", linewidth=1.5)
    axis.set_ylim(-0.1628, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "", "1"])
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylabel(f"#{timeline.people[i].face}", rotation=0, labelpad=16, va="center")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _filled(
    mean: np.ndarray, shown: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, shown, there = mean.copy(), shown.copy(), there.copy()
    seen = np.flatnonzero(there)
    for a, b in zip(seen[:-1].tolist(), seen[1:].tolist(), strict=True):
        if 1 < b - a <= 3:
            mean[a + 1 : b], shown[a + 1 : b], there[a + 1 : b] = mean[a], shown[a], True
    return mean, shown, there


def _runs(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, one past the last, label) of each stretch of equal labels."""
    cuts = np.flatnonzero(np.diff(labels)) + 1
    starts, ends = [0, *cuts.tolist()], [*cuts.tolist(), len(labels)]
    return [(a, b, int(labels[a])) for a, b in zip(starts, ends, strict=True)]


def _legend(
    figure: Any, names: tuple[str, ...], colors: list[tuple[float, float, float]], unsure: str
) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)]
    patches.append(Patch(color=_fractions(UNSURE), label=unsure))
    figure.legend(handles=patches, loc="outside right upper", frameon=False, fontsize=9)


def _fractions(color: RGB) -> tuple[float, float, float]:
    return color[0] / 255, color[1] / 255, color[2] / 255


def _font_settings(file: Path | None) -> dict[str, Any]:
    """Matplotlib's settings for a font file; its own font for None."""
    if file is None:
        return {}
    from matplotlib import font_manager

    font_manager.fontManager.addfont(str(file))
    added = font_manager.fontManager.ttflist[-1]
    return {
        "font.family": [added.name, "DejaVu Sans"],
        "font.weight": added.weight,
        "axes.labelweight": added.weight,
    }
