"""Heads, which turn an embedding into probabilities: their settings, and the pipelines they become.

The public names are the settings of each kind, :func:`head_settings` and :func:`build_head`; fitting is in
``ferkit.classifiers.fit``.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ferkit.core.errors import DataError

Calibration = Literal["auto", "none", "sigmoid", "isotonic", "temperature"]

PCA_ABOVE = 2_000
"""``pca="auto"`` reduces embeddings of more dimensions: taps have thousands, last layers hundreds."""

PCA_COMPONENTS = 256


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """What all heads have in common.

    Attributes:
        pca: number of principal components that the scaled embedding is reduced to; ``auto`` is 256 above
            2,000 dimensions and none below; None is none.
        balanced: weight each class by the inverse of its frequency, as scikit-learn's
            ``class_weight="balanced"``.
        calibration: how probabilities are corrected on held-out folds. ``temperature`` (Guo et al.,
            2017) keeps the decisions; ``sigmoid`` (Platt, 1999) and ``isotonic`` (Zadrozny & Elkan, 2002;
            wants some thousand images) correct each class by itself. ``auto`` is ``temperature`` for the
            exact SVM, which has no probabilities of its own, and none for the others.
        seed: of everything random.
    """

    kind: ClassVar[str]
    pca: int | Literal["auto"] | None = "auto"
    balanced: bool = False
    calibration: Calibration = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            self.pca in (None, "auto") or _positive(self.pca, int),
            "pca",
            "auto, None or a number above 0",
            self.pca,
        )
        allowed = ("auto", "none", "sigmoid", "isotonic", "temperature")
        _check(self.calibration in allowed, "calibration", f"one of {', '.join(allowed)}", self.calibration)

    def components(self, d: int) -> int | None:
        """The number of principal components for embeddings of ``d`` dimensions; None for no reduction."""
        wanted = (PCA_COMPONENTS if d > PCA_ABOVE else None) if self.pca == "auto" else self.pca
        return wanted if wanted is not None and wanted < d else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, ``kind`` among them; :func:`head_settings` turns them back."""
        values = {
            name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()
        }
        return {"kind": self.kind, **values}


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

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(_positive(self.C), "C", "a number above 0", self.C)
        _check(_positive(self.max_iter, int), "max_iter", "a number above 0", self.max_iter)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check(
            all(_positive(u, int) for u in self.hidden) and self.hidden,
            "hidden",
            "numbers above 0",
            self.hidden,
        )
        _check(self.alpha >= 0, "alpha", "a number of at least 0", self.alpha)
        _check(_positive(self.learning_rate), "learning_rate", "a number above 0", self.learning_rate)
        _check(
            self.batch_size == "auto" or _positive(self.batch_size, int),
            "batch_size",
            "auto or a number above 0",
            self.batch_size,
        )
        _check(_positive(self.max_epochs, int), "max_epochs", "a number above 0", self.max_epochs)
        _check(
            self.patience is None or _positive(self.patience, int),
            "patience",
            "a number above 0",
            self.patience,
        )

    def batch_for(self, n: int) -> int:
        """Images a step for ``n`` images."""
        wanted = (
            (200 if n <= 20_000 else 500 if n <= 100_000 else 1_000)
            if self.batch_size == "auto"
            else self.batch_size
        )
        return min(wanted, n)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(_positive(self.C), "C", "a number above 0", self.C)
        _check(
            self.gamma == "scale" or _positive(self.gamma), "gamma", "scale or a number above 0", self.gamma
        )
        _check(self.exact_rows >= 0, "exact_rows", "a number of at least 0", self.exact_rows)
        _check(_positive(self.landmarks, int), "landmarks", "a number above 0", self.landmarks)


@dataclass(frozen=True, kw_only=True)
class DummySettings(HeadSettings):
    """Says the classes' frequencies whatever it sees: the floor of every comparison."""

    kind: ClassVar[str] = "dummy"

    def components(self, d: int) -> int | None:
        """None: components of embeddings that are not looked at would be computed for nothing."""
        return None


HEADS: dict[str, type[HeadSettings]] = {
    settings.kind: settings for settings in (MLPSettings, SVMSettings, LogisticSettings, DummySettings)
}


def head_settings(kind: str, **values: Any) -> HeadSettings:
    """Settings of a kind of head, from options or from what :meth:`HeadSettings.to_dict` gave.

    Raises:
        DataError: no such kind, an option that this kind does not have, or a value it does not take.
    """
    if kind not in HEADS:
        raise DataError(f"no head is called {kind!r}; known: {', '.join(HEADS)}")
    fields = [field.name for field in dataclasses.fields(HEADS[kind])]
    foreign = sorted(values.keys() - set(fields))
    if foreign:
        raise DataError(f"the {kind} head has no option {', '.join(foreign)}; it has {', '.join(fields)}")
    return HEADS[kind](**values)


def build_head(settings: HeadSettings, n: int, d: int) -> tuple[Any, tuple[str, ...]]:
    """The unfitted ``Pipeline(scaler, [pca], [kernel], head)`` for ``n`` embeddings of ``d`` dimensions.

    Calibration is not part of it, since it needs to know the persons; see ``ferkit.classifiers.fit``.

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
        steps.append(("kernel", _landmark_kernel(settings, n)))
        notes.append(
            f"{n:,} images are more than the exact SVM carries ({settings.exact_rows:,}): its kernel is "
            f"approximated with {min(settings.landmarks, n):,} landmarks and a logistic loss"
        )
    steps.append(("head", _classifier(settings, n)))
    return Pipeline(steps), tuple(notes)


def _landmark_kernel(settings: SVMSettings, n: int) -> Any:
    from sklearn.kernel_approximation import Nystroem

    gamma = None if settings.gamma == "scale" else settings.gamma
    return Nystroem("rbf", gamma=gamma, n_components=min(settings.landmarks, n), random_state=settings.seed)


def _classifier(settings: HeadSettings, n: int) -> Any:
    if isinstance(settings, MLPSettings):
        from sklearn.neural_network import MLPClassifier

        # Its own early stopping knows nothing of persons and keeps a tenth of the data from training for
        # ever.
        return MLPClassifier(
            settings.hidden,
            alpha=settings.alpha,
            learning_rate_init=settings.learning_rate,
            batch_size=settings.batch_for(n),
            max_iter=settings.max_epochs,
            n_iter_no_change=settings.max_epochs + 1,
            random_state=settings.seed,
        )
    if isinstance(settings, SVMSettings) and n <= settings.exact_rows:
        from sklearn.svm import SVC

        return SVC(C=settings.C, gamma=settings.gamma, cache_size=1_000, random_state=settings.seed)
    if isinstance(settings, (SVMSettings, LogisticSettings)):
        from sklearn.linear_model import LogisticRegression

        max_iter = settings.max_iter if isinstance(settings, LogisticSettings) else 300
        return LogisticRegression(C=settings.C, max_iter=max_iter, random_state=settings.seed)
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def _positive(value: Any, kind: type = float) -> bool:
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and value > 0


def _check(right: Any, name: str, expected: str, value: Any) -> None:
    if not right:
        raise DataError(f"expected {name} to be {expected}, found {value!r}")


def settings_from_dict(values: Mapping[str, Any]) -> HeadSettings:
    """What :meth:`HeadSettings.to_dict` made ``values`` from. Raises what :func:`head_settings` raises."""
    rest = {name: value for name, value in values.items() if name != "kind"}
    return head_settings(str(values.get("kind")), **rest)
