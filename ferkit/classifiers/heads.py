"""Build, fit and calibrate heads on embeddings.

The embeddings may be memory-mapped and of half precision: they are read in chunks, and what the classifier
itself sees is float32 of few dimensions.
"""

import dataclasses
import math
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import DataError, TrainingError
from ferkit.core.files import settings_dict
from ferkit.core.labels import meaning_of
from ferkit.core.types import check_features
from ferkit.datasets.split import SplitSettings, folds, holdout
from ferkit.embedder.shards import ShardRows

ClassWeights: TypeAlias = bool | str | Mapping[str, float]
"""How much the images of each class count.

``False`` weighs all alike, ``True`` each class by the inverse of its frequency, a mapping as it says: its keys are
names of classes, or else their numbers from 0, and classes that it leaves out weigh 1. A text says the same:
``none``, ``balanced``, or ``약올리기=2,비약올리기=1``.
"""

_WORDS = {"none": False, "false": False, "balanced": True, "true": True}


def read_class_weights(asked: ClassWeights) -> bool | dict[str, float]:
    """The weights that a user asks for, as False, True or numbers by class.

    Raises:
        DataError: they are not what :data:`ClassWeights` says.
    """
    if isinstance(asked, str):
        asked = _WORDS.get(asked.strip().lower(), asked)
    if isinstance(asked, bool):
        return asked
    pairs = [part.rpartition("=")[::2] for part in asked.split(",")] if isinstance(asked, str) else asked
    try:
        weights = {str(name).strip(): float(value) for name, value in dict(pairs).items()}
    except (AttributeError, TypeError, ValueError):
        weights = {}
    if not weights or "" in weights or not all(0 < w < math.inf for w in weights.values()):
        raise DataError(
            "expected class weights as 'balanced', 'none' or CLASS=WEIGHT,… with numbers above 0, such as 1=2, found "
            f"{asked!r}"
        )
    return weights


def numbers_of(asked: ClassWeights, y: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """The weight of each class, float64 (k,); None where all weigh alike.

    Args:
        asked: what was asked for.
        y: class numbers (n,) of the images; balanced weights have mean 1 over them.
        names: the k classes.

    Raises:
        DataError: weights of a class that is not there.
    """
    asked = read_class_weights(asked)
    if asked is False:
        return None
    if asked is True:
        return len(y) / (len(names) * np.maximum(np.bincount(y, minlength=len(names)), 1))
    place = {str(i): i for i in range(len(names))}
    place |= {meaning_of(name): i for i, name in enumerate(names)}
    place |= {unicodedata.normalize("NFC", name): i for i, name in enumerate(names)}
    weights = np.ones(len(names))
    for key, value in asked.items():
        name = unicodedata.normalize("NFC", key)
        i = place.get(name, place.get(meaning_of(name)))
        if i is None:
            known = ", ".join(f"{name} or {i}" for i, name in enumerate(names))
            raise DataError(f"no class {key!r} to weigh; expected {known}")
        weights[i] = value
    return weights


Calibration = Literal["auto", "none", "sigmoid", "isotonic", "temperature"]

PCA_ABOVE = 2_000
"""``pca="auto"`` reduces embeddings of more dimensions: inner layers have thousands, last layers hundreds."""

PCA_COMPONENTS = 256


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int)


Rule = tuple[Callable[[Any], bool], str]
_NUMBER: Rule = (_is_number, "a number above 0")
_COUNT: Rule = (_is_count, "a number above 0")
_NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "a number of at least 0")
_RULES: dict[str, Rule] = {
    "C": _NUMBER, "max_iter": _COUNT, "alpha": _NOT_NEGATIVE, "learning_rate": _NUMBER, "max_epochs": _COUNT,
    "exact_rows": _NOT_NEGATIVE, "landmarks": _COUNT,
    "pca": (lambda value: value in (None, "auto") or _is_count(value), "auto, None or a number above 0"),
    "calibration": (lambda value: value in get_args(Calibration), f"one of {', '.join(get_args(Calibration))}"),
    "hidden": (lambda value: bool(value) and all(map(_is_count, value)), "numbers above 0"),
    "batch_size": (lambda value: value == "auto" or _is_count(value), "auto or a number above 0"),
    "patience": (lambda value: value is None or _is_count(value), "None or a number above 0"),
    "gamma": (lambda value: value == "scale" or _is_number(value), "scale or a number above 0"),
}  # fmt: skip
"""What the settings of heads may be, by name: a check and words for it."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """What all heads have in common.

    Attributes:
        pca: number of principal components that the scaled embedding is reduced to; ``auto`` is 256 above
            2,000 dimensions and none below; None is none.
        class_weights: how much the images of each class count.
        calibration: how probabilities are corrected on held-out folds. ``temperature`` (Guo et al.,
            2017) keeps the decisions; ``sigmoid`` (Platt, 1999) and ``isotonic`` (Zadrozny & Elkan, 2002;
            wants some thousand images) correct each class by itself. ``auto`` is ``temperature`` for the
            exact SVM, which has no probabilities of its own, and none for the others.
        seed: of everything random.
    """

    kind: ClassVar[str]
    pca: int | Literal["auto"] | None = "auto"
    class_weights: ClassWeights = field(default=False, metadata={"key": "balanced"})
    calibration: Calibration = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", read_class_weights(self.class_weights))
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))
            allowed, expected = _RULES.get(f.name, (lambda _: True, ""))
            if not allowed(value):
                raise DataError(f"expected {f.name} to be {expected}, found {value!r}")

    def components(self, d: int) -> int | None:
        """The number of principal components for embeddings of ``d`` dimensions; None for no reduction."""
        wanted = (PCA_COMPONENTS if d > PCA_ABOVE else None) if self.pca == "auto" else self.pca
        return wanted if wanted is not None and wanted < d else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, ``kind`` among them; :func:`head_settings` turns them back."""
        return {"kind": self.kind, **settings_dict(self)}


@dataclass(frozen=True, kw_only=True)
class LogisticSettings(HeadSettings):
    """Multinomial logistic regression.

    Attributes:
        C: inverse of the L2 penalty.
        max_iter: of L-BFGS.
    """

    kind: ClassVar[str] = "logistic"
    C: float = 0.01
    max_iter: int = 300


@dataclass(frozen=True, kw_only=True)
class MLPSettings(HeadSettings):
    """A small neural network, trained with Adam.

    Attributes:
        hidden: units of each hidden layer.
        alpha: L2 penalty.
        learning_rate: of Adam.
        batch_size: images a step; ``auto`` is 200, above 20,000 images 500 and above 100,000 images 1,000.
        max_epochs: passes over the data at most.
        patience: the number of passes is chosen on held-out rows (of other persons, where persons are known):
            the best one, once this many did not improve on it. None trains ``max_epochs`` passes.
    """

    kind: ClassVar[str] = "mlp"
    hidden: tuple[int, ...] = (128, 64)
    alpha: float = 3.0
    learning_rate: float = 1e-3
    batch_size: int | Literal["auto"] = "auto"
    max_epochs: int = 200
    patience: int | None = 10

    def batch_for(self, n: int) -> int:
        """Images a step for ``n`` images."""
        usual = 200 if n <= 20_000 else 500 if n <= 100_000 else 1_000
        return min(usual if self.batch_size == "auto" else self.batch_size, n)


@dataclass(frozen=True, kw_only=True)
class SVMSettings(HeadSettings):
    """A support vector machine with RBF kernel.

    Above ``exact_rows`` images the kernel is approximated with landmarks (Nystroem: Williams & Seeger, 2001)
    and the classifier on them is trained with the logistic loss, which gives probabilities; below, it is the
    exact machine.

    Attributes:
        C: inverse of the penalty.
        gamma: of the kernel ``exp(-gamma * |a - b|^2)``; ``scale`` is 1 / (dimensions * variance).
        exact_rows: how many images the exact machine takes: its time grows with the square.
        landmarks: of the approximation.
    """

    kind: ClassVar[str] = "svm"
    C: float = 3.0
    gamma: float | Literal["scale"] = "scale"
    exact_rows: int = 30_000
    landmarks: int = 2_048


@dataclass(frozen=True, kw_only=True)
class DummySettings(HeadSettings):
    """Says the classes' frequencies for any input: the floor of every comparison."""

    kind: ClassVar[str] = "dummy"

    def components(self, d: int) -> int | None:
        """None: components of embeddings that are not looked at would be computed for nothing."""
        return None


HEADS: dict[str, type[HeadSettings]] = {
    settings.kind: settings for settings in (MLPSettings, SVMSettings, LogisticSettings, DummySettings)
}


def head_settings(kind: str, **values: Any) -> HeadSettings:
    """Settings of a kind of head; ``balanced`` is what 0.1 called the class weights.

    Raises:
        DataError: no such kind, an option that this kind does not have, or a value it does not take.
    """
    if kind not in HEADS:
        raise DataError(f"no head is called {kind!r}; known: {', '.join(HEADS)}")
    fields = [field.name for field in dataclasses.fields(HEADS[kind])]
    values = {"class_weights" if name == "balanced" else name: value for name, value in values.items()}
    foreign = sorted(values.keys() - set(fields))
    if foreign:
        raise DataError(f"the {kind} head has no option {', '.join(foreign)}; it has {', '.join(fields)}")
    return HEADS[kind](**values)


def build_head(settings: HeadSettings, n: int, d: int) -> tuple[Any, tuple[str, ...]]:
    """The unfitted ``Pipeline(scaler, [pca], [kernel], head)`` for ``n`` embeddings of ``d`` dimensions.

    Calibration is not part of it, since it needs to know the persons; see :func:`fit_classifier`.

    Returns:
        The pipeline, and sentences about what was chosen by itself.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    steps: list[tuple[str, Any]] = [("scaler", StandardScaler())]
    notes = []
    components = settings.components(d)
    if components is not None and components < n:
        from sklearn.decomposition import PCA

        steps.append(("pca", PCA(components, svd_solver="randomized", random_state=settings.seed)))
        if settings.pca == "auto":
            notes.append(
                f"{d:,} dimensions are reduced to {components} principal components (--pca none keeps them)"
            )
    if isinstance(settings, SVMSettings) and n > settings.exact_rows:
        from sklearn.kernel_approximation import Nystroem

        gamma = None if settings.gamma == "scale" else settings.gamma
        landmarks = min(settings.landmarks, n)
        kernel = Nystroem("rbf", gamma=gamma, n_components=landmarks, random_state=settings.seed)
        steps.append(("kernel", kernel))
        notes.append(
            f"{n:,} images are more than the exact SVM carries ({settings.exact_rows:,}): its kernel is "
            f"approximated with {landmarks:,} landmarks and a logistic loss"
        )
    steps.append(("head", _classifier(settings, n)))
    return Pipeline(steps), tuple(notes)


def _classifier(settings: HeadSettings, n: int) -> Any:
    if isinstance(settings, MLPSettings):
        from sklearn.neural_network import MLPClassifier

        # Its own early stopping knows nothing of persons and keeps a tenth of the data from training for
        # ever.
        return MLPClassifier(
            settings.hidden, alpha=settings.alpha, learning_rate_init=settings.learning_rate,
            batch_size=settings.batch_for(n), max_iter=settings.max_epochs,
            n_iter_no_change=settings.max_epochs + 1, random_state=settings.seed,
        )  # fmt: skip
    if isinstance(settings, SVMSettings) and n <= settings.exact_rows:
        from sklearn.svm import SVC

        return SVC(C=settings.C, gamma=settings.gamma, cache_size=1_000, random_state=settings.seed)
    if isinstance(settings, (SVMSettings, LogisticSettings)):
        from sklearn.linear_model import LogisticRegression

        max_iter = settings.max_iter if isinstance(settings, LogisticSettings) else 300
        return LogisticRegression(C=settings.C, max_iter=max_iter, random_state=settings.seed)
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


CHUNK_VALUES = 2**25
"""Values of a chunk: 128 MB as float32."""

SAMPLE_ROWS = 20_000
"""Rows that principal components and kernel landmarks are computed from."""


@dataclass(frozen=True)
class FittedHead:
    """A head that gives probabilities.

    Attributes:
        pipeline: fitted scikit-learn pipeline of scaler, further steps and classifier, with ``classes_``.
        settings: what it was made with.
        dim: dimensions of the embeddings it takes.
        notes: sentences about what was chosen by itself.
        seconds: how long fitting took.
        history: for the MLP, held-out log-loss and accuracy after each pass; empty for others.
    """

    pipeline: Any
    settings: HeadSettings
    dim: int
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    history: tuple[dict[str, float], ...] = field(default=(), repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the columns of :meth:`predict_proba`."""
        return tuple(str(name) for name in self.pipeline.classes_)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """float32 (n, k) for embeddings (n, dim), which may be memory-mapped.

        Raises:
            DataError: embeddings of another number of dimensions, or NaN.
        """
        if not isinstance(X, ShardRows):  # which are checked where they are stored
            check_features(X, self.dim)
        proba = np.empty((len(X), len(self.classes)), np.float32)
        for rows, chunk in _chunks(X, 4 * widest(self.pipeline.steps, X.shape[1])):
            proba[rows] = self.pipeline.predict_proba(chunk)
        return proba


def fit_head(
    X: np.ndarray,
    y: np.ndarray,
    settings: HeadSettings,
    groups: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
) -> FittedHead:
    """Fit a head on all rows given.

    Args:
        X: embeddings, float (n, d).
        y: class names, (n,).
        settings: of the head.
        groups: who is shown, (n,), None where unknown: what is chosen on held-out rows (passes of the
            MLP, calibration) then holds out whole persons.
        labels: the classes in the order of the probabilities; None sorts them.

    Raises:
        DataError: NaN, fewer than two classes, a class with one image, or one that ``labels`` lacks.
        TrainingError: the numbers overflowed.
    """
    from threadpoolctl import threadpool_limits

    start = time.monotonic()
    check_features(X)
    y = np.asarray(y).astype(str)
    if len(y) != len(X):
        raise DataError(
            f"expected one label for each embedding, found {len(y)} labels and {len(X)} embeddings"
        )
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"expected at least two classes to tell apart, found {', '.join(classes) or 'none'}")
    if counts.min() < 2:
        rare = ", ".join(classes[counts < 2])
        raise DataError(
            f"expected at least 2 images of each class, found 1 of {rare}; add images or leave it out"
        )
    given = settings
    if labels is not None:
        settings, y = _in_order(settings, y, labels, classes)
    pipeline, notes = build_head(settings, *X.shape)
    if settings.calibration == "none" and not hasattr(pipeline.steps[-1][1], "predict_proba"):
        raise DataError("the exact SVM has no probabilities of its own; choose another calibration than none")
    # One thread for the MLP: its steps are so small that threads mostly wait for each other.
    threads = threadpool_limits(1) if isinstance(settings, MLPSettings) else nullcontext()
    with warnings.catch_warnings():
        # Of convergence: bounded on purpose, and said in the notes where it matters.
        warnings.simplefilter("ignore")
        Z = fit_features(pipeline.steps[:-1], X, settings)
        with threads:
            head, more, history = fit_classifier(pipeline.steps[-1][1], Z, y, settings, groups)
    if labels is not None:
        rename_classes(head, labels)
    pipeline.steps[-1] = ("head", head)
    return FittedHead(pipeline, given, X.shape[1], notes + more, time.monotonic() - start, history)


def _in_order(
    settings: HeadSettings, y: np.ndarray, labels: Sequence[str], classes: np.ndarray
) -> tuple[HeadSettings, np.ndarray]:
    """Settings and labels (n,) with numbers for classes, since scikit-learn sorts their names."""
    if set(labels) != set(classes):
        raise DataError(
            f"expected images of just the classes {', '.join(labels)}, found some of {', '.join(classes)}"
        )
    codes = np.array([list(labels).index(name) for name in classes])[np.searchsorted(classes, y)]
    weights = numbers_of(settings.class_weights, codes, labels)
    if weights is not None and settings.class_weights is not True:
        settings = dataclasses.replace(
            settings, class_weights={str(i): float(weight) for i, weight in enumerate(weights)}
        )
    return settings, codes


def rename_classes(head: Any, labels: Sequence[str]) -> None:
    """Give a fitted classifier other names for its classes, in the order of its probabilities."""
    for part in (head, getattr(head, "_label_binarizer", None)):
        if part is not None:
            part.classes_ = np.array(labels)


def sample_weights(settings: HeadSettings, y: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """How much each image counts, float64 (n,), for labels (n,) among the sorted ``classes``; None for all alike."""
    codes = np.searchsorted(classes, y)
    weights = numbers_of(settings.class_weights, codes, [str(name) for name in classes])
    return None if weights is None else weights[codes]


def fit_features(steps: list[tuple[str, Any]], X: np.ndarray, settings: HeadSettings) -> np.ndarray:
    """Fit the steps before the classifier and give what it sees: float32 (n, dimensions left)."""
    (_, scaler), *rest = steps
    for _, chunk in _chunks(X):
        scaler.partial_fit(chunk)
    sample = scaler.transform(_sample(X, settings.seed))
    for name, step in rest:
        if name == "kernel" and step.gamma is None:
            step.set_params(gamma=usual_gamma(sample))
        sample = step.fit(sample).transform(sample)
    Z = np.empty((len(X), sample.shape[1]), np.float32)
    for rows, chunk in _chunks(X):
        for _, step in steps:
            chunk = step.transform(chunk)
        Z[rows] = chunk
    return Z


def fit_classifier(
    head: Any, Z: np.ndarray, y: np.ndarray, settings: HeadSettings, groups: np.ndarray | None = None
) -> tuple[Any, tuple[str, ...], tuple[dict[str, float], ...]]:
    """Fit, and calibrate, the classifier on what the steps before it gave.

    Returns:
        The fitted classifier, notes, and the MLP's history.
    """
    notes: tuple[str, ...] = ()
    history: tuple[dict[str, float], ...] = ()
    weights = sample_weights(settings, y, np.unique(y))
    if isinstance(settings, MLPSettings) and settings.patience is not None:
        epochs, notes, history = choose_epochs(head, Z, y, settings, groups)
        head.set_params(max_iter=epochs, n_iter_no_change=epochs + 1)
    method = settings.calibration
    if method == "auto":
        exact = isinstance(settings, SVMSettings) and not hasattr(head, "predict_proba")
        method = "temperature" if exact else "none"
    # The dummy's frequencies are exact already, and it has no scores to correct.
    if method != "none" and settings.kind != "dummy":
        from sklearn.calibration import CalibratedClassifierCV

        parts = folds(y, groups, k=5 if len(y) <= 5_000 else 3, seed=settings.seed)
        head = CalibratedClassifierCV(head, method=method, cv=parts, ensemble=False)
        notes += (f"probabilities are calibrated ({method}) on {len(parts)} held-out folds",)
    try:
        head.fit(Z, y, sample_weight=weights)
    except (ValueError, FloatingPointError) as error:
        raise TrainingError(f"the head could not be fitted: {error}") from error
    if hasattr(head, "cv"):
        head.set_params(cv=len(head.cv))  # the row numbers themselves would go into the saved model
    for network in (head, *(part.estimator for part in getattr(head, "calibrated_classifiers_", ()))):
        # Adam's moments are twice the size of the network, and of no use to it any more.
        vars(network).pop("_optimizer", None)
    return head, notes, history


def choose_epochs(
    head: Any, Z: np.ndarray, y: np.ndarray, settings: MLPSettings, groups: np.ndarray | None = None
) -> tuple[int, tuple[str, ...], tuple[dict[str, float], ...]]:
    """How many passes serve best on held-out rows: the one with the highest accuracy, ties by log-loss."""
    from sklearn.base import clone

    held_out = SplitSettings(test_size=0.1 if len(y) >= 1_000 else 0.2, seed=settings.seed)
    try:
        train, test = holdout(y, groups, held_out)
    except DataError:
        epochs = min(settings.max_epochs, 50)
        return epochs, (f"too few images to choose the number of passes on: {epochs} passes",), ()
    model, classes = clone(head), np.unique(y)
    weights, scored = (sample_weights(settings, y[part], classes) for part in (train, test))
    truth = np.searchsorted(classes, y[test])
    Z_train, y_train, Z_test = Z[train], y[train], Z[test]
    history: list[dict[str, float]] = []
    best = 0
    with progress("choosing the number of passes", settings.max_epochs, unit="passes") as shown:
        for epoch in range(settings.max_epochs):
            model.partial_fit(Z_train, y_train, classes=classes, sample_weight=weights)
            history.append(look(model, Z_test, truth, scored))
            best = max(best, epoch, key=lambda i: by_accuracy(history[i]))
            shown.update(1)
            if epoch - best >= (settings.patience or settings.max_epochs):
                break
    note = f"{best + 1} passes, the best of {len(history)} on {len(test):,} held-out images"
    return best + 1, (note,), tuple(history)


def look(head: Any, Z: np.ndarray, truth: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
    """Accuracy and log-loss of a head that is being trained, on rows held out with their class numbers.

    Raises:
        TrainingError: its probabilities are no numbers.
    """
    proba = head.predict_proba(Z)
    if not np.isfinite(proba).all():
        raise TrainingError("training diverged: probabilities are not numbers; lower the learning rate")
    hit = np.average(proba.argmax(axis=1) == truth, weights=weights)
    loss = -np.average(np.log(proba[np.arange(len(truth)), truth] + 1e-12), weights=weights)
    return {"accuracy": float(hit), "log_loss": float(loss)}


def by_accuracy(found: dict[str, float]) -> tuple[float, float]:
    """What is greater for the better of two looks: ties go by log-loss."""
    return found["accuracy"], -found["log_loss"]


def widest(steps: Sequence[tuple[str, Any]], d: int) -> int:
    """The most numbers that a row has between the steps of a pipeline, for embeddings of ``d`` dimensions."""
    return max([d, *(n for _, step in steps if isinstance(n := getattr(step, "n_components", None), int))])


def _chunks(X: np.ndarray, width: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
    n = max(1, CHUNK_VALUES // max(width, X.shape[1]))
    for start in range(0, len(X), n):
        yield slice(start, start + n), np.asarray(X[start : start + n], np.float32)


def usual_gamma(Z: np.ndarray) -> float:
    """The width of a kernel that ``scale`` means, for features ``Z`` (n, d)."""
    return float(1 / (Z.shape[1] * Z.var()))


def _sample(X: np.ndarray, seed: int) -> np.ndarray:
    if len(X) <= SAMPLE_ROWS:
        return np.asarray(X, np.float32)
    rows = np.random.default_rng(seed).choice(len(X), SAMPLE_ROWS, replace=False)
    return np.asarray(X[np.sort(rows)], np.float32)
