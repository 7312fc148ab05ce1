"""From probabilities that flicker to a label that stands: a filter for each face, then one decision.

The probabilities shown are always an exponential mean of the calibrated readings; the methods differ in how the
label is decided. So the percentage beside a label stays an honest one, however sure a filter over time is of itself.

All times are in seconds, so that the same settings do the same at 5 and at 60 frames a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from ferkit.core.errors import DataError
from ferkit.inference.filters import EmaFilter, HmmFilter, MajorityFilter, RepeatFilter

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
        window_s, repeats, stay_s: see there.
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
        for name in ("hysteresis", "min_dwell_s", "min_confidence", "min_quality"):
            if getattr(self, name) < 0:
                raise DataError(f"expected {name} of 0 or more, found {getattr(self, name)}")


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
        transitions: for ``hmm``: (k, k), row i says what follows class i when it ends; None: anything alike.
        forget_s: a track that was absent for longer begins anew.
    """

    def __init__(
        self,
        settings: SmoothingSettings,
        n_classes: int,
        transitions: np.ndarray | None = None,
        forget_s: float = 2.0,
    ) -> None:
        self.settings = settings
        self._n_classes = n_classes
        self._transitions = transitions
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
            return HmmFilter(s.stay_s, self._n_classes, self._transitions)
        return EmaFilter(s.half_life_s if s.method == "ema" else 0.0)
