"""Several classifiers as one: the mean of what they say, weighted or not."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ferkit.classifiers.model import RECORD, Model, ModelRecord, read_model, write_model
from ferkit.core.errors import ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier, check_crops
from ferkit.embedder.settings import resize_crops

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
            proba = member.predict_proba(resize_crops(crops, member.input_size_wh))[:, columns].astype(
                np.float64
            )
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


def load_ensemble(
    model: Model, *, weights: Path | None = None, threads: int | None = None
) -> EnsembleClassifier:
    """Open a model of kind ``ensemble`` with all its members; ``weights`` is handed to them.

    Raises:
        ModelError: a member is damaged or missing.
        WeightsError: a member's backbone is missing.
    """
    parts = model.record.parts
    for name in parts["members"]:
        here = model.folder.resolve()
        if f"{name}/{RECORD}" not in model.files or here not in (model.folder / name).resolve().parents:
            raise ModelError(f"the model {model.folder} has a member outside itself ({name}); do not use it")
    members = [
        read_model(model.folder / name, weights=weights, threads=threads).classifier
        for name in parts["members"]
    ]
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
