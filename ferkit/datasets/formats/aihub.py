"""AI Hub's "Korean emotion recognition" photos: ``<id>_<sex>_<age>_<emotion>_<place>_<time>-NNN-NNN.jpg`` and JSON.

Three annotators marked each photo: a box, an emotion and a kind of place each.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ferkit.core.errors import DataError
from ferkit.core.files import read_regular
from ferkit.core.labels import LabelSet, meaning_of
from ferkit.datasets.dataset import SPLIT_NAMES, Box, Sample, words
from ferkit.datasets.formats.annotated import Annotated, Collected, checked_box, files_below

_DECODER = json.JSONDecoder()
_GAP = re.compile(r"[\s,\[\]]*")
_FOREIGN = re.compile("[\udc80-\udcff]")
"""What bytes that are not UTF-8 have become."""

_NEXT = re.compile(r"[,\]}\n]\s*(?=\{)")
"""Before an object of a list; one that is nested in another has a key and a colon before it."""


@dataclass(frozen=True)
class BrokenRecord:
    """A piece of a file that is no record."""

    number: int
    reason: str


def read_records(path: Path) -> Iterator[dict[str, Any] | BrokenRecord]:
    """Objects of a JSON list, of JSON lines or alone, one after the other.

    UTF-8 with or without BOM, UTF-16 and EUC-KR (CP949), even mixed within one file; after damage it goes on at the
    next object.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror or error}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        yield from _salvage(content.decode("utf-8", "surrogateescape"))
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        yield value if isinstance(value, dict) else BrokenRecord(number, "it is no object")


def _salvage(text: str) -> Iterator[dict[str, Any] | BrokenRecord]:
    """Object by object. Bytes that are not UTF-8 have become surrogates, which JSON lets pass."""
    position, number = _after_gap(text, 0), 0
    while position < len(text):
        number += 1
        try:
            value, end = _DECODER.raw_decode(text, position)
            if not isinstance(value, dict):
                yield BrokenRecord(number, "it is no object")
            else:
                yield _decoded(text[position:end], value)
        except (ValueError, RecursionError) as error:
            yield BrokenRecord(number, f"damaged: {error}")
            following = _NEXT.search(text, position + 1)
            end = following.end() if following else len(text)
        position = _after_gap(text, end)


def _after_gap(text: str, position: int) -> int:
    gap = _GAP.match(text, position)
    return gap.end() if gap else position


def _decoded(text: str, value: dict[str, Any]) -> dict[str, Any]:
    if not _FOREIGN.search(text):
        return value
    # A record is long enough to tell the encodings apart; a single syllable is not.
    return json.loads(text.encode("utf-8", "surrogateescape").decode("cp949"))


MIN_OVERLAP = 0.5
"""Intersection over union from which two boxes are of the same face (as in PASCAL VOC)."""


def agreed_box(boxes: Sequence[Box]) -> tuple[Box | None, int]:
    """The mean of the largest set of boxes that all overlap each other by :data:`MIN_OVERLAP` or more.

    Of sets of equal size the one that overlaps most counts. A single box is taken as it is; several boxes of which no
    two overlap enough give none.

    Returns:
        The box, and how many annotators it rests on.
    """
    if len(boxes) <= 1:
        return (boxes[0], 1) if boxes else (None, 0)
    overlap = {(a, b): _overlap(boxes[a], boxes[b]) for a, b in combinations(range(len(boxes)), 2)}
    for size in range(len(boxes), 1, -1):
        best, members = max(
            (min(overlap[pair] for pair in combinations(group, 2)), group)
            for group in combinations(range(len(boxes)), size)
        )
        if best >= MIN_OVERLAP:
            left, top, right, bottom = (
                round(sum(boxes[i][side] for i in members) / size, 1) for side in range(4)
            )
            return (left, top, right, bottom), size
    return None, 0


def agreed_emotion(counts: Mapping[str, int], uploader: str | None) -> str | None:
    """What most annotators saw; on a tie what the uploader meant, if it is among the tied; else None.

    Args:
        counts: what :func:`count_votes` gave; without votes the uploader's word counts.
        uploader: the emotion that the uploader meant, if known.
    """
    if not counts:
        return uploader
    most = max(counts.values())
    tied = [emotion for emotion, n in counts.items() if n == most]
    if len(tied) == 1:
        return tied[0]
    return next((e for e in tied if uploader and meaning_of(e) == meaning_of(uploader)), None)


@functools.lru_cache(maxsize=10_000)  # a few hundred outcomes in hundreds of thousands of images
def count_votes(votes: tuple[str, ...]) -> Mapping[str, int]:
    """Votes by emotion, the most frequent first, then by name.

    Spellings of one emotion (``기쁨``, ``행복``, ``happy``) count together, under the one used most.
    """
    spellings: dict[str, list[str]] = {}
    for vote in votes:
        spellings.setdefault(meaning_of(vote), []).append(vote)
    counts = {max(sorted(set(same)), key=same.count): len(same) for same in spellings.values()}
    return MappingProxyType(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))


def votes_text(counts: Mapping[str, int]) -> str:
    """``기쁨:2|중립:1``."""
    return "|".join(f"{emotion}:{n}" for emotion, n in counts.items())


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


ANNOTATORS = ("annot_A", "annot_B", "annot_C")

_NAME = re.compile(
    r"^(?P<person>[0-9a-f]{64})_(?P<sex>[^_]*)_(?P<age>[^_]*)_(?P<emotion>[^_]*)_(?P<place>.*)_(?P<time>[^_]*)$",
    re.IGNORECASE,
)


def read_aihub(root: Path) -> Annotated:
    """Read images and JSON files, wherever they lie below ``root``, and join them by file name.

    Label: what most annotators saw; on a tie the uploader's emotion if it is among the tied, else None. Names stay as
    they are written. Box: the mean of the largest set of annotators' boxes that overlap each other by an IoU of 0.5 or
    more, or None. Group: the person in the file name. Split: from a folder ``Training`` or ``Validation``.

    Attributes of each sample, where known: ``sex``, ``age``, ``place``, ``uploader`` (the emotion that the uploader
    meant), ``professional``, ``votes`` such as ``기쁨:2|중립:1``, ``box_votes`` such as ``3/3``.

    Problems listed: images without record and records without image, broken records, boxes that are inverted,
    outside or contradict each other, emotions that no label set knows, undecided votes, and names that fit several
    images.

    Raises:
        DataError: no folder, no JSON file of this form, or nothing that can be used.
    """
    found = Collected(root)
    files = files_below(root, ".json")
    found.problems[:0] = [(path, "it is still packed; unpack it") for path in files_below(root, ".zip")]
    if not files or not found.images.paths:
        missing = "images" if files else "JSON files"
        packed = "; unpack the .zip files first" if found.problems else ""
        raise DataError(f"expected AI Hub's images and JSON files below {root}, found no {missing}{packed}")
    for file in files:
        for name, record in _named_records(root, file, found.problems):
            path = found.record(name, file)
            if path is not None:
                found.faces.append(_sample(path, record, found.problems))
    found.list_unused("there is no record of this image", found.recorded)
    return found.annotated()


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
    boxes, emotions, remarks = _votes(record)
    uploader = _text(record.get("faceExp_uploader")) or named.get("emotion") or None
    counts = count_votes(tuple(emotions))
    label = agreed_emotion(counts, uploader)
    box, n_agreeing = agreed_box(boxes)
    if len(boxes) > 1 and n_agreeing < len(boxes):
        outcome = f"the box of {n_agreeing} of them counts" if box else "none counts"
        remarks.append(f"the boxes of {len(boxes)} annotators are apart; {outcome}")
    if label is None:
        remarks.append(f"the annotators are undecided ({votes_text(counts) or 'no votes'}); no label")
    remarks += [f"no label set knows the emotion {e!r}" for e in counts if not _is_known(e)]
    problems += [(path, remark) for remark in remarks]
    attributes = {
        "sex": _text(record.get("gender")) or named.get("sex"),
        "age": _text(record.get("age")) or named.get("age"),
        "place": _text(record.get("bg_uploader")) or named.get("place"),
        "uploader": uploader,
        "professional": _text(record.get("isProf")),
        "votes": votes_text(counts),
        "box_votes": f"{n_agreeing}/{len(boxes)}" if boxes else None,
    }
    return Sample(
        path,
        label,
        _split_of(path),
        named["person"].lower() if found else None,
        box,
        {key: value for key, value in attributes.items() if value},
    )


def _votes(record: Mapping[str, Any]) -> tuple[list[Box], list[str], list[str]]:
    """Boxes and emotions of the annotators of one image, and what of it cannot be used."""
    boxes, emotions, remarks = [], [], []
    for annotator in ANNOTATORS:
        said = record.get(annotator)
        if not isinstance(said, dict):
            remarks.append(f"{annotator} is missing")
            continue
        if emotion := _text(said.get("faceExp")):
            emotions.append(emotion)
        else:
            remarks.append(f"{annotator} names no emotion")
        try:
            boxes.append(_box(said.get("boxes")))
        except DataError as error:
            remarks.append(f"{annotator}: {error}")
    return boxes, emotions, remarks


def _box(value: Any) -> Box:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or not {"minX", "minY", "maxX", "maxY"} <= value.keys():
        raise DataError("there is no box with minX, minY, maxX and maxY")
    return checked_box(value["minX"], value["minY"], value["maxX"], value["maxY"])


def _split_of(path: str) -> str | None:
    """Of the outermost folder that names one, as a word: ``1.Training``, ``[원천]EMOIMG_기쁨_TRAIN_01``."""
    found = (word for folder in path.split("/")[:-1] for word in words(folder) if word in SPLIT_NAMES)
    return next((SPLIT_NAMES[word] for word in found), None)


def _text(value: Any) -> str | None:
    """A name or number as composed text; None for what is neither."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return unicodedata.normalize("NFC", shown).strip() or None


@functools.cache
def _is_known(emotion: str) -> bool:
    return meaning_of(emotion) in {*LabelSet.named("aihub7").names, *LabelSet.named("ferplus").names}
