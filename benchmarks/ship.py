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
from ferkit.classifiers.finetune.two_outputs import Calibration, Light, with_embedding
from ferkit.datasets.load import load_dataset
from ferkit.evaluation.metrics import evaluate
from ferkit.zoo.shipped import shipped_folder

LIGHT = Light(129.5, 54.0)
"""Mean over the training part of FER2013 of a picture's mean and of its standard deviation."""

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
    raw = NetworkClassifier(with_embedding(network, light=LIGHT), run.labels, threads=1).predict_proba(crops)
    truth = np.array([run.labels.names.index(label) for label in y])
    calibration = fitted(raw, truth)
    shipped = with_embedding(network, calibration, LIGHT)
    classifier = NetworkClassifier(shipped, run.labels, threads=1)
    after = evaluate(y, classifier.predict_proba(crops), run.labels)
    alone = fitted(raw, truth, with_biases=False)
    ways = {"none": raw, "temperature": calibrated(raw, alone), "crossed": crossed(raw, truth)}
    before = {name: evaluate(y, proba, run.labels, n_resamples=0).figures for name, proba in ways.items()}
    about = {
        **dataclasses.asdict(calibration),
        "fitted_on": "FER2013 PublicTest",
        "ece_before": before["none"]["ece"].value,
        "ece_with_temperature_alone": before["temperature"]["ece"].value,
        "temperature_alone": alone.temperature,
        "ece": after.figures["ece"].value,
        "ece_when_fitted_on_the_other_half": before["crossed"]["ece"].value,
        "accuracy_before": before["none"]["accuracy"].value,
        "accuracy_when_fitted_on_the_other_half": before["crossed"]["accuracy"].value,
    }
    parts = {name: value for name, value in run.record.parts.items() if name != "flip"}
    record = dataclasses.replace(
        run.record,
        parts={**parts, "calibration": about, "light": dataclasses.asdict(LIGHT), "mirrored": True},
        split={**run.record.split, "selected_on": "FER2013 PublicTest"},
        metrics={
            "on": "FER2013 PublicTest",
            **after.to_dict(),
            "training": run.metrics.get("validation", {}),
        },
        licence=LICENCE,
    )
    files = {NETWORK_ONNX: shipped, NETWORK_KERAS: keras_twin(run.file(NETWORK_KERAS), calibration)}
    if "history.csv" in run.files:
        files["history.csv"] = run.file("history.csv").read_bytes()
    artifact = save_network_model(arguments.target, files, record, overwrite=True)
    sizes = ", ".join(f"{name} {len(content) / 1e6:.2f} MB" for name, content in files.items())
    print(f"{artifact.folder}: {sizes}")
    accuracy = after.figures["accuracy"]
    print(f"PublicTest accuracy {accuracy.value:.2%} ({accuracy.low:.1%} to {accuracy.high:.1%})")
    print(", ".join(f"{name} {value}" for name, value in about.items()))


def public_test(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB (n, 48, 48, 3) and labels (n,) of the part test/."""
    dataset = load_dataset(data)
    samples = [sample for sample in dataset.samples if sample.split == "test"]
    return np.stack([dataset.read(sample) for sample in samples]), np.array([s.label for s in samples])


def fitted(proba: np.ndarray, truth: np.ndarray, *, with_biases: bool = True) -> Calibration:
    """The calibration with the least log-loss; biases sum to 0."""
    from scipy.optimize import minimize

    k = proba.shape[1]

    def unpacked(values: np.ndarray) -> Calibration:
        biases = values[1:] - values[1:].mean() if with_biases else np.zeros(k)
        return Calibration(float(np.exp(values[0])), tuple(biases.tolist()))

    def loss(values: np.ndarray) -> float:
        found = calibrated(proba, unpacked(values))
        return float(-np.log(found[np.arange(len(truth)), truth] + 1e-12).mean())

    found = minimize(loss, np.zeros(k + 1 if with_biases else 1), method="L-BFGS-B")
    best = unpacked(found.x)
    return Calibration(round(best.temperature, 4), tuple(round(bias, 4) for bias in best.biases))


def calibrated(proba: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Uncalibrated probabilities (n, k) after calibration."""
    logits = np.log(np.maximum(proba.astype(np.float64), 1e-12)) / calibration.temperature
    logits += np.array(calibration.biases)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def crossed(proba: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each half calibrated by the other, so that nothing is judged by what it was fitted on."""
    side = np.random.default_rng(0).random(len(truth)) < 0.5
    found = np.empty_like(proba, np.float64)
    for half in (side, ~side):
        found[half] = calibrated(proba[half], fitted(proba[~half], truth[~half]))
    return found


def keras_twin(path: Path, calibration: Calibration) -> bytes:
    """The Keras network, calibrated; without mirroring and light, as training wants it."""
    import keras

    network = keras.saving.load_model(path, compile=False)
    logits = network.get_layer("core").get_layer("logits")
    matrix, bias = (weights / calibration.temperature for weights in logits.get_weights())
    logits.set_weights([matrix, bias + np.array(calibration.biases)])
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / NETWORK_KERAS
        network.save(twin)
        return twin.read_bytes()


if __name__ == "__main__":
    main()
