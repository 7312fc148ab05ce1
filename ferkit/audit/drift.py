"""How two parts of the data differ: in what the pictures show, and one property after the other."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ferkit.audit.findings import Difference, Drift
from ferkit.classifiers.fit import fit_classifier, fit_features
from ferkit.classifiers.heads import LogisticSettings, build_head
from ferkit.datasets.dataset import Sample
from ferkit.datasets.split import folds
from ferkit.datasets.survey import Survey

MOST_ROWS = 10_000
"""Of each part, as many as it takes to see a difference that matters."""

_FEWEST = 20


def drift(
    names: tuple[str, str],
    samples: tuple[Sequence[Sample], Sequence[Sample]],
    surveys: tuple[Survey, Survey],
    embeddings: tuple[np.ndarray, np.ndarray] | None,
    apart: tuple[Sequence[str | None], Sequence[str | None]] | None = None,
    seed: int = 0,
) -> Drift:
    """Compare two parts.

    Args:
        names: of the parts.
        samples: of each part.
        surveys: of each part's samples.
        embeddings: float (n, dim) of each part, of any of its pictures; None without.
        apart: for each embedding, who or what must not be on both sides of a fold; None for nothing.
        seed: of what is drawn.
    """
    differences = []
    if embeddings is not None and min(map(len, embeddings)) >= _FEWEST:
        differences.append(classifier_two_sample(embeddings, apart, seed))
    for what, of in _NUMBERS.items():
        a, b = (of(seen)[seen.size_wh[:, 0] > 0] for seen in surveys)
        if len(a) and len(b):
            differences.append(_kolmogorov_smirnov(what, a, b))
    columns = sorted({name for part in samples for sample in part for name in sample.attributes})
    for what in ("label", *columns):
        values = [[_value(sample, what) for sample in part] for part in samples]
        if all(len(set(part) - {""}) for part in values) or what == "label":
            differences.append(_total_variation(what, values[0], values[1], names))
    strength = {"AUC": lambda value: 2 * value - 1}
    differences.sort(key=lambda d: -strength.get(d.measure, float)(d.value))
    return Drift(names[0], names[1], len(samples[0]), len(samples[1]), tuple(differences))


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
        groups = np.array(
            [part[row] for part, rows in zip(apart, chosen, strict=True) for row in rows], object
        )
        # A person on both sides would have one label in training and another in the test.
        groups = np.array(
            [None if g is None else f"{side}/{g}" for g, side in zip(groups, y, strict=True)], object
        )
    settings = LogisticSettings(balanced=True, seed=seed)
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


def _total_variation(what: str, a: list[str], b: list[str], names: tuple[str, str]) -> Difference:
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
