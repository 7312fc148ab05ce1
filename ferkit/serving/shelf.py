"""The models that may be asked for: listed, opened when first needed, shared by everybody."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferkit.classifiers.model import ListedModel, Model, choose_model, list_models, read_model
from ferkit.core.errors import FerkitError
from ferkit.core.labels import LabelSet
from ferkit.faces.cropping import Cropping, DetectorPerThread, FaceCropper, cropping_as_trained
from ferkit.inference.build import open_tracking_detector
from ferkit.inference.colors import label_colors
from ferkit.serving.errors import Refused
from ferkit.serving.settings import ServeSettings
from ferkit.serving.workers import Workers

MAX_OPEN = 4
"""Models that are held open; of more, the one used longest ago is closed."""


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model ready for use by many threads.

    Attributes:
        model: reads crops.
        faces: how faces are found for it.
        cropper: cuts faces out of pictures.
        detector: for streams; tells of doubtful faces too.
    """

    model: Model
    faces: Cropping
    cropper: FaceCropper
    detector: DetectorPerThread

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def labels(self) -> LabelSet:
        return self.model.labels


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
        self._default_folder = choose_model(settings.model, settings.models_dir).folder
        self.default = self._default_folder.resolve().name
        default = self._open_folder(self._default_folder)
        self._open: OrderedDict[str, OpenModel] = OrderedDict({self.default: default})
        self._opening = asyncio.Lock()

    def describe(self) -> list[dict[str, Any]]:
        """Each model as the API tells of it."""
        return [
            {
                "name": name,
                "kind": model.kind,
                "labels": describe_labels(model.labels),
                "size_mb": round(sum(model.file(file).stat().st_size for file in model.files) / 1e6, 1),
                "licence": model.record.licence,
            }
            for name, model in ((name, entry.model) for name, entry in self._known().items())
            if model is not None
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

    def _known(self) -> dict[str, ListedModel]:
        listed = list_models(self._settings.models_dir) + list_models(self._default_folder.parent)
        default = [entry for entry in listed if entry.name == self.default]
        return {entry.name: entry for entry in (*list_models(self._settings.models_dir), *default)}

    def _load(self, name: str) -> OpenModel:
        # By the list, never by the path: a name comes from outside.
        entry = self._known().get(name)
        if entry is None:
            raise Refused(404, "no_model", "No model has that name; GET /v1/models lists those there are.")
        try:
            return self._open_folder(entry.folder)
        except FerkitError as error:
            reason = str(error).replace(str(entry.folder), name)  # where it lies is nobody's business
            raise Refused(503, "model_unusable", f"The model {name} cannot be opened: {reason}") from error

    def _open_folder(self, folder: Path) -> OpenModel:
        model = read_model(folder, threads=1)
        faces = cropping_as_trained(model.crops, self._settings.detector, self._settings.detector_weights)
        detector = DetectorPerThread(faces.settings.detector, lambda: open_tracking_detector(faces))
        return OpenModel(model, faces, faces.cropper(model), detector)


def describe_labels(labels: LabelSet) -> list[dict[str, str]]:
    """The classes with their names for people and their colours."""
    return [
        {"name": name, "en": en, "ko": ko, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for name, en, ko, color in zip(
            labels.names, labels.display("en"), labels.display("ko"), label_colors(labels), strict=True
        )
    ]
