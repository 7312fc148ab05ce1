"""The protocol of a comparison: which data, which rows, how often."""

from dataclasses import dataclass, field

import numpy as np

from ferkit.core.errors import DataError


@dataclass(frozen=True)
class ProtocolSettings:
    """How all contenders are treated.

    Attributes:
        repeats: how often the data are divided, or, where they come divided, how often training begins anew.
        test_size: share held out, 0..1, where the data do not come divided.
        seed: of the first repeat; the next ones take the numbers after it.
        by_group: keep each person on one side, where persons are known.
        allow_leaks: go on where test pictures, or persons, lie in the training part too.
        by: columns of the data whose values are compared (``sex``, ``age``, ``source`` …).

    Raises:
        DataError: a value out of range.
    """

    repeats: int = 1
    test_size: float = 0.2
    seed: int = 0
    by_group: bool = True
    allow_leaks: bool = False
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise DataError(f"expected at least one repeat, found {self.repeats}")
        if not 0 < self.test_size < 1:
            raise DataError(f"expected a test share between 0 and 1, found {self.test_size}")


@dataclass(frozen=True)
class DataUsed:
    """A data set that took part.

    Attributes:
        name: of the data set.
        root: folder or file it was read from; ``ferkit.datasets.load.load_dataset`` opens it again.
        part: ``train``, ``test`` or ``both``: what it was used for.
        n: its pictures that took part.
        digest: SHA-256 of their paths, labels and persons.
    """

    name: str
    root: str
    part: str
    n: int
    digest: str


@dataclass(frozen=True)
class SplitRows:
    """Row numbers of one repeat, into the arrays of the comparison.

    Attributes:
        seed: of this repeat, also of what is trained in it.
        origin: ``given`` by the data, ``drawn``, or ``cross`` (one data set against another).
        train, test: int64, ascending, disjoint.
        leaking: int64, ascending: the rows of ``test`` whose picture, or person, is in ``train`` too.
    """

    seed: int
    origin: str
    train: np.ndarray
    test: np.ndarray
    leaking: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
