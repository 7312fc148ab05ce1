"""Everything that ferkit raises on purpose.

    FerkitError
    ├── DataError (ValueError)          the images, labels or tables given are not usable
    │   └── ImageError                  one image cannot be read
    ├── StoreError                      an embedding store cannot be used
    │   ├── SettingsMismatchError       it was made with other settings
    │   ├── StoreLockedError            another process is writing to it
    │   └── StoreDamagedError           a file in it is not what was written
    ├── WeightsError                    weights are missing, or not the ones expected
    ├── ModelError                      a model folder cannot be used
    ├── TrainingError                   a network or head cannot be trained as asked
    └── DependencyError (ImportError)   an optional package is not installed

Each message says what was expected, what was found, and the remedy. Commands print it as one line and
leave with exit code 1. Passwords in addresses are never shown. Public functions refuse values of other types by
:func:`checked`.
"""

import functools
import importlib.util
import inspect
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

# What follows "user:" up to the last @ of the host's part; where a slash stands in the password, of the whole word.
# Without a colon all of it, as it may be a token; an address within another has its signs escaped.
_PASSWORD = re.compile(
    r"([a-z][a-z0-9+.-]+://[^\s/?#@:\[]*:)(?:[^\s/?#]*(?=@)|(?!\d*(?:[/?#\s]|$))\S*(?=@))"
    r"|([a-z][a-z0-9+.-]+://)[^\s/?#@:\[…]+(?=@)|(%3A%2F%2F[^%\s]*%3A)\S*?(?=%40)",
    re.IGNORECASE,
)
_PARAMETER = re.compile(
    r"((?:[?&;#][\w.~%-]*(?:pas|pwd?|token|secret|key|auth|sig|jwt|hmac|cred|ses|sid|code|hdnt|%[2-7])[\w.~%-]*|_password)=)[^&#\s'\"]+",
    re.IGNORECASE,
)
# What a terminal would obey instead of showing it, and what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def mask_credentials(text: str) -> str:
    """Replace passwords, and parameters such as ``token=``, of all addresses in ``text`` by an ellipsis."""
    return _PARAMETER.sub(r"\1…", _PASSWORD.sub(r"\1\2\3…", text))


def printable(text: str, *, lines: bool = True) -> str:
    """A text without passwords, and with the control characters that names of files may have escaped as in JSON.

    Args:
        text: meant for people.
        lines: keep line ends.
    """
    text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", mask_credentials(text))
    return text if lines else text.replace("\n", "\\n")


class FerkitError(Exception):
    """Base of all errors that a user can do something about.

    >>> import ferkit
    >>> try:
    ...     ferkit.load_dataset("no/such/folder")
    ... except ferkit.FerkitError as error:
    ...     print(str(error).split(",")[-1])
     found nothing at no/such/folder; check the path
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=False)


class DataError(FerkitError, ValueError):
    """Images, labels or arrays that cannot be used."""


class ImageError(DataError):
    """One image that cannot be read; the run goes on without it."""


class StoreError(FerkitError):
    """An embedding store that cannot be read or written."""


class SettingsMismatchError(StoreError):
    """A store or checkpoint that was made with other settings."""


class StoreLockedError(StoreError):
    """A store that another process is writing to."""


class StoreDamagedError(StoreError):
    """A store in which a file is missing or was altered."""


class WeightsError(FerkitError):
    """Weights that are missing, unreachable or not the ones expected."""


class ModelError(FerkitError):
    """A model folder that is missing, foreign or damaged."""


class TrainingError(FerkitError):
    """Training that cannot start or cannot go on."""


class DependencyError(FerkitError, ImportError):
    """An optional package that is not installed; the message names the extra to install."""


EXTRAS = {
    "deepface": ("deepface",),
    "mediapipe": ("mediapipe",),
    "openvino": ("openvino",),
    "plots": ("matplotlib",),
    "train": ("keras", "tensorflow", "tf2onnx"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "websockets"),
    "audit": ("cleanlab",),
    "parquet": ("pyarrow",),
    "video": ("av",),
    "window": ("pygame-ce",),
}
"""Distributions by the name of the extra that brings them."""

_IMPORTED_AS = {"pygame-ce": "pygame"}


def require_extra(name: str, what: str) -> None:
    """Say at once that something cannot be done for want of packages.

    Args:
        name: of :data:`EXTRAS`.
        what: needs it, as the subject of a sentence.

    Raises:
        DependencyError: one of its packages is not installed.
    """
    packages = EXTRAS[name]
    missing = [p for p in packages if importlib.util.find_spec(_IMPORTED_AS.get(p, p)) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DependencyError(
            f"{what} needs {', '.join(missing)}, which {verb} not installed; pip install 'ferkit[{name}]'"
        )


_P = ParamSpec("_P")
_R = TypeVar("_R")
_NUMBERS: dict[Any, type] = {int: numbers.Integral, float: numbers.Real}


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a public function refuse values of other types than it is annotated with, in one sentence.

    Whole numbers are refused below 1, or below 0 where that is their default. NumPy's numbers become Python's.
    """
    signature = inspect.signature(function)
    hints = functools.cache(lambda: get_type_hints(function))

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            hint, default = hints().get(name, Any), signature.parameters[name].default
            bound.arguments[name] = value = _plain(value)
            if not fits(value, hint):
                expected = inspect.formatannotation(hint).replace("pathlib.", "").replace("typing.", "")
                found = repr(value) if isinstance(value, (str, float)) else type(value).__name__
                raise DataError(f"expected {name} as {expected}, found {found}")
            least = 0 if default == 0 else 1
            if type(value) is int and value < least and (default is None or type(default) is int):
                raise DataError(f"expected {name} from {least}, found {value}")
        return function(*bound.args, **bound.kwargs)

    return call


def _plain(value: Any) -> Any:
    """NumPy's numbers, also in lists and dictionaries, as Python's, which JSON can hold."""
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {_plain(key): _plain(one) for key, one in value.items()}
    return value.item() if getattr(value, "ndim", 1) == 0 and hasattr(value, "item") else value


def fits(value: object, hint: Any) -> bool:
    """Whether a value is what an annotation says; floats are finite, and paths have no zero bytes."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or origin is Callable:
        return True
    if origin is os.PathLike and hasattr(value, "joinpath"):  # also an address that fsspec knows
        return "\0" not in str(value)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, tuple(map(type, inner))) and value in inner
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool) and abs(value) < math.inf  # type: ignore[arg-type]
    if hint is bool:
        return type(value).__name__ in ("bool", "bool_")  # the latter NumPy's
    if origin is not None and isinstance(value, (str, bytes)):
        return False  # a text is no list of its letters
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            fits(one, of) for pair in value.items() for one, of in zip(pair, inner, strict=True)
        )
    if (origin is not None and issubclass(origin, Sequence)) or (
        origin is Iterable and isinstance(value, Sequence)
    ):
        listed = isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0  # also arrays
        return listed and all(fits(one, inner[0]) for one in value)  # type: ignore[attr-defined]
    if origin is Iterable:  # may be read only once
        return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0
    if hint is str and isinstance(value, str) and "\0" in value:
        return False
    return isinstance(value, type(None) if hint is None else origin or hint)
