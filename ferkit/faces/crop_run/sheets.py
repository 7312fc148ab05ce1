"""Contact sheets: crops side by side, and what was left out, since nothing shows a mistake as fast as a look."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ferkit.core.errors import ImageError
from ferkit.core.files import write_atomically
from ferkit.core.fonts import can_draw, open_font
from ferkit.datasets.dataset import Sample
from ferkit.datasets.files import NO_MEDIA, FileSource
from ferkit.datasets.table import read_table
from ferkit.faces.crop import square_crop
from ferkit.faces.crop_run.journal import Journal
from ferkit.faces.crop_run.outcome import Outcome, Status
from ferkit.faces.crop_run.picture import Picture, coarsest
from ferkit.faces.crop_run.plan import SHEETS, folder_name

COLUMNS, MOST = 12, 96
TILE, GAP, HEAD, FOOT = 96, 4, 40, 16
"""Pixels: side of a picture, space between two, height of the heading, and of a line below a picture."""

LEFT_OUT = "_left out.jpg"

_SHOWN = (
    Status.FACELESS, Status.SEVERAL, Status.SMALL, Status.DOUBTFUL, Status.BLURRED, Status.NOT_LARGEST,
)  # fmt: skip
"""What is worth a look: the others hold nothing that could be shown."""

Tile = tuple[np.ndarray, str]
"""uint8 RGB (h, w, 3), at most ``TILE`` large, and a word to put below it, empty for none."""

Item = TypeVar("Item")


def write_sheets(journal: Journal, table: Path, source: FileSource) -> tuple[Path, ...]:
    """Write ``contact-sheets/<class>.jpg`` and one of what was left out; sheets of old are replaced.

    Each shows up to 96 pictures, evenly chosen.

    Args:
        journal: of the run.
        table: the data set of the crops.
        source: the pictures that were cropped.

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
        sheets[LEFT_OUT] = _sheet("left out", f"{len(left_out):,} faces and pictures", tiles, FOOT)
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


def _look(source: FileSource, path: str, outcome: Outcome) -> np.ndarray:
    """A face with some of its surroundings, or the whole picture where none was found."""
    picture = Picture(source.read(path))
    if outcome.box is None:
        return _small(picture.within(TILE, 8))
    side = max(outcome.box[2] - outcome.box[0], outcome.box[3] - outcome.box[1])
    rgb = picture.at(coarsest(side, TILE))
    return _small(square_crop(rgb, np.array(outcome.box) * (rgb.shape[1] / picture.size_wh[0]), margin=0.25))


def _small(rgb: np.ndarray) -> np.ndarray:
    scale = TILE / max(rgb.shape[:2])
    width, height = (max(1, round(side * scale)) for side in rgb.shape[1::-1])
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _sheet(title: str, count: str, tiles: Sequence[Tile], foot: int) -> Image.Image:
    columns, rows = min(COLUMNS, max(6, len(tiles))), -(-len(tiles) // COLUMNS)
    pitch = TILE + GAP + foot
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, HEAD + rows * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    text = f"{title}   {count}" if can_draw([title]) else count
    draw.text((GAP + 2, HEAD / 2), text, "black", open_font([text], 20), anchor="lm")
    font = open_font([""], 11)
    for i, (rgb, word) in enumerate(tiles):
        left, top = (i % COLUMNS) * (TILE + GAP) + GAP, HEAD + (i // COLUMNS) * pitch
        height, width = rgb.shape[:2]
        sheet.paste(Image.fromarray(rgb), (left + (TILE - width) // 2, top + (TILE - height) // 2))
        if word:
            draw.text((left + TILE / 2, top + TILE + foot / 2), word, "black", font, anchor="mm")
    return sheet
