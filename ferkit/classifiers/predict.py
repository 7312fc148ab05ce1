"""Images to expressions: read and cropped in threads, classified in batches, in the order given."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.types import ExpressionClassifier
from ferkit.datasets.archives import ARCHIVE_SUFFIXES, PathSource
from ferkit.datasets.dataset import ImageSource, Sample
from ferkit.datasets.load import find_paths, list_source
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.reading import apply_network, read_crops


@dataclass(frozen=True)
class ImageFaces:
    """The faces of one image.

    Attributes:
        path: as given.
        xyxy: float32 (n, 4) in pixels, the largest face first; the whole image where that is the face.
        whole: whether the image was taken whole.
        proba: float32 (n, k), columns in the order of the classifier's labels.
        error: why it could not be read; None if it could. An image without a face has no error and no rows.
    """

    path: Path
    xyxy: np.ndarray
    whole: bool
    proba: np.ndarray
    error: str | None = None

    def __len__(self) -> int:
        return len(self.xyxy)


def list_images(paths: Iterable[Path]) -> list[Path]:
    """The images meant by ``paths``: files unchanged, all images in folders and archives, and what fits a pattern.

    Raises:
        DataError: a folder cannot be listed, or there is nothing in it, or a pattern fits nothing.
    """
    images: list[Path] = []
    for path in (found for given in paths for found in find_paths(given)):
        holds_images = path.is_dir() or path.suffix.lower() in ARCHIVE_SUFFIXES
        images += [path / image for image in list_source(path).paths] if holds_images else [path]
    return images


def predict_images(
    paths: Iterable[str | Path],
    classifier: ExpressionClassifier,
    cropper: FaceCropper,
    *,
    source: ImageSource | None = None,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[ImageFaces]:
    """Read images and classify all their faces; one result an image, in the order of ``paths``.

    Args:
        paths: image files, or what ``source`` knows them by.
        classifier: reads the crops.
        cropper: finds them.
        source: gives the images; files by default.
        batch_size: images taken together, and the most faces in a run of the classifier.
        workers: threads that read and crop; one a core if None.
    """
    images = read_crops(
        source or PathSource(Path()),
        (Sample(str(path)) for path in paths),
        cropper,
        all_faces=True,
        batch_size=batch_size,
        workers=workers,
    )
    for image, proba in apply_network(images, classifier.predict_proba, len(classifier.labels), batch_size):
        yield ImageFaces(Path(image.sample.path), image.found.xyxy, image.found.whole, proba, image.error)
