"""What a model says of itself: the content of ``model.json``."""

import contextlib
import datetime
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ferkit.core.errors import ModelError
from ferkit.core.labels import LabelSet
from ferkit.faces.settings import FaceSettings

_PACKAGES = ("ferkit", "numpy", "scikit-learn", "skops", "onnxruntime", "keras", "tensorflow")


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What ``model.json`` says.

    Attributes:
        kind: ``embedding``, ``network`` or ``ensemble``.
        labels: class names in the order of the probabilities.
        input_size_wh: what the classifier takes, in pixels.
        faces: how faces were cropped: ``dataclasses.asdict`` of the FaceSettings.
        parts: what the kind's loader needs to know, as plain JSON values; for ``embedding`` the ``embedder``
            (settings, fingerprint, last known file of weights) and the ``head`` (settings, notes, seconds).
        data: what it was trained on: name, digest, class counts.
        split: how training and test rows were divided.
        seeds: of everything random.
        metrics: of its evaluation, empty if it had none.
        licence: of the weights it builds on.
        versions: of the packages that made it.
        created: when, UTC, ISO 8601.
    """

    kind: str
    labels: tuple[str, ...]
    input_size_wh: tuple[int, int]
    faces: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    created: str = field(default_factory=lambda: _now())


@dataclass(frozen=True)
class ModelArtifact:
    """A verified model folder.

    Attributes:
        folder: where it lies.
        record: what it says of itself.
        files: its other files, by name.
    """

    folder: Path
    record: ModelRecord
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """``embedding``, ``network`` or ``ensemble``."""
        return self.record.kind

    @property
    def metrics(self) -> dict[str, Any]:
        """Of its evaluation, empty if it had none."""
        return self.record.metrics

    @property
    def labels(self) -> LabelSet:
        """The classes, in the order of the probabilities."""
        return LabelSet.of(self.record.labels)

    @property
    def faces(self) -> FaceSettings:
        """How faces were taken out of the pictures it was trained on.

        Raises:
            ModelError: it has settings that this ferkit does not know.
        """
        try:
            return FaceSettings(**self.record.faces)
        except TypeError as error:
            raise ModelError(
                f"{self.folder} crops faces in an unknown way ({error}); update ferkit"
            ) from None

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            ModelError: it has no such file.
        """
        if name not in self.files:
            found = ", ".join(self.files) or "none"
            raise ModelError(
                f"expected {name} in the model {self.folder}, found {found}; make the model anew"
            )
        return self.folder / name


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a model may depend on, as far as they are installed."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
