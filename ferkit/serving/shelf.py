"""The models that may be asked for: listed by the server, opened by its workers."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.artifact import read_model, scan_model
from ferkit.classifiers.record import ModelArtifact
from ferkit.core.arrays import check_probabilities
from ferkit.core.errors import FerkitError, ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.protocols import ExpressionClassifier, FaceDetector
from ferkit.inference.build import open_tracking_detector
from ferkit.inference.colors import label_colors
from ferkit.inference.cropping import FaceFinding, settle_faces
from ferkit.inference.models import choose_model, known_models, open_model
from ferkit.inference.pictures import PictureCropper
from ferkit.serving.errors import Refused
from ferkit.serving.settings import ServeSettings
from ferkit.zoo.shipped import shipped_folder

MAX_OPEN = 4
"""Models that a worker holds open; of more, the one used longest ago is closed."""

BROKEN_S = 300.0
"""A model that hung, or could not be opened, is not tried again for so long, unless its files change."""


@dataclass(frozen=True)
class ModelChoice:
    """A model that may be asked for.

    Attributes:
        name: of its folder.
        folder: where it lies.
        labels: its classes.
        stamp: tells it from what lay or will lie there at other times.
    """

    name: str
    folder: Path
    labels: LabelSet
    stamp: str


class ModelCatalog:
    """Knows the models of a server, and which of them are broken.

    Args:
        settings: which folder, which default.

    Raises:
        FerkitError: the default model is not there or damaged.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._default_folder = choose_model(settings.model, settings.models_dir)
        self.default = self._default_folder.resolve().name
        self._verified: dict[Path, tuple[str, ModelArtifact | ModelError]] = {}
        self._broken: dict[str, tuple[str, float]] = {}
        read_model(self._default_folder)

    def describe(self) -> list[dict[str, Any]]:
        """Each model as the API tells of it; of a broken one the reason."""
        return [self._describe(name, folder) for name, folder in self._folders().items()]

    def get(self, name: str | None) -> ModelChoice:
        """The model called ``name``, or the default; reads files.

        Raises:
            Refused: there is none (404), or it is broken (503).
        """
        # By the list, never by the path: a name comes from outside.
        name = name or self.default
        folder = self._folders().get(name)
        if folder is None:
            raise Refused(404, "no_model", "No model has that name; GET /v1/models lists those there are.")
        try:
            artifact, stamp = self._verify(folder)
        except ModelError as error:
            raise Refused(
                503, "model_unusable", f"The model {name} is broken: {_told(error, folder)}."
            ) from None
        if (reason := self._why_broken(stamp)) is not None:
            raise Refused(503, "model_unusable", reason, round(BROKEN_S))
        return ModelChoice(name, folder, artifact.labels, stamp)

    def mark_broken(self, choice: ModelChoice, reason: str) -> None:
        """Do not use a model for a while."""
        self._broken[choice.stamp] = (reason, time.monotonic() + BROKEN_S)

    def _why_broken(self, stamp: str) -> str | None:
        reason, until_s = self._broken.get(stamp, (None, 0.0))
        return reason if time.monotonic() < until_s else None

    def _folders(self) -> dict[str, Path]:
        trained = known_models(self._settings.models_dir)[:-1]
        folders = {_as_text(folder.name): folder for folder in (shipped_folder(), *trained)}
        return folders | {_as_text(self.default): self._default_folder}

    def _describe(self, name: str, folder: Path) -> dict[str, Any]:
        try:
            artifact, stamp = self._verify(folder)
            size = sum(artifact.file(file).stat().st_size for file in artifact.files)
            return {
                "name": name,
                "kind": artifact.kind,
                "labels": describe_labels(artifact.labels),
                "size_mb": round(size / 1e6, 1),
                "licence": artifact.record.licence,
                "broken": self._why_broken(stamp),
            }
        except (FerkitError, OSError) as error:
            nothing = {"kind": "unknown", "labels": [], "size_mb": 0.0, "licence": "unknown"}
            return {"name": name, **nothing, "broken": _told(error, folder)}

    def _verify(self, folder: Path) -> tuple[ModelArtifact, str]:
        """A model whose files are what they ought to be, and its stamp; files are read when they changed."""
        artifact = scan_model(folder)
        files = [folder / "model.json", *(artifact.file(file) for file in artifact.files)]
        stamp = (
            f"{folder.resolve()} {[(f.stat().st_size, f.stat().st_mtime_ns, f.stat().st_ino) for f in files]}"
        )
        known, found = self._verified.get(folder, ("", artifact))
        if known != stamp:
            try:
                found = read_model(folder)
            except ModelError as error:
                found = error
            self._verified[folder] = (stamp, found)
        if isinstance(found, ModelError):
            raise found
        return found, stamp


class CheckedClassifier:
    """A classifier whose probabilities are looked at before anybody is told of them."""

    def __init__(self, inner: ExpressionClassifier, name: str) -> None:
        self.labels, self.input_size_wh, self.resize = inner.labels, inner.input_size_wh, inner.resize
        self._inner, self._name = inner, name

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, for uint8 RGB crops (n, H, W, 3).

        Raises:
            Refused: what the model gives is no probabilities (500).
        """
        proba = self._inner.predict_proba(crops)
        try:
            return check_probabilities(proba, (len(crops), len(self.labels)), self._name)
        except ModelError as error:
            raise Refused(500, "bad_model", f"{error}.") from None


class OpenModel:
    """A model in a worker, tried once.

    Args:
        choice: which.
        settings: how faces are found.
    """

    def __init__(self, choice: ModelChoice, settings: ServeSettings) -> None:
        trained = open_model(choice.folder, threads=1)
        self.labels, self.resize = trained.labels, trained.resize
        self.classifier = CheckedClassifier(trained.classifier, choice.name)
        self.faces: FaceFinding = settle_faces(trained.faces, settings.detector, settings.detector_weights)
        self.cropper = PictureCropper(
            self.faces.settings,
            self.faces.open,
            trained.classifier.input_size_wh,
            trained.resize,
            self.faces.look_first,
        )
        width, height = trained.classifier.input_size_wh
        self.classifier.predict_proba(np.zeros((1, height, width, 3), np.uint8))
        self.detector: FaceDetector = open_tracking_detector(self.faces)


class OpenModels:
    """The models that a worker holds open, and what it keeps for streams.

    Args:
        settings: the server's.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._open: OrderedDict[str, OpenModel] = OrderedDict()
        self.streams: dict[int, Any] = {}

    def get(self, choice: ModelChoice) -> OpenModel:
        """The model, opened now if need be.

        Raises:
            Refused: it cannot be opened (503).
        """
        if choice.stamp not in self._open:
            try:
                self._open[choice.stamp] = OpenModel(choice, self._settings)
            except Refused:
                raise
            except Exception as error:  # a foreign file fails in as many ways as there are
                what = str(error) if isinstance(error, FerkitError) else f"{type(error).__name__}: {error}"
                reason = f"The model {choice.name} cannot be opened: {_told(what, choice.folder)}."
                raise Refused(503, "model_unusable", reason) from error
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)  # a stream that uses it still has it
        self._open.move_to_end(choice.stamp)
        return self._open[choice.stamp]


def describe_labels(labels: LabelSet) -> list[dict[str, str]]:
    """The classes with their names for people and their colours."""
    return [
        {"name": name, "en": en, "ko": ko, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for name, en, ko, color in zip(
            labels.names, labels.display("en"), labels.display("ko"), label_colors(labels), strict=True
        )
    ]


def _told(error: object, folder: Path) -> str:
    """A reason without where the model lies, which is nobody's business."""
    text = str(error).replace(str(folder.resolve()), folder.name).replace(str(folder), folder.name)
    return _as_text(text)[:500].rstrip(".")


def _as_text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
