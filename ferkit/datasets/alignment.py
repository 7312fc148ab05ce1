"""Whether two pictures are the same one: lay them over each other, then compare their fine structure."""

import cv2
import numpy as np

from ferkit.datasets.candidates import variant_warp
from ferkit.datasets.survey import SIDE

_TILES = 3
_LEAST_OVERLAP = 0.5
_BLUR = 5
"""Side of the filter before alignment, pixels."""

_FIRST_LOOK = 5
_ITERATIONS = 30
_PROMISING = 0.5
"""Likeness after the first few iterations, below which no picture ever became a copy."""


def likeness(a: np.ndarray, b: np.ndarray, variant: int) -> float:
    """How far two thumbnails show the same picture, 0..1.

    ``a`` is laid over ``b`` by maximising the enhanced correlation coefficient over affine maps (Evangelidis &
    Psarakis, 2008), beginning with a variant that :func:`ferkit.datasets.candidates.find_candidates` found. Then
    two correlations are averaged, in which light and contrast do not count: that of the fine structure (one to four
    pixels), which differs between two people, or two moments, whose coarse structure is the same; and the median over
    nine tiles of that of the medium structure, which forgives a written line, a hand or burnt-out light in some.

    Args:
        a, b: uint8 (SIDE, SIDE).
        variant: of ``a``.
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
            break
    return like


def _compare(over: np.ndarray, b: np.ndarray, warp: np.ndarray) -> float:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(over, warp, (SIDE, SIDE), flags=how, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(_ONES, warp, (SIDE, SIDE), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    if inside.mean() < _LEAST_OVERLAP:
        return 0.0
    bands = []
    for picture in (laid, b):
        smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7)
        bands.append(
            (smooth - cv2.GaussianBlur(smooth, (0, 0), 1.9), smooth - cv2.GaussianBlur(smooth, (0, 0), 8))
        )
    (fine_a, medium_a), (fine_b, medium_b) = bands
    fine = _correlation(fine_a[inside], fine_b[inside])
    step = SIDE // _TILES
    tiles = []
    for top in range(0, SIDE, step):
        for left in range(0, SIDE, step):
            part = np.s_[top : top + step, left : left + step]
            if inside[part].mean() > 0.5:
                tiles.append(_correlation(medium_a[part][inside[part]], medium_b[part][inside[part]]))
    return float(np.clip((fine + np.median(tiles)) / 2, 0, 1))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    power = float(x @ x) * float(y @ y)
    return float(x @ y) / power**0.5 if power > 1e-6 else 0.0


_ONES = np.full((SIDE, SIDE), 255, np.uint8)
