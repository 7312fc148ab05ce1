"""``fer audit``."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.command import echo
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

if TYPE_CHECKING:
    from ferkit.audit.run import Embedded
    from ferkit.core.types import FaceDetector
    from ferkit.datasets.dataset import Dataset

logger = logging.getLogger(__name__)


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
    from ferkit.audit.findings import findings_text
    from ferkit.audit.page import audit_values, write_audit
    from ferkit.audit.plan import next_to
    from ferkit.audit.run import AuditSettings
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
        click.echo(json.dumps({**summary, "page": str(page)}, ensure_ascii=False))
        return
    rows = [(kind.replace("_", " "), f"{n:,}") for kind, n in found.counts().items() if n]
    echo(table(("finding", "found"), rows, right=[1]) if rows else "nothing was found")
    for note in found.notes:
        echo(f"note: {findings_text(note)}")
    echo(f"page: {page}")


def _fix(data: Path, plan: Path, options: dict[str, Any]) -> None:
    from ferkit.audit.plan import default_manifest, fix

    dataset = open_dataset(data, options["person_pattern"])
    done = fix(dataset, plan, options["out"] or default_manifest(data))
    applied = done.applied
    if options["json"]:
        refused = [{"line": r.line.number, "path": r.line.path, "reason": r.reason} for r in applied.refused]
        counts = {action: applied.count(action) for action in ("drop", "relabel", "same-person", "keep")}
        click.echo(
            json.dumps({"manifest": str(done.manifest), **counts, "refused": refused}, ensure_ascii=False)
        )
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
    from ferkit.audit.plan import default_manifest, undo

    manifest = out or default_manifest(data)
    left, done = undo(manifest)
    if as_json:
        click.echo(json.dumps({"manifest": str(manifest), "fixes_left": left}, ensure_ascii=False))
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
    layer = f" ({made_with.tap})" if made_with.tap else ""
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
