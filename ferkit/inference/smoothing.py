"""From probabilities that flicker to a label that stands: a filter for each face, then one decision.

The probabilities shown are always an exponential mean of the calibrated readings; the methods differ in how the
label is decided. So the percentage next to a label stays an honest one, however sure a filter over time is of itself.

All times are in seconds, so that the same settings do the same at 5 and at 60 frames a second.

A few seconds of a person's resting face show which expressions the model sees in it. From then on those, and
only those, are held against what the person looks like at rest.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet, meaning_of

CORRELATION_S = 0.15
"""Frames closer together than this show nearly the same image: they count as parts of one observation."""


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

    An expression lasts ``stay_s`` on average and is then followed by any other one. Calibrated probabilities stand
    for the likelihood; frames that follow each other at once are no independent observations, so each counts only
    by the time it adds.
    """

    def __init__(self, stay_s: float, n_classes: int) -> None:
        self._stay_s = stay_s
        self._jump = (1.0 - np.eye(n_classes) * (n_classes > 1)) / max(n_classes - 1, 1)
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


Method = Literal["ema", "majority", "repeat", "hmm", "none"]
METHODS: tuple[Method, ...] = ("ema", "majority", "repeat", "hmm", "none")

UNSURE = -1
"""The label of a face that cannot be read with enough certainty."""


_QUALITY_HALF_LIFE_S = 0.2
_CERTAINTY_HALF_LIFE_S = 0.5


@dataclass(frozen=True)
class SmoothingSettings:
    """How labels are steadied.

    Attributes:
        method: decides the label. ``hmm``: forward filter of a hidden Markov model in which an expression lasts
            ``stay_s`` on average; ``ema``: the mean of the probabilities; ``majority``: the most frequent label of
            the last ``window_s``; ``repeat``: a label that came ``repeats`` times in a row; ``none``: every frame
            for itself.
        half_life_s: readings that are so much older count half as much in the mean.
        window_s: seconds that ``majority`` looks back.
        repeats: frames in a row that ``repeat`` waits for.
        stay_s: seconds that an expression lasts on average, for ``hmm``.
        hysteresis: how much more probable than the label shown another one must be to take its place.
        min_dwell_s: how long a label is shown at least.
        min_confidence: a face is ``unsure`` while the top probability of its readings, on average over about a
            second, is lower.
        min_quality: the same for its quality, 0..1.

    Raises:
        DataError: a value out of range.
    """

    method: Method = "hmm"
    half_life_s: float = 0.2
    window_s: float = 0.6
    repeats: int = 2
    stay_s: float = 2.0
    hysteresis: float = 0.1
    min_dwell_s: float = 0.3
    min_confidence: float = 0.4
    min_quality: float = 0.2

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DataError(f"expected a smoothing method out of {', '.join(METHODS)}, found {self.method!r}")
        for name in ("half_life_s", "window_s", "stay_s", "repeats"):
            if getattr(self, name) <= 0:
                raise DataError(f"expected {name} above 0, found {getattr(self, name)}")
        for name in ("hysteresis", "min_confidence", "min_quality"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"expected {name} of 0 to 1, found {getattr(self, name)}")
        if self.min_dwell_s < 0:
            raise DataError(f"expected min_dwell_s of 0 or more, found {self.min_dwell_s}")


@dataclass(frozen=True)
class Smoothed:
    """What is shown for ``n`` faces.

    Attributes:
        proba: float32 (n, k), rows sum to 1.
        label: int64 (n,), positions in the label set, or :data:`UNSURE`.
    """

    proba: np.ndarray
    label: np.ndarray


class Filter(Protocol):
    """Steadies the probabilities of one face."""

    def step(self, proba: np.ndarray, gap_s: float) -> np.ndarray:
        """Smoothed (k,) after ``proba`` (k,), ``gap_s`` after the last one (0 for the first)."""
        ...

    def state(self) -> dict[str, Any]:
        """What it remembers, as plain values for JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        ...


@dataclass
class _Person:
    filter: Filter
    mean: EmaFilter
    last_s: float
    belief: np.ndarray
    proba: np.ndarray
    quality: float
    certainty: float
    shown: int = UNSURE
    shown_since_s: float = -1e9


class LabelSmoother:
    """Smooths and decides, for each track by itself.

    Args:
        settings: how.
        n_classes: k.
        forget_s: a track that was absent for longer begins again.
    """

    def __init__(self, settings: SmoothingSettings, n_classes: int, forget_s: float = 2.0) -> None:
        self.settings = settings
        self._n_classes = n_classes
        self._forget_s = forget_s
        self._people: dict[int, _Person] = {}

    def update(
        self, track_id: np.ndarray, proba: np.ndarray, timestamp_s: float, quality: np.ndarray | None = None
    ) -> Smoothed:
        """Take in what was read in one frame; tracks that are not in it are forgotten after a while.

        Args:
            track_id: int64 (n,).
            proba: (n, k), rows sum to 1.
            timestamp_s: of the frame, never running backwards.
            quality: (n,), 0..1; None for faces that are all well seen.
        """
        if quality is None:
            quality = np.ones(len(track_id), np.float32)
        self._people = {
            i: person for i, person in self._people.items() if timestamp_s - person.last_s <= self._forget_s
        }
        for i, p, q in zip(track_id.tolist(), proba, quality, strict=True):
            self._step(i, np.asarray(p, np.float64), float(q), timestamp_s)
        return self.shown(track_id)

    def shown(self, track_id: np.ndarray) -> Smoothed:
        """What stands for these tracks by now; a track never read is uniform and unsure."""
        people = [self._people.get(i) for i in track_id.tolist()]
        uniform = np.full(self._n_classes, 1 / self._n_classes)
        return Smoothed(
            np.array([uniform if p is None else p.proba for p in people], np.float32).reshape(
                -1, self._n_classes
            ),
            np.array([UNSURE if p is None else p.shown for p in people], np.int64),
        )

    def reset(self) -> None:
        """Forget everybody."""
        self._people.clear()

    def state(self) -> dict[str, Any]:
        """What it remembers, as plain values for JSON."""
        return {
            str(i): {
                "filter": p.filter.state(),
                "mean": p.mean.state(),
                "belief": p.belief.tolist(),
                "last_s": p.last_s,
                "proba": p.proba.tolist(),
                "quality": p.quality,
                "certainty": p.certainty,
                "shown": p.shown,
                "shown_since_s": p.shown_since_s,
            }
            for i, p in self._people.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._people.clear()
        for i, values in state.items():
            belief, proba = np.array(values["belief"]), np.array(values["proba"])
            person = self._new_person(values["last_s"], proba, values["quality"])
            person.filter.restore(values["filter"])
            person.mean.restore(values["mean"])
            person.belief, person.certainty = belief, values["certainty"]
            person.shown, person.shown_since_s = values["shown"], values["shown_since_s"]
            self._people[int(i)] = person

    def _step(self, track: int, proba: np.ndarray, quality: float, timestamp_s: float) -> None:
        person = self._people.get(track)
        if person is None:
            person = self._people[track] = self._new_person(timestamp_s, proba, quality)
        gap_s = max(0.0, timestamp_s - person.last_s)
        person.belief = person.filter.step(proba, gap_s)
        person.proba = person.mean.step(proba, gap_s)
        # A single blurred frame is no reason to fall silent.
        person.quality += (1 - 0.5 ** (gap_s / _QUALITY_HALF_LIFE_S)) * (quality - person.quality)
        weight = 1 - 0.5 ** (gap_s / _CERTAINTY_HALF_LIFE_S)
        person.certainty += weight * (float(proba.max()) - person.certainty)
        person.last_s = timestamp_s
        wanted = self._wanted(person)
        if wanted != person.shown and timestamp_s - person.shown_since_s >= self.settings.min_dwell_s - 1e-6:
            person.shown, person.shown_since_s = wanted, timestamp_s

    def _wanted(self, person: _Person) -> int:
        """The label that should be shown, with the one shown at an advantage."""
        s, shown, belief = self.settings, person.shown, person.belief
        label = int(belief.argmax())
        if shown != UNSURE and belief[label] - belief[shown] < s.hysteresis:
            label = shown
        slack = 1.0 if shown == UNSURE else 0.9
        too_poor = person.quality < slack * s.min_quality or person.certainty < slack * s.min_confidence
        return UNSURE if too_poor else label

    def _new_person(self, timestamp_s: float, proba: np.ndarray, quality: float) -> _Person:
        mean = EmaFilter(0.0 if self.settings.method == "none" else self.settings.half_life_s)
        return _Person(self._new_filter(), mean, timestamp_s, proba, proba, quality, float(proba.max()))

    def _new_filter(self) -> Filter:
        s = self.settings
        if s.method == "majority":
            return MajorityFilter(s.window_s)
        if s.method == "repeat":
            return RepeatFilter(s.repeats)
        if s.method == "hmm":
            return HmmFilter(s.stay_s, self._n_classes)
        return EmaFilter(s.half_life_s if s.method == "ema" else 0.0)
