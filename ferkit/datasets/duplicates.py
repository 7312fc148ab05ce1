"""Pictures that are there twice: exactly, or re-encoded, cropped, mirrored, brightened, slightly turned."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.files import write_atomically
from ferkit.core.fingerprint import fingerprint
from ferkit.core.parallel import map_ahead
from ferkit.core.progress import Progress
from ferkit.datasets.alignment import likeness
from ferkit.datasets.candidates import Candidates, find_candidates
from ferkit.datasets.survey import Survey

_FORMAT = 1
_CHUNK = 512
"""Pairs that a thread compares in one go."""


@dataclass(frozen=True, kw_only=True)
class CopySettings:
    """What counts as a near-duplicate.

    Attributes:
        threshold: least likeness, 0..1, of two pictures laid over each other. On FER2013 nearly all pairs above
            0.85 are copies, nearly all below 0.8 are not, and there are few between.
        least_similarity: of the coarse structure, 0..1, for two pictures to be laid over each other at all.
        partners: of each picture, the most that are laid over it.
        least_contrast: pictures with a smaller standard deviation of gray levels are blank, and all alike.
    """

    threshold: float = 0.85
    least_similarity: float = 0.65
    partners: int = 8
    least_contrast: float = 4.0

    def __post_init__(self) -> None:
        for name in ("threshold", "least_similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise DataError(f"expected {name} in 0..1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Copies:
    """Which of ``n`` rows show the same picture.

    Attributes:
        first: int64 (n,), the first row with the same bytes or the same pixels; its own number if there is none.
        near: int64 (m, 2), pairs of such first rows that show the same picture in another form, the lower
            number first, sorted.
        likeness: float32 (m,) of each near pair, 0..1.
    """

    first: np.ndarray
    near: np.ndarray
    likeness: np.ndarray

    def groups(self) -> np.ndarray:
        """int64 (n,): the lowest row that shows the same picture, over as many copies of copies as it takes."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = len(self.first)
        ends = np.concatenate([np.stack([np.arange(n), self.first], axis=1), self.near])
        graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(n, n))
        _, component = connected_components(graph, directed=False)
        _, lowest = np.unique(component, return_index=True)
        return lowest[component].astype(np.int64)


def find_copies(
    survey: Survey,
    settings: CopySettings | None = None,
    *,
    side: np.ndarray | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress,
) -> Copies:
    """All copies among the pictures of a survey.

    Args:
        survey: the pictures.
        settings: what counts as a near-duplicate; None looks for exact copies alone.
        side: bool (n,); only near-duplicates of which one lies on each side are looked for. None for all.
        cache_dir: where the result is kept, in ``copies/``, under a digest of the pixels; None keeps nothing.
        workers: threads that compare; one a core if None.
        progress: is told how far the search is.

    Raises:
        FerkitError: the cache cannot be written.
    """
    first = first_copies(survey)
    if settings is None:
        return Copies(first, np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    distinct = (first == np.arange(len(first))) & (survey.contrast >= settings.least_contrast)
    rows = np.flatnonzero(distinct)
    sides = None if side is None else side[rows]
    file = None
    if cache_dir is not None:
        which = "all" if sides is None else np.packbits(sides).tobytes().hex()
        key = fingerprint([_FORMAT, settings, survey.pixels[rows].tobytes().hex(), which])
        file = cache_dir / "copies" / f"{key[:32]}.npz"
    known = None if file is None else _read(file, len(rows))
    if known is None:
        known = _near(survey.thumbs[rows], sides, settings, workers, progress)
        if file is not None:
            pairs, likeness = known
            write_atomically(file, lambda out: np.savez(out, near=pairs, likeness=likeness))
    return Copies(first, rows[known[0]].reshape(-1, 2), known[1])


def first_copies(survey: Survey) -> np.ndarray:
    """int64 (n,): the first row that has the bytes or the pixels of each row."""
    first = np.arange(len(survey))
    for digests in (survey.content, survey.pixels):
        known = np.flatnonzero(digests != b"")
        _, earliest, which = np.unique(digests[known], return_index=True, return_inverse=True)
        first[known] = np.minimum(first[known], first[known[earliest[which]]])
    return first


def _near(
    thumbs: np.ndarray,
    side: np.ndarray | None,
    settings: CopySettings,
    workers: int | None,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (m, 2) of positions in ``thumbs``, and their likeness."""
    if len(thumbs) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    found = find_candidates(thumbs, side, settings.least_similarity, settings.partners, progress=progress)
    score = _score(thumbs, found, workers, progress)
    kept = score >= settings.threshold
    pairs = np.sort(np.stack([found.a, found.b], axis=1)[kept], axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], score[kept][order]


def _score(thumbs: np.ndarray, found: Candidates, workers: int | None, progress: Progress) -> np.ndarray:
    def score(chunk: np.ndarray) -> np.ndarray:
        pairs = zip(found.a[chunk], found.b[chunk], found.variant[chunk], strict=True)
        return np.array([likeness(thumbs[a], thumbs[b], int(variant)) for a, b, variant in pairs], np.float32)

    workers = workers or os.cpu_count() or 1
    chunks = [np.arange(start, min(start + _CHUNK, len(found.a))) for start in range(0, len(found.a), _CHUNK)]
    progress.start(total=len(found.a))
    scores = [np.zeros(0, np.float32)]
    for chunk, part in zip(chunks, map_ahead(score, chunks, workers=workers, ahead=4 * workers), strict=True):
        scores.append(part)
        progress.update(len(chunk))
    progress.close()
    return np.concatenate(scores)


def _read(file: Path, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What was found before; None if it is not there or damaged, since it can be found anew."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            near, score = arrays["near"], arrays["likeness"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError):
        return None
    whole = near.ndim == 2 and near.shape[1] == 2 and len(near) == len(score) and near.max(initial=-1) < n
    return (near, score) if whole else None
