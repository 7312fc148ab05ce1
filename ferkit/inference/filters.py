"""The filters behind :class:`ferkit.inference.smoothing.LabelSmoother`, each for one face."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ferkit.core.errors import DataError

CORRELATION_S = 0.15
"""Frames closer together than this show nearly the same picture: they count as parts of one observation."""


class EmaFilter:
    """Exponential mean: what is ``half_life_s`` older counts half as much; 0 keeps nothing."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._mean: np.ndarray | None = None

    def step(self, proba: np.ndarray, gap_s: float) -> np.ndarray:
        if self._mean is None or self._half_life_s == 0:
            self._mean = proba
        else:
            self._mean = self._mean + (1 - 0.5 ** (gap_s / self._half_life_s)) * (proba - self._mean)
        return self._mean

    def state(self) -> dict[str, Any]:
        return {"mean": None if self._mean is None else self._mean.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._mean = None if state["mean"] is None else np.array(state["mean"])


class MajorityFilter:
    """Share of each label among the frames of the last ``window_s``."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._now_s = 0.0
        self._votes: deque[tuple[float, int]] = deque()

    def step(self, proba: np.ndarray, gap_s: float) -> np.ndarray:
        self._now_s += gap_s
        self._votes.append((self._now_s, int(proba.argmax())))
        while self._now_s - self._votes[0][0] > self._window_s:
            self._votes.popleft()
        counts = np.bincount([label for _, label in self._votes], minlength=len(proba))
        return counts / counts.sum()

    def state(self) -> dict[str, Any]:
        return {"now_s": self._now_s, "votes": list(self._votes)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._now_s = state["now_s"]
        self._votes = deque((float(t), int(label)) for t, label in state["votes"])


class RepeatFilter:
    """Takes over new probabilities once one label came ``repeats`` times in a row."""

    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self._label, self._count = -1, 0
        self._held: np.ndarray | None = None

    def step(self, proba: np.ndarray, gap_s: float) -> np.ndarray:
        label = int(proba.argmax())
        self._count = self._count + 1 if label == self._label else 1
        self._label = label
        if self._count >= self._repeats:
            self._held = proba
        return np.full(len(proba), 1 / len(proba)) if self._held is None else self._held

    def state(self) -> dict[str, Any]:
        held = None if self._held is None else self._held.tolist()
        return {"label": self._label, "count": self._count, "held": held}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._label, self._count = state["label"], state["count"]
        self._held = None if state["held"] is None else np.array(state["held"])


class HmmFilter:
    """Forward filter of a hidden Markov model in continuous time (Rabiner 1989).

    An expression lasts ``stay_s`` on average and is then followed by another one as ``transitions`` (k, k)
    says. Calibrated probabilities stand for the likelihood; frames that follow each other at once are no
    independent observations, so each counts only by the time it adds.
    """

    def __init__(self, stay_s: float, n_classes: int, transitions: np.ndarray | None = None) -> None:
        self._stay_s = stay_s
        self._jump = checked_transitions(transitions, n_classes)
        self._belief: np.ndarray | None = None

    def step(self, proba: np.ndarray, gap_s: float) -> np.ndarray:
        likelihood = np.clip(proba, 1e-4, None)
        if self._belief is None:
            self._belief = likelihood / likelihood.sum()
            return self._belief
        stay = np.exp(-gap_s / self._stay_s)
        expected = stay * self._belief + (1 - stay) * (self._belief @ self._jump)
        belief = expected * likelihood ** min(1.0, gap_s / CORRELATION_S)
        self._belief = belief / belief.sum()
        return self._belief

    def state(self) -> dict[str, Any]:
        return {"belief": None if self._belief is None else self._belief.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._belief = None if state["belief"] is None else np.array(state["belief"])


def learn_transitions(sequences: Iterable[Sequence[int]], n_classes: int) -> np.ndarray:
    """What follows each class when it ends, (k, k) with rows that sum to 1, counted in sequences of labels.

    One observation of every change is added to what was seen, so that nothing is impossible.
    """
    counts = 1.0 - np.eye(n_classes)
    for sequence in sequences:
        for a, b in pairwise(sequence):
            if a != b:
                counts[a, b] += 1
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def checked_transitions(transitions: np.ndarray | None, n_classes: int) -> np.ndarray:
    """Transitions with rows that sum to 1; without any given, every other class alike.

    Raises:
        DataError: another shape, or negative values.
    """
    if transitions is None:
        transitions = 1.0 - np.eye(n_classes) if n_classes > 1 else np.ones((1, 1))
    transitions = np.asarray(transitions, np.float64)
    right = transitions.shape == (n_classes, n_classes) and (transitions >= 0).all()
    if not right or (transitions.sum(axis=1) <= 0).any():
        raise DataError(
            f"expected transitions of shape ({n_classes}, {n_classes}), 0 or more, no row of zeros; "
            f"found {transitions.shape}"
        )
    return transitions / transitions.sum(axis=1, keepdims=True)
