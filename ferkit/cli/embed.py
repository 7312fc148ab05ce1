"""``fer crop`` and ``fer embed``."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ferkit.cli.command import echo
from ferkit.cli.options import (
    DETECTOR_WEIGHTS,
    FILE,
    FOLDER,
    PATH,
    SEED,
    SIZE,
    WORKERS,
    command,
    given_columns,
    open_dataset,
    option,
    print_json,
    shared,
)
from ferkit.cli.settings import Chosen, Fields, Setting
from ferkit.core.console import table
from ferkit.core.files import spelled

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset
    from ferkit.embedder.embedders import Embedder
    from ferkit.embedder.extract import ExtractionSummary, StoreOptions
    from ferkit.embedder.parts import Finished, Job, Planned
    from ferkit.embedder.shards import Request
    from ferkit.faces.cropping import Cropping

logger = logging.getLogger(__name__)


@command(settings=(
    Fields("ferkit.faces.cropping:CropSettings", "align"), DETECTOR_WEIGHTS,
    Fields("ferkit.embedder.extract:StoreOptions", "dtype", "batch_size", "rows_per_shard"),
    Setting("pool", tuple[int, int] | None, None,
            "columns x rows that a spatial layer is averaged to; at most 7x7 if not given"),
    Fields("ferkit.embedder.embedders:InputOptions", "input_size=size_wh", "channels", "scale",
           "offset"),
    WORKERS, Setting("threads", int | None, None,
            "threads of the network on one batch; one, and as many batches at a time as there are cores, if not given"),
    Setting("profile", bool, False, "print where the time went, a line a stage"), SEED,
))  # fmt: skip
@click.argument("data", type=PATH)
@shared("backbone")
@option("--weights", type=FILE, group="Network", rare=True,
        help="Take this file as the network's weights instead of fetching them.")  # fmt: skip
@shared("layer", "data_detector", "margin", "no_face", "person_pattern", "columns")
@shared("images", rare=True)
@option("--repair", is_flag=True, group="Output", rare=True, help="Make damaged shards again.")
@shared("name", help="Name of the embeddings.  [default: that of DATA]")
@shared("json", rare=True)
@shared("cache_dir")
@option("--on", metavar="ENGINE", group="Several processes or machines",
        help="Embed on processes:N, ray, ray://ADDRESS, dask or dask://ADDRESS.")  # fmt: skip
@option("--plan", is_flag=True, group="Several processes or machines",
        help="Only settle what is to be done, for parts.")  # fmt: skip
@option("--part", metavar="K/N", group="Several processes or machines",
        help="Do the K-th of N parts of the plan; 'auto' asks Slurm, 'auto/N' Kubernetes too.")  # fmt: skip
@option("--finish", is_flag=True, group="Several processes or machines",
        help="Check that all parts are there, and end the plan.")  # fmt: skip
def embed(data: Path, settings: Chosen, **options: Any) -> None:
    """Turn images into embeddings; stop and resume at any time.

    DATA is a folder data/<emotion>/*.jpg (also with train/ and test/ above), a table path,label[,split][,group]
    as CSV, fer2013.csv, or an .npz file with images and labels.

    \b
    Examples:
        fer embed data/
        fer embed data/ --backbone onnx:network.onnx --layer stage4 --set dtype=float16
        fer embed labels.csv --detector yunet --margin 0.2
        fer embed data/ --on processes:4
        fer embed data/ --plan; fer embed data/ --part 3/64; fer embed data/ --finish
    """
    from ferkit.datasets.dataset import left_out_counts
    from ferkit.embedder.cluster import parse_cluster, run_on
    from ferkit.embedder.extract import embed_dataset
    from ferkit.embedder.parts import finish, make_plan

    if sum([options["on"] is not None, options["plan"], options["part"] is not None, options["finish"]]) > 1:
        raise click.UsageError("--on, --plan, --part and --finish exclude each other")
    if options["part"] is not None:
        _part(data, settings, options)
        return
    cluster = None if options["on"] is None else parse_cluster(options["on"])
    dataset = open_dataset(data, options["person_pattern"])
    if options["finish"]:
        folder = _planned_folder(options["name"] or dataset.name, options)
        done = finish(dataset, folder, repair=options["repair"])
        _print_finished(folder, done, options["json"])
        return
    opened = _open(dataset, settings, options)
    if options["plan"] or cluster is not None:
        planned = make_plan(dataset, *opened, _request(settings, options, opened[0]))
        if cluster is None:
            _print_planned(planned, data, options["json"])
            return
        store = planned.store
        summary = run_on(cluster, planned, _job(store.folder, data, settings, options))
        summary.n_deleted = finish(dataset, store.folder).n_deleted
    else:
        store, summary = embed_dataset(dataset, *opened, workers=settings["workers"])
    if not summary.n_done + summary.n_kept:
        raise store.why_empty()
    if settings["profile"] and not options["json"]:
        _print_profile(summary)
    _print_summary(summary, store.folder, options["json"], left_out=left_out_counts(dataset.left_out))


def _open(
    dataset: "Dataset", settings: Chosen, options: dict[str, Any]
) -> "tuple[Embedder, Cropping, StoreOptions]":
    """The network, how faces are taken out, and where the embeddings go."""
    from ferkit.embedder.embedders import InputOptions, open_embedder
    from ferkit.embedder.extract import StoreOptions, default_backbone, open_for_store
    from ferkit.faces.cropping import Cropping, CropSettings, resolve_cropping

    name = options["name"] or dataset.name
    crop = Cropping.ask(
        options["detector"], settings["detector_weights"],
        margin=options["margin"], no_face=options["no_face"], **settings.of(CropSettings),
    )  # fmt: skip
    pool, layer = settings["pool"], options["layer"]
    spec = options["backbone"] or default_backbone(options["cache_dir"], name)
    backbone = {
        "weights": options["weights"],
        "pool_hw": (pool[1], pool[0]) if pool else None,
        "options": InputOptions(**settings.of(InputOptions)),
        "threads": settings["threads"],
    }
    if layer == "auto":
        found = open_embedder(spec, **backbone)
        layer = _best_layer(dataset, found, crop, settings["seed"], settings["threads"])
    store_options = StoreOptions(
        options["cache_dir"], options["name"], repair=options["repair"], **settings.of(StoreOptions)
    )
    crop = resolve_cropping(dataset, crop)
    logger.info(crop.reason)
    embedder = open_for_store(spec, dataset, crop, store_options, layer=layer, **backbone)
    return embedder, crop, store_options


def _request(settings: Chosen, options: dict[str, Any], embedder: "Embedder") -> "Request":
    from ferkit.embedder.shards import Request

    backbone, weights = options["backbone"] or embedder.settings.backbone, options["weights"]
    if backbone.startswith("onnx:") and weights is None:
        backbone, weights = embedder.settings.backbone, Path(backbone.removeprefix("onnx:"))
    looked = settings["detector_weights"]
    return Request(backbone, options["layer"], options["detector"], _full_name(weights), _full_name(looked))


def _full_name(path: Path | None) -> str | None:
    return None if path is None else spelled(path)


def _planned_folder(name: str, options: dict[str, Any]) -> Path:
    from ferkit.embedder.parts import find_plan

    asked = {
        key: options[key]
        for key in ("backbone", "layer", "detector")
        if click.get_current_context().get_parameter_source(key) != ParameterSource.DEFAULT
    }
    if asked.get("backbone", "").startswith("onnx:"):
        asked["backbone"] = f"onnx:{Path(asked['backbone'].removeprefix('onnx:')).name}"
    return find_plan(options["cache_dir"], name, asked)


def _job(folder: Path, data: Path, settings: Chosen, options: dict[str, Any]) -> "Job":
    from ferkit.embedder.parts import Job

    return Job(
        spelled(folder),
        spelled(data),
        tuple(given_columns().items()),
        _full_name(options["weights"]),
        _full_name(settings["detector_weights"]),
        settings["workers"],
        settings["threads"],
    )


def _part(data: Path, settings: Chosen, options: dict[str, Any]) -> None:
    from ferkit.datasets.load import open_source
    from ferkit.embedder.parts import PartWorker, run_part, spans
    from ferkit.embedder.shards import parse_part

    part = parse_part(options["part"])
    name = options["name"] or open_source(data, given_columns())[0]
    folder = _planned_folder(name, options)
    worker = PartWorker(_job(folder, data, settings, options))
    numbers = part.of(worker.plan.numbers)
    logger.info(f"part {part.index} of {part.n}: {len(numbers)} shards of {folder}")
    summary, busy = run_part(worker, numbers)
    if busy:
        logger.info(f"{len(busy)} shards are being made by another process: {spans(busy)}")
    _print_summary(summary, folder, options["json"], busy=busy)


def _print_planned(planned: "Planned", data: Path, as_json: bool) -> None:
    if as_json:
        values = {"store": str(planned.store.folder), "shards": planned.n_open, "images": planned.n_new}
        print_json({**values, "kept": planned.n_kept})
        return
    n = len(planned.plan.ranges)
    echo(
        f"{planned.n_new} images planned now, {planned.n_kept} are there; {planned.n_open} of {n} shards to be made: "
        f"{planned.store.folder}"
    )
    logger.info(f"next: fer embed {data} --part 1/N to N/N, on any machine; then fer embed {data} --finish")


def _print_finished(folder: Path, done: "Finished", as_json: bool) -> None:
    if as_json:
        print_json({"store": str(folder), **asdict(done)})
        return
    if done.n_later:
        logger.warning(
            f"{done.n_later} images came or changed after the plan; --plan gives them ranges of their own"
        )
    echo(
        f"finished: {done.n_kept} images, {done.n_failed} of them failed, {done.n_deleted} no longer in the data: "
        f"{folder}"
    )


def _print_summary(summary: "ExtractionSummary", folder: Path, as_json: bool, **more: Any) -> None:
    if as_json:
        print_json({"store": str(folder), **asdict(summary), **more})
        return
    for path, reason in summary.failures[:10]:
        logger.info(f"  failed: {path}: {reason}")
    if len(summary.failures) > 10:
        logger.info(f"  … and {len(summary.failures) - 10} more; the reasons are in {folder}/shard-*.json")
    rate = (summary.n_done + len(summary.failures)) / max(summary.seconds, 1e-3)
    before = f", {summary.n_failed_before} failed before" if summary.n_failed_before else ""
    echo(
        f"{summary.n_done} embedded ({rate:.0f}/s), {summary.n_kept} were there, {len(summary.failures)} failed"
        f"{before}, {summary.n_deleted} no longer in the data: {folder}"
    )


def _print_profile(summary: "ExtractionSummary") -> None:
    """One table: where the time went, a line a stage."""
    n = max(1, summary.n_done + len(summary.failures))
    stages = [*summary.stages.items(), ("all, by the clock", summary.seconds)]
    rows = [(stage, f"{seconds:.2f}", f"{1000 * seconds / n:.2f}") for stage, seconds in stages]
    click.echo(table(("stage", "seconds of all threads", "ms an image"), rows, right=[1, 2]))


def _best_layer(
    dataset: "Dataset", embedder: "Embedder", crop: "Cropping", seed: int, threads: int | None
) -> str:
    from ferkit.embedder.extract import search_layer

    logger.info("trying the inner layers on a sample …")
    ranking = search_layer(dataset, embedder, crop, seed=seed, threads=threads)
    rows = [
        (
            found.layer.name,
            found.layer.tensor,
            "x".join(map(str, found.layer.shape)),
            str(found.dim),
            f"{found.accuracy:.1%}",
            f"{found.images_per_s:.0f}",
        )
        for found in ranking
    ]
    logger.info(table(("layer", "tensor", "shape", "numbers", "accuracy", "images/s"), rows, right=[3, 4, 5]))
    logger.info(f"taking {ranking[0].layer.name}; accuracy is cross-validated on a sample, only to compare")
    return ranking[0].layer.name


@command(settings=(
    DETECTOR_WEIGHTS,
    Fields("ferkit.faces.crop_image:CropRunSettings", "use_boxes", "box_frame", "detect_size",
           "min_size", "min_score", "min_sharpness", "gray", "format", "quality"),
    WORKERS,
))  # fmt: skip
@click.argument("source", type=PATH, metavar="SRC")
@click.argument("out", type=FOLDER)
@option("-a", "--annotations", type=click.Choice(["auto", "aihub", "voc", "coco", "csv", "none"]),
        default="auto", group="Data", help="Kind of boxes that SRC holds; 'auto' looks, 'none' takes SRC "
        "for an ordinary folder or table.")  # fmt: skip
@option("--images", type=FOLDER, group="Data",
        help="For COCO: the folder of the images.  [default: that of SRC]")  # fmt: skip
@shared("person_pattern", "columns")
@shared("detector", help="Finds faces where no box is known; 'auto' is YuNet, or Haar where YuNet's "
        "weights cannot be had; 'none' cuts out known boxes only.")  # fmt: skip
@option("--faces", type=click.Choice(["largest", "all", "skip"]), default="largest", group="Faces",
        help="Of several faces take the largest or all, or skip the image.")  # fmt: skip
@shared("no_face", help="Leave images without a face out, or take them whole.")
@option("-s", "--size", type=SIZE, default="224", group="Crops",
        help="Of the crops: 224, or width x height.")  # fmt: skip
@shared("margin", group="Crops")
@option("--align/--no-align", default=False, group="Crops",
        help="Turn faces upright by eyes, nose and mouth; else crops are squares around the box.")  # fmt: skip
@option("--redo", is_flag=True, group="Output",
        help="Throw away what OUT holds of other settings, and begin again.")  # fmt: skip
@shared("json")
def crop(source: Path, out: Path, settings: Chosen, **options: Any) -> None:
    """Cut faces out of images; stop and resume at any time.

    SRC is a folder of images (data/<emotion>/*.jpg, also with train/ and test/ above), AI Hub's folders with their
    JSON files, a folder with VOC's XML files, COCO's JSON file, or a CSV table, with or without boxes.

    OUT keeps classes, splits and file names. OUT/labels.csv is the data set of the crops, OUT/crops.csv lists every
    face with what became of it and why, OUT/contact-sheets shows each class at a glance.

    \b
    Examples:
        fer crop photos/ faces/
        fer crop aihub/ faces/ --size 224 --margin 0.2
        fer crop photos/ faces/ --detector yunet --align --size 112 --set format=png
        fer crop boxes.csv faces/ --size 48 --faces all --set gray=true
    """
    from ferkit.datasets.dataset import AIHUB_PERSON
    from ferkit.datasets.formats.load import read_annotated
    from ferkit.faces.crop_dataset import crop_dataset
    from ferkit.faces.crop_image import CropRunSettings
    from ferkit.faces.cropping import Cropping, cropping_for_files

    pattern = options["person_pattern"] or AIHUB_PERSON
    annotated = read_annotated(source, options["annotations"], options["images"], pattern, given_columns())
    n_boxes = sum(sample.box is not None for sample in annotated.dataset.samples)
    counts = ", ".join(f"{name} {n}" for name, n in annotated.dataset.class_counts().items())
    logger.info(f"{len(annotated.dataset)} images in {source}, {n_boxes} with a box: {counts or 'no labels'}")
    if annotated.problems:
        path, reason = annotated.problems[0]
        logger.info(
            f"{len(annotated.problems)} remarks on the annotations, listed in crops.csv; the first: {path}: {reason}"
        )
    all_known = settings["use_boxes"] and n_boxes == len(annotated.dataset) and not options["align"]
    if settings["detector_weights"] and options["detector"] not in ("auto", "yunet", "mediapipe"):
        raise click.UsageError(
            f"the detector {options['detector']} takes no weights; leave detector_weights out"
        )
    asked = Cropping.ask(
        options["detector"], settings["detector_weights"],
        align=options["align"], margin=options["margin"], no_face=options["no_face"],
    )  # fmt: skip
    cropping = cropping_for_files(asked, all_known=all_known)
    logger.info(cropping.reason)
    run = CropRunSettings(
        faces=cropping.settings,
        which=options["faces"],
        size_wh=options["size"],
        **settings.of(CropRunSettings),
    )
    summary = crop_dataset(
        annotated, out, run, weights=cropping.weights, workers=settings["workers"], redo=options["redo"]
    )
    if options["json"]:
        click.echo(json.dumps(asdict(summary), ensure_ascii=False, default=str))
        return
    left_out = {k: n for k, n in summary.statuses.items() if k not in ("cropped", "whole")}
    if left_out:
        listed = ", ".join(f"{n} {status}" for status, n in left_out.items())
        logger.info(f"left out: {listed}; see {summary.report}")
    removed = f", {summary.n_removed} of old removed" if summary.n_removed else ""
    done = f"{summary.n_done} read now{removed}"
    echo(f"{summary.n_crops} crops of {summary.n_images} images ({done}): {summary.table}")
