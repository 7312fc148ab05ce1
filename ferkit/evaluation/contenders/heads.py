"""Contenders that learn from embeddings, and the floor that looks at nothing."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferkit.classifiers.fit import FittedHead, fit_head
from ferkit.classifiers.heads import HeadSettings
from ferkit.classifiers.onnx_head import NotConvertibleError, OnnxHead, head_to_onnx
from ferkit.core.fingerprint import settings_dict
from ferkit.core.labels import LabelSet
from ferkit.evaluation.comparison import Costs, Kind
from ferkit.evaluation.contenders.contender import Outcome, Predict, Task
from ferkit.evaluation.contenders.workbench import BackboneSpec, Workbench


@dataclass(frozen=True)
class DummyContender:
    """Says how frequent each class is among the training rows, whatever it sees."""

    name: str = "dummy"
    kind: Kind = "dummy"

    def settings(self, bench: Workbench) -> Mapping[str, Any] | None:
        """Nothing to know."""
        return {"kind": self.kind}

    def run(self, task: Task, bench: Workbench) -> Outcome:
        """The same row for every picture."""
        started = time.monotonic()
        prior = frequencies(task)
        proba = np.tile(prior, (len(task.test), 1))
        costs = Costs(train_s=time.monotonic() - started, ms_batch1=0.0, ms_batch32=0.0, size_mb=0.0)
        return Outcome(task.pictures.labels, proba, costs=costs)


@dataclass(frozen=True)
class HeadContender:
    """A head on the embeddings of a backbone."""

    name: str
    head: HeadSettings
    backbone: BackboneSpec
    kind: Kind = "head"

    def settings(self, bench: Workbench) -> Mapping[str, Any] | None:
        """Of the head, of the backbone and of the faces."""
        embedder = bench.embedder(self.backbone)
        return {
            "kind": self.kind,
            "head": self.head.to_dict(),
            "embedder": settings_dict(embedder.settings),
            "faces": bench.faces(),
        }

    def run(self, task: Task, bench: Workbench) -> Outcome:
        """Fit on the training rows that have an embedding; test rows without one get the classes' frequencies."""
        X = bench.embeddings(self.backbone)
        embedder = bench.embedder(self.backbone)
        there = np.isfinite(X[:, 0])
        train, test = task.train[there[task.train]], there[task.test]
        pictures = task.pictures
        settings = dataclasses.replace(self.head, seed=task.seed)
        _import_what_fits(settings)
        fitted = fit_head(X[train], pictures.y[train], settings, pictures.groups[train])
        labels = LabelSet.of(fitted.classes)
        proba = np.empty((len(test), len(labels)), np.float32)
        proba[test] = fitted.predict_proba(X[task.test[test]])
        columns = [pictures.labels.names.index(name) for name in labels.names]
        proba[~test] = frequencies(task)[columns]
        notes = list(fitted.notes)
        if missing := int((~there[task.train]).sum()):
            notes.append(f"{missing} training pictures have no embedding and were left out")
        if missing := int((~test).sum()):
            notes.append(
                f"{missing} test pictures have no embedding: for these it says the classes' frequencies"
            )
        predict, size = _deployed(fitted, X[train[:256]])
        weights = embedder.weights_path
        size_mb = (size + (weights.stat().st_size if weights is not None else 0)) / 1e6
        return Outcome(
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
    y = task.pictures.y[task.train]
    return np.array([(y == name).mean() for name in task.pictures.labels.names], np.float32)


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
