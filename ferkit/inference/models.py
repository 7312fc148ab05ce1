"""Which model to use: the one that is named, or the newest."""

from dataclasses import dataclass
from pathlib import Path

from ferkit.classifiers.artifact import RECORD, load_classifier, read_model
from ferkit.core.errors import ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.protocols import ExpressionClassifier
from ferkit.faces.settings import FaceSettings


@dataclass(frozen=True)
class TrainedModel:
    """A classifier, and how faces were taken out of the pictures that it was trained on.

    Attributes:
        name: what to call it.
        classifier: crops to probabilities.
        faces: the settings of its crops.
        resize: how crops of another size are fitted, see :func:`ferkit.faces.crop.fit_to`.
    """

    name: str
    classifier: ExpressionClassifier
    faces: FaceSettings
    resize: str = "stretch"

    @property
    def labels(self) -> LabelSet:
        """The classes, in the order of the probabilities."""
        return self.classifier.labels


def open_model(folder: Path, threads: int | None = None) -> TrainedModel:
    """Open a model folder of any kind.

    Raises:
        ModelError: it is no model, or damaged, or of a newer ferkit.
        WeightsError: the backbone's weights are missing.
    """
    classifier = load_classifier(folder, threads=threads)
    return TrainedModel(
        folder.name, classifier, read_model(folder).faces, getattr(classifier, "resize", "stretch")
    )


def find_model(name: str, models_dir: Path) -> Path | None:
    """The model folder called ``name``: the folder itself or one in ``models_dir``; None without one."""
    for folder in (Path(name), models_dir / name):
        if (folder / RECORD).is_file():
            return folder
    return None


def known_models(models_dir: Path) -> list[Path]:
    """The model folders in ``models_dir``, by name."""
    return sorted(
        file.parent for file in models_dir.glob(f"*/{RECORD}") if not file.parent.name.startswith(".")
    )


def newest_model(models_dir: Path) -> Path:
    """The model in ``models_dir`` that was written last.

    Raises:
        ModelError: there is none.
    """
    models = {folder: (folder / RECORD).stat().st_mtime_ns for folder in known_models(models_dir)}
    if not models:
        raise ModelError(
            f"no model was named, and there is none in {models_dir}; train one with 'fer fit' or 'fer demo', "
            "name the folder of one, or say with --models-dir where yours are"
        )
    return max(models, key=lambda folder: models[folder])


def choose_model(name: str | None, models_dir: Path) -> Path:
    """The named model, or the newest one if ``name`` is None.

    Raises:
        ModelError: there is no such model.
    """
    if name is None:
        return newest_model(models_dir)
    folder = find_model(name, models_dir)
    if folder is None:
        known = [folder.name for folder in known_models(models_dir)]
        raise ModelError(
            f"no model is called {name!r}; expected a folder with {RECORD}, or one of those in {models_dir}: "
            f"{', '.join(known) or 'none yet'}"
        )
    return folder
