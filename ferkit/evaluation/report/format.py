"""How a report writes numbers, and where it has its words from."""

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

Value = float | None

_NBSP = "\u00a0"
MISSING = "–"


def percent(value: Value, digits: int = 1) -> str:
    """``0.6744`` as ``67.4 %``."""
    return MISSING if value is None else f"{100 * value:.{digits}f}{_NBSP}%"


def points(value: Value) -> str:
    """A difference of shares in percentage points, with its sign."""
    # Adding nothing makes a negative zero a positive one.
    return MISSING if value is None else f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−")


def number(value: Value, digits: int = 3) -> str:
    """A number of so many decimals."""
    return MISSING if value is None else f"{value:.{digits}f}"


def amount(value: Value) -> str:
    """About three digits, whatever the size."""
    if value is None:
        return MISSING
    if 0 < abs(value) < 0.01:
        return "< 0.01"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def duration(seconds: Value) -> str:
    """Seconds as a reader says them."""
    if seconds is None:
        return MISSING
    if seconds < 100:
        return f"{amount(seconds)}{_NBSP}s"
    return f"{seconds / 60:.0f}{_NBSP}min" if seconds < 5400 else f"{seconds / 3600:.1f}{_NBSP}h"


def p_value(value: Value) -> str:
    """Two digits, and no false precision below a thousandth."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def interval(figure: Mapping[str, Value], kind: str = "percent") -> str:
    """Both ends, in the unit of the value; empty where there is none."""
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return ""
    if kind == "points":
        return f"{points(low)} … {points(high)}"
    return f"{100 * low:.1f}–{100 * high:.1f}" if kind == "percent" else f"{low:.3f}–{high:.3f}"


FORMATS = {
    "percent": percent, "points": points, "number": number, "amount": amount, "duration": duration,
    "p": p_value,
}  # fmt: skip


class Words:
    """A report's words in one language.

    Args:
        language: ``en`` or ``ko``.
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **fields: Any) -> str:
        """The words for ``group.key`` with its fields filled in; a field ``{value:pct}`` is written as a percentage."""
        group, _, name = key.partition(".")
        template = _tables()[group][name][self.language]
        return template.format_map({name: _Shown(value) for name, value in fields.items()})


class _Shown:
    """A value that knows the formats ``pct`` and ``pct0`` beside those of its type."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __format__(self, spec: str) -> str:
        if spec.startswith("pct"):
            return percent(self.value, int(spec[3:] or 1))
        return format(self.value, spec)


@functools.cache
def _tables() -> dict[str, Any]:
    text = (
        resources.files("ferkit.evaluation.report.templates")
        .joinpath("words.toml")
        .read_text(encoding="utf-8")
    )
    return tomllib.loads(text)
