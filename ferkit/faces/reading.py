"""The one loop that reads images, crops them in threads ahead, and runs a network on batches of the crops."""

import contextlib
import functools
import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ferkit.core.console import StageTimes, map_ahead, n_cores
from ferkit.core.errors import DataError
from ferkit.datasets.dataset import ImageSource, Sample, why_unread
from ferkit.faces.cropping import Crops, FaceCropper


@dataclass(frozen=True)
class ImageCrops:
    """One image after reading.

    Attributes:
        sample: which.
        found: its crops; none where it could not be read or cropped.
        error: why; None if it could. An image without a face has no error and no crops where all faces are wanted.
        size: of the content, in bytes; -1 if it could not be read.
        sha256: of the content; None if it could not be read.
        read_ns: when reading began, nanoseconds since 1970.
    """

    sample: Sample
    found: Crops
    error: str | None
    size: int
    sha256: str | None
    read_ns: int


def read_crops(
    source: ImageSource,
    samples: Iterable[Sample],
    cropper: FaceCropper,
    *,
    all_faces: bool = False,
    batch_size: int = 32,
    workers: int | None = None,
    times: StageTimes | None = None,
) -> Generator[ImageCrops, None, None]:
    """Read and crop images in threads, a few batches ahead, in their order; one bad image never ends it.

    Args:
        source: gives the images.
        samples: which.
        cropper: finds their faces.
        all_faces: take all faces of an image; else the largest, and an image without one is a failure.
        batch_size: images taken together; it bounds how many are held.
        workers: threads; one a core if None.
        times: takes how long reading, decoding and cropping took.
    """
    workers = workers or n_cores()
    cut = cropper.cut if all_faces else cropper.largest
    read = functools.partial(_read, source, cut, cropper, times or StageTimes())
    return map_ahead(read, samples, workers=workers, ahead=max(2 * batch_size, 4 * workers))


def apply_network(
    images: Iterable[ImageCrops],
    network: Callable[[np.ndarray], np.ndarray],
    width: int,
    batch_size: int = 32,
    *,
    blocks: deque[int] | None = None,
    at_once: int = 1,
    times: StageTimes | None = None,
) -> Generator[tuple[ImageCrops, np.ndarray], None, None]:
    """Each image with what a network says of its crops, (n, ``width``), while it works on the next ones.

    A batch is always the same range of ``images``, read or not, so that the numbers never depend on how a run
    was interrupted.

    Args:
        images: from :func:`read_crops`.
        network: uint8 RGB crops (n, h, w, 3) to float (n, ``width``).
        width: numbers a crop.
        batch_size: images that are taken together, and the most crops of one call.
        blocks: how many images the next blocks have, known when their first image comes; each begins a batch. None is
            one block.
        at_once: threads that call the network, which must be allowed to if there are several.
        times: takes how long the network took.
    """
    times = times or StageTimes()

    def run(batch: list[ImageCrops]) -> tuple[list[ImageCrops], np.ndarray]:
        crops = [image.found.rgb for image in batch if len(image.found.rgb)]
        if not crops:
            return batch, np.zeros((0, width), np.float32)
        with times.measure("network"):
            together = crops[0] if len(crops) == 1 else np.concatenate(crops)
            steps = range(0, len(together), batch_size)
            return batch, np.concatenate([network(together[i : i + batch_size]) for i in steps])

    batches = _batches(images, batch_size, blocks)
    with contextlib.closing(map_ahead(run, batches, workers=at_once, ahead=at_once + 1)) as done:
        for batch, X in done:
            first = 0
            for image in batch:
                yield image, X[first : first + len(image.found.rgb)]
                first += len(image.found.rgb)


def _batches(
    images: Iterable[ImageCrops], batch_size: int, blocks: deque[int] | None
) -> Iterator[list[ImageCrops]]:
    images, left = iter(images), 0
    while (first := next(images, None)) is not None:
        left = batch_size if blocks is None else left or blocks.popleft()
        batch = [first, *islice(images, min(batch_size, left) - 1)]
        left -= len(batch)
        yield batch


def some_crops(
    source: ImageSource, samples: Iterable[Sample], cropper: FaceCropper, n: int
) -> list[ImageCrops]:
    """The first ``n`` images that can be read and cropped."""
    with contextlib.closing(read_crops(source, samples, cropper, batch_size=8)) as images:
        return list(islice((image for image in images if image.error is None), n))


def _read(
    source: ImageSource, cut: Callable[..., Crops], cropper: FaceCropper, times: StageTimes, sample: Sample
) -> ImageCrops:
    size, digest, read_ns = -1, None, time.time_ns()
    try:
        with times.measure("read"):
            content = source.read(sample.path)
            size, digest = len(content), hashlib.sha256(content).hexdigest()
        with times.measure("decode"):
            pixels = source.decode(content)
        with times.measure("find and crop"):
            found = cut(pixels, sample.box)
        return ImageCrops(sample, found, None, size, digest, read_ns)
    except (DataError, OSError) as error:
        width, height = cropper.size_wh
        nothing = Crops(np.zeros((0, 4), np.float32), np.zeros((0, height, width, 3), np.uint8))
        return ImageCrops(sample, nothing, why_unread(error), size, digest, read_ns)
