"""AffectNet (Mollahosseini, Hasani and Mahoor, 2017) in the four forms that people have."""

import io
from pathlib import Path, PurePosixPath

import numpy as np

from ferkit.core.console import Progress
from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Sample
from ferkit.datasets.formats.annotated import Annotated, Box, ImageIndex, annotated, checked_box, files_below
from ferkit.datasets.formats.folders import class_of, split_in
from ferkit.datasets.tables import table_rows

CLASSES = {
    0: "neutral",
    1: "happy",
    2: "sad",
    3: "surprise",
    4: "fear",
    5: "disgust",
    6: "angry",
    7: "contempt",
}
_NO_EXPRESSION = {8: "none", 9: "uncertain", 10: "no face"}

_COLUMNS = (
    "subdirectory_filepath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip


def read_affectnet(root: Path, progress: Progress | None = None) -> Annotated:
    """Read whichever of the forms lies below ``root``.

    - ``train_set/images/*.jpg`` with ``train_set/annotations/*_exp.npy``, and ``val_set`` likewise;
    - ``training.csv``, ``validation.csv`` and ``automatically_annotated.csv`` with boxes, valence and arousal, and
      images in numbered folders;
    - Kaggle's ``labels.csv`` (``pth``, ``label``, ``relFCs``) with a folder a class;
    - folders 0 to 7, or called by the classes.

    Args:
        root: a folder somewhere above all of it.
        progress: is told of every annotation file of the first form.

    Raises:
        DataError: nothing of these forms.
    """
    images = ImageIndex(root)
    problems = images.left_out
    arrays = files_below(root, "_exp.npy")
    tables = {path: header for path in files_below(root, ".csv") if (header := _header(root / path))}
    if arrays:
        faces = _from_arrays(root, arrays, images, problems, progress)
    elif any(_COLUMNS[0] in header for header in tables.values()):
        faces = []
        for path, header in tables.items():
            if _COLUMNS[0] in header:
                faces += _from_list(root, path, header, images, problems)
    elif any({"pth", "label"} <= set(header) for header in tables.values()):
        path = next(path for path, header in tables.items() if {"pth", "label"} <= set(header))
        faces = _from_kaggle(root, path, tables[path], images, problems)
    else:
        faces = _from_folders(images, problems)
    return annotated(root, root, faces, problems)


def _header(path: Path) -> list[str]:
    try:
        first = next(table_rows(path), [])
    except DataError:
        return []
    names = [cell.strip().lower() for cell in first]
    # Some copies of the lists have lost their header.
    return list(_COLUMNS) if len(names) == len(_COLUMNS) and _is_number(names[6]) else names


def _from_arrays(
    root: Path,
    arrays: list[str],
    images: ImageIndex,
    problems: list[tuple[str, str]],
    progress: Progress | None,
) -> list[Sample]:
    there = {path.rpartition(".")[0]: path for path in images.paths}
    faces = []
    if progress is not None:
        progress.start(len(arrays))
    for array in arrays:
        folder, _, name = array.rpartition("/")
        parent = folder.rpartition("/")[0]
        stem = f"{parent}/images/{name.removesuffix('_exp.npy')}".lstrip("/")
        try:
            label = _expression(str(_value(root / array)))
            if stem not in there:
                raise DataError("its image is not there")
            faces.append(Sample(there[stem], label, split_in(PurePosixPath(array))))
        except DataError as error:
            problems.append((array, str(error)))
        if progress is not None:
            progress.update(1)
    known = {face.path for face in faces} | {path for path, _ in problems}
    problems += [(path, "it has no annotation") for path in images.paths if "/images/" in f"/{path}"
                 and path not in known and f"{_annotation_of(path)}" not in known]  # fmt: skip
    return faces


def _annotation_of(image: str) -> str:
    folder, _, name = image.rpartition("/")
    return f"{folder.rpartition('/')[0]}/annotations/{name.rpartition('.')[0]}_exp.npy".lstrip("/")


def _value(path: Path) -> object:
    try:
        array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"it is no array: {error}") from None
    if array.size != 1:
        raise DataError(f"expected one value, found {array.shape}")
    return array.reshape(-1)[0]


def _from_list(
    root: Path, table: str, header: list[str], images: ImageIndex, problems: list[tuple[str, str]]
) -> list[Sample]:
    at = {name: header.index(name) for name in _COLUMNS if name in header}
    name = table.rpartition("/")[2].lower()
    split = "val" if name.startswith("val") else "test" if name.startswith("test") else "train"
    kind = {"annotation": "automatic"} if name.startswith("auto") else {}
    faces = []
    for row in table_rows(root / table):
        if len(row) < len(header) or row[at["expression"]].strip().lower() == "expression":
            continue
        try:
            label = _expression(row[at["expression"]])
            path = images.find(row[at[_COLUMNS[0]]], near=table)
            box = _box([row[at[key]] for key in _COLUMNS[1:5] if key in at])
        except DataError as error:
            problems.append((row[at[_COLUMNS[0]]], str(error)))
            continue
        judged = {key: row[at[key]].strip() for key in _COLUMNS[7:] if key in at}
        # -2 says that nobody has judged it.
        attributes = {key: value for key, value in judged.items() if value not in ("", "-2")}
        faces.append(Sample(path, label, split, None, box, {**attributes, **kind}))
    return faces


def _from_kaggle(
    root: Path, table: str, header: list[str], images: ImageIndex, problems: list[tuple[str, str]]
) -> list[Sample]:
    at = {name: header.index(name) for name in ("pth", "label", "relfcs") if name in header}
    rows = table_rows(root / table)
    next(rows, None)
    faces = []
    for row in rows:
        if len(row) < len(header):
            continue
        try:
            label = _expression(row[at["label"]])
            path = images.find(row[at["pth"]], near=table)
        except DataError as error:
            problems.append((row[at["pth"]], str(error)))
            continue
        attributes = {"relFCs": row[at["relfcs"]]} if "relfcs" in at else {}
        faces.append(Sample(path, label, split_in(PurePosixPath(path)), None, None, attributes))
    return faces


def _from_folders(images: ImageIndex, problems: list[tuple[str, str]]) -> list[Sample]:
    faces = []
    for path in map(PurePosixPath, images.paths):
        try:
            faces.append(Sample(path.as_posix(), _expression(path.parent.name), split_in(path)))
        except DataError as error:
            problems.append((path.as_posix(), str(error)))
    return faces


def _expression(text: str) -> str:
    label = class_of(text, CLASSES)
    if label is None:
        number = int(float(text)) if _is_number(text) else -1
        if number in _NO_EXPRESSION:
            raise DataError(f"it is marked as {_NO_EXPRESSION[number]!r}, which is no expression")
        raise DataError(f"expected an expression 0 to 7, found {text.strip()!r}")
    return label


def _box(cells: list[str]) -> Box | None:
    if len(cells) < 4 or not all(map(_is_number, cells)):
        return None
    x, y, width, height = map(float, cells)
    return None if min(width, height) < 0 else checked_box(x, y, x + width, y + height)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
