"""From probabilities that flicker to a label that stands: a filter for each face, then one decision.

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


@dataclass(frozen=True)
class SmoothingSettings:
    """How labels are steadied.

    Attributes:
        method: ``ema``: mean of the probabilities, older ones count half after ``half_life_s``;
            ``majority``: the most frequent label of the last ``window_s``;
            ``repeat``: a label that came ``repeats`` times in a row;
            ``hmm``: forward filter of a hidden Markov model in which an expression lasts ``stay_s`` on
                average;
            ``none``: every frame for itself.
        half_life_s, window_s, repeats, stay_s: see there.
        hysteresis: how much more probable than the label shown another one must be to take its place.
        min_dwell_s: how long a label is shown at least.
        min_confidence: with a lower top probability a face is ``unsure``.
        min_quality: the same for its quality, 0..1.

    Raises:
        DataError: a value out of range.
    """

    method: Method = "ema"
    half_life_s: float = 0.2
    window_s: float = 0.6
    repeats: int = 2
    stay_s: float = 3.0
    hysteresis: float = 0.1
    min_dwell_s: float = 0.3
    min_confidence: float = 0.35
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
    last_s: float
    proba: np.ndarray
    quality: float
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
                "last_s": p.last_s,
                "proba": p.proba.tolist(),
                "quality": p.quality,
                "shown": p.shown,
                "shown_since_s": p.shown_since_s,
            }
            for i, p in self._people.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._people.clear()
        for i, values in state.items():
            person_filter = self._new_filter()
            person_filter.restore(values["filter"])
            proba = np.array(values["proba"])
            rest = (values[name] for name in ("quality", "shown", "shown_since_s"))
            self._people[int(i)] = _Person(person_filter, values["last_s"], proba, *rest)

    def _step(self, track: int, proba: np.ndarray, quality: float, timestamp_s: float) -> None:
        person = self._people.get(track)
        if person is None:
            person = self._people[track] = _Person(self._new_filter(), timestamp_s, proba, quality)
        gap_s = max(0.0, timestamp_s - person.last_s)
        person.proba = person.filter.step(proba, gap_s)
        # A single blurred frame is no reason to fall silent.
        person.quality += (1 - 0.5 ** (gap_s / 0.2)) * (quality - person.quality)
        person.last_s = timestamp_s
        wanted = self._wanted(person)
        if wanted != person.shown and timestamp_s - person.shown_since_s >= self.settings.min_dwell_s - 1e-6:
            person.shown, person.shown_since_s = wanted, timestamp_s

    def _wanted(self, person: _Person) -> int:
        """The label that should be shown, with the one shown at an advantage."""
        best = int(person.proba.argmax())
        slack = 0.5 * self.settings.hysteresis if person.shown != UNSURE else 0.0
        if (
            person.quality < self.settings.min_quality
            or person.proba[best] < self.settings.min_confidence - slack
        ):
            return UNSURE
        if (
            person.shown != UNSURE
            and person.proba[best] - person.proba[person.shown] < self.settings.hysteresis
        ):
            return person.shown
        return best

    def _new_filter(self) -> Filter:
        s = self.settings
        if s.method == "majority":
            return MajorityFilter(s.window_s)
        if s.method == "repeat":
            return RepeatFilter(s.repeats)
        if s.method == "hmm":
            return HmmFilter(s.stay_s, self._n_classes, self._transitions)
        return EmaFilter(s.half_life_s if s.method == "ema" else 0.0)
