"""What an audit finds in FER2013's training part: blank images, copies, flipped labels.

    python benchmarks/audit.py fer2013/ --labels labels.csv --embeddings cache/fer2013--onnx-… --plot audit.png

``fer2013/`` holds train/<emotion>/*.png; ``--embeddings`` (several) are stores of its images; ``--labels`` holds the
ten FER+ votes of each image, which tell whether a doubted label is truly wrong. A share of the labels is flipped to
another class at random, and the labels are ranked by out-of-fold predictions of a head that was fitted on them,
flipped ones and all. Prints Markdown tables.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.audit.checks import Doubts, ImageQualitySettings, LabelSettings, blank_rows, doubt
from ferkit.audit.run import kept_apart
from ferkit.core.style import GRID, INK, MUTED, SERIES
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.duplicates import CopySettings, find_copies
from ferkit.datasets.image_stats import image_stats
from ferkit.datasets.load import load_dataset
from ferkit.embedder.store import EmbeddingStore, EmbeddingTable
from ferkit.evaluation.plots import canvas

FERPLUS = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness", "neutral": "neutral",
    "sad": "sadness", "surprise": "surprise",
}  # fmt: skip
COLOURS = SERIES[:4]


def votes(path: Path, dataset: Dataset) -> list[dict[str, int] | None]:
    """The FER+ votes of each image, by FER+'s class."""
    with path.open(encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    known = [rows.get(sample.path) for sample in dataset.samples]
    return [
        None if row is None
        else {name[8:]: int(n or 0) for name, n in row.items() if name.startswith("ferplus_")}
        for row in known
    ]  # fmt: skip


def flip(y: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels with a share of them changed to another class, and which were."""
    classes, flipped, changed = np.unique(y), rng.random(len(y)) < share, y.copy()
    for i in np.flatnonzero(flipped):
        changed[i] = rng.choice(classes[classes != y[i]])
    return changed, flipped


def table_of(store: EmbeddingStore, dataset: Dataset) -> EmbeddingTable:
    """The store's embeddings of exactly these images, in their order."""
    table = store.load("float16" if store.dim > 2000 else "float32")
    prefix = "" if any(str(path).startswith("train/") for path in table.paths) else "train/"
    at = {prefix + str(path): i for i, path in enumerate(table.paths)}
    return table[np.array([at[sample.path] for sample in dataset.samples])]


def disputed(y: np.ndarray, seen: list[dict[str, int] | None]) -> np.ndarray:
    """Share of FER+'s ten votes that went to the given label; NaN where there are none."""
    return np.array([
        np.nan if one is None or not sum(one.values()) else one[FERPLUS[label]] / sum(one.values())
        for label, one in zip(y, seen, strict=True)
    ])  # fmt: skip


def label_rows(doubts: Doubts, y: np.ndarray, flipped: np.ndarray, agreement: np.ndarray) -> list[str]:
    """Figures of one ranking."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    order = np.argsort(doubts.quality, kind="stable")
    found = np.cumsum(flipped[order])
    n, total = len(order), flipped.sum()
    right = float((doubts.classes[doubts.proba.argmax(axis=1)] == y).mean())
    top = order[: n // 10]
    own = top[~flipped[top]]
    contradicted = np.nanmean(agreement[own] < 0.5)
    everywhere = np.nanmean(agreement[~flipped] < 0.5)
    return [
        f"{right:.1%}",
        f"{found[n // 20 - 1] / total:.1%}",
        f"**{found[n // 10 - 1] / total:.1%}**",
        f"{found[n // 10 - 1] / (n // 10):.1%}",
        f"{average_precision_score(flipped, -doubts.quality):.3f}",
        f"{roc_auc_score(flipped, -doubts.quality):.3f}",
        f"{contradicted:.0%} (of all: {everywhere:.0%})",
        f"{doubts.issue.sum():,}, {flipped[doubts.issue].sum() / total:.0%} of the flips",
    ]


def plot(rankings: dict[str, np.ndarray], file: Path, share: float) -> None:
    """Precision against recall, and how many of the flips the first part of the list holds."""
    figure = canvas(10, 4.6)
    left, right = figure.subplots(1, 2)
    for (name, hits), colour in zip(rankings.items(), COLOURS, strict=False):
        found = np.cumsum(hits)
        n = np.arange(1, len(hits) + 1)
        left.plot(
            found / hits.sum(),
            found / n,
            color=colour,
            label=name.replace("arcface_", "").replace("_112_rgb255_128d", ""),
        )
        right.plot(n / len(hits), found / hits.sum(), color=colour)
    left.axhline(share, color=MUTED, linestyle=":", label="by chance")
    right.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
    right.plot([0, share, 1], [0, 1, 1], color=MUTED, linestyle="--", linewidth=1)
    right.text(share + 0.012, 0.93, "the best\npossible", color=MUTED, fontsize=8, va="top")
    right.axvline(0.1, color=GRID, linewidth=1)
    right.axhline(0.6, color=GRID, linewidth=1)
    left.set_title("Flipped labels: precision against recall", loc="left", color=INK, fontsize=11)
    left.set_xlabel("share of the flips found (recall)", color=MUTED)
    left.set_ylabel("share of the list that is flipped (precision)", color=MUTED)
    left.set(xlim=(0, 1), ylim=(0, 1))
    right.set_title("How far down the list one looks", loc="left", color=INK, fontsize=11)
    right.set_xlabel("share of the list looked at", color=MUTED)
    right.set_ylabel("share of the flips found", color=MUTED)
    right.set(xlim=(0, 0.5), ylim=(0, 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--embeddings", type=Path, nargs="+", required=True)
    parser.add_argument("--heads", nargs="+", default=["logistic"], choices=["logistic", "mlp"])
    parser.add_argument("--flips", type=float, default=0.05)
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()

    whole = load_dataset(arguments.folder)
    dataset = whole.subset([sample for sample in whole.samples if sample.split == "train"])
    options: dict[str, Any] = {"cache_dir": arguments.cache_dir, "workers": arguments.workers}
    seen = image_stats(dataset, **options)
    copies = find_copies(seen, CopySettings(), **options)
    blank = blank_rows(seen, ImageQualitySettings())
    later = copies.first < np.arange(len(copies.first))
    y = np.array([str(sample.label) for sample in dataset.samples])
    groups = copies.groups()
    sizes = np.bincount(groups, minlength=len(y))
    conflicts = sum(len(set(y[groups == g])) > 1 for g in np.flatnonzero(sizes > 1))
    print(
        f"{len(dataset):,} images: {blank.sum()} blank, {later.sum():,} exact copies of earlier ones, "
        f"{len(copies.near):,} near pairs, {(sizes > 1).sum():,} groups of copies, {conflicts:,} of them under "
        "several labels\n"
    )
    crowd = votes(arguments.labels, dataset)
    changed, flipped = flip(y, arguments.flips, np.random.default_rng(arguments.seed))
    agreement = disputed(changed, crowd)
    apart = kept_apart(dataset, copies)
    rankings: dict[str, np.ndarray] = {}
    rows: list[str] = []
    for folder in arguments.embeddings:
        store = EmbeddingStore.open(folder)
        table = table_of(store, dataset)
        tap = store.settings.embedder.layer
        name = store.settings.embedder.backbone.split(":")[-1].split(".")[0] + (f", {tap}" if tap else "")
        noisy = EmbeddingTable(table.X, changed.astype(object), table.paths, table.groups, table.split)
        for head in arguments.heads:
            doubts = doubt(
                noisy, apart, LabelSettings(head=head, seed=arguments.seed), arguments.cache_dir,
            )  # fmt: skip
            rankings[f"{name}: {head}"] = flipped[np.argsort(doubts.quality, kind="stable")]
            rows.append(
                f"| {name} | {head} | {' | '.join(label_rows(doubts, changed, flipped, agreement))} |"
            )
    print(
        f"{flipped.sum():,} labels flipped ({arguments.flips:.0%}):\n\n| features | head | agrees with unseen labels | "
        "flips in the first 5 % | in the first 10 % | precision there | AP | AUC | "
        "others there with less than half of FER+'s votes | called wrong |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    print("\n".join(rows))
    if arguments.plot:
        plot(rankings, arguments.plot, arguments.flips)


if __name__ == "__main__":
    main()
