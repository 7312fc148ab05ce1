"""Pictures that no label can be read from: unreadable, blank, tiny, blurred, unlike all others, without a face."""

from dataclasses import dataclass

import numpy as np

from ferkit.audit.findings import DROP, KEEP, Finding
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.survey import Survey

REFERENCE_ROWS = 20_000
"""How many pictures the others are compared with to see how unusual they are: time grows with rows, not its square."""

_DIMENSIONS = 64
_NEIGHBOURS = 10
_BLOCK = 2048

_SURELY_UNUSUAL = 0.95
"""Share of pictures that must be less unusual for one without a detected face to be dropped without a look."""


@dataclass(frozen=True, kw_only=True)
class LooksSettings:
    """Where a picture begins to be poor.

    Attributes:
        blank_contrast: standard deviation of gray levels, 0..128, below which nothing is to be seen.
        tiny_side: pixels of the shorter side below which eyes and mouth run together.
        blurred_sharpness: share of fine structure below which a picture counts as blurred, see
            :attr:`ferkit.datasets.survey.Survey.sharpness`.
        unusual_share: of all pictures, the share that is least like the others.
    """

    blank_contrast: float = 4.0
    tiny_side: int = 24
    blurred_sharpness: float = 0.12
    unusual_share: float = 0.01


def blank_rows(seen: Survey, settings: LooksSettings) -> np.ndarray:
    """bool (n,): pictures on which nothing is to be seen."""
    readable = np.array([row not in seen.errors for row in range(len(seen))])
    return readable & (seen.contrast < settings.blank_contrast)


def looks_findings(dataset: Dataset, seen: Survey, settings: LooksSettings) -> list[Finding]:
    """Unreadable, blank, tiny and blurred pictures; each is named once, by the gravest."""
    findings = [
        Finding("unreadable", (row,), 1.0, (DROP,), {"reason": reason}) for row, reason in seen.errors.items()
    ]
    blank = blank_rows(seen, settings)
    for row in map(int, np.flatnonzero(blank)):
        contrast = float(seen.contrast[row])
        severity = 1 - contrast / settings.blank_contrast
        findings.append(Finding("blank", (row,), severity, (DROP,), {"contrast": contrast}))
    shorter = seen.size_wh.min(axis=1)
    for row in range(len(seen)):
        if blank[row] or row in seen.errors:
            continue
        if shorter[row] < settings.tiny_side:
            facts = {"size": f"{seen.size_wh[row, 0]}x{seen.size_wh[row, 1]}"}
            severity = 1 - float(shorter[row]) / settings.tiny_side
            findings.append(Finding("tiny", (row,), severity, (KEEP,), facts))
        elif seen.sharpness[row] < settings.blurred_sharpness:
            severity = 1 - float(seen.sharpness[row]) / settings.blurred_sharpness
            sharpness = float(seen.sharpness[row])
            findings.append(Finding("blurred", (row,), severity, (KEEP,), {"sharpness": sharpness}))
    return findings


def faceless_findings(confidence: np.ndarray, blank: np.ndarray, unusual: np.ndarray | None) -> list[Finding]:
    """Pictures in which a detector finds no face; the most unusual first, since hard faces still look like faces.

    Only those are suggested to be dropped: a detector misses profiles, shut eyes and hands before the face.

    Args:
        confidence: float (n,), of :func:`ferkit.audit.detection.face_confidence`.
        blank: bool (n,), which are a finding of their own.
        unusual: float (n,), of :func:`unusualness`, NaN where unknown; None without embeddings.
    """
    findings = []
    rank = np.full(len(confidence), 0.5) if unusual is None else _rank(unusual)
    for row in map(int, np.flatnonzero((confidence == 0) & ~blank)):
        facts: dict[str, str | float] = {}
        if unusual is not None and np.isfinite(unusual[row]):
            facts["distance"] = float(unusual[row])
        action = DROP if rank[row] >= _SURELY_UNUSUAL else KEEP
        findings.append(Finding("not_a_face", (row,), float(rank[row]), (action,), facts))
    return findings


def unusual_findings(unusual: np.ndarray, known: np.ndarray, settings: LooksSettings) -> list[Finding]:
    """Pictures that are least like all others.

    Args:
        unusual: float (n,), of :func:`unusualness`, NaN where unknown.
        known: bool (n,), pictures that are a finding already.
        settings: how many are named.
    """
    n = max(1, round(np.isfinite(unusual).sum() * settings.unusual_share))
    order = [int(row) for row in np.argsort(-np.nan_to_num(unusual)) if np.isfinite(unusual[row])][:n]
    return [
        Finding("outlier", (row,), 1 - rank / n, (KEEP,), {"distance": float(unusual[row])})
        for rank, row in enumerate(order)
        if not known[row]
    ]


def _rank(values: np.ndarray) -> np.ndarray:
    """0 for the least .. 1 for the greatest; 0.5 for NaN."""
    finite = np.flatnonzero(np.isfinite(values))
    rank = np.full(len(values), 0.5)
    rank[finite[np.argsort(values[finite], kind="stable")]] = np.linspace(0, 1, len(finite))
    return rank


def unusualness(X: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32 (n,): distance of each embedding to the tenth nearest of a sample, in units of the median distance.

    The distance is taken in the space of the first principal components, each with variance 1 (Ramaswamy et
    al., 2000; Sun et al., 2022).
    """
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(X), min(len(X), REFERENCE_ROWS), replace=False))
    sample = np.asarray(X[chosen], np.float32)
    components = min(_DIMENSIONS, sample.shape[1], len(sample))
    pca = PCA(components, whiten=True, svd_solver="randomized", random_state=seed).fit(sample)
    known = pca.transform(sample).astype(np.float32)
    square = (known**2).sum(axis=1)
    nth = min(_NEIGHBOURS, len(sample) - 1)  # a picture of the sample is its own nearest
    distance = np.empty(len(X), np.float32)
    for start in range(0, len(X), _BLOCK):
        part = pca.transform(np.asarray(X[start : start + _BLOCK], np.float32)).astype(np.float32)
        gap = (part**2).sum(axis=1)[:, None] + square - 2 * part @ known.T
        distance[start : start + _BLOCK] = np.sqrt(np.maximum(np.partition(gap, nth, axis=1)[:, nth], 0))
    return distance / max(float(np.median(distance)), 1e-6)
