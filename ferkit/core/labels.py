"""Label sets: the classes of a data set or model, what they are called, and how they map to others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.label_tables import LabelTables


@dataclass(frozen=True)
class LabelSet:
    """Ordered class names.

    Attributes:
        names: the classes, in the order of a classifier's columns; spelled as in the data.
        name: what the set is called (``fer2013``, ``aihub5``, …), or ``custom``.
    """

    names: tuple[str, ...]
    name: str = "custom"

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise DataError(f"expected distinct class names, found {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    @staticmethod
    def named(name: str, tables: LabelTables | None = None) -> "LabelSet":
        """A known label set.

        Args:
            name: ``fer2013``, ``aihub5``, …
            tables: where it is looked up; those that come along by default.

        Raises:
            DataError: no set has that name.
        """
        sets = (tables or LabelTables.built_in()).sets
        if name not in sets:
            raise DataError(f"no label set is called {name!r}; known: {', '.join(sets)}")
        return LabelSet(sets[name], name)

    @staticmethod
    def of(names: Iterable[str]) -> "LabelSet":
        """The label set with exactly these classes in this order, called by its name where it is a known one."""
        names = tuple(names)
        meanings = {meaning_of(name) for name in names}
        for name, words in LabelTables.built_in().sets.items():
            if len(words) == len(names) and set(words) == meanings:
                return LabelSet(names, name)
        return LabelSet(names)

    def display(self, language: str = "en", tables: LabelTables | None = None) -> tuple[str, ...]:
        """The classes as a reader of ``language`` (``en`` or ``ko``) calls them."""
        tables = tables or LabelTables.built_in()
        return tuple(tables.display.get(tables.meaning_of(n), {}).get(language, n) for n in self.names)

    def map_to(self, target: "LabelSet", tables: LabelTables | None = None) -> "LabelMap":
        """How these classes fall into those of ``target``, by the maps that come along or by ``tables``."""
        tables = tables or LabelTables.built_in()
        by_meaning = {tables.meaning_of(name): i for i, name in enumerate(target.names)}
        for word, cls in tables.maps.get(target.name, {}).items():
            by_meaning.setdefault(word, by_meaning[cls])
        index = (by_meaning.get(tables.meaning_of(name), -1) for name in self.names)
        return LabelMap(self, target, tuple(index))


@dataclass(frozen=True)
class LabelMap:
    """Which class of ``target`` each class of ``source`` falls into; -1 for none."""

    source: LabelSet
    target: LabelSet
    index: tuple[int, ...]

    @property
    def unmapped(self) -> tuple[str, ...]:
        """Classes of the source that the target has no place for."""
        return tuple(name for name, i in zip(self.source.names, self.index, strict=True) if i < 0)

    @property
    def unreached(self) -> tuple[str, ...]:
        """Classes of the target that no class of the source falls into."""
        return tuple(name for i, name in enumerate(self.target.names) if i not in self.index)

    def labels(self, labels: Sequence[str]) -> list[str | None]:
        """The target's class of each label; None where it has none.

        Raises:
            DataError: a label is not of the source.
        """
        table = {
            n: self.target.names[i] if i >= 0 else None
            for n, i in zip(self.source.names, self.index, strict=True)
        }
        unknown = sorted(set(labels) - table.keys())
        if unknown:
            raise DataError(f"expected labels of {list(self.source.names)}, found {unknown}")
        return [table[label] for label in labels]

    def proba(self, proba: np.ndarray) -> np.ndarray:
        """Probabilities (n, k_source) summed into (n, k_target); unmapped mass is shared out in proportion."""
        merged = np.zeros((len(proba), len(self.target)), proba.dtype)
        for column, i in enumerate(self.index):
            if i >= 0:
                merged[:, i] += proba[:, column]
        total = merged.sum(axis=1, keepdims=True)
        return np.divide(merged, total, out=np.full_like(merged, 1 / len(self.target)), where=total > 0)


def known_label_sets() -> tuple[str, ...]:
    """Names that :meth:`LabelSet.named` knows."""
    return tuple(LabelTables.built_in().sets)


def meaning_of(label: str) -> str:
    """The common word for a spelling: ``happiness``, ``기쁨`` and ``Happy`` are all ``happy``; others stay."""
    return LabelTables.built_in().meaning_of(label)


def same_meaning(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of classes that mean the same, side by side: ``{"happy": ("happy", "기쁨")}``."""
    by_meaning: dict[str, list[str]] = {}
    for name in names:
        by_meaning.setdefault(meaning_of(name), []).append(name)
    return {meaning: tuple(same) for meaning, same in by_meaning.items() if len(same) > 1}
