"""What the steps of ``fer dataset`` share."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ferkit.cli.options import DATA, common_options, person_option, say

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset

F = TypeVar("F", bound=Callable[..., Any])

LISTED = 10
"""Entries of a list that are printed; files and --json have all."""

data_argument = click.argument("data", type=DATA)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed gives the same result."
)


def step_options(command: F) -> F:
    """``--out``, ``--json``, ``--person-pattern`` and those of every command."""
    out = click.option(
        "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
        help="The manifest to write, a .csv file.",
    )  # fmt: skip
    return out(json_option(person_option(common_options(command))))


def finish(
    out: Path, dataset: "Dataset", summary: Mapping[str, Any], lines: Sequence[str], as_json: bool
) -> None:
    """Write the manifest and print what was done."""
    from ferkit.datasets.manifest import write_manifest

    write_manifest(out, dataset)
    if as_json:
        click.echo(json.dumps({"out": str(out), "n": len(dataset), **summary}, ensure_ascii=False))
        return
    for line in lines:
        click.echo(line)
    click.echo(f"{len(dataset):,} pictures: {out}")


def say_list(heading: str, entries: Sequence[str]) -> None:
    """A remark and the first entries of a list."""
    say(heading)
    for entry in entries[:LISTED]:
        say(f"  {entry}")
    if len(entries) > LISTED:
        say(f"  … and {len(entries) - LISTED:,} more")
