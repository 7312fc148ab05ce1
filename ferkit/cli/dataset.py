"""``fer dataset``: steps from raw data to a data set one can trust."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ferkit.cli.command import Command, Group, echo
from ferkit.cli.options import (
    FILE,
    FOLDER,
    PATH,
    SIZE,
    WORKERS,
    given_columns,
    load_data,
    option,
    print_json,
    shared,
)
from ferkit.cli.settings import Chosen
from ferkit.core.console import table
from ferkit.core.texts import translated

if TYPE_CHECKING:
    from ferkit.datasets.dataset import Dataset
    from ferkit.datasets.formats.annotated import Annotated
    from ferkit.datasets.image_stats import Summary, Values


logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

LISTED = 10
"""Entries of a list that are printed; files and --json have all."""

data_argument = click.argument("data", type=PATH)


@click.group(cls=Group)
def dataset() -> None:
    """Look at, import, map, merge, sample, split and export data sets.

    DATA is what 'fer embed' takes: a folder data/<emotion>/*.jpg, a table, an .npz file. Every step but info and
    export writes a manifest, a small CSV file that refers to the images, and copies nothing.

    \b
    Example:
        fer dataset import aihub photos/ -o aihub.csv
        fer dataset map aihub.csv --to aihub5 -o aihub5.csv
        fer dataset split aihub5.csv --val 0.1 --test 0.1 -o faces.csv
        fer embed faces.csv
    """


def step_options(command: F) -> F:
    """``--out`` for the manifest, ``--json`` and ``--person-pattern``."""
    out = shared("out", type=FILE, required=True, help="The manifest to write, a .csv file.")
    return out(shared("json", "person_pattern", "columns")(command))


def finish(
    out: Path, dataset: "Dataset", summary: Mapping[str, Any], lines: Sequence[str], as_json: bool
) -> None:
    """Write the manifest and print what was done."""
    from ferkit.datasets.export import write_manifest

    write_manifest(out, dataset)
    if as_json:
        print_json({"out": str(out), "n": len(dataset), **summary})
        return
    for line in lines:
        echo(line)
    echo(f"{len(dataset):,} images: {out}")


def log_list(heading: str, entries: Sequence[str | tuple[str, str]], sign: str = ": ") -> None:
    """A remark and the first entries of a list; pairs are joined by ``sign``."""
    logger.info(f"{len(entries):,} {heading}:")
    entries = [entry if isinstance(entry, str) else sign.join(entry) for entry in entries]
    for entry in entries[:LISTED]:
        logger.info(f"  {entry}")
    if len(entries) > LISTED:
        logger.info(f"  … and {len(entries) - LISTED:,} more")


@dataset.command(cls=Command, settings=(
    WORKERS,
))  # fmt: skip
@data_argument
@option("--all", is_flag=True, help="Look at the header of every file, not of 1,000.")
@option("--plot", type=FILE, extra="plots", group="Output", help="Also draw it, as .png, .svg or .pdf.")
@shared("json", "person_pattern", "columns", "images")
def info(data: Path, settings: Chosen, **options: Any) -> None:
    """Say what a data set consists of: classes, parts, sources, persons, sizes, and what cannot be read.

    \b
    Examples:
        fer dataset info data/
        fer dataset info both.csv --all --plot both.png
    """
    from ferkit.core.files import write_atomically
    from ferkit.datasets.image_stats import summarize

    if (path := options["plot"]) and path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise click.UsageError(f"expected --plot NAME.png, .svg or .pdf, found {path}")
    found_in = load_data(data, options["person_pattern"])
    found = summarize(found_in, everything=options["all"], workers=settings["workers"])
    if path:
        from ferkit.datasets.image_stats import plot_summary

        figure = plot_summary(found)
        write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:].lower()))
        logger.info(f"plot: {path}")
    if options["json"]:
        print_json(found.to_dict())
        return
    _print_summary(found)


def _print_summary(found: "Summary") -> None:
    echo(f"{found.name}: {found.n:,} images")
    echo("")
    columns = [axis for axis in (1, 2) if len(found.by(axis)) > 1 or (axis == 2 and ("",) not in found.by(2))]
    values = {axis: [value for (value,) in found.by(axis)] for axis in columns}
    if 2 in values:
        values[2].sort(key=("train", "val", "test", "").index)
    counts = {axis: found.by(0, axis) for axis in columns}
    header = ["class", "images", *(value or "–" for axis in columns for value in values[axis])]
    rows = []
    for (cls,), n in found.by(0).items():
        cells = [f"{counts[axis].get((cls, value), 0):,}" for axis in columns for value in values[axis]]
        rows.append([cls or "(no label)", f"{n:,}", *cells])
    totals = [f"{found.by(axis)[(value,)]:,}" for axis in columns for value in values[axis]]
    rows.append([translated("all"), f"{found.n:,}", *totals])
    echo(table(header, rows, right=range(1, len(header))))
    echo("")
    for sentence in _sentences(found):
        echo(sentence)
    if found.headers.unreadable:
        log_list("cannot be read", found.headers.unreadable)


def _sentences(found: "Summary") -> list[str]:
    persons, headers = found.persons, found.headers
    if persons.n:
        lines = [
            f"persons: {persons.n:,}, with {persons.fewest:,} to {persons.most:,} images each (half have at most "
            f"{persons.median:g}); {persons.n_unknown:,} images of nobody known"
        ]
        if persons.in_several_parts:
            lines.append(
                f"         {persons.in_several_parts:,} of them are in more than one part: results on the test part "
                "will be too good"
            )
    else:
        lines = ["persons: not known"]
    if found.n_boxes:
        lines.append(f"boxes:   {found.n_boxes:,} images have the box of a face")
    for name, known in found.attributes.items():
        lines.append(f"{name}: {_values(known)}; {known.n:,} images have it")
    n_readable = headers.n - len(headers.unreadable)
    if n_readable:
        sizes = [f"{w}x{h} ({n:,})" for (w, h), n in list(headers.sizes_wh.items())[:5]]
        n_more = len(headers.sizes_wh) - 5
        more = translated(f" and {n_more:,} other sizes") if n_more > 0 else ""
        kinds = ", ".join(
            f"{translated(kind)} {n:,}" for kind, n in {**headers.channels, **headers.formats}.items()
        )
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


KINDS = ("fer2013", "rafdb", "affectnet", "ckplus", "aihub", "voc", "coco", "folder", "csv")


@dataset.command("import", cls=Command)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("src", type=PATH)
@option("--source", help="What the images have as source.  [default: KIND, or the name of SRC]")
@option("--extract", type=FOLDER,
        help="fer2013, ckplus as one CSV file: write the images into this folder first.")  # fmt: skip
@option("--votes", type=FILE, help="fer2013: votes of FER+, fer2013new.csv or a table with paths.")
@option("--majority", is_flag=True,
        help="fer2013: label by most of the votes; undecided images are left out.")  # fmt: skip
@option("--images", help="rafdb: aligned (default) or original; csv, coco: folder of the images.")
@option("--frames", type=click.IntRange(1), default=3, rare=True,
        help="ckplus: taken from the end of each sequence.")  # fmt: skip
@option("--neutral/--no-neutral", default=True, rare=True,
        help="ckplus: take the first frame of each sequence as neutral.")  # fmt: skip
@option("--class", multiple=True, metavar="NUMBER=NAME",
        help="folder, csv: what a number stands for; several times.")  # fmt: skip
@option("--labels", help="Classes to take, as happy,sad,… or a known set (aihub5); others are left out.")
@option("--problems", type=FILE, help="List of what could not be used.  [default: <out>-problems.csv]")
@step_options
def import_(kind: str, src: Path, out: Path, **options: Any) -> None:
    """Read a data set in the layout that it comes in, and write a manifest.

    What cannot be used is listed, with reasons, in a CSV file next to the manifest.

    \b
    KIND       SRC
    fer2013    folder train/<emotion>/…, or fer2013.csv with --extract
    rafdb      folder with EmoLabel/ and Image/, or Kaggle's DATASET/
    affectnet  folder with train_set/, or with training.csv, or Kaggle's
    ckplus     folder with cohn-kanade-images/ and Emotion/, CK+48, or ckextended.csv with --extract
    aihub      folder with images and JSON files
    voc, coco  folder with XML files; JSON file
    folder     folder <class>/… or <part>/<class>/…
    csv        table with paths and classes, of any delimiter

    \b
    Examples:
        fer dataset import rafdb basic/ -o rafdb.csv
        fer dataset import fer2013 fer2013.csv --extract fer2013/ --votes fer2013new.csv -o fer2013-plus.csv
        fer dataset import ckplus CK+/ --frames 3 -o ckplus.csv
        fer dataset import csv list.csv --columns label=mood --class 0=happy --class 1=sad -o list.manifest.csv
    """
    from ferkit.core.files import write_csv
    from ferkit.core.labels import LabelSet
    from ferkit.datasets.edit import only_labels
    from ferkit.datasets.tables import SOURCE

    found = _read(kind, src, options)
    source = options["source"] or (
        kind if kind not in ("folder", "csv", "voc", "coco") else found.dataset.name
    )
    # The size that annotations claim tells 'fer crop' whether a photo was turned upright before it was marked.
    sizes = {path: {"width": str(w), "height": str(h)} for path, (w, h) in found.sizes_wh.items()}
    samples = [
        replace(sample, attributes={SOURCE: source, **sample.attributes, **sizes.get(sample.path, {})})
        for sample in found.dataset.samples
    ]
    problems = options["problems"] or out.with_name(f"{out.stem}-problems.csv")
    if found.problems:
        write_csv(problems, ("path", "problem"), found.problems)
        log_list(f"problems, all of them in {problems}", found.problems)
    if found.further:
        logger.info(
            f"{len(found.further):,} more faces are marked in images with several; the largest is taken"
        )
    dataset = found.dataset.subset(samples)
    if options["labels"]:
        dataset = only_labels(dataset, LabelSet.from_text(options["labels"]))
    counts = dataset.class_counts()
    rows = [(name, f"{n:,}") for name, n in counts.items()]
    summary = {
        "classes": counts,
        "problems": [list(problem) for problem in found.problems],
        "further_faces": len(found.further),
    }
    finish(out, dataset, summary, [table(("class", "images"), rows, right=[1])], options["json"])


def _read(kind: str, src: Path, options: dict[str, Any]) -> "Annotated":
    from ferkit.datasets.dataset import AIHUB_PERSON
    from ferkit.datasets.export import export_folder
    from ferkit.datasets.formats.aihub import read_aihub
    from ferkit.datasets.formats.load import Naming, read_coco, read_folders, read_list, read_voc
    from ferkit.datasets.formats.numbered import read_affectnet, read_ckplus, read_fer2013, read_rafdb

    folder: Path | None = options["extract"]
    if kind in ("fer2013", "ckplus") and src.is_file() and folder:
        done = export_folder(load_data(src), folder)
        logger.info(f"{done.n_written:,} images written into {folder}, {done.n_there:,} were there")
        src = folder
        if kind == "ckplus":  # these 48x48 images have lost their sequences
            kind = "folder"
            options["source"] = options["source"] or "ckplus"
    if kind == "rafdb" and options["images"] not in (None, "aligned", "original"):
        raise click.UsageError("--images is aligned or original for rafdb")
    images = Path(options["images"]) if options["images"] else None
    person = options["person_pattern"] or AIHUB_PERSON
    naming = Naming(classes=_classes(options["class"]), columns=given_columns(), person=person)
    readers: dict[str, Callable[[], Annotated]] = {
        "fer2013": lambda: read_fer2013(src, options["votes"], options["majority"]),
        "rafdb": lambda: read_rafdb(src, options["images"] or "aligned"),
        "affectnet": lambda: read_affectnet(src),
        "ckplus": lambda: read_ckplus(src, options["frames"], options["neutral"]),
        "aihub": lambda: read_aihub(src),
        "voc": lambda: read_voc(src, person),
        "coco": lambda: read_coco(src, images, person),
        "folder": lambda: read_folders(src, naming),
        "csv": lambda: read_list(src, naming, images),
    }
    return readers[kind]()


def _classes(pairs: tuple[str, ...]) -> dict[int, str] | None:
    classes: dict[int, str] = {}
    for pair in pairs:
        number, sign, name = pair.partition("=")
        if not sign or not number.strip().isdecimal() or not name.strip():
            raise click.UsageError(f"expected NUMBER=NAME for --class, found {pair!r}")
        classes[int(number)] = name.strip()
    return classes or None


@dataset.command("map", cls=Command)
@data_argument
@option("--to", help="Label set to map to: aihub5, aihub4, valence3, valence2, fer2013, … or one of "
        "your own file (the only one by default). Without both, spellings of a class become one.")  # fmt: skip
@option("--map", type=FILE, help="TOML file with words, sets and maps of your own.")
@option("--unmapped", type=click.Choice(["refuse", "keep", "unlabel", "drop"]), default="refuse",
        help="What becomes of images whose class has no place in the target.")  # fmt: skip
@option("--lang", type=click.Choice(["en", "ko"]), help="Spell the classes in English or Korean.")
@step_options
@shared("images")
def map_(data: Path, out: Path, **options: Any) -> None:
    """Map the classes of one data set to those of another.

    \b
    Examples:
        fer dataset map aihub.csv --to aihub5 -o aihub5.csv
        fer dataset map faces/ -o one_spelling.csv
        fer dataset map fer2013/ --to aihub5 --unmapped drop -o western5.csv
        fer dataset map faces.csv --map my_labels.toml --to mood3 -o mood.csv

    \b
    my_labels.toml:
        [sets]
        mood3 = ["good", "bad", "other"]
        [maps.mood3]
        good = ["happy", "기쁨"]
        bad = ["angry", "sad", "fear", "disgust"]
        other = ["neutral", "surprise"]
    """
    from ferkit.core.labels import LabelTables
    from ferkit.datasets.edit import relabel as relabelled

    built_in = LabelTables.built_in()
    tables = LabelTables.read(options["map"]) if options["map"] else built_in
    target = options["to"]
    if target is None and options["map"]:
        mine = [name for name in tables.sets if name not in built_in.sets]
        if len(mine) != 1:
            raise click.UsageError(f"give the label set with --to; known are {', '.join(tables.sets)}")
        target = mine[0]
    done = relabelled(
        load_data(data, options["person_pattern"]),
        target,
        tables=tables,
        language=options["lang"],
        unmapped=options["unmapped"],
    )
    rows = [(old, new, f"{n:,}") for (old, new), n in done.changes.items()]
    rows += [(old, f"({options['unmapped']})", f"{n:,}") for old, n in done.unmapped.items()]
    if done.unreached:
        logger.info(f"no image is of the class {', '.join(done.unreached)}")
    summary = {
        "changes": [{"from": old, "to": new, "n": n} for (old, new), n in done.changes.items()],
        "unmapped": dict(done.unmapped),
        "unreached": list(done.unreached),
    }
    finish(out, done.dataset, summary, [table(("was", "is", "images"), rows, right=[2])], options["json"])


@dataset.command("merge", cls=Command)
@click.argument("data", nargs=-1, required=True, type=PATH)
@option("--source", multiple=True, help="What the images of each DATA have as source; once for each, in "
        "their order.  [default: names of files and folders]")  # fmt: skip
@option("--conflict", type=click.Choice(["refuse", "first", "last", "drop"]), default="refuse",
        help="What becomes of an image that is in several data sets with different labels.")  # fmt: skip
@step_options
@shared("images")
def merge(data: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Put data sets together, with a column that says where each image is from.

    Persons of different sources are kept apart. Nothing is copied.

    \b
    Examples:
        fer dataset merge fer2013.csv aihub.csv -o both.csv
        fer dataset merge a/ b/ --source seoul --source busan -o both.csv
    """
    from ferkit.datasets.edit import merge as merged

    datasets = [load_data(path, options["person_pattern"]) for path in data]
    done = merged(datasets, out.parent, options["source"] or None, options["conflict"])
    if done.n_same:
        logger.info(f"{done.n_same:,} images are in several of the data sets, and are taken once")
    if done.conflicts:
        listed = [(path, " and ".join(labels)) for path, labels in done.conflicts]
        log_list(f"of them have different labels (--conflict {options['conflict']})", listed)
    if done.lookalikes:
        log_list(
            "pairs of names differ only in case or in how Hangul is composed; on Windows or a Mac one of each would be "
            "lost", done.lookalikes, " | ",
        )  # fmt: skip
    for names in done.spellings.values():
        logger.info(f"{' and '.join(names)} mean the same; make them one class with 'fer dataset map'")
    counts = dict(Counter(sample.attributes["source"] for sample in done.dataset.samples))
    summary = {
        "sources": counts,
        "same": done.n_same,
        "conflicts": [{"path": path, "labels": list(labels)} for path, labels in done.conflicts],
        "lookalikes": [list(pair) for pair in done.lookalikes],
        "spellings": {meaning: list(names) for meaning, names in done.spellings.items()},
    }
    rows = [(source, f"{n:,}") for source, n in sorted(counts.items())]
    finish(out, done.dataset, summary, [table(("source", "images"), rows, right=[1])], options["json"])


@dataset.command("sample", cls=Command)
@data_argument
@option("-n", "--per-class", type=click.IntRange(1), help="Images of each class.  [default: all]")
@option("--where", multiple=True, metavar="COLUMN=VALUE",
        help="Only images with this class, split, source or other attribute; several times.")  # fmt: skip
@option("--by", multiple=True, help="So many of each class and value of this column too: source, split, "
        "or an attribute such as sex; may be given several times.")  # fmt: skip
@shared("seed")
@step_options
@shared("images")
def sample(data: Path, out: Path, **options: Any) -> None:
    """Draw so many images of each class, of as many persons as possible.

    Where a class has fewer, all are taken and the shortage is listed.

    \b
    Examples:
        fer dataset sample both.csv --per-class 5000 --by source -o balanced.csv
        fer dataset sample fer2013/ --per-class 200 --by split -o small.csv
        fer dataset sample both.csv --where source=aihub --where split=test -o korean_test.csv
    """
    from ferkit.datasets.edit import draw as drawn
    from ferkit.datasets.edit import where

    by = options["by"]
    wanted: dict[str, list[str]] = {}
    for condition in options["where"]:
        column, sign, value = condition.partition("=")
        if not sign:
            raise click.UsageError(f"expected COLUMN=VALUE for --where, found {condition!r}")
        wanted.setdefault(column, []).append(value)
    done = drawn(
        where(load_data(data, options["person_pattern"]), wanted), options["per_class"], by, options["seed"]
    )
    if done.n_unlabelled:
        logger.info(f"{done.n_unlabelled:,} images have no label and are left out")
    if done.persons[0]:
        logger.info(f"{done.persons[1]:,} of {done.persons[0]:,} persons are shown")
    rows = []
    for stratum, (there, taken) in done.counts.items():
        short = "short" if there < done.wanted else ""
        rows.append((*(part or "–" for part in stratum), f"{taken:,}", f"{there:,}", short))
    summary = {
        "counts": [
            {"class": stratum[0], **dict(zip(by, stratum[1:], strict=True)), "there": there, "drawn": taken}
            for stratum, (there, taken) in done.counts.items()
        ],
        "persons": {"there": done.persons[0], "drawn": done.persons[1]},
    }
    lines = [table(("class", *by, "drawn", "of", ""), rows, right=[1 + len(by), 2 + len(by)])]
    finish(out, done.dataset, summary, lines, options["json"])


@dataset.command("split", cls=Command)
@data_argument
@option("--val", type=click.FloatRange(0, 1), default=0.0, help="Share of validation.")
@option("--test", type=click.FloatRange(0, 1), default=0.2, help="Share of the test part.")
@option("--by", multiple=True,
        help="Keep this column in proportion too: source, or an attribute; may be given several times.")  # fmt: skip
@option("--group/--no-group", default=True,
        help="Keep all images of a person in one part, where persons are known.")  # fmt: skip
@option("--within", type=click.Choice(["train", "val", "test"]),
        help="Divide only what is in this part now; the rest stays.")  # fmt: skip
@option("--test-source", multiple=True,
        help="All images of this source are the test part; may be given several times.")  # fmt: skip
@shared("seed")
@step_options
@shared("images")
def split(data: Path, out: Path, **options: Any) -> None:
    """Divide a data set into train, val and test: classes in proportion, persons whole.

    \b
    Examples:
        fer dataset split faces.csv --val 0.1 --test 0.1 --by source -o split.csv
        fer dataset split fer2013/ --within train --val 0.1 --test 0 -o split.csv
        fer dataset split both.csv --test-source aihub --val 0.1 --test 0 -o cross.csv
    """
    from ferkit.datasets.edit import PARTS, SplitSettings
    from ferkit.datasets.edit import split_dataset as assigned

    settings = SplitSettings(
        val=options["val"], test=options["test"], by=options["by"], by_group=options["group"],
        within=options["within"], held_out=options["test_source"], seed=options["seed"],
    )  # fmt: skip
    done = assigned(load_data(data, options["person_pattern"]), settings)
    if not any(done.persons.values()):
        logger.info(
            "persons are not known: images of one person may be in several parts; see --person-pattern"
        )
    elif not settings.by_group or done.shared_persons:
        logger.info(f"{len(done.shared_persons):,} persons are in more than one part")
    parts = [part for part in PARTS if any(part in row for row in done.counts.values())]
    rows = [(cls or "–", *(f"{row.get(part, 0):,}" for part in parts)) for cls, row in done.counts.items()]
    rows.append((translated("persons"), *(f"{done.persons[part]:,}" for part in parts)))
    summary = {
        "counts": {cls: dict(row) for cls, row in done.counts.items()},
        "persons": dict(done.persons),
        "shared_persons": list(done.shared_persons),
    }
    lines = [table(("class", *parts), rows, right=range(1, len(parts) + 1))]
    finish(out, done.dataset, summary, lines, options["json"])


@dataset.command(cls=Command)
@data_argument
@shared("out", required=True, help="A folder, or a file that ends in .csv, .npz or .parquet.")
@option("--link", type=click.Choice(["copy", "hardlink", "symlink"]), default="copy",
        help="Folders: how images get there; links take no space.")  # fmt: skip
@option("--parts/--no-parts", default=True,
        help="Folders: train, val and test above those of the classes.")  # fmt: skip
@option("--size", type=SIZE, help=".npz: resize all images to width x height.")
@option("--gray", is_flag=True, help=".npz: one channel instead of three.")
@option("--images", is_flag=True, help=".parquet: take the images' files along.")
@shared("json", "person_pattern", "columns")
def export(data: Path, out: Path, **options: Any) -> None:
    """Write a data set as a folder of images, a manifest, an .npz file or a .parquet file.

    A folder has [train/]<class>/*.jpg and manifest.csv; it is continued if it was interrupted. A folder of embeddings
    (cache/…) becomes a .parquet or .lance file with paths, labels, persons and vectors.

    \b
    Examples:
        fer dataset export split.csv -o faces/ --link hardlink
        fer dataset export fer2013.csv -o fer2013/
        fer dataset export faces.csv -o faces.npz --size 48 --gray
        fer dataset export faces.csv -o faces.parquet --images
        fer dataset export cache/faces--ferkit2--1f2e3d4c -o vectors.parquet
    """
    from ferkit.datasets.export import export_folder, export_npz, export_parquet, write_manifest

    suffix = out.suffix.lower()
    _check_options(suffix, options)
    if (data / "manifest.json").is_file():
        from ferkit.embedder.store import EmbeddingStore, export_embeddings

        n = export_embeddings(EmbeddingStore.open(data), out)
        if options["json"]:
            print_json({"out": str(out), "n": n})
        else:
            echo(f"{n:,} embeddings: {out}")
        return
    found = load_data(data, options["person_pattern"])
    failures: tuple[tuple[str, str], ...] = ()
    n_there = 0
    if suffix == ".csv":
        write_manifest(out, found)
    elif suffix == ".npz":
        failures = export_npz(found, out, size_wh=options["size"], gray=options["gray"])
    elif suffix == ".parquet":
        failures = export_parquet(found, out, images=options["images"])
    else:
        done = export_folder(found, out, link=options["link"], parts=options["parts"])
        failures, n_there = done.failures, done.n_there
        if done.renamed:
            log_list("images got another name, theirs was taken", done.renamed, " -> ")
    if failures:
        log_list("images are left out", failures)
    n = len(found) - len(failures)
    if options["json"]:
        print_json({"out": str(out), "n": n, "n_there": n_there, "failures": failures})
        return
    if n_there:
        logger.info(f"{n_there:,} of them were there already")
    echo(f"{n:,} images: {out}")


def _check_options(suffix: str, options: dict[str, Any]) -> None:
    from ferkit.datasets.images import OTHER_SUFFIXES

    for name, wanted in (("size", ".npz"), ("gray", ".npz"), ("images", ".parquet")):
        if options[name] and suffix != wanted:
            raise click.UsageError(f"--{name} is for {wanted} files")
    files = (".csv", ".npz", ".parquet")
    if suffix in OTHER_SUFFIXES - {*files}:
        raise click.UsageError(f"expected a folder, or a file of {', '.join(files)}, found one of {suffix}")
    if options["link"] != "copy" and suffix in files:
        raise click.UsageError("--link is for folders")
