"""Predict and explain: ``fer predict`` and ``fer explain``."""

import csv
import glob
import io
import itertools
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.command import echo
from ferkit.cli.options import (
    BATCH_SIZE,
    DETECTOR_WEIGHTS,
    FILE,
    FOLDER,
    WORKERS,
    command,
    model_and_rest,
    model_names,
    offer,
    option,
    shared,
)
from ferkit.cli.settings import Chosen, Setting
from ferkit.core.console import table
from ferkit.core.errors import DataError, mask_credentials
from ferkit.core.files import csv_cell
from ferkit.core.texts import translated

if TYPE_CHECKING:
    from ferkit.classifiers.predict import ImageResult
    from ferkit.core.labels import LabelSet
    from ferkit.datasets.load import GivenImages


logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 500
"""Rows of a table that are aligned together, so that a large folder shows results while it is read."""

_PRIVATE_HOSTS = Setting(
    "private_hosts", bool, False, "also fetch addresses of this machine and its own network"
)


@command(settings=(
    DETECTOR_WEIGHTS, BATCH_SIZE, WORKERS, _PRIVATE_HOSTS,
))  # fmt: skip
@click.argument(
    "words", metavar="[MODEL] IMAGE...", nargs=-1, required=True, shell_complete=offer(model_names)
)
@shared("model", "crops", "detector", "lang")
@shared("json", help="Print JSON, with all probabilities.")
@option("--csv", is_flag=True, group="Output", help="Print CSV, with all probabilities.")
@option("--annotated", type=FOLDER, group="Output",
        help="Write copies with boxes and labels into this folder.")  # fmt: skip
@shared("models_dir")
def predict(words: tuple[str, ...], models_dir: Path, settings: Chosen, **options: Any) -> None:
    """Read the expressions in images.

    IMAGEs are files, folders, patterns such as 'photos/*.jpg', http(s) addresses, or - for one image on standard
    input. MODEL is a model's folder, or its name in --models-dir; without one the newest there is taken, or else the
    network that comes with ferkit. An image with several faces gives a row for each.

    \b
    Examples:
        fer predict photo.jpg
        fer predict mlp photos/ --csv > faces.csv
        fer predict --model ferkit https://example.org/photo.jpg
        fer predict models/mlp crops/ --crops --json
        fer predict photo.jpg --lang ko --annotated out/
    """
    if options["json"] and options["csv"]:
        raise click.UsageError("--json and --csv cannot go together")
    if options["crops"] and options["detector"] not in ("auto", "none"):
        raise click.UsageError("--crops and --detector cannot go together: crops are taken whole")

    from ferkit.classifiers.predict import predict_images
    from ferkit.core.console import hidden_progress, progress
    from ferkit.faces.cropping import cropping_as_trained

    model, named = model_and_rest(options["model"], words, models_dir)
    if not named:
        raise click.UsageError(f"expected images after the model {model.folder}")
    given = _given(named, settings["private_hosts"], models_dir)
    detector = "none" if options["crops"] else options["detector"]
    faces = cropping_as_trained(model.crops, detector, settings["detector_weights"])
    logger.info(faces.reason)
    results = predict_images(
        given, model, faces.cropper(model), batch_size=settings["batch_size"], workers=settings["workers"]
    )
    tally = _Tally()
    with (
        hidden_progress() if len(given.names) == 1 else nullcontext(),
        progress("predicting", len(given.names)) as shown,
    ):
        results = _counted(results, tally, shown)
        if options["annotated"]:
            results = _annotated(results, options["annotated"], model.labels, options["lang"])
        printer = _print_json if options["json"] else _print_csv if options["csv"] else _print_table
        printer(results, model.labels, options["lang"])
    tally.report()


def _given(words: Sequence[str], private_hosts: bool, models_dir: Path) -> "GivenImages":
    """The images that are named on the command line: files, folders, patterns, addresses, ``-``.

    Raises:
        DataError: the only word is nothing.
    """
    from ferkit.datasets.load import FetchLimits, GivenImages, is_http

    (one,) = words if len(words) == 1 else ("-",)
    if one != "-" and not is_http(one) and not glob.has_magic(one) and not Path(one).exists():
        raise DataError(
            f"{_text(one)} is neither an image, nor a folder, nor a model in {models_dir}; check the path"
        )
    limits = FetchLimits(private_hosts=private_hosts)
    content = sys.stdin.buffer.read(limits.max_bytes + 1) if "-" in words else b""
    return GivenImages([("standard input", content) if word == "-" else word for word in words], limits)


class _Tally:
    """What became of the images."""

    def __init__(self) -> None:
        self.n_read = self.n_no_face = 0
        self.unreadable: list[tuple[str, str]] = []

    def report(self) -> None:
        """Say it.

        Raises:
            DataError: none could be read.
        """
        for path, reason in self.unreadable[:20] if self.n_read else []:
            logger.info(f"unreadable: {path}: {reason}")
        if len(self.unreadable) > 20:
            logger.info(f"… and {len(self.unreadable) - 20} more")
        if self.n_no_face:
            logger.info(
                f"no face found in {self.n_no_face} of {self.n_read} images; if they are cropped faces, add --crops"
            )
        if self.unreadable and self.n_read:
            total = self.n_read + len(self.unreadable)
            logger.info(f"{self.n_read} of {total} images read, {len(self.unreadable)} unreadable")
        if not self.n_read:
            path, reason = self.unreadable[0]
            others = f", nor any of {len(self.unreadable) - 1} others" if len(self.unreadable) > 1 else ""
            raise DataError(f"no image could be read: not {path} ({reason}){others}")


def _counted(results: Iterable["ImageResult"], tally: _Tally, progress: Any) -> Iterator["ImageResult"]:
    for result in results:
        progress.update(1, failures=int(result.error is not None))
        if result.error is not None:
            tally.unreadable.append((_text(result.path), result.error))
        else:
            tally.n_read += 1
            tally.n_no_face += len(result) == 0
        yield result


def _annotated(
    results: Iterable["ImageResult"], folder: Path, labels: "LabelSet", language: str
) -> Iterator["ImageResult"]:
    """Write a copy of each image, called like it; several of one name are numbered."""
    from ferkit.core.style import HINT, can_draw

    if not can_draw(labels.display(language)):
        logger.info(HINT)
    taken: set[str] = set()
    for result in results:
        if result.error is None:
            stem = _stem(result.path)
            names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
            taken.add(name := next(name for name in names if name not in taken))
            result.save(folder / f"{name}.jpg", language)
        yield result
    logger.info(f"annotated copies: {folder}")


def _stem(path: str) -> str:
    return Path(path.split("?")[0]).stem or "image"


def _print_table(results: Iterable["ImageResult"], labels: "LabelSet", language: str) -> None:
    shown = dict(zip(labels.names, labels.display(language), strict=True))
    rows = (row for result in results for row in _table_rows(result, shown))
    header = ("image", "face", "expression", "sure", "or else")
    while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
        echo(table(header, block, right=[3]))


def _table_rows(result: "ImageResult", shown: dict[str, str]) -> Iterator[tuple[str, ...]]:
    path = _text(result.path)
    if result.error is not None:
        yield path, "", translated("unreadable"), "", ""
    elif len(result) == 0:
        yield path, "", translated("no face"), "", ""
    for i, face in enumerate(result.faces):
        x0, y0, x1, y1 = map(round, face.box)
        where = (
            "whole image" if result.whole else f"{i + 1} of {len(result)}, {x1 - x0}x{y1 - y0} at {x0},{y0}"
        )
        where = translated(where)
        others = sorted(face.probabilities.items(), key=lambda item: -item[1])[1:2]
        other = "".join(f"{shown[name]} {p:.0%}" for name, p in others)
        yield path, where, shown[face.label], f"{face.confidence:.0%}", other


def _print_json(results: Iterable["ImageResult"], labels: "LabelSet", language: str) -> None:
    # Piece by piece, so that a large folder needs no memory; the whole is one valid document.
    shown = dict(zip(labels.names, labels.display(), strict=True))  # programs read it: no language changes it
    click.echo(f'{{"labels": {json.dumps(labels.names, ensure_ascii=False)}, "pictures": [', nl=False)
    for i, result in enumerate(results):
        faces = [face.to_dict() | {"shown": shown[face.label]} for face in result.faces]
        if result.whole:
            faces = [face | {"box": None} for face in faces]
        values = {"path": _text(result.path), "error": result.error, "faces": faces}
        click.echo(("," if i else "") + "\n " + json.dumps(values, ensure_ascii=False), nl=False)
    click.echo("\n]}")


def _print_csv(results: Iterable["ImageResult"], labels: "LabelSet", language: str) -> None:
    names = labels.names
    fixed = ["path", "face", "left", "top", "right", "bottom", "label", "confidence"]
    _echo_csv([*fixed, *(f"p_{name}" for name in names), "error"])
    for result in results:
        path = csv_cell(_text(result.path))
        if len(result) == 0:
            _echo_csv([path, *[""] * (len(fixed) - 1 + len(names)), csv_cell(result.error) or "no face"])
        for i, face in enumerate(result.faces):
            place = [f"{value:.1f}" for value in face.box]
            numbers = [f"{p:.4f}" for p in face.probabilities.values()]
            _echo_csv([path, i + 1, *place, csv_cell(face.label), f"{face.confidence:.4f}", *numbers, ""])


def _echo_csv(values: list[Any]) -> None:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    click.echo(line.getvalue())


def _text(path: Path | str) -> str:
    """The path as text that can be printed everywhere: Hangul composed, passwords masked, other bytes replaced."""
    text = os.fsencode(path).decode(sys.getfilesystemencoding(), "replace")
    return mask_credentials(unicodedata.normalize("NFC", text))


@command(settings=(
    DETECTOR_WEIGHTS, _PRIVATE_HOSTS,
))  # fmt: skip
@click.argument("words", metavar="[MODEL] IMAGE", nargs=-1, required=True, shell_complete=offer(model_names))
@shared("model")
@option("--method", type=click.Choice(["auto", "occlusion", "gradcam"]), default="auto",
        help="Occlusion works for every model, Grad-CAM for networks; 'auto' shows what there is.")  # fmt: skip
@option("--face", type=click.IntRange(1), default=1, help="Which face, the largest first.")
@option("--target", help="Expression to explain.  [default: the one that was read]")
@shared("crops", "detector")
@shared("out", type=FILE, help="PNG to write.  [default: IMAGE's name + '-explained.png', here]")
@shared("lang", "models_dir")
def explain(words: tuple[str, ...], models_dir: Path, settings: Chosen, **options: Any) -> None:
    """Show where in a face an expression was read.

    Red parts speak for the expression: it gets less likely when they are hidden. Blue ones speak against it.
    IMAGE is a file, an http(s) address, or - for standard input. MODEL is a model's folder, or its name in
    --models-dir; without one the newest there is taken, or else the network that comes with ferkit.

    \b
    Examples:
        fer explain photo.jpg
        fer explain network photo.jpg --target sad --out why.png
    """
    import numpy as np
    from PIL import Image

    from ferkit.core.files import write_atomically
    from ferkit.inference.explain import draw_explanation

    model, (name,) = model_and_rest(options["model"], words, models_dir, of="image")
    given = _given([name], settings["private_hosts"], models_dir)
    if len(given.names) > 1:
        raise DataError(f"expected one image at {_text(name)}, found {len(given.names)}")
    crop = _crop(given, model, options, settings["detector_weights"])
    target = None if options["target"] is None else _position(options["target"], model.labels)
    explanation = _explain(model, crop, target, options["method"])
    drawn, hint = draw_explanation(explanation, model.labels, options["lang"])
    if hint:
        logger.info(hint)
    out = options["out"] or Path(f"{_stem(given.names[0])}-explained.png")
    write_atomically(out, lambda file: Image.fromarray(drawn).save(file, "PNG"))
    names = model.labels.display(options["lang"])
    order = np.argsort(-explanation.proba)
    click.echo(", ".join(f"{names[k]} {explanation.proba[k]:.0%}" for k in order[:3]))
    echo(str(out))


def _crop(given: "GivenImages", model: Any, options: dict[str, Any], weights: Path | None) -> Any:
    from ferkit.core.errors import ImageError
    from ferkit.faces.cropping import cropping_as_trained

    detector = "none" if options["crops"] else options["detector"]
    faces = cropping_as_trained(model.crops, detector, weights)
    logger.info(faces.reason)
    (path,) = given.names
    try:
        crops = faces.cropper(model).cut(given.decode(given.read(path))).rgb
    except (ImageError, OSError) as error:
        raise DataError(f"{_text(path)}: {getattr(error, 'strerror', None) or error}") from None
    if options["face"] > len(crops):
        hint = "; if it is a cropped face, add --crops" if len(crops) == 0 else ""
        raise DataError(f"expected face {options['face']} in {_text(path)}, found {len(crops)}{hint}")
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
