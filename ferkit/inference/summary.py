"""What a film's table says in all: per person, how long each expression was shown."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ferkit.core.labels import LabelSet
from ferkit.inference.film import UNSURE_NAME, FaceRow

FULL_SCORE = 100
"""Points that everybody starts with; every negative reading takes one away."""


@dataclass
class PersonSummary:
    """One person of a film.

    Attributes:
        face: number in the table.
        first_s, last_s: when first and last seen.
        n: readings.
        labels: how many of them showed each label, ``unsure`` among them.
        changes: how often the label changed.
        n_negative: readings with a negative expression.
    """

    face: int
    first_s: float
    last_s: float
    n: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    n_negative: int = 0
    _last: str | None = None

    @property
    def score(self) -> int:
        """100 points, minus one for each negative reading, not below 0: so it falls with the number of readings,
        and says something only between films that were looked at equally often and long."""
        return max(0, FULL_SCORE - self.n_negative)

    @property
    def changes_per_minute(self) -> float:
        """Changes of the label in a minute that the person was seen."""
        return 60 * self.changes / max(self.last_s - self.first_s, 1.0)


@dataclass(frozen=True)
class FilmSummary:
    """All persons of a film, who was seen longest first."""

    people: list[PersonSummary]
    n_readings: int

    @property
    def labels(self) -> Counter[str]:
        """Readings of each label, of all people."""
        return sum((person.labels for person in self.people), Counter())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "n_readings": self.n_readings,
            "labels": dict(self.labels),
            "people": [
                {
                    "face": p.face,
                    "first_s": round(p.first_s, 3),
                    "last_s": round(p.last_s, 3),
                    "n_readings": p.n,
                    "labels": dict(p.labels),
                    "changes_per_minute": round(p.changes_per_minute, 2),
                    "n_negative": p.n_negative,
                    "score": p.score,
                }
                for p in self.people
            ],
        }


def summarise(rows: Iterable[FaceRow], labels: LabelSet) -> FilmSummary:
    """Go through all rows once; memory grows with the number of people only."""
    negative = negative_labels(labels)
    people: dict[int, PersonSummary] = {}
    n = 0
    for row in rows:
        n += 1
        person = people.setdefault(row.face, PersonSummary(row.face, row.time_s, row.time_s))
        person.last_s = row.time_s
        person.n += 1
        person.labels[row.label] += 1
        person.n_negative += row.label in negative
        if person._last is not None and row.label != person._last:
            person.changes += 1
        person._last = row.label
    return FilmSummary(sorted(people.values(), key=lambda p: (-p.n, p.face)), n)


def negative_labels(labels: LabelSet) -> frozenset[str]:
    """The classes that count as negative."""
    valence = LabelSet.named("valence3")
    index = labels.map_to(valence).index
    return frozenset(
        name for name, i in zip(labels.names, index, strict=True) if i >= 0 and valence.names[i] == "negative"
    ) - {UNSURE_NAME}
