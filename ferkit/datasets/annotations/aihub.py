"""AI Hub's "Korean emotion recognition" photos: ``<id>_<sex>_<age>_<emotion>_<place>_<time>-NNN-NNN.jpg`` and JSON.

Three annotators marked each photo: a box, an emotion and a kind of place each.
"""

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet, meaning_of
from ferkit.datasets.annotations.annotated import Annotated, Box, annotated, checked_box
from ferkit.datasets.annotations.consensus import agreed_box, agreed_emotion, count_votes, votes_text
from ferkit.datasets.annotations.join import PictureIndex, files_below
from ferkit.datasets.annotations.records import BrokenRecord, read_records
from ferkit.datasets.dataset import Sample
from ferkit.datasets.files import composed
from ferkit.datasets.folder import SPLIT_NAMES

ANNOTATORS = ("annot_A", "annot_B", "annot_C")

_NAME = re.compile(
    r"^(?P<person>[0-9a-f]{64})_(?P<sex>[^_]*)_(?P<age>[^_]*)_(?P<emotion>[^_]*)_(?P<place>.*)_(?P<time>[^_]*)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Votes:
    """What the annotators of one picture said, and what of it cannot be used."""

    boxes: list[Box]
    emotions: list[str]
    problems: list[str]


def read_aihub(root: Path) -> Annotated:
    """Read pictures and JSON files, wherever they lie below ``root``, and join them by file name.

    Label: what most annotators saw; on a tie the uploader's emotion if it is among the tied, else None. Names stay as
    they are written. Box: the mean of the largest set of annotators' boxes that overlap each other by an IoU of 0.5 or
    more, or None. Group: the person in the file name. Split: from a folder ``Training`` or ``Validation``.

    Attributes of each sample, where known: ``sex``, ``age``, ``place``, ``uploader`` (the emotion that the uploader
    meant), ``professional``, ``votes`` such as ``기쁨:2|중립:1``, ``box_votes`` such as ``3/3``.

    Problems listed: pictures without record and records without picture, broken records, boxes that are inverted,
    outside or contradict each other, emotions that no label set knows, undecided votes, and names that fit several
    pictures.

    Raises:
        DataError: no folder, no JSON file of this form, or nothing that can be used.
    """
    pictures = PictureIndex(root)
    files = files_below(root, ".json")
    problems = [(path, "it is still packed; unpack it") for path in files_below(root, ".zip")]
    problems += pictures.left_out
    if not files or not pictures.paths:
        missing = "pictures" if files else "JSON files"
        packed = "; unpack the .zip files first" if problems else ""
        raise DataError(f"expected AI Hub's pictures and JSON files below {root}, found no {missing}{packed}")
    samples: dict[str, Sample] = {}
    for file in files:
        for name, record in _named_records(root, file, problems):
            try:
                path = pictures.find(name, near=file)
            except DataError as error:
                problems.append((name, f"{error}; recorded in {file}"))
                continue
            if path in samples:
                problems.append((path, f"recorded again in {file}; the first record counts"))
                continue
            samples[path] = _sample(path, record, problems)
    problems += [
        (path, "there is no record of this picture") for path in pictures.paths if path not in samples
    ]
    return annotated(root, root, samples.values(), problems)


def _named_records(
    root: Path, file: str, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and records of one file; what is none goes to ``problems``."""
    try:
        for number, record in enumerate(read_records(root / file), 1):
            if isinstance(record, BrokenRecord):
                problems.append((file, f"record {record.number} cannot be used: {record.reason}"))
            elif isinstance(name := record.get("filename"), str) and name.strip():
                yield name.strip(), record
            else:
                problems.append((file, f"record {number} cannot be used: it names no file"))
    except DataError as error:
        problems.append((file, str(error)))


def _sample(path: str, record: Mapping[str, Any], problems: list[tuple[str, str]]) -> Sample:
    found = _NAME.match(unicodedata.normalize("NFC", path.rpartition("/")[2]))
    named = found.groupdict() if found else {}
    votes = _votes(record)
    uploader = _text(record.get("faceExp_uploader")) or named.get("emotion") or None
    counts = count_votes(tuple(votes.emotions))
    label = agreed_emotion(counts, uploader)
    box, n_agreeing = agreed_box(votes.boxes)
    problems += [(path, problem) for problem in votes.problems]
    if len(votes.boxes) > 1 and n_agreeing < len(votes.boxes):
        outcome = f"the box of {n_agreeing} of them counts" if box else "none counts"
        problems.append((path, f"the boxes of {len(votes.boxes)} annotators are apart; {outcome}"))
    if label is None:
        problems.append(
            (path, f"the annotators are undecided ({votes_text(counts) or 'no votes'}); no label")
        )
    problems += [(path, f"no label set knows the emotion {e!r}") for e in counts if not _is_known(e)]
    attributes = {
        "sex": _text(record.get("gender")) or named.get("sex"),
        "age": _text(record.get("age")) or named.get("age"),
        "place": _text(record.get("bg_uploader")) or named.get("place"),
        "uploader": uploader,
        "professional": _text(record.get("isProf")),
        "votes": votes_text(counts),
        "box_votes": f"{n_agreeing}/{len(votes.boxes)}" if votes.boxes else None,
    }
    return Sample(
        path,
        label,
        _split_of(path),
        named["person"].lower() if found else None,
        box,
        {key: value for key, value in attributes.items() if value},
    )


def _votes(record: Mapping[str, Any]) -> _Votes:
    votes = _Votes([], [], [])
    for annotator in ANNOTATORS:
        said = record.get(annotator)
        if not isinstance(said, dict):
            votes.problems.append(f"{annotator} is missing")
            continue
        if emotion := _text(said.get("faceExp")):
            votes.emotions.append(emotion)
        else:
            votes.problems.append(f"{annotator} names no emotion")
        try:
            votes.boxes.append(_box(said.get("boxes")))
        except DataError as error:
            votes.problems.append(f"{annotator}: {error}")
    return votes


def _box(value: Any) -> Box:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or not {"minX", "minY", "maxX", "maxY"} <= value.keys():
        raise DataError("there is no box with minX, minY, maxX and maxY")
    return checked_box(value["minX"], value["minY"], value["maxX"], value["maxY"])


def _split_of(path: str) -> str | None:
    """Of the outermost folder that names one, as a word: ``1.Training``, ``[원천]EMOIMG_기쁨_TRAIN_01``."""
    for folder in path.split("/")[:-1]:
        for word in re.findall(r"[^\W\d_]+", composed(folder).casefold()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return None


def _text(value: Any) -> str | None:
    """A name or number as composed text; None for what is neither."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return unicodedata.normalize("NFC", shown).strip() or None


@functools.cache
def _is_known(emotion: str) -> bool:
    return meaning_of(emotion) in {*LabelSet.named("aihub7").names, *LabelSet.named("ferplus").names}
