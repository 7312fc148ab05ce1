"""The embedding path as a classifier: an open backbone and a fitted head."""

import contextlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.head_onnx import NotConvertibleError, OnnxHead, head_to_onnx
from ferkit.classifiers.heads import FittedHead
from ferkit.classifiers.model import TRAINING_IMAGES, Model, ModelRecord, write_model
from ferkit.core.errors import ModelError, SettingsMismatchError, WeightsError
from ferkit.core.files import settings_dict
from ferkit.core.labels import LabelSet
from ferkit.core.types import check_features
from ferkit.embedder.embedders import load_embedder
from ferkit.embedder.engines import Engine
from ferkit.embedder.settings import Embedder, EmbedderSettings, Resize
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
                "open the backbone and tap that the head was fitted on"
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
    model: Model, *, weights: Path | None = None, threads: int | None = None
) -> EmbeddingClassifier:
    """Open a model of kind ``embedding`` with its backbone.

    Raises:
        ModelError: the head cannot be read or does not fit the backbone.
        WeightsError: the backbone's weights are missing or not the ones it was made with.
    """
    settings = embedder_settings_of(model)
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


def embedder_settings_of(model: Model) -> EmbedderSettings:
    """The backbone's settings. Raises ModelError if the model has none."""
    try:
        return EmbedderSettings.from_dict(model.record.parts["embedder"]["settings"])
    except (KeyError, TypeError):
        raise ModelError(f"{model.folder} does not say which embedding it takes; make it again") from None


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
