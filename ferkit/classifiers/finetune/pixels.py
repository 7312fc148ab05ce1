"""Decoded crops, once for all epochs: in memory where they fit, in a mapped file otherwise."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.errors import DataError, TrainingError
from ferkit.core.progress import progress
from ferkit.datasets.dataset import Dataset
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.reading import read_crops

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Part of the free memory that decoded images may take; the network needs the rest."""
CACHES = ("auto", "memory", "disk")


@dataclass(frozen=True)
class Pixels:
    """Decoded crops and what they show.

    Attributes:
        images: uint8 (n, H, W, C), C 1 or 3.
        y: int64 (n,), class numbers.
        paths: names of the samples, in the same order.
        failures: (path, reason) of what could not be read and is left out.
    """

    images: np.ndarray
    y: np.ndarray
    paths: tuple[str, ...]
    failures: tuple[tuple[str, str], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.images)


def load_pixels(
    dataset: Dataset,
    names: Sequence[str],
    cropper: FaceCropper,
    color: str,
    *,
    cache: str = "auto",
    cache_file: Path | None = None,
    doing: str = "reading",
) -> Pixels:
    """Decode and crop all samples, in threads, in their order.

    Args:
        dataset: all labelled with one of ``names``.
        names: the classes, in the order of the class numbers.
        cropper: makes crops of the network's input size.
        color: ``gray`` or ``rgb``.
        cache: ``memory``, ``disk`` (``cache_file``), or ``auto``: memory where at most half of what is free
            suffices.
        cache_file: a ``.npy`` file to write where the disk is used.
        doing: what the progress says.

    Raises:
        DataError: no image could be read.
        TrainingError: they do not fit in memory and there is no file to use instead.
    """
    width, height = cropper.size_wh
    shape = (len(dataset), height, width, 1 if color == "gray" else 3)
    images = _allocate(shape, cache, cache_file)
    number = {name: i for i, name in enumerate(names)}
    y: list[int] = []
    paths: list[str] = []
    failures: list[tuple[str, str]] = []
    n_whole = 0
    with progress(doing, len(dataset)) as shown:
        for image in read_crops(dataset.source, dataset.samples, cropper):
            if image.error is not None:
                failures.append((image.sample.path, image.error))
            else:
                rgb = image.found.rgb[0]
                gray = color == "gray"
                images[len(paths)] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None] if gray else rgb
                y.append(number[image.sample.label or ""])
                paths.append(image.sample.path)
                n_whole += image.found.whole and cropper.settings.detector != "none"
            shown.update(1, failures=image.error is not None)
    if n_whole:
        logger.info(f"{n_whole} images without a face were taken whole")
    if not paths:
        raise DataError(
            f"none of the {len(dataset)} images of {dataset.root} could be read; first: {failures[0][1]}"
        )
    return Pixels(images[: len(paths)], np.array(y, np.int64), tuple(paths), tuple(failures))


def free_memory() -> int:
    """Bytes that can be had without swapping, as the system says; a guess of 2 GiB where it says nothing."""
    try:
        with Path("/proc/meminfo").open() as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2 << 30


def _allocate(shape: tuple[int, ...], cache: str, cache_file: Path | None) -> np.ndarray:
    if cache not in CACHES:
        raise TrainingError(f"expected cache to be one of {', '.join(CACHES)}, found {cache!r}")
    wanted, free = int(np.prod(shape)), free_memory()
    if cache == "memory" or (cache == "auto" and wanted <= MEMORY_SHARE * free):
        try:
            return np.empty(shape, np.uint8)
        except MemoryError:
            cache = "disk" if cache == "auto" else cache
    if cache == "memory" or cache_file is None:
        raise TrainingError(
            f"{shape[0]} images of {shape[2]}x{shape[1]} take {wanted / 2**30:.1f} GiB, more than the "
            "memory has free; "
            "use --cache disk, a smaller --input-size or --color gray"
        )
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(cache_file, "w+", np.uint8, shape)
    except OSError as error:
        raise TrainingError(
            f"{wanted / 2**30:.1f} GiB for decoded images could not be written to {cache_file} "
            f"({error.strerror}); "
            "make room, or use a smaller --input-size or --color gray"
        ) from None
