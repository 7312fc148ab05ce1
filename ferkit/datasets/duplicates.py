"""Find copies and near copies of images.

A copy of a face is cropped, mirrored, brightened or coded again, and its coarse structure survives all of that.
Each thumbnail is described by its lowest cosine frequencies (as in perceptual hashes: Zauner, 2010), without the mean
face and with the variance of the frequencies evened out; cropped and mirrored variants of each image are looked up
among all whole ones. Thumbnail to descriptor is linear, so that a variant costs two small matrix products.
"""

import dataclasses
import functools
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.console import Progress, map_ahead
from ferkit.core.errors import DataError
from ferkit.core.files import Arrays, cached_arrays, fingerprint
from ferkit.datasets.image_stats import COLOR_SIDE, SIDE, ImageStats, cached_rows

logger = logging.getLogger(__name__)

ZOOMS = ((1.0, 0.5, 0.5), (0.9, 0.5, 0.5), (0.88, 0, 0), (0.88, 1, 0), (0.88, 0, 1), (0.88, 1, 1))
"""Variants as (share of the side that is kept, where along x and y what is cut away lies: 1 all before it)."""

N_VARIANTS = 2 * len(ZOOMS)
"""The first half unchanged, the second half mirrored."""

_FREQUENCIES = 8
_PRIOR_ROWS = 500
"""Mean and variances are those of so many images of no particular kind, until more of the real ones are there."""

_PART_ROWS = 8192
"""Images whose partners are kept together: the most that an interrupt can lose."""

COMPARABLE = 500_000
"""More images than these are compared for hours: the time grows with the square."""

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

    def __getitem__(self, rows: np.ndarray) -> "Candidates":
        """The pairs at these positions, or where a mask is true."""
        return Candidates(**{name: column[rows] for name, column in vars(self).items()})


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
) -> Candidates:
    """Compare each image, in all its variants, with all others.

    Memory: 0.5 kB an image besides the thumbnails, and 64 MB. Time grows with the square of the number of images,
    or with the product of both parts if ``side`` is given.

    Args:
        thumbs: uint8 (n, SIDE, SIDE); images with some contrast.
        side: bool (n,): only pairs with one row on each side. None for all pairs.
        least_similarity: of descriptors.
        partners: the most that are kept of each image, the most similar ones.
        parts_dir: folder of these very images and settings, in which what was found is kept meanwhile. None
            keeps nothing.

    Raises:
        FerkitError: the folder cannot be written.
    """
    space, n = _Space.from_thumbnails(thumbs), len(thumbs)
    whole = space.describe(thumbs, 0)
    halves = [(np.arange(n), np.arange(n))]
    if side is not None:
        here, there = np.flatnonzero(side), np.flatnonzero(~side)
        halves = [(here, there), (there, here)]

    def compare(half: int, queries: np.ndarray, known: np.ndarray) -> Candidates:
        targets = np.ascontiguousarray(whole[known].T)

        def search(places: np.ndarray, shown: Progress) -> Arrays:
            blocks = []
            for rows in _slices(queries[places], max(16, _BLOCK_VALUES // max(1, len(known)))):
                blocks.append(_best_partners(space, thumbs, rows, known, targets, least_similarity, partners))
                shown.update(len(rows))
            return vars(_joined(blocks))

        def file_of(places: np.ndarray) -> Path | None:
            return parts_dir and parts_dir / f"partners-{half}-{places[0]:09d}.npz"

        columns = cached_rows(len(queries), _PART_ROWS, "comparing images", file_of, search, _is_candidates)
        return Candidates(**columns)

    found = [compare(i, *half) for i, half in enumerate(halves) if len(half[0])]
    joined = _joined(found)
    low, high = np.minimum(joined.a, joined.b), np.maximum(joined.a, joined.b)
    order = np.lexsort((-joined.similarity, high, low))
    pair = (low * n + high)[order]
    return joined[order[np.diff(pair, prepend=-1) != 0]]  # each pair once


def _best_partners(
    space: "_Space",
    thumbs: np.ndarray,
    rows: np.ndarray,
    known: np.ndarray,
    targets: np.ndarray,
    least: float,
    partners: int,
) -> Candidates:
    """The most similar images of each row, in any variant."""
    parts = []
    for variant in range(N_VARIANTS):
        similarity = (space.describe(thumbs[rows], variant) @ targets).reshape(-1)
        flat = np.flatnonzero(similarity > least)
        of_variant = np.full(len(flat), variant, np.uint8)
        parts.append(Candidates(flat // len(known), known[flat % len(known)], of_variant, similarity[flat]))
    found = _joined(parts)
    found = found[rows[found.a] != found.b]
    found = found[np.lexsort((-found.similarity, found.b, found.a))]
    fresh = np.ones(len(found.a), bool)  # of each pair only the best variant
    fresh[1:] = (found.a[1:] != found.a[:-1]) | (found.b[1:] != found.b[:-1])
    found = found[fresh]
    found = found[np.lexsort((-found.similarity, found.a))]
    begins = np.searchsorted(found.a, np.arange(len(rows)))
    found = found[np.arange(len(found.a)) - begins[found.a] < partners]
    return dataclasses.replace(found, a=rows[found.a])


_COLUMNS = tuple(field.name for field in dataclasses.fields(Candidates))


def _joined(parts: list[Candidates]) -> Candidates:
    return Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


def _is_candidates(rows: np.ndarray, arrays: Arrays) -> bool:
    return arrays.keys() == {*_COLUMNS} and len({len(column) for column in arrays.values()}) == 1


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
    def from_thumbnails(thumbs: np.ndarray) -> "_Space":
        """The space in which these images, or at most 50,000 of them, spread evenly."""
        sample = thumbs[:: max(1, len(thumbs) // 50_000)]
        spectra = np.concatenate([_spectrum(part, 0) for part in _slices(sample)])
        share = len(sample) / (len(sample) + _PRIOR_ROWS)
        mean = spectra.mean(axis=0) * share
        # Natural images: power falls with the square of the frequency (Field, 1987).
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


def _slices(rows: np.ndarray, size: int = 4096) -> Iterator[np.ndarray]:
    for start in range(0, max(1, len(rows)), size):
        yield rows[start : start + size]


_TILE = SIDE // 4
"""Side of a tile, pixels; sixteen of them make a thumbnail."""

_LEAST_OVERLAP = 0.5
_BLUR = 5
"""Side of the filter before alignment, pixels."""

_LEAST_CHROMA = 4.0
"""Root mean square of a* and b* up to which an image is gray; from twice as much on its colours count in full."""

_FIRST_LOOK = 5
_ITERATIONS = 30
_PROMISING = 0.4
"""Similarity after the first few iterations, below which no image ever became a copy."""


def similarity_of(
    a: np.ndarray, b: np.ndarray, variant: int, colors: tuple[np.ndarray, np.ndarray] | None = None
) -> float:
    """How far two thumbnails show the same image, 0..1.

    ``a`` is laid over ``b`` by maximising the enhanced correlation coefficient over affine maps (Evangelidis &
    Psarakis, 2008), beginning with a variant that :func:`ferkit.datasets.duplicates.find_candidates` found. Then
    three correlations are averaged, in which light and contrast do not count:

    - of the fine structure (one to four pixels) of the whole, which differs between two people, or two moments,
      whose coarse structure is the same;
    - of the medium structure, the median over sixteen tiles, which forgives a written line, a hand or burnt-out light;
    - of the fine structure, the lower quartile over the tiles, which does not forgive another mouth or other eyes.

    Args:
        a, b: uint8 (SIDE, SIDE).
        variant: of ``a``.
        colors: of both, int8 (COLOR_SIDE, COLOR_SIDE, 2); None to go by gray levels alone.
    """
    mirrored, warp = variant_warp(variant)
    over = np.ascontiguousarray(a[:, ::-1]) if mirrored else a
    for iterations in (_FIRST_LOOK, _ITERATIONS):
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, 1e-4)
        try:
            _, warp = cv2.findTransformECC(b, over, warp, cv2.MOTION_AFFINE, criteria, _ONES, _BLUR)
        except cv2.error:  # it ran away: the images have nothing to do with each other
            return 0.0
        like = _compare(over, b, warp)
        if like < _PROMISING:
            return like
    return like if colors is None else like * _common_color(*colors, warp, mirrored=mirrored)


def _compare(over: np.ndarray, b: np.ndarray, warp: np.ndarray) -> float:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(over, warp, (SIDE, SIDE), flags=how, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(_ONES, warp, (SIDE, SIDE), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    if inside.mean() <= _LEAST_OVERLAP:
        return 0.0
    smooth = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.7) for image in (laid, b)]
    bands = [[one - cv2.GaussianBlur(one, (0, 0), sigma) for one in smooth] for sigma in (1.9, 8)]
    whole = _correlations(bands[0][0], bands[0][1], inside, SIDE)
    fine, medium = (_correlations(x, y, inside, _TILE) for x, y in bands)
    return float(np.clip((whole[0] + np.median(medium) + np.percentile(fine, 25)) / 3, 0, 1))


def _correlations(x: np.ndarray, y: np.ndarray, inside: np.ndarray, side: int) -> np.ndarray:
    """Of each tile of ``side`` pixels of which more than half is inside."""
    weight = inside.astype(np.float64)
    n = SIDE // side

    def total(values: np.ndarray) -> np.ndarray:
        return (values * weight).reshape(n, side, n, side).sum(axis=(1, 3)).reshape(-1)

    area = total(np.ones_like(weight))
    kept = area > side * side / 2
    area = np.maximum(area, 1)
    mean_x, mean_y = total(x) / area, total(y) / area
    covariance = total(x * y) / area - mean_x * mean_y
    power = (total(x * x) / area - mean_x**2) * (total(y * y) / area - mean_y**2)
    return (covariance / np.sqrt(np.maximum(power, 1e-6)))[kept]


def _common_color(a: np.ndarray, b: np.ndarray, warp: np.ndarray, *, mirrored: bool) -> float:
    """How far the colours agree, 0..1: the cosine of both maps of a* and b*, at any saturation.

    1 where either image has hardly any colour: a gray copy is a copy. The same face drawn, or lit, in other colours
    is another image.
    """
    scale = COLOR_SIDE / SIDE
    # Pixel i of the one size lies at (i + 0.5) / scale - 0.5 of the other.
    linear, shift = warp[:, :2], warp[:, 2:]
    half = np.full((2, 1), 0.5, np.float32)
    small = np.concatenate([linear, scale * (linear @ (half / scale - half) + shift + half) - half], axis=1)
    over = np.ascontiguousarray(a[:, ::-1] if mirrored else a).astype(np.float32)
    size_wh = COLOR_SIDE, COLOR_SIDE
    laid = cv2.warpAffine(over, small, size_wh, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(_ONES_OF_COLOR, small, size_wh, flags=how) > 0
    x, y = laid[inside].reshape(-1), b[inside].reshape(-1).astype(np.float32)
    if not len(x):
        return 1.0
    size = len(x) / 2
    chroma = min(float(np.sqrt(x @ x / size)), float(np.sqrt(y @ y / size)))
    weight = float(np.clip((chroma - _LEAST_CHROMA) / _LEAST_CHROMA, 0, 1))
    cosine = float(x @ y) / max(float(np.sqrt((x @ x) * (y @ y))), 1e-6)
    return 1 - weight * (1 - max(cosine, 0.0))


_ONES = np.full((SIDE, SIDE), 255, np.uint8)
_ONES_OF_COLOR = np.full((COLOR_SIDE, COLOR_SIDE), 255, np.uint8)


_FORMAT = 2
_CHUNK = 512
"""Pairs that a thread compares in one go."""

_PART_PAIRS = 2**15
"""Pairs whose similarity is kept together: the most that an interrupt can lose."""


@dataclass(frozen=True, kw_only=True)
class CopySettings:
    """What counts as a near-duplicate.

    Attributes:
        threshold: least similarity, 0..1, of two images laid over each other. On FER2013 nearly all pairs above
            0.85 are copies, nearly all below 0.8 are not, and there are few between.
        least_similarity: of the coarse structure, 0..1, for two images to be laid over each other at all.
        partners: of each image, the most that are laid over it.
        least_contrast: images with a smaller standard deviation of gray levels are blank, and all alike.
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
    """Which of ``n`` rows show the same image.

    Attributes:
        first: int64 (n,), the first row with the same bytes or the same pixels; its own number if there is none.
        near: int64 (m, 2), pairs of such first rows that show the same image in another form, the lower
            number first, sorted.
        similarity: float32 (m,) of each near pair, 0..1.
    """

    first: np.ndarray
    near: np.ndarray
    similarity: np.ndarray

    def groups(self) -> np.ndarray:
        """int64 (n,): the lowest row that shows the same image, over as many copies of copies as it takes."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = len(self.first)
        ends = np.concatenate([np.stack([np.arange(n), self.first], axis=1), self.near])
        graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(n, n))
        _, component = connected_components(graph, directed=False)
        _, lowest = np.unique(component, return_index=True)
        return lowest[component].astype(np.int64)


def find_copies(
    stats: ImageStats,
    settings: CopySettings | None = None,
    *,
    side: np.ndarray | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> Copies:
    """All copies among images.

    Args:
        stats: of the images.
        settings: what counts as a near-duplicate; None looks for exact copies alone.
        side: bool (n,); only near-duplicates of which one lies on each side are looked for. None for all.
        cache_dir: where the result is kept, in ``copies/``, under a digest of the pixels; None keeps nothing.
        workers: threads that compare; one a core if None.

    Raises:
        FerkitError: the cache cannot be written.
    """
    first = first_copies(stats)
    if settings is None:
        return Copies(first, np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    distinct = (first == np.arange(len(first))) & (stats.contrast >= settings.least_contrast)
    rows = np.flatnonzero(distinct)
    if len(rows) > COMPARABLE:
        logger.warning(
            f"{len(rows):,} images are compared each with each, which takes hours above {COMPARABLE:,}; go on with "
            "parts of the data (fer dataset sample), or look for exact copies alone"
        )
    sides = None if side is None else side[rows]
    file = None
    if cache_dir is not None:
        which = "all" if sides is None else np.packbits(sides).tobytes().hex()
        key = fingerprint([_FORMAT, settings, stats.pixels[rows].tobytes().hex(), which])
        file = cache_dir / "copies" / f"{key[:32]}.npz"
    parts_dir = None if file is None else file.with_suffix("")
    found, was_there = cached_arrays(
        file,
        functools.partial(_near, stats.thumbs[rows], stats.colors[rows], sides, settings, parts_dir, workers),
        lambda known: _is_pairs(known, len(rows)),
    )
    if parts_dir is not None and not was_there:
        shutil.rmtree(parts_dir, ignore_errors=True)  # what an interrupted search goes on from
    return Copies(first, rows[found["near"]].reshape(-1, 2), found["likeness"])


def first_copies(stats: ImageStats) -> np.ndarray:
    """int64 (n,): the first row that has the bytes or the pixels of each row."""
    first = np.arange(len(stats))
    for digests in (stats.content, stats.pixels):
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
) -> Arrays:
    """Pairs (m, 2) of positions in ``thumbs``, and their similarity."""
    if len(thumbs) < 2:
        return {"near": np.zeros((0, 2), np.int64), "likeness": np.zeros(0, np.float32)}
    found = find_candidates(thumbs, side, settings.least_similarity, settings.partners, parts_dir)
    score = _score(thumbs, colors, found, parts_dir, workers)
    alike = score >= settings.threshold
    pairs = np.sort(np.stack([found.a, found.b], axis=1)[alike], axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return {"near": pairs[order], "likeness": score[alike][order]}


def _score(
    thumbs: np.ndarray, colors: np.ndarray, found: Candidates, parts_dir: Path | None, workers: int | None
) -> np.ndarray:
    """float32 (m,), the similarity of each candidate pair."""

    def score(chunk: np.ndarray) -> np.ndarray:
        pairs = zip(found.a[chunk], found.b[chunk], found.variant[chunk], strict=True)
        return np.array(
            [similarity_of(thumbs[a], thumbs[b], int(v), (colors[a], colors[b])) for a, b, v in pairs],
            np.float32,
        )

    def score_part(rows: np.ndarray, shown: Progress) -> Arrays:
        parts = []
        for part in map_ahead(score, _slices(rows, _CHUNK), workers=workers, ahead=16):
            parts.append(part)
            shown.update(len(part))
        return {"score": np.concatenate(parts)}

    def file_of(rows: np.ndarray) -> Path | None:
        return parts_dir and parts_dir / f"likeness-{rows[0]:09d}.npz"

    def fits(rows: np.ndarray, known: Arrays) -> bool:
        return len(known["score"]) == len(rows)

    if not len(found.a):
        return np.zeros(0, np.float32)
    doing = "comparing likely copies"
    return cached_rows(len(found.a), _PART_PAIRS, doing, file_of, score_part, fits, "pairs")["score"]


def _is_pairs(known: Arrays, n: int) -> bool:
    near = known["near"]
    return near.ndim == 2 and near.shape == (len(known["likeness"]), 2) and near.max(initial=-1) < n
