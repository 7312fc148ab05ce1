"""Keep models as folders: record, files and handle.

A folder is written whole or not at all, and verified before anything in it is used. ``models/<name>/model.json`` says
what the model is and has the SHA-256 of every other file, and of itself. Nothing in a folder is ever unpickled.
"""

import atexit
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ferkit.core.errors import FerkitError, ModelError, checked
from ferkit.core.files import (
    as_path,
    file_sha256,
    fingerprint,
    is_stored,
    parse_json,
    read_regular,
    settings_from,
    sync_directory,
    sync_folder,
    temporary_folder,
    write_json,
)
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier
from ferkit.core.weights import DEFAULT_EDITION, EDITIONS, bundled_folder
from ferkit.datasets.object_store import local_copy
from ferkit.embedder.onnx_graph import refuse_external_data
from ferkit.faces.cropping import CropKind, Cropping, CropSettings

if TYPE_CHECKING:
    from ferkit.classifiers.predict import Predictions
    from ferkit.datasets.load import FetchLimits, ImagesLike

logger = logging.getLogger(__name__)

FORMAT = 1
RECORD = "model.json"
LARGEST_RECORD = 64 << 20
"""Bytes of ``model.json``; more is no record."""
TRAINING_IMAGES = "training-images.npy"
"""By what exact copies of the training images are known: :func:`ferkit.datasets.leakage.image_keys`."""

_PACKAGES = ("ferkit", "numpy", "scikit-learn", "skops", "onnxruntime", "keras", "tensorflow")

_LOADERS = {
    "embedding": "ferkit.classifiers.kinds:load_embedding_classifier",
    "network": "ferkit.classifiers.kinds:load_network_classifier",
    "ensemble": "ferkit.classifiers.kinds:load_ensemble",
}
"""Who opens which kind of model: ``module:function``, called with the model and the options of :func:`load_model`."""

_NEEDED = {"embedding": {"head.onnx", "head.skops"}, "network": {"network.onnx"}}
"""Files of which a model of a kind has at least one."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What ``model.json`` says.

    Attributes:
        kind: ``embedding``, ``network`` or ``ensemble``.
        labels: class names in the order of the probabilities.
        input_size_wh: what the classifier takes, in pixels.
        faces: how faces were cropped: the CropSettings as plain values.
        crops: what it was trained on, see :data:`ferkit.faces.cropping.CropKind`; empty in version 0.1.
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
    crops: str = ""
    parts: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    created: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "ModelRecord":
        """The record in the content of ``model.json``; unknown keys are passed over.

        Raises:
            TypeError, ValueError: something is missing, or is not what it should be.
        """
        known = {f.name for f in fields(ModelRecord)}
        given = {name: value for name, value in values.items() if name in known}
        record = ModelRecord(**{"versions": {}, **given})
        typical = ModelRecord(kind="", labels=("",), input_size_wh=(1, 1), versions={})
        for name in known:
            value, wanted = getattr(record, name), type(getattr(typical, name))
            if wanted is tuple and isinstance(value, list):
                value = tuple(value)
                object.__setattr__(record, name, value)
            if not isinstance(value, wanted):
                raise TypeError(f"{name} is {type(value).__name__}")
        if not all(isinstance(label, str) for label in record.labels):
            raise TypeError("labels are not words")
        if len(record.input_size_wh) != 2 or not all(
            isinstance(n, int) and n > 0 for n in record.input_size_wh
        ):
            raise TypeError(f"input_size_wh is {record.input_size_wh}")
        if record.crops and record.crops not in get_args(CropKind):
            raise TypeError(f"crops is {record.crops!r}")
        "".join((record.kind, record.licence, *record.labels)).encode()  # not all that JSON holds is text
        LabelSet.from_names(record.labels)
        settings_from(CropSettings, record.faces)
        return record


@dataclass(frozen=True, eq=False)
class Model:
    """A model folder. What answers is opened when it is first asked.

    Is an :class:`ferkit.core.types.ExpressionClassifier` itself.

    Attributes:
        folder: where it lies.
        record: what it says of itself.
        files: its other files, by name.
        weights: the backbone's file, where it is not where it was.
        threads: how many work on one batch; None takes every core.

    >>> import ferkit, numpy as np
    >>> model = ferkit.load_model("ferkit")
    >>> width, height = model.input_size_wh
    >>> model.predict_proba(np.zeros((2, height, width, 3), np.uint8)).shape
    (2, 7)
    """

    folder: Path
    record: ModelRecord
    files: tuple[str, ...]
    weights: Path | None = None
    threads: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Sessions cannot be pickled: a copy opens its own.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """``embedding``, ``network`` or ``ensemble``."""
        return self.record.kind

    @property
    def report(self) -> dict[str, Any]:
        """The figures of its evaluation on images that it never saw; empty if it had none."""
        return self.record.metrics

    @property
    def trained_on(self) -> str:
        """Name the training images of the model, and of its backbone where that learnt expressions too."""
        data, n = self.record.data, self.record.split.get("train_rows")
        name = str(data.get("name") or Path(str(data.get("root", ""))).stem or "not known")
        backbone = self.record.parts.get("embedder", {}).get("settings", {}).get("backbone")
        more = "; its backbone: training part of FER2013" if backbone in EDITIONS else ""
        return (f"{name} ({n:,} images)" if n else name) + more

    @functools.cached_property
    def labels(self) -> LabelSet:
        """The classes, in the order of the probabilities."""
        return LabelSet.from_names(self.record.labels)

    @property
    def crops(self) -> Cropping:
        """What it was trained on: whole images, ready-made crops, or faces that a detector found."""
        settings = settings_from(CropSettings, self.record.faces)
        kind = self.record.crops or ("crops" if settings.detector == "none" else "detected")
        return Cropping(settings, kind=kind)  # type: ignore[arg-type]

    @property
    def is_dummy(self) -> bool:
        """Whether it says the same of every image."""
        head = self.record.parts.get("head")
        return isinstance(head, dict) and head.get("settings", {}).get("kind") == "dummy"

    @functools.cached_property
    def classifier(self) -> ExpressionClassifier:
        """What answers.

        Raises:
            ModelError: it is of a kind that this ferkit does not know, or damaged.
            WeightsError: the backbone's weights are missing or not the ones it was made with.
        """
        if self.kind not in _LOADERS:
            raise ModelError(
                f"{self.folder} is a model of kind {self.kind!r}, which this ferkit does not know"
            )
        module, function = _LOADERS[self.kind].split(":")
        load: Callable[..., ExpressionClassifier] = getattr(import_module(module), function)
        try:
            return load(self, weights=self.weights, threads=self.threads)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, FerkitError):
                raise
            reason = f"{type(error).__name__}: {error}"
            raise ModelError(f"{self.folder} cannot be opened ({reason}); make the model again") from error

    @property
    def input_size_wh(self) -> tuple[int, int]:
        """What :meth:`predict_proba` takes, in pixels."""
        return self.classifier.input_size_wh

    @property
    def resize(self) -> str:
        """How crops of another size are fitted, see :func:`ferkit.faces.cropping.fit_to`."""
        return self.classifier.resize

    def predict(
        self,
        images: "ImagesLike",
        *,
        detector: str = "auto",
        detector_weights: str | os.PathLike[str] | None = None,
        batch_size: int = 32,
        workers: int | None = None,
        limits: "FetchLimits | None" = None,
    ) -> "Predictions":
        """Find the faces in images and predict their expressions; see :func:`ferkit.predict`.

        Raises:
            DataError: something else was given.
            WeightsError: the detector's weights are missing.
        """
        from ferkit.classifiers.predict import predict

        return predict(
            self,
            self.crops,
            images,
            detector=detector,
            detector_weights=detector_weights,
            batch_size=batch_size,
            workers=workers,
            limits=limits,
        )

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, of uint8 RGB ``crops`` (n, height, width, 3) of the input size.

        Raises:
            DataError: crops of another shape or type.
            ModelError: what the network gives are no probabilities.
        """
        proba = self.classifier.predict_proba(crops)
        if proba.size and not (
            np.isfinite(proba).all()
            and proba.min() >= -1e-3
            and np.abs(proba.sum(axis=1, dtype=np.float64) - 1).max() < 1e-2
        ):
            raise ModelError(
                f"the model {self.name} gives no probabilities (numbers from 0 to 1 that sum to 1); "
                "train or export it again"
            )
        return proba

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            ModelError: it has no such file.
        """
        if name not in self.files:
            found = ", ".join(self.files) or "none"
            raise ModelError(
                f"expected {name} in the model {self.folder}, found {found}; make the model again"
            )
        return self.folder / name

    @checked
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> "Model":
        """Write a copy.

        Raises:
            ModelError: the folder exists, and is no model or may not be replaced.
            FerkitError: the disk is full or the place cannot be written.
        """

        def write(target: Path) -> None:
            for name in self.files:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, target / name)

        return write_model(Path(folder), self.record, write, overwrite=overwrite)


@dataclass(frozen=True)
class ListedModel:
    """A folder that has, or should have, a model: the model, or what is wrong with it."""

    folder: Path
    model: Model | None
    problem: str | None = None

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.folder.name


def load_model(
    name: str | os.PathLike[str],
    *,
    models_dir: str | os.PathLike[str] = "models",
    weights: Path | None = None,
    threads: int | None = None,
) -> Model:
    """Open a model of any kind.

    Args:
        name: its folder, its name in ``models_dir``, or ``ferkit``.
        models_dir: where models are looked for by name.
        weights: the backbone's file, where it is not where it was.
        threads: how many work on one batch; None takes every core.

    Raises:
        ModelError: the folder is no model, damaged, tampered with or newer than this ferkit.
        WeightsError: the backbone's weights are missing or not the ones it was made with.
    """
    folder = find_model(os.fspath(name), Path(models_dir)) or Path(name)
    model = read_model(folder, weights=weights, threads=threads)
    _ = model.classifier
    return model


def load_classifier(
    folder: str | os.PathLike[str], *, weights: Path | None = None, threads: int | None = None
) -> ExpressionClassifier:
    """What answers in a model; see :func:`load_model`."""
    return load_model(folder, weights=weights, threads=threads).classifier


def read_model(folder: Path, *, weights: Path | None = None, threads: int | None = None) -> Model:
    """Read and verify a model folder; see :func:`load_model`.

    Raises:
        ModelError: no model is there, it is of a newer ferkit, or a file in it is missing or was altered.
    """
    record, digests = _read_record(folder)
    _verify(folder, digests)
    return Model(folder, record, tuple(digests), weights, threads)


def list_models(models_dir: Path, *, verify: bool = True) -> list[ListedModel]:
    """The models that come with ferkit, and those in a folder, by name; what is wrong with one hurts no other.

    Args:
        models_dir: where models are.
        verify: compare their files' digests too, which takes time once for each file.
    """
    folders = (*map(bundled_folder, EDITIONS), *_made_folders(models_dir))
    return [inspect_model(folder, verify=verify) for folder in folders]


def _made_folders(models_dir: Path) -> list[Path]:
    return sorted(path.parent for path in models_dir.glob(f"[!.]*/{RECORD}"))


def inspect_model(folder: Path, *, verify: bool = True) -> ListedModel:
    """The model in a folder, or what is wrong with it; never raises. See :func:`list_models`."""
    try:
        record, digests = _read_record(folder)
        if verify:
            _verify(folder, digests, _known_sha256)
        model = Model(folder, record, tuple(digests))
        str(model.trained_on)  # lists show it, so what it comes from must be there
        return ListedModel(folder, model)
    except Exception as error:  # a mutilated folder fails in as many ways as there are bytes in it
        return ListedModel(folder, None, str(error) or type(error).__name__)


def find_model(name: str, models_dir: Path) -> Path | None:
    """The model folder called ``name``: the folder itself, one in ``models_dir``, or a bundled one; or None.

    A folder at an address is fetched for as long as this process runs.
    """
    if is_stored(name) and (as_path(name) / RECORD).is_file():
        copy = contextlib.ExitStack()
        atexit.register(copy.close)
        return copy.enter_context(local_copy(as_path(name)))
    for folder in (Path(name), models_dir / name):
        if (folder / RECORD).is_file():
            return folder
    return bundled_folder(name) if name in EDITIONS else None


def newest_model(models_dir: Path) -> Model | None:
    """The model in ``models_dir`` that was made last, without dummies and broken ones; None if there is none."""
    listed = [inspect_model(folder, verify=False).model for folder in _made_folders(models_dir)]
    models = [model for model in listed if model is not None and not model.is_dummy]
    made = {model: (model.record.created, model.folder.stat().st_mtime_ns) for model in models}
    for model in sorted(models, key=made.__getitem__, reverse=True):
        with contextlib.suppress(ModelError, OSError):
            return read_model(model.folder)
    return None


def choose_model(name: str | None, models_dir: Path) -> Model:
    """The named model; without a name the newest in ``models_dir``, or the one that comes with ferkit.

    Which of these two is logged in one sentence.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    if name is None:
        newest = newest_model(models_dir)
        folder = bundled_folder(DEFAULT_EDITION) if newest is None else newest.folder
        which = "which comes with ferkit" if newest is None else f"the newest in {models_dir}"
        logger.info(f"model: {folder.name}, {which}; name another to take that")
        return read_model(folder)
    found = find_model(name, models_dir)
    if found is None:
        known = ", ".join(entry.name for entry in list_models(models_dir, verify=False) if entry.model)
        raise ModelError(
            f"no model is called {name!r}; expected a folder with {RECORD}, or one of {known} "
            f"(those in {models_dir}, and those that come with ferkit)"
        )
    return read_model(found)


def refuse_bundled_name(folder: Path) -> None:
    """Raise ModelError where a new model would be called as one that comes with ferkit, and be taken for it."""
    if folder.name in EDITIONS and not folder.exists():
        raise ModelError(
            f"the name {folder.name} is that of a model that comes with ferkit; choose another --name"
        )


def write_model(
    folder: Path, record: ModelRecord, write: Callable[[Path], object], *, overwrite: bool = False
) -> Model:
    """Make a model folder.

    Everything is written next to ``folder`` first and moved into place when it is complete.

    Args:
        folder: ``models/<name>``.
        record: what to say of the model.
        write: puts the model's own files into the folder it is given.
        overwrite: replace a model that is there. A folder that is no model is never replaced.

    Raises:
        ModelError: the folder exists, and is no model or may not be replaced.
        FerkitError: the disk is full or the place cannot be written.
    """
    refuse_bundled_name(folder)
    if folder.exists() or folder.is_symlink():
        if not (folder / RECORD).is_file():
            raise ModelError(f"{folder} exists and is no model of ferkit; choose another name")
        if not overwrite:
            raise ModelError(
                f"the model {folder} exists; choose another name, or say that it may be replaced"
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = temporary_folder(folder)
    except OSError as error:
        raise FerkitError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        temporary.chmod(0o755)
        write(temporary)
        lock.close()
        Path(lock.name).unlink()
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
        sync_folder(temporary)
        _move_into_place(temporary, folder)
    except OSError as error:
        raise FerkitError(f"the model {folder} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.close()
    return Model(folder, record, tuple(names))


def temporary_model(name: str, write: Callable[[Path], Model]) -> Model:
    """A model that ``write`` puts into the folder it is given, which goes when the model does."""
    home = tempfile.TemporaryDirectory(prefix="ferkit-")
    model = write(Path(home.name) / name)
    object.__setattr__(model, "_home", home)
    return model


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a model may depend on, as far as they are installed."""
    from importlib import metadata

    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _read_record(folder: Path) -> tuple[ModelRecord, dict[str, str]]:
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
        values = parse_json(read_regular(path))
        if not isinstance(values, dict) or not isinstance(values.get("format"), int):
            raise ModelError(
                f"{path} is not of ferkit; choose a folder that 'fer fit' or 'fer finetune' made"
            )
        if values["format"] > FORMAT:
            raise ModelError(
                f"{folder} has format {values['format']}, this ferkit reads up to {FORMAT}: update ferkit"
            )
        if values.pop("sha256", None) != fingerprint(values):
            raise ModelError(
                f"{path} was changed after it was written; make the model again or take a copy of it"
            )
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}; make the model again or take a copy of it"
        ) from None
    try:
        digests = {name: str(entry["sha256"]) for name, entry in values["files"].items()}
        record = ModelRecord.from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        lacks = "files" if isinstance(error, KeyError) else error
        raise ModelError(
            f"{path} lacks a part ({lacks}), or has one that this ferkit does not know; make the model again, or "
            "update ferkit"
        ) from None
    outside = [name for name in digests if ".." in Path(name).parts or Path(name).is_absolute()]
    if outside:
        raise ModelError(f"the model {folder} points outside itself ({outside[0]}); do not use it")
    needed = _NEEDED.get(record.kind, set())
    if needed and needed.isdisjoint(digests):
        raise ModelError(f"the model {folder} has no {' or '.join(sorted(needed))}; make the model again")
    return record, digests


def _verify(folder: Path, digests: Mapping[str, str], digest_of: Callable[[Path], str] | None = None) -> None:
    for name, sha256 in digests.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(
                f"the model {folder} is damaged: {name} is missing; make it again or take a copy of it"
            )
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"the model {folder} points outside itself ({name}); do not use it")
        if (digest_of or _safe_sha256)(path) != sha256:
            raise ModelError(
                f"the model {folder} is damaged: {name} was changed after it was written; "
                "make it again or take a copy of it"
            )


def _known_sha256(path: Path) -> str:
    """The digest of a file, from memory where it has not been touched since: for lists, which are asked for often."""
    status = path.stat()
    return _sha256_then(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_then(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    return _safe_sha256(path)


def _safe_sha256(path: Path) -> str:
    """The digest of a file that takes nothing out of others. Raises ModelError."""
    if path.suffix != ".onnx":
        return file_sha256(path)
    content = path.read_bytes()
    refuse_external_data(content, path.name, ModelError)
    return hashlib.sha256(content).hexdigest()


def _move_into_place(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
        sync_directory(folder.parent)
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
    else:
        sync_directory(folder.parent)
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)
