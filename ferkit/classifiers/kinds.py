"""The kinds of model: an open backbone with a fitted head, a network by any trainer, and an ensemble of models.

Each kind has a classifier, writes its folder and reads it again; what a folder is stands in ``model.py``.
"""

import contextlib
import dataclasses
import functools
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.head_onnx import NotConvertibleError, OnnxHead, head_to_onnx
from ferkit.classifiers.heads import FittedHead
from ferkit.classifiers.model import RECORD, TRAINING_IMAGES, Model, ModelRecord, read_model, write_model
from ferkit.core.errors import ModelError, SettingsMismatchError, WeightsError
from ferkit.core.files import settings_dict
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier, check_crops, check_features
from ferkit.core.weights import NETWORK_ONNX
from ferkit.embedder.embedders import load_embedder
from ferkit.embedder.engines import Engine, open_session, requested_engines
from ferkit.embedder.settings import Embedder, EmbedderSettings, Resize, resize_crops
from ferkit.faces.cropping import CropSettings

logger = logging.getLogger(__name__)

HEAD_SKOPS = "head.skops"
HEAD_ONNX = "head.onnx"

_TRUSTED = [
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
]
"""Besides the estimators that skops trusts by itself; none of them runs code when it is loaded."""


class EmbeddingClassifier:
    """Crops to probabilities through an embedding; an :class:`ferkit.core.types.ExpressionClassifier`.

    Attributes:
        labels: the classes.
        input_size_wh: of the backbone, in pixels.
        resize: how crops of another size become that.
        embedder: the backbone.

    Raises:
        ModelError: the head takes another number of dimensions or gives another number of classes.
    """

    def __init__(
        self, embedder: Embedder, head: Any, dim: int, labels: LabelSet, name: str = "the head"
    ) -> None:
        if embedder.dim != dim:
            raise ModelError(
                f"{name} takes embeddings of {dim} dimensions, {embedder.name} gives {embedder.dim}; "
                "open the backbone and layer that the head was fitted on"
            )
        self.embedder = embedder
        self.labels = labels
        self.input_size_wh = embedder.input_size_wh
        self.resize: Resize = embedder.resize
        self._head = head

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, for uint8 RGB crops (n, H, W, 3)."""
        return self.predict_proba_of_embeddings(self.embedder.embed(crops))

    def predict_proba_of_embeddings(self, X: np.ndarray) -> np.ndarray:
        """The same for embeddings (n, dim) of the backbone, say from a store.

        Raises:
            DataError: embeddings of another number of dimensions, or NaN.
        """
        check_features(X, self.embedder.dim)
        return np.asarray(self._head.predict_proba(X), np.float32)


def save_embedding_model(
    folder: Path,
    head: FittedHead,
    X: np.ndarray,
    *,
    embedder_settings: EmbedderSettings,
    embedder_fingerprint: str,
    faces: CropSettings,
    crops: str | None = None,
    weights: Path | None = None,
    licence: str = "unknown",
    cosine: float | None = None,
    data: dict[str, Any] | None = None,
    split: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    images: np.ndarray | None = None,
    more: Callable[[Path], object] | None = None,
    overwrite: bool = False,
) -> Model:
    """Write a head as a model folder: ``head.skops`` to go on with, and ``head.onnx`` to predict with.

    Args:
        folder: ``models/<name>``.
        head: fitted.
        X: some embeddings (n, dim), on which the graph is compared with the head.
        embedder_settings: of the backbone.
        embedder_fingerprint: of the backbone.
        faces: how faces were taken out of the images.
        crops: what they were trained on.
        weights: where the backbone's file is now; kept as a hint.
        licence: of the backbone's weights.
        cosine: of the embeddings with those in float32, where another engine or precision made them.
        data, split, metrics: for the record, see :class:`ferkit.classifiers.model.ModelRecord`.
        images: what the training images are known by, see :func:`ferkit.datasets.leakage.image_keys`.
        more: puts further files into the folder it is given.
        overwrite: replace a model that is there.

    Raises:
        ModelError: the folder may not be written.
    """
    notes = list(head.notes)
    try:
        graph = head_to_onnx(head.pipeline, np.asarray(X[:256], np.float32))
    except NotConvertibleError as error:
        graph = None
        notes.append(f"predicting imports scikit-learn: {error}")

    def write(target: Path) -> None:
        import skops.io

        skops.io.dump(head.pipeline, target / HEAD_SKOPS, compression=8)
        if graph is not None:
            (target / HEAD_ONNX).write_bytes(graph)
        if images is not None:
            np.save(target / TRAINING_IMAGES, np.unique(images))
        if more is not None:
            more(target)

    record = ModelRecord(
        kind="embedding",
        labels=head.classes,
        input_size_wh=embedder_settings.input_size_wh,
        faces=settings_dict(faces),
        crops=crops or "",
        parts={
            "embedder": {
                "settings": settings_dict(embedder_settings),
                "fingerprint": embedder_fingerprint,
                "weights": None if weights is None else str(weights.resolve()),
                **({} if cosine is None else {"cosine": round(cosine, 6)}),
            },
            "head": {
                "settings": head.settings.to_dict(),
                "dim": head.dim,
                "notes": notes,
                "seconds": round(head.seconds, 3),
            },
        },
        data=data or {},
        split=split or {},
        seeds={"head": head.settings.seed},
        metrics=metrics or {},
        licence=licence,
    )
    return write_model(folder, record, write, overwrite=overwrite)


def load_embedding_classifier(
    model: Model, *, weights: Path | None, threads: int | None
) -> EmbeddingClassifier:
    """Open a model of kind ``embedding`` with its backbone.

    Raises:
        ModelError: the head cannot be read or does not fit the backbone.
        WeightsError: the backbone's weights are missing or not the ones it was made with.
    """
    try:
        settings = EmbedderSettings.from_dict(model.record.parts["embedder"]["settings"])
    except (KeyError, TypeError):
        raise ModelError(f"{model.folder} does not say which embedding it takes; make it again") from None
    embedder = _open_backbone(model, settings, weights, threads)
    check_fingerprint(model, embedder.fingerprint)
    engine = getattr(embedder, "engine", None)
    if engine is not None and (engine.name, engine.precision) != (settings.engine, settings.precision):
        cosine = model.record.parts["embedder"].get("cosine", "unknown")
        logger.info(
            "%s was fitted on embeddings by %s; %s gives others, cosine with float32 %s",
            model.folder.name, Engine(settings.engine, settings.precision), engine, cosine,
        )  # fmt: skip
    head, dim = open_head(model)
    return EmbeddingClassifier(embedder, head, dim, model.labels, f"the head of {model.folder}")


def _open_backbone(
    model: Model, settings: EmbedderSettings, weights: Path | None, threads: int | None
) -> Embedder:
    """The backbone, its file being known by its digest: where it was, or a copy next to ``model.json``."""
    hint = model.record.parts["embedder"].get("weights")
    known = [Path(hint)] if hint is not None else []
    known += [path for path in sorted(model.folder.glob("*.onnx")) if path.name != HEAD_ONNX]
    for path in known if weights is None else []:
        if path.is_file():
            with contextlib.suppress(SettingsMismatchError):
                return load_embedder(settings, weights=path, threads=threads)
    try:
        return load_embedder(settings, weights=weights, threads=threads)
    except (WeightsError, SettingsMismatchError) as error:
        if weights is not None or not settings.backbone.startswith("onnx:"):
            raise
        raise WeightsError(
            f"the network {settings.backbone} that {model.folder} was fitted on is not where it was "
            f"({hint or 'unknown'}): {error}; or put a copy of it, with SHA-256 {settings.weights_sha256}, next to "
            f"{model.folder / 'model.json'}, under any name that ends in .onnx"
        ) from None


def check_fingerprint(model: Model, fingerprint: str) -> None:
    """Refuse embeddings, or a backbone, of other settings than the head was fitted on.

    Raises:
        ModelError: the fingerprints differ.
    """
    wanted = model.record.parts["embedder"]["fingerprint"]
    if fingerprint != wanted:
        raise ModelError(
            f"the head of {model.folder} was fitted on embeddings {wanted[:8]} "
            f"({model.record.parts['embedder']['settings'].get('backbone')}), these are of "
            f"{fingerprint[:8]}; embed the images with the settings of the model"
        )


def open_head(model: Model) -> tuple[Any, int]:
    """What gives the probabilities of embeddings, and how many dimensions it takes.

    That is ``head.onnx`` where the model has it, so that scikit-learn is not imported, else ``head.skops``.

    Raises:
        ModelError: the head is not what a model of this kind has, or has another number of classes.
    """
    dim = int(model.record.parts["head"]["dim"])
    if HEAD_ONNX not in model.files:
        return load_head(model), dim
    head = OnnxHead(model.file(HEAD_ONNX))
    if (head.dim, head.n_classes) != (dim, len(model.labels)):
        raise ModelError(
            f"{model.folder} says {dim} dimensions and {len(model.labels)} classes, its head has "
            f"{head.dim} and {head.n_classes}; make the model again"
        )
    return head, dim


def load_head(model: Model) -> Any:
    """The scikit-learn pipeline itself; never unpickles.

    Warns if it was made with another release of scikit-learn.

    Raises:
        ModelError: the file is no skops file, or holds types that no head of ferkit has.
    """
    import sklearn
    import skops.io

    path = model.file(HEAD_SKOPS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each estimator warns of its release: once is enough, below
            pipeline = skops.io.load(path, trusted=_TRUSTED)
    except Exception as error:  # a foreign file fails in as many ways as there are types in it
        raise ModelError(
            f"{path} is not a head that ferkit may open: {error}; make the model again"
        ) from None
    if not hasattr(pipeline, "predict_proba") or len(pipeline.classes_) != len(model.labels):
        raise ModelError(f"{path} is not the head of this model; make the model again")
    made_with = model.record.versions.get("scikit-learn", sklearn.__version__)
    if made_with.split(".")[:2] != sklearn.__version__.split(".")[:2]:
        warnings.warn(
            f"{model.folder} was made with scikit-learn {made_with}, this is {sklearn.__version__}: "
            "compare its predictions before you rely on them, or fit it again",
            stacklevel=2,
        )
    return pipeline


RULES = ("mean", "weighted", "logit-mean")
_SMALLEST = 1e-7  # below it a logarithm would let one member overrule all others


class EnsembleClassifier:
    """The mean of its members' probabilities, or of their logarithms.

    Args:
        members: at least two, of the same classes in any order; crops are resized to each one's input size.
        weights: one a member, positive; None weighs all alike.
        logits: take the mean of the logarithms and normalise (a geometric mean): a member that is sure
            counts more.

    Attributes:
        labels: the classes in the order of the first member.
        input_size_wh: the largest of the members'.

    Raises:
        ModelError: fewer than two members, other classes, or weights that do not fit.
    """

    def __init__(
        self,
        members: Sequence[ExpressionClassifier],
        weights: Sequence[float] | None = None,
        *,
        logits: bool = False,
    ) -> None:
        if len(members) < 2:
            raise ModelError(f"expected at least two models for an ensemble, found {len(members)}")
        self.labels: LabelSet = members[0].labels
        for member in members:
            if set(member.labels.names) != set(self.labels.names):
                raise ModelError(
                    f"expected models of the same classes, found {', '.join(self.labels.names)} and "
                    f"{', '.join(member.labels.names)}"
                )
        weights = [1.0] * len(members) if weights is None else list(weights)
        if len(weights) != len(members) or min(weights) <= 0 or not np.isfinite(weights).all():
            raise ModelError(f"expected {len(members)} positive weights, found {weights}")
        self.members = tuple(members)
        self.weights = tuple(float(weight) / sum(weights) for weight in weights)
        self.logits = logits
        self.input_size_wh = max((member.input_size_wh for member in members), key=lambda wh: wh[0] * wh[1])
        self.resize = "stretch"
        self._columns = [
            [member.labels.names.index(name) for name in self.labels.names] for member in self.members
        ]

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, of uint8 RGB ``crops`` (n, H, W, 3) of ``input_size_wh``.

        Raises:
            DataError: crops of another shape or type.
        """
        check_crops(crops, self.input_size_wh)
        total = np.zeros((len(crops), len(self.labels)))
        for member, weight, columns in zip(self.members, self.weights, self._columns, strict=True):
            found = member.predict_proba(resize_crops(crops, member.input_size_wh))
            proba = found[:, columns].astype(np.float64)
            total += weight * (np.log(np.maximum(proba, _SMALLEST)) if self.logits else proba)
        if self.logits:
            total = np.exp(total - total.max(axis=1, keepdims=True))
        return (total / total.sum(axis=1, keepdims=True)).astype(np.float32)


def save_ensemble(
    folder: Path,
    members: Sequence[Path],
    *,
    rule: str = "mean",
    weights: Sequence[float] | None = None,
    overwrite: bool = False,
) -> Model:
    """Write an ensemble as a model folder that contains its members, so that it can be moved and they cannot.

    Args:
        folder: ``models/<name>``.
        members: folders of models of any kind.
        rule: ``mean``, ``weighted`` or ``logit-mean``. Weighted takes ``weights``, or each member's
            validation accuracy above chance.
        weights: one a member.
        overwrite: replace a model that is there.

    Raises:
        ModelError: a member cannot be read, they do not fit each other, or there are no weights to be had.
    """
    if rule not in RULES:
        raise ModelError(f"expected one of {', '.join(RULES)} as rule, found {rule!r}")
    models = [read_model(member) for member in members]
    if rule == "weighted" and weights is None:
        weights = [_validation_weight(model) for model in models]
    together = EnsembleClassifier(
        [model.classifier for model in models], weights, logits=rule == "logit-mean"
    )
    first = models[0].record
    for model in models[1:]:
        if model.crops != models[0].crops:
            raise ModelError(
                f"{members[0]} and {model.folder} were trained on faces cropped in other ways; an ensemble gives all "
                "its members the same crop"
            )
    names = [f"member-{i}" for i in range(len(members))]

    def write(target: Path) -> None:
        for name, model in zip(names, models, strict=True):
            shutil.copytree(model.folder, target / name, ignore=shutil.ignore_patterns("report"))

    record = ModelRecord(
        kind="ensemble",
        labels=together.labels.names,
        input_size_wh=together.input_size_wh,
        faces=first.faces,
        crops=models[0].crops.kind,
        parts={
            "members": names,
            "weights": together.weights,
            "rule": rule,
            "from": [model.name for model in models],
        },
        data=first.data,
        licence="; ".join(dict.fromkeys(model.record.licence for model in models)),
    )
    return write_model(folder, record, write, overwrite=overwrite)


def load_ensemble(model: Model, *, weights: Path | None, threads: int | None) -> EnsembleClassifier:
    """Open a model of kind ``ensemble`` with all its members; ``weights`` is handed to them.

    Raises:
        ModelError: a member is damaged or missing.
        WeightsError: a member's backbone is missing.
    """
    parts, members = model.record.parts, []
    for name in parts["members"]:
        here = model.folder.resolve()
        if f"{name}/{RECORD}" not in model.files or here not in (model.folder / name).resolve().parents:
            raise ModelError(f"the model {model.folder} has a member outside itself ({name}); do not use it")
        members.append(read_model(model.folder / name, weights=weights, threads=threads).classifier)
    return EnsembleClassifier(members, parts["weights"], logits=parts["rule"] == "logit-mean")


def _validation_weight(model: Model) -> float:
    figures = model.report.get("validation", model.report)
    accuracy = figures.get("accuracy") if isinstance(figures, dict) else None
    chance = 1 / len(model.labels)
    if not isinstance(accuracy, (int, float)):
        raise ModelError(
            f"{model.folder} has no validation accuracy to weigh it by; give --weight for each model"
        )
    return max(float(accuracy) - chance, 0.01)


PROBABILITIES = "probabilities"
"""The output to take where a network has several; otherwise it is the only one, of any name."""

BATCH = 32


class NetworkClassifier:
    """Probabilities of an ONNX network that takes float32 (n, H, W, 3) RGB 0..255.

    Args:
        onnx: content of the ``.onnx`` file.
        labels: the network's classes in the order of its columns; one column is the probability of the
            second of two.
        flip: average with the mirrored crops: twice the time for about half a point of accuracy.
        threads: see :func:`ferkit.embedder.engines.open_session`.

    Raises:
        ModelError: the file is no such network, or its columns do not fit the labels.
    """

    def __init__(
        self, onnx: bytes, labels: LabelSet, *, flip: bool = False, threads: int | None = None
    ) -> None:
        self.onnx = onnx
        self.labels = labels
        self.flip = flip
        self.resize = "stretch"  # how other sizes become the input size, as in training
        self._session = open_session(
            onnx, "the network", requested_engines(), threads=threads, error=ModelError
        )
        self._input, shape = self._session.inputs[0].name, self._session.inputs[0].shape
        outputs = {output.name: output for output in self._session.outputs}
        output = outputs.get(PROBABILITIES, self._session.outputs[0])
        self._output, columns = output.name, output.shape[-1]
        if len(shape) != 4 or shape[3] != 3 or shape[1] is None or shape[2] is None:
            raise ModelError(f"expected a network that takes (n, H, W, 3), found {shape}; export it again")
        if columns != len(labels) and not (columns == 1 and len(labels) == 2):
            raise ModelError(f"expected a network of {len(labels)} classes, found one of {columns}")
        self.input_size_wh: tuple[int, int] = (shape[2], shape[1])

    def __reduce__(self) -> tuple[Any, ...]:
        # Sessions cannot be pickled or copied.
        return functools.partial(NetworkClassifier, flip=self.flip), (self.onnx, self.labels)

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, of uint8 RGB ``crops`` (n, H, W, 3) of ``input_size_wh``.

        Raises:
            DataError: crops of another shape or type.
        """
        check_crops(crops, self.input_size_wh)
        proba = np.empty((len(crops), len(self.labels)), np.float32)
        for start in range(0, len(crops), BATCH):
            batch = crops[start : start + BATCH].astype(np.float32)
            found = self._run(batch)
            if self.flip:
                found = (found + self._run(np.ascontiguousarray(batch[:, :, ::-1]))) / 2
            proba[start : start + BATCH] = found
        return proba

    def _run(self, batch: np.ndarray) -> np.ndarray:
        found = self._session.run([self._output], {self._input: batch})[0]
        return np.concatenate([1 - found, found], axis=1) if found.shape[1] == 1 else found


def save_network_model(
    folder: Path, files: dict[str, bytes], record: ModelRecord, *, flip: bool = False, overwrite: bool = False
) -> Model:
    """Write a network as a model folder.

    Args:
        folder: ``models/<name>``.
        files: contents by name; ``network.onnx`` is what predicts.
        record: its ``parts`` are completed here.
        flip: see :class:`NetworkClassifier`.
        overwrite: replace a model that is there.

    Raises:
        ModelError: the folder may not be written.
    """

    def write(target: Path) -> None:
        for name, content in files.items():
            (target / name).write_bytes(content)

    record = dataclasses.replace(record, kind="network", parts={**record.parts, "flip": flip})
    return write_model(folder, record, write, overwrite=overwrite)


def load_network_classifier(model: Model, *, weights: Path | None, threads: int | None) -> NetworkClassifier:
    """Open a model of kind ``network``; it carries its weights, so that ``weights`` has no meaning here.

    Raises:
        ModelError: the file is no such network.
    """
    if weights is not None:
        raise ModelError(f"{model.folder} is a network and carries its own weights; leave --weights out")
    return NetworkClassifier(
        model.file(NETWORK_ONNX).read_bytes(),
        model.labels,
        flip=bool(model.record.parts.get("flip", False)),
        threads=threads,
    )
