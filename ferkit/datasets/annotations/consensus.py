"""Several annotators, one answer: boxes by their overlap, emotions by majority."""

import functools
from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

from ferkit.core.labels import meaning_of
from ferkit.datasets.annotations.annotated import Box

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


@functools.lru_cache(maxsize=10_000)  # a few hundred outcomes in hundreds of thousands of pictures
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
