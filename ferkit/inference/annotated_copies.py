"""Copies of images with boxes and labels."""

from pathlib import Path

import cv2
import numpy as np

from ferkit.classifiers.predict import ImageFaces
from ferkit.core.errors import FerkitError
from ferkit.core.files import write_atomically
from ferkit.core.fonts import HINT, open_font
from ferkit.core.labels import LabelSet
from ferkit.datasets.archives import PathSource
from ferkit.datasets.images import decode_image
from ferkit.faces.drawing import TextPainter, draw_faces, enlarged, label_colors, text_size


class AnnotatedCopies:
    """Writes JPEG copies with what was read drawn in.

    Args:
        folder: where they go; made if it is not there.
        labels: the classes.
        language: of the labels, ``en`` or ``ko``.

    Attributes:
        hint: what to tell the user, if labels cannot be drawn as asked; None otherwise.
    """

    def __init__(self, folder: Path, labels: LabelSet, language: str) -> None:
        self._folder = folder
        self._colors = label_colors(labels)
        self._names = labels.display(language)
        self.hint = None
        if open_font(self._names, 16) is None:
            self._names, self.hint = labels.display("en"), HINT
        self._painters: dict[int, TextPainter] = {}
        self._written: set[str] = set()

    def write(self, result: ImageFaces) -> Path:
        """Write the copy of one image, called like it; two of one name are numbered.

        Raises:
            FerkitError: the folder cannot be written.
        """
        rgb, factor = enlarged(decode_image(PathSource(Path()).read(str(result.path))))
        best = result.proba.argmax(axis=1)
        texts = [f"{self._names[i]} {p[i]:.0%}" for i, p in zip(best, result.proba, strict=True)]
        if texts:
            painter = self._painter(text_size(rgb), texts)
            colors = [self._colors[i] for i in best]
            draw_faces(rgb, result.xyxy * factor, texts, colors, painter, whole=result.whole)
        path = self._folder / self._free_name(result.path.stem)
        done, jpeg = cv2.imencode(
            ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92]
        )
        if not done:
            size = f"{rgb.shape[1]}x{rgb.shape[0]}"
            raise FerkitError(f"the copy of {result.path} could not be encoded as JPEG ({size} pixels)")
        write_atomically(path, lambda file: file.write(np.asarray(jpeg).tobytes()))
        return path

    def _painter(self, size: int, texts: list[str]) -> TextPainter:
        if size not in self._painters:
            font = open_font(texts + list(self._names), size) or open_font((), size)
            assert font is not None  # Latin letters always have one
            self._painters[size] = TextPainter(font)
        return self._painters[size]

    def _free_name(self, stem: str) -> str:
        name, n = stem, 1
        while name in self._written:
            n += 1
            name = f"{stem}-{n}"
        self._written.add(name)
        return f"{name}.jpg"
