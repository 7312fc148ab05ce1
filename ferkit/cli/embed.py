"""``fer embed``."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.options import (
    DETECTOR_WEIGHTS,
    FILE,
    PATH,
    SEED,
    WORKERS,
    command,
    open_dataset,
    option,
    shared,
)
from ferkit.cli.settings import Chosen, Fields, Setting
from ferkit.core.console import table
from ferkit.core.errors import DataError

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset
    from ferkit.embedder.extract import ExtractionSummary
    from ferkit.embedder.settings import Embedder
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
@option("--weights", type=FILE, group="Network",
        help="Take this file as the network's weights instead of fetching them.")  # fmt: skip
@shared("layer", "data_detector", "margin", "no_face", "person_pattern", "columns")
@option("--repair", is_flag=True, group="Output", help="Make damaged shards again.")
@shared("name", help="Name of the embeddings.  [default: that of DATA]")
@shared("json", "cache_dir")
def embed(data: Path, settings: Chosen, **options: Any) -> None:
    """Turn images into embeddings; stop and resume at any time.

    DATA is a folder data/<emotion>/*.jpg (also with train/ and test/ above), a table path,label[,split][,group]
    as CSV, fer2013.csv, or an .npz file with images and labels.

    \b
    Examples:
        fer embed data/
        fer embed data/ --backbone onnx:network.onnx --layer stage4 --set dtype=float16
        fer embed labels.csv --detector yunet --margin 0.2
    """
    from ferkit.datasets.dataset import left_out_counts
    from ferkit.embedder.embedders import InputOptions, open_embedder
    from ferkit.embedder.extract import StoreOptions, default_backbone, embed_dataset, open_for_store
    from ferkit.faces.cropping import Cropping, CropSettings, resolve_cropping

    dataset = open_dataset(data, options["person_pattern"])
    spec = options["backbone"] or default_backbone(options["cache_dir"], options["name"] or dataset.name)
    crop = Cropping.ask(
        options["detector"], settings["detector_weights"],
        margin=options["margin"], no_face=options["no_face"], **settings.of(CropSettings),
    )  # fmt: skip
    pool, layer = settings["pool"], options["layer"]
    backbone = {
        "weights": options["weights"],
        "pool_hw": (pool[1], pool[0]) if pool else None,
        "options": InputOptions(**settings.of(InputOptions)),
        "threads": settings["threads"],
    }
    if layer == "auto":
        layer = _best_layer(
            dataset, open_embedder(spec, **backbone), crop, settings["seed"], settings["threads"]
        )
    store_options = StoreOptions(
        options["cache_dir"], options["name"], repair=options["repair"], **settings.of(StoreOptions)
    )
    crop = resolve_cropping(dataset, crop)
    logger.info(crop.reason)
    embedder = open_for_store(spec, dataset, crop, store_options, tap=layer, **backbone)
    store, summary = embed_dataset(dataset, embedder, crop, store_options, workers=settings["workers"])
    if not summary.n_done + summary.n_kept:
        row = store.failures()[0]
        raise DataError(
            f"none of the {len(dataset)} images could be embedded; the first, {row.path}: {row.error}"
        )
    if options["json"]:
        left_out = left_out_counts(dataset.left_out)
        values = {"store": str(store.folder), **asdict(summary), "left_out": left_out}
        click.echo(json.dumps(values, ensure_ascii=False))
        return
    for path, reason in summary.failures[:10]:
        logger.info(f"  failed: {path}: {reason}")
    if len(summary.failures) > 10:
        logger.info(
            f"  … and {len(summary.failures) - 10} more; the reasons are in {store.folder}/shard-*.json"
        )
    if settings["profile"]:
        _print_profile(summary)
    rate = (summary.n_done + len(summary.failures)) / summary.seconds
    before = f", {summary.n_failed_before} failed before" if summary.n_failed_before else ""
    click.echo(
        f"{summary.n_done} embedded ({rate:.0f}/s), {summary.n_kept} were there, {len(summary.failures)} failed"
        f"{before}, {summary.n_deleted} no longer in the data: {store.folder}"
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
            found.tap.name,
            found.tap.tensor,
            "x".join(map(str, found.tap.shape)),
            str(found.dim),
            f"{found.accuracy:.1%}",
            f"{found.images_per_s:.0f}",
        )
        for found in ranking
    ]
    logger.info(table(("layer", "tensor", "shape", "numbers", "accuracy", "images/s"), rows, right=[3, 4, 5]))
    logger.info(f"taking {ranking[0].tap.name}; accuracy is cross-validated on a sample, only to compare")
    return ranking[0].tap.name
