"""What the shipped network's embedding is worth to other heads and other label sets, on FER2013.

    python benchmarks/transfer.py fer2013/ --store cache/fer2013--onnx-network--1f2e3d4c

``fer2013/`` holds train/<emotion>/*.png, test/<emotion>/*.png (the official PublicTest) and labels.csv with FER+
votes. ``--store`` names embeddings of the same images by another network, to compare with. Three tasks: the seven
classes themselves; positive, neutral and negative; and the eight classes of FER+ (majority of at least five votes)
learnt from 1,000 images, drawn several times. Prints a Markdown table.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from ferkit.classifiers.heads import fit_head, head_settings
from ferkit.core.labels import LabelSet, meaning_of
from ferkit.datasets.load import load_dataset
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.embedder.store import EmbeddingStore, EmbeddingTable
from ferkit.faces.cropping import Cropping

HEADS = {"logistic": {"C": 0.01}, "mlp": {}, "svm": {"exact_rows": 10_000}}
SMALL = 1_000

Results = dict[str, dict[str, dict[str, list[float]]]]


def shipped_table(data: Path, cache: Path) -> EmbeddingTable:
    """Embeddings of the whole of ``data`` by the shipped network."""
    dataset = load_dataset(data)
    store, _ = embed_dataset(dataset, open_embedder("ferkit"), Cropping.ask("none"), StoreOptions(cache))
    return store.load().labelled()


def ferplus_majority(votes: Path) -> dict[str, str]:
    """The class that more than half of the FER+ voters of an image chose; images without one are left out."""
    chosen = {}
    with votes.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            counts = {name: float(row[name] or 0) for name in row if name.startswith("ferplus_")}
            best = max(counts, key=lambda name: counts[name])
            word = meaning_of(best.removeprefix("ferplus_"))
            if sum(counts.values()) >= 5 and 2 * counts[best] > sum(counts.values()):
                chosen[row["path"]] = word
    return {path: word for path, word in chosen.items() if word in LabelSet.named("ferplus").names}


def tasks(table: EmbeddingTable, votes: Path) -> dict[str, np.ndarray]:
    """Labels of all rows in the words of each task; empty where an image has none."""
    seven = table.y.astype(str)
    to_valence = LabelSet.named("fer2013").map_to(LabelSet.named("valence3"))
    valence = np.array([label or "" for label in to_valence.labels(list(seven))])
    majority = ferplus_majority(votes)
    ferplus = np.array([majority.get(path, "") for path in table.paths])
    return {"fer2013": seven, "valence3": valence, "ferplus": ferplus}


def measure(tables: dict[str, EmbeddingTable], votes: Path, draws: int, heads: list[str]) -> Results:
    """Accuracies on PublicTest: task, network, head, one for each draw of training images."""
    results: Results = {}
    for network, table in tables.items():
        for task, y in tasks(table, votes).items():
            train = np.flatnonzero((table.split == "train") & (y != ""))
            test = np.flatnonzero((table.split == "test") & (y != ""))
            for seed in range(draws if task == "ferplus" else 1):
                rows = small_sample(y, train, seed) if task == "ferplus" else train
                for kind in heads:
                    head = fit_head(table.X[rows], y[rows], head_settings(kind, seed=seed, **HEADS[kind]))
                    found = np.array(head.classes)[head.predict_proba(table.X[test]).argmax(axis=1)]
                    accuracy = float((found == y[test]).mean())
                    results.setdefault(task, {}).setdefault(network, {}).setdefault(kind, []).append(accuracy)
                    print(f"{network}, {task}, {kind}: {accuracy:.2%}, {head.seconds:.0f} s", flush=True)
    return results


def small_sample(y: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """:data:`SMALL` rows drawn from ``train``, of each class its share and at least two."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in np.unique(y[train]):
        of_class = train[y[train] == name]
        rows.append(rng.choice(of_class, max(2, round(SMALL * len(of_class) / len(train))), replace=False))
    return np.concatenate(rows)


def markdown(results: Results) -> str:
    """A table with a row for each task and network."""
    about = {
        "fer2013": "7 classes",
        "valence3": "positive, neutral, negative",
        "ferplus": f"FER+, {SMALL:,} images",
    }
    heads = list(next(iter(next(iter(results.values())).values())))
    lines = ["| labels | features | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for task, networks in results.items():
        for network, figures in networks.items():
            lines.append(
                f"| {about[task]} | {network} | " + " | ".join(shown(figures[head]) for head in heads) + " |"
            )
    return "\n".join(lines)


def shown(accuracies: list[float]) -> str:
    """The mean, and the standard deviation over draws."""
    spread = f" ± {np.std(accuracies, ddof=1):.1%}" if len(accuracies) > 1 else ""
    return f"{np.mean(accuracies):.1%}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    tables = {"ferkit": shipped_table(arguments.data, arguments.cache_dir)}
    if arguments.store:
        tables[arguments.store.name.split("--")[1]] = EmbeddingStore.open(arguments.store).load().labelled()
    print(markdown(measure(tables, arguments.data / "labels.csv", arguments.draws, arguments.heads)))


if __name__ == "__main__":
    main()
