"""Make the network that ships with the package from a finished run of ``fer finetune``.

    python benchmarks/ship.py models/edition-one fer2013/
    python benchmarks/model_card.py fer2013/ --store … --fer … --peers …

``fer2013/`` holds train/<emotion>/*.png and test/<emotion>/*.png, the official PublicTest. The first command writes
ferkit/core/bundled/ferkit: one graph with embedding and probabilities, and its Keras twin. The last layer
is fitted anew on the original labels of the training part, since soft labels (votes) shift how often each class is
said, and its temperature on PublicTest. The second measures the result, and writes its card beside it.
ship_first.sh trains and ships in one command.
"""

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from two_outputs import EMBEDDING, LastLayer, Light, with_embedding

from ferkit.classifiers.heads import FittedHead, fit_head, head_settings
from ferkit.classifiers.kinds import PROBABILITIES, NetworkClassifier, save_network_model
from ferkit.classifiers.model import read_model
from ferkit.core.labels import LabelSet
from ferkit.core.weights import NETWORK_KERAS, NETWORK_ONNX, bundled_folder
from ferkit.datasets.load import load_dataset
from ferkit.evaluation.metrics import evaluate

LIGHT = Light(129.5, 54.0)
"""Mean over the training part of FER2013 of an image's mean and of its standard deviation."""

LICENCE = "MIT, as ferkit; trained by this project on FER2013, which was given out for research"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--target", type=Path, default=bundled_folder())
    arguments = parser.parse_args()
    run = read_model(arguments.model)
    network, labels = run.file(NETWORK_ONNX).read_bytes(), run.labels
    (train_crops, train_y), (crops, y) = (part(arguments.data, name) for name in ("train", "test"))
    truth = np.array([labels.names.index(label) for label in y])
    as_trained = with_embedding(network, light=LIGHT)
    X_train, _ = outputs(as_trained, train_crops)
    X, proba = outputs(as_trained, crops)
    head = fit_head(X_train, train_y, head_settings("logistic"))
    layer = as_last_layer(head, labels)
    anew = softmax(X @ layer.matrix + layer.biases)
    temperature = fitted_temperature(anew, truth)
    shipped = with_embedding(network, layer / temperature, LIGHT)
    evaluation = evaluate(y, NetworkClassifier(shipped, labels, threads=1).predict_proba(crops), labels)

    def before(found: np.ndarray) -> dict[str, float]:
        figures = evaluate(y, found, labels, n_resamples=0).figures
        return {name: figures[name].value for name in ("accuracy", "macro_f1", "ece", "log_loss")}

    steps = {
        "one view, as trained": before(NetworkClassifier(network, labels, threads=1).predict_proba(crops)),
        "light and mirror": before(proba),
        "last layer anew": before(anew),
        "temperature": before(tempered(anew, temperature)),
        "temperature of the other half": before(crossed(anew, truth)),
    }
    parts = {name: value for name, value in run.record.parts.items() if name != "flip"}
    record = dataclasses.replace(
        run.record,
        parts={
            **parts,
            "light": dataclasses.asdict(LIGHT),
            "mirrored": True,
            "last_layer": head.settings.to_dict(),
            "temperature": temperature,
            "steps": steps,
        },
        split={**run.record.split, "selected_on": "FER2013 PublicTest"},
        metrics={
            "on": "FER2013 PublicTest",
            **evaluation.to_dict(),
            "training": run.record.metrics.get("validation", {}),
        },
        licence=LICENCE,
    )
    files = {NETWORK_ONNX: shipped, NETWORK_KERAS: keras_twin(run.file(NETWORK_KERAS), layer / temperature)}
    if "history.csv" in run.files:
        files["history.csv"] = run.file("history.csv").read_bytes()
    artifact = save_network_model(arguments.target, files, record, overwrite=True)
    sizes = ", ".join(f"{name} {len(content) / 1e6:.2f} MB" for name, content in files.items())
    print(f"{artifact.folder}: {sizes}; temperature {temperature}")
    for step, figures in steps.items():
        print(f"{step}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    accuracy = evaluation.figures["accuracy"]
    print(f"PublicTest accuracy {accuracy.value:.2%} ({accuracy.low:.1%} to {accuracy.high:.1%})")


def part(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB (n, 48, 48, 3) and labels (n,) of the part train/ or test/."""
    dataset = load_dataset(data)
    samples = [sample for sample in dataset.samples if sample.split == name]
    return np.stack([dataset.read(sample) for sample in samples]), np.array([s.label for s in samples])


def outputs(network: bytes, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and probabilities of all crops."""
    import onnxruntime as ort

    session = ort.InferenceSession(network)
    name = session.get_inputs()[0].name
    found = [
        session.run([EMBEDDING, PROBABILITIES], {name: crops[i : i + 64].astype(np.float32)})
        for i in range(0, len(crops), 64)
    ]
    X, proba = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return X, proba


def as_last_layer(head: FittedHead, labels: LabelSet) -> LastLayer:
    """A logistic head, its scaler included, as one dense layer with the classes in the order of ``labels``."""
    scaler, logistic = head.pipeline.steps[0][1], head.pipeline.steps[-1][1]
    order = [head.classes.index(name) for name in labels.names]
    matrix = logistic.coef_[order].T / scaler.scale_[:, None]
    return LastLayer(matrix, logistic.intercept_[order] - scaler.mean_ @ matrix)


def softmax(logits: np.ndarray) -> np.ndarray:
    odds: Any = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def fitted_temperature(proba: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the least log-loss (Guo et al., 2017)."""
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return float(-np.log(tempered(proba, np.exp(log_t))[np.arange(len(truth)), truth] + 1e-12).mean())

    return round(float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x)), 4)


def tempered(proba: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as they are with the logits divided by ``temperature``."""
    return softmax(np.log(np.maximum(proba.astype(np.float64), 1e-12)) / temperature)


def crossed(proba: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each half with the temperature of the other, so that nothing is judged by what it was fitted on."""
    side = np.random.default_rng(0).random(len(truth)) < 0.5
    found = np.empty_like(proba, np.float64)
    for half in (side, ~side):
        found[half] = tempered(proba[half], fitted_temperature(proba[~half], truth[~half]))
    return found


def keras_twin(path: Path, layer: LastLayer) -> bytes:
    """The Keras network with the same last layer; without mirroring and light, as training wants it."""
    import keras

    network = keras.saving.load_model(path, compile=False)
    network.get_layer("core").get_layer("logits").set_weights([layer.matrix, layer.biases])
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / NETWORK_KERAS
        network.save(twin)
        return twin.read_bytes()


if __name__ == "__main__":
    main()
