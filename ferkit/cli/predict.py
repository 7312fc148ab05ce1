"""``fer predict``."""

import csv
import io
import itertools
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.options import (
    FOLDER,
    common_options,
    detector_option,
    detector_weights_option,
    is_quiet,
    lang_option,
    models_dir_option,
    say,
)
from ferkit.core.errors import DataError
from ferkit.core.files import csv_cell
from ferkit.core.tables import table

if TYPE_CHECKING:
    from ferkit.core.labels import LabelSet
    from ferkit.inference.models import TrainedModel
    from ferkit.inference.pictures import PictureFaces

ROWS_AT_ONCE = 500
"""Rows of a table that are aligned together, so that a large folder shows results while it is read."""


@click.command()
@click.argument(
    "model_and_paths", metavar="[MODEL] PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--crops", is_flag=True, help="The pictures are cropped faces: take them whole.")
@detector_option()
@detector_weights_option
@lang_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all probabilities.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with all probabilities.")
@click.option("--annotated", type=FOLDER, help="Write copies with boxes and labels into this folder.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Threads that read pictures.  [default: one a core]")
@models_dir_option
@common_options
def predict(model_and_paths: tuple[Path, ...], models_dir: Path, **options: Any) -> None:
    """Read the expressions in pictures.

    PATHs are pictures, or folders of pictures. MODEL is a model's folder, or its name in --models-dir;
    without one the network that comes with ferkit is taken. A picture with several faces gives a row for each.

    \b
    Examples:
        fer predict photo.jpg
        fer predict mlp photos/ --csv > faces.csv
        fer predict models/mlp crops/ --crops --json
        fer predict photo.jpg --lang ko --annotated out/
    """
    if options["as_json"] and options["as_csv"]:
        raise click.UsageError("--json and --csv cannot go together")
    if options["crops"] and options["detector"] not in ("auto", "none"):
        raise click.UsageError("--crops and --detector cannot go together: crops are taken whole")

    from ferkit.core.progress import Progress
    from ferkit.inference.cropping import settle_faces
    from ferkit.inference.pictures import PictureCropper, list_pictures, read_expressions

    model, paths = _open_model(list(model_and_paths), models_dir)
    detector = "none" if options["crops"] else options["detector"]
    faces = settle_faces(model.faces, detector, options["detector_weights"])
    say(faces.reason)
    pictures = list_pictures(paths)
    cropper = PictureCropper(
        faces.settings, faces.open, model.classifier.input_size_wh, model.resize, look_first=faces.look_first
    )
    results = read_expressions(
        pictures, model.classifier, cropper, batch_size=options["batch_size"], workers=options["workers"]
    )
    tally = _Tally()
    with Progress("predicting", quiet=is_quiet() or len(pictures) == 1) as progress:
        progress.start(len(pictures))
        results = _counted(results, tally, progress)
        if options["annotated"]:
            results = _annotated(results, options["annotated"], model.labels, options["lang"])
        printer = _print_json if options["as_json"] else _print_csv if options["as_csv"] else _print_table
        printer(results, model.labels, options["lang"])
    tally.report()


class _Tally:
    """What became of the pictures."""

    def __init__(self) -> None:
        self.n_read = self.n_faceless = 0
        self.unreadable: list[tuple[str, str]] = []

    def report(self) -> None:
        for path, reason in self.unreadable[:20]:
            say(f"unreadable: {path}: {reason}")
        if len(self.unreadable) > 20:
            say(f"… and {len(self.unreadable) - 20} more")
        if self.n_faceless:
            say(
                f"no face found in {self.n_faceless} of {self.n_read} pictures; "
                "if they are cropped faces, add --crops"
            )
        if self.unreadable and self.n_read:
            total = self.n_read + len(self.unreadable)
            say(f"{self.n_read} of {total} pictures read, {len(self.unreadable)} unreadable")
        if not self.n_read:
            path, reason = self.unreadable[0]
            others = f", nor any of {len(self.unreadable) - 1} others" if len(self.unreadable) > 1 else ""
            raise DataError(f"no picture could be read: not {path} ({reason}){others}")


def _open_model(arguments: list[Path], models_dir: Path) -> tuple["TrainedModel", list[Path]]:
    from ferkit.inference.models import choose_model, default_reason, find_model, open_model

    folder = find_model(str(arguments[0]), models_dir)
    if folder is not None:
        arguments = arguments[1:]
        if not arguments:
            raise click.UsageError(f"expected pictures after the model {folder}")
    elif not arguments[0].exists():
        raise DataError(
            f"{_shown(arguments[0])} is neither a picture, nor a folder, nor a model in {models_dir}; "
            "check the path"
        )
    else:
        folder = choose_model(None, models_dir)
        say(default_reason(models_dir))
    return open_model(folder), arguments


def _counted(results: Iterable["PictureFaces"], tally: _Tally, progress: Any) -> Iterator["PictureFaces"]:
    for result in results:
        progress.update(1, failures=int(result.error is not None))
        if result.error is not None:
            tally.unreadable.append((_shown(result.path), result.error))
        else:
            tally.n_read += 1
            tally.n_faceless += len(result) == 0
        yield result


def _annotated(
    results: Iterable["PictureFaces"], folder: Path, labels: "LabelSet", language: str
) -> Iterator["PictureFaces"]:
    from ferkit.inference.annotated_copies import AnnotatedCopies

    copies = AnnotatedCopies(folder, labels, language)
    if copies.hint:
        say(copies.hint)
    for result in results:
        if result.error is None:
            copies.write(result)
        yield result
    say(f"annotated copies: {folder}")


def _print_table(results: Iterable["PictureFaces"], labels: "LabelSet", language: str) -> None:
    names = labels.display(language)
    rows = (row for result in results for row in _table_rows(result, names))
    header = ("picture", "face", "expression", "sure", "or else")
    while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
        click.echo(table(header, block, right=[3]))


def _table_rows(result: "PictureFaces", names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if result.error is not None:
        yield _shown(result.path), "", "unreadable", "", ""
    elif len(result) == 0:
        yield _shown(result.path), "", "no face", "", ""
    for i in range(len(result)):
        order = (-result.proba[i]).argsort()
        where = "whole picture" if result.whole else f"{i + 1} of {len(result)}, {_place(result.xyxy[i])}"
        other = f"{names[order[1]]} {result.proba[i, order[1]]:.0%}" if len(order) > 1 else ""
        yield _shown(result.path), where, names[order[0]], f"{result.proba[i, order[0]]:.0%}", other


def _place(xyxy: Any) -> str:
    x0, y0, x1, y1 = (round(float(value)) for value in xyxy)
    return f"{x1 - x0}x{y1 - y0} at {x0},{y0}"


def _print_json(results: Iterable["PictureFaces"], labels: "LabelSet", language: str) -> None:
    # Piece by piece, so that a large folder needs no memory; the whole is one valid document.
    click.echo(f'{{"labels": {json.dumps(labels.names, ensure_ascii=False)}, "pictures": [', nl=False)
    for i, result in enumerate(results):
        click.echo(
            ("," if i else "") + "\n " + json.dumps(_as_dict(result, labels, language), ensure_ascii=False),
            nl=False,
        )
    click.echo("\n]}")


def _as_dict(result: "PictureFaces", labels: "LabelSet", language: str) -> dict[str, Any]:
    names, shown = labels.names, labels.display(language)
    faces = []
    for box, proba in zip(result.xyxy, result.proba, strict=True):
        best = int(proba.argmax())
        faces.append({
            "box": None if result.whole else [round(float(value), 1) for value in box],
            "label": names[best],
            "shown": shown[best],
            "confidence": round(float(proba[best]), 4),
            "probabilities": {name: round(float(p), 4) for name, p in zip(names, proba, strict=True)},
        })  # fmt: skip
    return {"path": _shown(result.path), "error": result.error, "faces": faces}


def _print_csv(results: Iterable["PictureFaces"], labels: "LabelSet", language: str) -> None:
    names = labels.names
    fixed = ["path", "face", "left", "top", "right", "bottom", "label", "confidence"]
    _echo_csv([*fixed, *(f"p_{name}" for name in names), "error"])
    for result in results:
        if len(result) == 0:
            _echo_csv(
                [
                    csv_cell(_shown(result.path)),
                    *[""] * (len(fixed) - 1 + len(names)),
                    csv_cell(result.error) or "no face",
                ]
            )
        for i, (box, proba) in enumerate(zip(result.xyxy, result.proba, strict=True)):
            best = int(proba.argmax())
            numbers = [f"{p:.4f}" for p in proba]
            place = [f"{float(value):.1f}" for value in box]
            _echo_csv(
                [
                    csv_cell(_shown(result.path)),
                    i + 1,
                    *place,
                    csv_cell(names[best]),
                    numbers[best],
                    *numbers,
                    "",
                ]
            )


def _echo_csv(values: list[Any]) -> None:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    click.echo(line.getvalue())


def _shown(path: Path) -> str:
    """The path as text that can be printed everywhere: Hangul composed, bytes that are no text replaced."""
    return unicodedata.normalize("NFC", os.fsencode(path).decode(sys.getfilesystemencoding(), "replace"))
