"""``fer audit``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.options import (
    DATA,
    FILE,
    cache_dir_option,
    common_options,
    detector_weights_option,
    lang_option,
    load_data,
    person_option,
    say,
)
from ferkit.core.console import table

if TYPE_CHECKING:
    from ferkit.audit.run import Embedded
    from ferkit.core.types import FaceDetector
    from ferkit.datasets.dataset import Dataset


@click.command()
@click.argument("data", type=DATA)
@click.option(
    "-e",
    "--embeddings",
    help="Embeddings of DATA by 'fer embed': a folder, or a name in --cache-dir. 'none' does without.  "
    "[default: the network that comes along, computed now]",
)
@click.option(
    "--identities",
    help="Embeddings of DATA by a face-recognition network, to guess who is shown where names do not tell.",
)
@click.option("--against", type=DATA, help="Also say how this other data set differs.")
@click.option("--against-embeddings", help="Its embeddings, if --embeddings was given.")
@click.option(
    "--head",
    type=click.Choice(["logistic", "mlp"]),
    default="logistic",
    show_default=True,
    help="What wrong labels are found with.",
)
@click.option(
    "--likeness",
    type=click.FloatRange(0.5, 1),
    default=0.85,
    show_default=True,
    help="From where on two images are copies, laid over each other.",
)
@click.option(
    "--show",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Findings of each kind on the page; the table has all.",
)
@click.option("--fix", "plan", type=FILE, help="Apply a plan that was saved from the page, to a manifest.")
@click.option("--undo", "take_back", is_flag=True, help="Take back the last --fix.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the report, or with --fix and --undo the manifest.  "
    "[default: <data>-audit/, <data>-audited.csv beside DATA]",
)
@detector_weights_option
@lang_option
@click.option(
    "--workers", type=click.IntRange(1), help="Threads that read and compare.  [default: one a core]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the folds and whatever is drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found, or done, as JSON.")
@person_option
@cache_dir_option
@common_options
def audit(data: Path, plan: Path | None, take_back: bool, **options: Any) -> None:
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
    if plan is not None and take_back:
        raise click.UsageError("--fix and --undo exclude each other")
    if take_back:
        _undo(data, options["out"], options["as_json"])
    elif plan is not None:
        _fix(data, plan, options)
    else:
        _audit(data, options)


def _audit(data: Path, options: dict[str, Any]) -> None:
    from ferkit.audit.checks import LabelSettings
    from ferkit.audit.findings import findings_text
    from ferkit.audit.page import audit_values, write_audit
    from ferkit.audit.plan import beside
    from ferkit.audit.run import AuditSettings
    from ferkit.audit.run import audit as run
    from ferkit.datasets.duplicates import CopySettings

    dataset = _load(data, options)
    settings = AuditSettings(
        copies=CopySettings(threshold=options["likeness"]),
        labels=LabelSettings(head=options["head"], seed=options["seed"]),
    )
    embedded = _embedded(dataset, options["embeddings"], options)
    against = None
    if options["against"] is not None:
        other = _load(options["against"], options)
        named = options["against_embeddings"] or ("none" if options["embeddings"] else None)
        against = (other, _embedded(other, named, options))
    identities = None
    if options["identities"] is not None:
        identities = _embedded(dataset, options["identities"], options)
    found = run(
        dataset, embedded, settings, against=against, identities=identities,
        detector=_detector(options["detector_weights"]), cache_dir=options["cache_dir"],
        workers=options["workers"],
    )  # fmt: skip
    out = options["out"] or beside(data, "-audit")
    page, *_ = write_audit(found, out, options["lang"], options["show"])
    if options["as_json"]:
        summary = {key: value for key, value in audit_values(found).items() if key != "findings"}
        click.echo(json.dumps({**summary, "page": str(page)}, ensure_ascii=False))
        return
    rows = [(kind.replace("_", " "), f"{n:,}") for kind, n in found.counts().items() if n]
    click.echo(table(("finding", "found"), rows, right=[1]) if rows else "nothing was found")
    for note in found.notes:
        click.echo(f"note: {findings_text(note)}")
    click.echo(f"page: {page}")


def _fix(data: Path, plan: Path, options: dict[str, Any]) -> None:
    from ferkit.audit.plan import default_manifest, fix

    dataset = _load(data, options)
    done = fix(dataset, plan, options["out"] or default_manifest(data))
    applied = done.applied
    if options["as_json"]:
        refused = [{"line": r.line.number, "path": r.line.path, "reason": r.reason} for r in applied.refused]
        counts = {action: applied.count(action) for action in ("drop", "relabel", "same-person", "keep")}
        click.echo(
            json.dumps({"manifest": str(done.manifest), **counts, "refused": refused}, ensure_ascii=False)
        )
        return
    for refusal in applied.refused:
        click.echo(f"refused: line {refusal.line.number}, {refusal.line.path}: {refusal.reason}")
    click.echo(
        f"{applied.count('drop')} dropped, {applied.count('relabel')} relabelled, "
        f"{applied.count('same-person')} grouped, {applied.count('keep')} kept as they are, "
        f"{len(applied.refused)} refused: {done.manifest} ({len(applied.samples):,} images)"
    )
    again = f" --out {options['out']}" if options["out"] else ""
    say(f"to take it back: fer audit {data} --undo{again}")


def _undo(data: Path, out: Path | None, as_json: bool) -> None:
    from ferkit.audit.plan import default_manifest, undo

    manifest = out or default_manifest(data)
    messages: list[str] = []
    left = undo(manifest, messages.append)
    if as_json:
        click.echo(json.dumps({"manifest": str(manifest), "fixes_left": left}, ensure_ascii=False))
    else:
        click.echo("\n".join(messages))


def _load(data: Path, options: dict[str, Any]) -> "Dataset":

    dataset = load_data(data, options["person_pattern"])
    say(f"{len(dataset):,} images in {data}")
    return dataset


def _embedded(dataset: "Dataset", named: str | None, options: dict[str, Any]) -> "Embedded | None":
    """Embeddings by name, or computed now with the shipped network."""
    from ferkit.audit.run import Embedded
    from ferkit.embedder.store import EmbeddingStore, find_embeddings

    if named == "none":
        return None
    if named is not None:
        store = EmbeddingStore.open(find_embeddings(options["cache_dir"], named))
    else:
        from ferkit.embedder.embedders import open_embedder
        from ferkit.embedder.extract import StoreOptions, embed_dataset
        from ferkit.faces.cropping import Cropping

        store_options = StoreOptions(options["cache_dir"])
        store, _ = embed_dataset(
            dataset, open_embedder("ferkit"), Cropping.ask(no_face="whole"), store_options,
            workers=options["workers"],
        )  # fmt: skip
    # Half precision is enough for taps, and the widest of them fit into memory only so.
    embeddings = store.load("float16" if store.dim > 2000 else "float32")
    tap = store.settings.embedder.tap
    name = store.settings.embedder.backbone + (f" ({tap})" if tap else "")
    return Embedded(embeddings, name)


def _detector(weights: Path | None) -> "FaceDetector | None":
    """YuNet, told to take faces that it is not sure of; None if it cannot be had.

    Haar's cascade is no stand-in: in tight crops it misses more faces than there are images without one.
    """
    from ferkit.audit.checks import LEAST_CONFIDENCE
    from ferkit.faces.cropping import best_detector
    from ferkit.faces.detectors import YuNetDetector

    name, file = best_detector(weights)
    if name != "yunet" or file is None:
        say(
            "YuNet's weights cannot be had: images without a face are not looked for ('fer models fetch yunet')"
        )
        return None
    return YuNetDetector(file, LEAST_CONFIDENCE)
