"""Who is shown, guessed from identity embeddings where no name tells."""

from collections.abc import Iterator

import numpy as np

from ferkit.core.arrays import check_features
from ferkit.core.errors import DataError

_BLOCK_VALUES = 2**24
"""Similarities that are held at once: 64 MB."""


def cluster_identities(
    X: np.ndarray, least_similarity: float = 0.6, neighbours: int = 10
) -> list[str | None]:
    """Group pictures that a face-recognition network takes for the same person.

    Two pictures are joined if each is among the nearest ``neighbours`` of the other and the cosine of their
    embeddings is at least ``least_similarity``; whoever is joined by a chain is one person. Asking for both directions
    keeps one ordinary face from joining everybody (hubs: Radovanović, Nanopoulos & Ivanović, 2010).

    Args:
        X: float (n, d), last-layer embeddings of a recognition network such as ArcFace, of aligned faces. Embeddings
            made for expressions tell expressions, not persons.
        least_similarity: cosine, -1..1. It depends on the network and the pictures: look at some groups.
        neighbours: the most that one picture is joined to.

    Returns:
        n names, the same for the same person; None for pictures that are like no other.

    Raises:
        DataError: no such embeddings, or a similarity out of range.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    check_features(X)
    if not -1 <= least_similarity <= 1:
        raise DataError(f"expected a cosine in -1..1 as least similarity, found {least_similarity}")
    unit = np.asarray(X, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *_nearest(unit, least_similarity, neighbours)])
    n = len(unit)
    there, back = pairs @ np.array([n, 1]), pairs @ np.array([1, n])
    mutual = pairs[np.isin(there, back)]
    graph = coo_array((np.ones(len(mutual), bool), (mutual[:, 0], mutual[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first, size = np.unique(component, return_index=True, return_counts=True)
    return [f"like-{first[c]}" if size[c] > 1 else None for c in component]


def _nearest(unit: np.ndarray, least: float, neighbours: int) -> Iterator[np.ndarray]:
    """Pairs (m, 2) of each row with its nearest ones, block by block."""
    k = min(neighbours, len(unit) - 1)
    rows = max(1, _BLOCK_VALUES // len(unit))
    for start in range(0, len(unit) if k > 0 else 0, rows):
        block = unit[start : start + rows]
        similarity = block @ unit.T
        own = np.arange(len(block))
        similarity[own, start + own] = -2
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        a, at = np.nonzero(np.take_along_axis(similarity, nearest, axis=1) >= least)
        yield np.stack([a + start, nearest[a, at]], axis=1)
