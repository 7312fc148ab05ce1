"""Read what takes part in a comparison from names and from files."""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ferkit.classifiers.heads import HEADS, head_settings
from ferkit.core.errors import DataError
from ferkit.core.files import parse_toml, read_regular
from ferkit.core.spellings import new_words
from ferkit.core.weights import DEFAULT_EDITION, EDITIONS, bundled_folder
from ferkit.evaluation.baselines import CallableCandidate, DeepFaceCandidate, FerCandidate
from ferkit.evaluation.candidates import (
    Candidate,
    DummyCandidate,
    EnsembleCandidate,
    FinetuneCandidate,
    HeadCandidate,
    ModelCandidate,
)
from ferkit.evaluation.shared_inputs import BackboneSpec

logger = logging.getLogger(__name__)

DEFAULT = (
    "dummy",
    *(f"{head}@{backbone}" for backbone in ("hog", DEFAULT_EDITION) for head in ("logistic", "mlp", "svm")),
    DEFAULT_EDITION,
)
"""What takes part when nobody is named: the floor, three heads on gradients and on the shipped network's embedding,
and that network itself."""

_ALSO = {"hog": "raw"}
"""Other names of backbones: what ``raw`` computes are histograms of oriented gradients."""

FORMS = (
    "dummy, HEAD@BACKBONE, HEAD@BACKBONE#LAYER, HEAD@onnx:FILE#LAYER, ferkit, model:FOLDER, finetune:RECIPE, "
    "ensemble:A+B, peer:fer, peer:deepface, python:MODULE:FUNCTION"
)


def parse_candidates(
    names: Sequence[str | Mapping[str, Any]], file: Path | None = None
) -> tuple[Candidate, ...]:
    """The candidates called ``names``, and those of a file; members of ensembles take part themselves too.

    Args:
        names: as in :data:`FORMS`; with ``file`` None and no name, :data:`DEFAULT`.
        file: TOML with ``candidates``, a list of names and of tables. A table has ``use``, a name as above; may have
            ``name``, what it is called in the results; and further options: those of the head (``C``, ``alpha`` …)
            and ``pool`` (rows and columns) for heads, dotted changes of the recipe for ``finetune``, ``labels`` and
            ``input_size`` for ``python``.

    Raises:
        DataError: no such candidate or option, or two of one name.
    """
    entries: list[str | Mapping[str, Any]] = [*names, *(read_candidates(file) if file else ())]
    made: dict[str, Candidate] = {}
    for entry in entries or DEFAULT:
        one = parse_candidate(entry)
        if one.name in made and made[one.name] != one:
            raise DataError(f"two candidates are called {one.name!r}; give one of them another 'name'")
        for use in _parts(entry) if isinstance(one, EnsembleCandidate) else ():
            if called(use) not in made:
                made[called(use)] = parse_candidate(use)
        made[one.name] = one
    return tuple(made.values())


def parse_candidate(entry: str | Mapping[str, Any]) -> Candidate:
    """One candidate, from its name or from a table of a file.

    Raises:
        DataError: there is none of this name, or it has no such option.
    """
    options = {"use": entry} if isinstance(entry, str) else dict(entry)
    use = options.pop("use", None)
    if not isinstance(use, str) or not use.strip():
        raise DataError(f"expected 'use' in every candidate of the file, found {dict(options)}")
    use = new_words("candidate", use)
    name = str(options.pop("name", called(use)))
    kind, _, rest = use.partition(":")
    if "@" in use and use.partition("@")[0] in HEADS:
        return _head(name, use, options)
    if use in EDITIONS:
        return _plain(ModelCandidate, options)(name, bundled_folder(use))
    if kind == "finetune" and rest:
        return FinetuneCandidate(name, rest, _flat(options))
    makers: dict[str, Callable[[], Candidate]] = {
        "dummy": lambda: _plain(DummyCandidate, options)(name),
        "model": lambda: _plain(ModelCandidate, options)(
            name, bundled_folder(rest) if rest in EDITIONS else Path(rest)
        ),
        "ensemble": lambda: _plain(EnsembleCandidate, options)(name, tuple(map(called, _members(use, rest)))),
        "peer": lambda: _peer(name, rest, options),
        "python": lambda: _callable(name, rest, options),
    }
    if kind not in makers or (kind == "dummy") == bool(rest):
        raise DataError(f"no candidate is called {use!r}; known: {FORMS}")
    return makers[kind]()


def called(use: str) -> str:
    """What a candidate is called in the results: a network's file without the folders that it lies in."""
    return re.sub(r"onnx:[^#+]*[/\\]", "onnx:", new_words("candidate", use))


def read_candidates(file: Path) -> list[str | Mapping[str, Any]]:
    """The entries of a TOML file.

    Raises:
        DataError: it cannot be read, or has no list ``candidates``.
    """
    try:
        values = parse_toml(read_regular(file))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; correct the path") from None
    except ValueError as error:
        raise DataError(f"{file} is no TOML file: {error}") from None
    if "contenders" in values:
        logger.info(f"{file}: contenders is now candidates")
    entries = values.get("candidates", values.get("contenders"))
    if not isinstance(entries, list) or not all(isinstance(entry, (str, dict)) for entry in entries):
        raise DataError(
            f"expected in {file} a list: candidates = ['dummy', {{use = 'svm@hog', C = 10}}], found "
            f"{', '.join(values) or 'nothing'}"
        )
    return entries


def _head(name: str, use: str, options: dict[str, Any]) -> HeadCandidate:
    kind, _, place = use.partition("@")
    backbone, _, tap = place.partition("#")
    pool = options.pop("pool", None)
    pool_hw = None if pool is None else (int(pool[0]), int(pool[1]))
    spec = BackboneSpec(_ALSO.get(backbone, backbone), tap or None, pool_hw)
    return HeadCandidate(name, head_settings(kind, **options), spec)


def _peer(name: str, rest: str, options: dict[str, Any]) -> Candidate:
    peers = {"fer": FerCandidate, "deepface": DeepFaceCandidate}
    who, _, where = rest.partition("=")
    if who not in peers:
        raise DataError(
            f"no peer is called {who!r}; known: {', '.join(peers)}; others: python:MODULE:FUNCTION"
        )
    made: Candidate = _plain(peers[who], options)(name.partition("=")[0], Path(where) if where else None)
    return made


def _callable(name: str, target: str, options: dict[str, Any]) -> CallableCandidate:
    if not all(target.partition(":")[::2]):
        raise DataError(f"expected python:MODULE:FUNCTION, found python:{target}")
    labels, size = options.pop("labels", None), options.pop("input_size", None)
    maker = _plain(CallableCandidate, options)
    made: CallableCandidate = maker(
        name, target, None if labels is None else tuple(labels), None if size is None else tuple(size)
    )
    return made


def _parts(entry: str | Mapping[str, Any]) -> tuple[str, ...]:
    use = entry if isinstance(entry, str) else entry["use"]
    return _members(new_words("candidate", use), new_words("candidate", use).partition(":")[2])


def _members(use: str, rest: str) -> tuple[str, ...]:
    members = tuple(part.strip() for part in rest.split("+"))
    if len(set(members)) < 2 or not all(members):
        raise DataError(f"expected at least two candidates, as in ensemble:ferkit+svm@hog, found {use!r}")
    return members


def _plain(maker: Any, options: Mapping[str, Any]) -> Any:
    """``maker``, which takes no options from a file."""
    if options:
        known = (
            ", ".join(f.name for f in dataclasses.fields(maker) if f.name in ("labels", "input_size"))
            or "none"
        )
        raise DataError(f"a candidate of this kind has no option {', '.join(options)}; it has {known}")
    return maker


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables of tables as dotted names, as a recipe's changes are written."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
