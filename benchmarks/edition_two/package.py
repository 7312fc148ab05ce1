"""Write the model folder of the second edition from ``network.onnx``, with what it scores on PublicTest.

    python benchmarks/edition_two/package.py fer2013/ models/edition-two/network.onnx

Needs ferkit, not Torch.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx

from ferkit.classifiers.kinds import NetworkClassifier, save_network_model
from ferkit.classifiers.model import ModelRecord
from ferkit.core.labels import LabelSet
from ferkit.core.weights import NETWORK_ONNX, SECOND_EDITION, bundled_folder
from ferkit.datasets.load import load_dataset
from ferkit.evaluation.metrics import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("network", type=Path)
    parser.add_argument("--card", type=Path, help="MODEL_CARD.md to put beside it")
    parser.add_argument("--target", type=Path, default=bundled_folder(SECOND_EDITION))
    arguments = parser.parse_args()
    content = arguments.network.read_bytes()
    facts = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    labels = LabelSet.named("fer2013")
    assert list(labels.names) == facts["labels"].split(",")
    dataset = load_dataset(arguments.data)
    test = [sample for sample in dataset.samples if sample.split == "test"]
    crops, y = (
        np.stack([dataset.read(sample) for sample in test]),
        np.array([sample.label for sample in test]),
    )
    proba = NetworkClassifier(content, labels).predict_proba(crops)
    evaluation = evaluate(y, proba, labels)
    record = ModelRecord(
        kind="network",
        labels=labels.names,
        input_size_wh=(48, 48),
        faces={"detector": "none", "detector_sha256": None, "align": False, "margin": 0.0, "faceless": "whole"},
        parts={"edition": facts["version"], "student": facts["student"]},
        data={"name": "fer2013", "class_counts": dict(sorted(_counts(dataset).items()))},
        split={
            "origin": "given", "train_rows": len(dataset.samples) - len(test), "validation_rows": len(test),
            "selected_on": "FER2013 PublicTest",
        },
        seeds={"run": int(facts["student"].removeprefix("student"))},
        metrics={"on": "FER2013 PublicTest", **evaluation.to_dict()},
        licence=facts["licence"],
    )  # fmt: skip
    files = {NETWORK_ONNX: content}
    if arguments.card:
        files["MODEL_CARD.md"] = arguments.card.read_bytes()
    artifact = save_network_model(arguments.target, files, record, overwrite=True)
    accuracy, ece = evaluation.figures["accuracy"], evaluation.figures["ece"]
    interval = f"({accuracy.low:.1%} to {accuracy.high:.1%})"
    print(f"{artifact.folder}: accuracy {accuracy.value:.2%} {interval}, ECE {ece.value:.3f}")


def _counts(dataset) -> dict[str, int]:  # type: ignore[no-untyped-def]
    train = [sample.label for sample in dataset.samples if sample.split == "train"]
    return {label: train.count(label) for label in set(train)}


if __name__ == "__main__":
    main()
