"""``fer ensemble``."""

from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import common_options, models_dir_option


@click.command()
@click.argument("members", nargs=-1, required=True)
@click.option("--name", default="ensemble", show_default=True, help="Name of the model.")
@click.option(
    "--rule",
    type=click.Choice(["mean", "weighted", "logit-mean"]),
    default="mean",
    show_default=True,
    help="Mean of the probabilities, weighted by validation accuracy, or of their logarithms.",
)
@click.option(
    "--weight", "weights", type=float, multiple=True, help="For weighted: one a model, in their order."
)
@click.option("--overwrite", is_flag=True, help="Replace a model of this name.")
@models_dir_option
@common_options
def ensemble(members: tuple[str, ...], models_dir: Path, **options: Any) -> None:
    """Join several models into one that averages them.

    The ensemble contains copies of its MEMBERS (names in the models folder, or folders), and is used,
    measured and taken as a --teacher like any other model.

    \b
    Example:
        fer ensemble vgg compact --rule logit-mean --name both
    """
    from ferkit.classifiers.ensemble import save_ensemble
    from ferkit.classifiers.model import choose_model

    made = save_ensemble(
        models_dir / options["name"],
        [choose_model(member, models_dir).folder for member in members],
        rule=options["rule"],
        weights=options["weights"] or None,
        overwrite=options["overwrite"],
    )
    weights = made.record.parts["weights"]
    click.echo(f"{made.folder}: " + ", ".join(f"{m} {w:.2f}" for m, w in zip(members, weights, strict=True)))
