"""Pictures of a report: read again, made small, and laid into the page itself."""

import base64
import io
from collections.abc import Callable, Iterable

import numpy as np

from ferkit.core.errors import FerkitError
from ferkit.datasets.dataset import Dataset
from ferkit.evaluation.comparison import Comparison

Pictures = Callable[[int], np.ndarray]
"""Takes a row number of the comparison, gives uint8 RGB (H, W, 3); may raise FerkitError, OSError or KeyError."""

SIDE = 96
"""Pixels of the longer side, at most."""

_QUALITY = 78
_MARGIN = 0.15


def pictures_of(comparison: Comparison, dataset: Dataset) -> Pictures:
    """The pictures of a comparison's rows, cut to the face where its box is known.

    Args:
        comparison: whose rows.
        dataset: that it was made of; of several data sets in one, paths begin with their names.
    """
    samples = {sample.path: sample for sample in dataset.samples}

    def read(row: int) -> np.ndarray:
        path = str(comparison.paths[row])
        prefixed = f"{comparison.data[comparison.source[row]].name}/{path}"
        sample = samples[prefixed] if prefixed in samples else samples[path]
        rgb = dataset.read(sample)
        return rgb if sample.box is None else _cut(rgb, sample.box)

    return read


def thumbnails(rows: Iterable[int], read: Pictures) -> dict[int, str]:
    """Each row's picture as a ``data:`` address; those that cannot be read are left out."""
    found = {}
    for row in dict.fromkeys(rows):
        try:
            found[row] = _address(read(row))
        except (FerkitError, OSError, KeyError):
            continue
    return found


def _address(rgb: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(rgb)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _cut(rgb: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    left, top, right, bottom = box
    x, y = _MARGIN * (right - left), _MARGIN * (bottom - top)
    part = rgb[max(0, int(top - y)) : int(bottom + y) + 1, max(0, int(left - x)) : int(right + x) + 1]
    return part if part.size else rgb
