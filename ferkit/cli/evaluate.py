"""``fer eval``."""

import json
from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import (
    DATA,
    FOLDER,
    common_options,
    detector_option,
    detector_weights_option,
    is_quiet,
    lang_option,
    load_data,
    models_dir_option,
    person_option,
    say,
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
@click.option("--out", type=FOLDER, help="Folder for the report.  [default: <model>/eval-<data>]")
@lang_option
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Threads that read pictures.  [default: one a core]")
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
    """Measure a model on labelled pictures.

    MODEL is a model's folder, or its name in --models-dir. DATA is as for 'fer embed'. Prints the figures and writes
    a report into a folder: report.html, which needs no other file, the same as Markdown and JSON, and plots.
    It also says whether the model was trained on these pictures, how far its probabilities can be trusted, and
    what is gained by leaving the unsure ones out.

    \b
    Examples:
        fer eval mlp data/test
        fer eval mlp other_faces.csv --lang ko --out report/
        fer eval ferkit aihub/ --by sex --by age
    """
    from ferkit.core.progress import Progress
    from ferkit.embedder.run import CropOptions, open_cropper, settle_cropping
    from ferkit.evaluation.metrics import evaluate as measure
    from ferkit.evaluation.report import format_report, write_comparison, write_report
    from ferkit.evaluation.score import in_words_of, labelled_part, score
    from ferkit.evaluation.single import check_columns, single_comparison, timed
    from ferkit.inference.models import choose_model, open_model

    folder = choose_model(model, models_dir)
    trained = open_model(folder)
    whole = load_data(data, options["person_pattern"])
    dataset = labelled_part(whole, options["split"])
    check_columns(dataset, options["by"])
    say(f"{len(dataset)} labelled images of {data}")
    faces, detector = trained.faces, options["detector"]
    if detector == "auto" and faces.detector not in ("none", "given"):
        detector = faces.detector
    asked = CropOptions(detector, options["detector_weights"], faces.align, faces.margin, faces.faceless)
    cropping = settle_cropping(dataset, asked)
    say(cropping.reason)
    cropper = open_cropper(cropping, trained.classifier)
    with Progress("evaluating", quiet=is_quiet()) as progress:
        scores = score(
            dataset, trained.classifier, cropper,
            batch_size=options["batch_size"], workers=options["workers"], progress=progress,
        )  # fmt: skip
    y_true, changed = in_words_of(trained.labels, scores.y_true)
    if changed:
        say("taken as: " + ", ".join(f"{name} = {known}" for name, known in changed.items()))
    for path, reason in scores.failures[:10]:
        say(f"  failed: {path}: {reason}")
    evaluation = measure(y_true, scores.proba, trained.labels, scores.groups, options["seed"])
    found = single_comparison(
        trained.name, folder, trained.labels, whole, scores, y_true,
        by=options["by"], seed=options["seed"], costs=timed(folder, trained.classifier, cropper, dataset),
    )  # fmt: skip
    for note in found.contenders[0].notes:
        say(f"note: {note}")
    out = options["out"] or folder / f"eval-{dataset.name}"
    write_report(evaluation, out, options["lang"])
    files = write_comparison(found, out, options["lang"], dataset, page=not options["no_html"])
    if options["as_json"]:
        failures = [{"path": path, "reason": reason} for path, reason in scores.failures]
        click.echo(json.dumps({**evaluation.to_dict(), "failures": failures}, ensure_ascii=False))
        return
    click.echo(format_report(evaluation, options["lang"]))
    if scores.failures:
        click.echo(f"{len(scores.failures)} pictures could not be read and are not in these figures")
    click.echo(f"report: {files[0]}")
