"""Whether two pictures are the same one: lay them over each other, then compare their fine structure."""

import cv2
import numpy as np

from ferkit.datasets.candidates import variant_warp
from ferkit.datasets.survey import COLOR_SIDE, SIDE

_TILE = SIDE // 4
"""Side of a tile, pixels; sixteen of them make a thumbnail."""

_LEAST_OVERLAP = 0.5
_BLUR = 5
"""Side of the filter before alignment, pixels."""

_LEAST_CHROMA = 4.0
"""Root mean square of a* and b* up to which a picture is gray; from twice as much on its colours count in full."""

_FIRST_LOOK = 5
_ITERATIONS = 30
_PROMISING = 0.4
"""Likeness after the first few iterations, below which no picture ever became a copy."""


def likeness(
    a: np.ndarray, b: np.ndarray, variant: int, colors: tuple[np.ndarray, np.ndarray] | None = None
) -> float:
    """How far two thumbnails show the same picture, 0..1.

    ``a`` is laid over ``b`` by maximising the enhanced correlation coefficient over affine maps (Evangelidis &
    Psarakis, 2008), beginning with a variant that :func:`ferkit.datasets.candidates.find_candidates` found. Then
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
        except cv2.error:  # it ran away: the pictures have nothing to do with each other
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
    bands = []
    for picture in (laid, b):
        smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7)
        bands.append(
            (smooth - cv2.GaussianBlur(smooth, (0, 0), 1.9), smooth - cv2.GaussianBlur(smooth, (0, 0), 8))
        )
    (fine_a, medium_a), (fine_b, medium_b) = bands
    whole = _correlations(fine_a, fine_b, inside, SIDE)
    medium, fine = (_correlations(x, y, inside, _TILE) for x, y in ((medium_a, medium_b), (fine_a, fine_b)))
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
    """How far the colours agree, 0..1: the cosine of both maps of a* and b*, whatever their saturation.

    1 where either picture has hardly any colour: a gray copy is a copy. The same face drawn, or lit, in other colours
    is another picture.
    """
    scale = COLOR_SIDE / SIDE
    # Pixel i of the one size lies at (i + 0.5) / scale - 0.5 of the other.
    linear, shift = warp[:, :2], warp[:, 2:]
    half = np.full((2, 1), 0.5, np.float32)
    small = np.concatenate([linear, scale * (linear @ (half / scale - half) + shift + half) - half], axis=1)
    over = np.ascontiguousarray(a[:, ::-1] if mirrored else a).astype(np.float32)
    laid = cv2.warpAffine(
        over, small, (COLOR_SIDE, COLOR_SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(_ONES_OF_COLOR, small, (COLOR_SIDE, COLOR_SIDE), flags=how) > 0
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
