"""List every environment variable that the command reads: ``python -m ferkit.cli.environment > .env.example``."""

from collections.abc import Iterator
from pathlib import Path

import click

from ferkit.cli.command import COMMON, Command, Option, setting_text
from ferkit.cli.main import main

_GENERAL = {
    "FER_DEVICE": "what runs networks: auto, cpu, cuda, cuda:1, tensorrt, coreml, directml, openvino",
    "FER_PRECISION": "of networks: float32, bfloat16, float16, or auto for the fastest that is close",
    "FER_OFFLINE": "1 fetches nothing from the network",
    "FER_WEIGHTS_DIR": "folder of fetched weights",
}


def example() -> str:
    """The text of ``.env.example``: every variable with its default and what it means, switched off."""
    lines = [
        "# Copy this file to .env in the folder that you work in, and take the # away from what you change.",
        "# The command line overrides it. Made by: python -m ferkit.cli.environment > .env.example",
        "# Every command also reads its own CONFIG, LOG_DIR, QUIET, DEVICE and PRECISION, as FER_EMBED_LOG_DIR.",
        "",
        *(f"#{name}=  # {about}" for name, about in _GENERAL.items()),
    ]
    for prefix, command, context in _commands(main, click.Context(main, info_name="fer"), "FER"):
        lines += ["", f"# {context.command_path}"]
        lines += [f"#{prefix}_{line}" for line in _variables(command, context)]
    return "\n".join(lines) + "\n"


def _commands(
    group: click.Group, context: click.Context, prefix: str
) -> Iterator[tuple[str, Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = click.Context(command, info_name=name, parent=context)  # type: ignore[arg-type]
        below = f"{prefix}_{name.upper().replace('-', '_')}"
        if isinstance(command, click.Group):
            yield from _commands(command, inner, below)
        elif isinstance(command, Command):
            yield below, command, inner


def _variables(command: Command, context: click.Context) -> Iterator[str]:
    for param in command.get_params(context):
        if isinstance(param, Option) and param not in COMMON:
            value = param.default if isinstance(param.default, str | int | float | Path) else ""
            text = str(value).lower() if isinstance(value, bool) else value
            yield f"{str(param.name).upper()}={text}  # {param.help}"
    for setting in (*command.settings.values(), *command.listed.values()):
        if "NUMBER" not in setting.key:
            key = setting.key.replace(".", "_")
            yield f"{key.upper()}={setting_text(setting)}  # {setting.help}"
    if command.fields:
        yield "SET=  # any other setting, as KEY=VALUE; several with spaces between them"


if __name__ == "__main__":
    click.echo(example(), nl=False)
