"""One palette for plots, reports, pages and the site, told apart in gray and with red-green blindness."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from ferkit.core import style

ROOT = Path(__file__).resolve().parents[2]
DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
PROTANOPIA = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
"""Of linear RGB; Machado, Oliveira and Fernandes, 2009, severity 1."""


def linear(color: str) -> np.ndarray:
    c = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.clip(
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb, 0, 1
    )
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize(
    "sees", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["all", "deuteranopia", "protanopia"]
)
def test_the_first_colours_are_told_apart(sees: np.ndarray) -> None:
    seen = [lab(np.clip(sees @ linear(color), 0, 1)) for color in style.SERIES[:3]]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) > 20


def test_the_first_colours_are_told_apart_in_gray() -> None:
    lightness = [lab(linear(color))[0] for color in style.SERIES[:3]]
    assert min(abs(a - b) for a, b in itertools.combinations(lightness, 2)) > 7


def test_colours_are_seen_on_white() -> None:
    for color in (style.ACCENT, style.INK, style.MUTED, *style.SERIES):
        luminance = float(np.array([0.2126, 0.7152, 0.0722]) @ linear(color))
        least = 4.5 if color in (style.ACCENT, style.INK, style.MUTED) else 2.8
        assert 1.05 / (luminance + 0.05) >= least, color


def test_style_sheets_have_the_same_colours() -> None:
    def found(path: str, pattern: str) -> str:
        match = re.search(pattern, (ROOT / path).read_text(encoding="utf-8"))
        assert match, path
        return match[1].lower()

    for path, pattern in (
        ("ferkit/serving/static/css/base.css", r"--accent: (#\w+)"),
        ("ferkit/serving/static/icons/logo.svg", r'fill="(#\w+)"'),
        ("ferkit/evaluation/report/templates/style.css", r"--link: (#\w+)"),
        ("ferkit/audit/templates/audit.css", r"--link: (#\w+)"),
        ("docs/.theme/site.css", r"--md-primary-fg-color: (#\w+)"),
    ):
        assert found(path, pattern) == style.ACCENT, path
    for i, color in enumerate(style.SERIES):
        assert found("ferkit/evaluation/report/templates/style.css", rf"--c{i}: (#\w+)") == color
