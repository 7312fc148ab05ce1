"""Every command line that the documents and the help texts show is one that today's commands understand."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ferkit.cli.command import Command
from ferkit.cli.main import main
from ferkit.cli.settings import Chosen

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^(?:\$ )?(?:FER_\w+=\S+ )*(?:python -m ferkit|fer) (.*)$")
_INLINE = re.compile(r"`fer ([^`]+)`")


def lines_of(text: str) -> Iterator[str]:
    """What follows ``fer`` in each line of a shell, lines that end in a backslash joined."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|(?!\|)|;", line):
            if found := _LINE.match(part.strip()):
                yield found[1]


def shown() -> Iterator[tuple[str, str, bool]]:
    """Where, the words after ``fer``, and whether they are a whole command line."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.findall(text):
            for line in lines_of(block):
                yield page.name, line, True
        for line in _INLINE.findall(_BLOCK.sub("", text)):
            yield page.name, " ".join(line.partition("&&")[0].split()), False
    for name, command in commands(main, "fer"):
        for line in lines_of(command.help or ""):
            yield f"{name} --help", line, True


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(found, f"{name} {inner}")


def check(words: list[str], whole: bool) -> None:
    """Read a command line as the command would, without running it. Raises click.UsageError."""
    command: click.Command = main
    context = click.Context(main, info_name="fer", auto_envvar_prefix="FER")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]}")
        command, context = found, click.Context(found, info_name=words.pop(0), parent=context)
    if isinstance(command, Command):
        notices: list[str] = []
        words = list(command._renamed(context, words, notices))
        if notices:
            raise click.UsageError(f"spelled as in 0.1: {notices}")
    given, rest, _ = command.make_parser(context).parse_args(words)
    if rest and not isinstance(command, click.Group):
        raise click.UsageError(f"unexpected arguments {rest}")
    for param in command.get_params(context):
        value = given.get(param.name or "")
        if isinstance(value, (str, list, tuple)) and value:
            param.type_cast_value(context, value)
        elif whole and param.required and "--help" not in words:
            raise click.UsageError(f"{param.name} is missing")
    if isinstance(command, Command) and command.fields:
        pairs = (text.partition("=") for text in given.get("set") or ())
        values = {key: value for key, _, value in pairs}
        Chosen(command.fields, command.settings, command._keys(context, values), command.rest)


@pytest.mark.parametrize(("page", "line", "whole"), sorted(set(shown())))
def test_a_command_line_that_is_shown_is_understood(page: str, line: str, whole: bool) -> None:
    words = shlex.split(line, comments=True)
    if not whole:  # in a sentence only the beginning may be there, and words that stand for others
        words = words[: next((i for i, word in enumerate(words) if "…" in word), len(words))]
    words = words[: next((i for i, word in enumerate(words) if re.fullmatch("2?>>?", word)), len(words))]
    if words[:1] != ["COMMAND"]:  # stands for any
        check(words, whole)


@pytest.mark.parametrize("line", ["ebmed data/", "embed data/ --nonsense", "embed", "fit x --head cnn",
                                  "eval m data/ --tap stage4", "crop a b --set nonsense=1"])  # fmt: skip
def test_others_are_not(line: str) -> None:
    with pytest.raises(click.UsageError):
        check(line.split(), whole=True)


def test_every_option_in_a_sentence_is_one_of_todays() -> None:
    known = {
        "--help",
        "--array",
        "--reader",
        "--memory",
        "--clients",
        "--only",
        "--landmarker",
    }  # of Slurm and of benchmarks
    settings = {"KEY"}
    for _, command in commands(main, "fer"):
        for param in command.get_params(click.Context(command)):
            known |= {*param.opts, *param.secondary_opts}
        if isinstance(command, Command):
            settings |= command.settings.keys() | command.listed.keys()
    unknown = []
    for page in PAGES:
        if page.name == "model-card.md":
            continue  # the card of the first edition, as it came with 0.1
        prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
        for span in re.findall(r"`(--[^`]+)`", prose):
            name, *words = re.split(r"[\s=/]", span)
            if name not in known or (
                name == "--set" and words and "." not in words[0] and words[0] not in settings
            ):
                unknown.append(f"{page.name}: {span}")
    assert not unknown, "\n".join(unknown)
