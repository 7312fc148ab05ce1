"""``fer finetune``."""

import json
from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import (
    DATA,
    FILE,
    SIZE,
    cache_dir_option,
    common_options,
    detector_option,
    detector_weights_option,
    is_quiet,
    load_data,
    margin_option,
    models_dir_option,
    person_option,
    say,
)

# Option to setting: what a recipe's file calls it.
_SETTINGS = {
    "backbone": "network.backbone",
    "weights": "network.weights",
    "input_size": "network.input_size_wh",
    "color": "network.color",
    "dropout": "network.dropout",
    "head_epochs": "stages.first.epochs",
    "head_learning_rate": "stages.first.learning_rate",
    "epochs": "stages.last.epochs",
    "learning_rate": "stages.last.learning_rate",
    "unfreeze": "stages.last.unfreeze",
    "batch_norm": "stages.last.batch_norm",
    "early_stopping": "stages.last.early_stopping",
    "class_weights": "loss.class_weights",
    "label_smoothing": "loss.label_smoothing",
    "focal_gamma": "loss.focal_gamma",
    "balanced": "sampling.balanced",
    "target_per_class": "sampling.target_per_class",
    "weight_decay": "optimizer.weight_decay",
    "clip_norm": "optimizer.clip_norm",
    "ema": "optimizer.ema",
    "batch_size": "batch_size",
    "precision": "precision",
    "monitor": "monitor",
    "seed": "seed",
}


@click.command()
@click.argument("data", type=DATA)
@click.option(
    "-r",
    "--recipe",
    default="quick",
    show_default=True,
    help="aihub, fer2013, ferkit, ferkit-second, interview, quick, teasing, vgg, vgg-transfer, or a TOML file.",
)
@click.option("--name", help="Name of the model.  [default: that of the recipe]")
@click.option(
    "-b",
    "--backbone",
    help="ferkit (the shipped network, with its weights), compact, vgg48, plain, efficientnet-b0 "
    "(-b1, -b2, -v2-b0), mobilenet-v3-large (-small), resnet50-v2, or a .keras or .h5 file.",
)
@click.option("--weights", help="imagenet, none, ferkit, or the .keras or .h5 file of an earlier run.")
@click.option("--input-size", type=SIZE, help="Width x height of the network's input.")
@click.option("--color", type=click.Choice(["gray", "rgb"]), help="What the network sees.")
@click.option("--dropout", type=float, help="Rate before the output, 0 to 1.")
@click.option("--head-epochs", type=int, help="Of the first stage, in which the backbone is frozen.")
@click.option("--head-learning-rate", type=float, help="Of the first stage.")
@click.option("--epochs", type=int, help="Of the last stage.")
@click.option("--learning-rate", type=float, help="Of the last stage.")
@click.option("--unfreeze", help="What learns in the last stage: none, all, last:N or from:BLOCK.")
@click.option(
    "--batch-norm",
    type=click.Choice(["all", "s3", "adaptive", "none"]),
    help="Which batch normalisations stay as they are in the last stage.",
)
@click.option(
    "--early-stopping", type=int, help="Epochs without a better figure that end the last stage; 0 never."
)
@click.option("--class-weights/--no-class-weights", default=None, help="Weigh rare classes more.")
@click.option("--balanced/--no-balanced", default=None, help="Show all classes equally often.")
@click.option(
    "--target-per-class", type=int, help="Fill smaller classes up to so many augmented pictures an epoch."
)
@click.option("--label-smoothing", type=float, help="Share of each label spread over all classes.")
@click.option("--focal-gamma", type=float, help="Focal loss; 0 is plain cross-entropy.")
@click.option("--weight-decay", type=float, help="Decoupled, as in AdamW.")
@click.option("--clip-norm", type=float, help="Shorten longer gradients; 0 never.")
@click.option("--ema", type=float, help="Momentum of the averaged weights; 0 for none.")
@click.option("--batch-size", type=int, help="Pictures a step.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
    help="Of the arithmetic.",
)
@click.option(
    "--monitor", type=click.Choice(["macro_f1", "accuracy"]), help="Figure that chooses the best epoch."
)
@click.option("--seed", type=int, help="Of weights, order, augmentation and dropout.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other value of the recipe: --set augmentation.rotate=20 --set stages.1.mix=false",
)
@click.option(
    "--labels", help="Classes and their order, as a known set: fer2013, aihub5, …  [default: the folders']"
)
@click.option(
    "--validate-on",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="Part that chooses the best epoch; 'val' holds some of train/ out where there is no val/.",
)
@click.option(
    "--val-size",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of train/ that is held out.",
)
@click.option("--votes", type=FILE, help="CSV of votes a class for each picture, as soft labels (FER+).")
@click.option("--teacher", type=DATA, help="Model or ensemble whose probabilities are learnt too.")
@detector_option("'auto' takes boxes where DATA has some, or else looks at some pictures first", boxes=True)
@detector_weights_option
@margin_option
@click.option(
    "--cache",
    type=click.Choice(["auto", "memory", "disk"]),
    default="auto",
    show_default=True,
    help="Where decoded pictures are kept while training.",
)
@click.option(
    "--flip/--no-flip",
    default=False,
    show_default=True,
    help="Average with the mirrored picture when predicting.",
)
@click.option("--tensorboard", is_flag=True, help="Write logs for TensorBoard too.")
@click.option(
    "--restart", is_flag=True, help="Begin anew where an interrupted run of this name would be continued."
)
@click.option("--overwrite", is_flag=True, help="Replace a finished model of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@person_option
@cache_dir_option
@models_dir_option
@common_options
def finetune(data: Path, cache_dir: Path, models_dir: Path, **options: Any) -> None:
    """Train a network on faces, in stages; stop and resume at any time.

    DATA is what 'fer embed' takes. The best epoch becomes models/NAME, which predicts with ONNX Runtime
    alone. Run the same command again to go on after an interrupt. Checkpoint, curves.png and history.csv of
    a run that is not finished lie in the cache folder, in finetune/NAME.

    \b
    Examples:
        fer finetune data/
        fer finetune data/ --backbone ferkit
        fer finetune data/ --recipe aihub --labels aihub5 --batch-size 32
        fer finetune fer2013/ --recipe fer2013 --validate-on test --votes fer2013/labels.csv
        fer finetune other/ --recipe vgg-transfer --weights models/vgg/network.keras
    """
    from ferkit.classifiers.finetune.options import RunOptions
    from ferkit.classifiers.finetune.recipes import load_recipe, parse_change
    from ferkit.classifiers.finetune.run import finetune
    from ferkit.core.labels import LabelSet
    from ferkit.datasets.split import SplitSettings
    from ferkit.embedder.run import CropOptions

    changes = {_SETTINGS[key]: options[key] for key in _SETTINGS if options[key] is not None}
    recipe = load_recipe(options["recipe"], changes | dict(map(parse_change, options["settings"])))
    dataset = load_data(data, options["person_pattern"])
    counts = dataset.class_counts()
    say(
        f"{len(dataset)} images in {data}, {len(counts)} classes: "
        + ", ".join(f"{k} {n}" for k, n in counts.items())
    )
    name = options["name"] or Path(options["recipe"]).stem
    artifact = finetune(
        dataset,
        recipe,
        CropOptions(options["detector"], options["detector_weights"], margin=options["margin"]),
        RunOptions(
            model=models_dir / name,
            work=cache_dir / "finetune" / name,
            labels=LabelSet.named(options["labels"]) if options["labels"] else None,
            validate_on=options["validate_on"],
            holdout=SplitSettings(test_size=options["val_size"], seed=recipe.seed),
            votes=options["votes"],
            teacher=options["teacher"],
            cache=options["cache"],
            flip=options["flip"],
            restart=options["restart"],
            overwrite=options["overwrite"],
            tensorboard=options["tensorboard"],
            quiet=is_quiet(),
        ),
        say=say,
        say_epoch=(lambda line: None) if is_quiet() else None,
    )
    figures = artifact.record.metrics["validation"]
    if options["as_json"]:
        click.echo(json.dumps({"model": str(artifact.folder), **figures}, ensure_ascii=False))
        return
    click.echo(
        f"{artifact.folder}: validation accuracy {figures['accuracy']:.1%}, macro-F1 "
        f"{figures['macro_f1']:.1%} "
        f"on {figures['images']} pictures (epoch {figures['epoch']})"
    )
