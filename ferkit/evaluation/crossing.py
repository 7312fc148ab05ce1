"""Which rows of a test part have a copy, or their person, in the training part."""

from dataclasses import dataclass

import numpy as np

from ferkit.datasets.duplicates import Copies


@dataclass(frozen=True)
class Crossing:
    """Rows that leak in one way.

    Attributes:
        test: int64 (m,), test rows that leak.
        partner: int64 (m,), the training row that is most like each.
        score: (m,), how like, 0..1.
        train: int64, the training rows that leak.
    """

    test: np.ndarray
    partner: np.ndarray
    score: np.ndarray
    train: np.ndarray


def exact_crossing(test: np.ndarray, first: np.ndarray) -> Crossing:
    """Rows of which the other side has the same bytes or pixels."""
    train_of = _least_row(first, ~test)
    leaks = test & (train_of[first] >= 0)
    given_away = ~test & (_least_row(first, test)[first] >= 0)
    rows = np.flatnonzero(leaks)
    return Crossing(rows, train_of[first[rows]], np.ones(len(rows)), np.flatnonzero(given_away))


def near_crossing(test: np.ndarray, copies: Copies) -> Crossing:
    """Rows that are near-duplicates of the other side, and no exact copies of it."""
    n, first = len(test), copies.first
    train_of, test_of = _least_row(first, ~test), _least_row(first, test)
    best, partner, given_away = np.zeros(n), np.full(n, -1), np.zeros(n, bool)
    for (a, b), likeness in zip(copies.near, copies.likeness, strict=True):
        for here, there in ((a, b), (b, a)):
            if test_of[here] >= 0 and train_of[there] >= 0:
                given_away[there] = True
                if likeness > best[here]:
                    best[here], partner[here] = likeness, train_of[there]
    # What was found for the first of each set of exact copies holds for all of them.
    exact = train_of[first] >= 0
    rows = np.flatnonzero(test & (partner[first] >= 0) & ~exact)
    train = np.flatnonzero(~test & given_away[first] & (test_of[first] < 0))
    return Crossing(rows, partner[first[rows]], best[first[rows]], train)


def person_crossing(test: np.ndarray, person: list[str | None]) -> Crossing:
    """Rows whose person is on the other side too."""
    train_rows: dict[str, int] = {}
    for row in np.flatnonzero(~test)[::-1]:
        if person[row] is not None:
            train_rows[str(person[row])] = int(row)
    in_test = {person[row] for row in np.flatnonzero(test)}
    rows = np.array([r for r in np.flatnonzero(test) if person[r] in train_rows], np.int64)
    partner = np.array([train_rows[str(person[row])] for row in rows], np.int64)
    shared = in_test & train_rows.keys()
    train = np.array([row for row in np.flatnonzero(~test) if person[row] in shared], np.int64)
    return Crossing(rows, partner, np.ones(len(rows)), train)


def _least_row(first: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(n,): for each first row the lowest row among those that are its exact copies; -1 if there is none."""
    least = np.full(len(first), -1)
    rows = np.flatnonzero(among)[::-1]
    least[first[rows]] = rows
    return least
