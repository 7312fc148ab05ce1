"""``fer dataset map``, ``merge``, ``sample`` and ``split``: a data set in, a manifest out."""

from pathlib import Path
from typing import Any

import click

from ferkit.cli.dataset.shared import data_argument, finish, say_list, seed_option, step_options
from ferkit.cli.options import DATA, FILE, load_data, say
from ferkit.core.tables import table


@click.command("map")
@data_argument
@click.option("--to", "target", help="Label set to map to: aihub5, aihub4, valence3, valence2, fer2013, … or one of "
              "your own file (the only one by default). Without both, spellings of a class become one.")  # fmt: skip
@click.option("--map", "own", type=FILE, help="TOML file with words, sets and maps of your own.")
@click.option(
    "--unmapped",
    type=click.Choice(["refuse", "keep", "unlabel", "drop"]),
    default="refuse",
    show_default=True,
    help="What becomes of pictures whose class has no place in the target.",
)
@click.option("--lang", type=click.Choice(["en", "ko"]), help="Spell the classes in English or Korean.")
@step_options
def relabel(data: Path, out: Path, as_json: bool, **options: Any) -> None:
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
    from ferkit.core.label_tables import LabelTables
    from ferkit.datasets.relabel import relabel as relabelled

    built_in = LabelTables.built_in()
    tables = LabelTables.read(options["own"]) if options["own"] else built_in
    target = options["target"]
    if target is None and options["own"]:
        mine = [name for name in tables.sets if name not in built_in.sets]
        if len(mine) != 1:
            raise click.UsageError(f"give the label set with --to; known are {', '.join(tables.sets)}")
        target = mine[0]
    dataset = load_data(data, options["person_pattern"])
    done = relabelled(dataset, target, tables=tables, language=options["lang"], unmapped=options["unmapped"])
    rows = [(old, new, f"{n:,}") for (old, new), n in done.changes.items()]
    rows += [(old, f"({options['unmapped']})", f"{n:,}") for old, n in done.unmapped.items()]
    if done.unreached:
        say(f"no picture is of the class {', '.join(done.unreached)}")
    summary = {
        "changes": [{"from": old, "to": new, "n": n} for (old, new), n in done.changes.items()],
        "unmapped": dict(done.unmapped),
        "unreached": list(done.unreached),
    }
    finish(out, done.dataset, summary, [table(("was", "is", "pictures"), rows, right=[2])], as_json)


@click.command("merge")
@click.argument("data", nargs=-1, required=True, type=DATA)
@click.option("--source", "sources", multiple=True, help="What the pictures of each DATA have as source; once for "
              "each, in their order.  [default: names of files and folders]")  # fmt: skip
@click.option(
    "--conflict",
    type=click.Choice(["refuse", "first", "last", "drop"]),
    default="refuse",
    show_default=True,
    help="What becomes of a picture that is in several data sets with different labels.",
)
@step_options
def merge(data: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Put data sets together, with a column that says where each picture is from.

    Persons of different sources are kept apart. Nothing is copied.

    \b
    Examples:
        fer dataset merge fer2013.csv aihub.csv -o both.csv
        fer dataset merge a/ b/ --source seoul --source busan -o both.csv
    """
    from ferkit.datasets.merge import merge as merged

    datasets = [load_data(path, options["person_pattern"]) for path in data]
    done = merged(datasets, out.parent, options["sources"] or None, options["conflict"])
    if done.n_same:
        say(f"{done.n_same:,} pictures are in several of the data sets, and are taken once")
    if done.conflicts:
        listed = [f"{path}: {' and '.join(labels)}" for path, labels in done.conflicts]
        say_list(f"{len(listed):,} of them have different labels (--conflict {options['conflict']}):", listed)
    if done.lookalikes:
        listed = [f"{a} | {b}" for a, b in done.lookalikes]
        say_list(
            f"{len(listed):,} pairs of names differ only in case or in how Hangul is composed; on Windows or a Mac "
            "one of each would be lost:", listed,
        )  # fmt: skip
    for names in done.spellings.values():
        say(f"{' and '.join(names)} mean the same; make them one class with 'fer dataset map'")
    counts: dict[str, int] = {}
    for sample in done.dataset.samples:
        source = sample.attributes["source"]
        counts[source] = counts.get(source, 0) + 1
    summary = {
        "sources": counts,
        "same": done.n_same,
        "conflicts": [{"path": path, "labels": list(labels)} for path, labels in done.conflicts],
        "lookalikes": [list(pair) for pair in done.lookalikes],
        "spellings": {meaning: list(names) for meaning, names in done.spellings.items()},
    }
    rows = [(source, f"{n:,}") for source, n in sorted(counts.items())]
    finish(out, done.dataset, summary, [table(("source", "pictures"), rows, right=[1])], as_json)


@click.command("sample")
@data_argument
@click.option("-n", "--per-class", type=click.IntRange(1), help="Pictures of each class.  [default: all]")
@click.option("--where", "wanted", multiple=True, metavar="COLUMN=VALUE",
              help="Only pictures with this class, split, source or other attribute; several times.")  # fmt: skip
@click.option("--by", multiple=True, help="So many of each class and value of this column too: source, split, or an "
              "attribute such as sex; may be given several times.")  # fmt: skip
@seed_option
@step_options
def draw(data: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Draw so many pictures of each class, of as many persons as possible.

    Where a class has fewer, all are taken and the shortage is listed.

    \b
    Examples:
        fer dataset sample both.csv --per-class 5000 --by source -o balanced.csv
        fer dataset sample fer2013/ --per-class 200 --by split -o small.csv
        fer dataset sample both.csv --where source=aihub --where split=test -o korean_test.csv
    """
    from ferkit.datasets.sample import draw as drawn
    from ferkit.datasets.sample import where

    by = options["by"]
    wanted: dict[str, list[str]] = {}
    for condition in options["wanted"]:
        column, sign, value = condition.partition("=")
        if not sign:
            raise click.UsageError(f"expected COLUMN=VALUE for --where, found {condition!r}")
        wanted.setdefault(column, []).append(value)
    done = drawn(
        where(load_data(data, options["person_pattern"]), wanted), options["per_class"], by, options["seed"]
    )
    if done.n_unlabelled:
        say(f"{done.n_unlabelled:,} pictures have no label and are left out")
    if done.persons[0]:
        say(f"{done.persons[1]:,} of {done.persons[0]:,} persons are shown")
    rows = [
        (
            *(part or "–" for part in stratum),
            f"{taken:,}",
            f"{there:,}",
            "short" if there < done.wanted else "",
        )
        for stratum, (there, taken) in done.counts.items()
    ]
    summary = {
        "counts": [
            {"class": stratum[0], **dict(zip(by, stratum[1:], strict=True)), "there": there, "drawn": taken}
            for stratum, (there, taken) in done.counts.items()
        ],
        "persons": {"there": done.persons[0], "drawn": done.persons[1]},
    }
    k = 1 + len(by)
    finish(
        out,
        done.dataset,
        summary,
        [table(("class", *by, "drawn", "of", ""), rows, right=[k, k + 1])],
        as_json,
    )


@click.command("split")
@data_argument
@click.option(
    "--val", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of validation."
)
@click.option(
    "--test", type=click.FloatRange(0, 1), default=0.2, show_default=True, help="Share of the test part."
)
@click.option("--by", multiple=True, help="Keep this column in proportion too: source, or an attribute; may be given "
              "several times.")  # fmt: skip
@click.option("--group/--no-group", "by_group", default=True, show_default=True,
              help="Keep all pictures of a person in one part, where persons are known.")  # fmt: skip
@click.option("--within", type=click.Choice(["train", "val", "test"]),
              help="Divide only what is in this part now; the rest stays.")  # fmt: skip
@click.option("--test-source", "held_out", multiple=True,
              help="All pictures of this source are the test part; may be given several times.")  # fmt: skip
@seed_option
@step_options
def assign(data: Path, out: Path, as_json: bool, person_pattern: str | None, **options: Any) -> None:
    """Divide a data set into train, val and test: classes in proportion, persons whole.

    \b
    Examples:
        fer dataset split faces.csv --val 0.1 --test 0.1 --by source -o split.csv
        fer dataset split fer2013/ --within train --val 0.1 --test 0 -o split.csv
        fer dataset split both.csv --test-source aihub --val 0.1 --test 0 -o cross.csv
    """
    from ferkit.datasets.assign import PARTS, AssignSettings
    from ferkit.datasets.assign import assign as assigned

    settings = AssignSettings(**options)
    done = assigned(load_data(data, person_pattern), settings)
    if not any(done.persons.values()):
        say("persons are not known: pictures of one person may be in several parts; see --person-pattern")
    elif not settings.by_group or done.shared_persons:
        say(f"{len(done.shared_persons):,} persons are in more than one part")
    parts = [part for part in PARTS if any(part in row for row in done.counts.values())]
    rows = [(cls or "–", *(f"{row.get(part, 0):,}" for part in parts)) for cls, row in done.counts.items()]
    rows.append(("persons", *(f"{done.persons[part]:,}" for part in parts)))
    summary = {
        "counts": {cls: dict(row) for cls, row in done.counts.items()},
        "persons": dict(done.persons),
        "shared_persons": list(done.shared_persons),
    }
    lines = [table(("class", *parts), rows, right=range(1, len(parts) + 1))]
    finish(out, done.dataset, summary, lines, as_json)
