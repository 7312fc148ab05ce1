"""Pictures that no label can be read from: unreadable, blank, tiny, blurred, unlike all others, without a face."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ferkit.audit.findings import DROP, KEEP, Finding
from ferkit.core.errors import FerkitError
from ferkit.core.faces import Faces
from ferkit.core.progress import Progress
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.survey import Survey
from ferkit.embedder.table import EmbeddingTable

REFERENCE_ROWS = 20_000
"""How many pictures the others are compared with to see how unusual they are: time grows with rows, not its square."""

_DIMENSIONS = 64
_NEIGHBOURS = 10
_BLOCK = 2048


@dataclass(frozen=True, kw_only=True)
class LooksSettings:
    """Where a picture begins to be poor.

    Attributes:
        blank_contrast: standard deviation of gray levels, 0..128, below which nothing is to be seen.
        tiny_side: pixels of the shorter side below which eyes and mouth run together.
        blurred_sharpness: share of fine structure below which a picture counts as blurred, see
            :attr:`ferkit.datasets.survey.Survey.sharpness`.
        unusual_share: of all pictures, the share that is least like the others: a detector looks for a face in
            these.
    """

    blank_contrast: float = 4.0
    tiny_side: int = 24
    blurred_sharpness: float = 0.12
    unusual_share: float = 0.02


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


def unusual_findings(
    dataset: Dataset,
    table: EmbeddingTable,
    rows: np.ndarray,
    blank: np.ndarray,
    detect: Callable[[np.ndarray], Faces] | None,
    settings: LooksSettings,
    *,
    seed: int = 0,
    progress: Progress,
) -> list[Finding]:
    """Pictures that are least like all others, and those among them in which a detector finds no face.

    Args:
        dataset: the pictures.
        table: embeddings.
        rows: the row in the data set of each embedding.
        blank: bool, of the data set's rows.
        detect: finds faces in uint8 RGB; None if there is no detector.
        settings: how many are looked at.
        seed: of the sample that pictures are compared with.
        progress: is told of every picture that is looked at.
    """
    distance = unusualness(table.X, seed)
    n = max(1, round(len(rows) * settings.unusual_share))
    order = [i for i in np.argsort(-distance) if not blank[rows[i]]][:n]
    progress.start(total=len(order))
    findings = []
    for rank, i in enumerate(order):
        row = int(rows[i])
        facts: dict[str, str | float] = {"distance": float(distance[i])}
        faceless = detect is not None and not _has_face(dataset, row, detect)
        kind, action = ("not_a_face", DROP) if faceless else ("outlier", KEEP)
        findings.append(Finding(kind, (row,), 1 - rank / len(order), (action,), facts))  # type: ignore[arg-type]
        progress.update(1)
    progress.close()
    return findings


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


def _has_face(dataset: Dataset, row: int, detect: Callable[[np.ndarray], Faces]) -> bool:
    """Whether a detector finds a face; crops are given the space around them that detectors expect."""
    import cv2

    try:
        rgb = dataset.read(dataset.samples[row])
    except (FerkitError, OSError):
        return False
    scale = 160 / max(rgb.shape[:2])
    if scale > 1:
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    edge = max(rgb.shape[:2]) // 3
    framed = cv2.copyMakeBorder(rgb, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    return len(detect(framed)) > 0 or len(detect(rgb)) > 0
