"""The table of options that commands share, what they do with them, and the names that the Tab key offers."""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from ferkit.cli.command import Command, Option, echo, set_language
from ferkit.cli.settings import Setting
from ferkit.core.errors import mask_credentials
from ferkit.core.files import as_path, is_local, is_stored
from ferkit.core.spellings import new_words
from ferkit.core.texts import LANGUAGES

if TYPE_CHECKING:
    from ferkit.classifiers.model import Model
    from ferkit.datasets.dataset import Dataset

logger = logging.getLogger(__name__)

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_VARIABLE = "_FER_COMPLETE"
"""What the shell sets when it asks; click's rule for a program called ``fer``."""


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what lets the Tab key complete commands, options, models and recipes.

    \b
    Examples:
        fer completion bash >> ~/.bashrc
        fer completion zsh >> ~/.zshrc
        fer completion fish > ~/.config/fish/completions/fer.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # the three are click's own
    script = kind(ctx.find_root().command, {}, "fer", _VARIABLE)
    click.echo(script.source_template % script.source_vars())


def offer(names: Callable[[click.Context], Iterable[str]], *, files: bool = True) -> Completer:
    """Complete names; where none begins like the word and ``files`` is set, paths."""

    def complete(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in names(ctx) if name.startswith(word)]
        return found or ([CompletionItem(word, type="file")] if files else [])

    return complete


def model_names(ctx: click.Context) -> list[str]:
    """Models in ``--models-dir``, and those that come along."""
    from ferkit.core.weights import EDITIONS

    folder = Path(ctx.params.get("models_dir") or "models")
    own = sorted(path.parent.name for path in folder.glob("*/model.json"))
    return [*own, *EDITIONS]


def backbone_names(ctx: click.Context) -> list[str]:
    """All backbones; ``onnx:`` begins a file's."""
    from ferkit.embedder.embedders import known_backbones

    return [*known_backbones(), "onnx:"]


def recipes(ctx: click.Context) -> list[str]:
    """The recipes that come along."""
    from ferkit.classifiers.finetune.recipe import recipe_names

    return recipe_names()


def weight_names(ctx: click.Context) -> list[str]:
    """All weights that can be fetched."""
    from ferkit.core.weights import known_weights

    return list(known_weights())


F = TypeVar("F", bound=Callable[..., Any])


class PathType(click.Path):
    """A file or folder, or an address that fsspec knows, such as ``s3://bucket/faces``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if value == "":  # as of a variable that is not set; it would mean all that is here
            self.fail("expected a path, found nothing", param, ctx)
        if isinstance(value, str) and is_stored(value):
            return as_path(value)
        return super().convert(value, param, ctx) if is_local(value) or isinstance(value, str) else value


class FileType(click.Path):
    """A file on this machine."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if isinstance(value, str) and (value == "" or is_stored(value)):
            self.fail(f"expected a file on this machine, found {value!r}", param, ctx)
        return super().convert(value, param, ctx)


PATH = PathType(path_type=Path)
FOLDER = PathType(path_type=Path, file_okay=False)
FILE = FileType(path_type=Path, dir_okay=False)

command = partial(click.command, cls=Command)
option = partial(click.option, cls=Option)


class SizeType(click.ParamType):
    """``112`` or ``96x112`` (width x height), as a pair of whole numbers."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """The pair."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            self.fail(f"expected a size such as 112 or 96x112, found {value!r}", param, ctx)
        return int(parts[0]), int(parts[-1])


class DetectorType(click.Choice):
    """One of our detectors, or ``deepface:NAME`` for one of DeepFace's.

    Args:
        boxes: whether the command reads data sets, which may have boxes: ``given``.
    """

    name = "detector"

    def __init__(self, boxes: bool = False) -> None:
        given = ["given"] if boxes else []
        super().__init__(["auto", "none", *given, "haar", "yunet", "mediapipe", "mtcnn", "deepface:NAME"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The detector's name."""
        if str(value).startswith("deepface:") and value != "deepface:NAME":
            return str(value)
        return super().convert(value, param, ctx)


class WordType(click.ParamType):
    """A word or several, in which the words of version 0.1 are replaced by today's.

    Args:
        option: whose words.
    """

    name = "text"

    def __init__(self, option: str) -> None:
        self._option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text in today's words."""
        new = new_words(self._option, str(value))
        if new != str(value) and ctx is not None:
            ctx.meta.setdefault("ferkit.notices", []).append(f"{self._option} {value} is now called {new}")
        return new


SIZE = SizeType()

_AUTO_MODEL = "Finds the face; 'none' takes images whole, 'auto' does as in the model's training."
_AUTO_DATA = (
    "Finds the face; 'none' takes images whole, 'given' takes the boxes that DATA has, 'auto' takes boxes where DATA "
    "has some, or else looks at some images first."
)

_SHARED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "model": (("--model",), {"metavar": "NAME", "shell_complete": offer(model_names),
              "help": "The model, by its folder or its name in --models-dir."}),
    "detector": (("-d", "--detector"), {"type": DetectorType(), "default": "auto", "help": _AUTO_MODEL}),
    "data_detector": (("-d", "--detector"), {"type": DetectorType(True), "default": "auto", "help": _AUTO_DATA}),
    "margin": (("--margin",), {"type": click.FloatRange(0, 2), "default": 0.1,
               "help": "Added around the face on each side, as a share of its box."}),
    "no_face": (("--no-face",), {"type": click.Choice(["skip", "whole"]), "default": "skip",
                "help": "An image without a face is listed as failed, or taken whole."}),
    "smooth": (("--smooth",), {"type": click.Choice(["hmm", "ema", "majority", "repeat", "none"]), "default": "hmm",
               "group": "Reading", "help": "How labels are steadied."}),
    "crops": (("--crops",), {"is_flag": True, "help": "The images are cropped faces: take them whole."}),
    "lang": (("--lang",), {"type": click.Choice(LANGUAGES), "is_eager": True, "callback": set_language,
             "help": "Language: en or ko.  [default: that of 'fer --lang', or of the system]"}),
    "by": (("--by",), {"multiple": True, "metavar": "COLUMN",
           "help": "Also compare the groups of a column; several times."}),
    "backbone": (("-b", "--backbone"), {"type": WordType("backbone"), "shell_complete": offer(backbone_names),
                 "help": "Network: ferkit2 or ferkit (come along), arcface, …, mediapipe-landmarks, raw, or "
                 "onnx:FILE. See 'fer models list'.  [default: ferkit2]"}),
    "layer": (("--layer",), {"help": "From inside: stage1 … stage5, a tensor's name, several with +, or 'auto'."}),
    "name": (("--name",), {"help": "Name of the model."}),
    "overwrite": (("--overwrite",), {"is_flag": True, "help": "Replace a model of this name."}),
    "out": (("-o", "--out"), {"type": PATH, "help": "Folder for the results."}),
    "json": (("--json",), {"is_flag": True, "help": "Print the result as JSON."}),
    "seed": (("--seed",), {"type": click.IntRange(0), "default": 0, "help": "The same seed gives the same result."}),
    "person_pattern": (("--person-pattern",), {"metavar": "REGEX",
                       "help": "Regular expression whose first group finds the person in a file name, so that nobody "
                       "is in train and test at once. AI Hub's names are understood without it."}),
    "columns": (("--columns",), {"metavar": "path=NAME,label=NAME,…", "expose_value": False, "rare": True,
                "callback": lambda ctx, param, text: _set_columns(ctx, text),
                "help": "Columns of a table (path, label, split, group) that calls them something that nobody knows."}),
    "images": (("--images",), {"type": FOLDER, "expose_value": False, "rare": True,
               "callback": lambda ctx, param, folder: ctx.meta.__setitem__("ferkit.images", folder),
               "help": "Folder that the paths of a table start from.  [default: that of the table]"}),
    "cache_dir": (("--cache-dir",), {"type": FOLDER, "default": Path("cache"), "rare": True,
                  "help": "Folder of all embeddings."}),
    "models_dir": (("--models-dir",), {"type": FOLDER, "default": Path("models"), "rare": True,
                   "help": "Folder of trained models."}),
}  # fmt: skip
"""The options that several commands have: how they are spelled, and what they are."""

_GROUPS = {
    "Faces": ("detector", "data_detector", "margin", "no_face", "crops"),
    "Data": ("person_pattern", "columns", "images", "by"),
    "Network": ("backbone", "layer"),
    "Output": ("out", "json", "lang", "name", "overwrite"),
    "Folders": ("cache_dir", "models_dir"),
}


def shared(*names: str, **changes: Any) -> Callable[[F], F]:
    """Options of the shared table, in this order; ``changes`` go into each of them."""

    def decorate(wrapped: F) -> F:
        for name in reversed(names):
            spelled, values = _SHARED[name]
            group = next((heading for heading, members in _GROUPS.items() if name in members), "Options")
            values = {"group": group, **values, **changes}
            wrapped = option(*spelled, **values)(wrapped)
        return wrapped

    return decorate


WORKERS = Setting("workers", int | None, None, "threads that read images; one a core if not given")
BATCH_SIZE = Setting("batch_size", int, 32, "images a run of the network")
DETECTOR_WEIGHTS = Setting("detector_weights", Path | None, None, "take this file as the detector's weights")
SEED = Setting("seed", int, 0, "of everything random")


def load_data(path: Path, person_pattern: str | None = None) -> "Dataset":
    """Read the data set that a user names, with what ``--columns`` and ``--images`` say of a table."""
    from ferkit.datasets.load import load_dataset

    images: Path | None = click.get_current_context().meta.get("ferkit.images")
    return load_dataset(path, person_pattern, given_columns(), images)


def given_columns() -> dict[str, str]:
    """What ``--columns`` says: the name of a column by meaning."""
    return click.get_current_context().meta.get("ferkit.columns", {})


def _set_columns(ctx: click.Context, text: str | None) -> None:
    if text is not None:
        from ferkit.datasets.tables import parse_columns

        ctx.meta["ferkit.columns"] = parse_columns(text)


def open_dataset(path: Path, person_pattern: str | None) -> "Dataset":
    """The data set that a user names; one line says what it holds."""
    dataset = load_data(path, person_pattern)
    counts = dataset.class_counts()
    listed = ", ".join(f"{name} {n}" for name, n in counts.items())
    logger.info(f"{len(dataset)} images in {path}, {len(counts)} classes: {listed or 'no labels'}")
    return dataset


def model_and_rest(
    given: str | None, words: Sequence[str], models_dir: Path, of: str | None = None
) -> tuple["Model", list[str]]:
    """The model, named by ``--model`` or by the first of the arguments, and the other arguments.

    Args:
        given: what ``--model`` says.
        words: the arguments.
        models_dir: where models are looked for by name.
        of: what the one other argument is; None for any number of them.

    Raises:
        ModelError: there is no such model.
        click.UsageError: there is not just one other argument.
    """
    from ferkit.classifiers.model import choose_model, find_model

    found = find_model(words[0], models_dir) if given is None and of is None else None
    named = found is not None or (given is None and of is not None and len(words) == 2)
    rest = list(words[1:] if named else words)
    if of is not None and len(rest) != 1:
        raise click.UsageError(f"expected one {of}, after the model where one is named")
    # Finding what is at an address fetches it, so that it is not to be found again by its name.
    first = words[0] if found is None else str(found)
    return choose_model(first if named else given, models_dir), rest


def print_result(text: str) -> None:
    """Print the end of a run, and keep it in the log file."""
    echo(text)
    logger.info(text, extra={"log_only": True})


def print_json(values: object) -> None:
    """Print values as JSON, without the passwords of addresses."""
    click.echo(mask_credentials(json.dumps(values, ensure_ascii=False)))


def is_quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return bool(click.get_current_context().meta.get("ferkit.quiet"))


def quiet_video_library() -> None:
    """Keep OpenCV's remarks about cameras off the terminal; a command says itself what is wrong."""
    import os

    # A program of our own: its environment is ours to set, before the library reads it.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
