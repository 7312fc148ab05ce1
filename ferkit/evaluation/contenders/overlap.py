"""Whether a finished model was trained on pictures that it is now tested on."""

import numpy as np

from ferkit.classifiers.model import Model
from ferkit.core.errors import FerkitError
from ferkit.core.fingerprint import fingerprint
from ferkit.datasets.dataset import Sample
from ferkit.datasets.split import SplitSettings, make_split
from ferkit.evaluation.contenders.contender import Task

_NOTHING = np.zeros(0, np.int64)


def trained_on(model: Model, task: Task) -> tuple[np.ndarray, tuple[str, ...]]:
    """What a model's record says of the test rows.

    A record names its data by digest and class counts, not picture by picture: where the data are the same but the
    division is not known to be, every test row counts as seen.

    Returns:
        Row numbers of test pictures that it was, or may have been, trained on; and what to tell the reader.
    """
    record = model.record
    if not record.data:
        return _NOTHING, ("its record does not say what it was trained on",)
    notes: list[str] = []
    seen = _of_embeddings(model, task) if record.kind == "embedding" else _of_network(model, task)
    if len(seen):
        notes.append(
            f"was, or may have been, trained on {len(seen)} of the {len(task.test)} test pictures: its figures are "
            "too good to be compared"
        )
    validated = record.split.get("validation_rows")
    own_test = record.split.get("origin") == "given" and validated == len(task.test)
    # Parts val and test are often of one size; older records do not say which of the two it was.
    own_test = own_test and record.split.get("validated_on", "test") == "test"
    if task.origin == "given" and own_test and not len(seen) and _same_data(model, task):
        notes.append("its best epoch was chosen on these test pictures: its figures are a little too good")
    return seen, tuple(notes)


def _of_embeddings(model: Model, task: Task) -> np.ndarray:
    """A head's record has the digest of all rows and how they were divided: that division can be made again."""
    for part, name in zip(task.pictures.parts, task.pictures.names, strict=True):
        samples = [sample for sample in part.samples if sample.label is not None]
        rows = [[sample.path, sample.label, sample.split] for sample in samples]
        if fingerprint(rows) != model.record.data.get("digest"):
            continue
        trained = {samples[i].path for i in _training_rows(model, samples)}
        number = task.pictures.names.index(name)
        hit = [
            row
            for row in task.test
            if task.pictures.source[row] == number and task.pictures.own_paths[row] in trained
        ]
        return np.array(hit, np.int64)
    return _NOTHING


def _training_rows(model: Model, samples: list[Sample]) -> np.ndarray:
    values = model.record.split.get("settings")
    settings = None if values is None else SplitSettings(**values)
    y, groups, split = (
        np.array([getattr(sample, name) for sample in samples], object)
        for name in ("label", "group", "split")
    )
    try:
        return make_split(y, groups, split, settings).train
    except FerkitError:
        return np.arange(len(samples))


def _of_network(model: Model, task: Task) -> np.ndarray:
    if not _same_data(model, task):
        return _NOTHING
    # The data's own training part holds no test row; any other division may hold all of them.
    if task.origin in ("given", "cross") and model.record.split.get("origin") in ("given", "drawn"):
        of_train = [s for s in task.pictures.dataset.samples if s.split in ("train", "val")]
        if of_train and sum(model.record.data.get("class_counts", {}).values()) <= len(of_train):
            return _NOTHING
    return task.test


def _same_data(model: Model, task: Task) -> bool:
    """Whether a data set of the record's name and with at least its pictures of each class takes part."""
    data = model.record.data
    counts = data.get("class_counts", {})
    for part in task.pictures.parts:
        here = part.class_counts()
        if (
            data.get("name") == part.name
            and counts
            and all(here.get(name, 0) >= n for name, n in counts.items())
        ):
            return True
    return False
