"""Images with drawn people in them, and crops of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from ferkit.datasets.formats.annotated import Annotated
from ferkit.datasets.formats.load import read_annotated
from ferkit.datasets.synthetic import Identity, paint_face, sample_units
from ferkit.faces.crop_dataset import CropSummary, crop_dataset
from ferkit.faces.crop_image import CropRunSettings
from ferkit.faces.cropping import CropSettings

HAAR = CropSettings("haar", None, align=False, margin=0.1, no_face="skip")
MARKED = CropSettings("none", None, align=False, margin=0.1, no_face="skip")


def scene(
    seed: int,
    centres: tuple[tuple[float, float], ...],
    zoom: float = 50,
    size_wh: tuple[int, int] = (320, 240),
) -> np.ndarray:
    """People with neutral faces, ``zoom`` pixels from the middle of a face to its chin."""
    rng = np.random.default_rng(seed)
    side = max(size_wh)
    pixels = np.full((side, side, 3), 190, np.uint8)
    for centre in centres:
        pose = np.column_stack([np.eye(2) * zoom, centre])
        # Light falls on the whole image with each face: brightened again, so that the first is not left in the dark.
        pixels = paint_face(pixels, pose, Identity.random(rng), sample_units("neutral", rng), rng, 2 * zoom)
        pixels = np.clip(pixels * (200 / 165), 0, 255).astype(np.uint8)
    return pixels[: size_wh[1], : size_wh[0]]


def save(path: Path, rgb: np.ndarray, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, **how)
    return path


def crop(
    source: Path | Annotated, out: Path, faces: CropSettings = HAAR, *, redo: bool = False, **values
) -> CropSummary:
    annotated = source if isinstance(source, Annotated) else read_annotated(source)
    settings = CropRunSettings(faces=faces, **{"size_wh": (64, 64), **values})
    return crop_dataset(annotated, out, settings, workers=2, redo=redo)


def report(out: Path) -> list[dict[str, str]]:
    """Rows of ``crops.csv``."""
    import csv

    with (out / "crops.csv").open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))
