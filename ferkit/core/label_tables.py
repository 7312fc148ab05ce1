"""The data behind label sets: words for expressions, the sets of known data sets, and maps between them."""

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ferkit.core.errors import DataError
from ferkit.core.files import parse_toml, read_regular

LANGUAGES = ("en", "ko")


@dataclass(frozen=True)
class LabelTables:
    """What ``label_sets.toml`` says, and what a user's file of the same form adds.

    Attributes:
        sets: classes by the name of the set, as its file writes them.
        maps: by the name of the set, the word of the class that other words fall into.
        display: by word and language, what a reader calls it.
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
        try:
            values = parse_toml(read_regular(path))
        except OSError as error:
            raise DataError(f"the label file {path} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise DataError(f"expected a TOML file in UTF-8 at {path}: {error}") from None
        return LabelTables.built_in().extended(values, path)

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
            for spelling in (key, *names.values(), *also):
                spellings[unicodedata.normalize("NFC", spelling).strip().casefold()] = word
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
