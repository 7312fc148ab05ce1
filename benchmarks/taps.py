"""What a tap is worth: heads on a face network's last layer and on its inner layers, on FER2013.

    python benchmarks/taps.py fer2013/ onnx:network.onnx --taps last stage4

``fer2013/`` holds train/<emotion>/*.png and test/<emotion>/*.png (the official PublicTest). Prints the Markdown table
of docs/results.md. Embeddings are kept in cache/ and used again.
"""

import argparse
from pathlib import Path

import numpy as np

from ferkit.classifiers.heads import fit_head, head_settings
from ferkit.datasets.load import load_dataset
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.faces.cropping import Cropping


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("--taps", nargs="+", default=["last", "stage4"])
    parser.add_argument("--heads", nargs="+", default=["dummy", "logistic", "mlp", "svm"])
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data)
    columns: dict[str, dict[str, float]] = {}
    for tap in arguments.taps:
        embedder = open_embedder(arguments.backbone, layer=None if tap == "last" else tap)
        options = StoreOptions(root=arguments.cache_dir, dtype=arguments.dtype)
        store, summary = embed_dataset(dataset, embedder, Cropping.ask("none"), options)
        print(f"{tap}: {store.dim} numbers, {summary.n_done} embedded in {summary.seconds:.0f} s")
        table = store.load(arguments.dtype).labelled()
        train, test = np.flatnonzero(table.split == "train"), np.flatnonzero(table.split == "test")
        X_train, X_test = table.X[train], table.X[test]
        columns[tap] = {}
        for kind in arguments.heads:
            head = fit_head(X_train, table.y[train], head_settings(kind, seed=arguments.seed))
            predicted = np.array(head.classes)[head.predict_proba(X_test).argmax(axis=1)]
            accuracy = float((predicted == table.y[test].astype(str)).mean())
            columns[tap][kind] = accuracy
            print(
                f"  {kind}: {accuracy:.2%} of {len(test)}, fitted in {head.seconds:.0f} s; {'; '.join(head.notes)}",
                flush=True,
            )
    print("\n| head | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for kind in arguments.heads:
        print(f"| {kind} | " + " | ".join(f"{column[kind]:.1%}" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
