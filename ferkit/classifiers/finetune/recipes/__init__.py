"""Recipes as files: read one, and change what is asked for.

A file holds the fields of :class:`ferkit.classifiers.finetune.settings.RecipeSettings`; what it leaves out
has the default there.
"""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ferkit.classifiers.finetune.settings import RecipeSettings, from_mapping
from ferkit.core.errors import TrainingError
from ferkit.core.files import parse_toml


def recipe_names() -> list[str]:
    """The recipes that come with the package, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name: str, changes: Mapping[str, Any] | None = None) -> RecipeSettings:
    """A recipe with changes.

    Args:
        name: of a recipe of the package, or a TOML file.
        changes: dotted names and values: ``{"network.dropout": 0.5, "stages.1.learning_rate": 1e-4}``;
            stages count from 1, as in the record of a run.

    Raises:
        TrainingError: no such recipe, or a name or value that a recipe cannot have.
    """
    values = _read(name)
    for dotted, value in (changes or {}).items():
        _change(values, dotted, value)
    return from_mapping(RecipeSettings, values)


def parse_change(text: str) -> tuple[str, Any]:
    """``network.dropout=0.5`` as a name and a value, which is read as in TOML, or as plain text.

    Raises:
        TrainingError: there is no ``=``.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise TrainingError(f"expected name=value, such as stages.1.epochs=5, found {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _read(name: str) -> dict[str, Any]:
    packaged = resources.files(__name__).joinpath(f"{name}.toml")
    path = Path(name)
    try:
        if name in recipe_names():
            text = packaged.read_text(encoding="utf-8")
        elif path.suffix == ".toml" and path.is_file():
            text = path.read_text(encoding="utf-8")
        else:
            raise TrainingError(
                f"no recipe is called {name!r}; known: {', '.join(recipe_names())}, or a .toml file"
            )
        return parse_toml(text)
    except (ValueError, OSError) as error:
        raise TrainingError(f"the recipe {name} cannot be read: {error}") from None


def _change(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    place: Any = values
    for part in parents:
        if isinstance(place, list):
            place = _item(place, part, dotted)
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            raise TrainingError(f"a recipe has no setting {dotted}")
    if not isinstance(place, dict):
        raise TrainingError(f"a recipe has no setting {dotted}")
    place[last] = value


def _item(stages: list[Any], number: str, dotted: str) -> Any:
    number = {"first": "1", "last": str(len(stages))}.get(number, number)
    if not number.isdecimal() or not 1 <= int(number) <= len(stages):
        raise TrainingError(f"expected a stage from 1 to {len(stages)} in {dotted}, found {number!r}")
    return stages[int(number) - 1]
