"""``fer dataset info``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.dataset.shared import data_argument, json_option, say_list
from ferkit.cli.options import FILE, common_options, is_quiet, load_data, person_option, say
from ferkit.core.tables import table

if TYPE_CHECKING:
    from ferkit.datasets.describe import Description, Values


@click.command()
@data_argument
@click.option("--all", "everything", is_flag=True, help="Look at the header of every file, not of 1,000.")
@click.option("--plot", type=FILE, help="Also draw it, as .png, .svg or .pdf.")
@click.option("--workers", type=click.IntRange(1), help="Threads that read headers.  [default: two a core]")
@json_option
@person_option
@common_options
def info(data: Path, as_json: bool, **options: Any) -> None:
    """Say what a data set consists of: classes, parts, sources, persons, sizes, and what cannot be read.

    \b
    Examples:
        fer dataset info data/
        fer dataset info both.csv --all --plot both.png
    """
    from ferkit.core.files import write_atomically
    from ferkit.core.progress import Progress
    from ferkit.datasets.describe import describe

    dataset = load_data(data, options["person_pattern"])
    with Progress("looking", quiet=is_quiet()) as progress:
        found = describe(
            dataset, everything=options["everything"], workers=options["workers"], progress=progress
        )
    if options["plot"]:
        from ferkit.datasets.describe_plot import plot_description

        figure, path = plot_description(found), options["plot"]
        write_atomically(path, lambda file: figure.savefig(file, format=path.suffix.lstrip(".") or "png"))
        say(f"plot: {path}")
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    _print(found)


def _print(found: "Description") -> None:
    click.echo(f"{found.name}: {found.n:,} pictures")
    click.echo("")
    columns = [axis for axis in (1, 2) if len(found.by(axis)) > 1 or (axis == 2 and ("",) not in found.by(2))]
    values = {axis: [value for (value,) in found.by(axis)] for axis in columns}
    if 2 in values:
        values[2].sort(key=("train", "val", "test", "").index)
    counts = {axis: found.by(0, axis) for axis in columns}
    header = ["class", "pictures", *(value or "–" for axis in columns for value in values[axis])]
    rows = []
    for (cls,), n in found.by(0).items():
        cells = [f"{counts[axis].get((cls, value), 0):,}" for axis in columns for value in values[axis]]
        rows.append([cls or "(no label)", f"{n:,}", *cells])
    totals = [f"{found.by(axis)[(value,)]:,}" for axis in columns for value in values[axis]]
    rows.append(["all", f"{found.n:,}", *totals])
    click.echo(table(header, rows, right=range(1, len(header))))
    click.echo("")
    click.echo("\n".join(_sentences(found)))
    if found.headers.unreadable:
        listed = [f"{path}: {reason}" for path, reason in found.headers.unreadable]
        say_list(f"{len(listed):,} cannot be read:", listed)


def _sentences(found: "Description") -> list[str]:
    persons, headers = found.persons, found.headers
    if persons.n:
        lines = [
            f"persons: {persons.n:,}, with {persons.fewest:,} to {persons.most:,} pictures each (half have at most "
            f"{persons.median:g}); {persons.n_unknown:,} pictures of nobody known"
        ]
        if persons.in_several_parts:
            lines.append(
                f"         {persons.in_several_parts:,} of them are in more than one part: results on the test part "
                "will be too good"
            )
    else:
        lines = ["persons: not known"]
    if found.n_boxes:
        lines.append(f"boxes:   {found.n_boxes:,} pictures have the box of a face")
    for name, known in found.attributes.items():
        lines.append(f"{name}: {_values(known)}; {known.n:,} pictures have it")
    n_readable = headers.n - len(headers.unreadable)
    if n_readable:
        sizes = [f"{w}x{h} ({n:,})" for (w, h), n in list(headers.sizes_wh.items())[:5]]
        more = f" and {len(headers.sizes_wh) - 5:,} other sizes" if len(headers.sizes_wh) > 5 else ""
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in {**headers.channels, **headers.formats}.items())
        looked = "all files" if headers.n == found.n else f"{headers.n:,} files looked at"
        lines.append(
            f"files:   {looked}: {', '.join(sizes)}{more}; {kinds}; {_bytes(headers.n_bytes / n_readable)} each"
        )
    return lines


def _values(known: "Values") -> str:
    if known.range is not None:
        low, mean, high = known.range
        return f"{low:g} to {high:g}, mean {mean:.3g}"
    if known.counts:
        return ", ".join(f"{value} {count:,}" for value, count in known.counts.items())
    return f"{known.n_values:,} different values"


def _bytes(n: float) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"
