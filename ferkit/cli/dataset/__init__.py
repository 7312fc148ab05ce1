"""``fer dataset``: steps from raw data to a data set one can trust."""

import click

from ferkit.cli.dataset.describing import info
from ferkit.cli.dataset.exporting import export
from ferkit.cli.dataset.importing import import_
from ferkit.cli.dataset.steps import assign, draw, merge, relabel


@click.group()
def dataset() -> None:
    """Look at, import, map, merge, sample, split and export data sets.

    DATA is whatever 'fer embed' takes: a folder data/<emotion>/*.jpg, a table, an .npz file. Every step but info and
    export writes a manifest, a small CSV file that refers to the pictures, and copies nothing.

    \b
    Example:
        fer dataset import aihub photos/ -o aihub.csv
        fer dataset map aihub.csv --to aihub5 -o aihub5.csv
        fer dataset split aihub5.csv --val 0.1 --test 0.1 -o faces.csv
        fer embed faces.csv
    """


for command in (info, import_, relabel, merge, draw, assign, export):
    dataset.add_command(command)
