"""Pictures that are there twice: exactly, or re-encoded, cropped, mirrored, brightened, slightly turned."""

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.fingerprint import fingerprint
from ferkit.core.parallel import map_ahead
from ferkit.core.progress import Progress
from ferkit.datasets.alignment import likeness
from ferkit.datasets.candidates import Candidates, find_candidates
from ferkit.datasets.kept import Arrays, kept
from ferkit.datasets.survey import Survey

_FORMAT = 2
_CHUNK = 512
"""Pairs that a thread compares in one go."""

_PART_PAIRS = 2**15
"""Pairs whose likeness is kept together: the most that an interrupt can lose."""


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
    parts_dir = None if file is None else file.with_suffix("")
    found, was_there = kept(
        file,
        functools.partial(
            _near, survey.thumbs[rows], survey.colors[rows], sides, settings, parts_dir, workers, progress
        ),
        lambda known: _is_pairs(known, len(rows)),
    )
    if parts_dir is not None and not was_there:
        shutil.rmtree(parts_dir, ignore_errors=True)  # what an interrupted search goes on from
    return Copies(first, rows[found["near"]].reshape(-1, 2), found["likeness"])


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
    colors: np.ndarray,
    side: np.ndarray | None,
    settings: CopySettings,
    parts_dir: Path | None,
    workers: int | None,
    progress: Progress,
) -> Arrays:
    """Pairs (m, 2) of positions in ``thumbs``, and their likeness."""
    if len(thumbs) < 2:
        return {"near": np.zeros((0, 2), np.int64), "likeness": np.zeros(0, np.float32)}
    found = find_candidates(
        thumbs, side, settings.least_similarity, settings.partners, parts_dir, progress=progress
    )
    score = _score(thumbs, colors, found, parts_dir, workers, progress)
    alike = score >= settings.threshold
    pairs = np.sort(np.stack([found.a, found.b], axis=1)[alike], axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return {"near": pairs[order], "likeness": score[alike][order]}


def _score(
    thumbs: np.ndarray,
    colors: np.ndarray,
    found: Candidates,
    parts_dir: Path | None,
    workers: int | None,
    progress: Progress,
) -> np.ndarray:
    """float32 (m,), the likeness of each candidate pair."""

    def score(chunk: np.ndarray) -> np.ndarray:
        pairs = zip(found.a[chunk], found.b[chunk], found.variant[chunk], strict=True)
        return np.array(
            [likeness(thumbs[a], thumbs[b], int(v), (colors[a], colors[b])) for a, b, v in pairs], np.float32
        )

    def score_part(rows: np.ndarray) -> Arrays:
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        scores = []
        for part in map_ahead(score, chunks, workers=workers or os.cpu_count() or 1, ahead=16):
            scores.append(part)
            progress.update(len(part))
        return {"score": np.concatenate(scores)}

    progress.start(total=len(found.a))
    scores = [np.zeros(0, np.float32)]
    for start in range(0, len(found.a), _PART_PAIRS):
        rows = np.arange(start, min(start + _PART_PAIRS, len(found.a)))
        file = None if parts_dir is None else parts_dir / f"likeness-{start:09d}.npz"
        part, was_there = kept(
            file,
            functools.partial(score_part, rows),
            lambda known, rows=rows: len(known["score"]) == len(rows),  # type: ignore[misc]
        )
        if was_there:
            progress.update(len(rows))
        scores.append(part["score"])
    progress.close()
    return np.concatenate(scores)


def _is_pairs(known: Arrays, n: int) -> bool:
    near = known["near"]
    return near.ndim == 2 and near.shape == (len(known["likeness"]), 2) and near.max(initial=-1) < n
