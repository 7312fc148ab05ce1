"""Contact sheets: the crops of a class side by side, since nothing shows a mistake as fast as a look."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ferkit.core.errors import ImageError
from ferkit.core.files import write_atomically
from ferkit.core.fonts import can_draw, open_font
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import NO_MEDIA
from ferkit.datasets.table import read_table
from ferkit.faces.crop_run.plan import SHEETS, folder_name

COLUMNS, MOST = 12, 96
TILE, GAP, HEAD = 96, 4, 40
"""Pixels: side of a picture, space between two, height of the heading."""


def write_sheets(out: Path, table: Path) -> tuple[Path, ...]:
    """Write ``contact-sheets/<class>.jpg`` of up to 96 crops, evenly chosen, into ``out``; sheets of old are replaced.

    Args:
        out: the folder of the crops.
        table: their data set.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    folder = out / SHEETS
    write_atomically(folder / NO_MEDIA, lambda file: None)  # sheets are no faces
    dataset = read_table(table)
    by_class: dict[str | None, list[Sample]] = {}
    for sample in dataset.samples:
        by_class.setdefault(sample.label, []).append(sample)
    written = []
    for label, samples in sorted(by_class.items(), key=lambda item: (item[0] is None, item[0] or "")):
        sheet = _sheet(label or "no label", samples, dataset)
        path = folder / f"{folder_name(label) or '_no label'}.jpg"
        write_atomically(path, lambda file, sheet=sheet: sheet.save(file, "JPEG", quality=90))  # type: ignore[misc]
        written.append(path)
    for old in set(folder.glob("*.jpg")) - set(written):
        old.unlink()
    return tuple(written)


def _sheet(label: str, samples: list[Sample], dataset: Dataset) -> Image.Image:
    chosen = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, MOST).astype(int))]
    columns, rows = min(COLUMNS, max(6, len(chosen))), -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, HEAD + rows * (TILE + GAP)), "white")
    text = f"{label}   {len(samples):,} crops" + (
        f", {len(chosen)} of them" if len(chosen) < len(samples) else ""
    )
    if not can_draw([text]):
        text = f"{len(samples):,} crops"
    ImageDraw.Draw(sheet).text((GAP + 2, HEAD / 2), text, "black", open_font([text], 20), anchor="lm")
    for i, sample in enumerate(chosen):
        try:
            tile = Image.fromarray(dataset.read(sample))
        except (ImageError, OSError):
            continue
        tile.thumbnail((TILE, TILE))
        left, top = (i % COLUMNS) * (TILE + GAP) + GAP, HEAD + (i // COLUMNS) * (TILE + GAP)
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
    return sheet
