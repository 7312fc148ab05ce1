"""Several annotators, one answer: boxes by their overlap, emotions by majority."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

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
    overlap = np.array([[_overlap(a, b) for b in boxes] for a in boxes])
    for size in range(len(boxes), 1, -1):
        best, members = max(
            (min(overlap[a, b] for a, b in combinations(group, 2)), group)
            for group in combinations(range(len(boxes)), size)
        )
        if best >= MIN_OVERLAP:
            left, top, right, bottom = np.mean([boxes[i] for i in members], axis=0).round(1).tolist()
            return (left, top, right, bottom), size
    return None, 0


def agreed_emotion(votes: Sequence[str], uploader: str | None) -> str | None:
    """What most annotators saw; on a tie what the uploader meant, if it is among the tied; else None.

    Spellings of one emotion (``기쁨``, ``행복``, ``happy``) count together, under the one used most.
    """
    counts = count_votes(votes)
    if not counts:
        return uploader
    most = max(counts.values())
    tied = [emotion for emotion, n in counts.items() if n == most]
    if len(tied) == 1:
        return tied[0]
    return next((e for e in tied if uploader and meaning_of(e) == meaning_of(uploader)), None)


def count_votes(votes: Sequence[str]) -> dict[str, int]:
    """Votes by emotion, the most frequent first, then by name."""
    spellings: dict[str, list[str]] = {}
    for vote in votes:
        spellings.setdefault(meaning_of(vote), []).append(vote)
    counts = {max(sorted(set(same)), key=same.count): len(same) for same in spellings.values()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


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
