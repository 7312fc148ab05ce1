"""Define what a comparison compares: heads, networks, models and ensembles; others are in ``candidate_names``."""

import csv
import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ferkit.classifiers.finetune.recipe import recipe_values
from ferkit.classifiers.head_onnx import NotConvertibleError, OnnxHead, head_to_onnx
from ferkit.classifiers.heads import FittedHead, HeadSettings, fit_head
from ferkit.classifiers.model import RECORD, Model, find_model, read_model
from ferkit.core.errors import FerkitError, ModelError
from ferkit.core.files import file_sha256, fingerprint, settings_dict
from ferkit.core.labels import LabelSet
from ferkit.core.types import Predict
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.split import SplitSettings, make_split
from ferkit.evaluation.comparison import Costs, Kind, RepeatResult
from ferkit.evaluation.shared_inputs import BackboneSpec, EvaluationData, SharedInputs


@dataclass(frozen=True)
class Task:
    """What every candidate gets in one repeat.

    Attributes:
        images: all rows.
        train, test: int64 row numbers.
        seed: of everything random in this repeat.
        origin: ``given``, ``drawn`` or ``cross``, as in :class:`ferkit.evaluation.comparison.SplitRows`.
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


def trained_on(
    model: Model, parts: Sequence[Dataset], tested: Sequence[tuple[int, str]]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What a model's record says of the test images.

    A record names its data by digest and class counts, not image by image: where the data are the same but the
    division is not known to be, every test image counts as seen.

    Args:
        model: that is tested.
        parts: the data sets.
        tested: number of the data set, and path in it, of each test image.

    Returns:
        Positions of the test images that it was, or may have been, trained on; and what to tell the reader.
    """
    record = model.record
    if not record.data:
        return np.zeros(0, np.int64), ("its record does not say what it was trained on",)
    notes: list[str] = []
    find = _of_embeddings if record.kind == "embedding" else _of_network
    seen = np.array(find(model, parts, tested), np.int64)
    if len(seen):
        notes.append(
            f"was, or may have been, trained on {len(seen)} of the {len(tested)} test images: its figures are "
            "too good to be compared"
        )
    validated = record.split.get("validation_rows")
    own_test = record.split.get("origin") == "given" and validated == len(tested)
    # Parts val and test are often of one size; older records do not say which of the two it was.
    own_test = own_test and record.split.get("validated_on", "test") == "test"
    if own_test and not len(seen) and any(_is_data_of(model, part) for part in parts):
        notes.append("its best epoch was chosen on these test images: its figures are a little too good")
    return seen, tuple(notes)


def _of_embeddings(model: Model, parts: Sequence[Dataset], tested: Sequence[tuple[int, str]]) -> list[int]:
    """A head's record has the digest of all rows and how they were divided: that division can be made again."""
    for number, part in enumerate(parts):
        samples = [sample for sample in part.samples if sample.label is not None]
        rows = [[sample.path, sample.label, sample.split] for sample in samples]
        if fingerprint(rows) != model.record.data.get("digest"):
            continue
        trained = {samples[i].path for i in _training_rows(model, samples)}
        return [i for i, (source, path) in enumerate(tested) if source == number and path in trained]
    return []


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


def _of_network(model: Model, parts: Sequence[Dataset], tested: Sequence[tuple[int, str]]) -> list[int]:
    seen: list[int] = []
    for number, part in enumerate(parts):
        if not _is_data_of(model, part):
            continue
        split = {sample.path: sample.split for sample in part.samples if sample.label is not None}
        n = sum(name in ("train", "val") for name in split.values())
        n_trained = sum(model.record.data["class_counts"].values())
        # The data's own training part is all that it saw then; of any other division it may have seen every image.
        divided = n_trained <= n and model.record.split.get("origin") in ("given", "drawn")
        mine = ((i, path) for i, (source, path) in enumerate(tested) if source == number)
        seen += [i for i, path in mine if not divided or split.get(path) == "train"]
    return seen


def _is_data_of(model: Model, part: Dataset) -> bool:
    """Whether a data set has the name in a model's record, and at least its images of each class."""
    data = model.record.data
    counts = Counter(data.get("class_counts", {}))
    return bool(counts) and part.name == data.get("name") and counts <= Counter(part.class_counts())


@dataclass(frozen=True)
class DummyCandidate:
    """Says how frequent each class is among the training rows, for any input."""

    name: str = "dummy"
    kind: Kind = "dummy"

    def settings(self, bench: SharedInputs) -> Mapping[str, Any] | None:
        """Nothing to know."""
        return {"kind": self.kind}

    def run(self, task: Task, bench: SharedInputs) -> CandidateOutput:
        """The same row for every image."""
        started = time.monotonic()
        proba = np.tile(frequencies(task), (len(task.test), 1))
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
        embedder = settings_dict(bench.embedder(self.backbone).settings)
        return {"kind": self.kind, "head": self.head.to_dict(), "embedder": embedder, "faces": bench.faces()}

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


def _output_of(model: Model, task: Task, bench: SharedInputs) -> CandidateOutput:
    """What a finished model says of the test rows."""
    return CandidateOutput(
        model.labels,
        bench.predict_rows(task.test, model.input_size_wh, model.resize, model.crops, model.predict_proba),
        predict=model.predict_proba,
        size_wh=model.input_size_wh,
        size_mb=size_mb_of(model),
        history=history_of(model),
    )


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
        output, images = _output_of(model, task, bench), task.images
        tested = [(int(images.source[row]), images.own_paths[row]) for row in task.test]
        seen, notes = trained_on(model, images.parts, tested)
        if model.crops.kind == "whole":
            notes += ("it was given whole images, as in its training",)
        return dataclasses.replace(output, seen=task.test[seen], notes=notes)

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
            validated = ("val",) if task.origin != "drawn" else ()
            training = [
                dataclasses.replace(s, split="val" if s.split in validated else "train") for s in samples
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
        output = _output_of(read_model(folder), task, bench)
        # Of a run that was interrupted, the epochs' own seconds are all that is known.
        trained_s = sum(epoch.get("seconds", 0.0) for epoch in output.history)
        return dataclasses.replace(
            output,
            train_s=trained_s or time.monotonic() - started,
            notes=(f"best of {len(output.history)} epochs, chosen on a tenth of the training rows",),
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
        results = [task.earlier[name] for name in self.members]
        costs = {}
        for one in dataclasses.fields(Costs):
            known = [value for result in results if (value := getattr(result.costs, one.name)) is not None]
            # What one member does not say makes the sum unknown, but members trained elsewhere train for nothing.
            if known and (len(known) == len(results) or one.name == "train_s"):
                costs[one.name] = sum(known)
        proba = np.mean([result.proba for result in results], axis=0)
        return CandidateOutput(task.images.labels, proba, costs=Costs(**costs))


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
    lines = model.file("history.csv").read_text(encoding="utf-8").splitlines()
    return tuple(
        {name: value for name, cell in row.items() if cell and np.isfinite(value := float(cell))}
        for row in csv.DictReader(lines)
    )
