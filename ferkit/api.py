"""The public functions: from images to data sets, embeddings, models, figures and predictions.

Names are few and plain; what they return is documented where it is defined. Progress is shown on a terminal; what is
chosen on the way is logged to ``logging.getLogger("ferkit")``. Errors are :class:`ferkit.FerkitError`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ferkit.classifiers.model import Model, temporary_model
from ferkit.classifiers.model import load_model as _load_model
from ferkit.classifiers.predict import Predictions
from ferkit.core.errors import checked
from ferkit.core.labels import LabelSet
from ferkit.core.types import check_image
from ferkit.core.weights import DEFAULT_EDITION
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.load import FetchLimits, ImagesLike
from ferkit.datasets.load import load_dataset as _load_dataset
from ferkit.embedder.settings import Embedder, EmbedderSettings
from ferkit.embedder.store import EmbeddingStore

if TYPE_CHECKING:
    from ferkit.evaluation.comparison import Comparison

PathLike = str | os.PathLike[str]


@checked
def predict(
    images: ImagesLike,
    model: Model | PathLike = DEFAULT_EDITION,
    *,
    detector: str = "auto",
    detector_weights: PathLike | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    private_hosts: bool = False,
) -> Predictions:
    """Predict the expression of every face in images.

    Args:
        images: a path, folder, glob, http(s) address, uint8 RGB array (H, W, 3) or (n, H, W, 3), PIL image, or a list,
            array or column of them.
        model: an open model, its name in ``models/``, its folder, or ``ferkit``.
        detector: ``auto`` finds faces as in the model's training; ``none`` takes every image whole.
        detector_weights: a file for the detector.
        batch_size: images that are taken together.
        workers: threads that read images; one a core if None.
        private_hosts: also fetch from this machine and its own network.

    Returns:
        One result an image, in their order; an image that cannot be read has an ``error``.

    Raises:
        DataError: something else was given.
        ModelError, WeightsError: the model cannot be opened.

    >>> import ferkit, numpy as np
    >>> image = np.full((64, 64, 3), 128, np.uint8)
    >>> [result] = ferkit.predict(image, detector="none")
    >>> len(result.faces), len(result.faces[0].probabilities)
    (1, 7)
    """
    return _model(model).predict(
        images,
        detector=detector,
        detector_weights=detector_weights,
        batch_size=batch_size,
        workers=workers,
        limits=FetchLimits(private_hosts=private_hosts),
    )


@checked
def load_model(name: PathLike, *, weights: PathLike | None = None, threads: int | None = None) -> Model:
    """Open a model by its name in ``models/``, its folder, or ``ferkit`` for the one that comes along.

    Args:
        name: which.
        weights: the backbone's file, where it is not where it was.
        threads: how many work on one batch; None takes every core.

    Raises:
        ModelError: there is no such model, or it is damaged.
        WeightsError: the backbone's weights are missing or not the ones it was made with.

    >>> import ferkit
    >>> ferkit.load_model("ferkit").labels.names
    ('angry', 'disgust', 'fear', 'happy', 'neutral', 'sad', 'surprise')
    """
    return _load_model(name, weights=_path(weights), threads=threads)


@checked
def load_dataset(
    path: PathLike, person_pattern: str | None = None, *, columns: Mapping[str, str] | None = None
) -> Dataset:
    """List the images of a data set with their labels; what is left out is logged with its reason.

    Args:
        path: a folder with a folder for each class, a CSV or other table, an ``.npz`` file, or an archive.
        person_pattern: regular expression whose first group finds the person in a file name.
        columns: names of a table's columns, as ``{"path": "image", "label": "mood"}``.

    Raises:
        DataError: nothing there, or nothing that is understood.

    >>> import ferkit, tempfile
    >>> from ferkit.datasets.synthetic import write_dataset
    >>> folder = tempfile.mkdtemp()
    >>> write_dataset(folder, n_per_class=2, n_persons=4)
    >>> data = ferkit.load_dataset(folder, person_pattern=r"^(p\\d+)_")
    >>> len(data) > 10
    True
    """
    return _load_dataset(path, person_pattern, columns=columns)


@checked
def load_embedder(
    embedder: str | EmbedderSettings = DEFAULT_EDITION,
    *,
    weights: PathLike | None = None,
    layer: str | None = None,
    threads: int | None = None,
) -> Embedder:
    """Open an embedder: crops uint8 RGB (n, H, W, 3) to float32 (n, dim).

    Args:
        embedder: a backbone such as ``ferkit`` or ``arcface``, ``onnx:FILE``, or the settings of an earlier embedder.
        weights: a file to take instead of the one that would be fetched.
        layer: an inner layer, such as ``stage4``; None for the network's own output.
        threads: how many work on one batch; None takes every core.

    Raises:
        DataError: no such backbone or layer.
        WeightsError: the weights are missing, unreachable or not usable.

    >>> import ferkit, numpy as np
    >>> embedder = ferkit.load_embedder("ferkit")
    >>> width, height = embedder.input_size_wh
    >>> embedder.embed(np.zeros((2, height, width, 3), np.uint8)).shape == (2, embedder.dim)
    True
    """
    from ferkit.embedder.embedders import load_embedder as reopen
    from ferkit.embedder.embedders import open_embedder as open_by_name

    if not isinstance(embedder, str):
        return reopen(embedder, weights=_path(weights), threads=threads)
    return open_by_name(embedder, weights=_path(weights), layer=layer, threads=threads)


@checked
def embed(
    data: Dataset | PathLike,
    embedder: Embedder | str | None = None,
    *,
    layer: str | None = None,
    detector: str = "auto",
    detector_weights: PathLike | None = None,
    no_face: Literal["skip", "whole"] = "skip",
    cache_dir: PathLike = "cache",
    batch_size: int | None = None,
    workers: int | None = None,
) -> EmbeddingStore:
    """Turn the faces of a data set into embeddings, or go on where an interrupted run stopped.

    Args:
        data: a data set, or what :func:`load_dataset` takes.
        embedder: an open embedder, or its name; None for the network that comes along, or the one that has embedded
            these data before.
        layer: an inner layer, where ``embedder`` is a name.
        detector: ``auto`` looks at some images first; ``none`` takes every image whole.
        detector_weights: a file for the detector.
        no_face: what becomes of an image without a face: ``skip`` records a failure, ``whole`` takes it whole.
        cache_dir: folder of all stores.
        batch_size: images a run of the network; None for what its engine does best.
        workers: threads that read and crop; one a core if None.

    Raises:
        StoreError: the store is damaged, locked, or mirrors another data set.
        FerkitError: the disk is full or the folder cannot be written; what is complete stays.

    >>> import ferkit, tempfile
    >>> from ferkit.datasets.synthetic import write_dataset
    >>> write_dataset(folder := tempfile.mkdtemp(), n_per_class=2, n_persons=4)
    >>> store = ferkit.embed(folder, "raw", detector="none", cache_dir=tempfile.mkdtemp())
    >>> store.load().X.ndim
    2
    """
    from ferkit.embedder.extract import StoreOptions, default_backbone, embed_dataset, open_for_store
    from ferkit.faces.cropping import Cropping

    dataset = _dataset(data)
    embedder = default_backbone(Path(cache_dir), dataset.name) if embedder is None else embedder
    asked = Cropping.ask(detector, _path(detector_weights), no_face=no_face)
    options = StoreOptions(root=Path(cache_dir), batch_size=batch_size)
    if isinstance(embedder, str):
        embedder = open_for_store(embedder, dataset, asked, options, layer=layer)
    return embed_dataset(dataset, embedder, asked, options, workers=workers)[0]


@checked
def fit(
    store: EmbeddingStore | PathLike,
    head: Literal["mlp", "svm", "logistic", "dummy"] = "mlp",
    *,
    C: float | None = None,
    gamma: float | str | None = None,
    hidden: tuple[int, ...] | None = None,
    alpha: float | None = None,
    learning_rate: float | None = None,
    max_epochs: int | None = None,
    pca: int | str | None = None,
    class_weights: bool | str | Mapping[str, float] = False,
    labels: Sequence[str] | None = None,
    calibration: Literal["auto", "none", "sigmoid", "isotonic", "temperature"] = "auto",
    test_size: float = 0.2,
    by_group: bool = True,
    seed: int = 0,
) -> Model:
    """Fit a head on embeddings and measure it on images that it never saw.

    Args:
        store: embeddings of labelled images, or their folder.
        head: which; a head refuses settings that it does not have.
        C: inverse penalty of ``logistic`` and ``svm``.
        gamma: kernel width of ``svm``.
        hidden: units a layer of ``mlp``.
        alpha, learning_rate, max_epochs: of ``mlp``.
        pca: principal components: a number or ``auto``.
        class_weights: ``True`` gives rare classes as much say as frequent ones; or a number by class, as
            ``{"sad": 2}``.
        labels: the classes to take, in this order; None takes all, sorted.
        calibration: how probabilities are corrected on held-out folds.
        test_size: share held out, where the data have no test part of their own.
        by_group: keep each person on one side, where persons are known.
        seed: of everything random.

    Returns:
        The model; ``report`` has its figures, ``save`` keeps it. Until then it lies in a temporary folder.

    Raises:
        DataError: the data cannot be split or fitted.

    >>> import ferkit, tempfile
    >>> from ferkit.datasets.synthetic import write_dataset
    >>> write_dataset(folder := tempfile.mkdtemp(), n_per_class=8, n_persons=8)
    >>> store = ferkit.embed(folder, "raw", detector="none", cache_dir=tempfile.mkdtemp())
    >>> model = ferkit.fit(store, head="logistic", C=0.01)
    >>> sorted(model.report["accuracy"])
    ['high', 'low', 'value']
    """
    from ferkit.classifiers.heads import head_settings
    from ferkit.datasets.split import SplitSettings
    from ferkit.evaluation.evaluate_model import fit_held_out, load_labelled, save_fit, with_labels

    if not isinstance(store, EmbeddingStore):
        store = EmbeddingStore.open(Path(store))
    given = {
        "C": C, "gamma": gamma, "hidden": hidden, "alpha": alpha, "learning_rate": learning_rate,
        "max_epochs": max_epochs, "pca": pca,
    }  # fmt: skip
    values = {name: value for name, value in given.items() if value is not None}
    settings = head_settings(head, class_weights=class_weights, calibration=calibration, seed=seed, **values)
    table, order = load_labelled(store), None if labels is None else LabelSet.from_names(labels)
    if order is not None:
        table = with_labels(table, order)
    split = SplitSettings(test_size=test_size, seed=seed, by_group=by_group)
    fitted = fit_held_out(table, settings, split, labels=order)
    return temporary_model(head, lambda folder: save_fit(folder, fitted, store, table, overwrite=False))


@checked
def finetune(
    data: Dataset | PathLike,
    recipe: PathLike = "quick",
    *,
    name: str | None = None,
    changes: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    detector: str = "auto",
    detector_weights: PathLike | None = None,
    no_face: Literal["skip", "whole"] = "skip",
    models_dir: PathLike = "models",
    cache_dir: PathLike = "cache",
    overwrite: bool = False,
) -> Model:
    """Train a network as a recipe says, or go on where an interrupted run stopped.

    Args:
        data: labelled images: a data set, or what :func:`load_dataset` takes.
        recipe: the name of one that comes along, or a TOML file.
        name: of the model in ``models_dir``; the recipe's if None.
        changes: other values of the recipe, as ``{"stages.last.epochs": 3}``.
        labels: the classes to take, in this order; None takes all, sorted.
        detector, detector_weights, no_face: see :func:`embed`.
        models_dir: where the model goes.
        cache_dir: where checkpoints and curves go.
        overwrite: replace a finished model of that name.

    Raises:
        DependencyError: Keras or its backend is not installed.
        DataError, TrainingError: the recipe cannot be carried out on these images.

    >>> import ferkit
    >>> model = ferkit.finetune("faces/", "quick")  # doctest: +SKIP
    """
    from ferkit.classifiers.finetune.recipe import RunOptions, load_recipe
    from ferkit.classifiers.finetune.run import finetune as run
    from ferkit.faces.cropping import Cropping

    name = name or Path(recipe).stem
    options = RunOptions(
        model=Path(models_dir) / name,
        work=Path(cache_dir) / "finetune" / name,
        labels=None if labels is None else LabelSet.from_names(labels),
        overwrite=overwrite,
    )
    asked = Cropping.ask(detector, _path(detector_weights), no_face=no_face)
    return run(_dataset(data), load_recipe(os.fspath(recipe), dict(changes or {})), asked, options)


@dataclass(frozen=True, eq=False)
class Report:
    """What was found by :func:`evaluate` or :func:`compare`.

    Attributes:
        comparison: all of it; of one model where one was evaluated.
    """

    comparison: "Comparison"
    _images: Any = None

    @checked
    def summary(self, language: Literal["en", "ko"] = "en") -> str:
        """The tables and the sentences that ``fer compare`` prints."""
        from ferkit.evaluation.report.page import format_summary

        return format_summary(self.comparison, language)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in ``comparison.json``."""
        from ferkit.evaluation.comparison import to_dict

        return to_dict(self.comparison)

    @checked
    def save(self, folder: PathLike, language: Literal["en", "ko"] = "en") -> Path:
        """Write ``report.html``, ``report.md`` and ``report.json``; returns the page."""
        from ferkit.evaluation.report.page import write_comparison

        return write_comparison(self.comparison, Path(folder), language, self._images)[0]


@checked
def evaluate(
    model: Model | PathLike,
    data: Dataset | PathLike,
    *,
    split: Literal["auto", "train", "val", "test", "all"] = "auto",
    detector: str = "auto",
    detector_weights: PathLike | None = None,
    by: Sequence[str] = (),
    seed: int = 0,
) -> Report:
    """Measure a model on labelled images.

    Args:
        model: an open model, its name or its folder.
        data: labelled images: a data set, or what :func:`load_dataset` takes.
        split: which part; ``auto`` takes the test part where there is one, or else everything.
        detector: ``auto`` finds faces as in the model's training.
        detector_weights: a file for the detector.
        by: columns whose groups are compared.
        seed: of the bootstrap.

    Raises:
        DataError: there are no labelled images, or none can be read.

    >>> import ferkit, tempfile
    >>> from ferkit.datasets.synthetic import write_dataset
    >>> write_dataset(folder := tempfile.mkdtemp(), n_per_class=3, n_persons=6)
    >>> print(ferkit.evaluate("ferkit", folder).summary().splitlines()[0] != "")
    True
    """
    from ferkit.evaluation.evaluate_model import (
        copies_of_training,
        evaluate_model,
        in_words_of,
        labelled_part,
        score,
    )
    from ferkit.evaluation.shared_inputs import attribute_columns, check_columns
    from ferkit.faces.cropping import cropping_as_trained

    opened, whole = _model(model), _dataset(data)
    dataset = labelled_part(whole, split)
    check_columns(attribute_columns(dataset.samples), by)
    cropping = cropping_as_trained(opened.crops, detector, _path(detector_weights), dataset)
    scores = score(dataset, opened, cropping.cropper(opened))
    y_true, _ = in_words_of(opened.labels, scores.y_true)
    copies = copies_of_training(opened, scores, whole)
    return Report(evaluate_model(opened, whole, scores, y_true, by=by, seed=seed, copies=copies), dataset)


@checked
def compare(
    data: Dataset | PathLike,
    candidates: Sequence[str | Mapping[str, Any]] = (),
    *,
    detector: str = "auto",
    detector_weights: PathLike | None = None,
    repeats: int = 1,
    test_size: float = 0.2,
    by_group: bool = True,
    allow_leaks: bool = False,
    by: Sequence[str] = (),
    seed: int = 0,
    out: PathLike | None = None,
    models_dir: PathLike = "models",
    cache_dir: PathLike = "cache",
) -> Report:
    """Compare models on the same images and the same split, or go on where an interrupted comparison stopped.

    Args:
        data: labelled images: a data set, or what :func:`load_dataset` takes.
        candidates: such as ``dummy``, ``mlp@ferkit``, ``ferkit``, ``finetune:quick``; see ``fer compare --help``.
        detector, detector_weights: see :func:`embed`; an image without a face is taken whole.
        repeats: how often the data are divided, or training begins again.
        test_size: share held out, where the data have no test part of their own.
        by_group: keep each person on one side, where persons are known.
        allow_leaks: go on where test images are in training too.
        by: columns whose groups are compared.
        seed: of splits, training and bootstrap.
        out: where finished results are kept; ``comparison/<data>`` if None.
        models_dir, cache_dir: where models are looked for, and embeddings kept.

    Raises:
        DataError: the images cannot be divided, or the test part leaks and that is not allowed.

    >>> import ferkit, tempfile
    >>> from ferkit.datasets.synthetic import write_dataset
    >>> write_dataset(folder := tempfile.mkdtemp(), n_per_class=6, n_persons=9)
    >>> work = tempfile.mkdtemp()
    >>> found = ferkit.compare(folder, ["dummy"], out=work, cache_dir=work, allow_leaks=True)
    >>> "dummy" in found.summary()
    True
    """
    from ferkit.evaluation.candidate_names import parse_candidates
    from ferkit.evaluation.compare import compare as run
    from ferkit.evaluation.comparison import ProtocolSettings
    from ferkit.evaluation.shared_inputs import CompareOptions, build_evaluation_data, read_labelled
    from ferkit.faces.cropping import Cropping

    read = read_labelled(_dataset(data), Path(cache_dir))
    images = build_evaluation_data([read])
    protocol = ProtocolSettings(
        repeats=repeats,
        test_size=test_size,
        seed=seed,
        by_group=by_group,
        allow_leaks=allow_leaks,
        by=tuple(by),
    )
    folder = Path("comparison") / read.dataset.name if out is None else Path(out)
    options = CompareOptions(
        cache_dir=Path(cache_dir),
        out=folder,
        models_dir=Path(models_dir),
        crop=Cropping.ask(detector, _path(detector_weights), no_face="whole"),
    )
    return Report(run(images, parse_candidates(candidates, None), protocol, options), images.read)


@dataclass(frozen=True)
class StreamFace:
    """One face of a frame.

    Attributes:
        box: left, top, right, bottom in pixels.
        track_id: the same number for the same person over time.
        label: what is shown, steadied over time; None while nothing is certain.
        confidence: its smoothed probability, or that of the most probable class; 0..1.
        probabilities: smoothed, of every class.
    """

    box: tuple[float, float, float, float]
    track_id: int
    label: str | None
    confidence: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class StreamResult:
    """The faces of one frame.

    Attributes:
        timestamp_s: of the frame.
        faces: those that are followed.
    """

    timestamp_s: float
    faces: tuple[StreamFace, ...]


class ExpressionStream:
    """Follow faces through the frames of one camera or video and predict their expressions.

    Args:
        model: an open model, its name or its folder.
        smoothing: ``hmm``, ``ema``, ``majority``, ``repeat`` or ``none``.
        detector: ``auto`` finds faces as in the model's training.
        detector_weights: a file for the detector.
        detect_every: frames from one detection to the next; None lets the machine's speed decide.

    Raises:
        ModelError, WeightsError, DependencyError: a part cannot be opened.

    >>> import ferkit, numpy as np
    >>> stream = ferkit.ExpressionStream("ferkit", detector="haar")
    >>> stream.process(np.zeros((120, 160, 3), np.uint8), timestamp_s=0.0).faces
    ()
    """

    @checked
    def __init__(
        self,
        model: Model | PathLike = DEFAULT_EDITION,
        *,
        smoothing: Literal["hmm", "ema", "majority", "repeat", "none"] = "hmm",
        detector: str = "auto",
        detector_weights: PathLike | None = None,
        detect_every: int | None = 1,
    ) -> None:
        from ferkit.inference.engine import EngineOptions, build_engine
        from ferkit.inference.smoothing import SmoothingSettings

        options = EngineOptions(
            detector=detector,
            detector_weights=_path(detector_weights),
            detect_every=detect_every,
            smoothing=SmoothingSettings(smoothing),
        )
        self._engine, _ = build_engine(_model(model), options)

    @checked
    def process(self, rgb: np.ndarray, timestamp_s: float) -> StreamResult:
        """Take the next frame.

        Args:
            rgb: uint8 (H, W, 3).
            timestamp_s: its time in seconds, later than that of the frame before.

        Raises:
            DataError: an array of another shape or type.
        """
        found = self._engine.process(check_image(rgb), timestamp_s)
        names = self._engine.labels.names
        ids = found.faces.track_id
        faces = []
        for i in range(len(found)):
            left, top, right, bottom = found.faces.xyxy[i].tolist()
            shown, proba = int(found.label[i]), found.proba[i].tolist()
            faces.append(
                StreamFace(
                    (left, top, right, bottom),
                    -1 if ids is None else int(ids[i]),
                    names[shown] if shown >= 0 else None,
                    proba[shown] if shown >= 0 else max(proba),
                    dict(zip(names, proba, strict=True)),
                )
            )
        return StreamResult(timestamp_s, tuple(faces))


def _path(value: PathLike | None) -> Path | None:
    return None if value is None else Path(value)


def _model(model: Model | PathLike) -> Model:
    return model if isinstance(model, Model) else _load_model(model)


def _dataset(data: Dataset | PathLike) -> Dataset:
    return data if isinstance(data, Dataset) else _load_dataset(data)
