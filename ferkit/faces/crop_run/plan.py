"""What every crop will be called, settled before anything is read, so that it never depends on who comes first."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ferkit.datasets.annotations.annotated import Annotated
from ferkit.datasets.dataset import Sample
from ferkit.datasets.folder import split_named
from ferkit.faces.crop_run.one import Marks

SHEETS = "contact-sheets"
"""Folder of the contact sheets, whose name no class can have."""

_FACE = re.compile(r"~face\d+$")
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_MOST_BYTES = 250
"""Of a file's name; most file systems take 255."""


@dataclass(frozen=True)
class PlannedFace:
    """One face: the sample it is about, and the path of its crop below the output folder, without suffix.

    ``note`` says why that path is not the one to be expected; empty if it is.
    """

    sample: Sample
    stem: str
    note: str = ""


@dataclass(frozen=True)
class PlannedPicture:
    """One picture; ``faces`` are in the order of ``marks``, the first also stands for whatever is found."""

    path: str
    faces: tuple[PlannedFace, ...]
    marks: Marks

    def face(self, mark: int | None, number: int) -> PlannedFace:
        """The face of a known box, or else the ``number``-th, from 0, of those that were found."""
        if mark is not None:
            return self.faces[mark]
        first = self.faces[0]
        return (
            first if number == 0 else PlannedFace(first.sample, _with_tail(first.stem, f"~face{number + 1}"))
        )


def plan_crops(annotated: Annotated) -> list[PlannedPicture]:
    """Pictures in the order of the data set.

    A crop keeps its picture's place where that is in a folder called like its class; otherwise it goes to
    ``<split>/<class>/``. Two that would have one name, were upper and lower case or the composition of letters
    ignored, are told apart by ``~2``, ``~3``.
    """
    further: dict[str, list[Sample]] = {}
    for sample in annotated.further:
        further.setdefault(sample.path, []).append(sample)
    taken: set[str] = set()
    planned = []
    for sample in annotated.dataset.samples:
        samples = [sample, *further.get(sample.path, ())]
        faces = tuple(_planned_face(one, number, taken) for number, one in enumerate(samples))
        planned.append(PlannedPicture(sample.path, faces, _marks(samples, annotated.sizes_wh)))
    return planned


def _marks(samples: Sequence[Sample], sizes_wh: Mapping[str, tuple[int, int]]) -> Marks:
    # The readers sort boxes by size, those without one last: positions in both lists are the same.
    boxes = tuple(sample.box for sample in samples if sample.box is not None)
    return Marks(boxes, sizes_wh.get(samples[0].path))


def _planned_face(sample: Sample, number: int, taken: set[str]) -> PlannedFace:
    folder, name = _place(sample)
    stem = os.path.splitext(name)[0]
    wanted = str(folder / stem)
    if number:
        stem = _with_tail(stem, f"~face{number + 1}")
    elif _FACE.search(stem):  # such names are for further faces
        stem = _with_tail(stem, "~")
    path, n = str(folder / stem), 1
    while (key := unicodedata.normalize("NFC", path).casefold()) in taken:
        n += 1
        path = str(folder / _with_tail(stem, f"~{n}"))
    taken.add(key)
    renamed = path != wanted and not (number and n == 1)
    return PlannedFace(
        sample, path, f"called {PurePosixPath(path).name}: the name was taken" if renamed else ""
    )


def _place(sample: Sample) -> tuple[PurePosixPath, str]:
    """Folder and name of a crop."""
    path = PurePosixPath(sample.path)
    above = path.parts[:-1]
    name = path.name.replace("\\", "_")
    split, *rest = above if above and split_named(above[0]) else ("", *above)
    named_split = split_named(split)
    in_class = bool(rest) and unicodedata.normalize("NFC", rest[0]) == sample.label
    if in_class and named_split == sample.split and ".." not in above:
        return path.parent, name
    parts = [part for part in (sample.split, folder_name(sample.label)) if part]
    if not parts:
        name = name.lstrip()
    return PurePosixPath(*parts), name


def folder_name(label: str | None) -> str | None:
    """A class as the name of a folder on any system; the table beside keeps the true one."""
    if label is None:
        return None
    name = _UNSAFE.sub("_", label).strip(" .") or "_"
    return f"{name}_" if name.casefold() == SHEETS else name


def _with_tail(stem: str, tail: str) -> str:
    """``stem + tail``, the stem cut off where the name would be longer than file systems take."""
    folder, slash, name = stem.rpartition("/")
    while len(os.fsencode(name + tail)) > _MOST_BYTES - 5:
        name = name[:-1]
    return f"{folder}{slash}{name}{tail}"
