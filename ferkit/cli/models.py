"""``fer models``: weights to fetch, and models that were trained here."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from ferkit.cli.options import models_dir_option, say
from ferkit.core.errors import WeightsError
from ferkit.core.progress import Progress
from ferkit.core.tables import table


@click.group()
def models() -> None:
    """List, fetch and verify weights, and list trained models."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@models_dir_option
def list_models(models_dir: Path, as_json: bool) -> None:
    """What there is: weights of backbones and detectors, the models in --models-dir, and the one that comes along."""
    from ferkit.classifiers.artifact import broken_models, list_artifacts
    from ferkit.zoo.fetch import list_weights, weights_dir
    from ferkit.zoo.shipped import SHIPPED, shipped_folder

    shipped = [artifact for artifact in list_artifacts(shipped_folder().parent) if artifact.name == SHIPPED]
    weights, trained = list_weights(), shipped + list_artifacts(models_dir)
    broken = broken_models(models_dir)
    if as_json:
        known = [
            {**asdict(w.entry), "path": str(w.path), "present": w.present, "hash_known": w.hash_known}
            for w in weights
        ]
        own = [
            {"name": a.name, "kind": a.kind, "labels": list(a.labels.names), "metrics": a.metrics}
            for a in trained
        ] + [{"name": name, "broken": reason} for name, reason in broken.items()]
        click.echo(json.dumps({"weights": known, "models": own}, ensure_ascii=False, indent=1))
        return
    rows = [
        (
            w.entry.name,
            "comes along" if w.entry.packaged else "here" if w.present else "to fetch",
            _megabytes(w.entry.size),
            w.hash_known,
            w.entry.about,
        )
        for w in weights
    ]
    rows.append(("raw", "comes along", "", "", "gradient histograms (HOG), needs no weights"))
    click.echo(table(("weights", "state", "size", "SHA-256", "what"), rows, right=[2]))
    click.echo(
        f"\nkept in {weights_dir()}; SHA-256 'first use' means: not published, kept from the first fetch"
    )
    click.echo("")
    models = [(a.name, a.kind, ", ".join(a.labels.names), _accuracy(a.metrics)) for a in trained]
    click.echo(table(("model", "kind", "classes", "accuracy"), models, right=[3]))
    for name, reason in broken.items():
        click.echo(f"{name} is broken: {reason}")
    click.echo(f"{SHIPPED} comes with the package; the others are in {models_dir}, where 'fer fit' puts them")


@models.command()
@click.argument("names", nargs=-1, required=True)
def fetch(names: tuple[str, ...]) -> None:
    """Fetch weights, so that they are there when there is no network."""
    from ferkit.zoo.fetch import weights_file

    for name in names:
        with Progress(f"fetching {name}", unit="bytes") as progress:
            path = weights_file(name, progress=_Bytes(progress))
        click.echo(f"{name}: {path}")


@models.command()
@click.argument("names", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Check the SHA-256 of weights; without names, of all that are here."""
    from ferkit.zoo.fetch import list_weights
    from ferkit.zoo.fetch import verify as verify_weights

    damaged = []
    for name in names or [w.entry.name for w in list_weights() if w.present]:
        try:
            status = verify_weights(name)
        except WeightsError as error:
            damaged.append(name)
            click.echo(f"{name}: {error}", err=True)
        else:
            against = {"published": "as published", "first use": "as at the first use"}.get(
                status.hash_known, "no hash known"
            )
            click.echo(f"{name}: {against}: {status.path}")
    if damaged:
        raise WeightsError(f"{len(damaged)} not as they should be: {', '.join(damaged)}")
    if not names:
        say("verified all weights that are here")


class _Bytes:
    """A download's callback, shown as progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done = progress, 0

    def __call__(self, done: int, total: int | None) -> None:
        if not self._done:
            self._progress.start(total=total or 0)
        self._progress.update(done - self._done)
        self._done = done


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB"


def _accuracy(metrics: dict) -> str:
    value = metrics.get("accuracy", {}).get("value")
    return "" if value is None else f"{value:.1%}"
