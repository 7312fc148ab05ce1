"""The command group: finds commands without importing them, and turns errors into one line."""

import contextlib
import errno
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import IO, Any

import click

from ferkit.cli.command import VARIABLES, Command, Group, commands, echo
from ferkit.cli.settings import suggestion
from ferkit.core.errors import FerkitError
from ferkit.core.texts import LANGUAGES, language_of_locale, speaking, translated

# The summaries stand here, so that the list needs none of the modules; a test compares them with the docstrings.
COMMANDS = {
    "demo": ("models:demo", "Run all steps on data it makes itself, offline."),
    "crop": ("embed:crop", "Cut faces out of images; stop and resume at any time."),
    "dataset": ("dataset:dataset", "Look at, import, map, merge, sample, split and export data sets."),
    "audit": ("evaluate:audit", "Find copies, leaks, wrong labels and useless images; mend what you tick."),
    "embed": ("embed:embed", "Turn images into embeddings; stop and resume at any time."),
    "fit": ("train:fit", "Fit a head on the embeddings of DATA, or on the newest: mlp, svm, logistic or dummy."),
    "finetune": ("train:finetune", "Train a network on faces, in stages; stop and resume at any time."),
    "teach": ("serve:teach", "Teach classes of your own from a few images, or live on a page."),
    "eval": ("evaluate:evaluate", "Measure a model on labelled images."),
    "compare": ("evaluate:compare", "Compare models on your own faces: same images, same split, same figures."),
    "predict": ("predict:predict", "Read the expressions in images."),
    "webcam": ("live:webcam", "See expressions live, from a camera, an address or a file."),
    "video": ("live:video", "Read the expressions in a video, over time."),
    "serve": ("serve:serve", "Serve an API and a page that shows expressions live in the browser."),
    "explain": ("predict:explain", "Show where in a face an expression was read."),
    "ensemble": ("train:ensemble", "Join several models into one that averages them."),
    "export": ("train:export", "Write a fine-tuned network in another format."),
    "import": ("train:import_head", "Take in a scikit-learn head from a pickle or joblib file."),
    "models": ("models:models", "List, fetch and verify weights, and list trained models."),
    "doctor": ("models:doctor", "Say what is wrong with this machine, and how to mend it."),
    "completion": ("options:completion", "Print what lets the Tab key complete commands, options, models and recipes."),
}  # fmt: skip
"""Module and name of each command, and its summary."""

_OTHER_WORDS = {
    "train": "'fit' (a head on embeddings) or 'finetune' (a network)",
    "evaluate": "'eval'",
    "detect": "'predict'",
    "camera": "'webcam'",
    "live": "'webcam'",
    "film": "'video'",
    "server": "'serve'",
}
"""What other projects call our commands."""


class LazyGroup(Group):
    """Imports a command only when it is run, so that ``fer --help`` is there at once."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run a command line in its language, which is known before it is parsed, for help and errors."""
        # Read here and not at import: a library must not change the environment of the program that uses it.
        from dotenv import load_dotenv

        load_dotenv(".env")
        with speaking(_language(sys.argv[1:] if args is None else args)):
            return super().main(args, *more, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _imported(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was meant."""
        word = args[0]
        if word not in COMMANDS and not word.startswith("-"):
            close = [f"'{name}'" for name in get_close_matches(word.lower(), COMMANDS, n=2, cutoff=0.7)]
            meant = _OTHER_WORDS.get(word.lower()) or " or ".join(close)
            hint = f" Did you mean {meant}?" if meant else ""
            ctx.fail(f"No such command '{word}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the command."""
        with _short_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error is one line."""
        with _short_errors():
            return super().invoke(ctx)


def _imported(name: str) -> click.Command:
    module, _, attribute = COMMANDS[name][0].partition(":")
    return getattr(import_module(f"ferkit.cli.{module}"), attribute)


def _language(args: Sequence[str]) -> str:
    """The language of ``--lang``, wherever it stands, of ``FER_LANG``, or of the locale."""
    # What follows 'dataset map' is left out: its --lang is that of class names.
    line = " ".join([f"--lang={os.environ.get('FER_LANG')}", *args]).partition(" dataset map ")[0]
    found = re.findall(rf"--lang[ =]({'|'.join(LANGUAGES)})(?!\S)", line)
    return found[-1] if found else language_of_locale()


class _Error(click.ClickException):
    """An error in the language that is spoken where it arises."""

    def __init__(self, message: str, *more: Any) -> None:
        super().__init__(translated(" ".join(message.split())), *more)
        text = io.StringIO()
        super().show(text)
        self._lines = [translated(line) for line in text.getvalue().splitlines()]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.echo("\n".join(self._lines), file=file, err=True)


class _UsageError(_Error, click.UsageError):
    """Wrong usage, shown with the right one."""


@contextlib.contextmanager
def _short_errors() -> Iterator[None]:
    """Make one line of what goes wrong within the block."""
    try:
        yield
    except getattr(click.exceptions, "NoArgsIsHelpError", ()):  # the help text, since click 8.2
        raise
    except click.UsageError as error:
        own = error.message if isinstance(error, click.BadParameter) else ""  # after 'Invalid value for …: '
        raise _UsageError(error.format_message().replace(own, translated(own)), error.ctx) from error
    except FerkitError as error:
        raise _one_line(str(error)) from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # who reads the output has seen enough; click leaves quietly
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise _one_line(f"{where}{error.strerror or error}") from error
    except KeyboardInterrupt:
        click.echo("", err=True)
        echo("stopped; what was finished is kept, run the same command again to go on", err=True)
        sys.exit(130)


def _one_line(message: str) -> click.ClickException:
    message = " ".join(message.split())
    log = logging.getLogger("ferkit")
    if log.hasHandlers():  # without --log-dir, logging itself would print the message a second time
        log.error(message)
    return _Error(message)


def _unknown_variables(ctx: click.Context) -> list[str]:
    """A sentence for each variable ``FER_…`` that nothing reads."""
    known = {*VARIABLES, *(f"FER_{option.name.upper()}" for option in ctx.command.params if option.name)}
    found = [name for name in os.environ if name.startswith("FER_") and name not in known]
    meant = [
        name for name in COMMANDS if any(variable.startswith(f"FER_{name.upper()}_") for variable in found)
    ]
    for _, command, context in (one for name in meant for one in commands(_imported(name), ctx, name)):
        prefix = f"{context.auto_envvar_prefix}_"
        asked = [name for name in found if name.startswith(prefix)]
        if asked and isinstance(command, Command):
            known.update(command.known_variables(context))
            known.update(name for name in asked if command.find(context, name.removeprefix(prefix).lower()))
    return [
        f"the environment variable {name} is unknown{suggestion(name, known)}"
        for name in found
        if name not in known
    ]


CONTEXT = {"auto_envvar_prefix": "FER", "help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.option("--lang", type=click.Choice(LANGUAGES), is_eager=True, expose_value=False,
              help="Language of messages, tables and reports.  [default: that of the system]")  # fmt: skip
@click.version_option(package_name="ferkit", prog_name="fer")
def main() -> None:
    """Facial expression recognition: embeddings with heads, fine-tuned networks, one inference layer.

    Start with:  fer demo

    On your own faces, sorted into data/<emotion>/*.jpg:

    \b
        fer embed data/
        fer fit --head mlp
        fer predict photo.jpg

    Every option can also be set in the environment or in a file .env (FER_EMBED_BATCH_SIZE=64), or in a
    TOML file given with --config; --quiet leaves out remarks; 'fer COMMAND --help-all' lists everything. Exit codes:
    0 done, 1 something you can mend, 2 wrong usage.
    """
    # Pillow's remarks on odd metadata, palettes and sizes: what matters is raised.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for remark in _unknown_variables(click.get_current_context()):
        echo(remark, err=True)
    # File names that are not UTF-8, and Hangul on a console without it, are printed as escapes.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
