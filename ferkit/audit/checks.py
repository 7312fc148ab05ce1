"""Check a data set: labels, groups, image quality, detection, drift and identities."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from ferkit.audit.findings import DROP, KEEP, Action, Difference, Drift, Finding, Kind
from ferkit.classifiers.heads import (
    HeadSettings,
    LogisticSettings,
    MLPSettings,
    build_head,
    fit_classifier,
    fit_features,
)
from ferkit.core.console import Progress, hidden_progress, map_ahead, progress
from ferkit.core.errors import DataError, DependencyError, FerkitError
from ferkit.core.files import Arrays, cached_arrays, fingerprint
from ferkit.core.types import FaceDetector, check_features
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.duplicates import Copies
from ferkit.datasets.image_stats import ImageStats, cached_rows
from ferkit.datasets.split import folds
from ferkit.embedder.store import EmbeddingTable
from ferkit.faces.cropping import square_crop

LEAST_CONFIDENCE = 0.05
"""What a detector should be opened with here: on FER2013 YuNet gives text and signs nothing at all, and hard faces
(eyes shut, hands before them, profiles) mostly more than this."""

_FORMAT = 1
_ROWS = 1024
"""Images a file of the cache: the most that an interrupt can lose."""

_MARGIN = 0.15
"""Of its surroundings so much of a face's box is shown, and looked at, on each side."""

_SMALLEST, _LARGEST = 96, 320
"""Longer side in pixels in which an image is looked at."""


def face_confidence(
    dataset: Dataset,
    seen: ImageStats,
    detector: FaceDetector,
    cache_dir: Path | None = None,
    *,
    workers: int | None = None,
) -> np.ndarray:
    """float32 (n,), 0..1: confidence of the surest face in each image; 0 for none, NaN if it cannot be read.

    Args:
        dataset, seen: the images.
        detector: opened with :data:`LEAST_CONFIDENCE`.
        cache_dir: where what was found is kept, in ``faces/``; None keeps nothing.
        workers: threads that read; one a core if None. The detector itself runs here.

    Raises:
        FerkitError: the cache cannot be written.
    """

    def file_of(rows: np.ndarray) -> Path | None:
        if cache_dir is None:
            return None
        boxes = [dataset.samples[row].box for row in rows]
        key = fingerprint([_FORMAT, detector.name, seen.pixels[rows].tobytes().hex(), boxes])
        return cache_dir / "faces" / f"{key[:32]}.npz"

    def read(row: int) -> np.ndarray | None:
        try:
            return framed(cut_face(dataset, dataset.samples[row]))
        except (FerkitError, OSError):
            return None

    def look(rows: np.ndarray, shown: Progress) -> Arrays:
        found = np.full(len(rows), np.nan, np.float32)
        for i, rgb in enumerate(map_ahead(read, rows.tolist(), workers=workers or 2, ahead=32)):
            if rgb is not None:
                faces = detector.detect(rgb)
                found[i] = faces.confidence.max() if len(faces) else 0.0
            shown.update(1)
        return {"confidence": found}

    def fits(rows: np.ndarray, known: Arrays) -> bool:
        return known["confidence"].shape == rows.shape

    return cached_rows(len(dataset), _ROWS, "looking for faces", file_of, look, fits)["confidence"]


def cut_face(dataset: Dataset, sample: Sample) -> np.ndarray:
    """The surroundings of a sample's box, or the whole image where it has none: uint8 RGB (h, w, 3).

    Raises:
        ImageError, OSError: it cannot be read.
    """
    rgb = dataset.read(sample)
    return rgb if sample.box is None else square_crop(rgb, np.array(sample.box, np.float32), _MARGIN)


def framed(rgb: np.ndarray) -> np.ndarray:
    """An image with a border: detectors expect space around a face, which crops do not have."""
    longer = max(rgb.shape[:2])
    scale = np.clip(longer, _SMALLEST, _LARGEST) / longer
    if scale != 1:
        how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        size_wh = tuple(max(1, round(side * scale)) for side in rgb.shape[1::-1])
        rgb = cv2.resize(rgb, size_wh, interpolation=how)
    edge = max(rgb.shape[:2]) // 3
    return cv2.copyMakeBorder(rgb, edge, edge, edge, edge, cv2.BORDER_REPLICATE)


MOST_ROWS = 10_000
"""Of each part, as many as it takes to see a difference that matters."""

_FEWEST = 20


@dataclass(frozen=True)
class Part:
    """One of two parts that are compared.

    Attributes:
        name: of the part.
        samples, stats: its images.
        X: float (n, dim), embeddings of any of its images; None without.
        apart: for each embedding, who or what must not be on both sides of a fold; None for nothing.
    """

    name: str
    samples: Sequence[Sample]
    stats: ImageStats
    X: np.ndarray | None = None
    apart: Sequence[str | None] | None = None


def drift(first: Part, second: Part, seed: int = 0) -> Drift:
    """Compare two parts; ``seed`` is of what is drawn."""
    parts = first, second
    differences = []
    if first.X is not None and second.X is not None and min(len(first.X), len(second.X)) >= _FEWEST:
        apart = None if first.apart is None or second.apart is None else (first.apart, second.apart)
        differences.append(classifier_two_sample((first.X, second.X), apart, seed))
    for what, of in _NUMBERS.items():
        a, b = (of(part.stats)[part.stats.size_wh[:, 0] > 0] for part in parts)
        if len(a) and len(b):
            differences.append(_kolmogorov_smirnov(what, a, b))
    columns = sorted({name for part in parts for sample in part.samples for name in sample.attributes})
    for what in ("label", *columns):
        values = [[_value(sample, what) for sample in part.samples] for part in parts]
        if what == "label" or all(set(column) - {""} for column in values):
            differences.append(_total_variation(what, values[0], values[1]))
    differences.sort(key=lambda d: -(2 * d.value - 1 if d.measure == "AUC" else d.value))
    return Drift(first.name, second.name, len(first.samples), len(second.samples), tuple(differences))


def classifier_two_sample(
    embeddings: tuple[np.ndarray, np.ndarray],
    apart: tuple[Sequence[str | None], Sequence[str | None]] | None,
    seed: int = 0,
) -> Difference:
    """Whether a logistic head can tell two parts apart, out of fold: area under its ROC curve.

    0.5 is what a coin does. A classifier two-sample test (Lopez-Paz & Oquab, 2017); the p value is that of the
    Mann-Whitney test on its predictions.
    """
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(seed)
    chosen = [np.sort(rng.permutation(len(X))[:MOST_ROWS]) for X in embeddings]
    X = np.concatenate([np.asarray(X[rows], np.float32) for X, rows in zip(embeddings, chosen, strict=True)])
    y = np.repeat(["first", "second"], [len(rows) for rows in chosen])
    groups = None
    if apart is not None:
        names = [part[row] for part, rows in zip(apart, chosen, strict=True) for row in rows]
        # A person on both sides would have one label in training and another in the test.
        sided = [None if name is None else f"{side}/{name}" for name, side in zip(names, y, strict=True)]
        groups = np.array(sided, object)
    settings = LogisticSettings(class_weights=True, seed=seed)
    pipeline, _ = build_head(settings, len(X), X.shape[1])
    Z = fit_features(pipeline.steps[:-1], X, settings)
    score = np.zeros(len(y))
    for train, test in folds(y, groups, 3, seed):
        head, _, _ = fit_classifier(pipeline.steps[-1][1], Z[train], y[train], settings)
        score[test] = head.predict_proba(Z[test])[:, 1]
    second = y == "second"
    test = mannwhitneyu(score[second], score[~second])
    auc = float(test.statistic / (second.sum() * (~second).sum()))
    return Difference("pictures", "AUC", max(auc, 1 - auc), float(test.pvalue))


def _kolmogorov_smirnov(what: str, a: np.ndarray, b: np.ndarray) -> Difference:
    from scipy.stats import ks_2samp

    test = ks_2samp(a, b, method="asymp")
    detail = f"{np.median(a):.4g} → {np.median(b):.4g}"
    return Difference(what, "KS", float(test.statistic), float(test.pvalue), detail)


def _total_variation(what: str, a: list[str], b: list[str]) -> Difference:
    """Half the sum of the differences of the shares; p of the chi-squared test of homogeneity."""
    from scipy.stats import chi2_contingency

    counts = [Counter(part) for part in (a, b)]
    values = sorted(counts[0].keys() | counts[1].keys())
    shares = np.array([[part[value] for value in values] for part in counts], float)
    p = float(chi2_contingency(shares).pvalue) if len(values) > 1 else 1.0
    shares /= shares.sum(axis=1, keepdims=True)
    gap = shares[1] - shares[0]
    most = int(np.abs(gap).argmax())
    detail = f"{values[most] or '–'}: {shares[0, most]:.1%} → {shares[1, most]:.1%}"
    return Difference(what, "TV", float(np.abs(gap).sum() / 2), p, detail)


def _value(sample: Sample, what: str) -> str:
    return (sample.label if what == "label" else sample.attributes.get(what)) or ""


_NUMBERS = {
    "width": lambda seen: seen.size_wh[:, 0],
    "height": lambda seen: seen.size_wh[:, 1],
    "brightness": lambda seen: seen.thumbs.mean(axis=(1, 2)),
    "contrast": lambda seen: seen.contrast,
    "sharpness": lambda seen: seen.sharpness,
}


def copy_findings(dataset: Dataset, seen: ImageStats, copies: Copies, blank: np.ndarray) -> list[Finding]:
    """One finding for each image that is there more than once, of the gravest kind that fits.

    Of copies under one label the largest is kept, of copies across splits those outside training: a test part should
    stay what it is. Of copies under several labels the most frequent label is suggested for all, if there is one.

    Args:
        dataset, seen: the images.
        copies: among them.
        blank: bool (n,); blank images are a finding of their own.
    """
    members: dict[int, list[int]] = defaultdict(list)
    groups = copies.groups()
    for row, group in enumerate(groups):
        if not blank[row] and row not in seen.errors:
            members[int(group)].append(row)
    weakest: dict[int, float] = {}
    for (a, _), similarity in zip(copies.near, copies.similarity, strict=True):
        group = int(groups[a])
        weakest[group] = min(weakest.get(group, 1.0), float(similarity))
    return [
        _group_finding(dataset, seen, rows, copies.first, weakest.get(group, 1.0))
        for group, rows in members.items()
        if len(rows) > 1
    ]


def person_findings(dataset: Dataset, who: Sequence[str | None]) -> list[Finding]:
    """One finding for each person who is in more than one part of a split.

    Args:
        dataset: the images.
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
            # The part with fewer images of the person is the cheaper one to leave out.
            fewest = min(parts, key=lambda part: (parts[part], part))
            actions = tuple(DROP if dataset.samples[row].split == fewest else KEEP for row in rows)
            facts = {"person": person, "splits": _counted(parts)}
            findings.append(Finding("split_person", tuple(rows), len(rows) / len(dataset), actions, facts))
    return findings


def _group_finding(
    dataset: Dataset, seen: ImageStats, rows: list[int], first: np.ndarray, similarity: float
) -> Finding:
    samples = [dataset.samples[row] for row in rows]
    labels = Counter(sample.label for sample in samples if sample.label is not None)
    parts = Counter(sample.split for sample in samples if sample.split is not None)
    exact = len({int(first[row]) for row in rows}) == 1
    facts: dict[str, str | float] = {"likeness": similarity, "copies": len(rows)}
    if len(parts) > 1:
        facts["splits"] = _counted(parts)
    if len(labels) > 1:
        facts["labels"] = _counted(labels)
        # An even dispute cannot be settled by counting, and exact copies leave no doubt that it is one.
        share = labels.most_common(1)[0][1] / sum(labels.values())
        severity = (0.5 if exact else 0.0) + 0.5 * (1 - share)
        return Finding("label_conflict", tuple(rows), severity, _settled(samples, labels), facts)
    kind: Kind = "split_copy" if len(parts) > 1 else "exact_copy" if exact else "near_copy"
    # Of the part that decides, if several parts have some, the largest.
    rank = {"test": 0, "val": 1, "train": 2, None: 3}
    kept = min(
        rows, key=lambda row: (rank[dataset.samples[row].split], -int(np.prod(seen.size_wh[row])), row)
    )
    actions = tuple(KEEP if row == kept else DROP for row in rows)
    return Finding(kind, tuple(rows), similarity, actions, facts)


def _settled(samples: list[Sample], labels: Counter[str]) -> tuple[Action, ...]:
    (label, most), *others = labels.most_common()
    if others and others[0][1] == most:
        return tuple(KEEP for _ in samples)
    return tuple(KEEP if sample.label in (label, None) else Action("relabel", label) for sample in samples)


def _counted(counts: Counter[str] | Counter[str | None]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.most_common())


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """How wrong labels are looked for.

    Attributes:
        head: what predicts the labels from the embeddings.
        folds: each image is predicted by a head that was fitted on the other folds.
        epochs: of the MLP; more of them learn wrong labels by heart.
        seed: of the folds and the head.
    """

    head: Literal["logistic", "mlp"] = "logistic"
    folds: int = 5
    epochs: int = 15
    seed: int = 0

    def head_settings(self) -> HeadSettings:
        """The head; its few passes are fixed, since choosing them would need clean labels."""
        if self.head == "mlp":
            return MLPSettings(patience=None, max_epochs=self.epochs, seed=self.seed)
        return LogisticSettings(seed=self.seed)


@dataclass(frozen=True)
class Doubts:
    """How far each label is to be believed.

    Attributes:
        classes: (k,) str, sorted.
        proba: float32 (n, k), predicted for each image by a head that has not seen it, nor a copy or another
            image of the same person.
        quality: float32 (n,), 0 surely wrong .. 1 right.
        issue: bool (n,), what confident learning calls wrong.
    """

    classes: np.ndarray
    proba: np.ndarray
    quality: np.ndarray
    issue: np.ndarray


def doubt(
    table: EmbeddingTable, apart: Sequence[str | None], settings: LabelSettings, cache_dir: Path | None = None
) -> Doubts:
    """Predict each label out of fold, and rank the labels by how little they fit.

    Ranking is by the probability of the given label: of cleanlab's scores the one that finds most labels flipped
    at random on FER2013. How many at the top of the list count as issues is estimated by confident learning
    (Northcutt, Jiang & Chuang, 2021) from how often each class is mistaken for each other.

    Args:
        table: labelled embeddings.
        apart: (n,) rows of one name are kept in one fold; None stands alone.
        settings: of the head and the folds.
        cache_dir: where predictions are kept, in ``predictions/``; None keeps nothing.

    Raises:
        DependencyError: cleanlab is not installed.
        DataError: fewer than two classes, or a class with one image.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        raise DependencyError(
            "wrong labels are found with cleanlab, which is not installed; pip install 'ferkit[audit]'"
        ) from None
    y = np.array([str(label) for label in table.y])
    classes, given = np.unique(y, return_inverse=True)
    proba = _predictions(table, y, apart, settings, cache_dir)
    quality = get_label_quality_scores(given, proba, method="self_confidence")
    # One process: cleanlab's own would copy the predictions, and it takes seconds for a million rows.
    issue = find_label_issues(given, proba, filter_by="low_self_confidence", n_jobs=1)
    return Doubts(classes, proba, quality.astype(np.float32), np.asarray(issue, bool))


def label_findings(table: EmbeddingTable, rows: np.ndarray, doubts: Doubts) -> list[Finding]:
    """One finding for each label that confident learning calls wrong, the likeliest first.

    Args:
        table: labelled embeddings.
        rows: the row in the data set of each.
        doubts: of :func:`doubt`.
    """
    place = {name: i for i, name in enumerate(doubts.classes)}
    best = doubts.proba.argmax(axis=1)
    findings = []
    for i in np.flatnonzero(doubts.issue):
        given = place[str(table.y[i])]
        if best[i] == given:
            continue
        label = str(doubts.classes[best[i]])
        facts: dict[str, str | float] = {
            "predicted": label,
            "probability": float(doubts.proba[i, best[i]]),
            "of_given": float(doubts.proba[i, given]),
        }
        severity = float(1 - doubts.quality[i])
        findings.append(Finding("wrong_label", (int(rows[i]),), severity, (Action("relabel", label),), facts))
    return findings


def _predictions(
    table: EmbeddingTable,
    y: np.ndarray,
    apart: Sequence[str | None],
    settings: LabelSettings,
    cache_dir: Path | None,
) -> np.ndarray:
    """float32 (n, k), from the cache or made now."""
    names = np.array(list(apart), object)
    file = None
    if cache_dir is not None:
        # Embeddings are long; their sums tell a changed one as well as all their digits would.
        starts = range(0, len(y), 4096)
        sums = [float(table.X[start : start + 4096].astype(np.float64).sum()) for start in starts]
        rows = table.paths.tolist(), y.tolist(), names.tolist()
        key = fingerprint([_FORMAT, settings, table.X.shape, sums, *rows])
        file = cache_dir / "predictions" / f"{key[:32]}.npz"
    shape = len(y), len(np.unique(y))
    made, _ = cached_arrays(
        file,
        lambda: {"proba": _predict(table.X, y, names, settings)},
        lambda known: known["proba"].shape == shape and bool(np.isfinite(known["proba"]).all()),
    )
    return made["proba"]


def _predict(X: np.ndarray, y: np.ndarray, apart: np.ndarray, settings: LabelSettings) -> np.ndarray:
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise DataError(
            f"wrong labels are found among two or more classes with two or more images each, found "
            f"{dict(Counter(y.tolist()))}; leave rare classes out"
        )
    head_settings = settings.head_settings()
    pipeline, _ = build_head(head_settings, len(X), X.shape[1])
    # Scaling and principal components know nothing of labels, and are the same for all folds.
    Z = fit_features(pipeline.steps[:-1], X, head_settings)
    parts = folds(y, apart, settings.folds, settings.seed)
    proba = np.zeros((len(y), len(classes)), np.float32)
    with warnings.catch_warnings(), progress("predicting labels", len(y)) as shown, hidden_progress():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the passes are few on purpose
        for train, test in parts:
            head: Any = clone(pipeline.steps[-1][1])
            head, _, _ = fit_classifier(head, Z[train], y[train], head_settings, apart[train])
            proba[test] = head.predict_proba(Z[test])
            shown.update(len(test))
    return proba


REFERENCE_ROWS = 20_000
"""How many images the others are compared with to see how unusual they are: time grows with rows, not its square."""

_DIMENSIONS = 64
_NEIGHBOURS = 10
_BLOCK = 2048

_SURELY_UNUSUAL = 0.95
"""Share of images that must be less unusual for one without a detected face to be dropped without a look."""


@dataclass(frozen=True, kw_only=True)
class ImageQualitySettings:
    """Where an image begins to be poor.

    Attributes:
        blank_contrast: standard deviation of gray levels, 0..128, below which nothing is to be seen.
        tiny_side: pixels of the shorter side below which eyes and mouth run together.
        blurred_sharpness: share of fine structure below which an image counts as blurred, see
            :attr:`ferkit.datasets.image_stats.ImageStats.sharpness`.
        unusual_share: of all images, the share that is least like the others.
    """

    blank_contrast: float = 4.0
    tiny_side: int = 24
    blurred_sharpness: float = 0.12
    unusual_share: float = 0.01


def blank_rows(seen: ImageStats, settings: ImageQualitySettings) -> np.ndarray:
    """bool (n,): images on which nothing is to be seen."""
    readable = np.array([row not in seen.errors for row in range(len(seen))])
    return readable & (seen.contrast < settings.blank_contrast)


def image_quality_findings(seen: ImageStats, settings: ImageQualitySettings) -> list[Finding]:
    """Unreadable, blank, tiny and blurred images; each is named once, by the gravest."""
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


def no_face_findings(confidence: np.ndarray, blank: np.ndarray, unusual: np.ndarray | None) -> list[Finding]:
    """Images in which a detector finds no face; the most unusual first, since hard faces still look like faces.

    Only those are suggested to be dropped: a detector misses profiles, shut eyes and hands before the face.

    Args:
        confidence: float (n,), of :func:`ferkit.audit.checks.face_confidence`.
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


def unusual_findings(unusual: np.ndarray, known: np.ndarray, settings: ImageQualitySettings) -> list[Finding]:
    """Images that are least like all others.

    Args:
        unusual: float (n,), of :func:`unusualness`, NaN where unknown.
        known: bool (n,), images that are a finding already.
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
    al., 2000; Sun et al., 2022): no more than a quarter of the sample's rows, since in as many components as rows
    all rows are equally far from each other. A sample below twenty has fewer neighbours, or they were all others.
    """
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(X), min(len(X), REFERENCE_ROWS), replace=False))
    sample = np.asarray(X[chosen], np.float32)
    components = min(_DIMENSIONS, sample.shape[1], max(1, len(sample) // 4))
    pca = PCA(components, whiten=True, svd_solver="randomized", random_state=seed).fit(sample)
    known = pca.transform(sample).astype(np.float32)
    square = (known**2).sum(axis=1)
    nth = min(_NEIGHBOURS, len(sample) // 2)  # an image of the sample is its own nearest
    distance = np.empty(len(X), np.float32)
    for start in range(0, len(X), _BLOCK):
        part = pca.transform(np.asarray(X[start : start + _BLOCK], np.float32)).astype(np.float32)
        gap = (part**2).sum(axis=1)[:, None] + square - 2 * part @ known.T
        distance[start : start + _BLOCK] = np.sqrt(np.maximum(np.partition(gap, nth, axis=1)[:, nth], 0))
    return distance / max(float(np.median(distance)), 1e-6)


_BLOCK_VALUES = 2**24
"""Similarities that are held at once: 64 MB."""


def cluster_identities(
    X: np.ndarray, least_similarity: float = 0.6, neighbours: int = 10
) -> list[str | None]:
    """Group images that a face-recognition network takes for the same person.

    Two images are joined if each is among the nearest ``neighbours`` of the other and the cosine of their
    embeddings is at least ``least_similarity``; whoever is joined by a chain is one person. Asking for both directions
    keeps one ordinary face from joining everybody (hubs: Radovanović, Nanopoulos & Ivanović, 2010).

    Args:
        X: float (n, d), last-layer embeddings of a recognition network such as ArcFace, of aligned faces. Embeddings
            made for expressions tell expressions, not persons.
        least_similarity: cosine, -1..1. It depends on the network and the images: look at some groups.
        neighbours: the most that one image is joined to.

    Returns:
        n names, the same for the same person; None for images that are like no other.

    Raises:
        DataError: no such embeddings, or a similarity out of range.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    check_features(X)
    if not -1 <= least_similarity <= 1:
        raise DataError(f"expected a cosine in -1..1 as least similarity, found {least_similarity}")
    unit = np.asarray(X, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *_nearest(unit, least_similarity, neighbours)])
    n = len(unit)
    there, back = pairs @ np.array([n, 1]), pairs @ np.array([1, n])
    mutual = pairs[np.isin(there, back)]
    graph = coo_array((np.ones(len(mutual), bool), (mutual[:, 0], mutual[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first, size = np.unique(component, return_index=True, return_counts=True)
    return [f"like-{first[c]}" if size[c] > 1 else None for c in component]


def _nearest(unit: np.ndarray, least: float, neighbours: int) -> Iterator[np.ndarray]:
    """Pairs (m, 2) of each row with its nearest ones, block by block."""
    k = min(neighbours, len(unit) - 1)
    rows = max(1, _BLOCK_VALUES // len(unit))
    for start in range(0, len(unit) if k > 0 else 0, rows):
        block = unit[start : start + rows]
        similarity = block @ unit.T
        own = np.arange(len(block))
        similarity[own, start + own] = -2
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        a, at = np.nonzero(np.take_along_axis(similarity, nearest, axis=1) >= least)
        yield np.stack([a + start, nearest[a, at]], axis=1)
