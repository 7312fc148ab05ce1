"""``fer crop``."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ferkit.cli.command import echo
from ferkit.cli.options import (
    DETECTOR_WEIGHTS,
    FOLDER,
    PATH,
    SIZE,
    WORKERS,
    command,
    given_columns,
    option,
    shared,
)
from ferkit.cli.settings import Chosen, Fields

logger = logging.getLogger(__name__)


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
