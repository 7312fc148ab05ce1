"""Pairs of pictures that may be copies: low frequencies of each, whole, cropped and mirrored, compared with all.

A copy of a face is cropped, mirrored, brightened or coded anew, and its coarse structure survives all of that.
Each thumbnail is described by its lowest cosine frequencies (as in perceptual hashes: Zauner, 2010), without the mean
face and with the variance of the frequencies evened out; cropped and mirrored variants of each picture are looked up
among all whole ones. Thumbnail to descriptor is linear, so that a variant costs two small matrix products.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.progress import Progress
from ferkit.datasets.kept import Arrays, kept
from ferkit.datasets.survey import SIDE

ZOOMS = ((1.0, 0.5, 0.5), (0.9, 0.5, 0.5), (0.88, 0, 0), (0.88, 1, 0), (0.88, 0, 1), (0.88, 1, 1))
"""Variants as (share of the side that is kept, where along x and y what is cut away lies: 1 all before it)."""

N_VARIANTS = 2 * len(ZOOMS)
"""The first half as they are, the second half mirrored."""

_FREQUENCIES = 8
_PRIOR_ROWS = 500
"""Mean and variances are those of so many pictures of no particular kind, until more of the real ones are there."""

_PART_ROWS = 8192
"""Pictures whose partners are kept together: the most that an interrupt can lose."""

_BLOCK_VALUES = 2**24
"""Similarities that are held at once: 64 MB."""


@dataclass(frozen=True)
class Candidates:
    """Pairs that may be copies.

    Attributes:
        a, b: int64 (m,), rows; each unordered pair is there once.
        variant: uint8 (m,), which variant of ``a`` is like the whole of ``b``.
        similarity: float32 (m,), cosine of the two descriptors.
    """

    a: np.ndarray
    b: np.ndarray
    variant: np.ndarray
    similarity: np.ndarray


def variant_warp(variant: int) -> tuple[bool, np.ndarray]:
    """Whether a variant is mirrored first, and then float32 (2, 3): where in it each pixel of the variant lies."""
    mirrored, zoom = divmod(variant, len(ZOOMS))
    share, x, y = ZOOMS[zoom]
    left, top = (SIDE * (1 - share) * at + (share - 1) / 2 for at in (x, y))
    return bool(mirrored), np.array([[share, 0, left], [0, share, top]], np.float32)


def find_candidates(
    thumbs: np.ndarray,
    side: np.ndarray | None,
    least_similarity: float,
    partners: int,
    parts_dir: Path | None = None,
    *,
    progress: Progress,
) -> Candidates:
    """Compare each picture, in all its variants, with all others.

    Memory: 0.5 kB a picture beside the thumbnails, and 64 MB. Time grows with the square of the number of pictures,
    or with the product of both parts if ``side`` is given.

    Args:
        thumbs: uint8 (n, SIDE, SIDE); pictures with some contrast.
        side: bool (n,): only pairs with one row on each side. None for all pairs.
        least_similarity: of descriptors.
        partners: the most that are kept of each picture, the most similar ones.
        parts_dir: folder of these very pictures and settings, in which what was found is kept meanwhile. None
            keeps nothing.
        progress: is told of every row that was compared.

    Raises:
        FerkitError: the folder cannot be written.
    """
    space = _Space.of(thumbs)
    whole = space.describe(thumbs, 0)
    n = len(thumbs)
    halves = [(np.arange(n), np.arange(n))]
    if side is not None:
        halves = [
            (np.flatnonzero(side), np.flatnonzero(~side)),
            (np.flatnonzero(~side), np.flatnonzero(side)),
        ]
    progress.start(total=sum(len(queries) for queries, _ in halves))
    found = []
    for half, (queries, known) in enumerate(halves):
        targets = np.ascontiguousarray(whole[known].T)

        def search(rows: np.ndarray, known: np.ndarray = known, targets: np.ndarray = targets) -> Arrays:
            blocks = []
            for block in _blocks(rows, len(known)):
                blocks.append(
                    _best_partners(space, thumbs, block, known, targets, least_similarity, partners)
                )
                progress.update(len(block))
            return vars(_joined(blocks))

        for start in range(0, len(queries), _PART_ROWS):
            rows = queries[start : start + _PART_ROWS]
            file = None if parts_dir is None else parts_dir / f"partners-{half}-{start:09d}.npz"
            part, was_there = kept(file, functools.partial(search, rows), _is_candidates)
            if was_there:
                progress.update(len(rows))
            found.append(Candidates(**part))
    progress.close()
    return _each_once(_joined(found), n)


def _best_partners(
    space: "_Space",
    thumbs: np.ndarray,
    rows: np.ndarray,
    known: np.ndarray,
    targets: np.ndarray,
    least: float,
    partners: int,
) -> Candidates:
    """The most similar pictures of each row, whatever the variant."""
    a, b, v, s = [], [], [], []
    for variant in range(N_VARIANTS):
        similarity = space.describe(thumbs[rows], variant) @ targets
        flat = np.flatnonzero(similarity.reshape(-1) > least)
        a.append(flat // len(known))
        b.append(known[flat % len(known)])
        v.append(np.full(len(flat), variant, np.uint8))
        s.append(similarity.reshape(-1)[flat])
    query, other, variants, similarities = map(np.concatenate, (a, b, v, s))
    keep = rows[query] != other
    query, other, variants, similarities = query[keep], other[keep], variants[keep], similarities[keep]
    order = np.lexsort((-similarities, other, query))
    query, other, variants, similarities = query[order], other[order], variants[order], similarities[order]
    fresh = np.ones(len(query), bool)  # of each pair only the best variant
    fresh[1:] = (query[1:] != query[:-1]) | (other[1:] != other[:-1])
    query, other, variants, similarities = query[fresh], other[fresh], variants[fresh], similarities[fresh]
    order = np.lexsort((-similarities, query))
    begins = np.searchsorted(query[order], np.arange(len(rows)))
    order = order[np.arange(len(order)) - begins[query[order]] < partners]
    return Candidates(rows[query[order]], other[order], variants[order], similarities[order])


def _joined(parts: list[Candidates]) -> Candidates:
    names = ("a", "b", "variant", "similarity")
    return Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _is_candidates(arrays: Arrays) -> bool:
    return (
        arrays.keys() == {"a", "b", "variant", "similarity"} and len({len(v) for v in arrays.values()}) == 1
    )


def _each_once(found: Candidates, n: int) -> Candidates:
    low, high = np.minimum(found.a, found.b), np.maximum(found.a, found.b)
    order = np.lexsort((-found.similarity, high, low))
    pair = (low * n + high)[order]
    order = order[np.concatenate([np.ones(min(1, len(pair)), bool), pair[1:] != pair[:-1]])]
    return Candidates(found.a[order], found.b[order], found.variant[order], found.similarity[order])


@dataclass(frozen=True)
class _Space:
    """How pixels become a descriptor.

    Attributes:
        mean: float32 (d,), of the normalised frequencies.
        whiten: float32 (d, d).
    """

    mean: np.ndarray
    whiten: np.ndarray

    @staticmethod
    def of(thumbs: np.ndarray) -> "_Space":
        """The space in which these pictures, or at most 50,000 of them, spread evenly."""
        sample = thumbs[:: max(1, len(thumbs) // 50_000)]
        spectra = np.concatenate([_spectrum(part, 0) for part in _slices(sample)])
        share = len(sample) / (len(sample) + _PRIOR_ROWS)
        mean = spectra.mean(axis=0) * share
        # Natural pictures: power falls with the square of the frequency (Field, 1987).
        u, v = np.meshgrid(np.arange(_FREQUENCIES), np.arange(_FREQUENCIES))
        prior = 1 / (u**2 + v**2).reshape(-1)[1:]
        centred = spectra - mean
        covariance = share * (centred.T @ centred) / len(sample) + (1 - share) * np.diag(prior / prior.sum())
        values, vectors = np.linalg.eigh(covariance)
        # The rarest directions are noise of the coding, and would count most without the 0.3.
        whiten = vectors / np.sqrt(values + 0.3 * values.mean())
        return _Space(mean.astype(np.float32), whiten.astype(np.float32))

    def describe(self, thumbs: np.ndarray, variant: int) -> np.ndarray:
        """float32 (n, d) of length 1."""
        parts = [(_spectrum(part, variant) - self.mean) @ self.whiten for part in _slices(thumbs)]
        return _normalised(np.concatenate(parts))


def _spectrum(thumbs: np.ndarray, variant: int) -> np.ndarray:
    """float32 (n, d) of length 1: the lowest frequencies but the mean, so that light and contrast do not matter."""
    mirrored, warp = variant_warp(variant)
    i = np.arange(SIDE)
    cosines = np.cos(np.pi * (i + 0.5) * np.arange(_FREQUENCIES)[:, None] / SIDE)
    cosines[0] /= np.sqrt(2)
    rows, columns = (cosines @ _sampling(warp[axis, axis], warp[axis, 2]) for axis in (1, 0))
    if mirrored:
        columns = columns[:, ::-1]
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    spectrum = (rows @ thumbs.astype(np.float32)) @ columns.T
    return _normalised(spectrum.reshape(len(thumbs), -1)[:, 1:])


def _sampling(scale: float, offset: float) -> np.ndarray:
    """(SIDE, SIDE): linear interpolation at ``scale * i + offset``, the border repeated."""
    at = np.clip(scale * np.arange(SIDE) + offset, 0, SIDE - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SIDE)[None]))


def _normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _blocks(rows: np.ndarray, n_known: int) -> Iterator[np.ndarray]:
    size = max(16, _BLOCK_VALUES // max(1, n_known))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _slices(thumbs: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, max(1, len(thumbs)), 4096):
        yield thumbs[start : start + 4096]
