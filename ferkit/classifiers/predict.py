"""Predict the expressions in the images that a caller gives, and hold what was found."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import DataError, DependencyError, ImageError, checked
from ferkit.core.files import write_atomically
from ferkit.core.labels import LabelSet
from ferkit.core.types import ExpressionClassifier
from ferkit.datasets.dataset import Sample
from ferkit.datasets.load import FetchLimits, GivenImages, ImagesLike
from ferkit.faces.cropping import Cropping, FaceCropper, cropping_as_trained
from ferkit.faces.reading import ImageCrops, apply_network, read_crops

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv


@dataclass(frozen=True)
class FaceResult:
    """One face and its expression.

    Attributes:
        box: left, top, right, bottom in pixels of the image.
        label: the most probable class.
        confidence: its probability, 0..1.
        probabilities: of every class; they sum to 1.
    """

    box: tuple[float, float, float, float]
    label: str
    confidence: float
    probabilities: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "box": [round(value, 1) for value in self.box],
            "label": self.label,
            "confidence": round(self.confidence, 4),
            "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
        }


@dataclass(frozen=True, eq=False)
class ImageResult:
    """One image and its faces.

    Attributes:
        path: file, address, or ``image-1`` … for an array.
        faces: the largest first; none where no face was found.
        whole: whether the image was taken whole, as one face.
        error: why it could not be read; None if it could.
        labels: the classes.
    """

    path: str
    faces: tuple[FaceResult, ...]
    whole: bool
    error: str | None
    labels: LabelSet = field(repr=False)
    _given: GivenImages = field(repr=False)

    def __len__(self) -> int:
        return len(self.faces)

    @checked
    def plot(self, language: str = "en") -> np.ndarray:
        """Draw the faces; uint8 RGB (H, W, 3), small images enlarged.

        Args:
            language: of the labels, ``en`` or ``ko``; names that a user gave stay.

        Raises:
            ImageError: the image cannot be read.
        """
        from ferkit.core.style import (  # both cost a start that draws nothing a tenth of a second
            drawable_names,
            open_font,
        )
        from ferkit.faces.drawing import (
            TextPainter,
            draw_boxes,
            draw_caption,
            enlarged,
            label_colors,
            text_size,
        )

        if self.error is not None:
            raise ImageError(f"{self.path}: {self.error}")
        rgb, factor = enlarged(self._given.decode(self._given.read(self.path)))
        if not self.faces:
            return rgb
        names = drawable_names(self.labels, language)
        shown = [self.labels.names.index(face.label) for face in self.faces]
        texts = [f"{names[i]} {face.confidence:.0%}" for i, face in zip(shown, self.faces, strict=True)]
        size = text_size(rgb)
        font = open_font(texts, size) or open_font((), size)
        assert font is not None  # Latin letters always have one
        boxes = np.array([face.box for face in self.faces], np.float32) * factor
        colors, painter = [label_colors(self.labels)[i] for i in shown], TextPainter(font)
        if self.whole:
            draw_caption(rgb, texts[0], colors[0], painter)
        else:
            draw_boxes(rgb, boxes, texts, colors, painter)
        return rgb

    @checked
    def save(self, path: str | os.PathLike[str], language: str = "en") -> Path:
        """Write :meth:`plot` as an image; the suffix says which kind.

        Raises:
            DataError: Pillow writes no images of that suffix.
            FerkitError: the place cannot be written.
        """
        from PIL import Image

        target = Path(path)
        kind = Image.registered_extensions().get(target.suffix.lower())
        if kind is None or kind not in Image.SAVE:
            raise DataError(f"expected a name such as out.jpg or out.png, found {target.name!r}")
        drawn = Image.fromarray(self.plot(language))
        quality = {"quality": 92} if kind == "JPEG" else {}
        write_atomically(target, lambda file: drawn.save(file, kind, **quality))
        return target

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        faces = [face.to_dict() for face in self.faces]
        return {"path": self.path, "whole": self.whole, "error": self.error, "faces": faces}

    def to_pandas(self) -> "pd.DataFrame":
        """One row a face: path, face, left, top, right, bottom, label, confidence, ``p_<class>`` …

        Raises:
            DependencyError: pandas is not installed.
        """
        return Predictions([self]).to_pandas()

    def to_supervision(self) -> "sv.Detections":
        """The faces as ``supervision.Detections``: ``class_id`` counts the labels, ``data`` has ``class_name``.

        Raises:
            DependencyError: supervision is not installed.
        """
        try:
            import supervision as sv
        except ImportError:
            raise DependencyError("to_supervision() needs supervision: pip install supervision") from None
        return sv.Detections(
            xyxy=np.array([face.box for face in self.faces], np.float32).reshape(-1, 4),
            confidence=np.array([face.confidence for face in self.faces], np.float32),
            class_id=np.array([self.labels.names.index(face.label) for face in self.faces], int),
            data={"class_name": np.array([face.label for face in self.faces], str)},
        )

    def deepface_format(self) -> list[dict[str, Any]]:
        """The faces as ``DeepFace.analyze(actions=["emotion"])`` gives them: percentages and ``region``."""
        found = []
        for face in self.faces:
            left, top, right, bottom = (round(value) for value in face.box)
            found.append({
                "emotion": {name: 100 * p for name, p in face.probabilities.items()},
                "dominant_emotion": face.label,
                "region": {"x": left, "y": top, "w": right - left, "h": bottom - top},
                "face_confidence": face.confidence,
            })  # fmt: skip
        return found


class Predictions(Sequence[ImageResult]):
    """What was found in several images, in their order."""

    def __init__(self, images: Sequence[ImageResult]) -> None:
        self._images = tuple(images)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> ImageResult: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "ImageResult | Predictions":
        return Predictions(self._images[index]) if isinstance(index, slice) else self._images[index]

    def __repr__(self) -> str:
        n_faces, failed = sum(map(len, self)), sum(image.error is not None for image in self)
        return f"<{len(self)} images, {n_faces} faces" + (f", {failed} unreadable>" if failed else ">")

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain JSON values, one entry an image."""
        return [image.to_dict() for image in self]

    def to_pandas(self) -> "pd.DataFrame":
        """One row a face; images without one have no row.

        Raises:
            DependencyError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise DependencyError("to_pandas() needs pandas: pip install pandas") from None
        names = self[0].labels.names if len(self) else ()
        columns = ["path", "face", "left", "top", "right", "bottom", "label", "confidence"]
        rows = [
            [image.path, i, *face.box, face.label, face.confidence, *face.probabilities.values()]
            for image in self
            for i, face in enumerate(image.faces)
        ]
        return pd.DataFrame(rows, columns=[*columns, *(f"p_{name}" for name in names)])


def predict_images(
    given: GivenImages,
    classifier: ExpressionClassifier,
    cropper: FaceCropper,
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[ImageResult]:
    """Predict all faces of images; one result an image, in their order, while others are still read.

    Args:
        given: the images.
        classifier: predicts crops.
        cropper: finds them.
        batch_size: images taken together, and the most faces in a run of the classifier.
        workers: threads that read and crop; one a core if None.
    """
    images = read_crops(
        given, map(Sample, given.names), cropper, all_faces=True, batch_size=batch_size, workers=workers
    )
    labels = classifier.labels
    for image, proba in apply_network(images, classifier.predict_proba, len(labels), batch_size):
        yield _result(image, proba, labels, given)


def predict(
    classifier: ExpressionClassifier,
    trained: Cropping,
    images: ImagesLike,
    *,
    detector: str = "auto",
    detector_weights: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    limits: FetchLimits | None = None,
) -> Predictions:
    """Find the faces in images and predict their expressions; see :func:`ferkit.predict`.

    Args:
        classifier: predicts crops.
        trained: what it was trained on.
        images, detector, detector_weights, batch_size, workers: see there.
        limits: of what is fetched from addresses.
    """
    given = GivenImages(images, limits)
    weights = None if detector_weights is None else Path(detector_weights)
    cropper = cropping_as_trained(trained, detector, weights).cropper(classifier)
    found = []
    with progress("predicting", total=len(given.names)) as shown:
        for one in predict_images(given, classifier, cropper, batch_size=batch_size, workers=workers):
            found.append(one)
            shown.update(1, failures=int(one.error is not None))
    return Predictions(found)


def _result(image: ImageCrops, proba: np.ndarray, labels: LabelSet, given: GivenImages) -> ImageResult:
    faces, names, path = [], labels.names, image.sample.path
    for xyxy, row in zip(image.found.xyxy.tolist(), proba.tolist(), strict=True):
        best = int(np.argmax(row))
        left, top, right, bottom = xyxy
        probabilities = dict(zip(names, row, strict=True))
        faces.append(FaceResult((left, top, right, bottom), names[best], row[best], probabilities))
    whole = image.found.whole
    return ImageResult(path, tuple(faces), whole, image.error, labels, given)
