"""Label sets: the classes of a data set or model, what they are called, and how they map to others."""

import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError, checked, fits
from ferkit.core.files import parse_toml, read_toml
from ferkit.core.texts import LANGUAGES, has_hangul


@dataclass(frozen=True)
class LabelTables:
    """What ``label_sets.toml`` says, and what a user's file of the same form adds.

    Attributes:
        sets: classes by the name of the set, as its file writes them.
        maps: by the name of the set, the word of the class that other words fall into.
        display: by word and language, what a reader calls it; by ``set.word`` where a set gives it another meaning.
        spellings: the word that a spelling in lower case stands for.
    """

    sets: Mapping[str, tuple[str, ...]]
    maps: Mapping[str, Mapping[str, str]]
    display: Mapping[str, Mapping[str, str]]
    spellings: Mapping[str, str]

    @staticmethod
    @functools.cache
    def built_in() -> "LabelTables":
        """The tables that come along."""
        text = resources.files("ferkit.core").joinpath("label_sets.toml").read_text(encoding="utf-8")
        return LabelTables({}, {}, {}, {}).extended(parse_toml(text), Path("label_sets.toml"))

    @staticmethod
    def read(path: Path) -> "LabelTables":
        """The tables that come along, and on top of them those of a user's TOML file.

        Raises:
            DataError: no such file, no TOML, or tables of another form.
        """
        return LabelTables.built_in().extended(read_toml(path), path)

    def meaning_of(self, label: str) -> str:
        """The word for a spelling: ``happiness``, ``기쁨`` and ``Happy`` are all ``happy``; others stay."""
        folded = unicodedata.normalize("NFC", label).strip().casefold()
        return self.spellings.get(folded, folded)

    def extended(self, values: Mapping[str, Any], source: Path) -> "LabelTables":
        """These tables with those of a file on top: what it says counts, where both speak of a word.

        Raises:
            DataError: tables of another form.
        """
        unknown = sorted(values.keys() - {"words", "sets", "maps"})
        if unknown:
            raise DataError(
                f"expected the tables words, sets and maps in {source}, found {', '.join(unknown)}"
            )
        display = {word: dict(names) for word, names in self.display.items()}
        spellings = dict(self.spellings)
        for key, entry in _table(values, "words", source).items():
            names, also = _word(key, entry, source)
            word = self.meaning_of(key)  # 'happiness' speaks of the word 'happy'
            display[word] = {**display.get(word, {}), **names}
            of_set, dot, rest = word.partition(".")
            known = dot and of_set in {*self.sets, *_table(values, "sets", source)}
            meaning = rest if known else word
            for spelling in (*(() if known else (key,)), *names.values(), *also):
                spellings[unicodedata.normalize("NFC", spelling).strip().casefold()] = meaning
        tables = LabelTables(self.sets, self.maps, display, spellings)
        sets = {**self.sets}
        for name, classes in _table(values, "sets", source).items():
            written = _names(classes, f"sets.{name}", source)
            if not written or len(set(map(tables.meaning_of, written))) != len(written):
                raise DataError(f"expected distinct classes in sets.{name} of {source}, found {classes}")
            sets[name] = tuple(unicodedata.normalize("NFC", cls) for cls in written)
        maps = {name: dict(words) for name, words in self.maps.items()}
        for name, entry in _table(values, "maps", source).items():
            if name not in sets:
                raise DataError(
                    f"{source} maps to a set {name!r} that is not there; list its classes under [sets], or use one "
                    f"of {', '.join(sets)}"
                )
            if not isinstance(entry, dict):
                raise DataError(f"expected a table maps.{name} in {source}, found {entry!r}")
            own = tables._map(name, entry, sets[name], source)
            maps[name] = {**maps.get(name, {}), **own}
        return LabelTables(sets, maps, display, spellings)

    def _map(
        self, name: str, entry: Mapping[str, Any], classes: tuple[str, ...], source: Path
    ) -> dict[str, str]:
        found: dict[str, str] = {}
        for cls, words in entry.items():
            target = self.meaning_of(cls)
            if target not in map(self.meaning_of, classes):
                raise DataError(
                    f"maps.{name} of {source} has a class {cls!r} that the set {name!r} has not; "
                    f"its classes are {', '.join(classes)}"
                )
            for word in map(self.meaning_of, _names(words, f"maps.{name}.{cls}", source)):
                if found.setdefault(word, target) != target:
                    raise DataError(f"maps.{name} of {source} has {word!r} in {found[word]!r} and {target!r}")
        return found


def _table(values: Mapping[str, Any], name: str, source: Path) -> Mapping[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise DataError(f"expected a table [{name}] in {source}, found {table!r}")
    return table


def _names(value: Any, where: str, source: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        raise DataError(f"expected a list of names for {where} in {source}, found {value!r}")
    return value


def _word(word: str, entry: Any, source: Path) -> tuple[dict[str, str], list[str]]:
    """Display names by language, and other spellings."""
    if isinstance(entry, list):
        return {}, _names(entry, f"words.{word}", source)
    right = isinstance(entry, dict) and entry.keys() <= {*LANGUAGES, "also"}
    if not right or not all(isinstance(entry.get(language, ""), str) for language in LANGUAGES):
        raise DataError(
            f"expected a list of spellings or en, ko and also for words.{word} in {source}, found {entry!r}"
        )
    names = {language: entry[language] for language in LANGUAGES if language in entry}
    return names, _names(entry.get("also", []), f"words.{word}.also", source)


@dataclass(frozen=True)
class LabelSet:
    """Ordered class names.

    Attributes:
        names: the classes, in the order of a classifier's columns; spelled as in the data.
        name: what the set is called (``fer2013``, ``aihub5``, …), or ``custom``.

    >>> LabelSet.from_names(["happy", "sad"]).display("ko")
    ('기쁨', '슬픔')
    """

    names: tuple[str, ...]
    name: str = "custom"

    def __post_init__(self) -> None:
        if not fits(self.names, Sequence[str]):
            raise DataError(f"expected class names as a tuple of str, found {self.names!r}")
        object.__setattr__(self, "names", tuple(map(str, self.names)))
        if not all(self.names) or not self.names or len(set(self.names)) != len(self.names):
            raise DataError(f"expected distinct class names, found {list(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    @staticmethod
    @checked
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
    @checked
    def from_text(text: str) -> "LabelSet":
        """A known label set by its name, or classes with commas between them, in this order.

        Raises:
            DataError: neither.

        >>> LabelSet.from_text("행복, 무표정").names
        ('행복', '무표정')
        """
        names = [unicodedata.normalize("NFC", name.strip()) for name in text.split(",")]
        if len(names) > 1:
            return LabelSet.from_names(name for name in names if name)
        known = LabelTables.built_in().sets
        if names[0] not in known:
            raise DataError(
                f"expected classes as happy,sad,… or one of the label sets {', '.join(known)}, found {text!r}"
            )
        return LabelSet.named(names[0])

    @staticmethod
    @checked
    def from_names(names: Iterable[str]) -> "LabelSet":
        """The label set with exactly these classes in this order, called by its name where it is a known one."""
        own = LabelSet(tuple(names))
        meanings = {meaning_of(name) for name in own.names}
        for name, words in LabelTables.built_in().sets.items():
            if len(words) == len(own) and set(words) == meanings:
                return LabelSet(own.names, name)
        return own

    @checked
    def display(self, language: str = "en", tables: LabelTables | None = None) -> tuple[str, ...]:
        """The classes as a reader of ``language`` (``en`` or ``ko``) calls them.

        Only English words are translated: who named a class in Korean sees that name in every language.
        """
        tables = tables or LabelTables.built_in()
        return tuple(
            name if has_hangul([name]) else self._word(name, language, tables) for name in self.names
        )

    def in_latin(self) -> tuple[str, ...]:
        """The classes in English as far as they are known, for where no font has Hangul."""
        tables = LabelTables.built_in()
        return tuple(
            self._word(tables.meaning_of(n), "en", tables) if has_hangul([n]) else n
            for n in self.display("en")
        )

    def _word(self, name: str, language: str, tables: LabelTables) -> str:
        # In English other spellings, 'joy' for 'happy', are the user's own and stay.
        meaning = name if language == "en" else tables.meaning_of(name)
        in_set = tables.display.get(f"{self.name}.{meaning}", {})
        return in_set.get(language, tables.display.get(meaning, {}).get(language, name))

    @checked
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


def meaning_of(label: str) -> str:
    """The common word for a spelling: ``happiness``, ``기쁨`` and ``Happy`` are all ``happy``; others stay."""
    return LabelTables.built_in().meaning_of(label)


def same_meaning(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of classes that mean the same, side by side: ``{"happy": ("happy", "기쁨")}``."""
    by_meaning: dict[str, list[str]] = {}
    for name in names:
        by_meaning.setdefault(meaning_of(name), []).append(name)
    return {meaning: tuple(same) for meaning, same in by_meaning.items() if len(same) > 1}
