"""``fer dataset import``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.dataset.shared import finish, say_list, step_options
from ferkit.cli.options import DATA, FILE, FOLDER, is_quiet, say
from ferkit.core.tables import table

if TYPE_CHECKING:
    from ferkit.core.progress import Progress
    from ferkit.datasets.annotations.annotated import Annotated

KINDS = ("fer2013", "rafdb", "affectnet", "ckplus", "aihub", "voc", "coco", "folder", "csv")


@click.command("import")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("src", type=DATA)
@click.option("--source", help="What the pictures have as source.  [default: KIND, or the name of SRC]")
@click.option("--extract", type=FOLDER,
              help="fer2013, ckplus as one CSV file: write the pictures into this folder first.")  # fmt: skip
@click.option("--votes", type=FILE, help="fer2013: votes of FER+, fer2013new.csv or a table with paths.")
@click.option(
    "--majority", is_flag=True, help="fer2013: label by most of the votes; undecided pictures are left out."
)
@click.option("--images", help="rafdb: aligned (default) or original; csv, coco: folder of the pictures.")
@click.option("--frames", type=click.IntRange(1), default=3, show_default=True,
              help="ckplus: taken from the end of each sequence.")  # fmt: skip
@click.option("--neutral/--no-neutral", default=True, show_default=True,
              help="ckplus: take the first frame of each sequence as neutral.")  # fmt: skip
@click.option("--class", "classes", multiple=True, metavar="NUMBER=NAME",
              help="folder, csv: what a number stands for; several times.")  # fmt: skip
@click.option("--path-column", help="csv: column with the paths.")
@click.option("--label-column", help="csv: column with the classes.")
@click.option("--split-column", help="csv: column with train, val or test.")
@click.option("--group-column", help="csv: column with the persons.")
@click.option("--problems", "problems_file", type=FILE,
              help="List of what could not be used.  [default: <out>-problems.csv]")  # fmt: skip
@step_options
def import_(kind: str, src: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Read a data set in the layout that it comes in, and write a manifest.

    What cannot be used is listed, with reasons, in a CSV file beside the manifest.

    \b
    KIND       SRC
    fer2013    folder train/<emotion>/…, or fer2013.csv with --extract
    rafdb      folder with EmoLabel/ and Image/, or Kaggle's DATASET/
    affectnet  folder with train_set/, or with training.csv, or Kaggle's
    ckplus     folder with cohn-kanade-images/ and Emotion/, CK+48, or ckextended.csv with --extract
    aihub      folder with pictures and JSON files
    voc, coco  folder with XML files; JSON file
    folder     folder <class>/… or <part>/<class>/…
    csv        table with paths and classes, of any delimiter

    \b
    Examples:
        fer dataset import rafdb basic/ -o rafdb.csv
        fer dataset import fer2013 fer2013.csv --extract fer2013/ --votes fer2013new.csv -o fer2013-plus.csv
        fer dataset import ckplus CK+/ --frames 3 -o ckplus.csv
        fer dataset import csv list.csv --label-column mood --class 0=happy --class 1=sad -o list.manifest.csv
    """
    from ferkit.core.files import write_atomically
    from ferkit.core.progress import Progress
    from ferkit.datasets.manifest import SOURCE

    with Progress("importing", quiet=is_quiet()) as progress:
        found = _read(kind, src, options, progress)
    source = options["source"] or (
        kind if kind not in ("folder", "csv", "voc", "coco") else found.dataset.name
    )
    # The size that annotations claim tells 'fer crop' whether a photo was turned upright before it was marked.
    sizes = {path: {"width": str(w), "height": str(h)} for path, (w, h) in found.sizes_wh.items()}
    samples = [
        replace(sample, attributes={SOURCE: source, **sample.attributes, **sizes.get(sample.path, {})})
        for sample in found.dataset.samples
    ]
    problems = options["problems_file"] or out.with_name(f"{out.stem}-problems.csv")
    if found.problems:
        text = _problem_table(found.problems)
        write_atomically(problems, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
        listed = [f"{path}: {reason}" for path, reason in found.problems]
        say_list(f"{len(listed):,} problems, all of them in {problems}:", listed)
    if found.further:
        say(f"{len(found.further):,} more faces are marked in pictures with several; the largest is taken")
    dataset = found.dataset.subset(samples)
    rows = [(name, f"{n:,}") for name, n in dataset.class_counts().items()]
    summary = {
        "classes": dataset.class_counts(),
        "problems": [list(problem) for problem in found.problems],
        "further_faces": len(found.further),
    }
    finish(out, dataset, summary, [table(("class", "pictures"), rows, right=[1])], as_json)


def _read(kind: str, src: Path, options: dict[str, Any], progress: "Progress") -> "Annotated":
    from ferkit.datasets.annotations.aihub import read_aihub
    from ferkit.datasets.annotations.coco import read_coco
    from ferkit.datasets.annotations.voc import read_voc
    from ferkit.datasets.folder import AIHUB_PERSON
    from ferkit.datasets.layouts.affectnet import read_affectnet
    from ferkit.datasets.layouts.ckplus import read_ckplus
    from ferkit.datasets.layouts.fer2013 import read_fer2013
    from ferkit.datasets.layouts.folders import Naming, read_folders, read_list
    from ferkit.datasets.layouts.rafdb import read_rafdb

    if kind in ("fer2013", "ckplus") and src.is_file() and options["extract"]:
        _extract(src, options["extract"], progress)
        src = options["extract"]
        if kind == "ckplus":  # these 48x48 pictures have lost their sequences
            kind = "folder"
            options["source"] = options["source"] or "ckplus"
    naming = Naming(
        classes=_classes(options["classes"]),
        columns={
            meaning: options[f"{meaning}_column"]
            for meaning in ("path", "label", "split", "group")
            if options[f"{meaning}_column"]
        },
        person=options["person_pattern"] or AIHUB_PERSON,
    )
    if kind == "fer2013":
        return read_fer2013(src, options["votes"], options["majority"])
    if kind == "rafdb":
        images = options["images"] or "aligned"
        if images not in ("aligned", "original"):
            raise click.UsageError("--images is aligned or original for rafdb")
        return read_rafdb(src, images)
    if kind == "affectnet":
        return read_affectnet(src, progress)
    if kind == "ckplus":
        return read_ckplus(src, options["frames"], options["neutral"])
    if kind == "folder":
        return read_folders(src, naming)
    if kind == "csv":
        return read_list(src, naming, Path(options["images"]) if options["images"] else None)
    if kind == "coco":
        return read_coco(src, Path(options["images"]) if options["images"] else None, naming.person)
    return read_voc(src, naming.person) if kind == "voc" else read_aihub(src)


def _extract(src: Path, folder: Path, progress: "Progress") -> None:
    from ferkit.datasets.export import export_folder
    from ferkit.datasets.load import load_dataset

    done = export_folder(load_dataset(src), folder, progress=progress)
    say(f"{done.n_written:,} pictures written into {folder}, {done.n_there:,} were there")


def _classes(pairs: tuple[str, ...]) -> dict[int, str] | None:
    classes: dict[int, str] = {}
    for pair in pairs:
        number, sign, name = pair.partition("=")
        if not sign or not number.strip().isdecimal() or not name.strip():
            raise click.UsageError(f"expected NUMBER=NAME for --class, found {pair!r}")
        classes[int(number)] = name.strip()
    return classes or None


def _problem_table(problems: tuple[tuple[str, str], ...]) -> str:
    import csv
    import io

    buffer = io.StringIO(newline="")
    from ferkit.core.files import csv_cell

    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "problem"))
    writer.writerows(map(csv_cell, problem) for problem in problems)
    return buffer.getvalue()
