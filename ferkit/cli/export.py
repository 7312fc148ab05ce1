"""``fer export``."""

from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import DATA, common_options, models_dir_option


@click.command()
@click.argument("model")
@click.option(
    "-f",
    "--format",
    "fmt",
    default="onnx",
    show_default=True,
    type=click.Choice(["onnx", "keras", "h5", "saved-model", "tflite", "tflite-int8"]),
)
@click.option(
    "-o", "--output", type=DATA, help="File or folder to make.  [default: MODEL with the format's ending]"
)
@click.option("--data", type=DATA, help="For tflite-int8: pictures to find the ranges of its numbers by.")
@models_dir_option
@common_options
def export(model: str, models_dir: Path, **options: Any) -> None:
    """Write a fine-tuned network in another format.

    MODEL is a name in the models folder, or a folder. Every format takes RGB crops of 0..255 as float32
    (n, H, W, 3) and gives probabilities; it is compared with the network before it is written.

    \b
    Examples:
        fer export aihub --format tflite
        fer export aihub --format tflite-int8 --data data/
    """
    from ferkit.classifiers.finetune.conversion import SUFFIXES, convert_model
    from ferkit.classifiers.model import choose_model
    from ferkit.datasets.load import load_dataset

    folder = choose_model(model, models_dir).folder
    target = options["output"] or Path(f"{folder.name}{SUFFIXES[options['fmt']] or '-saved-model'}")
    dataset = load_dataset(options["data"]) if options["data"] else None
    click.echo(convert_model(folder, options["fmt"], target, dataset))
