"""Predict and explain: ``fer predict`` and ``fer explain``."""

import csv
import glob
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
    FILE,
    FOLDER,
    common_options,
    detector_option,
    detector_weights_option,
    is_quiet,
    lang_option,
    models_dir_option,
    say,
)
from ferkit.core.console import table
from ferkit.core.errors import DataError
from ferkit.core.files import csv_cell

if TYPE_CHECKING:
    from ferkit.classifiers.model import Model
    from ferkit.classifiers.predict import ImageFaces
    from ferkit.core.labels import LabelSet


ROWS_AT_ONCE = 500
"""Rows of a table that are aligned together, so that a large folder shows results while it is read."""


@click.command()
@click.argument(
    "model_and_paths", metavar="[MODEL] PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--crops", is_flag=True, help="The images are cropped faces: take them whole.")
@detector_option()
@detector_weights_option
@lang_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all probabilities.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with all probabilities.")
@click.option("--annotated", type=FOLDER, help="Write copies with boxes and labels into this folder.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Threads that read images.  [default: one a core]")
@models_dir_option
@common_options
def predict(model_and_paths: tuple[Path, ...], models_dir: Path, **options: Any) -> None:
    """Read the expressions in images.

    PATHs are images, or folders of images. MODEL is a model's folder, or its name in --models-dir;
    without one the network that comes with ferkit is taken. An image with several faces gives a row for each.

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

    from ferkit.classifiers.predict import list_images, predict_images
    from ferkit.core.console import Progress
    from ferkit.faces.cropping import cropping_as_trained

    model, paths = _open_model(list(model_and_paths), models_dir)
    detector = "none" if options["crops"] else options["detector"]
    faces = cropping_as_trained(model.crops, detector, options["detector_weights"])
    say(faces.reason)
    images = list_images(paths)
    results = predict_images(
        images, model, faces.cropper(model), batch_size=options["batch_size"], workers=options["workers"]
    )
    tally = _Tally()
    with Progress("predicting", quiet=is_quiet() or len(images) == 1) as progress:
        progress.start(len(images))
        results = _counted(results, tally, progress)
        if options["annotated"]:
            results = _annotated(results, options["annotated"], model.labels, options["lang"])
        printer = _print_json if options["as_json"] else _print_csv if options["as_csv"] else _print_table
        printer(results, model.labels, options["lang"])
    tally.report()


class _Tally:
    """What became of the images."""

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
                f"no face found in {self.n_faceless} of {self.n_read} images; "
                "if they are cropped faces, add --crops"
            )
        if self.unreadable and self.n_read:
            total = self.n_read + len(self.unreadable)
            say(f"{self.n_read} of {total} images read, {len(self.unreadable)} unreadable")
        if not self.n_read:
            path, reason = self.unreadable[0]
            others = f", nor any of {len(self.unreadable) - 1} others" if len(self.unreadable) > 1 else ""
            raise DataError(f"no image could be read: not {path} ({reason}){others}")


def _open_model(arguments: list[Path], models_dir: Path) -> tuple["Model", list[Path]]:
    from ferkit.classifiers.model import choose_model, find_model

    folder = find_model(str(arguments[0]), models_dir)
    if folder is not None:
        arguments = arguments[1:]
        if not arguments:
            raise click.UsageError(f"expected images after the model {folder}")
    elif not arguments[0].exists() and not glob.has_magic(str(arguments[0])):
        raise DataError(
            f"{_shown(arguments[0])} is neither an image, nor a folder, nor a model in {models_dir}; "
            "check the path"
        )
    return choose_model(None if folder is None else str(folder), models_dir), arguments


def _counted(results: Iterable["ImageFaces"], tally: _Tally, progress: Any) -> Iterator["ImageFaces"]:
    for result in results:
        progress.update(1, failures=int(result.error is not None))
        if result.error is not None:
            tally.unreadable.append((_shown(result.path), result.error))
        else:
            tally.n_read += 1
            tally.n_faceless += len(result) == 0
        yield result


def _annotated(
    results: Iterable["ImageFaces"], folder: Path, labels: "LabelSet", language: str
) -> Iterator["ImageFaces"]:
    from ferkit.inference.annotated_copies import AnnotatedCopies

    copies = AnnotatedCopies(folder, labels, language)
    if copies.hint:
        say(copies.hint)
    for result in results:
        if result.error is None:
            copies.write(result)
        yield result
    say(f"annotated copies: {folder}")


def _print_table(results: Iterable["ImageFaces"], labels: "LabelSet", language: str) -> None:
    names = labels.display(language)
    rows = (row for result in results for row in _table_rows(result, names))
    header = ("image", "face", "expression", "sure", "or else")
    while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
        click.echo(table(header, block, right=[3]))


def _table_rows(result: "ImageFaces", names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if result.error is not None:
        yield _shown(result.path), "", "unreadable", "", ""
    elif len(result) == 0:
        yield _shown(result.path), "", "no face", "", ""
    for i in range(len(result)):
        order = (-result.proba[i]).argsort()
        where = "whole image" if result.whole else f"{i + 1} of {len(result)}, {_place(result.xyxy[i])}"
        other = f"{names[order[1]]} {result.proba[i, order[1]]:.0%}" if len(order) > 1 else ""
        yield _shown(result.path), where, names[order[0]], f"{result.proba[i, order[0]]:.0%}", other


def _place(xyxy: Any) -> str:
    x0, y0, x1, y1 = (round(float(value)) for value in xyxy)
    return f"{x1 - x0}x{y1 - y0} at {x0},{y0}"


def _print_json(results: Iterable["ImageFaces"], labels: "LabelSet", language: str) -> None:
    # Piece by piece, so that a large folder needs no memory; the whole is one valid document.
    click.echo(f'{{"labels": {json.dumps(labels.names, ensure_ascii=False)}, "pictures": [', nl=False)
    for i, result in enumerate(results):
        click.echo(
            ("," if i else "") + "\n " + json.dumps(_as_dict(result, labels, language), ensure_ascii=False),
            nl=False,
        )
    click.echo("\n]}")


def _as_dict(result: "ImageFaces", labels: "LabelSet", language: str) -> dict[str, Any]:
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


def _print_csv(results: Iterable["ImageFaces"], labels: "LabelSet", language: str) -> None:
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


@click.command()
@click.argument("model_and_photo", metavar="[MODEL] PHOTO", nargs=-1, required=True)
@click.option(
    "--method",
    type=click.Choice(["auto", "occlusion", "gradcam"]),
    default="auto",
    show_default=True,
    help="Occlusion works for every model, Grad-CAM for networks; 'auto' shows what there is.",
)
@click.option(
    "--face", type=click.IntRange(1), default=1, show_default=True, help="Which face, the largest first."
)
@click.option("--target", help="Expression to explain.  [default: the one that was read]")
@click.option("--crops", is_flag=True, help="The photo is a cropped face: take it whole.")
@detector_option()
@detector_weights_option
@click.option("--out", type=FILE, help="PNG to write.  [default: PHOTO's name + '-explained.png', here]")
@lang_option
@models_dir_option
@common_options
def explain(model_and_photo: tuple[str, ...], models_dir: Path, **options: Any) -> None:
    """Show where in a face an expression was read.

    Red parts speak for the expression: it gets less likely when they are hidden. Blue ones speak against it.
    MODEL is a model's folder, or its name in --models-dir; without one the model that comes with
    ferkit is taken.

    \b
    Examples:
        fer explain photo.jpg
        fer explain network photo.jpg --target sad --out why.png
    """
    if len(model_and_photo) > 2:
        raise click.UsageError("expected one photo, after the model where one is named")
    import numpy as np

    from ferkit.classifiers.model import choose_model
    from ferkit.core.files import write_atomically
    from ferkit.inference.explain import draw_explanation

    photo = Path(model_and_photo[-1])
    if not photo.is_file():
        raise DataError(f"expected an image at {photo}, found {'a folder' if photo.is_dir() else 'nothing'}")
    model = choose_model(model_and_photo[0] if len(model_and_photo) == 2 else None, models_dir)
    crop = _crop(photo, model, options)
    target = None if options["target"] is None else _position(options["target"], model.labels)
    explanation = _explain(model, crop, target, options["method"])
    image, hint = draw_explanation(explanation, model.labels, options["lang"])
    if hint:
        say(hint)
    out = options["out"] or Path(f"{photo.stem}-explained.png")

    def save(file: Any) -> None:
        from PIL import Image

        Image.fromarray(image).save(file, "PNG")

    write_atomically(out, save)
    names = model.labels.display(options["lang"])
    order = np.argsort(-explanation.proba)
    click.echo(", ".join(f"{names[k]} {explanation.proba[k]:.0%}" for k in order[:3]))
    click.echo(out)


def _crop(photo: Path, model: Any, options: dict[str, Any]) -> Any:
    from ferkit.core.errors import ImageError
    from ferkit.core.files import read_regular
    from ferkit.datasets.images import decode_image
    from ferkit.faces.cropping import cropping_as_trained

    detector = "none" if options["crops"] else options["detector"]
    faces = cropping_as_trained(model.crops, detector, options["detector_weights"])
    say(faces.reason)
    try:
        crops = faces.cropper(model).cut(decode_image(read_regular(photo))).rgb
    except ImageError as error:
        raise DataError(f"{photo}: {error}") from None
    if options["face"] > len(crops):
        hint = "; if it is a cropped face, add --crops" if len(crops) == 0 else ""
        raise DataError(f"expected face {options['face']} in {photo}, found {len(crops)}{hint}")
    return crops[options["face"] - 1]


def _position(name: str, labels: Any) -> int:
    from ferkit.core.labels import meaning_of

    meanings = [meaning_of(label) for label in labels.names]
    if meaning_of(name) not in meanings:
        raise DataError(f"expected --target out of {', '.join(labels.names)}, found {name!r}")
    return meanings.index(meaning_of(name))


def _explain(model: Any, crop: Any, target: int | None, method: str) -> Any:
    from ferkit.inference.explain import Explanation, grad_cam, occlusion_map

    proba = model.predict_proba(crop[None])[0]
    target = int(proba.argmax()) if target is None else target
    is_network = hasattr(model.classifier, "onnx")
    if method == "gradcam" and not is_network:
        raise DataError(
            f"Grad-CAM needs a fine-tuned network, and {model.name} is another kind; use --method occlusion"
        )
    maps = {}
    if method in ("auto", "occlusion"):
        maps["occlusion"] = occlusion_map(model, crop, target)
    if method == "gradcam" or (method == "auto" and is_network):
        maps["gradcam"] = grad_cam(model.classifier, crop, target)
    return Explanation(crop, proba, target, maps)
