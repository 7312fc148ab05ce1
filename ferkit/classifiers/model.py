"""Keep models as folders: record, files and handle.

``models/<name>/model.json`` says what the model is and has the SHA-256 of every other file, and of itself.
Nothing in a folder is ever unpickled.
"""

import contextlib
import datetime
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from ferkit.core.errors import FerkitError, ModelError
from ferkit.core.files import file_sha256, fingerprint, write_json
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier
from ferkit.core.weights import BUNDLED, bundled_folder
from ferkit.embedder.onnx_network import refuse_external_data
from ferkit.faces.cropping import FaceSettings

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
        """How faces were taken out of the images it was trained on.

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


FORMAT = 1
RECORD = "model.json"

LARGEST_RECORD = 64 << 20
"""Bytes of ``model.json``; more is no record."""

_LOADERS = {
    "embedding": "ferkit.classifiers.embedding_model:load_embedding_classifier",
    "network": "ferkit.classifiers.finetune.network_model:load_network_classifier",
    "ensemble": "ferkit.classifiers.ensemble:load_ensemble",
}
"""Who opens which kind of model: ``module:function``, called with the artifact and the options of
:func:`load_classifier`."""


def write_model(
    folder: Path, record: ModelRecord, write: Callable[[Path], object], *, overwrite: bool = False
) -> ModelArtifact:
    """Make a model folder.

    Everything is written beside ``folder`` first and moved into place when it is complete.

    Args:
        folder: ``models/<name>``.
        record: what to say of the model.
        write: puts the model's own files into the folder it is given.
        overwrite: replace a model that is there. A folder that is no model is never replaced.

    Raises:
        ModelError: the folder exists, and is no model or may not be replaced.
        FerkitError: the disk is full or the place cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        if not (folder / RECORD).is_file():
            raise ModelError(f"{folder} exists and is no model of ferkit; choose another name")
        if not overwrite:
            raise ModelError(
                f"the model {folder} exists; choose another name, or say that it may be replaced"
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise FerkitError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        temporary.chmod(0o755)
        write(temporary)
        names = sorted(
            path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()
        )
        values = {
            "format": FORMAT,
            **asdict(record),
            "files": {name: {"sha256": file_sha256(temporary / name)} for name in names},
        }
        values = json.loads(json.dumps(values))  # tuples become lists, as they will be when read again
        write_json(temporary / RECORD, {**values, "sha256": fingerprint(values)})
        _move_into_place(temporary, folder)
    except OSError as error:
        raise FerkitError(f"the model {folder} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ModelArtifact(folder, record, tuple(names))


def read_model(folder: Path) -> ModelArtifact:
    """Read and verify a model folder.

    Raises:
        ModelError: no model is there, it is of a newer ferkit, or a file in it is missing or was altered.
    """
    artifact, digests = _read_record(folder)
    for name, sha256 in digests.items():
        try:
            _verify(folder, name, sha256)
        except (OSError, ValueError) as error:  # a name that no file can have, a disk that fails
            raise _unreadable(folder / name, error) from None
    return artifact


def scan_model(folder: Path) -> ModelArtifact:
    """What a model folder says of itself, with all its files there but unread.

    Raises:
        ModelError: anything at all is wrong with it.
    """
    try:
        artifact, _ = _read_record(folder)
        for name in artifact.files:
            _check_inside(folder, name)
        values = [artifact.kind, artifact.record.licence, *artifact.labels.names]
        if not all(isinstance(value, str) for value in values):
            raise ModelError(f"expected words for kind, licence and classes, found {ascii(values)[:200]}")
        "".join(values).encode()  # not every string of JSON is text
        if not isinstance(artifact.metrics, dict):
            raise ModelError(f"expected figures in {folder / RECORD}, found {ascii(artifact.metrics)[:50]}")
        artifact.faces  # noqa: B018 - raises
    except ModelError:
        raise
    except Exception as error:  # a foreign file fails in as many ways as there are
        raise _unreadable(folder / RECORD, error) from None
    return artifact


def list_artifacts(models_dir: Path) -> list[ModelArtifact]:
    """The models in a folder, by name, files unread; :func:`broken_models` gives the others."""
    return [found for _, found in _scan(models_dir) if isinstance(found, ModelArtifact)]


def broken_models(models_dir: Path) -> dict[str, str]:
    """Why models in a folder cannot be used, by name."""
    return {name: found for name, found in _scan(models_dir) if isinstance(found, str)}


def _scan(models_dir: Path) -> Iterator[tuple[str, ModelArtifact | str]]:
    for path in sorted(models_dir.glob(f"[!.]*/{RECORD}")):
        try:
            yield path.parent.name, scan_model(path.parent)
        except ModelError as error:
            yield path.parent.name, str(error)


def _read_record(folder: Path) -> tuple[ModelArtifact, dict[str, str]]:
    """What ``model.json`` says, and the SHA-256 that each file ought to have."""
    path = folder / RECORD
    if not path.is_file():
        found = "another folder" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise ModelError(
            f"expected a model in {folder}, found {found}; 'fer fit' and 'fer finetune' make models"
        )
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise ValueError(f"it has more than {LARGEST_RECORD >> 20} MiB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise ModelError(f"{path} is not of ferkit; choose a folder that 'fer fit' or 'fer finetune' made")
    if values["format"] > FORMAT:
        raise ModelError(
            f"{folder} has format {values['format']}, this ferkit reads up to {FORMAT}: update ferkit"
        )
    try:
        if values.pop("sha256", None) != fingerprint(values):
            raise ModelError(
                f"{path} was changed after it was written; make the model again or take a copy of it"
            )
        digests = {name: str(entry["sha256"]) for name, entry in values["files"].items()}
        return ModelArtifact(folder, _record(values, path), tuple(digests)), digests
    except ModelError:
        raise
    except Exception as error:  # of whatever a foreign hand wrote there
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ModelError:
    what = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
    return ModelError(f"{path} cannot be read: {what[:300]}; make the model again or take a copy of it")


def load_classifier(
    folder: Path, *, weights: Path | None = None, threads: int | None = None
) -> ExpressionClassifier:
    """Open a model, whatever its kind.

    Args:
        folder: ``models/<name>``.
        weights: the backbone's file, where it is not where it was.
        threads: how many work on one batch; None takes every core.

    Raises:
        ModelError: the folder is no model, damaged, tampered with or newer than this ferkit.
        WeightsError: the backbone's weights are missing or not the ones it was made with.
    """
    return open_classifier(read_model(folder), weights=weights, threads=threads)


def open_classifier(
    artifact: ModelArtifact, *, weights: Path | None = None, threads: int | None = None
) -> ExpressionClassifier:
    """The classifier of a model that :func:`read_model` has verified; see :func:`load_classifier`.

    Raises:
        ModelError: it is of a kind that this ferkit does not know, or damaged.
        WeightsError: the backbone's weights are missing or not the ones it was made with.
    """
    if artifact.record.kind not in _LOADERS:
        raise ModelError(
            f"{artifact.folder} is a model of kind {artifact.record.kind!r}, which this ferkit does not know"
        )
    module, function = _LOADERS[artifact.record.kind].split(":")
    classifier: ExpressionClassifier = getattr(import_module(module), function)(
        artifact, weights=weights, threads=threads
    )
    return classifier


def _record(values: Mapping[str, Any], path: Path) -> ModelRecord:
    known = {f.name for f in fields(ModelRecord)}
    try:
        record = ModelRecord(**{name: value for name, value in values.items() if name in known})
        object.__setattr__(record, "labels", tuple(record.labels))
        object.__setattr__(record, "input_size_wh", tuple(record.input_size_wh))
    except TypeError as error:
        raise ModelError(f"{path} lacks a part ({error}); make the model anew") from None
    return record


def _check_inside(folder: Path, name: str) -> Path:
    path = folder / name
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise ModelError(f"the model {folder} points outside itself ({name}); do not use it")
    if not path.is_file():
        raise ModelError(
            f"the model {folder} is damaged: {name} is missing; make it again or take a copy of it"
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"the model {folder} points outside itself ({name}); do not use it")
    return path


def _verify(folder: Path, name: str, sha256: str) -> None:
    path = _check_inside(folder, name)
    if file_sha256(path) != sha256:
        raise ModelError(
            f"the model {folder} is damaged: {name} was changed after it was written; "
            "make it anew or take a copy of it"
        )
    if path.suffix == ".onnx":
        refuse_external_data(path.read_bytes(), str(path), ModelError)


def _move_into_place(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
        return
    # Folders cannot be exchanged in one step everywhere: the old one steps aside, and comes back if this
    # fails.
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent)) / folder.name
    folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


@dataclass(frozen=True)
class TrainedModel:
    """A classifier, and how faces were taken out of the images that it was trained on.

    Attributes:
        name: what to call it.
        classifier: crops to probabilities.
        faces: the settings of its crops.
        resize: how crops of another size are fitted, see :func:`ferkit.faces.cropping.fit_to`.
    """

    name: str
    classifier: ExpressionClassifier
    faces: FaceSettings
    resize: str = "stretch"

    @property
    def labels(self) -> LabelSet:
        """The classes, in the order of the probabilities."""
        return self.classifier.labels


def open_model(folder: Path, threads: int | None = None) -> TrainedModel:
    """Open a model folder of any kind.

    Raises:
        ModelError: it is no model, or damaged, or of a newer ferkit.
        WeightsError: the backbone's weights are missing.
    """
    artifact = read_model(folder)
    classifier = open_classifier(artifact, threads=threads)
    return TrainedModel(folder.name, classifier, artifact.faces, classifier.resize)


def find_model(name: str, models_dir: Path) -> Path | None:
    """The model folder called ``name``: the folder itself, one in ``models_dir``, or the shipped one; or None."""
    for folder in (Path(name), models_dir / name):
        if (folder / RECORD).is_file():
            return folder
    return bundled_folder() if name == BUNDLED else None


def known_models(models_dir: Path) -> list[Path]:
    """The model folders in ``models_dir``, by name, and the shipped one."""
    trained = [file.parent for file in models_dir.glob(f"*/{RECORD}") if not file.parent.name.startswith(".")]
    return [*sorted(trained), bundled_folder()]


def choose_model(name: str | None, models_dir: Path) -> Path:
    """The named model, or the one that comes with the package if ``name`` is None.

    Raises:
        ModelError: there is no such model.
    """
    if name is None:
        return bundled_folder()
    folder = find_model(name, models_dir)
    if folder is None:
        known = ", ".join(folder.name for folder in known_models(models_dir))
        raise ModelError(
            f"no model is called {name!r}; expected a folder with {RECORD}, or one of {known} "
            f"(those in {models_dir}, and the one that comes with ferkit)"
        )
    return folder


def default_reason(models_dir: Path) -> str:
    """The sentence that says which model is used when none was named, and what others there are."""
    trained = ", ".join(folder.name for folder in known_models(models_dir)[:-1])
    others = f" (in {models_dir}: {trained})" if trained else ""
    return f"model: {BUNDLED}, which comes with ferkit; to take another, name it first{others}"
