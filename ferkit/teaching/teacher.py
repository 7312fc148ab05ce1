"""Teach own classes: the public :class:`Teacher`, and what becomes of it: a model folder, or a zip file."""

import io
import itertools
import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ferkit.classifiers.kinds import save_embedding_model
from ferkit.classifiers.model import Model, temporary_model
from ferkit.core.errors import DataError, ModelError, checked
from ferkit.core.types import check_crops
from ferkit.core.weights import DEFAULT_EDITION, EDITIONS
from ferkit.datasets.leakage import image_keys
from ferkit.embedder.embedders import Embedder, open_embedder
from ferkit.faces.cropping import CropKind, CropSettings
from ferkit.faces.reading import apply_network, read_crops
from ferkit.teaching.examples import Examples, TeachLimits
from ferkit.teaching.head import LinearHead, TeachReport, fit_linear, usual_penalty, validate

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset
    from ferkit.faces.cropping import FaceCropper

EXAMPLES = "examples.npz"
"""In a taught model: embeddings, classes, takes and persons, to go on from; no images."""

_MODEL_NAME = re.compile(r"[^\W_][\w.-]{0,62}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}


class Teacher:
    """Learns own classes from a few examples; the head is fitted again as soon as it is asked after a change.

    Args:
        embedder: an open backbone, or the name of one.
        layer: an inner layer, where ``embedder`` is a name.
        limits: how many examples are held.

    Raises:
        DataError, WeightsError: there is no such backbone or layer, or its weights are missing.

    >>> import ferkit, numpy as np
    >>> teacher, rng = ferkit.Teacher(), np.random.default_rng(0)
    >>> dark, bright = (rng.integers(low, low + 60, (4, 48, 48, 3)).astype(np.uint8) for low in (0, 180))
    >>> _ = teacher.add(dark, "night"), teacher.add(bright, "day")
    >>> teacher.labels
    ('night', 'day')
    >>> teacher.predict_proba(bright[:1]).shape
    (1, 2)
    >>> teacher.report().sentences[0]
    'cannot tell yet: record a second take of night in another light'
    """

    def __init__(
        self,
        embedder: Embedder | str = DEFAULT_EDITION,
        *,
        layer: str | None = None,
        limits: TeachLimits | None = None,
    ) -> None:
        self.embedder = open_embedder(embedder, layer=layer) if isinstance(embedder, str) else embedder
        self.examples = Examples(limits)
        self._takes = (f"take {n}" for n in itertools.count(1))
        self._head: tuple[int, LinearHead] | None = None
        self._report: tuple[int, TeachReport] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order in which they came; the columns of :meth:`predict_proba`."""
        return self.examples.labels

    @checked
    def add(
        self, crops: np.ndarray, label: str, *, take: str | None = None, person: str | None = None
    ) -> list[int]:
        """Add faces to a class; those that it has already are passed over.

        Args:
            crops: uint8 RGB (n, h, w, 3), or one of them (h, w, 3).
            label: the class, in any language; made where there is none.
            take: what they were recorded with. What was recorded at once is one take: accuracy is measured over
                takes. A new one if None.
            person: who is shown, where known.

        Returns:
            Ids of the examples that were added.

        Raises:
            DataError: other shapes, no usable name, or too many examples.
        """
        crops = check_crops(crops[None] if np.ndim(crops) == 3 else crops)
        vectors = self.embedder.embed(crops)
        return self.examples.add(vectors, label, take=take or next(self._takes), person=person, crops=crops)

    def add_dataset(
        self, dataset: "Dataset", cropper: "FaceCropper", takes: np.ndarray | None = None
    ) -> list[tuple[str, str]]:
        """Add the largest face of each labelled image of a data set; every image is a take of its own.

        Args:
            dataset: the images.
            cropper: finds their faces.
            takes: (n,) of the labelled images, where some belong together, such as near-copies.

        Returns:
            Path and reason of the images that could not be taken.

        Raises:
            DataError: there is no room for all of them.
        """
        samples = [sample for sample in dataset.samples if sample.label is not None]
        room = self.examples.limits.max_examples - len(self.examples)
        if len(samples) > room:
            raise DataError(
                f"expected at most {room:,} images, found {len(samples):,}; take fewer, or use 'fer embed' and "
                "'fer fit', which have no limit"
            )
        failed = []
        images = read_crops(dataset.source, samples, cropper)
        for i, (image, X) in enumerate(apply_network(images, self.embedder.embed, self.embedder.dim)):
            if image.error is not None or image.sha256 is None:
                failed.append((image.sample.path, image.error or "cannot be read"))
                continue
            take = image.sample.path if takes is None else str(takes[i])
            self.examples.add(
                X, str(image.sample.label), take=take, person=image.sample.group, crops=image.found.rgb,
                digests=[image.sha256],
            )  # fmt: skip
        return failed

    @checked
    def remove(self, ids: Collection[int]) -> int:
        """Remove examples by their ids; says how many there were of them."""
        return self.examples.remove(ids)

    @checked
    def rename(self, old: str, new: str) -> None:
        """Give a class another name. Raises DataError if there is no such class, or one of the new name."""
        self.examples.rename(old, new)

    def undo(self) -> bool:
        """Take back the last change; False where there is none."""
        return self.examples.undo()

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k), rows sum to 1, of uint8 RGB crops (n, h, w, 3); a class without examples has 0.

        Raises:
            DataError: fewer than two classes have examples.
        """
        return self.predict_proba_of_embeddings(self.embedder.embed(check_crops(crops)))

    def predict_proba_of_embeddings(self, X: np.ndarray) -> np.ndarray:
        """The same for embeddings (n, dim)."""
        return in_order(self.head(), X, self.labels)

    def head(self) -> LinearHead:
        """What answers, fitted on all examples. Raises DataError for fewer than two classes."""
        if self._report is not None and self._report[0] == self.examples.version and self._report[1].head:
            return self._report[1].head
        if self._head is None or self._head[0] != self.examples.version:
            X, y, _, _ = self.examples.arrays()
            last = self._report[1].head.penalty if self._report and self._report[1].head else None
            self._head = self.examples.version, fit_linear(X, y, usual_penalty(y, last) if len(y) else None)
        return self._head[1]

    def report(self) -> TeachReport:
        """Say how well the classes are told apart on takes that were not trained on, and choose the penalty."""
        if self._report is None or self._report[0] != self.examples.version:
            self._report = self.examples.version, validate(*self.examples.arrays(), self.labels)
        return self._report[1]

    def to_model(self, crops: CropKind = "crops") -> Model:
        """The model; ``save`` keeps it. Until then it lies in a temporary folder.

        Args:
            crops: what it was taught on: ``crops``, ``detected`` faces, or images taken ``whole``.

        Raises:
            DataError: fewer than two classes have examples.
        """
        report = self.report()
        if report.head is None:
            raise DataError("expected examples of at least two classes; add some before the model is saved")
        return temporary_model(
            "taught", lambda folder: save_taught(folder, self.examples, report, self.embedder, crops=crops)
        )

    @checked
    def resume(self, model: Model) -> None:
        """Go on from a taught model: its classes and embeddings, without images.

        Raises:
            ModelError: it is no taught model, or of another backbone.
        """
        load_examples(model, self.examples, self.embedder.fingerprint)


def in_order(head: LinearHead, X: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """Probabilities float32 (n, k) in the order of ``labels``; 0 for those that the head does not know."""
    proba = np.zeros((len(X), len(labels)), np.float32)
    known = [labels.index(name) for name in head.classes if name in labels]
    proba[:, known] = head.predict_proba(X)[:, [name in labels for name in head.classes]]
    return proba


def save_taught(
    folder: Path,
    examples: Examples,
    report: TeachReport,
    embedder: Embedder,
    *,
    crops: CropKind = "crops",
    overwrite: bool = False,
) -> Model:
    """Write a taught model: like any other, and with the embeddings, to go on from.

    Args:
        folder: ``models/<name>``.
        examples: what was taught.
        report: of exactly these examples, with a head.
        embedder: that they were embedded with.
        crops: see :meth:`Teacher.to_model`.
        overwrite: replace a model that is there.

    Raises:
        ModelError: the folder may not be written.
    """
    assert report.head is not None
    X, y, takes, persons = examples.arrays()
    label, take, person = (np.array([value or "" for value in values], str) for values in (y, takes, persons))
    digests = np.array([row.digest for row in examples.rows], str)
    figures = report.to_dict()
    evaluation = {} if report.evaluation is None else report.evaluation.to_dict()
    return save_embedding_model(
        folder,
        report.head.fitted(),
        X,
        embedder_settings=embedder.settings,
        embedder_fingerprint=embedder.fingerprint,
        # As the network that comes along: any detector's face, not turned, without a margin.
        faces=CropSettings.whole(),
        crops=crops,
        weights=embedder.weights_path,
        licence=embedder.licence,
        data={"name": "taught", "classes": figures["counts"], "takes": figures["takes"]},
        split={"origin": f"cross-validation over {report.unit}s", "train_rows": len(X)},
        metrics={**evaluation, "taught": figures},
        images=image_keys(digests.tolist()),
        overwrite=overwrite,
        more=lambda target: np.savez_compressed(
            target / EXAMPLES, X=X, digest=digests, label=label, take=take, person=person
        ),
    )


def load_examples(model: Model, examples: Examples, fingerprint: str) -> None:
    """Add what a taught model knows. Raises ModelError if it is none, or of another backbone."""
    if EXAMPLES not in model.files:
        raise ModelError(f"{model.name} was not made by teaching; expected a model with {EXAMPLES}")
    if model.record.parts["embedder"]["fingerprint"] != fingerprint:
        raise ModelError(f"{model.name} was taught with another backbone; teach with that one")
    try:
        with np.load(model.file(EXAMPLES), allow_pickle=False) as kept:
            columns = {name: kept[name] for name in ("X", "label", "take", "person", "digest")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{EXAMPLES} of {model.name} cannot be read: {error}") from None
    for name in model.labels.names:
        examples.add_label(name)
    keys = list(zip(*(columns[name].tolist() for name in ("label", "take", "person")), strict=True))
    for label, take, person in dict.fromkeys(keys):
        rows = [i for i, key in enumerate(keys) if key == (label, take, person)]
        digests = columns["digest"][rows].tolist()
        examples.add(columns["X"][rows], label, take=take, person=person or None, digests=digests)


def check_model_name(name: object) -> str:
    """A name under which a model may be saved: letters of any language, digits, ``-``, ``_`` and ``.``.

    Raises:
        DataError: another name, or one that means something else.
    """
    taken = isinstance(name, str) and (name in EDITIONS or name.split(".")[0].lower() in _DEVICES)
    if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name) or name.endswith(".") or taken:
        raise DataError(
            f"expected a name of up to 63 letters, digits, - and _ that begins with a letter or digit, found {name!r}"
        )
    return name


def zip_taught(examples: Examples, report: TeachReport, model: Model) -> bytes:
    """A zip file: the images by class, the model, and a README.

    Args:
        examples: what was taught.
        report: how well it works.
        model: a taught model on the disk.
    """
    target = io.BytesIO()
    folders = {label: f"{i:02}-{_file_name(label)}" for i, label in enumerate(examples.labels, 1)}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for row in examples.rows:
            if row.image:
                name = f"{_file_name(row.take)[-40:]}-{row.id:05}.jpg"
                file.writestr(f"images/{folders[row.label]}/{name}", row.image)
        for name in ("model.json", *model.files):
            file.write(model.folder / name, f"model/{name}")
        file.writestr("README.md", _readme(report, folders))
        file.writestr("report.json", json.dumps(report.to_dict(), ensure_ascii=False, indent=1))
    return target.getvalue()


def _file_name(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text)


def _readme(report: TeachReport, folders: dict[str, str]) -> str:
    rows = "\n".join(
        f"| {label} | `images/{folder}` | {report.counts.get(label, 0)} | {report.takes.get(label, 0)} |"
        for label, folder in folders.items()
    )
    found = "\n".join(f"- {sentence}" for sentence in report.sentences)
    return f"""# A taught model

Made with ferkit. Use it: `fer predict model/ photo.jpg`, `fer webcam --model model/`, or copy `model/` to
`models/<name>/`. `model/head.onnx` takes embeddings of the network that `model/model.json` names.

| class | images | examples | {report.unit}s |
|---|---|---|---|
{rows}

{found}

What a face shows is not what a person feels. Emotion recognition at work, in hiring and in education is prohibited in
the European Union (AI Act, Art. 5(1)(f)); elsewhere people must be told that it is running (Art. 50). The images are of
people: pass them on only as these agreed to.
"""
