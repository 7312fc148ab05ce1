"""The models that may be asked for: listed, opened when first needed, shared by everybody."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.artifact import list_artifacts
from ferkit.classifiers.record import ModelArtifact
from ferkit.core.errors import FerkitError
from ferkit.core.faces import Faces
from ferkit.core.labels import LabelSet
from ferkit.core.protocols import FaceDetector
from ferkit.inference.build import open_tracking_detector
from ferkit.inference.colors import label_colors
from ferkit.inference.cropping import FaceFinding, settle_faces
from ferkit.inference.models import TrainedModel, choose_model, open_model
from ferkit.inference.pictures import PictureCropper
from ferkit.serving.errors import Refused
from ferkit.serving.settings import ServeSettings
from ferkit.serving.workers import Workers
from ferkit.zoo.shipped import BUNDLED, shipped_folder

MAX_OPEN = 4
"""Models that are held open; of more, the one used longest ago is closed."""


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model ready for use by many threads.

    Attributes:
        trained: the classifier, with how its faces were cut out.
        folder: where it lies.
        faces: how faces are found for it.
        cropper: cuts faces out of pictures.
        detector: for streams; tells of doubtful faces too.
    """

    trained: TrainedModel
    folder: Path
    faces: FaceFinding
    cropper: PictureCropper
    detector: "ThreadsDetector"

    @property
    def name(self) -> str:
        return self.trained.name

    @property
    def labels(self) -> LabelSet:
        return self.trained.labels


class ThreadsDetector:
    """One detector a thread, opened when the thread first asks: detectors serve one thread at a time."""

    def __init__(self, name: str, open_detector: Callable[[], FaceDetector]) -> None:
        self.name = name
        self._open = open_detector
        self._own = threading.local()
        self._opened: list[FaceDetector] = []

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces of ``rgb``, uint8 (H, W, 3)."""
        if not hasattr(self._own, "detector"):
            self._own.detector = self._open()
            self._opened.append(self._own.detector)
        return self._own.detector.detect(rgb)

    def close(self) -> None:
        """End those that run in processes of their own."""
        for detector in self._opened:
            getattr(detector, "close", lambda: None)()
        self._opened.clear()


class ModelShelf:
    """Gives models by name.

    Args:
        settings: which folder, which default, which detector.
        workers: open models.

    Raises:
        FerkitError: the default model cannot be opened.
    """

    def __init__(self, settings: ServeSettings, workers: Workers) -> None:
        self._settings, self._workers = settings, workers
        self._default_folder = choose_model(settings.model, settings.models_dir)
        self.default = self._default_folder.resolve().name
        default = self._open_folder(self._default_folder)
        self._open: OrderedDict[str, OpenModel] = OrderedDict({self.default: default})
        self._opening = asyncio.Lock()

    def describe(self) -> list[dict[str, Any]]:
        """Each model as the API tells of it."""
        return [
            {
                "name": name,
                "kind": artifact.kind,
                "labels": describe_labels(artifact.labels),
                "size_mb": round(sum(artifact.file(file).stat().st_size for file in artifact.files) / 1e6, 1),
                "licence": artifact.record.licence,
            }
            for name, artifact in self._known().items()
        ]

    async def get(self, name: str | None) -> OpenModel:
        """The model called ``name``, or the default.

        Raises:
            Refused: there is none (404), or it cannot be opened (503).
        """
        name = name or self.default
        if name not in self._open:
            async with self._opening:
                if name not in self._open:
                    self._open[name] = await self._workers.run(lambda: self._load(name))
                    if len(self._open) > MAX_OPEN:
                        self._open.popitem(last=False)  # whoever uses it still has it
        self._open.move_to_end(name)
        return self._open[name]

    def close(self) -> None:
        """End detectors that run in processes of their own."""
        for model in self._open.values():
            model.detector.close()
        self._open.clear()

    def _known(self) -> dict[str, ModelArtifact]:
        shipped = [a for a in list_artifacts(shipped_folder().parent) if a.name in BUNDLED]
        default = [a for a in list_artifacts(self._default_folder.parent) if a.name == self.default]
        return {a.name: a for a in (*shipped, *list_artifacts(self._settings.models_dir), *default)}

    def _load(self, name: str) -> OpenModel:
        # By the list, never by the path: a name comes from outside.
        artifact = self._known().get(name)
        if artifact is None:
            raise Refused(404, "no_model", "No model has that name; GET /v1/models lists those there are.")
        try:
            return self._open_folder(artifact.folder)
        except FerkitError as error:
            reason = str(error).replace(str(artifact.folder), name)  # where it lies is nobody's business
            raise Refused(503, "model_unusable", f"The model {name} cannot be opened: {reason}") from error

    def _open_folder(self, folder: Path) -> OpenModel:
        trained = open_model(folder, threads=1)
        faces = settle_faces(trained.faces, self._settings.detector, self._settings.detector_weights)
        cropper = PictureCropper(
            faces.settings, faces.open, trained.classifier.input_size_wh, trained.resize, faces.look_first
        )
        detector = ThreadsDetector(faces.settings.detector, lambda: open_tracking_detector(faces))
        return OpenModel(trained, folder, faces, cropper, detector)


def describe_labels(labels: LabelSet) -> list[dict[str, str]]:
    """The classes with their names for people and their colours."""
    return [
        {"name": name, "en": en, "ko": ko, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for name, en, ko, color in zip(
            labels.names, labels.display("en"), labels.display("ko"), label_colors(labels), strict=True
        )
    ]
