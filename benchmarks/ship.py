"""Make the network that ships with the package from a finished run of ``fer finetune``.

    fer finetune fer2013/ --recipe ferkit --labels fer2013 --validate-on test --votes fer2013/labels.csv
    python benchmarks/ship.py models/ferkit fer2013/
    python benchmarks/model_card.py fer2013/

``fer2013/`` holds train/<emotion>/*.png and test/<emotion>/*.png, the official PublicTest. The second command writes
ferkit/zoo/ferkit: one graph with probabilities and embedding, its Keras twin for further training, and the
temperature. The third measures it, and writes its card beside it.
"""

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np

from ferkit.classifiers.artifact import read_model
from ferkit.classifiers.finetune.network import (
    NETWORK_KERAS,
    NETWORK_ONNX,
    NetworkClassifier,
    save_network_model,
)
from ferkit.classifiers.finetune.two_outputs import with_embedding
from ferkit.core.labels import LabelSet
from ferkit.datasets.load import load_dataset
from ferkit.evaluation.metrics import Evaluation, evaluate
from ferkit.zoo.shipped import shipped_folder

LICENCE = "MIT, as ferkit; trained by this project on FER2013, which was given out for research"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--target", type=Path, default=shipped_folder())
    arguments = parser.parse_args()
    run = read_model(arguments.model)
    crops, y = public_test(arguments.data)
    network = run.file(NETWORK_ONNX).read_bytes()
    raw = NetworkClassifier(with_embedding(network), run.labels, threads=1).predict_proba(crops)
    truth = np.array([run.labels.names.index(label) for label in y])
    temperature = fitted_temperature(raw, truth)
    shipped = with_embedding(network, temperature)
    classifier = NetworkClassifier(shipped, run.labels, threads=1)
    before, after = measured(raw, y, run.labels), measured(classifier.predict_proba(crops), y, run.labels)
    calibration = {
        "temperature": temperature,
        "fitted_on": "FER2013 PublicTest",
        "ece_before": before.figures["ece"].value,
        "ece_after": after.figures["ece"].value,
        "ece_after_when_fitted_on_the_other_half": cross_fitted_ece(raw, truth, y, run.labels),
    }
    parts = {name: value for name, value in run.record.parts.items() if name != "flip"}
    record = dataclasses.replace(
        run.record,
        parts={**parts, "calibration": calibration, "mirror": "averaged inside the graph"},
        split={**run.record.split, "selected_on": "FER2013 PublicTest"},
        metrics={
            "on": "FER2013 PublicTest",
            **after.to_dict(),
            "training": run.metrics.get("validation", {}),
        },
        licence=LICENCE,
    )
    files = {NETWORK_ONNX: shipped, NETWORK_KERAS: keras_twin(run.file(NETWORK_KERAS), temperature)}
    if "history.csv" in run.files:
        files["history.csv"] = run.file("history.csv").read_bytes()
    artifact = save_network_model(arguments.target, files, record, overwrite=True)
    sizes = ", ".join(f"{name} {len(content) / 1e6:.2f} MB" for name, content in files.items())
    print(f"{artifact.folder}: {sizes}")
    accuracy = after.figures["accuracy"]
    print(f"PublicTest accuracy {accuracy.value:.2%} ({accuracy.low:.1%} to {accuracy.high:.1%})")
    print(", ".join(f"{name} {value}" for name, value in calibration.items()))


def public_test(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB (n, 48, 48, 3) and labels (n,) of the part test/."""
    dataset = load_dataset(data)
    samples = [sample for sample in dataset.samples if sample.split == "test"]
    return np.stack([dataset.read(sample) for sample in samples]), np.array([s.label for s in samples])


def fitted_temperature(proba: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the least log-loss (Guo et al., 2017)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: -np.log(tempered(proba, np.exp(log_t))[np.arange(len(truth)), truth] + 1e-12).mean(),
        bounds=(-2, 2),
        method="bounded",
    )
    return round(float(np.exp(found.x)), 4)


def tempered(proba: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as they were with the logits divided by ``temperature``."""
    logits = np.log(np.maximum(proba.astype(np.float64), 1e-12)) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def cross_fitted_ece(proba: np.ndarray, truth: np.ndarray, y: np.ndarray, labels: LabelSet) -> float:
    """The calibration error of each half with the temperature of the other, so that none is judged by its own."""
    side = np.random.default_rng(0).random(len(truth)) < 0.5
    scaled = np.empty_like(proba, np.float64)
    for half in (side, ~side):
        scaled[half] = tempered(proba[half], fitted_temperature(proba[~half], truth[~half]))
    return measured(scaled, y, labels).figures["ece"].value


def measured(proba: np.ndarray, y: np.ndarray, labels: LabelSet) -> Evaluation:
    return evaluate(y, proba, labels)


def keras_twin(path: Path, temperature: float) -> bytes:
    """The Keras network with the temperature in its last layer; without mirroring, as training wants it."""
    import keras

    network = keras.saving.load_model(path, compile=False)
    logits = network.get_layer("core").get_layer("logits")
    logits.set_weights([weights / temperature for weights in logits.get_weights()])
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / NETWORK_KERAS
        network.save(twin)
        return twin.read_bytes()


if __name__ == "__main__":
    main()
