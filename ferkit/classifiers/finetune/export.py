"""Export a fine-tuned network to Keras, SavedModel, TFLite and ONNX, and check the result."""

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ferkit.classifiers.finetune.networks import of_keras_layers
from ferkit.classifiers.model import read_model
from ferkit.core.console import native_output_to_log
from ferkit.core.errors import DependencyError, FerkitError, ModelError
from ferkit.core.files import write_atomically
from ferkit.core.weights import NETWORK_KERAS, NETWORK_ONNX
from ferkit.datasets.dataset import Dataset
from ferkit.embedder.engines import open_session
from ferkit.faces.cropping import cropping_as_trained
from ferkit.faces.reading import some_crops

logger = logging.getLogger(__name__)

SUFFIXES = {
    "onnx": ".onnx",
    "keras": ".keras",
    "h5": ".h5",
    "saved-model": "",
    "tflite": ".tflite",
    "tflite-int8": ".tflite",
}
"""The formats, and how their files end."""

CALIBRATION_IMAGES = 200


def convert_model(model: Path, fmt: str, target: Path, dataset: Dataset | None = None) -> Path:
    """Write the network of ``model`` to ``target``.

    Every format but ``tflite-int8`` gives the network's probabilities: what was written is read back and compared
    before it is moved to ``target``.

    Args:
        model: folder of a model that ``fer finetune`` made.
        fmt: one of :data:`SUFFIXES`.
        target: file, or folder for ``saved-model``, to make.
        dataset: for ``tflite-int8``: images such as the training saw, cropped as they were there.

    Returns:
        ``target``.

    Raises:
        ModelError: the model has no network, the target exists, or the format does not reproduce the network.
        DependencyError: a package that the format needs is not installed.
    """
    found = read_model(model)
    wanted = NETWORK_ONNX if fmt == "onnx" else NETWORK_KERAS
    if wanted not in found.files:
        instead = "; take --format onnx" if NETWORK_ONNX in found.files else ""
        raise ModelError(f"{model} is of kind {found.kind} and has no Keras network to convert{instead}")
    if target.exists():
        raise ModelError(f"{target} exists; choose another place or remove it")
    if fmt in ("onnx", "keras"):
        content = found.file(wanted).read_bytes()
        write_atomically(target, lambda file: file.write(content))
        return target

    network = keras.saving.load_model(found.file(NETWORK_KERAS), compile=False)
    if fmt == "saved-model":
        to_saved_model(network, target)
        return target
    if fmt == "h5":
        content = to_keras(network, ".h5")
    elif fmt == "tflite":
        content = to_tflite(network)
    else:
        if dataset is None:
            raise ModelError(
                "tflite-int8 needs images to find its ranges by; give --data with some of the training's"
            )
        spread = np.unique(np.linspace(0, len(dataset) - 1, CALIBRATION_IMAGES).astype(int))
        cropper = cropping_as_trained(found.crops, dataset=dataset).cropper(found)
        images = some_crops(dataset.source, (dataset.samples[i] for i in spread), cropper, CALIBRATION_IMAGES)
        if not images:
            raise ModelError(f"none of the images of {dataset.root} can be read")
        crops = np.concatenate([image.found.rgb for image in images])
        content = to_tflite(network, crops.astype(np.float32))
    write_atomically(target, lambda file: file.write(content))
    return target


TOLERANCE = 1e-4
"""Largest difference of a probability that counts as rounding, for float formats."""


def to_keras(network: keras.Model, suffix: str = ".keras") -> bytes:
    """The ``.keras`` file of a network, or the older ``.h5``, which TensorFlow 2 reads; read back and compared.

    Raises:
        ModelError: what was read back gives other probabilities.
    """

    def run(path: Path, images: np.ndarray) -> np.ndarray:
        return np.asarray(keras.saving.load_model(path, compile=False).predict_on_batch(images))

    saved = of_keras_layers(network) if suffix == ".h5" else network
    with _exported(network, f"network{suffix}", lambda path: saved.save(path), run) as path:
        return path.read_bytes()


def to_onnx(network: keras.Model) -> bytes:
    """The ``.onnx`` file, for any number of images at once. Raises like :func:`to_keras`."""

    def write(path: Path) -> None:
        # A failed optimisation is logged with its traceback; the graph is whole all the same, and compared
        # below.
        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                network.export(path, format="onnx", verbose=False)
        except ImportError as error:
            package = {"jax": "jax2onnx", "torch": "onnxscript"}.get(keras.backend.backend(), "tf2onnx")
            raise DependencyError(
                f"the export to ONNX needs one package more ({error}); pip install {package}, and run the same "
                "command again"
            ) from None

    def run(path: Path, images: np.ndarray) -> np.ndarray:
        session = open_session(path.read_bytes(), path.name, error=ModelError)
        return session.run(None, {session.inputs[0].name: images})[0]

    with _exported(network, "network.onnx", write, run) as path:
        return path.read_bytes()


def to_tflite(network: keras.Model, calibration: np.ndarray | None = None) -> bytes:
    """A LiteRT file; with ``calibration`` images, float32 (n, H, W, 3) of 0..255, its weights and sums are
    int8.

    Input and output stay float32. An int8 network is no copy: it is accepted if it chooses the same class
    for nine of ten calibration images.

    Raises:
        DependencyError: TensorFlow is not installed.
        ModelError: the file gives other results.
    """
    tf = _tensorflow("TFLite files")

    def write(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            network.export(folder, format="tf_saved_model", verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            if calibration is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: ([image[None]] for image in calibration)
            path.write_bytes(converter.convert())

    def run(path: Path, images: np.ndarray) -> np.ndarray:
        interpreter = tf.lite.Interpreter(model_content=path.read_bytes())
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    name = "network.tflite" if calibration is None else "network-int8.tflite"
    with _exported(network, name, write, run, calibration) as path:
        return path.read_bytes()


def to_saved_model(network: keras.Model, folder: Path) -> None:
    """Write a SavedModel folder, for TensorFlow Serving. Raises like :func:`to_tflite`."""
    tf = _tensorflow("SavedModel folders")

    def run(path: Path, images: np.ndarray) -> np.ndarray:
        loaded = tf.saved_model.load(path)  # owns the variables that its function reads
        return np.asarray(loaded.serve(images).numpy())

    def write(path: Path) -> None:
        network.export(path, format="tf_saved_model", verbose=False)

    with _exported(network, "saved-model", write, run) as path:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, folder)


def _tensorflow(what: str) -> Any:
    try:
        import tensorflow as tf
    except ImportError:
        raise DependencyError(f"{what} are made by TensorFlow; pip install 'ferkit[train]'") from None
    return tf


@contextlib.contextmanager
def _exported(
    network: keras.Model,
    name: str,
    write: Callable[[Path], object],
    run: Callable[[Path, np.ndarray], Any],
    calibration: np.ndarray | None = None,
) -> Iterator[Path]:
    """A file or folder in a temporary place, written and compared with what is read back."""
    images = _samples(network) if calibration is None else calibration
    # Called once, which Keras wants before it exports; and nothing is compiled for these few images.
    expected = keras.ops.convert_to_numpy(network(images, training=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        try:
            with native_output_to_log(name):
                write(path)
                found = np.asarray(run(path, images))
                alone = found[:1] if calibration is not None else np.asarray(run(path, images[:1]))
        except FerkitError:
            raise
        except Exception as error:  # converters fail in ways of their own
            reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
            raise ModelError(
                f"{name} could not be made of this network ({type(error).__name__}: {reason}); choose another format"
            ) from error
        if calibration is not None:
            _check_choices(expected, found, name)
        else:
            _check(expected, found, name)
            _check(expected[:1], alone, f"{name} for one image")
        yield path


def _samples(network: keras.Model) -> np.ndarray:
    """Noise, a gradient, black, white: all that a layer may treat differently."""
    height, width = network.input_shape[1:3]
    images = np.random.default_rng(0).uniform(0, 255, (5, height, width, 3)).astype(np.float32)
    images[1] = np.linspace(0, 255, width, dtype=np.float32)[None, :, None]
    images[2], images[3] = 0, 255
    return images


def _check(expected: np.ndarray, found: np.ndarray, name: str) -> None:
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise ModelError(
            f"{name} does not reproduce the network: expected finite {expected.shape}, found {found.shape}"
        )
    difference = float(np.abs(found - expected).max())
    if difference > TOLERANCE:
        raise ModelError(
            f"{name} does not reproduce the network: probabilities differ by {difference:.2g}, more than {TOLERANCE}; "
            "try another version of Keras or of the converter"
        )


def _check_choices(expected: np.ndarray, found: np.ndarray, name: str) -> None:
    choose = (lambda p: p[:, 0] > 0.5) if expected.shape[1] == 1 else (lambda p: p.argmax(axis=1))
    same = float((choose(expected) == choose(found)).mean())
    if same < 0.9:
        raise ModelError(
            f"{name} chooses the network's class for only {same:.0%} of {len(expected)} images, expected 90 %; give "
            "more calibration images, or use the float format"
        )
