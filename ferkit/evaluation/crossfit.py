"""Parts to fit a correction of probabilities on, and others to judge it on, whole persons on one side."""

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.split import folds
from ferkit.evaluation.metrics import unit_of_row

N_PARTS = 5


def check_probabilities(truth: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``truth`` as int64 (n,) and ``proba`` as float64 (n, k) whose rows sum to 1.

    Raises:
        DataError: other shapes, no rows, a class that has no column, or values that are no probabilities.
    """
    truth, proba = np.asarray(truth), np.asarray(proba, np.float64)
    if proba.ndim != 2 or truth.shape != proba.shape[:1] or not len(truth):
        raise DataError(
            f"expected classes (n,) and probabilities (n, k), found {truth.shape} and {proba.shape}"
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= proba.shape[1]:
        raise DataError(f"expected classes as columns 0 to {proba.shape[1] - 1}, found {truth.dtype} {truth}")
    total = proba.sum(axis=1, keepdims=True)
    if not np.isfinite(total).all() or (proba < 0).any() or (total <= 0).any():
        raise DataError("expected probabilities, found negative or missing ones; check the classifier")
    return truth.astype(np.int64), proba / total


def units_of(groups: np.ndarray | None, n: int) -> np.ndarray:
    """A number for each person, int (n,), a row without person being one of its own: what intervals are over."""
    units = None if groups is None else unit_of_row(np.asarray(groups, object))
    return np.arange(n) if units is None else units


def fitting_parts(
    truth: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Up to five pairs of rows to fit on and rows to judge on; the latter together are all rows, each once.

    Stratified as far as that goes: a class of fewer persons than parts is dealt with the most frequent one, since
    a correction of probabilities, unlike a classifier, need not see every class.

    Args:
        truth: int (n,), column of the true class.
        groups: who is shown, (n,), None where unknown.
        seed: of the draw.

    Raises:
        DataError: a single class, or too few rows or persons for two parts.
    """
    classes = np.unique(truth)
    persons = {int(c): _persons(truth == c, groups) for c in classes}
    largest = max(persons, key=lambda c: persons[c])
    strata = truth.copy()
    for c in classes:
        if persons[int(c)] < N_PARTS:
            strata[truth == c] = largest
    if len(np.unique(strata)) < 2:
        raise DataError(
            f"expected two classes with {N_PARTS} images (of {N_PARTS} persons, where persons are known) each, "
            f"found {sum(n >= N_PARTS for n in persons.values())}; add labelled images"
        )
    return folds(strata.astype(str), groups, N_PARTS, seed)


def _persons(rows: np.ndarray, groups: np.ndarray | None) -> int:
    if groups is None:
        return int(rows.sum())
    mine = groups[rows]
    known = [group for group in mine if group is not None]
    return len(set(known)) + len(mine) - len(known)
