"""``fer demo``."""

from pathlib import Path

import click

from ferkit.cli.options import FOLDER, common_options, is_quiet, say
from ferkit.core.tables import table


@click.command()
@click.option(
    "--out", type=FOLDER, default=Path("demo"), show_default=True, help="Folder for everything it makes."
)
@click.option(
    "--images", type=click.IntRange(20), default=200, show_default=True, help="Faces drawn of each class."
)
@click.option(
    "--persons", type=click.IntRange(6), default=60, show_default=True, help="Persons they are drawn of."
)
@click.option("--seed", type=int, default=0, show_default=True)
@common_options
def demo(out: Path, images: int, persons: int, seed: int) -> None:
    """Go the whole way on data it makes itself, offline.

    Draws labelled faces, embeds them, fits a dummy, logistic, mlp and svm head, measures them on persons that they
    never saw, and leaves models, reports and plots. The faces are drawings: the figures say nothing about photographs.
    """
    from ferkit.core.progress import Progress
    from ferkit.evaluation.demo import DemoSettings, run_demo

    with Progress("embedding", quiet=is_quiet()) as progress:
        rows = run_demo(out, DemoSettings(images, persons, seed), progress=progress, say=say)
    cells = []
    for row in rows:
        figures = row.evaluation.figures
        accuracy, f1 = figures["accuracy"], figures["macro_f1"]
        interval = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
        cells.append((row.name, f"{accuracy.value:.1%}", interval, f"{f1.value:.1%}", f"{row.seconds:.1f} s"))
    click.echo(table(("model", "accuracy", "95 % interval", "macro-F1", "training"), cells, right=[1, 3, 4]))
    n, persons_seen = rows[0].evaluation.n, rows[0].evaluation.n_groups
    click.echo(f"\non {n} drawn faces of {persons_seen} persons that training never saw")
    shown = [str(out / name) for name in ("demo.png", "report") if (out / name).exists()]
    click.echo(f"look at {' and '.join(shown)}; then try:")
    click.echo(f"  fer predict {out / 'models' / 'mlp'} {out / 'faces' / 'test' / 'happy'}")
