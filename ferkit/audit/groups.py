"""Copies of one picture, and persons on both sides of a split."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from ferkit.audit.findings import DROP, KEEP, Action, Finding, Kind
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.duplicates import Copies
from ferkit.datasets.survey import Survey


def copy_findings(dataset: Dataset, seen: Survey, copies: Copies, blank: np.ndarray) -> list[Finding]:
    """One finding for each picture that is there more than once, of the gravest kind that fits.

    Of copies under one label the largest is kept, of copies across splits those outside training: a test part should
    stay what it is. Of copies under several labels the most frequent label is suggested for all, if there is one.

    Args:
        dataset, seen: the pictures.
        copies: among them.
        blank: bool (n,); blank pictures are a finding of their own.
    """
    members: dict[int, list[int]] = defaultdict(list)
    groups = copies.groups()
    for row, group in enumerate(groups):
        if not blank[row] and row not in seen.errors:
            members[int(group)].append(row)
    weakest: dict[int, float] = {}
    for (a, _), likeness in zip(copies.near, copies.likeness, strict=True):
        group = int(groups[a])
        weakest[group] = min(weakest.get(group, 1.0), float(likeness))
    return [
        _group_finding(dataset, seen, rows, copies.first, weakest.get(group, 1.0))
        for group, rows in members.items()
        if len(rows) > 1
    ]


def person_findings(dataset: Dataset, who: Sequence[str | None]) -> list[Finding]:
    """One finding for each person who is in more than one part of a split.

    Args:
        dataset: the pictures.
        who: (n,) who is shown; None where unknown.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, (sample, person) in enumerate(zip(dataset.samples, who, strict=True)):
        if person is not None and sample.split is not None:
            rows_of[person].append(row)
    findings = []
    for person, rows in rows_of.items():
        parts = Counter(str(dataset.samples[row].split) for row in rows)
        if len(parts) > 1:
            # The part with fewer pictures of the person is the cheaper one to leave out.
            fewest = min(parts, key=lambda part: (parts[part], part))
            actions = tuple(DROP if dataset.samples[row].split == fewest else KEEP for row in rows)
            facts = {"person": person, "splits": _counted(parts)}
            findings.append(Finding("split_person", tuple(rows), len(rows) / len(dataset), actions, facts))
    return findings


def _group_finding(
    dataset: Dataset, seen: Survey, rows: list[int], first: np.ndarray, likeness: float
) -> Finding:
    samples = [dataset.samples[row] for row in rows]
    labels = Counter(sample.label for sample in samples if sample.label is not None)
    parts = Counter(sample.split for sample in samples if sample.split is not None)
    exact = len({int(first[row]) for row in rows}) == 1
    facts: dict[str, str | float] = {"likeness": likeness, "copies": len(rows)}
    if len(parts) > 1:
        facts["splits"] = _counted(parts)
    if len(labels) > 1:
        facts["labels"] = _counted(labels)
        # An even dispute cannot be settled by counting, and exact copies leave no doubt that it is one.
        share = labels.most_common(1)[0][1] / sum(labels.values())
        return Finding(
            "label_conflict", tuple(rows), _between(exact, share), _settled(samples, labels), facts
        )
    kind: Kind = "split_copy" if len(parts) > 1 else "exact_copy" if exact else "near_copy"
    kept = _kept(seen, samples, rows)
    actions = tuple(KEEP if row in kept else DROP for row in rows)
    return Finding(kind, tuple(rows), likeness, actions, facts)


def _settled(samples: list[Sample], labels: Counter[str]) -> tuple[Action, ...]:
    (label, most), *others = labels.most_common()
    if others and others[0][1] == most:
        return tuple(KEEP for _ in samples)
    return tuple(KEEP if sample.label in (label, None) else Action("relabel", label) for sample in samples)


def _kept(seen: Survey, samples: list[Sample], rows: list[int]) -> set[int]:
    """All copies of the part that decides, if several parts have some; or else the largest."""
    rank = {"test": 0, "val": 1, "train": 2, None: 3}
    best = min(rank[sample.split] for sample in samples)
    within = [row for row, sample in zip(rows, samples, strict=True) if rank[sample.split] == best]
    largest = max(within, key=lambda row: (int(np.prod(seen.size_wh[row])), -row))
    return {largest}


def _between(exact: bool, share: float) -> float:
    return (0.5 if exact else 0.0) + 0.5 * (1 - share)


def _counted(counts: Counter[str] | Counter[str | None]) -> str:
    return ", ".join(_pairs((str(name), n) for name, n in counts.most_common()))


def _pairs(items: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{name} {n}" for name, n in items]
