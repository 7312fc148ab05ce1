"""Fixtures of the fine-tuning tests."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.classifiers.finetune.corners import corners


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``<split>/<class>/*.png`` of given counts; a class of the first place has number 0 and so on."""

    def write(counts: dict[str, dict[str, int]], size: int = 24, name: str = "data") -> Path:
        names = sorted({label for classes in counts.values() for label in classes})
        seed = 0
        for split, classes in counts.items():
            for label, n in classes.items():
                seed += 1
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for i, image in enumerate(corners(np.full(n, names.index(label)), size, seed)):
                    (folder / f"{i:03d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
        return tmp_path / name

    return write
