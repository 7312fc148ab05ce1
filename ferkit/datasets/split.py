"""Training and test parts: stratified by class, and never one person on both sides."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferkit.core.errors import DataError

_AT_ONCE = 0.75
"""Of the persons who are alike so many are dealt at once; the others make up for those who are like no one else."""


def assign_groups(strata: np.ndarray, persons: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
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
    part[~known] = assign_rows(strata[~known], wanted, rng)
    if known.any():
        person = persons[known]
        person = (np.cumsum(np.bincount(person) > 0) - 1)[person]  # without gaps
        part[known] = _deal_persons(strata[known], person, wanted, rng)[person]
    return part


def assign_rows(strata: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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


_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How rows are divided.

    Attributes:
        test_size: share of the rows that is held out, 0 to 1; with persons it is met as nearly as whole
            persons allow.
        seed: the same seed gives the same split.
        by_group: keep all rows of one person on one side, where persons are known.
    """

    test_size: float = 0.2
    seed: int = 0
    by_group: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.test_size < 1:
            raise DataError(f"expected a test share between 0 and 1, found {self.test_size}")


@dataclass(frozen=True)
class Split:
    """Row numbers of the two parts.

    Attributes:
        train: int64, ascending.
        test: int64, ascending; shares no row with ``train``.
        origin: ``given`` by the data set or ``drawn`` by the settings.
        settings: how it was drawn; None where it was given.
        shared_groups: persons that are on both sides, which only a given split or ``by_group=False`` can
            have.
    """

    train: np.ndarray
    test: np.ndarray
    origin: str
    settings: SplitSettings | None = None
    shared_groups: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """What to write down with a result, as plain JSON values."""
        return {
            "origin": self.origin,
            "settings": None if self.settings is None else dataclasses.asdict(self.settings),
            "train_rows": len(self.train),
            "test_rows": len(self.test),
            "shared_groups": len(self.shared_groups),
        }


def make_split(
    y: np.ndarray,
    groups: np.ndarray | None = None,
    split: np.ndarray | None = None,
    settings: SplitSettings | None = None,
) -> Split:
    """The data set's own train and test part where it has both, else one drawn by :func:`holdout`.

    Args:
        y: class names, (n,).
        groups: who is shown, (n,); None where unknown, or None for all.
        split: ``train``, ``val``, ``test`` or None for each row, or None for all. Without test rows ``val``
            is the test part; with test rows it is left to training, since heads choose by cross-validation.
        settings: how to draw; defaults to stratified 80/20.

    Raises:
        DataError: no split can be made of these rows.
    """
    settings = settings or SplitSettings()
    if split is not None:
        parts = np.array(list(map(str, split)), np.str_)
        test = parts == ("test" if "test" in parts else "val")
        train = np.isin(parts, ("train", "val")) & ~test
        if test.any() and train.any():
            rows = np.flatnonzero(train), np.flatnonzero(test)
            return Split(*rows, "given", shared_groups=_on_both_sides(groups, *rows))
    train_rows, test_rows = holdout(y, groups, settings)
    return Split(train_rows, test_rows, "drawn", settings, _on_both_sides(groups, train_rows, test_rows))


def holdout(
    y: np.ndarray, groups: np.ndarray | None = None, settings: SplitSettings | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw row numbers of a training and a test part, every class on both sides.

    Rows whose group is None each count as a person of their own.

    Returns:
        Two int64 arrays, ascending.

    Raises:
        DataError: fewer than two classes, a class with one image or of one person, or too few rows to hold
            out one of each class.
    """
    settings = settings or SplitSettings()
    classes, codes = _coded(y)
    check_classes(classes, codes, "a split")
    person = numbered([None] * len(codes) if groups is None or not settings.by_group else groups)
    if (person < 0).all():
        return _stratified_holdout(codes, settings)
    fewest = _check_persons(classes, codes, person)
    strata = numbered(classes)[codes]
    # Few persons may not allow the wanted share; then the nearest one that gives each side a person of each class.
    nearest = min(max(settings.test_size, 1 / fewest), 1 - 1 / fewest)
    best: tuple[float, np.ndarray] | None = None
    for share in (settings.test_size, nearest):
        for attempt in range(_ATTEMPTS):
            seed = settings.seed + 1000 * attempt
            test = assign_groups(strata, person, (1 - share, share), seed) == 1
            if _every_class_in(codes, test) and _every_class_in(codes, ~test):
                error = abs(test.mean() - settings.test_size)
                if best is None or error < best[0]:
                    best = error, test
                if error < 0.02:
                    break
        if best is not None:
            break
    else:
        raise DataError(
            f"no split of {n_persons(person)} persons puts every class on both sides; add persons of "
            f"the rare classes ({_rarest(classes, codes)}) or split without regard to persons"
        )
    return np.flatnonzero(~best[1]), np.flatnonzero(best[1])


def folds(
    y: np.ndarray, groups: np.ndarray | None = None, k: int = 5, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """``k`` pairs of training and test rows for cross-validation, stratified, persons kept whole.

    ``k`` is lowered to the number of images, or of persons, of the rarest class, so that each training part
    has every class.

    Raises:
        DataError: fewer than two classes, or a class with one image or of one person.
    """
    classes, codes = _coded(y)
    check_classes(classes, codes, "cross-validation")
    person = numbered([None] * len(codes) if groups is None else groups)
    fewest = _check_persons(classes, codes, person) if (person >= 0).any() else np.bincount(codes).min()
    k = min(k, int(fewest))
    strata = numbered(classes)[codes]
    for attempt in range(_ATTEMPTS):
        fold = assign_groups(strata, person, [1 / k] * k, seed + 1000 * attempt)
        if all(_every_class_in(codes, fold != i) and (fold == i).any() for i in range(k)):
            return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(k)]
    raise DataError(
        f"no {k} folds of whole persons leave every class in each training part; add persons of the rare "
        f"classes ({_rarest(classes, codes)}) or use fewer folds"
    )


def _stratified_holdout(codes: np.ndarray, settings: SplitSettings) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import StratifiedShuffleSplit

    n, n_classes = len(codes), int(codes.max()) + 1
    n_test = int(np.ceil(n * settings.test_size))
    if min(n_test, n - n_test) < n_classes:
        raise DataError(
            f"{n} images are too few to hold out {settings.test_size:.0%} with one of each of "
            f"{n_classes} classes; add images or change the test share"
        )
    splitter = StratifiedShuffleSplit(1, test_size=settings.test_size, random_state=settings.seed)
    train, test = next(splitter.split(np.zeros(n), codes))
    return np.sort(train), np.sort(test)


def _coded(y: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The classes, sorted, and the number of each row's class, int32 (n,): millions of names are slow to sort."""
    values = np.asarray(y)
    classes = sorted(set(values))
    number = {name: i for i, name in enumerate(classes)}
    return classes, np.fromiter((number[name] for name in values), np.int32, len(values))


def numbered(values: Iterable[Any]) -> np.ndarray:
    """A number for each value, int64 (n,): equal ones have equal numbers, in the order of their text; -1 for None."""
    listed = values if isinstance(values, (np.ndarray, list)) else list(values)
    number = {value: i for i, value in enumerate(sorted(set(listed) - {None}, key=str))}
    number[None] = -1
    return np.fromiter((number[value] for value in listed), np.int64, len(listed))


def check_classes(classes: Sequence[Any] | np.ndarray, codes: np.ndarray, purpose: str) -> None:
    """Refuse fewer than two classes, and a class with one image.

    Args:
        classes: names.
        codes: number of each row's class, int (n,).
        purpose: what needs them.

    Raises:
        DataError: so it is.
    """
    if len(classes) < 2:
        found = f"only {classes[0]!s}" if len(classes) else "none"
        raise DataError(
            f"expected at least two classes, found {found}; check the folder names or the label column"
        )
    rare = [f"{cls} ({n})" for cls, n in zip(classes, np.bincount(codes), strict=True) if n < 2]
    if rare:
        raise DataError(
            f"{purpose} needs at least 2 images of each class, found fewer of {', '.join(rare)}; "
            "add images or leave these classes out"
        )


def _check_persons(classes: Sequence[Any], codes: np.ndarray, person: np.ndarray) -> int:
    """The number of persons of the class that has fewest."""
    fewest = len(codes)
    for i, cls in enumerate(classes):
        persons = n_persons(person[codes == i])
        if persons < 2:
            raise DataError(
                f"all images of class {cls!s} are of one person, who cannot be on both sides of a split; "
                "add persons, leave the class out, or split without regard to persons"
            )
        fewest = min(fewest, persons)
    return fewest


def n_groups(groups: Iterable[Any]) -> int:
    """How many persons there are; each None is a person of its own."""
    return n_persons(numbered(groups))


def n_persons(person: np.ndarray) -> int:
    """How many there are in numbers of :func:`numbered`; each -1 is a person of its own."""
    return len(np.unique(person[person >= 0])) + int((person < 0).sum())


def _every_class_in(codes: np.ndarray, mask: np.ndarray) -> bool:
    return bool(np.bincount(codes[mask], minlength=int(codes.max()) + 1).all())


def _rarest(classes: Sequence[Any], codes: np.ndarray) -> str:
    return str(classes[int(np.bincount(codes).argmin())])


def _on_both_sides(groups: np.ndarray | None, train: np.ndarray, test: np.ndarray) -> tuple[str, ...]:
    if groups is None:
        return ()
    both = set(groups[train]) & set(groups[test]) - {None}
    return tuple(sorted(map(str, both)))
