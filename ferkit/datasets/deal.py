"""Dealing rows out to parts of given shares: every class in proportion, every person whole."""

from collections.abc import Sequence

import numpy as np

_AT_ONCE = 0.75
"""Of the persons who are alike so many are dealt at once; the others make up for those who are like no one else."""


def deal(strata: np.ndarray, persons: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Part number of each row, so that every part gets its share of every stratum as nearly as persons allow.

    Persons who contribute the same counts are interchangeable, and most of them are dealt in proportion at once. The
    others are dealt one by one, the largest first, each to the part whose squared deviation from its shares grows
    least. That takes a second for a million rows.

    Args:
        strata: what is to be kept in proportion, int (n,), 0..k-1: class numbers, or those of class and source.
        persons: int (n,), -1 where unknown: such rows are free.
        shares: of the parts, positive; they are taken relative to their sum.
        seed: the same seed deals the same.

    Returns:
        int64 (n,), 0..len(shares)-1.
    """
    rng = np.random.default_rng(seed)
    wanted = np.asarray(shares, float) / np.sum(shares)
    part = np.empty(len(strata), np.int64)
    known = persons >= 0
    part[~known] = deal_rows(strata[~known], wanted, rng)
    if known.any():
        _, person = np.unique(persons[known], return_inverse=True)
        part[known] = _deal_persons(strata[known], person, wanted, rng)[person]
    return part


def deal_rows(strata: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Part number of each row where every row is free: within each stratum each part gets its share, but for one."""
    part = np.empty(len(strata), np.int64)
    owed = np.zeros(len(shares))
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        # What one stratum rounds off is owed in the next, so that no part collects all the remainders.
        owed += len(rows) * shares
        counts = _whole(owed, len(rows))
        owed -= counts
        part[rows] = np.repeat(np.arange(len(shares)), counts)
    return part


def _whole(amounts: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near ``amounts`` that sum to ``total``, by the largest remainder."""
    counts = np.floor(np.clip(amounts, 0, None)).astype(np.int64)
    order = np.argsort(counts - amounts, kind="stable")
    while (missing := total - counts.sum()) > 0:
        counts[order[:missing]] += 1
    while counts.sum() > total:
        counts[counts.argmax()] -= 1
    return counts


def _deal_persons(
    strata: np.ndarray, person: np.ndarray, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Part number of each person; ``person`` (n,) counts from 0."""
    n_persons, n_strata = int(person.max()) + 1, int(strata.max()) + 1
    counts = np.bincount(person * n_strata + strata, minlength=n_persons * n_strata)
    counts = counts.reshape(n_persons, n_strata)
    part = np.full(n_persons, -1, np.int64)
    _deal_alike(counts, part, shares, rng)

    rest = rng.permutation(np.flatnonzero(part < 0))
    rest = rest[np.argsort(-counts[rest].sum(axis=1), kind="stable")]
    totals = counts.sum(axis=0).astype(float)
    totals[totals == 0] = 1.0
    filled = np.array([counts[part == i].sum(axis=0) for i in range(len(shares))], float)
    missing = (shares[:, None] * totals - filled).tolist()
    weight = (1.0 / totals**2).tolist()
    for i, row in zip(rest.tolist(), counts[rest].tolist(), strict=True):
        shown = [(k, c, c * weight[k]) for k, c in enumerate(row) if c]
        growth = [
            sum(w * (c - 2 * gap[k]) for k, c, w in shown) / share
            for gap, share in zip(missing, shares.tolist(), strict=True)
        ]
        best = growth.index(min(growth))
        part[i] = best
        for k, c, _ in shown:
            missing[best][k] -= c
    return part


def _deal_alike(counts: np.ndarray, part: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> None:
    """Deal most of the persons whose rows of ``counts`` are equal in proportion, into ``part``."""
    shuffled = rng.permutation(len(counts))
    _, kind, n_alike = np.unique(counts[shuffled], axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(kind.reshape(-1), kind="stable")
    first = np.repeat(np.cumsum(n_alike) - n_alike, n_alike)
    place = np.arange(len(counts)) - first
    ends = np.cumsum(np.floor(_AT_ONCE * n_alike[:, None] * shares).astype(np.int64), axis=1)
    ends = np.repeat(ends, n_alike, axis=0)
    dealt = (place[:, None] >= ends).sum(axis=1)
    part[shuffled[order]] = np.where(dealt < len(shares), dealt, -1)
