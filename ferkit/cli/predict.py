"""Predict and explain: ``fer predict`` and ``fer explain``."""

import csv
import glob
import io
import itertools
import json
import logging
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkit.cli.options import (
    BATCH_SIZE,
    DETECTOR_WEIGHTS,
    FILE,
    FOLDER,
    WORKERS,
    command,
    model_and_rest,
    option,
    shared,
)
from ferkit.cli.settings import Chosen, Setting
from ferkit.core.console import table
from ferkit.core.errors import DataError
from ferkit.core.files import csv_cell

if TYPE_CHECKING:
    from ferkit.classifiers.predict import ImageFaces
    from ferkit.core.labels import LabelSet


logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 500
"""Rows of a table that are aligned together, so that a large folder shows results while it is read."""

_VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts")
_PRIVATE_HOSTS = Setting(
    "private_hosts", bool, False, "also fetch addresses of this machine and its own network"
)


@command(settings=(
    DETECTOR_WEIGHTS, BATCH_SIZE, WORKERS, _PRIVATE_HOSTS,
))  # fmt: skip
@click.argument("words", metavar="[MODEL] IMAGE...", nargs=-1, required=True)
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
    with tempfile.TemporaryDirectory(prefix="ferkit-") as kept:
        images = _Images(named, Path(kept), settings["private_hosts"], models_dir)
        detector = "none" if options["crops"] else options["detector"]
        faces = cropping_as_trained(model.crops, detector, settings["detector_weights"])
        logger.info(faces.reason)
        results = predict_images(
            images.paths, model, faces.cropper(model),
            batch_size=settings["batch_size"], workers=settings["workers"],
        )  # fmt: skip
        tally = _Tally()
        with (
            hidden_progress() if len(images.paths) == 1 else nullcontext(),
            progress("predicting", len(images.paths)) as shown,
        ):
            results = _counted(images.explained(results), tally, shown, images)
            if options["annotated"]:
                results = _annotated(results, options["annotated"], model.labels, options["lang"])
            printer = _print_json if options["json"] else _print_csv if options["csv"] else _print_table
            printer(results, model.labels, options["lang"], images)
    tally.report()


class _Images:
    """The images that are named on the command line, as files.

    Args:
        words: files, folders, patterns, addresses, ``-``.
        folder: where what is fetched is kept.
        private_hosts: see :class:`ferkit.datasets.remote.FetchLimits`.
        models_dir: for the sentence about a word that is nothing.

    Attributes:
        paths: the files.

    Raises:
        DataError: a word is nothing, or the only one is a video.
    """

    def __init__(self, words: Sequence[str], folder: Path, private_hosts: bool, models_dir: Path) -> None:
        from ferkit.classifiers.predict import list_images
        from ferkit.datasets.remote import FetchLimits, is_address

        self.paths: list[Path] = []
        self._shown: dict[Path, str] = {}
        self._errors: dict[Path, str] = {}
        self._folder, self._limits = folder, FetchLimits(private_hosts=private_hosts)
        for word in words:
            if word == "-" or is_address(word):
                self._keep(word)
            elif Path(word).suffix.lower() in _VIDEOS and Path(word).is_file():
                self.paths.append(Path(word))
                self._errors[Path(word)] = f"it is a video, which 'fer video {word}' reads"
            elif glob.has_magic(word) and not Path(word).exists():
                found = sorted(glob.glob(word, recursive=True))
                if not found:
                    raise DataError(f"no file is called like {word}")
                self.paths += list_images(map(Path, found))
            elif not Path(word).exists() and len(words) == 1:
                raise DataError(
                    f"{_text(word)} is neither an image, nor a folder, nor a model in {models_dir}; check the path"
                )
            else:
                self.paths += list_images([Path(word)])

    def _keep(self, word: str) -> None:
        from ferkit.core.errors import ImageError
        from ferkit.datasets.remote import fetch_image

        name = "stdin" if word == "-" else Path(word.split("?")[0]).name[-80:] or "image"
        path = self._folder / str(len(self.paths)) / name
        self.paths.append(path)
        self._shown[path] = "standard input" if word == "-" else word
        try:
            if word == "-":
                content = sys.stdin.buffer.read(self._limits.max_bytes + 1)
            else:
                content = fetch_image(word, self._limits)
        except ImageError as error:
            self._errors[path] = str(error)
        else:
            path.parent.mkdir()
            path.write_bytes(content)

    def explained(self, results: Iterable["ImageFaces"]) -> Iterator["ImageFaces"]:
        """The results, with the true reason where one could not be had."""
        for result in results:
            reason = self._errors.get(result.path)
            yield result if reason is None else replace(result, error=reason)

    def shown(self, path: Path) -> str:
        """What the image was called."""
        return _text(self._shown.get(path, path))


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
                f"no face found in {self.n_no_face} of {self.n_read} images; "
                "if they are cropped faces, add --crops"
            )
        if self.unreadable and self.n_read:
            total = self.n_read + len(self.unreadable)
            logger.info(f"{self.n_read} of {total} images read, {len(self.unreadable)} unreadable")
        if not self.n_read:
            path, reason = self.unreadable[0]
            others = f", nor any of {len(self.unreadable) - 1} others" if len(self.unreadable) > 1 else ""
            raise DataError(f"no image could be read: not {path} ({reason}){others}")


def _counted(
    results: Iterable["ImageFaces"], tally: _Tally, progress: Any, images: _Images
) -> Iterator["ImageFaces"]:
    for result in results:
        progress.update(1, failures=int(result.error is not None))
        if result.error is not None:
            tally.unreadable.append((images.shown(result.path), result.error))
        else:
            tally.n_read += 1
            tally.n_no_face += len(result) == 0
        yield result


def _annotated(
    results: Iterable["ImageFaces"], folder: Path, labels: "LabelSet", language: str
) -> Iterator["ImageFaces"]:
    from ferkit.inference.annotated_copies import AnnotatedCopies

    copies = AnnotatedCopies(folder, labels, language)
    if copies.hint:
        logger.info(copies.hint)
    for result in results:
        if result.error is None:
            copies.write(result)
        yield result
    logger.info(f"annotated copies: {folder}")


def _print_table(results: Iterable["ImageFaces"], labels: "LabelSet", language: str, images: _Images) -> None:
    names = labels.display(language)
    rows = (row for result in results for row in _table_rows(result, images.shown(result.path), names))
    header = ("image", "face", "expression", "sure", "or else")
    while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
        click.echo(table(header, block, right=[3]))


def _table_rows(result: "ImageFaces", shown: str, names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if result.error is not None:
        yield shown, "", "unreadable", "", ""
    elif len(result) == 0:
        yield shown, "", "no face", "", ""
    for i in range(len(result)):
        order = (-result.proba[i]).argsort()
        where = "whole image" if result.whole else f"{i + 1} of {len(result)}, {_place(result.xyxy[i])}"
        other = f"{names[order[1]]} {result.proba[i, order[1]]:.0%}" if len(order) > 1 else ""
        yield shown, where, names[order[0]], f"{result.proba[i, order[0]]:.0%}", other


def _place(xyxy: Any) -> str:
    x0, y0, x1, y1 = (round(float(value)) for value in xyxy)
    return f"{x1 - x0}x{y1 - y0} at {x0},{y0}"


def _print_json(results: Iterable["ImageFaces"], labels: "LabelSet", language: str, images: _Images) -> None:
    # Piece by piece, so that a large folder needs no memory; the whole is one valid document.
    click.echo(f'{{"labels": {json.dumps(labels.names, ensure_ascii=False)}, "pictures": [', nl=False)
    for i, result in enumerate(results):
        values = {"path": images.shown(result.path), **_as_dict(result, labels, language)}
        click.echo(("," if i else "") + "\n " + json.dumps(values, ensure_ascii=False), nl=False)
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
    return {"error": result.error, "faces": faces}


def _print_csv(results: Iterable["ImageFaces"], labels: "LabelSet", language: str, images: _Images) -> None:
    names = labels.names
    fixed = ["path", "face", "left", "top", "right", "bottom", "label", "confidence"]
    _echo_csv([*fixed, *(f"p_{name}" for name in names), "error"])
    for result in results:
        path = csv_cell(images.shown(result.path))
        if len(result) == 0:
            _echo_csv([path, *[""] * (len(fixed) - 1 + len(names)), csv_cell(result.error) or "no face"])
        for i, (box, proba) in enumerate(zip(result.xyxy, result.proba, strict=True)):
            best = int(proba.argmax())
            numbers = [f"{p:.4f}" for p in proba]
            place = [f"{float(value):.1f}" for value in box]
            _echo_csv([path, i + 1, *place, csv_cell(names[best]), numbers[best], *numbers, ""])


def _echo_csv(values: list[Any]) -> None:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    click.echo(line.getvalue())


def _text(path: Path | str) -> str:
    """The path as text that can be printed everywhere: Hangul composed, bytes that are no text replaced."""
    return unicodedata.normalize("NFC", os.fsencode(path).decode(sys.getfilesystemencoding(), "replace"))


@command(settings=(
    DETECTOR_WEIGHTS,
))  # fmt: skip
@click.argument("words", metavar="[MODEL] IMAGE", nargs=-1, required=True)
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
    MODEL is a model's folder, or its name in --models-dir; without one the newest there is taken, or else the
    network that comes with ferkit.

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
    path = Path(name)
    if not path.is_file():
        raise DataError(f"expected an image at {path}, found {'a folder' if path.is_dir() else 'nothing'}")
    crop = _crop(path, model, options, settings["detector_weights"])
    target = None if options["target"] is None else _position(options["target"], model.labels)
    explanation = _explain(model, crop, target, options["method"])
    drawn, hint = draw_explanation(explanation, model.labels, options["lang"])
    if hint:
        logger.info(hint)
    out = options["out"] or Path(f"{path.stem}-explained.png")
    write_atomically(out, lambda file: Image.fromarray(drawn).save(file, "PNG"))
    names = model.labels.display(options["lang"])
    order = np.argsort(-explanation.proba)
    click.echo(", ".join(f"{names[k]} {explanation.proba[k]:.0%}" for k in order[:3]))
    click.echo(out)


def _crop(path: Path, model: Any, options: dict[str, Any], weights: Path | None) -> Any:
    from ferkit.core.errors import ImageError
    from ferkit.core.files import read_regular
    from ferkit.datasets.images import decode_image
    from ferkit.faces.cropping import cropping_as_trained

    detector = "none" if options["crops"] else options["detector"]
    faces = cropping_as_trained(model.crops, detector, weights)
    logger.info(faces.reason)
    try:
        crops = faces.cropper(model).cut(decode_image(read_regular(path))).rgb
    except ImageError as error:
        raise DataError(f"{path}: {error}") from None
    if options["face"] > len(crops):
        hint = "; if it is a cropped face, add --crops" if len(crops) == 0 else ""
        raise DataError(f"expected face {options['face']} in {path}, found {len(crops)}{hint}")
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
