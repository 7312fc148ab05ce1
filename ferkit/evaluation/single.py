"""One finished model on one data set, as a comparison with a single contender: what a report is made of."""

import datetime
import os
import platform
from collections.abc import Sequence

import numpy as np

from ferkit.classifiers.model import Model, installed_versions
from ferkit.core.errors import DataError
from ferkit.core.fingerprint import fingerprint
from ferkit.core.labels import LabelSet
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation.comparison import Cell, Comparison, ContenderResult, Costs, Kind
from ferkit.evaluation.contenders.contender import Task
from ferkit.evaluation.contenders.networks import history_of, size_mb_of
from ferkit.evaluation.contenders.overlap import trained_on
from ferkit.evaluation.costs import milliseconds
from ferkit.evaluation.pictures import Pictures
from ferkit.evaluation.protocol import DataUsed, ProtocolSettings, SplitRows
from ferkit.evaluation.score import Scores
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.reading import some_crops

_KINDS: dict[str, Kind] = {"embedding": "head", "network": "network", "ensemble": "ensemble"}

N_TIMED = 32


def check_columns(dataset: Dataset, by: Sequence[str]) -> None:
    """The columns to compare groups by are there.

    Raises:
        DataError: one is not.
    """
    columns = {column for sample in dataset.samples for column in sample.attributes}
    unknown = [column for column in by if column not in columns]
    if unknown:
        known = ", ".join(sorted(columns)) or "none"
        raise DataError(f"the data have no column {', '.join(unknown)}; they have {known}")


def single_comparison(
    model: Model,
    dataset: Dataset,
    scores: Scores,
    y_true: np.ndarray,
    *,
    by: Sequence[str] = (),
    seed: int = 0,
    costs: Costs | None = None,
) -> Comparison:
    """What a report of one model is made of.

    Its ``seen`` rows are those that its record says it was, or may have been, trained on.

    Args:
        model: that was tested.
        dataset: all pictures of the data set, also those that were not tested.
        scores: of the pictures that were tested.
        y_true: (m,) their class names, in the words of the model where it knows them.
        by: columns whose groups are compared.
        seed: of the bootstrap.
        costs: what predicting takes; see :func:`timed`.
    """
    samples = scores.samples
    columns = sorted({column for sample in samples for column in sample.attributes})
    rows = np.arange(len(samples))
    seen, notes = _seen(model, dataset, scores, seed)
    left_out: tuple[str, ...] = ()
    if scores.failures:
        path, reason = scores.failures[0]
        left_out = (
            f"left out because they cannot be read: {len(scores.failures)}; the first: {path}: {reason}",
        )
    facts = [(sample.path, sample.label, sample.group) for sample in samples]
    return Comparison(
        name=dataset.name,
        labels=model.labels,
        y=np.asarray(y_true, object),
        paths=np.array([sample.path for sample in samples], object),
        groups=scores.groups,
        source=np.zeros(len(samples), np.int64),
        data=(DataUsed(dataset.name, str(dataset.root), "test", len(samples), fingerprint(facts)),),
        attributes={
            column: np.array([sample.attributes.get(column) for sample in samples], object)
            for column in columns
        },
        protocol=ProtocolSettings(seed=seed, by=tuple(by)),
        splits=(SplitRows(seed, "given", np.zeros(0, np.int64), rows),),
        contenders=(
            ContenderResult(
                model.name,
                _KINDS.get(model.kind, "network"),
                (Cell(0, scores.proba, costs or Costs(size_mb=size_mb_of(model)), history_of(model)),),
                seen=seen,
                notes=notes,
            ),
        ),
        notes=left_out,
        versions={"python": platform.python_version(), **installed_versions()},
        machine={"processor": platform.machine(), "cores": str(os.cpu_count()), "system": platform.system()},
        date=datetime.date.today().isoformat(),
    )


def timed(model: Model, cropper: FaceCropper, dataset: Dataset) -> Costs:
    """Milliseconds an image on some of the data, and the size of the model's files."""
    crops = [image.found.rgb for image in some_crops(dataset.source, dataset.samples, cropper, N_TIMED)]
    if not crops:
        return Costs(size_mb=size_mb_of(model))
    batch = np.resize(np.concatenate(crops), (N_TIMED, *crops[0].shape[1:]))
    return Costs(
        ms_batch1=milliseconds(model.predict_proba, batch[:1]),
        ms_batch32=milliseconds(model.predict_proba, batch),
        size_mb=size_mb_of(model),
    )


def _seen(model: Model, dataset: Dataset, scores: Scores, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows of the scores that the model was trained on, and what to say of it."""
    labelled = [sample for sample in dataset.samples if sample.label is not None]
    whole = dataset.subset(labelled)
    row_of = {sample.path: row for row, sample in enumerate(whole.samples)}
    tested = np.array([row_of[sample.path] for sample in scores.samples], np.int64)
    given = any(sample.split in ("train", "val") for sample in labelled)
    pictures = Pictures(
        name=dataset.name,
        dataset=whole,
        parts=(dataset,),
        names=(dataset.name,),
        source=np.zeros(len(whole), np.int64),
        own_paths=tuple(sample.path for sample in whole.samples),
        content=(),
        labels=LabelSet.of(sorted({str(sample.label) for sample in labelled})),
    )
    others = np.setdiff1d(np.arange(len(whole)), tested)
    task = Task(pictures, others, tested, seed, "given" if given else "drawn")
    seen, notes = trained_on(model, task)
    place = {row: i for i, row in enumerate(tested)}
    return np.array([place[row] for row in seen], np.int64), notes
