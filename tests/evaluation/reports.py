"""Comparisons made up for the tests of reports: quick to judge, with everything that a report can hold."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.labels import LabelSet
from ferkit.datasets.dataset import read_folder
from ferkit.evaluation.comparison import (
    CandidateResult,
    Comparison,
    Costs,
    DataUsed,
    PairTest,
    ProtocolSettings,
    RepeatResult,
    SplitRows,
)


def guesses(truth: np.ndarray, k: int, skill: float, seed: int) -> np.ndarray:
    """float32 (n, k): noise, and as much of the truth as ``skill`` says."""
    logits = np.random.default_rng(seed).normal(size=(len(truth), k)) + skill * np.eye(k)[truth]
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def made_up(
    names: tuple[str, ...] = ("angry", "happy", "neutral"),
    n: int = 240,
    *,
    skills: tuple[float, ...] = (0.3, 2.0),
    candidates: tuple[str, ...] | None = None,
    failed: bool = True,
    persons: bool = True,
    leaking: int = 12,
    by: tuple[str, ...] = ("sex",),
    paths: tuple[str, ...] | None = None,
) -> Comparison:
    """A comparison of two repeats on ``2 n`` images."""
    k = len(names)
    rng = np.random.default_rng(0)
    column = np.arange(2 * n) % k
    rows = np.arange(2 * n)
    splits = tuple(
        SplitRows(r, "drawn", np.setdiff1d(rows, test), test, test[:leaking])
        for r, test in enumerate((rows[:n], rows[n // 2 : n // 2 + n]))
    )
    candidates = candidates or tuple(f"head{i}@hog" for i in range(len(skills)))
    results = [
        CandidateResult(
            name,
            "head",
            tuple(
                RepeatResult(
                    r,
                    guesses(column[split.test], k, skill, 10 * i + r),
                    Costs(train_s=3.0 * (i + 1), ms_batch1=0.4 + i, ms_batch32=0.1, size_mb=1.5),
                    ({"accuracy": 0.4, "val_accuracy": 0.35}, {"accuracy": 0.6, "val_accuracy": 0.5}),
                )
                for r, split in enumerate(splits)
            ),
            notes=("a note on it",),
        )
        for i, (name, skill) in enumerate(zip(candidates, skills, strict=True))
    ]
    if failed:
        results.append(CandidateResult("peer:deepface", "peer", failure="deepface is not installed"))
    pairs = tuple(
        PairTest(a, b, -0.3, -0.36, -0.24, 0.0001, 0.0, 0.0004, f"{b} is better than {a}.")
        for a, b in combinations(candidates, 2)
    )
    paths = paths or tuple(f"{names[c]}/{i:04d}.png" for i, c in enumerate(column))
    leak = {"train": paths[-1], "test": paths[0], "kind": "near", "score": 0.9}
    return Comparison(
        name="faces",
        labels=LabelSet.from_names(names),
        y=np.array(names, object)[column],
        paths=np.array(paths, object),
        groups=np.array([f"p{i // 4}" if persons else None for i in rows], object),
        source=np.zeros(2 * n, np.int64),
        data=(DataUsed("faces", "faces", "both", 2 * n, "0123456789abcdef" * 4),),
        attributes={"sex": np.array(["female", "male"], object)[rng.integers(2, size=2 * n)]},
        protocol=ProtocolSettings(repeats=2, by=by),
        splits=splits,
        candidates=tuple(results),
        pairs=pairs,
        leaks={"sentence": f"{leaking} leak", "leaking_test_rows": leaking, "pairs": [leak]}
        if leaking
        else None,
        notes=("2 images could not be read",),
        versions={"python": "3.11"},
        machine={"cores": "2"},
        date="2026-11-20",
    )


def with_images(comparison: Comparison, root: Path) -> Path:
    """Write a small image for each row; gives the folder, which ``read_folder`` reads."""
    for i, path in enumerate(comparison.paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        _, content = cv2.imencode(".png", np.full((20, 20, 3), i % 256, np.uint8))
        (root / path).write_bytes(content.tobytes())
    assert len(read_folder(root)) == len(comparison.paths)
    return root
