"""Say things in English or Korean, from one table of texts, with numbers as readers write them.

Pages and reports take their words by key (:class:`Translations`). What commands say, errors too, is English where it
arises and is put into the user's language at the border (:func:`translated`), so that Python callers and log files
have one language.
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from importlib import resources
from typing import Any

from ferkit.core.errors import DataError
from ferkit.core.files import parse_toml

LANGUAGES = ("en", "ko")
MISSING = "–"

Value = float | None

_language: ContextVar[str] = ContextVar("language", default="en")


def current_language() -> str:
    """The language that is spoken now: English outside of :func:`speaking`."""
    return _language.get()


@contextlib.contextmanager
def speaking(language: str) -> Iterator[None]:
    """Speak ``language`` (``en`` or ``ko``) within the block."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def language_of_locale() -> str:
    """The language of the user's locale, as far as it is one of ours; else English."""
    if sys.platform == "win32":  # pragma: no cover
        import ctypes

        return "ko" if ctypes.windll.kernel32.GetUserDefaultUILanguage() & 0xFF == 0x12 else "en"
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "ko" if next(filter(None, names), "").lower().startswith("ko") else "en"


def has_hangul(texts: Iterable[str]) -> bool:
    """Whether any of ``texts`` holds a Korean letter."""
    return any("\u1100" <= c <= "\u11ff" or "\u3130" <= c <= "\u318f" or "\uac00" <= c <= "\ud7a3"
               for text in texts for c in text)  # fmt: skip


def percent(value: Value, digits: int = 1) -> str:
    """``0.6744`` as ``67.4%``."""
    return MISSING if value is None else f"{100 * value:.{digits}f}%"


def points(value: Value) -> str:
    """A difference of shares in percentage points, with its sign."""
    if value is None:
        return MISSING
    return f"{100 * value:+.1f}".replace("-", "−") if round(100 * value, 1) else "0.0"


def number(value: Value, digits: int = 3) -> str:
    """A number of so many decimals."""
    return MISSING if value is None else f"{value:.{digits}f}"


def amount(value: Value) -> str:
    """About three digits, however large it is."""
    if value is None:
        return MISSING
    if 0 < abs(value) < 0.01:
        return "< 0.01"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def p_value(value: Value) -> str:
    """Two digits, and no false precision below a thousandth."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


class Translations:
    """The words of one area in one language.

    Args:
        language: ``en`` or ``ko``.
        area: table of ``texts.toml``.

    >>> Translations("ko")("column.recall")
    '재현율'
    """

    def __init__(self, language: str, area: str = "report") -> None:
        if language not in LANGUAGES:
            raise DataError(f"expected a language of {', '.join(LANGUAGES)}, found {language!r}")
        self.language, self._area = language, area

    def __call__(self, key: str, **fields: Any) -> str:
        """The words for ``group.key`` with its fields filled in; a field ``{value:pct}`` is written as a percentage."""
        group, _, name = key.partition(".")
        template: str = text_table()[self._area][group][name][self.language]
        text = template.format_map({name: _Shown(value) for name, value in fields.items()})
        return with_particles(text) if self.language == "ko" else text

    def interval(self, figure: Mapping[str, Value], kind: str = "percent") -> str:
        """Both ends of a figure's interval, in the unit of its value; empty where there is none."""
        low, high = figure["low"], figure["high"]
        if low is None or high is None:
            return ""
        korean = self.language == "ko"
        if kind == "points":
            return f"{points(low)} {'~' if korean else '…'} {points(high)}"
        ends = (f"{100 * end:.1f}" if kind == "percent" else f"{end:.3f}" for end in (low, high))
        return ("~" if korean else "–").join(ends)

    def duration(self, seconds: Value) -> str:
        """Seconds as a reader says them."""
        if seconds is None:
            return MISSING
        i = (seconds >= 100) + (seconds >= 5400)
        units = ("초", "분", "시간") if self.language == "ko" else (" s", " min", " h")
        return (amount(seconds), f"{seconds / 60:.0f}", f"{seconds / 3600:.1f}")[i] + units[i]


class _Shown:
    """A value that knows the formats ``pct``, ``pct0`` and ``points`` besides those of its type."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __format__(self, spec: str) -> str:
        if spec.startswith("pct"):
            return percent(self.value, int(spec[3:] or 1))
        if spec == "points":  # of a gap, whose sign the sentence says
            return f"{100 * self.value:.1f}"
        return format(self.value, spec)


@functools.cache
def text_table() -> dict[str, Any]:
    """All texts: area, group, key, language; ``message`` is a list of texts by language."""
    return parse_toml(resources.files("ferkit.core").joinpath("texts.toml").read_text(encoding="utf-8"))


_PARTICLES = {
    "은(는)": "은는",
    "이(가)": "이가",
    "을(를)": "을를",
    "과(와)": "과와",
    "(으)로": ("으로", "로"),
}
_FINAL_DIGITS = {"0": 21, "1": 8, "2": 0, "3": 16, "4": 0, "5": 0, "6": 1, "7": 8, "8": 8, "9": 0, "%": 0}
"""The number of the final consonant with which the Korean name of a digit or sign ends: 영, 일, 이, 삼 … (8 is ㄹ)."""


def with_particles(text: str) -> str:
    """``슬픔은(는)`` as ``슬픔은``: where the letter before tells which of the two forms is right.

    >>> with_particles("행복이(가) '분노'이(가) 3(셋)을(를) model은(는)")
    "행복이 '분노'가 3(셋)을 model은(는)"
    """

    def chosen(match: re.Match[str]) -> str:
        before, between, particle = match.groups()
        if "가" <= before <= "힣":
            final = (ord(before) - ord("가")) % 28
        elif before in _FINAL_DIGITS:
            final = _FINAL_DIGITS[before]
        else:
            return match[0]
        closed, opened = _PARTICLES[particle]
        return before + between + (opened if not final or (particle == "(으)로" and final == 8) else closed)

    return re.sub(rf"(.)('|\([^()]*\)|)({'|'.join(map(re.escape, _PARTICLES))})", chosen, text)


_CLAUSES = ("doing", "exact", "found", "hint", "how", "more", "near", "note", "reason", "unit", "what", "why")
"""Fields of messages that may hold a message of their own."""


def translated(message: str, language: str | None = None) -> str:
    """What a command, a note or an error says, in a language; what the table does not know stays English.

    Args:
        message: in English.
        language: ``en`` or ``ko``; None for the one that is spoken now.
    """
    language = language or current_language()
    if language == "en" or "\n" in message or message.startswith("{"):  # tables of results, and JSON
        return message
    for pattern, template in _messages(language):
        found = pattern.fullmatch(message)
        if found is not None:
            parts = {
                name: translated(part, language) if name in _CLAUSES else part
                for name, part in found.groupdict().items()
            }
            return with_particles(template.format_map(parts))
    return message


@functools.cache
def _messages(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    # What has the most words of its own comes first: 'the table {path} …' before '{path} …'.
    messages = sorted(text_table()["message"], key=lambda one: -len(re.sub(r"\{\w+\}", "", one["en"])))
    return tuple((_pattern(one["en"]), one[language]) for one in messages)


_KINDS = {"key": r"\S+", "path": "(?:(?!: ).)+?"} | dict.fromkeys(("hint", "more"), "(?:[;,. ].*?)?")


def _pattern(template: str) -> re.Pattern[str]:
    """What fits the template, with a group for each ``{name}``.

    ``{n}``, ``{n_…}`` and ``{all}`` are whole numbers; ``{hint}`` and ``{more}`` may be empty; a
    ``{key}`` has no space in it, and a ``{path}`` none behind a colon.
    """
    parts = []
    for i, part in enumerate(re.split(r"\{(\w+)\}", template)):
        if i % 2 == 0:
            parts.append(re.escape(part))
        else:
            kind = _KINDS.get(part, "[0-9,]+" if re.fullmatch("all|n(_.*)?", part) else ".+?")
            parts.append(f"(?P<{part}>{kind})")
    return re.compile("".join(parts), re.DOTALL)
