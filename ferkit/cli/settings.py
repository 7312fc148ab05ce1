"""Settings of a command: fields of the dataclasses that it ends in, given by ``--set``, TOML or environment.

The dataclasses are the source of truth: name, type, default and explanation of a setting are those of the field.
"""

import contextlib
import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import click


@dataclass(frozen=True)
class Setting:
    """A value that a command takes by its key.

    Attributes:
        key: what the user writes.
        kind: the type, as it is annotated.
        default: taken where nothing is given; None is shown as nothing.
        help: one sentence for ``--help-all``.
        owner, field: the dataclass, and the field of it that is set; none for an argument of a function.
    """

    key: str
    kind: Any
    default: Any = None
    help: str = ""
    owner: type | None = None
    field: str = ""


class Fields:
    """Fields of a dataclass that are settings of a command; the dataclass is imported when it is asked for.

    Args:
        where: ``module:class``.
        names: the fields, as ``field`` or ``key=field``; all that the class has if none is given.
        under: put before every key.
        listed: only list them in ``--help-all``; the command reads them itself, as any other key.
        defaults: what the command takes instead of the dataclass's defaults.
    """

    def __init__(
        self, where: str, *names: str, under: str = "", listed: bool = False, **defaults: Any
    ) -> None:
        self._where, self._names, self._under, self.defaults = where, names, under, defaults
        self.listed = listed

    @property
    def owner(self) -> type:
        """The dataclass."""
        module, name = self._where.split(":")
        return getattr(import_module(module), name)

    def settings(self) -> list[Setting]:
        """One setting for each field."""
        owner = self.owner
        fields = {field.name: field for field in dataclasses.fields(owner)}
        kinds, about = typing.get_type_hints(owner), field_help(owner)
        found = []
        for name in self._names or fields:
            key, _, field = name.rpartition("=")
            key = key or field
            default = self.defaults.get(field, fields[field].default)
            if default is dataclasses.MISSING:
                default = None
            kind = kinds[field]
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                found += Fields(f"{kind.__module__}:{kind.__name__}", under=f"{self._under}{key}.").settings()
            else:
                text = about.get(field, "")
                found.append(Setting(self._under + key, kind, default, text, owner, field))
        return found


class Chosen:
    """What the user gave, by key; converted and checked for its type.

    Args:
        fields: the dataclasses of the command.
        known: its settings by key.
        values: key to value, as text or from TOML.
        rest: take other keys too.

    Attributes:
        given: what was given, by key.
        rest: what was given under other keys, as it is.

    Raises:
        click.BadParameter: an unknown key, or a value of another type.
    """

    def __init__(
        self,
        fields: Iterable["Fields | Setting"],
        known: Mapping[str, Setting],
        values: Mapping[str, Any],
        rest: bool,
    ) -> None:
        self._defaults = {f.owner: f.defaults for f in fields if isinstance(f, Fields)}
        self._known = known
        self.given: dict[str, Any] = {}
        self.rest: dict[str, Any] = {}
        for key, value in values.items():
            if key in known:
                self.given[key] = convert(value, known[key])
            elif rest:
                self.rest[key] = value
            else:
                raise click.BadParameter(
                    f"no setting is called {key!r}{suggestion(key, known)}; see --help-all"
                )

    def __getitem__(self, key: str) -> Any:
        return self.given.get(key, self._known[key].default)

    def of(self, owner: type) -> dict[str, Any]:
        """The fields of a dataclass that were given, or that the command sets otherwise than the dataclass."""
        given = {
            setting.field: self.given[key]
            for key, setting in self._known.items()
            if setting.owner is owner and key in self.given
        }
        return {**self._defaults.get(owner, {}), **given}


def suggestion(word: str, known: Iterable[str]) -> str:
    """``", did you mean …?"`` where a known word is close to the one given."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f", did you mean {' or '.join(close)}?" if close else ""


def field_help(owner: type) -> dict[str, str]:
    """What the docstring of a dataclass (and of those that it extends) says of each field, in one line."""
    found: dict[str, str] = {}
    for cls in reversed(owner.__mro__):
        _, _, text = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("Attributes:\n")
        for match in re.finditer(
            r"^    (\w+(?:, \w+)*): (.*(?:\n {6,}.*)*)", text.split("\n\n")[0], re.MULTILINE
        ):
            sentence = re.sub(r":\w+:`~?\.?([^`]*)`", r"\1", " ".join(match[2].split())).replace("``", "")
            found |= dict.fromkeys(match[1].split(", "), sentence)
    return found


def convert(value: Any, setting: Setting) -> Any:
    """The value of a setting from text, or from TOML.

    Raises:
        click.BadParameter: it is of another type.
    """
    expected, default = kind_words(setting.kind), setting.default
    try:
        found = _convert(value, setting.kind)
        counts = default is None or (isinstance(default, int) and default > 0)
        if type(found) is int and (found < 1 if counts else found < 0 and setting.key == "seed"):
            more = "a whole number above 0" if counts else "a whole number of 0 or more"
            expected = expected.replace("a whole number", more)
            raise ValueError
        return found
    except (ValueError, TypeError, click.BadParameter):
        raise click.BadParameter(f"expected {expected} for {setting.key}, found {value!r}") from None


def _convert(value: Any, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for one in sorted(inner, key=lambda one: one in (str, Path)):  # words before numbers before text
            with contextlib.suppress(ValueError, TypeError, click.BadParameter):
                return _convert(value, one)
    elif kind is types.NoneType:
        if value is None or str(value).lower() in ("", "none"):
            return None
    elif origin is Literal:
        if value in inner:
            return value
    elif isinstance(value, bool) or kind is bool:
        if kind is bool and isinstance(value, bool | str):
            return click.BOOL.convert(value, None, None)
    elif kind in (int, float):
        if kind is float or not isinstance(value, float):
            number = kind(value)
            if abs(number) < math.inf:
                return number
    elif origin is tuple:
        parts = re.split(r"[x,]", value) if isinstance(value, str) else value
        parts = parts if isinstance(parts, list) else [parts]
        if len(inner) == 2 and inner[1] is not ...:
            parts = [parts[0], parts[-1]] if len(parts) in (1, 2) else None
        if parts is not None:
            return tuple(_convert(part, inner[0]) for part in parts)
    else:
        return Path(str(value)) if kind is Path else str(value)
    raise ValueError


def kind_words(kind: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_words(one) for one in inner)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is tuple:
        return "a size such as 96x112" if inner[-1] is int else f"{kind_words(inner[0])}, several with commas"
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Path: "a path",
        types.NoneType: "none",
    }
    return names.get(kind, "a word")
