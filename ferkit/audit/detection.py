"""Whether a detector finds a face in each picture, crops included."""

import functools
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.errors import FerkitError
from ferkit.core.fingerprint import fingerprint
from ferkit.core.parallel import map_ahead
from ferkit.core.progress import Progress
from ferkit.core.protocols import FaceDetector
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.kept import Arrays, kept
from ferkit.datasets.survey import Survey
from ferkit.faces.crop import square_crop

LEAST_CONFIDENCE = 0.05
"""What a detector should be opened with here: on FER2013 YuNet gives text and signs nothing at all, and hard faces
(eyes shut, hands before them, profiles) mostly more than this."""

_FORMAT = 1
_ROWS = 1024
"""Pictures a file of the cache: the most that an interrupt can lose."""

_SMALLEST, _LARGEST = 96, 320
"""Longer side in pixels in which a picture is looked at."""


def face_confidence(
    dataset: Dataset,
    seen: Survey,
    detector: FaceDetector,
    cache_dir: Path | None = None,
    *,
    workers: int | None = None,
    progress: Progress,
) -> np.ndarray:
    """float32 (n,), 0..1: confidence of the surest face in each picture; 0 for none, NaN if it cannot be read.

    Args:
        dataset, seen: the pictures.
        detector: opened with :data:`LEAST_CONFIDENCE`.
        cache_dir: where what was found is kept, in ``faces/``; None keeps nothing.
        workers: threads that read; one a core if None. The detector itself runs here.
        progress: is told of every picture.

    Raises:
        FerkitError: the cache cannot be written.
    """
    progress.start(total=len(dataset))
    found = np.full(len(dataset), np.nan, np.float32)
    for start in range(0, len(dataset), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(dataset)))
        file = None
        if cache_dir is not None:
            boxes = [dataset.samples[row].box for row in rows]
            key = fingerprint([_FORMAT, detector.name, seen.pixels[rows].tobytes().hex(), boxes])
            file = cache_dir / "faces" / f"{key[:32]}.npz"
        look = functools.partial(_look, dataset, rows, detector, workers, progress)
        known, was_there = kept(file, look, functools.partial(_fits, len(rows)))
        if was_there:
            progress.update(len(rows))
        found[rows] = known["confidence"]
    progress.close()
    return found


def _look(
    dataset: Dataset, rows: np.ndarray, detector: FaceDetector, workers: int | None, progress: Progress
) -> Arrays:
    def read(row: int) -> np.ndarray | None:
        sample = dataset.samples[row]
        try:
            rgb = dataset.read(sample)
        except (FerkitError, OSError):
            return None
        return framed(rgb if sample.box is None else square_crop(rgb, np.array(sample.box, np.float32), 0.15))

    found = np.full(len(rows), np.nan, np.float32)
    for i, rgb in enumerate(map_ahead(read, rows.tolist(), workers=workers or 2, ahead=32)):
        if rgb is not None:
            faces = detector.detect(rgb)
            found[i] = faces.confidence.max() if len(faces) else 0.0
        progress.update(1)
    return {"confidence": found}


def framed(rgb: np.ndarray) -> np.ndarray:
    """A picture with a border: detectors expect space around a face, which crops do not have."""
    longer = max(rgb.shape[:2])
    scale = np.clip(longer, _SMALLEST, _LARGEST) / longer
    if scale != 1:
        how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        size_wh = tuple(max(1, round(side * scale)) for side in rgb.shape[1::-1])
        rgb = cv2.resize(rgb, size_wh, interpolation=how)
    edge = max(rgb.shape[:2]) // 3
    return cv2.copyMakeBorder(rgb, edge, edge, edge, edge, cv2.BORDER_REPLICATE)


def _fits(n: int, known: Arrays) -> bool:
    return known["confidence"].shape == (n,)
