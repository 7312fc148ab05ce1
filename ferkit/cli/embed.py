"""``fer embed``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.options import (
    DATA,
    FILE,
    SIZE,
    cache_dir_option,
    common_options,
    detector_option,
    detector_weights_option,
    load_data,
    margin_option,
    person_option,
    say,
)
from ferkit.core.console import table
from ferkit.core.errors import DataError

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset
    from ferkit.embedder.embedders import Embedder
    from ferkit.faces.cropping import Cropping


@click.command()
@click.argument("data", type=DATA)
@click.option(
    "-b",
    "--backbone",
    default="ferkit",
    show_default=True,
    help="Network: ferkit or ferkit2 (come along), arcface, facenet512, …, mediapipe-landmarks, raw, or onnx:FILE. "
    "See 'fer models list'.",
)
@click.option(
    "--weights", type=FILE, help="Take this file as the network's weights instead of fetching them."
)
@click.option(
    "--tap",
    help="Take it from inside: stage1 … stage5, a tensor's name, several joined by +, or 'auto' to try.",
)
@click.option(
    "--pool", type=SIZE, help="Columns x rows that a spatial tap is averaged to.  [default: at most 7x7]"
)
@click.option("--input-size", type=SIZE, help="For onnx: networks that take any size: width x height.")
@click.option(
    "--channels", type=click.Choice(["rgb", "bgr", "gray"]), help="For onnx: networks.  [default: rgb]"
)
@click.option("--scale", type=float, help="For onnx: networks: pixel * scale + offset.  [default: 1]")
@click.option("--offset", type=float, help="For onnx: networks: pixel * scale + offset.  [default: 0]")
@detector_option("'auto' takes boxes where DATA has some, or else looks at some images first", boxes=True)
@detector_weights_option
@click.option(
    "--align/--no-align", default=True, show_default=True, help="Turn faces upright by their five points."
)
@margin_option
@click.option(
    "--faceless",
    type=click.Choice(["skip", "whole"]),
    default="skip",
    show_default=True,
    help="An image without a face is listed as failed, or taken whole.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="float16 halves the disk.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Images a file: the most that an interrupt can lose.",
)
@click.option("--workers", type=click.IntRange(1), help="Threads that read and crop.  [default: one a core]")
@click.option("--threads", type=click.IntRange(1), help="Threads of the network.  [default: one a core]")
@click.option("--name", help="Name of the embeddings.  [default: that of DATA]")
@click.option("--repair", is_flag=True, help="Make damaged shards anew.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="For --tap auto: which images are tried."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@person_option
@cache_dir_option
@common_options
def embed(data: Path, **options: Any) -> None:
    """Turn images into embeddings; stop and resume at any time.

    DATA is a folder data/<emotion>/*.jpg (also with train/ and test/ above), a table path,label[,split][,group]
    as CSV, fer2013.csv, or an .npz file with images and labels.

    \b
    Examples:
        fer embed data/
        fer embed data/ --backbone onnx:network.onnx --tap stage4 --dtype float16
        fer embed labels.csv --detector yunet --margin 0.2
    """
    from ferkit.core.weights import SECOND_EDITION
    from ferkit.datasets.dataset import left_out_counts
    from ferkit.embedder.embedders import InputOptions, open_embedder
    from ferkit.embedder.extract import StoreOptions, embed_dataset
    from ferkit.faces.cropping import Cropping

    dataset = load_data(data, options["person_pattern"])
    counts = dataset.class_counts()
    say(
        f"{len(dataset)} images in {data}, {len(counts)} classes: "
        + ", ".join(f"{k} {n}" for k, n in counts.items())
    )

    if options["backbone"] == SECOND_EDITION:
        _say_what_the_first_has(options["cache_dir"], options["name"] or dataset.name)
    crop = Cropping.ask(
        options["detector"],
        options["detector_weights"],
        align=options["align"],
        margin=options["margin"],
        no_face=options["faceless"],
    )
    pool = options["pool"]
    backbone = {
        "spec": options["backbone"],
        "weights": options["weights"],
        "pool_hw": (pool[1], pool[0]) if pool else None,
        "options": InputOptions(
            options["input_size"], options["channels"], options["scale"], options["offset"]
        ),
        "threads": options["threads"],
    }
    tap = options["tap"]
    if tap == "auto":
        tap = _best_tap(dataset, open_embedder(**backbone), crop, options["seed"], options["threads"])
    embedder = open_embedder(**backbone, tap=tap)
    store_options = StoreOptions(
        options["cache_dir"], options["name"], options["dtype"], options["batch_size"], options["shard_size"],
        options["repair"],
    )  # fmt: skip
    store, summary = embed_dataset(dataset, embedder, crop, store_options, workers=options["workers"])
    if not summary.n_done + summary.n_kept:
        row = store.failures()[0]
        raise DataError(
            f"none of the {len(dataset)} images could be embedded; the first, {row.path}: {row.error}"
        )
    if options["as_json"]:
        click.echo(
            json.dumps(
                {
                    "store": str(store.folder),
                    **asdict(summary),
                    "left_out": left_out_counts(dataset.left_out),
                },
                ensure_ascii=False,
            )
        )
        return
    for path, reason in summary.failures[:10]:
        say(f"  failed: {path}: {reason}")
    if len(summary.failures) > 10:
        say(f"  … and {len(summary.failures) - 10} more; the reasons are in {store.folder}/shard-*.json")
    rate = (summary.n_done + len(summary.failures)) / summary.seconds
    before = f", {summary.n_failed_before} failed before" if summary.n_failed_before else ""
    click.echo(
        f"{summary.n_done} embedded ({rate:.0f}/s), {summary.n_kept} were there, {len(summary.failures)} failed"
        f"{before}, {summary.n_deleted} no longer in the data: {store.folder}"
    )


def _say_what_the_first_has(cache_dir: Path, name: str) -> None:
    """Say so before data are embedded again that the first edition has embedded."""
    from ferkit.core.weights import BUNDLED
    from ferkit.embedder.store import find_stores

    for folder in find_stores(cache_dir):
        if folder.name.startswith(f"{name}--{BUNDLED}--"):
            say(
                f"{folder} holds this data by {BUNDLED}, the first edition: heads on it go on working, and "
                f"--backbone {BUNDLED} goes on with it; now it is embedded again, beside it"
            )


def _best_tap(
    dataset: "Dataset", embedder: "Embedder", crop: "Cropping", seed: int, threads: int | None
) -> str:
    from ferkit.embedder.extract import search_layer

    say("trying the inner layers on a sample …")
    ranking = search_layer(dataset, embedder, crop, seed=seed, threads=threads)
    rows = [
        (
            s.tap.name,
            s.tap.tensor,
            "x".join(map(str, s.tap.shape)),
            str(s.dim),
            f"{s.accuracy:.1%}",
            f"{s.images_per_s:.0f}",
        )
        for s in ranking
    ]
    say(table(("tap", "tensor", "shape", "numbers", "accuracy", "images/s"), rows, right=[3, 4, 5]))
    say(f"taking {ranking[0].tap.name}; accuracy is cross-validated on a sample, only to compare")
    return ranking[0].tap.name
