"""FER2013, AffectNet, CK+ and RAF-DB, in the forms that people have: data sets whose classes are numbers."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import DataError
from ferkit.core.labels import meaning_of
from ferkit.datasets.dataset import Box, Sample, read_folder, split_named
from ferkit.datasets.formats.annotated import (
    Annotated,
    Collected,
    annotated,
    checked_box,
    class_of,
    files_below,
    split_in,
)
from ferkit.datasets.tables import table_rows

AFFECTNET = dict(enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")))
_NO_EXPRESSION = {8: "none", 9: "uncertain", 10: "no face"}
CKPLUS = dict(enumerate(("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")))
RAFDB = dict(enumerate(("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), 1))

_COLUMNS = (
    "subdirectory_filepath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip
_ATTRIBUTES = {"valence": "valence", "arousal": "arousal", "relfcs": "relFCs"}


def read_affectnet(root: Path) -> Annotated:
    """Read AffectNet (Mollahosseini, Hasani and Mahoor, 2017) in whichever of these forms lies below ``root``.

    - ``train_set/images/*.jpg`` with ``train_set/annotations/*_exp.npy``, and ``val_set`` likewise;
    - ``training.csv``, ``validation.csv`` and ``automatically_annotated.csv`` with boxes, valence and arousal, and
      images in numbered folders;
    - Kaggle's ``labels.csv`` (``pth``, ``label``, ``relFCs``) with a folder a class;
    - folders 0 to 7, or called by the classes.

    Args:
        root: a folder somewhere above all of it.

    Raises:
        DataError: nothing of these forms.
    """
    found = Collected(root)
    tables = {path: _affectnet_header(root / path) for path in files_below(root, ".csv")}
    lists = [path for path, header in tables.items() if _COLUMNS[0] in header]
    kaggle = [path for path, header in tables.items() if {"pth", "label"} <= set(header)]
    if arrays := files_below(root, "_exp.npy"):
        _take_arrays(found, arrays)
    elif lists:
        for path in lists:
            _take_table(found, path, tables[path], _COLUMNS[0], "expression")
    elif kaggle:
        _take_table(found, kaggle[0], tables[kaggle[0]], "pth", "label")
    else:
        found.take_folders(_expression)
    return found.annotated()


def _affectnet_header(path: Path) -> list[str]:
    try:
        first = next(table_rows(path), [])
    except DataError:
        return []
    names = [cell.strip().lower() for cell in first]
    # Some copies of the lists have lost their header.
    return list(_COLUMNS) if len(names) == len(_COLUMNS) and _is_number(names[6]) else names


def _take_arrays(found: Collected, arrays: list[str]) -> None:
    """Label each image by the array of its name in the folder ``annotations`` next to ``images``."""
    images = {path.rpartition(".")[0]: path for path in found.images.paths}
    seen = set()
    with progress("reading annotations", len(arrays), unit="files") as shown:
        for array in arrays:
            path = PurePosixPath(array)
            stem = (path.parent.parent / "images" / path.name.removesuffix("_exp.npy")).as_posix()
            seen.add(stem)
            with found.listing(array):
                label = _expression(str(_value(found.root / array)))
                if stem not in images:
                    raise DataError("its image is not there")
                found.faces.append(Sample(images[stem], label, split_in(array)))
            shown.update(1)
    others = (path for stem, path in images.items() if stem in seen or "/images/" not in f"/{path}")
    found.list_unused("it has no annotation", others)


def _value(path: Path) -> object:
    try:
        array = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"it is no array: {error}") from None
    if array.size != 1:
        raise DataError(f"expected one value, found {array.shape}")
    return array.reshape(-1)[0]


def _take_table(found: Collected, table: str, header: list[str], image: str, label: str) -> None:
    """Take the rows of a table with an image and a label in the columns of these names."""
    name = PurePosixPath(table).stem.lower()
    kind = {"annotation": "automatic"} if name.startswith("auto") else {}
    for row in table_rows(found.root / table):
        if len(row) < len(header):
            continue
        cells = dict(zip(header, map(str.strip, row), strict=False))
        if cells[label].lower() == label:  # the header
            continue
        with found.listing(cells[image]):
            expression = _expression(cells[label])
            path = found.images.find(cells[image], near=table)
            split = split_in(path) if image == "pth" else split_named(name) or "train"
            # -2 says that nobody has judged it.
            known = {new: cells.get(old, "") for old, new in _ATTRIBUTES.items()}
            attributes = {name: value for name, value in known.items() if value not in ("", "-2")}
            box = _corner_box([cells.get(column, "") for column in _COLUMNS[1:5]])
            found.faces.append(Sample(path, expression, split, None, box, {**attributes, **kind}))


def _expression(text: str) -> str:
    names = {**AFFECTNET, **_NO_EXPRESSION}
    label = class_of(text, names, f"expected an expression 0 to 7, found {text.strip()!r}")
    if label in _NO_EXPRESSION.values():
        raise DataError(f"it is marked as {label!r}, which is no expression")
    return label


def _corner_box(cells: list[str]) -> Box | None:
    if not all(map(_is_number, cells)):
        return None
    x, y, width, height = map(float, cells)
    return None if min(width, height) < 0 else checked_box(x, y, x + width, y + height)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


_FRAME = re.compile(r"^(?P<sequence>(?P<person>S\d+)_(?P<take>\d+))_(?P<frame>\d+)$", re.IGNORECASE)


def read_ckplus(root: Path, frames: int = 3, neutral: bool = True) -> Annotated:
    """Read CK+ (Lucey et al., CVPR Workshops 2010): sequences from neutral to the peak of an expression.

    They lie in ``cohn-kanade-images/S005/001/*.png`` with ``Emotion/S005/001/*_emotion.txt``, or in CK+48's folders.
    Of each sequence with an emotion the last frames are taken, where the expression is strongest, and the first one as
    ``neutral``. Sequences without an emotion file are listed as problems: two in five have none. The person is the
    group; attributes are the sequence and the frame.

    Args:
        root: a folder somewhere above all of it.
        frames: taken from the end of each sequence; all but the first if there are fewer.
        neutral: take the first frame of each sequence with an emotion as neutral.

    Raises:
        DataError: nothing of these forms.
    """
    found = Collected(root)
    sequences: dict[str, list[str]] = {}
    for path in sorted(found.images.paths, key=lambda path: path.rpartition("/")[2]):
        with found.listing(path):
            sequences.setdefault(_frame(path)["sequence"].upper(), []).append(path)
    emotions: dict[str, str] = {}
    for path in files_below(root, "_emotion.txt"):
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        with found.listing(path):
            label = class_of(text, CKPLUS, f"expected a number 0 to 7, found {text.strip()[:20]!r}")
            emotions[_frame(path.lower().removesuffix("_emotion.txt"))["sequence"].upper()] = label
    if not emotions:
        for path in (path for paths in sequences.values() for path in paths):
            folder = PurePosixPath(path).parent.name
            why = f"its folder {folder!r} is no expression, and there are no *_emotion.txt"
            with found.listing(path):
                found.faces.append(_of_sequence(path, class_of(folder, CKPLUS, why)))
        return found.annotated()
    for sequence, paths in sequences.items():
        if sequence not in emotions:
            folder = paths[0].rpartition("/")[0]
            found.problems.append((folder, f"the sequence {sequence} has no emotion; it is left out"))
            continue
        peak = paths[1:][-frames:] if neutral else paths[-frames:]
        found.faces += [_of_sequence(path, emotions[sequence]) for path in peak]
        if neutral:
            found.faces.append(_of_sequence(paths[0], "neutral"))
    gone = emotions.keys() - sequences.keys()
    found.problems += [(s, "there is an emotion, but no image of the sequence") for s in sorted(gone)]
    return found.annotated()


def _frame(path: str) -> re.Match[str]:
    found = _FRAME.match(PurePosixPath(path).stem)
    if found is None:
        raise DataError("its name is not of the form S005_001_00000011")
    return found


def _of_sequence(path: str, label: str) -> Sample:
    found = _frame(path)
    attributes = {"sequence": found["sequence"].upper(), "frame": str(int(found["frame"]))}
    return Sample(path, label, None, found["person"].upper(), None, attributes)


_LIST = "list_patition_label.txt"  # as its authors spell it
_ABOUT = {
    "sex": {"0": "male", "1": "female"},
    "race": {"0": "Caucasian", "1": "African-American", "2": "Asian"},
    "age": {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"},
}


def read_rafdb(root: Path, images: str = "aligned") -> Annotated:
    """Read RAF-DB (Li, Deng and Du, CVPR 2017), basic emotions, as its authors give it or as Kaggle has it.

    The label list ``EmoLabel/list_patition_label.txt``, where there is one, counts, with images in
    ``Image/aligned/*_aligned.jpg``; or else Kaggle's ``train_labels.csv`` and ``test_labels.csv``; or else the folders
    1 to 7 (``DATASET/train/1``). Where ``Annotation/manual`` and ``Annotation/boundingbox`` are unpacked, sex, race and
    age become attributes, and original photos get their boxes.

    Args:
        root: a folder somewhere above all of it.
        images: ``aligned`` takes the 100x100 crops, ``original`` the photos.

    Raises:
        DataError: nothing of this form.
    """
    found = Collected(root)
    texts = {PurePosixPath(path).name: path for path in files_below(root, ".txt")}
    tables = [path for path in files_below(root, ".csv") if path.endswith("_labels.csv")]
    if _LIST in texts:
        _take_list(found, texts, aligned=images == "aligned")
    elif tables:
        for table in tables:
            _take_numbers(found, table)
    else:
        found.take_folders(_rafdb_folder)
        return found.annotated()
    known = {face.path for face in found.faces}
    if _LIST in texts:  # the others are not asked for
        known |= {path for path in found.images.paths if ("_aligned." in path) != (images == "aligned")}
    found.list_unused("no label list names it", known)
    return found.annotated()


def _rafdb_folder(name: str) -> str:
    """Folders such as CK+'s 001 are takes, not classes."""
    return class_of("" if name.startswith("0") else name, RAFDB, f"its folder {name!r} is no class 1 to 7")


def _take_list(found: Collected, texts: Mapping[str, str], *, aligned: bool) -> None:
    def words(name: str) -> list[str]:
        path = texts.get(name)
        return [] if path is None else (found.root / path).read_text(encoding="utf-8-sig").split()

    lines = (found.root / texts[_LIST]).read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = line.split()
        why = f"line {number} of {texts[_LIST]} is {line!r}, not a name and a number 1 to 7"
        with found.listing(name):
            label = class_of(rest[0] if len(rest) == 1 else "", RAFDB, why)
            stem = name.rpartition(".")[0]
            path = found.images.find(f"{stem}_aligned.jpg" if aligned else name)
            box = None if aligned else _listed_box(words(f"{stem}_boundingbox.txt"))
            split = "train" if stem.startswith("train") else "test"
            about = zip(_ABOUT, words(f"{stem}_manu_attri.txt")[-3:], strict=False)
            attributes = {key: _ABOUT[key][word] for key, word in about if word in _ABOUT[key]}
            found.faces.append(Sample(path, label, split, None, box, attributes))


def _take_numbers(found: Collected, table: str) -> None:
    """Take the rows of Kaggle's table: an image and a number."""
    split = split_named(PurePosixPath(table).name.split("_")[0])
    rows = table_rows(found.root / table)
    next(rows, None)
    for number, row in enumerate(rows, 2):
        name, label, *_ = (*row, "", "")
        with found.listing(name or table):
            label = class_of(label, RAFDB, f"row {number} of {table} has no number 1 to 7")
            # The same image lies in the folder of its class.
            path = found.images.find(name, near=f"{split}/{row[1]}/")
            found.faces.append(Sample(path, label, split))


def _listed_box(numbers: list[str]) -> Box | None:
    if not numbers:
        return None
    if len(numbers) < 4:
        raise DataError(f"expected four numbers of a box, found {numbers}")
    left, top, right, bottom = (float(n) if _is_number(n) else np.nan for n in numbers[:4])
    return checked_box(left, top, right, bottom)


EMOTIONS = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF",
)  # fmt: skip
"""Columns of FER+, in its order; NF says that it is no face."""

_PREFIX = "ferplus_"
_ROW = re.compile(r"^(?:fer)?(\d{5,7})$", re.IGNORECASE)


def read_fer2013(root: Path, votes: Path | None = None, majority: bool = False) -> Annotated:
    """Read ``train/<emotion>/`` and ``test/<emotion>/``, and join the votes of FER+ as attributes ``ferplus_…``.

    Args:
        root: the folder.
        votes: ``fer2013new.csv`` of FER+, for images whose names hold their row in ``fer2013.csv``
            (``fer0000012.png``, ``000012.png``, as ``fer dataset export`` writes them); or a table with a column
            ``path`` and one for each emotion. None takes ``labels.csv`` in the folder, where it is one.
        majority: the label is what most of the ten taggers saw, of eight classes; images on which they are undecided,
            or most saw something unknown or no face, are left out and listed.

    Raises:
        DataError: no such folder, votes that do not belong to it, or ``majority`` without votes.
    """
    if root.is_file():
        raise DataError(
            f"the images of {root} lie inside that file, and a manifest refers to files; say where to write them "
            "with --extract FOLDER"
        )
    dataset = read_folder(root)
    own = root / "labels.csv"
    if votes is None and own.is_file() and _vote_columns(next(table_rows(own), [])):
        votes = own
    if votes is None:
        if majority:
            raise DataError(
                f"expected the votes of FER+ for {root}, found none; give fer2013new.csv with --votes"
            )
        return annotated(root, root, dataset.samples, [])
    table = _read_votes(votes, root)
    problems: list[tuple[str, str]] = []
    faces: list[Sample] = []
    n_found = 0
    for sample in dataset.samples:
        counts = table.get(sample.path) or table.get(_row_of(sample.path)) or {}
        n_found += bool(counts)
        if not counts:
            problems.append((sample.path, f"{votes.name} has no votes for it"))
            if majority:
                continue
        voted = replace(sample, attributes={**sample.attributes, **counts})
        if majority:
            winners, most = _winners(counts)
            if len(winners) > 1 or winners[0] in ("unknown", "NF"):
                why = f"FER+ is undecided or saw no expression: {', '.join(winners)} ({most} votes)"
                problems.append((sample.path, why))
                continue
            attributes = {**sample.attributes, "fer2013": sample.label or "", **counts}
            voted = replace(voted, label=meaning_of(winners[0]), attributes=attributes)
        faces.append(voted)
    if not n_found:
        raise DataError(
            f"{votes} has no votes for any image of {root}: names such as {dataset.samples[0].path} do not tell the "
            "row in fer2013.csv; import fer2013.csv itself with --extract"
        )
    return annotated(root, root, faces, problems)


def _winners(counts: Mapping[str, str]) -> tuple[list[str], int]:
    """The emotions with most votes, and how many they have."""
    numbers = {emotion: int(counts.get(_PREFIX + emotion) or 0) for emotion in EMOTIONS}
    most = max(numbers.values())
    return [emotion for emotion, n in numbers.items() if n == most], most


def _read_votes(votes: Path, root: Path) -> dict[object, dict[str, str]]:
    """Votes by path, or by row number where the table has no paths."""
    rows = table_rows(votes)
    header = next(rows, [])
    columns = _vote_columns(header)
    if not columns:
        raise DataError(
            f"expected columns {', '.join(EMOTIONS)} in {votes}, found {', '.join(header) or 'nothing'}"
        )
    names = [cell.strip().lower() for cell in header]
    path = names.index("path") if "path" in names else None
    table: dict[object, dict[str, str]] = {}
    for number, row in enumerate(rows):
        if len(row) < len(header):
            continue
        counts = {_PREFIX + emotion: row[i].strip() for emotion, i in columns.items()}
        if not all(count.isdecimal() for count in counts.values() if count):
            raise DataError(f"expected whole numbers of votes in {votes}, found {row} in row {number + 2}")
        # Paths are relative to the table, those of the images to the folder.
        key = number if path is None else os.path.relpath(votes.parent / row[path], root).replace(os.sep, "/")
        table[key] = counts if any(count.strip("0") for count in counts.values()) else {}
    return table


def _row_of(path: str) -> int | None:
    found = _ROW.match(PurePosixPath(path).stem)
    return int(found[1]) if found else None


def _vote_columns(header: list[str]) -> dict[str, int]:
    names = [cell.strip().lower().removeprefix(_PREFIX) for cell in header]
    if not {emotion.lower() for emotion in EMOTIONS[:8]} <= set(names):
        return {}
    return {emotion: names.index(emotion.lower()) for emotion in EMOTIONS if emotion.lower() in names}
