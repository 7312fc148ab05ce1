"""``fer crop``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import (
    DATA,
    FOLDER,
    SIZE,
    DetectorType,
    common_options,
    detector_weights_option,
    given_columns,
    margin_option,
    person_option,
    say,
)


@click.command()
@click.argument("source", type=DATA, metavar="SRC")
@click.argument("out", type=FOLDER)
@click.option(
    "-a",
    "--annotations",
    type=click.Choice(["auto", "aihub", "voc", "coco", "csv", "none"]),
    default="auto",
    show_default=True,
    help="Kind of boxes that SRC holds; 'auto' looks, 'none' takes SRC for an ordinary folder or table.",
)
@click.option("--pictures", type=FOLDER, help="For COCO: the folder of the images.  [default: that of SRC]")
@click.option(
    "-d",
    "--detector",
    type=DetectorType(),
    default="auto",
    show_default=True,
    help="Finds faces where no box is known; 'auto' is YuNet, or Haar where YuNet's weights cannot be had; "
    "'none' cuts out known boxes only.",
)
@detector_weights_option
@click.option(
    "--detect-size",
    type=click.IntRange(64),
    default=640,
    show_default=True,
    help="The detector sees images scaled down to this longer side; more finds smaller faces, slower.",
)
@click.option(
    "--use-boxes/--ignore-boxes", default=True, show_default=True, help="Prefer known boxes to a detector."
)
@click.option(
    "--box-frame",
    type=click.Choice(["auto", "upright", "stored"]),
    default="auto",
    show_default=True,
    help="Known boxes are in the image as seen, or in its pixels before the EXIF rotation.",
)
@click.option(
    "-s", "--size", type=SIZE, default="224", show_default=True, help="Of the crops: 224, or width x height."
)
@margin_option
@click.option(
    "--align/--no-align",
    default=False,
    show_default=True,
    help="Turn faces upright by eyes, nose and mouth; else crops are squares around the box.",
)
@click.option("--gray/--colour", default=False, show_default=True, help="One channel or three.")
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(["jpg", "png", "webp"]),
    default="jpg",
    show_default=True,
    help="Of the crops' files.",
)
@click.option(
    "--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of jpg and webp files."
)
@click.option(
    "--faces",
    type=click.Choice(["largest", "all", "skip"]),
    default="largest",
    show_default=True,
    help="Of several faces take the largest or all, or skip the image.",
)
@click.option(
    "--faceless",
    type=click.Choice(["skip", "whole"]),
    default="skip",
    show_default=True,
    help="Leave images without a face out, or take them whole.",
)
@click.option(
    "--min-size",
    type=click.FloatRange(0),
    default=24,
    show_default=True,
    help="Leave out faces with a shorter side of fewer pixels.",
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    help="Leave out faces that the detector is less sure of.  [default: the detector's own limit]",
)
@click.option(
    "--min-sharpness",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Leave out crops that are more blurred: 0 takes all, 0.3 leaves out what is hard to read.",
)
@click.option("--redo", is_flag=True, help="Throw away what OUT holds of other settings, and begin anew.")
@click.option("--workers", type=click.IntRange(1), help="Threads.  [default: one a core]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@person_option
@common_options
def crop(source: Path, out: Path, **options: Any) -> None:
    """Cut faces out of images; stop and resume at any time.

    SRC is a folder of images (data/<emotion>/*.jpg, also with train/ and test/ above), AI Hub's folders with their
    JSON files, a folder with VOC's XML files, COCO's JSON file, or a CSV table, with or without boxes.

    OUT keeps classes, splits and file names. OUT/labels.csv is the data set of the crops, OUT/crops.csv lists every
    face with what became of it and why, OUT/contact-sheets shows each class at a glance.

    \b
    Examples:
        fer crop photos/ faces/
        fer crop aihub/ faces/ --size 224 --margin 0.2
        fer crop photos/ faces/ --detector yunet --align --size 112 --format png
        fer crop boxes.csv faces/ --gray --size 48 --faces all
    """
    from ferkit.datasets.dataset import AIHUB_PERSON
    from ferkit.datasets.formats.load import read_annotated
    from ferkit.faces.crop_dataset import crop_dataset
    from ferkit.faces.crop_image import CropRunSettings
    from ferkit.faces.cropping import Cropping, cropping_for_files

    pattern = options["person_pattern"] or AIHUB_PERSON
    annotated = read_annotated(source, options["annotations"], options["pictures"], pattern, given_columns())
    n_boxes = sum(sample.box is not None for sample in annotated.dataset.samples)
    counts = ", ".join(f"{name} {n}" for name, n in annotated.dataset.class_counts().items())
    say(f"{len(annotated.dataset)} images in {source}, {n_boxes} with a box: {counts or 'no labels'}")
    if annotated.problems:
        path, reason = annotated.problems[0]
        say(
            f"{len(annotated.problems)} remarks on the annotations, listed in crops.csv; the first: {path}: {reason}"
        )
    all_known = options["use_boxes"] and n_boxes == len(annotated.dataset) and not options["align"]
    asked = Cropping.ask(
        options["detector"], options["detector_weights"],
        align=options["align"], margin=options["margin"], no_face=options["faceless"],
    )  # fmt: skip
    cropping = cropping_for_files(asked, all_known=all_known)
    say(cropping.reason)
    settings = CropRunSettings(
        faces=cropping.settings,
        use_boxes=options["use_boxes"],
        box_frame=options["box_frame"],
        which=options["faces"],
        detect_size=options["detect_size"],
        min_size=options["min_size"],
        min_score=options["min_score"],
        min_sharpness=options["min_sharpness"],
        size_wh=options["size"],
        gray=options["gray"],
        format=options["format_"],
        quality=options["quality"],
    )
    summary = crop_dataset(
        annotated,
        out,
        settings,
        weights=cropping.weights,
        workers=options["workers"],
        redo=options["redo"],
    )
    if options["as_json"]:
        click.echo(json.dumps(asdict(summary), ensure_ascii=False, default=str))
        return
    left_out = {k: n for k, n in summary.statuses.items() if k not in ("cropped", "whole")}
    if left_out:
        say(
            "left out: "
            + ", ".join(f"{n} {status}" for status, n in left_out.items())
            + f"; see {summary.report}"
        )
    removed = f", {summary.n_removed} of old removed" if summary.n_removed else ""
    done = f"{summary.n_done} read now{removed}"
    click.echo(f"{summary.n_crops} crops of {summary.n_images} images ({done}): {summary.table}")
