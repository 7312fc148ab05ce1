"""Removing the bias of a face: some look sad at rest, to a camera as to people.

A few seconds of a person's resting face show which expressions the model sees in it. From then on those, and
only those, are held against what the person looks like at rest.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet, meaning_of

MARGIN = 1.5
"""Log-odds by which neutral should lead any other expression in a resting face: about 4.5 to 1."""

LARGEST_SHIFT = 6.0
"""However sad a face looks at rest, it must be able to look sadder."""

MIN_READINGS = 5


class NeutralCalibration:
    """Learns from resting faces, then corrects probabilities.

    Where one person was seen at rest, the correction holds for everybody seen later, since the same person
    may come back under another number; where several were, each one's own.

    Args:
        labels: the classes, neutral among them.
        seconds: how long to look, from the first face on.

    Raises:
        DataError: there is no neutral class.
    """

    def __init__(self, labels: LabelSet, seconds: float) -> None:
        meanings = [meaning_of(name) for name in labels.names]
        if "neutral" not in meanings:
            raise DataError(
                f"calibrating on a neutral face needs a model with the class neutral, this one has "
                f"{', '.join(labels.names)}"
            )
        self._neutral = meanings.index("neutral")
        self._n_classes = len(labels)
        self._seconds = seconds
        self._began_s: float | None = None
        self._done = False
        self._sums: dict[int, np.ndarray] = {}
        self._counts: dict[int, int] = {}

    def seconds_left(self, timestamp_s: float) -> float:
        """How long it still looks; 0 when it is done."""
        if self._done:
            return 0.0
        if self._began_s is None:
            return self._seconds
        return max(0.0, self._seconds - (timestamp_s - self._began_s))

    def apply(self, track_id: np.ndarray, proba: np.ndarray, timestamp_s: float) -> np.ndarray:
        """Learn from ``proba`` (n, k) while it still looks; corrected (n, k) afterwards, rows sum to 1."""
        if not self._done:
            if self._began_s is None and len(track_id):
                self._began_s = timestamp_s
            if self.seconds_left(timestamp_s) > 0:
                for i, p in zip(track_id.tolist(), proba, strict=True):
                    self._sums[i] = self._sums.get(i, 0) + _log(p)
                    self._counts[i] = self._counts.get(i, 0) + 1
                return proba
            self._finish()
        shifts = np.array([self.shift(i) for i in track_id.tolist()]).reshape(proba.shape)
        corrected = np.exp(_log(proba) + shifts)
        return (corrected / np.maximum(corrected.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def shift(self, track: int) -> np.ndarray:
        """What is added to the logarithms (k,): 0 for all that the resting face does not show."""
        learnt = [i for i, n in self._counts.items() if n >= MIN_READINGS]
        own = track if track in learnt else learnt[0] if len(learnt) == 1 else None
        if own is None:
            return np.zeros(self._n_classes)
        at_rest = self._sums[own] / self._counts[own]
        shift = -np.clip(at_rest - at_rest[self._neutral] + MARGIN, 0.0, LARGEST_SHIFT)
        shift[self._neutral] = 0.0
        return shift

    def state(self) -> dict[str, Any]:
        """What it learnt, as plain values for JSON."""
        return {
            "began_s": self._began_s,
            "done": self._done,
            "sums": {str(i): v.tolist() for i, v in self._sums.items()},
            "counts": {str(i): n for i, n in self._counts.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._began_s, self._done = state["began_s"], state["done"]
        self._sums = {int(i): np.array(v) for i, v in state["sums"].items()}
        self._counts = {int(i): n for i, n in state["counts"].items()}

    def _finish(self) -> None:
        self._done = True
        busiest = max(self._counts.values(), default=0)
        # Passers-by and faces that were found by mistake are nobody's resting face.
        self._counts = {i: n for i, n in self._counts.items() if n * 4 >= busiest}


def _log(proba: np.ndarray) -> np.ndarray:
    return np.log(np.clip(proba, 1e-6, 1))
