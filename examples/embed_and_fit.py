"""The embedding path from Python: drawn faces in, a saved classifier and its figures out.

    python examples/embed_and_fit.py work/

Replace `write_dataset` by a folder of your own, and "raw" by "arcface" or "onnx:FILE".
"""

import sys
from pathlib import Path

import numpy as np

from ferkit import load_classifier, load_dataset, open_embedder
from ferkit.classifiers.heads import head_settings
from ferkit.datasets.split import SplitSettings
from ferkit.datasets.synthetic import write_dataset
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.evaluation.evaluate_model import fit_held_out, save_fit
from ferkit.evaluation.report.page import format_report
from ferkit.faces.cropping import Cropping


def main(work: Path) -> None:
    if not (work / "faces").exists():
        write_dataset(work / "faces", n_per_class=40, n_persons=20)
    dataset = load_dataset(work / "faces", person_pattern=r"^(p\d+)_")

    embedder = open_embedder("raw")
    store, summary = embed_dataset(dataset, embedder, Cropping.ask("none"), StoreOptions(root=work / "cache"))
    print(f"{summary.n_done} embedded, {summary.n_kept} were there, {len(summary.failures)} failed")

    table = store.load()
    fitted = fit_held_out(table, head_settings("logistic", C=0.01), SplitSettings(test_size=0.25))
    print(format_report(fitted.evaluation))
    save_fit(work / "models" / "logistic", fitted, store, table, overwrite=True)

    classifier = load_classifier(work / "models" / "logistic")
    crops = np.stack([dataset.read(sample) for sample in dataset.samples[:3]])
    for sample, proba in zip(dataset.samples, classifier.predict_proba(crops), strict=False):
        print(f"{sample.path}: {classifier.labels.names[proba.argmax()]} ({proba.max():.0%})")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))
