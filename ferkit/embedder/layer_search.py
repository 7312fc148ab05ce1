"""Which stages of a network an embedding is best taken from, found out on a sample."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import DataError
from ferkit.embedder.engines import open_session
from ferkit.embedder.onnx_graph import cut, load_graph
from ferkit.embedder.onnx_network import (
    JOIN,
    LARGEST_JOINED_POOL,
    BatchRunner,
    Layer,
    NetworkEmbedder,
    engines_of,
    input_format,
    list_layers,
    open_network,
    pool_features,
)
from ferkit.embedder.settings import Embedder, resize_crops

SAMPLE = 1500
"""Crops that are enough to rank the stages."""

MOST_JOINED = 4
"""Layers that a join has at most."""

_WORTH = 0.005
"""Accuracy that one more layer has to bring to be worth its numbers."""

_FOLDS = 3
_COMPONENTS = 128
_BATCH = 16


@dataclass(frozen=True)
class LayerScore:
    """How good one tap is.

    Attributes:
        tap: the place.
        dim: how many numbers an embedding has there.
        accuracy: mean over the folds, 0..1, of a linear head on at most 128 principal components.
        spread: standard deviation over the folds.
        images_per_s: with the network cut there.
    """

    tap: Layer
    dim: int
    accuracy: float
    spread: float
    images_per_s: float


def find_best_layer(
    embedder: Embedder,
    crops: np.ndarray,
    y: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> list[LayerScore]:
    """Every stage of a network, its last layer and some joins, the best first, by cross-validation on a sample.

    The network runs once over the crops and gives all stages at a time. Each is judged by a scaler, principal
    components and a logistic regression, in three folds that share no group. Then the best is joined with the
    layer that helps it most, and so on for as long as that brings half a percent.

    Args:
        embedder: an open network, with or without a tap of its own.
        crops: uint8 RGB (n, H, W, 3); of more than :data:`SAMPLE` that many are drawn, classes in proportion.
        y: class of each crop; classes with fewer than three crops are left out.
        groups: who is shown on each crop, so that nobody is on both sides of a fold; None if unknown.
        seed: of the sample and the folds.
        threads: how many work on one batch; None takes every core.

    Raises:
        DataError: no network, or not two classes with three crops each.
    """
    weights = embedder.weights_path
    if not isinstance(embedder, NetworkEmbedder) or weights is None:
        raise DataError(f"{embedder.name} is no network to look into; leave --tap out")
    labels, persons = np.asarray(y), None if groups is None else np.asarray(groups)
    keep = _sample(labels, seed)
    labels, persons = labels[keep], None if persons is None else persons[keep]
    splits = _folds(labels, persons, seed)
    model = load_graph(weights)
    taps = list_layers(model, embedder.input_size_wh)
    alone, joinable = _all_features(embedder, model, taps, crops[keep], threads)

    rates = [_images_per_s(embedder, weights, tap, threads) for tap in taps]

    def score(chosen: list[int], X: np.ndarray) -> LayerScore:
        tap = taps[chosen[0]]
        if len(chosen) > 1:
            tensors = JOIN.join(taps[i].tensor for i in chosen)
            tap = Layer(JOIN.join(taps[i].name for i in chosen), tensors, X.shape[1:])
        accuracy = _cross_validated(X, labels, splits, seed)
        # The network is cut behind the last of them.
        rate = min(rates[i] for i in chosen)
        return LayerScore(tap, X.shape[1], float(accuracy.mean()), float(accuracy.std()), rate)

    scores = [score([i], X) for i, X in enumerate(alone)]
    best = max(scores, key=lambda found: found.accuracy)
    chosen = [scores.index(best)]
    while len(chosen) < min(MOST_JOINED, len(taps)):
        joins = [sorted([*chosen, other]) for other in range(len(taps)) if other not in chosen]
        tried = [score(join, np.concatenate([joinable[i] for i in join], axis=1)) for join in joins]
        scores += tried
        found = max(tried, key=lambda found: found.accuracy)
        if found.accuracy < best.accuracy + _WORTH:
            break
        best, chosen = found, joins[tried.index(found)]
    # A join stands behind a single layer that does as well.
    return sorted(scores, key=lambda found: (-found.accuracy, found.dim))


def _sample(labels: np.ndarray, seed: int) -> np.ndarray:
    """Positions of at most :data:`SAMPLE` crops, of each class its share and at least three."""
    classes, counts = np.unique(labels, return_counts=True)
    usable = [(cls, n) for cls, n in zip(classes, counts, strict=True) if n >= _FOLDS]
    if len(usable) < 2:
        raise DataError(
            f"expected at least two classes with {_FOLDS} images each to find the best tap, "
            f"found {len(usable)}; name a tap, or leave --tap out"
        )
    random = np.random.default_rng(seed)
    share = min(1.0, SAMPLE / sum(n for _, n in usable))
    drawn = [
        random.choice(np.flatnonzero(labels == cls), max(_FOLDS, round(share * n)), replace=False)
        for cls, n in usable
    ]
    return np.sort(np.concatenate(drawn))


def _folds(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is not None and len(set(groups)) >= _FOLDS:
        folds: Any = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    else:
        folds, groups = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed), None
    return [
        (train, test) for train, test in folds.split(labels, labels, groups) if len(set(labels[train])) > 1
    ]


def _all_features(
    embedder: NetworkEmbedder, model: Any, taps: list[Layer], crops: np.ndarray, threads: int | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """float32 (n, dim) of every tap, alone and as part of a join, by a network that runs once over the crops."""
    network_format = input_format(model)
    cut(model, [tap.tensor for tap in taps], [tap.tensor for tap in taps if tap.channels_last])
    session = open_session(
        model.SerializeToString(), embedder.name, engines_of(embedder.settings), threads=threads
    )
    runner = BatchRunner(session, network_format, embedder.settings)
    joined_pool_hw = LARGEST_JOINED_POOL, LARGEST_JOINED_POOL
    pools = [tap.default_pool_hw for tap in taps] + [tap.fitting_pool_hw(joined_pool_hw) for tap in taps]
    batches: list[list[np.ndarray]] = []
    for start in range(0, len(crops), _BATCH):
        batch = resize_crops(crops[start : start + _BATCH], embedder.input_size_wh, embedder.resize)
        outputs = runner.run(batch)
        batches.append([pool_features(o, hw) for o, hw in zip([*outputs, *outputs], pools, strict=True)])
    features = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    return features[: len(taps)], features[len(taps) :]


def _cross_validated(
    X: np.ndarray, labels: np.ndarray, splits: list[tuple[np.ndarray, np.ndarray]], seed: int
) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    accuracies = []
    for train, test in splits:
        components = min(_COMPONENTS, X.shape[1], len(train) - 1)
        head = make_pipeline(
            StandardScaler(),
            PCA(components, svd_solver="randomized", whiten=True, random_state=seed),
            LogisticRegression(C=0.01, max_iter=300),
        )
        accuracies.append(head.fit(X[train], labels[train]).score(X[test], labels[test]))
    return np.array(accuracies)


def _images_per_s(embedder: NetworkEmbedder, weights: Path, tap: Layer, threads: int | None) -> float:
    settings = replace(embedder.settings, tap=tap.tensor if tap.name != "last" else None, pool_hw=None)
    opened = open_network(weights, settings, embedder.licence, threads)
    crops = np.zeros((_BATCH, *embedder.input_size_wh[::-1], 3), np.uint8)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        opened.embed(crops)
        seconds.append(time.perf_counter() - start)
    return _BATCH / min(seconds)
