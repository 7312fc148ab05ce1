"""RAF-DB (Li, Deng and Du, CVPR 2017), basic emotions: as its authors give it, and as Kaggle has it."""

from pathlib import Path, PurePosixPath

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Sample
from ferkit.datasets.formats.annotated import Annotated, Box, ImageIndex, annotated, checked_box, files_below
from ferkit.datasets.formats.folders import class_of, split_in
from ferkit.datasets.tables import table_rows

CLASSES = {1: "surprise", 2: "fear", 3: "disgust", 4: "happy", 5: "sad", 6: "angry", 7: "neutral"}

_LIST = "list_patition_label.txt"  # as its authors spell it
_SEX = {"0": "male", "1": "female"}
_RACE = {"0": "Caucasian", "1": "African-American", "2": "Asian"}
_AGE = {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"}


def read_rafdb(root: Path, images: str = "aligned") -> Annotated:
    """Read ``EmoLabel/list_patition_label.txt`` with ``Image/aligned/*_aligned.jpg``, or Kaggle's ``DATASET/train/1``.

    The label list, where there is one, counts; or else Kaggle's ``train_labels.csv`` and ``test_labels.csv``; or else
    the folders 1 to 7. Where ``Annotation/manual`` and ``Annotation/boundingbox`` are unpacked, sex, race and age
    become attributes, and original photos get their boxes.

    Args:
        root: a folder somewhere above all of it.
        images: ``aligned`` takes the 100x100 crops, ``original`` the photos.

    Raises:
        DataError: nothing of this form.
    """
    index = ImageIndex(root)
    problems = index.left_out
    lists = [path for path in files_below(root, ".txt") if path.rpartition("/")[2] == _LIST]
    tables = [path for path in files_below(root, ".csv") if path.endswith("_labels.csv")]
    if lists:
        faces = _from_list(root, lists[0], index, images, problems)
    elif tables:
        faces = _from_tables(root, tables, index, problems)
    else:
        faces = _from_folders(index, problems)
    listed = {face.path for face in faces}
    if lists or tables:
        problems += [
            (path, "no label list names it")
            for path in index.paths
            if path not in listed and _is_wanted(path, images if lists else "any")
        ]
    return annotated(root, root, faces, problems)


def _from_list(
    root: Path, list_path: str, index: ImageIndex, images: str, problems: list[tuple[str, str]]
) -> list[Sample]:
    about = {path.rpartition("/")[2]: path for path in files_below(root, ".txt")}
    faces = []
    for number, line in enumerate((root / list_path).read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        stem = words[0].rpartition(".")[0]
        label = class_of(words[1], CLASSES) if len(words) == 2 else None
        if label is None:
            problems.append(
                (words[0], f"line {number} of {list_path} is {line!r}, not a name and a number 1 to 7")
            )
            continue
        try:
            path = index.find(f"{stem}_aligned.jpg" if images == "aligned" else words[0])
            box = _box(root, about.get(f"{stem}_boundingbox.txt")) if images == "original" else None
        except DataError as error:
            problems.append((words[0], str(error)))
            continue
        split = "train" if stem.startswith("train") else "test"
        faces.append(
            Sample(path, label, split, None, box, _attributes(root, about.get(f"{stem}_manu_attri.txt")))
        )
    return faces


def _from_tables(
    root: Path, tables: list[str], images: ImageIndex, problems: list[tuple[str, str]]
) -> list[Sample]:
    faces = []
    for table in tables:
        split = split_in(PurePosixPath(table.rpartition("/")[2].split("_")[0]) / "x")
        rows = table_rows(root / table)
        next(rows, None)
        for number, row in enumerate(rows, 2):
            label = class_of(row[1], CLASSES) if len(row) > 1 else None
            if label is None:
                problems.append((row[0] if row else table, f"row {number} of {table} has no number 1 to 7"))
                continue
            try:
                # The same image lies in the folder of its class.
                faces.append(Sample(images.find(row[0], near=f"{split}/{row[1]}/"), label, split))
            except DataError as error:
                problems.append((row[0], str(error)))
    return faces


def _from_folders(images: ImageIndex, problems: list[tuple[str, str]]) -> list[Sample]:
    faces = []
    for path in map(PurePosixPath, images.paths):
        label = class_of(path.parent.name, CLASSES)
        if label is None:
            problems.append((path.as_posix(), f"its folder {path.parent.name!r} is no class 1 to 7"))
        else:
            faces.append(Sample(path.as_posix(), label, split_in(path)))
    return faces


def _is_wanted(path: str, images: str) -> bool:
    return images == "any" or ("_aligned." in path) == (images == "aligned")


def _box(root: Path, path: str | None) -> Box | None:
    if path is None:
        return None
    numbers = (root / path).read_text(encoding="utf-8-sig").split()
    if len(numbers) < 4:
        raise DataError(f"expected four numbers in {path}, found {numbers}")
    left, top, right, bottom = map(_number, numbers[:4])
    return checked_box(left, top, right, bottom)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _attributes(root: Path, path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    words = (root / path).read_text(encoding="utf-8-sig").split()[-3:]
    known = zip(("sex", "race", "age"), (_SEX, _RACE, _AGE), words, strict=False)
    return {name: values[word] for name, values, word in known if word in values}
