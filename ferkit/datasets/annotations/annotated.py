"""What every reader of annotations gives: a data set with boxes, and a list of what could not be used."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are the first column and row outside."""


@dataclass(frozen=True)
class Annotated:
    """Annotated pictures.

    Attributes:
        dataset: one sample a picture: of several marked faces the largest.
        problems: (path, reason) of everything that was found and not used, or used in part; the path is that of a
            picture, of a file of annotations, or a name in one.
        further: the other marked faces of pictures with several, sorted by path; their samples' paths are those of
            the data set.
        sizes_wh: width and height that the annotations claim for pictures, by path, where they claim one: that tells
            whether a photo was turned upright before it was marked.
    """

    dataset: Dataset
    problems: tuple[tuple[str, str], ...] = ()
    further: tuple[Sample, ...] = ()
    sizes_wh: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))


def annotated(
    root: Path,
    source_root: Path,
    faces: Iterable[Sample],
    problems: list[tuple[str, str]],
    sizes_wh: Mapping[str, tuple[int, int]] | None = None,
) -> Annotated:
    """Sort marked faces into one a picture and the rest.

    Args:
        root: what was read, for messages and the name.
        source_root: the folder that the samples' paths are relative to.
        faces: in any order, several of a picture allowed.
        problems: what was not used.
        sizes_wh: see :class:`Annotated`.

    Raises:
        DataError: no face is left.
    """
    by_path: dict[str, list[Sample]] = {}
    for face in faces:
        by_path.setdefault(face.path, []).append(face)
    if not by_path:
        first = f"; the first of {len(problems)} problems: {': '.join(problems[0])}" if problems else ""
        raise DataError(f"expected annotated pictures in {root}, found none that can be used{first}")
    for several in by_path.values():
        several.sort(key=lambda face: -area(face.box))
    largest = tuple(several[0] for several in by_path.values())
    further = tuple(face for path in sorted(by_path) for face in by_path[path][1:])
    name = root.resolve().stem if root.is_file() else root.resolve().name
    dataset = Dataset(name, root, largest, FileSource(source_root))
    return Annotated(dataset, tuple(problems), further, MappingProxyType(dict(sizes_wh or {})))


def area(box: Box | None) -> float:
    """Square pixels; 0 without a box."""
    return 0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def checked_box(left: float, top: float, right: float, bottom: float) -> Box:
    """The box, cut off at the picture's left and upper border; its other borders are known only to the picture.

    Raises:
        DataError: a corner is no number, inverted or empty, or wholly left of or above the picture.
    """
    try:
        box = tuple(float(value) for value in (left, top, right, bottom))
    except (TypeError, ValueError):
        raise DataError(f"the box {[left, top, right, bottom]} holds something that is no number") from None
    shown = f"{box[0]:g},{box[1]:g},{box[2]:g},{box[3]:g}"
    if not all(abs(value) < 1e7 for value in box):  # also catches NaN
        raise DataError(f"the box {shown} is not finite")
    if box[2] <= box[0] or box[3] <= box[1]:
        kind = "inverted" if box[2] < box[0] or box[3] < box[1] else "empty"
        raise DataError(f"the box {shown} is {kind}")
    if box[2] <= 0 or box[3] <= 0:
        raise DataError(f"the box {shown} lies outside the picture")
    return max(box[0], 0.0), max(box[1], 0.0), box[2], box[3]
