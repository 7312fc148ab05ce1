"""Train and export: ``fer fit``, ``fer finetune``, ``fer ensemble``, ``fer export`` and ``fer import``."""

import json
import logging
from pathlib import Path
from typing import Any

import click

from ferkit.cli.command import echo
from ferkit.cli.options import (
    DETECTOR_WEIGHTS,
    FILE,
    PATH,
    SIZE,
    WordType,
    command,
    model_names,
    offer,
    open_dataset,
    option,
    print_json,
    print_result,
    recipes,
    shared,
)
from ferkit.cli.settings import Chosen, Fields, Setting

logger = logging.getLogger(__name__)

_HEADS = "ferkit.classifiers.heads"
_class_weights = option(
    "--class-weights",
    is_flag=False,
    flag_value="balanced",
    metavar="[balanced|none|CLASS=WEIGHT,…]",
    group="Training",
    help="Weigh rare classes more; or as given, such as 1=2 (classes by name, or from 0).",
)
_labels = option(
    "--labels",
    group="Training",
    help="Classes and their order: happy,sad,… or a known set: fer2013, aihub5, …  [default: the folders']",
)


@command(settings=(
    Fields(f"{_HEADS}:HeadSettings", "pca", "calibration", "seed"),
    Setting("C", float | None, None, "inverse penalty of logistic (0.01) and svm (3.0)"),
    Fields(f"{_HEADS}:MLPSettings", "hidden", "alpha", "learning_rate", "batch_size", "max_epochs",
           "patience"),
    Fields(f"{_HEADS}:SVMSettings", "gamma", "exact_rows", "landmarks"),
    Fields(f"{_HEADS}:LogisticSettings", "max_iter"),
    Fields("ferkit.datasets.split:SplitSettings", "test_size", "by_group"),
    Fields("ferkit.classifiers.fitting:SearchSettings", "n_jobs", "k", "rows"),
    Setting("memory_gb", float | None, None,
            "above this much memory embeddings stay on the disk; half of what is free if not given"),
))  # fmt: skip
@click.argument("data", required=False)
@option("--head", type=click.Choice(["mlp", "svm", "logistic", "dummy"]), default="mlp", group="Training",
        help="What is fitted.")  # fmt: skip
@option("--embeddings", group="Training",
        help="Folder of embeddings, or the start of its name.  [default: the newest of DATA, or of all]")  # fmt: skip
@option("--search", type=click.IntRange(1), metavar="N", group="Training",
        help="Try N settings by cross-validation within the training part, and take the best.")  # fmt: skip
@_class_weights
@_labels
@shared("name", help="Name of the model.  [default: that of the head]")
@option("--no-report", is_flag=True, group="Output", help="Leave out the report in models/NAME/report.")
@shared("lang", rare=True)
@shared("overwrite", "json", "cache_dir", "models_dir")
def fit(data: str | None, cache_dir: Path, models_dir: Path, settings: Chosen, **options: Any) -> None:
    """Fit a head on the embeddings of DATA, or on the newest: mlp, svm, logistic or dummy.

    Trains on train/ and measures on test/ where the data have them, or else holds out a fifth: stratified by class,
    and by person where persons are known. The model goes to models/NAME, and is what 'fer predict' and 'fer webcam'
    take from then on. The same data and settings again leave it unchanged.

    \b
    Examples:
        fer fit --head mlp
        fer fit --head svm --search 20 --name svm-tuned
        fer fit --head logistic --class-weights --set C=0.1 --embeddings data--arcface
        fer fit --class-weights 약올리기=2 --labels 비약올리기,약올리기
    """
    import numpy as np

    from ferkit.classifiers.fitting import SearchSettings
    from ferkit.classifiers.heads import HEADS, HeadSettings, head_settings
    from ferkit.core.labels import LabelSet
    from ferkit.datasets.load import load_dataset
    from ferkit.datasets.split import SplitSettings
    from ferkit.embedder.extract import changed_since
    from ferkit.embedder.store import EmbeddingStore, find_embeddings
    from ferkit.evaluation.evaluate_model import (
        fit_held_out,
        fit_request,
        is_fitted,
        load_labelled,
        save_fit,
        with_labels,
        write_fit_report,
    )
    from ferkit.evaluation.report.page import format_report

    folder = find_embeddings(cache_dir, options["embeddings"] or data)
    store = EmbeddingStore.open(folder)
    logger.info(f"embeddings: {folder}")
    table = load_labelled(store, settings["memory_gb"])
    if data and not options["embeddings"] and Path(data).is_dir() and Path(data) != folder:
        n_changed = changed_since(load_dataset(Path(data)), store, table)
        if n_changed:
            logger.warning(
                f"{n_changed} images changed since they were embedded; run 'fer embed {data}' first"
            )
    labels = LabelSet.from_text(options["labels"]) if options["labels"] else None
    if labels is not None:
        table = with_labels(table, labels)
    seed = settings["seed"]
    values = {key: value for key, value in settings.given.items() if key == "C"}
    kinds: list[type] = [HeadSettings, *HEADS.values()]
    for kind in kinds:
        values |= settings.of(kind)
    head = head_settings(options["head"], **values, class_weights=options["class_weights"] or False)
    split = SplitSettings(seed=seed, **settings.of(SplitSettings))
    n = options["search"]
    search = SearchSettings(n_candidates=n, seed=seed, **settings.of(SearchSettings)) if n else None
    target = models_dir / (options["name"] or options["head"])
    request = fit_request(table, store, head, split, search, labels)
    if target.exists() and not options["overwrite"] and is_fitted(target, request, table, store, head):
        _print_unchanged(target, options["json"])
        return
    fitted = fit_held_out(table, head, split, search=search, store=store, labels=labels)
    for note in fitted.head.notes:
        logger.info(note)
    model = save_fit(target, fitted, store, table, request=request, overwrite=True)
    on_disk = not isinstance(table.X, np.ndarray)
    if on_disk and not options["no_report"]:
        logger.info("no report is written where the embeddings stay on the disk")
    report = None
    if not (on_disk or options["no_report"]):
        report = write_fit_report(model, fitted, store, table, options["lang"])
    if options["json"]:
        print_result(json.dumps({"model": str(target), **fitted.evaluation.to_dict()}, ensure_ascii=False))
        return
    how = _how(fitted.split, fitted.evaluation.n_groups)
    logger.info(
        f"trained on {len(fitted.split.train)}, measured on {len(fitted.split.test)} ({how}), "
        f"{fitted.head.seconds:.1f} s"
    )
    print_result(format_report(fitted.evaluation, options["lang"]))
    print_result(f"model: {target}" + (f", report: {report}" if report else ""))


def _print_unchanged(folder: Path, as_json: bool) -> None:
    from ferkit.classifiers.model import read_model

    metrics = read_model(folder).report
    if as_json:
        print_json({"model": str(folder), "unchanged": True, **metrics})
    else:
        echo(f"model: {folder}, unchanged: fitted before on the same data with the same settings")


def _how(split: Any, n_persons: int | None) -> str:
    if split.origin == "given":
        both = f"; {len(split.shared_groups)} persons are on both sides!" if split.shared_groups else ""
        return f"the data's own test part{both}"
    if n_persons is None:
        return "drawn; persons are not known, see --person-pattern of fer embed"
    return "drawn, persons kept apart" if split.settings.by_group else "drawn without regard to persons"


_RECIPE = "ferkit.classifiers.finetune.recipe"


@command(rest=True, settings=(
    Fields("ferkit.classifiers.finetune.recipe:RunOptions", "validate_on", "votes", "teacher", "cache",
           "flip"),
    Setting("val_size", float, 0.1, "share of train/ that is held out where there is no val/"),
    Fields("ferkit.faces.cropping:CropSettings", "margin"), DETECTOR_WEIGHTS,
    Fields(f"{_RECIPE}:RecipeSettings", "monitor", "precision", "seed", "network", "augmentation",
           "sampling", "loss", "optimizer", listed=True),
    Fields(f"{_RECIPE}:StageSettings", under="stages.NUMBER.", listed=True),
))  # fmt: skip
@click.argument("data", type=PATH)
@option("-r", "--recipe", group="Training", shell_complete=offer(recipes),
        help="quick, fer2013, vgg, ferkit, ferkit-second; of earlier projects aihub, interview, interview-cnn, "
        "teasing, vgg-transfer, and better ways to their aims (aihub-better …); or a TOML file.  "
        "[default: quick]")  # fmt: skip
@option("-b", "--backbone", type=WordType("backbone"), group="Training",
        help="ferkit2 or ferkit (with their weights), small_resnet, vgg48, baseline_cnn, mini_xception, "
        "efficientnet-b0 (-b1, -b2, -v2-b0), convnext-tiny, mobilenet-v3-large (-small), resnet50-v2, or a .keras or "
        ".h5 file.")  # fmt: skip
@option("--weights", group="Training",
        help="imagenet, none, ferkit, or the .keras or .h5 file of an earlier run.")  # fmt: skip
@option("--epochs", type=int, group="Training", help="Of the last stage.")
@option("--batch-size", type=int, group="Training", help="Images a step.")
@_class_weights
@_labels
@option("--env-file", type=FILE, rare=True, group="Training",
        help="Also take the settings of the AI Hub project's .env file; each line is reported.")  # fmt: skip
@shared("data_detector")
@shared("person_pattern", "columns", "images", "no_face", rare=True)
@shared("name", help="Name of the model.  [default: that of the recipe]")
@option("--restart", rare=True, is_flag=True, group="Output",
        help="Begin again where an interrupted run of this name would be continued.")  # fmt: skip
@shared("overwrite", "json", "cache_dir", "models_dir")
def finetune(data: Path, cache_dir: Path, models_dir: Path, settings: Chosen, **options: Any) -> None:
    """Train a network on faces, in stages; stop and resume at any time.

    DATA is what 'fer embed' takes. The best epoch becomes models/NAME, which predicts with ONNX Runtime
    alone. Run the same command again to go on after an interrupt. Checkpoint, curves.png and history.csv of
    a run that is not finished lie in the cache folder, in finetune/NAME.

    \b
    Examples:
        fer finetune data/
        fer finetune data/ --backbone ferkit2
        fer finetune data/ --recipe aihub --labels aihub5 --batch-size 32
        fer finetune data/ --set augmentation.rotate=20 --set stages.last.mix=false
        fer finetune other/ --recipe vgg-transfer-better --weights models/vgg/network.keras
    """
    from ferkit.classifiers.finetune.recipe import RunOptions, load_recipe, parse_change
    from ferkit.classifiers.finetune.run import finetune
    from ferkit.core.labels import LabelSet
    from ferkit.core.spellings import read_old_env
    from ferkit.core.weights import EDITIONS
    from ferkit.datasets.split import SplitSettings
    from ferkit.faces.cropping import Cropping, CropSettings

    old = read_old_env(options["env_file"]) if options["env_file"] else {}
    labels, named = options["labels"] or old.pop("labels", None), options["name"] or old.pop("name", None)
    recipe_name = options["recipe"] or ("aihub" if options["env_file"] else "quick")
    given = {
        "network.backbone": options["backbone"],
        "network.weights": options["weights"],
        "stages.last.epochs": options["epochs"],
        "loss.class_weights": options["class_weights"],
        "batch_size": options["batch_size"],
    }
    changes = dict(parse_change(f"{key}={value}") for key, value in old.items())
    changes |= {key: value for key, value in given.items() if value is not None}
    for key, value in settings.rest.items():
        read = parse_change(f"{key}={value}")[1] if isinstance(value, str) else value
        size = key.endswith("_wh") and not isinstance(read, list)
        changes[key] = SIZE.convert(str(read), None, None) if size else read
    recipe = load_recipe(recipe_name, changes)
    dataset = open_dataset(data, options["person_pattern"])
    stem = Path(recipe_name).stem
    name = named or (f"{stem}-own" if stem in EDITIONS else stem)
    made = finetune(
        dataset,
        recipe,
        Cropping.ask(
            options["detector"],
            settings["detector_weights"],
            no_face=options["no_face"],
            **settings.of(CropSettings),
        ),
        RunOptions(
            model=models_dir / name,
            work=cache_dir / "finetune" / name,
            labels=LabelSet.from_text(labels) if labels else None,
            holdout=SplitSettings(test_size=settings["val_size"], seed=recipe.seed),
            restart=options["restart"],
            overwrite=options["overwrite"],
            **settings.of(RunOptions),
        ),
    )
    figures = made.record.metrics["validation"]
    if options["json"]:
        print_result(json.dumps({"model": str(made.folder), **figures}, ensure_ascii=False))
        return
    print_result(
        f"{made.folder}: validation accuracy {figures['accuracy']:.1%}, macro-F1 "
        f"{figures['macro_f1']:.1%} on {figures['images']} images (epoch {figures['epoch']})"
    )


@command()
@click.argument("members", nargs=-1, required=True, shell_complete=offer(model_names))
@shared("name", default="ensemble")
@option("--rule", type=click.Choice(["mean", "weighted", "logit-mean"]), default="mean",
        help="Mean of the probabilities, weighted by validation accuracy, or of their logarithms.")  # fmt: skip
@option("--weight", type=float, multiple=True, help="For weighted: one a model, in their order.")
@shared("overwrite", "models_dir")
def ensemble(members: tuple[str, ...], models_dir: Path, **options: Any) -> None:
    """Join several models into one that averages them.

    The ensemble contains copies of its MEMBERS (names in the models folder, or folders), and is used,
    measured and taken as a teacher like any other model.

    \b
    Example:
        fer ensemble vgg mlp --rule logit-mean --name both
    """
    from ferkit.classifiers.kinds import save_ensemble
    from ferkit.classifiers.model import choose_model

    made = save_ensemble(
        models_dir / options["name"],
        [choose_model(member, models_dir).folder for member in members],
        rule=options["rule"],
        weights=options["weight"] or None,
        overwrite=options["overwrite"],
    )
    weights = made.record.parts["weights"]
    listed = ", ".join(f"{member} {weight:.2f}" for member, weight in zip(members, weights, strict=True))
    echo(f"{made.folder}: {listed}")


@command()
@click.argument("model", shell_complete=offer(model_names))
@option("-f", "--format", default="onnx", help="What to write.",
        type=click.Choice(["onnx", "keras", "h5", "saved-model", "tflite", "tflite-int8"]))  # fmt: skip
@option("-o", "--output", type=PATH,
        help="File or folder to make.  [default: MODEL with the format's ending]")  # fmt: skip
@option("--data", type=PATH, help="For tflite-int8: images to find the ranges of its numbers by.")
@shared("models_dir")
def export(model: str, models_dir: Path, **options: Any) -> None:
    """Write a fine-tuned network in another format.

    MODEL is a name in the models folder, or a folder. Every format takes RGB crops of 0..255 as float32
    (n, H, W, 3) and gives probabilities; it is compared with the network before it is written.

    \b
    Examples:
        fer export aihub --format tflite
        fer export aihub --format tflite-int8 --data data/
    """
    from ferkit.classifiers.finetune.recipe import open_keras
    from ferkit.classifiers.model import choose_model

    folder = choose_model(model, models_dir).folder
    open_keras()
    from ferkit.classifiers.finetune.export import SUFFIXES, convert_model

    target = options["output"] or Path(f"{folder.name}{SUFFIXES[options['format']] or '-saved-model'}")
    dataset = open_dataset(options["data"], None) if options["data"] else None
    echo(str(convert_model(folder, options["format"], target, dataset)))


@command("import")
@click.argument("file", type=FILE)
@option("--trust", is_flag=True, help="You know who made FILE: opening it runs code that is in it.")
@option("--labels", help="Classes in the order of the head's numbers: a label set (aihub7), or a,b,c.")
@shared("backbone", default="arcface", help="What the head's embeddings are made by.")
@option("--weights", type=FILE, group="Network", help="Take this file as the backbone's weights.")
@shared("layer", help="Where the embeddings are taken from, if not from the end.")
@shared("detector", type=click.Choice(["none", "haar", "yunet"]), default="none",
        help="How faces were cropped for the head; 'none': it was trained on crops.")  # fmt: skip
@shared("name", help="Name of the model.  [default: that of FILE]")
@shared("models_dir")
def import_head(file: Path, models_dir: Path, **options: Any) -> None:
    """Take in a scikit-learn head from a pickle or joblib file.

    The head of an earlier project becomes a model folder like any other, which opens without running code of others.

    \b
    Examples:
        fer import emotion_mlp.pkl --trust --labels 기쁨,당황,분노,불안,상처,슬픔,중립
        fer import head.joblib --trust --backbone facenet512 --labels aihub4
    """
    import numpy as np

    from ferkit.classifiers.head_onnx import import_joblib_head
    from ferkit.classifiers.kinds import save_embedding_model
    from ferkit.core.errors import ModelError
    from ferkit.core.labels import LabelSet
    from ferkit.embedder.embedders import open_embedder
    from ferkit.faces.cropping import CropSettings

    names = LabelSet.from_text(options["labels"]).names if options["labels"] else None
    head = import_joblib_head(file, trust=options["trust"], labels=names)
    embedder = open_embedder(options["backbone"], weights=options["weights"], layer=options["layer"])
    if embedder.dim != head.dim:
        raise ModelError(
            f"the head takes {head.dim} numbers, {options['backbone']} gives {embedder.dim}; "
            "name its --backbone (and --layer)"
        )
    # Only to compare the head's two forms, so any numbers of the right size will do.
    X = np.random.default_rng(0).normal(size=(256, head.dim)).astype(np.float32)
    model = save_embedding_model(
        models_dir / (options["name"] or file.stem),
        head,
        X,
        embedder_settings=embedder.settings,
        embedder_fingerprint=embedder.fingerprint,
        faces=CropSettings.whole() if options["detector"] == "none" else CropSettings(options["detector"]),
        weights=embedder.weights_path,
        licence=embedder.licence,
    )
    logger.info(f"classes: {', '.join(head.classes)}")
    echo(f"model: {model.folder}")
