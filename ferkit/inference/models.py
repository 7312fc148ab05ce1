"""Which model to use: the one that is named, or the one that comes with the package."""

from dataclasses import dataclass
from pathlib import Path

from ferkit.classifiers.artifact import RECORD, open_classifier, read_model
from ferkit.core.errors import ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.protocols import ExpressionClassifier
from ferkit.faces.settings import FaceSettings
from ferkit.zoo.shipped import BUNDLED, SHIPPED, shipped_folder


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
    artifact = read_model(folder)
    classifier = open_classifier(artifact, threads=threads)
    return TrainedModel(folder.name, classifier, artifact.faces, classifier.resize)


def find_model(name: str, models_dir: Path) -> Path | None:
    """The model folder called ``name``: itself, one in ``models_dir``, or one that comes along; or None."""
    for folder in (Path(name), models_dir / name):
        if (folder / RECORD).is_file():
            return folder
    return shipped_folder(name) if name in BUNDLED else None


def known_models(models_dir: Path) -> list[Path]:
    """The model folders in ``models_dir``, by name, and those that come with the package."""
    trained = [file.parent for file in models_dir.glob(f"*/{RECORD}") if not file.parent.name.startswith(".")]
    return [*sorted(trained), *map(shipped_folder, BUNDLED)]


def choose_model(name: str | None, models_dir: Path) -> Path:
    """The named model, or the one that comes with the package if ``name`` is None.

    Raises:
        ModelError: there is no such model.
    """
    if name is None:
        return shipped_folder()
    folder = find_model(name, models_dir)
    if folder is None:
        known = ", ".join(folder.name for folder in known_models(models_dir))
        raise ModelError(
            f"no model is called {name!r}; expected a folder with {RECORD}, or one of {known} "
            f"(those in {models_dir}, and the two that come with ferkit)"
        )
    return folder


def default_reason(models_dir: Path) -> str:
    """The sentence that says which model is used when none was named, and what others there are."""
    trained = ", ".join(folder.name for folder in known_models(models_dir)[: -len(BUNDLED)])
    others = f" (in {models_dir}: {trained})" if trained else ""
    return f"model: {SHIPPED}, which comes with ferkit; to take another, name it first{others}"
