"""What every command takes, read from the commands themselves: for the documentation, manual pages and ``.env``.

``python -m ferkit.cli.reference man FOLDER`` writes manual pages, ``python -m ferkit.cli.reference env`` prints
``.env.example``.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click

from ferkit.cli.command import SET_KEY, VARIABLES, Command, commands, setting_record
from ferkit.core.files import write_atomically


@dataclass(frozen=True)
class Row:
    """An option or a setting.

    Attributes:
        name: how it is given, as ``-b, --backbone TEXT`` or ``batch_size``.
        default: what is taken where nothing is given; empty for nothing.
        variable: its name in the environment; empty where it has none.
        text: what it means.
    """

    name: str
    default: str
    variable: str
    text: str


@dataclass(frozen=True)
class Page:
    """A command as its reference shows it.

    Attributes:
        name: the words that call it, as ``fer dataset split``.
        usage: the line with its arguments.
        text: paragraphs of its help.
        examples: lines for the shell.
        groups: heading to options or settings.
    """

    name: str
    usage: str
    text: tuple[str, ...]
    examples: tuple[str, ...]
    groups: dict[str, list[Row]]

    @property
    def summary(self) -> str:
        """The first sentence."""
        return self.text[0] if self.text else ""


def pages(command: click.Command) -> Iterator[Page]:
    """The reference of every command."""
    for name, one, context in commands(command):
        paragraphs = [p for p in inspect.cleandoc(one.help or "").split("\n\n") if p.strip()]
        examples = [p for p in paragraphs if re.match(r"[\b]?\n?(Examples?:|    )", p)]
        usage = " ".join([name, *one.collect_usage_pieces(context)])
        shown = [" ".join(p.replace("\b", "").split()) for p in paragraphs if p not in examples]
        lines = [line.strip() for p in examples for line in p.splitlines()]
        yield Page(
            name,
            usage,
            tuple(shown),
            tuple(line for line in lines if line.startswith("fer ")),
            groups(one, context),
        )


def groups(command: click.Command, context: click.Context) -> dict[str, list[Row]]:
    """The options in their groups, and the settings last."""
    found: dict[str, list[Row]] = {}
    prefix = context.auto_envvar_prefix or ""
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is None or not isinstance(param, click.Option):
            continue
        default = param.default if isinstance(param.default, str | int | float | Path) else ""
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        flags = ("--help", "--help-all", "--version", "--config", "--log-dir", "--quiet")
        variable = "" if {*param.opts} & {*flags} else f"{prefix}_{(param.name or '').upper()}"
        heading = str(getattr(param, "group", "Help"))
        found.setdefault(heading, []).append(Row(record[0], shown, variable, param.help or ""))
    if isinstance(command, Command):
        for heading, settings in (("Settings", command.settings), ("Settings of the recipe", command.listed)):
            rows = []
            for setting in settings.values():
                name, text = setting_record(setting)
                variable = (
                    f"{prefix}_{setting.key.upper().replace('.', '_')}" if heading == "Settings" else ""
                )
                rows.append(Row(setting.key, name.partition("=")[2], variable, text))
            if rows:
                found[f"{heading}, given by {SET_KEY} KEY=VALUE"] = rows
    return found


def man_page(page: Page) -> str:
    """A command as a manual page in roff."""
    lines = [
        f'.TH "{page.name.replace(" ", "-").upper()}" 1 "" "ferkit {metadata.version("ferkit")}"',
        ".SH NAME",
        rf"{_roff(page.name.replace(' ', '-'))} \- {_roff(page.summary)}",
        ".SH SYNOPSIS",
        _roff(page.usage),
        ".SH DESCRIPTION",
    ]
    for text in page.text:
        lines += [".PP", _roff(text)]
    if page.examples:
        lines += [".SH EXAMPLES", ".nf", *map(_roff, page.examples), ".fi"]
    for heading, rows in page.groups.items():
        lines.append(f".SH {_roff(heading.upper())}")
        for row in rows:
            more = [f"Default: {row.default}."] if row.default else []
            more += [f"Environment: {row.variable}."] if row.variable else []
            lines += [".TP", rf"\fB{_roff(row.name)}\fR", _roff(" ".join([row.text, *more]))]
    if page.name == "fer":
        lines.append(".SH ENVIRONMENT")
        for name, text in VARIABLES.items():
            lines += [".TP", rf"\fB{name}\fR", _roff(text)]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in text.splitlines())


def write_man_pages(command: click.Command, folder: Path) -> list[Path]:
    """Write ``fer.1``, ``fer-embed.1`` and so on."""
    written = []
    for page in pages(command):
        path = folder / f"{page.name.replace(' ', '-')}.1"
        text = man_page(page)
        write_atomically(path, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
        written.append(path)
    return written


def environment_example(command: click.Command) -> str:
    """The text of ``.env.example``: every variable with its default and what it means, switched off."""
    lines = [
        "# Copy this file to .env in the folder that you work in, and take the # away from what you change.",
        "# The command line overrides it. Made by: python -m ferkit.cli.reference env > .env.example",
        "# Every command also reads its own CONFIG, LOG_DIR, QUIET, DEVICE and PRECISION, as FER_EMBED_LOG_DIR.",
        "",
        *(f"#{name}=  # {text}" for name, text in VARIABLES.items()),
    ]
    for page in pages(command):
        rows = [row for heading, group in page.groups.items() if heading != "Every command" for row in group]
        rows = [row for row in rows if row.variable and "NUMBER" not in row.variable]
        lines += ["", f"# {page.name}"] if rows else []
        lines += [f"#{row.variable}={row.default}  # {row.text}" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from ferkit.cli.main import main

    if sys.argv[1] == "env":
        click.echo(environment_example(main), nl=False)
    else:
        print(*write_man_pages(main, Path(sys.argv[2])), sep="\n")
