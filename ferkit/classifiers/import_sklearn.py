"""Heads of earlier projects: joblib files and pickles, which run code that is in them when opened."""

from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.heads import (
    FittedHead,
    HeadSettings,
    LogisticSettings,
    MLPSettings,
    SVMSettings,
    rename_classes,
)
from ferkit.core.errors import ModelError


def import_joblib_head(path: Path, *, trust: bool, labels: tuple[str, ...] | None = None) -> FittedHead:
    """Take in a fitted scikit-learn classifier, alone, in a pipeline, or in a container beside its encoder.

    The result is written with :func:`ferkit.classifiers.embedding_model.save_embedding_model` like any other head.

    Args:
        path: a ``.pkl`` or ``.joblib`` file.
        trust: whether whoever made the file is trusted; opening it runs code that is in it.
        labels: the class of each of the classifier's numbers, in their order; not needed where the file has
            them.

    Raises:
        ModelError: not trusted, not readable, without a classifier that gives probabilities, or with classes
            that are numbers and no names for them.
    """
    if not trust:
        raise ModelError(f"opening {path} would run code that is in it; add --trust if you know who made it")
    content = _load(path)
    parts = list(_parts(content))
    classifier = next(
        (part for part in parts if hasattr(part, "predict_proba") and hasattr(part, "classes_")), None
    )
    if classifier is None:
        found = ", ".join(sorted({type(part).__name__ for part in parts})) or type(content).__name__
        raise ModelError(f"expected a fitted classifier with probabilities in {path}, found {found}")
    encoder = next((part for part in parts if type(part).__name__ == "LabelEncoder"), None)
    if labels is None and encoder is not None:
        labels = tuple(str(name) for name in encoder.classes_)
    pipeline = _pipeline(classifier, parts)
    _rename_classes(pipeline, labels, path)
    dim = getattr(pipeline.steps[0][1], "n_features_in_", None)
    if dim is None:
        raise ModelError(
            f"{path} does not say how many dimensions it takes; it was made by a scikit-learn before 1.0"
        )
    return FittedHead(pipeline, _settings(pipeline.steps[-1][1]), int(dim), (f"imported from {path.name}",))


def _load(path: Path) -> Any:
    import joblib

    if not path.is_file():
        raise ModelError(f"expected a file at {path}, found none")
    try:
        return joblib.load(path)
    except Exception as error:  # anything may go wrong in code from elsewhere
        raise ModelError(f"{path} cannot be opened: {type(error).__name__}: {error}") from None


def _parts(content: Any) -> Any:
    """The objects in a file, those in containers one by one."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        for part in content:
            yield from _parts(part)
    else:
        yield content


def _pipeline(classifier: Any, parts: list[Any]) -> Any:
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    if isinstance(classifier, Pipeline):
        return classifier
    before = [p for p in parts if hasattr(p, "transform") and type(p).__name__ in ("StandardScaler", "PCA")]
    for part in before:
        check_is_fitted(part)
    return Pipeline([(type(part).__name__.lower(), part) for part in before] + [("head", classifier)])


def _rename_classes(pipeline: Any, labels: tuple[str, ...] | None, path: Path) -> None:
    head = pipeline.steps[-1][1]
    classes = head.classes_
    if labels is None:
        if np.issubdtype(np.asarray(classes).dtype, np.number):
            raise ModelError(
                f"the classes of {path} are the numbers {', '.join(map(str, classes))}; "
                "say what they are called with --labels, in this order"
            )
        labels = tuple(str(name) for name in classes)
    if len(labels) != len(classes):
        raise ModelError(f"expected {len(classes)} labels for the classes of {path}, found {len(labels)}")
    rename_classes(head, labels)


def _settings(head: Any) -> HeadSettings:
    """The settings that come nearest: for the record, since nothing is fitted with them."""
    kind = type(head).__name__
    if kind == "MLPClassifier":
        hidden = np.atleast_1d(head.hidden_layer_sizes).tolist()
        return MLPSettings(hidden=tuple(hidden), alpha=float(head.alpha), pca=None)
    if kind == "SVC":
        return SVMSettings(C=float(head.C), pca=None)
    if kind == "LogisticRegression":
        return LogisticSettings(C=float(head.C), pca=None)
    raise ModelError(
        f"expected an MLPClassifier, SVC or LogisticRegression, found {kind}; fit it anew with 'fer fit'"
    )
