"""What a contender is: something that gives probabilities for test pictures, trained here or not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ferkit.core.labels import LabelSet
from ferkit.evaluation.comparison import Cell, Costs, Kind
from ferkit.evaluation.pictures import Pictures

if TYPE_CHECKING:
    from ferkit.evaluation.contenders.workbench import Workbench

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB crops (n, H, W, 3) to probabilities (n, k)."""


@dataclass(frozen=True)
class Task:
    """What every contender gets in one repeat.

    Attributes:
        pictures: all rows.
        train, test: int64 row numbers.
        seed: of everything random in this repeat.
        origin: ``given``, ``drawn`` or ``cross``, as in :class:`ferkit.evaluation.protocol.SplitRows`.
        earlier: what contenders before this one gave in this repeat, by name.
    """

    pictures: Pictures
    train: np.ndarray
    test: np.ndarray
    seed: int
    origin: str
    earlier: Mapping[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a contender gives back.

    Attributes:
        labels: its own classes.
        proba: float32 (test rows, its classes), rows sum to 1; a row of NaN where it could not read the picture.
        train_s: seconds of training; None if it was not trained here.
        predict: crops to probabilities as when it is used, for timing; None if there is nothing to time.
        size_wh: the size of crops that ``predict`` takes.
        size_mb: of all files that it needs to predict.
        costs: what it takes, where that is known without measuring.
        history: figures after each pass of training.
        seen: int64 row numbers of test pictures that it is known to have been trained on elsewhere.
        notes: what a reader must know.
    """

    labels: LabelSet
    proba: np.ndarray
    train_s: float | None = None
    predict: Predict | None = None
    size_wh: tuple[int, int] = (48, 48)
    size_mb: float | None = None
    costs: Costs | None = None
    history: tuple[Mapping[str, float], ...] = ()
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    notes: tuple[str, ...] = ()


class Contender(Protocol):
    """One way to read expressions."""

    @property
    def name(self) -> str:
        """What it is called in the results."""
        ...

    @property
    def kind(self) -> Kind:
        """What it is."""
        ...

    def settings(self, bench: "Workbench") -> Mapping[str, Any] | None:
        """Everything that changes a number, as JSON values; None for what is not worth keeping.

        Raises:
            FerkitError: it cannot take part: weights, packages or files are missing.
        """
        ...

    def run(self, task: Task, bench: "Workbench") -> Outcome:
        """Train, where it learns, on the training rows; give probabilities for the test rows.

        Raises:
            FerkitError: it cannot; the message becomes the reason in its row.
        """
        ...
