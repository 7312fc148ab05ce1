"""Small files in the layouts of known data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from ferkit.datasets.formats.annotated import Annotated


def image(path: Path, seed: int = 0, size: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding=encoding)
    return path


def labels(found: Annotated) -> dict[str, str | None]:
    return {sample.path: sample.label for sample in found.dataset.samples}


def splits(found: Annotated) -> dict[str, str | None]:
    return {sample.path: sample.split for sample in found.dataset.samples}


def reasons(found: Annotated) -> dict[str, str]:
    return dict(found.problems)
