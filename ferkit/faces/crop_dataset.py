"""Crop a whole data set: the resumable loop of ``fer crop``, its tables and contact sheets."""

import csv
import functools
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ferkit.core.console import map_ahead, progress
from ferkit.core.errors import DataError, ImageError
from ferkit.core.files import csv_cell, write_atomically
from ferkit.core.fonts import can_draw, open_font
from ferkit.core.types import FaceDetector
from ferkit.datasets.dataset import NO_MEDIA, Dataset, FileSource, Sample
from ferkit.datasets.formats.annotated import Annotated
from ferkit.datasets.tables import read_table, write_manifest
from ferkit.faces.crop_image import (
    SHEETS,
    CropOutcome,
    CropRunSettings,
    LazyImage,
    PlannedImage,
    Status,
    coarsest,
    crop_image,
    folder_name,
    plan_crops,
)
from ferkit.faces.crop_journal import FaceRecord, ImageRecord, Journal, open_journal
from ferkit.faces.cropping import FaceCropper, square_crop
from ferkit.faces.detectors import YuNetDetector, open_detector

TABLE_COLUMNS = (
    "path", "output", "status", "reason", "left", "top", "right", "bottom", "score", "sharpness", "label",
)  # fmt: skip
ORIGINAL = "original"
"""The attribute of a crop that says which image it was cut from."""


def write_tables(annotated: Annotated, plan: list[PlannedImage], journal: Journal) -> tuple[Path, Path]:
    """Write both into the journal's folder; without any crop there is no ``labels.csv``.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    table, report = journal.out / "labels.csv", journal.out / "crops.csv"
    crops: list[Sample] = []
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(TABLE_COLUMNS)
    for path, reason in sorted(annotated.problems):
        writer.writerow([csv_cell(path), "", Status.ANNOTATION.value, csv_cell(reason), *[""] * 7])
    for image in plan:
        for row, crop in _faces(image, journal):
            writer.writerow(row)
            if crop is not None:
                crops.append(crop)
    content = buffer.getvalue().encode("utf-8", "surrogateescape")
    write_atomically(report, lambda file: file.write(content))
    if crops:
        write_manifest(table, Dataset(journal.out.name, journal.out, tuple(crops), FileSource(journal.out)))
    else:
        table.unlink(missing_ok=True)
    return table, report


def _faces(image: PlannedImage, journal: Journal) -> Iterator[tuple[list[object], Sample | None]]:
    """A row for the report, and the sample of the crop if there is one, of each face of an image."""
    for number, face in enumerate(journal.records[image.path].faces):
        outcome, planned = face.outcome, image.face(face.outcome.mark, number)
        sample = planned.sample
        reason = "; ".join(filter(None, (outcome.reason, planned.note if face.output else "")))
        box = outcome.box or ("",) * 4
        row = [
            csv_cell(image.path), csv_cell(face.output), outcome.status.value, csv_cell(reason), *box,
            outcome.score, outcome.sharpness, csv_cell(sample.label),
        ]  # fmt: skip
        if face.output is None:
            yield row, None
            continue
        attributes = {**sample.attributes, ORIGINAL: image.path}
        yield row, Sample(face.output, sample.label, sample.split, sample.group, None, attributes)


SHEET_COLUMNS, MOST = 12, 96
TILE, GAP, HEAD, FOOT = 96, 4, 40, 16
"""Pixels: side of an image, space between two, height of the heading, and of a line below an image."""

LEFT_OUT = "_left out.jpg"

_SHOWN = (
    Status.FACELESS, Status.SEVERAL, Status.SMALL, Status.DOUBTFUL, Status.BLURRED, Status.NOT_LARGEST,
)  # fmt: skip
"""What is worth a look: the others hold nothing that could be shown."""

Tile = tuple[np.ndarray, str]
"""uint8 RGB (h, w, 3), at most ``TILE`` large, and a word to put below it, empty for none."""

Item = TypeVar("Item")


def write_contact_sheets(journal: Journal, table: Path, source: FileSource) -> tuple[Path, ...]:
    """Write ``contact-sheets/<class>.jpg`` and one of what was left out; sheets of old are replaced.

    Each shows up to 96 images, evenly chosen.

    Args:
        journal: of the run.
        table: the data set of the crops.
        source: the images that were cropped.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    folder = journal.out / SHEETS
    write_atomically(folder / NO_MEDIA, lambda file: None)  # sheets are no faces
    sheets: dict[str, Image.Image] = {}
    dataset = read_table(table)
    by_class: dict[str | None, list[Sample]] = {}
    for sample in dataset.samples:
        by_class.setdefault(sample.label, []).append(sample)
    for label, samples in sorted(by_class.items(), key=lambda item: (item[0] is None, item[0] or "")):
        tiles = _tiles(_evenly(samples), lambda sample: (_small(dataset.read(sample)), ""))
        name = f"{folder_name(label) or '_no label'}.jpg"
        sheets[name] = _sheet(label or "no label", f"{len(samples):,} crops", tiles, 0)
    left_out = [
        (record.path, face.outcome)
        for status in _SHOWN
        for record in journal.records.values()
        for face in record.faces
        if face.outcome.status == status
    ]
    if left_out:
        tiles = _tiles(_evenly(left_out), lambda item: (_look(source, *item), item[1].status.value))
        sheets[LEFT_OUT] = _sheet("left out", f"{len(left_out):,} faces and images", tiles, FOOT)
    for name, sheet in sheets.items():
        write_atomically(folder / name, lambda file, sheet=sheet: sheet.save(file, "JPEG", quality=90))  # type: ignore[misc]
    for old in folder.glob("*.jpg"):
        if old.name not in sheets:
            old.unlink()
    return tuple(folder / name for name in sheets)


def _evenly(items: Sequence[Item]) -> list[Item]:
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, MOST).astype(int))]


def _tiles(items: Sequence[Item], tile: Callable[[Item], Tile]) -> list[Tile]:
    tiles = []
    for item in items:
        try:
            tiles.append(tile(item))
        except (ImageError, OSError):  # it was there a moment ago
            continue
    return tiles


def _look(source: FileSource, path: str, outcome: CropOutcome) -> np.ndarray:
    """A face with some of its surroundings, or the whole image where none was found."""
    image = LazyImage(source.read(path))
    if outcome.box is None:
        return _small(image.within(TILE, 8))
    side = max(outcome.box[2] - outcome.box[0], outcome.box[3] - outcome.box[1])
    rgb = image.at(coarsest(side, TILE))
    return _small(square_crop(rgb, np.array(outcome.box) * (rgb.shape[1] / image.size_wh[0]), margin=0.25))


def _small(rgb: np.ndarray) -> np.ndarray:
    scale = TILE / max(rgb.shape[:2])
    width, height = (max(1, round(side * scale)) for side in rgb.shape[1::-1])
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _sheet(title: str, count: str, tiles: Sequence[Tile], foot: int) -> Image.Image:
    columns, rows = min(SHEET_COLUMNS, max(6, len(tiles))), -(-len(tiles) // SHEET_COLUMNS)
    pitch = TILE + GAP + foot
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, HEAD + rows * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    text = f"{title}   {count}" if can_draw([title]) else count
    draw.text((GAP + 2, HEAD / 2), text, "black", open_font([text], 20), anchor="lm")
    font = open_font([""], 11)
    for i, (rgb, word) in enumerate(tiles):
        left, top = (i % SHEET_COLUMNS) * (TILE + GAP) + GAP, HEAD + (i // SHEET_COLUMNS) * pitch
        height, width = rgb.shape[:2]
        sheet.paste(Image.fromarray(rgb), (left + (TILE - width) // 2, top + (TILE - height) // 2))
        if word:
            draw.text((left + TILE / 2, top + TILE + foot / 2), word, "black", font, anchor="mm")
    return sheet


_USUAL_SCORE = 0.6
"""Faces from here on are known to the detector even where more is asked for, so that they are listed as doubtful."""


@dataclass(frozen=True)
class CropSummary:
    """What a run did.

    Attributes:
        n_images: of the data set.
        n_done: images that this run read.
        n_crops: crops in the output folder.
        n_removed: crops of earlier runs whose images are gone or have other names now.
        statuses: faces and images by what became of them, over all runs.
        table: the data set of the crops, that every command reads.
        report: every face and image with its reason.
        sheets: contact sheets, one a class, and one of what was left out.
    """

    n_images: int
    n_done: int
    n_crops: int
    n_removed: int
    statuses: Mapping[str, int]
    table: Path
    report: Path
    sheets: tuple[Path, ...]


@dataclass(frozen=True)
class _Result:
    record: ImageRecord
    files: tuple[tuple[str, bytes], ...]


def crop_dataset(
    annotated: Annotated,
    out: Path,
    settings: CropRunSettings,
    *,
    weights: Path | None = None,
    workers: int | None = None,
    redo: bool = False,
) -> CropSummary:
    """Crop what is missing in ``out``. Killed at any moment and run again, it gives the same files.

    Args:
        annotated: the images, with the boxes that are known.
        out: the output folder; new, empty, or one of an earlier run with the same settings.
        settings: how.
        weights: the detector's file, where it needs one.
        workers: threads; one a core if None.
        redo: throw away what was made with other settings.

    Raises:
        DataError: the images lie in no files of their own, ``out`` holds something else or is part of the data, or
            not one image gave a crop.
        SettingsMismatchError: ``out`` was made with other settings.
        WeightsError, DependencyError: the detector cannot be opened.
        FerkitError: the disk is full, or ``out`` cannot be written or is being written by somebody else.
    """
    source = annotated.dataset.source
    if not isinstance(source, FileSource):
        raise DataError(
            f"the images of {annotated.dataset.root} lie inside that one file and are crops already; "
            "'fer dataset export' writes them out"
        )
    _refuse_within_data(annotated, source.root, out)
    plan = plan_crops(annotated)
    opener = functools.partial(_open_detector, settings, weights)
    worker = _Worker(settings, source, FaceCropper(settings.faces, opener, settings.size_wh, "stretch"))
    with open_journal(out, settings, annotated.dataset.root, redo=redo) as journal:
        todo = [image for image in plan if not journal.is_current(image.path, worker.key(image))]
        with progress("cropping", len(plan), done=len(plan) - len(todo)) as shown:
            for result in map_ahead(worker, todo, workers=workers):
                for output, content in result.files:
                    journal.write_crop(output, content)
                journal.add(result.record)
                shown.update(1, failures=0 if result.files else 1)
        n_removed = journal.keep_only(image.path for image in plan)
        return _finish(annotated, plan, journal, source, len(todo), n_removed)


class _Worker:
    """What one thread does with one image; nothing is written here."""

    def __init__(self, settings: CropRunSettings, source: FileSource, cropper: FaceCropper) -> None:
        self._settings, self._source, self._cropper = settings, source, cropper

    def __call__(self, image: PlannedImage) -> _Result:
        key = self.key(image)  # before the image is read: if it changes meanwhile, it is read again next time
        try:
            cuts = crop_image(self._source.read(image.path), image.marks, self._cropper, self._settings)
        except (ImageError, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            return _Result(
                ImageRecord(image.path, key, (FaceRecord(CropOutcome(Status.UNREADABLE, reason)),)), ()
            )
        faces, files = [], []
        for number, cut in enumerate(cuts):
            if cut.rgb is None:
                faces.append(FaceRecord(cut.outcome))
                continue
            output = f"{image.face(cut.outcome.mark, number).stem}.{self._settings.format}"
            content = encode(cut.rgb, self._settings)
            files.append((output, content))
            faces.append(FaceRecord(cut.outcome, output, len(content)))
        return _Result(ImageRecord(image.path, key, tuple(faces)), tuple(files))

    def key(self, image: PlannedImage) -> str:
        """Changes when anything that the crops of an image depend on may have; empty if it cannot be read."""
        try:
            stamp = self._source.stamp(image.path)
        except OSError:
            return ""
        parts = (stamp, [face.stem for face in image.faces], image.marks)
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _open_detector(settings: CropRunSettings, weights: Path | None) -> FaceDetector:
    name, least = settings.faces.detector, settings.min_score
    if name == "yunet" and weights is not None:
        # It scales down by itself, by default further than was asked for.
        return YuNetDetector(weights, min(_USUAL_SCORE, least or _USUAL_SCORE), settings.detect_size)
    return open_detector(name, weights, None if least is None else min(_USUAL_SCORE, least))


def encode(rgb: np.ndarray, settings: CropRunSettings) -> bytes:
    """The file's bytes of a crop, uint8 RGB (h, w, 3)."""
    pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY if settings.gray else cv2.COLOR_RGB2BGR)
    quality = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, settings.quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, settings.quality],
        "png": [],
    }
    _, content = cv2.imencode(f".{settings.format}", pixels, quality[settings.format])
    return content.tobytes()


def _refuse_within_data(annotated: Annotated, root: Path, out: Path) -> None:
    """Crops among the images would be images of the next run."""
    resolved, data = out.resolve(), root.resolve()
    folders = {sample.path.rpartition("/")[0] for sample in annotated.dataset.samples}
    with_images = {Path(os.path.normpath(data / folder)) for folder in folders}
    inside = annotated.dataset.root.is_dir() and (resolved == data or data in resolved.parents)
    if inside or any(folder.is_relative_to(resolved) for folder in with_images):
        raise DataError(
            f"expected a folder apart from the images, found {out} and {root}; choose one beside it"
        )


def _finish(
    annotated: Annotated,
    plan: list[PlannedImage],
    journal: Journal,
    source: FileSource,
    n_done: int,
    n_removed: int,
) -> CropSummary:
    table, report = write_tables(annotated, plan, journal)
    statuses = Counter(str(face.outcome.status) for r in journal.records.values() for face in r.faces)
    if not journal.outputs:
        first = next(face.outcome.reason for r in journal.records.values() for face in r.faces)
        raise DataError(
            f"none of the {len(plan)} images gave a crop; the first: {first}; the others' reasons are in {report}"
        )
    sheets = write_contact_sheets(journal, table, source)
    return CropSummary(
        len(plan),
        n_done,
        len(journal.outputs),
        n_removed,
        dict(statuses.most_common()),
        table,
        report,
        sheets,
    )
