"""The Tab key: ``fer completion``, and the names that it offers."""

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from ferkit.cli.command import Command

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
