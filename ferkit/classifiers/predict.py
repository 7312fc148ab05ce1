"""Many images to expressions: read and cropped in threads, classified in batches, in the order given."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError, ImageError
from ferkit.core.types import ExpressionClassifier, FaceDetector, Faces
from ferkit.datasets.dataset import image_paths
from ferkit.datasets.images import decode_image
from ferkit.faces.cropping import FILLED, SMALL_SIDE, FaceSettings, crop_faces, face_share, fit_to

TINY_SIDE = 100
"""Images up to this many pixels are crops without looking: no camera makes them so small."""


@dataclass(frozen=True)
class ImageFaces:
    """The faces of one image.

    Attributes:
        path: as given.
        xyxy: float32 (n, 4) in pixels, the largest face first; the whole image where that is the face.
        whole: whether the image was taken whole, as the crop it is.
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


class ImageCropper:
    """Decides for each image where its faces are. May be used from many threads: each opens a detector.

    Args:
        settings: how faces are taken out; the detector ``none`` takes every image whole.
        open_detector: makes a detector; not called for ``none``.
        size_wh: size of the crops.
        resize: how boxes are fitted to that size, see :func:`ferkit.faces.cropping.fit_to`.
        look_first: take images whole that a face fills, and small ones in which no face is found: for
            classifiers that were trained on crops and may be given either.
    """

    def __init__(
        self,
        settings: FaceSettings,
        open_detector: Callable[[], FaceDetector],
        size_wh: tuple[int, int],
        resize: str,
        look_first: bool = False,
    ) -> None:
        self.settings = settings
        self._open_detector = open_detector
        self._size_wh = size_wh
        self._resize = resize
        self._look_first = look_first
        self._own = threading.local()

    def cut(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Boxes (n, 4), crops (n, h, w, 3) and whether the image was taken whole."""
        if self.settings.detector == "none" or (self._look_first and self._is_crop(rgb)):
            return self._whole(rgb)
        faces = self._detector.detect(rgb).largest_first()
        no_face = self.settings.faceless == "whole" or (self._look_first and max(rgb.shape[:2]) <= SMALL_SIDE)
        if len(faces) == 0 and no_face:
            return self._whole(rgb)
        return faces.xyxy, self._crops(rgb, faces), False

    @property
    def _detector(self) -> FaceDetector:
        if not hasattr(self._own, "detector"):
            self._own.detector = self._open_detector()
        return self._own.detector

    def _is_crop(self, rgb: np.ndarray) -> bool:
        shorter, longer = sorted(rgb.shape[:2])
        # Of the longer side: a portrait in which the face takes the width still shows a neck and shoulders.
        return longer <= TINY_SIDE or face_share(rgb, self._detector) * shorter / longer >= FILLED

    def _whole(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        height, width = rgb.shape[:2]
        box = np.array([[0, 0, width, height]], np.float32)
        return box, fit_to(rgb, self._size_wh, self._resize)[None], True

    def _crops(self, rgb: np.ndarray, faces: Faces) -> np.ndarray:
        align, margin = self.settings.align, self.settings.margin
        return crop_faces(rgb, faces, self._size_wh, align=align, margin=margin, resize=self._resize)


def list_images(paths: Iterable[Path]) -> list[Path]:
    """The images meant by ``paths``: files as they are, and all images below folders, sorted.

    Raises:
        DataError: a folder cannot be listed, or there is nothing in it.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [path / image for image in image_paths(path)]
            if not found:
                raise DataError(f"expected images in the folder {path}, found none")
            images += found
        else:
            images.append(path)
    return images


def read_expressions(
    paths: Iterable[Path],
    classifier: ExpressionClassifier,
    cropper: ImageCropper,
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[ImageFaces]:
    """Read images and classify all their faces; one result an image, in the order of ``paths``.

    Args:
        paths: image files.
        classifier: reads the crops.
        cropper: finds them.
        batch_size: faces a run of the classifier.
        workers: threads that read and crop; one a core if None. At most 4 images a thread are held.
    """
    waiting: list[_Cut] = []
    n_faces = 0
    for cut in _cut_ahead(paths, cropper, workers or os.cpu_count() or 1):
        waiting.append(cut)
        n_faces += len(cut.xyxy)
        if n_faces >= batch_size or len(waiting) >= 4 * batch_size:
            yield from _classify(waiting, classifier, batch_size)
            waiting, n_faces = [], 0
    yield from _classify(waiting, classifier, batch_size)


@dataclass(frozen=True)
class _Cut:
    path: Path
    xyxy: np.ndarray
    crops: np.ndarray | None = None
    whole: bool = False
    error: str | None = None


def _cut_ahead(paths: Iterable[Path], cropper: ImageCropper, workers: int) -> Iterator[_Cut]:
    queue: deque[Future[_Cut]] = deque()
    todo = iter(paths)
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        try:
            while True:
                queue.extend(
                    pool.submit(_cut_one, path, cropper) for path in islice(todo, 4 * workers - len(queue))
                )
                if not queue:
                    return
                yield queue.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _cut_one(path: Path, cropper: ImageCropper) -> _Cut:
    try:
        xyxy, crops, whole = cropper.cut(decode_image(path.read_bytes()))
        return _Cut(path, xyxy, crops, whole)
    except ImageError as error:
        reason = str(error)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    return _Cut(path, np.zeros((0, 4), np.float32), error=reason)


def _classify(cuts: list[_Cut], classifier: ExpressionClassifier, batch_size: int) -> Iterator[ImageFaces]:
    crops = [cut.crops for cut in cuts if cut.crops is not None and len(cut.crops)]
    proba = np.zeros((0, len(classifier.labels)), np.float32)
    if crops:
        batch = np.concatenate(crops)
        parts = [
            classifier.predict_proba(batch[i : i + batch_size]) for i in range(0, len(batch), batch_size)
        ]
        proba = np.concatenate(parts)
    first = 0
    for cut in cuts:
        yield ImageFaces(cut.path, cut.xyxy, cut.whole, proba[first : first + len(cut.xyxy)], cut.error)
        first += len(cut.xyxy)
