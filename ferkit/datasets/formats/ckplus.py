"""CK+ (Lucey et al., CVPR Workshops 2010): sequences from neutral to the peak of an expression."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Sample
from ferkit.datasets.formats.annotated import Annotated, ImageIndex, annotated, files_below
from ferkit.datasets.formats.folders import class_of

CLASSES = {
    0: "neutral", 1: "angry", 2: "contempt", 3: "disgust", 4: "fear", 5: "happy", 6: "sad", 7: "surprise",
}  # fmt: skip

_FRAME = re.compile(r"^(?P<sequence>(?P<person>S\d+)_(?P<take>\d+))_(?P<frame>\d+)$", re.IGNORECASE)


def read_ckplus(root: Path, frames: int = 3, neutral: bool = True) -> Annotated:
    """Read ``cohn-kanade-images/S005/001/*.png`` with ``Emotion/S005/001/*_emotion.txt``, or CK+48's folders.

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
    if frames < 1:
        raise DataError(f"expected at least one frame of each sequence, found {frames}")
    images = ImageIndex(root)
    problems = images.left_out
    sequences: dict[str, list[str]] = {}
    for path in sorted(images.paths, key=lambda path: path.rpartition("/")[2]):
        found = _FRAME.match(PurePosixPath(path).stem)
        if found is None:
            problems.append((path, "its name is not of the form S005_001_00000011"))
        else:
            sequences.setdefault(found["sequence"].upper(), []).append(path)
    emotions = _emotions(root, problems)
    if emotions:
        faces = _of_sequences(sequences, emotions, frames, neutral, problems)
    else:
        faces = _of_folders(sequences, problems)
    return annotated(root, root, faces, problems)


def _emotions(root: Path, problems: list[tuple[str, str]]) -> dict[str, str]:
    emotions: dict[str, str] = {}
    for path in files_below(root, "_emotion.txt"):
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        found = _FRAME.match(path.rpartition("/")[2].lower().removesuffix("_emotion.txt").upper())
        label = class_of(text, CLASSES)
        if found is None or label is None:
            problems.append((path, f"expected a number 0 to 7, found {text.strip()[:20]!r}"))
        else:
            emotions[found["sequence"].upper()] = label
    return emotions


def _of_sequences(
    sequences: Mapping[str, list[str]],
    emotions: Mapping[str, str],
    frames: int,
    neutral: bool,
    problems: list[tuple[str, str]],
) -> list[Sample]:
    faces = []
    for sequence, paths in sequences.items():
        if sequence not in emotions:
            problems.append(
                (paths[0].rpartition("/")[0], f"the sequence {sequence} has no emotion; it is left out")
            )
            continue
        peak = paths[1:][-frames:] if neutral else paths[-frames:]
        faces += [_sample(path, emotions[sequence]) for path in peak]
        if neutral:
            faces.append(_sample(paths[0], "neutral"))
    problems += [
        (sequence, "there is an emotion, but no image of the sequence")
        for sequence in emotions
        if sequence not in sequences
    ]
    return faces


def _of_folders(sequences: Mapping[str, list[str]], problems: list[tuple[str, str]]) -> list[Sample]:
    faces = []
    for path in (path for paths in sequences.values() for path in paths):
        folder = PurePosixPath(path).parent.name
        label = class_of(folder, CLASSES)
        if label is None:
            problems.append((path, f"its folder {folder!r} is no expression, and there are no *_emotion.txt"))
        else:
            faces.append(_sample(path, label))
    return faces


def _sample(path: str, label: str) -> Sample:
    found = _FRAME.match(PurePosixPath(path).stem)
    assert found is not None
    attributes = {"sequence": found["sequence"].upper(), "frame": str(int(found["frame"]))}
    return Sample(path, label, None, found["person"].upper(), None, attributes)
