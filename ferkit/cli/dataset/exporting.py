"""``fer dataset export``."""

import json
from pathlib import Path
from typing import Any

import click

from ferkit.cli.dataset.shared import data_argument, json_option, say_list
from ferkit.cli.options import SIZE, common_options, is_quiet, load_data, person_option, say


@click.command()
@data_argument
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True,
              help="A folder, or a file that ends in .csv, .npz or .parquet.")  # fmt: skip
@click.option(
    "--link",
    type=click.Choice(["copy", "hardlink", "symlink"]),
    default="copy",
    show_default=True,
    help="Folders: how pictures get there; links take no space.",
)
@click.option("--parts/--no-parts", default=True, show_default=True,
              help="Folders: train, val and test above those of the classes.")  # fmt: skip
@click.option("--size", type=SIZE, help=".npz: resize all pictures to width x height.")
@click.option("--gray", is_flag=True, help=".npz: one channel instead of three.")
@click.option("--images", is_flag=True, help=".parquet: take the pictures' files along.")
@json_option
@person_option
@common_options
def export(data: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Write a data set as a folder of pictures, a manifest, an .npz file or a .parquet file.

    A folder has [train/]<class>/*.jpg and manifest.csv; it is continued if it was interrupted.

    \b
    Examples:
        fer dataset export split.csv -o faces/ --link hardlink
        fer dataset export fer2013.csv -o fer2013/
        fer dataset export faces.csv -o faces.npz --size 48 --gray
        fer dataset export faces.csv -o faces.parquet --images
    """
    from ferkit.core.progress import Progress
    from ferkit.datasets.export import export_folder
    from ferkit.datasets.export_arrays import export_npz, export_parquet
    from ferkit.datasets.manifest import write_manifest

    dataset = load_data(data, options["person_pattern"])
    suffix = out.suffix.lower()
    _check_options(suffix, options)
    failures: tuple[tuple[str, str], ...] = ()
    n_there = 0
    with Progress("writing", quiet=is_quiet()) as progress:
        if suffix == ".csv":
            write_manifest(out, dataset)
        elif suffix == ".npz":
            failures = export_npz(
                dataset, out, size_wh=options["size"], gray=options["gray"], progress=progress
            )
        elif suffix == ".parquet":
            failures = export_parquet(dataset, out, images=options["images"], progress=progress)
        else:
            done = export_folder(
                dataset, out, link=options["link"], parts=options["parts"], progress=progress
            )
            failures, n_there = done.failures, done.n_there
            if done.renamed:
                listed = [f"{path} -> {target}" for path, target in done.renamed]
                say_list(f"{len(listed):,} pictures got another name, theirs was taken:", listed)
    if failures:
        listed = [f"{path}: {reason}" for path, reason in failures]
        say_list(f"{len(listed):,} pictures are left out:", listed)
    n = len(dataset) - len(failures)
    if as_json:
        summary = {
            "out": str(out),
            "n": n,
            "n_there": n_there,
            "failures": [list(entry) for entry in failures],
        }
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    if n_there:
        say(f"{n_there:,} of them were there already")
    click.echo(f"{n:,} pictures: {out}")


def _check_options(suffix: str, options: dict[str, Any]) -> None:
    for name, wanted, default in (
        ("size", ".npz", None),
        ("gray", ".npz", False),
        ("images", ".parquet", False),
    ):
        if options[name] != default and suffix != wanted:
            raise click.UsageError(f"--{name} is for {wanted} files")
    if options["link"] != "copy" and suffix in (".csv", ".npz", ".parquet"):
        raise click.UsageError("--link is for folders")
