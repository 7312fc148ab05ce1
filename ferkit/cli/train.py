"""Train and export: ``fer fit``, ``fer finetune``, ``fer ensemble``, ``fer export`` and ``fer import``."""

import json
from collections.abc import Callable
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
    group_split_option,
    load_data,
    margin_option,
    models_dir_option,
    person_option,
    say,
    test_size_option,
)


class Layers(click.ParamType):
    """``128,64`` as a tuple of whole numbers."""

    name = "units"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"expected units a layer such as 128,64, found {value!r}", param, ctx)


@click.command()
@click.option(
    "--head", type=click.Choice(["mlp", "svm", "logistic", "dummy"]), default="mlp", show_default=True
)
@click.option("--embeddings", help="Folder of embeddings, or the start of its name.  [default: the newest]")
@click.option("--name", help="Name of the model.  [default: that of the head]")
@test_size_option
@group_split_option
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--search",
    type=click.IntRange(1),
    metavar="N",
    help="Try N settings by cross-validation within the training part, and take the best.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Settings tried at a time."
)
@click.option(
    "--calibrate",
    type=click.Choice(["auto", "none", "sigmoid", "isotonic", "temperature"]),
    default="auto",
    show_default=True,
    help="Correct the probabilities on held-out folds.",
)
@click.option(
    "--class-weight",
    type=click.Choice(["balanced", "none"]),
    default="none",
    show_default=True,
    help="'balanced' gives rare classes as much say as frequent ones.",
)
@click.option("--pca", help="Principal components: a number, 'auto' or 'none'.  [default: auto]")
@click.option("-C", "C", type=float, help="Inverse penalty of logistic and svm.")
@click.option("--gamma", help="Kernel width of svm: a number or 'scale'.")
@click.option("--hidden", type=Layers(), help="Units a layer of mlp.  [default: 128,64]")
@click.option("--alpha", type=float, help="Penalty of mlp.")
@click.option("--learning-rate", type=float, help="Of mlp.")
@click.option("--max-epochs", type=click.IntRange(1), help="Of mlp.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
@cache_dir_option
@models_dir_option
@common_options
def fit(cache_dir: Path, models_dir: Path, **options: Any) -> None:
    """Fit a head on embeddings: mlp, svm, logistic or dummy.

    Trains on train/ and measures on test/ where the data have them, or else holds out a fifth: stratified by class,
    and by person where persons are known. The model goes to models/NAME and replaces an earlier one of that name.

    \b
    Examples:
        fer fit --head mlp
        fer fit --head svm --search 20 --name svm-tuned
        fer fit --head logistic --class-weight balanced --embeddings data--arcface
    """
    from ferkit.classifiers.heads import head_settings
    from ferkit.classifiers.search import SearchSettings
    from ferkit.datasets.split import SplitSettings
    from ferkit.embedder.store import EmbeddingStore, find_embeddings
    from ferkit.evaluation.evaluate_model import fit_held_out, load_labelled, save_fit
    from ferkit.evaluation.report.page import format_report

    folder = find_embeddings(cache_dir, options["embeddings"])
    store = EmbeddingStore.open(folder)
    say(f"embeddings: {folder}")
    table = load_labelled(store)
    settings = head_settings(options["head"], **_hyper_parameters(options))
    split_settings = SplitSettings(
        test_size=options["test_size"], seed=options["seed"], by_group=options["group_split"]
    )
    n, jobs = options["search"], options["jobs"]
    search = SearchSettings(n_candidates=n, n_jobs=jobs, seed=options["seed"]) if n else None
    fitted = fit_held_out(table, settings, split_settings, search=search, store=store)
    for note in fitted.head.notes:
        say(note)
    target = models_dir / (options["name"] or options["head"])
    save_fit(target, fitted, store, table, overwrite=True)
    if options["as_json"]:
        click.echo(json.dumps({"model": str(target), **fitted.evaluation.to_dict()}, ensure_ascii=False))
        return
    split = fitted.split
    how = _how(split, fitted.evaluation.n_groups)
    say(f"trained on {len(split.train)}, measured on {len(split.test)} ({how}), {fitted.head.seconds:.1f} s")
    click.echo(format_report(fitted.evaluation))
    click.echo(f"model: {target}")


def _hyper_parameters(options: dict[str, Any]) -> dict[str, Any]:
    """What was given, in the words of the head's settings: these refuse what a head does not have."""
    values: dict[str, Any] = {
        name: options[name] for name in ("C", "hidden", "alpha", "learning_rate", "max_epochs")
    }
    values["gamma"] = _number_or_word(options["gamma"], float)
    values = {name: value for name, value in values.items() if value is not None}
    if options["pca"] is not None:
        values["pca"] = None if options["pca"] == "none" else _number_or_word(options["pca"], int)
    balanced = options["class_weight"] == "balanced"
    return {**values, "calibration": options["calibrate"], "balanced": balanced, "seed": options["seed"]}


def _number_or_word(text: str | None, number: Callable[[str], float]) -> float | str | None:
    try:
        return None if text is None else number(text)
    except ValueError:
        return text


def _how(split: Any, n_persons: int | None) -> str:
    if split.origin == "given":
        shared = f"; {len(split.shared_groups)} persons are on both sides!" if split.shared_groups else ""
        return f"the data's own test part{shared}"
    if n_persons is None:
        return "drawn; persons are not known, see --person-pattern of fer embed"
    return "drawn, persons kept apart" if split.settings.by_group else "drawn without regard to persons"


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
    "--target-per-class", type=int, help="Fill smaller classes up to so many augmented images an epoch."
)
@click.option("--label-smoothing", type=float, help="Share of each label spread over all classes.")
@click.option("--focal-gamma", type=float, help="Focal loss; 0 is plain cross-entropy.")
@click.option("--weight-decay", type=float, help="Decoupled, as in AdamW.")
@click.option("--clip-norm", type=float, help="Shorten longer gradients; 0 never.")
@click.option("--ema", type=float, help="Momentum of the averaged weights; 0 for none.")
@click.option("--batch-size", type=int, help="Images a step.")
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
@click.option("--votes", type=FILE, help="CSV of votes a class for each image, as soft labels (FER+).")
@click.option("--teacher", type=DATA, help="Model or ensemble whose probabilities are learnt too.")
@detector_option("'auto' takes boxes where DATA has some, or else looks at some images first", boxes=True)
@detector_weights_option
@margin_option
@click.option(
    "--cache",
    type=click.Choice(["auto", "memory", "disk"]),
    default="auto",
    show_default=True,
    help="Where decoded images are kept while training.",
)
@click.option(
    "--flip/--no-flip",
    default=False,
    show_default=True,
    help="Average with the mirrored image when predicting.",
)
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
    from ferkit.classifiers.finetune.recipe import RunOptions, load_recipe, parse_change
    from ferkit.classifiers.finetune.run import finetune
    from ferkit.core.labels import LabelSet
    from ferkit.datasets.split import SplitSettings
    from ferkit.faces.cropping import Cropping

    changes = {_SETTINGS[key]: options[key] for key in _SETTINGS if options[key] is not None}
    recipe = load_recipe(options["recipe"], changes | dict(map(parse_change, options["settings"])))
    dataset = load_data(data, options["person_pattern"])
    counts = dataset.class_counts()
    say(
        f"{len(dataset)} images in {data}, {len(counts)} classes: "
        + ", ".join(f"{k} {n}" for k, n in counts.items())
    )
    name = options["name"] or Path(options["recipe"]).stem
    made = finetune(
        dataset,
        recipe,
        Cropping.ask(options["detector"], options["detector_weights"], margin=options["margin"]),
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
        ),
    )
    figures = made.record.metrics["validation"]
    if options["as_json"]:
        click.echo(json.dumps({"model": str(made.folder), **figures}, ensure_ascii=False))
        return
    click.echo(
        f"{made.folder}: validation accuracy {figures['accuracy']:.1%}, macro-F1 "
        f"{figures['macro_f1']:.1%} "
        f"on {figures['images']} images (epoch {figures['epoch']})"
    )


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
@click.option("--data", type=DATA, help="For tflite-int8: images to find the ranges of its numbers by.")
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
    from ferkit.classifiers.finetune.export import SUFFIXES, convert_model
    from ferkit.classifiers.model import choose_model
    from ferkit.datasets.load import load_dataset

    folder = choose_model(model, models_dir).folder
    target = options["output"] or Path(f"{folder.name}{SUFFIXES[options['fmt']] or '-saved-model'}")
    dataset = load_dataset(options["data"]) if options["data"] else None
    click.echo(convert_model(folder, options["fmt"], target, dataset))


@click.command("import")
@click.argument("file", type=FILE)
@click.option("--trust", is_flag=True, help="You know who made FILE: opening it runs code that is in it.")
@click.option("--labels", help="Classes in the order of the head's numbers: a label set (aihub7), or a,b,c.")
@click.option(
    "-b", "--backbone", default="arcface", show_default=True, help="What the head's embeddings are made by."
)
@click.option("--weights", type=FILE, help="Take this file as the backbone's weights.")
@click.option("--tap", help="Where the embeddings are taken from, if not from the end.")
@click.option(
    "--detector",
    type=click.Choice(["none", "haar", "yunet"]),
    default="none",
    show_default=True,
    help="How faces were cropped for the head; 'none': it was trained on crops.",
)
@click.option("--name", help="Name of the model.  [default: that of FILE]")
@models_dir_option
@common_options
def import_head(
    file: Path, trust: bool, labels: str | None, backbone: str, weights: Path | None, tap: str | None,
    detector: str, name: str | None, models_dir: Path,
) -> None:  # fmt: skip
    """Take in a scikit-learn head from a pickle or joblib file.

    The head of an earlier project becomes a model folder like any other, which opens without running code of others.

    \b
    Examples:
        fer import emotion_mlp.pkl --trust --labels 기쁨,당황,분노,불안,상처,슬픔,중립
        fer import head.joblib --trust --backbone facenet512 --labels aihub4
    """
    import numpy as np

    from ferkit.classifiers.embedding_model import save_embedding_model
    from ferkit.classifiers.import_sklearn import import_joblib_head
    from ferkit.core.errors import ModelError
    from ferkit.core.labels import LabelSet, known_label_sets
    from ferkit.embedder.embedders import open_embedder
    from ferkit.faces.cropping import CropSettings

    names: tuple[str, ...] | None = None
    if labels is not None:
        known = labels in known_label_sets()
        names = LabelSet.named(labels).names if known else tuple(part.strip() for part in labels.split(","))
    head = import_joblib_head(file, trust=trust, labels=names)
    embedder = open_embedder(backbone, weights=weights, tap=tap)
    if embedder.dim != head.dim:
        raise ModelError(
            f"the head takes {head.dim} numbers, {backbone} gives {embedder.dim}; name its --backbone (and --tap)"
        )
    # Only to compare the head's two forms, so any numbers of the right size will do.
    X = np.random.default_rng(0).normal(size=(256, head.dim)).astype(np.float32)
    model = save_embedding_model(
        models_dir / (name or file.stem),
        head,
        X,
        embedder_settings=embedder.settings,
        embedder_fingerprint=embedder.fingerprint,
        faces=CropSettings.whole() if detector == "none" else CropSettings(detector),
        weights=embedder.weights_path,
        licence=embedder.licence,
    )
    say(f"classes: {', '.join(head.classes)}")
    click.echo(f"model: {model.folder}")
