"""``fer export``: a trained model in another format, or its ONNX file alone."""

from pathlib import Path

import numpy as np

from ferkit.classifiers.finetune.network import NETWORK_KERAS, NETWORK_ONNX
from ferkit.classifiers.model import read_model
from ferkit.core.errors import ModelError
from ferkit.core.files import write_atomically
from ferkit.datasets.dataset import Dataset
from ferkit.faces.cropping import cropping_as_trained
from ferkit.faces.reading import some_crops

FORMATS = ("onnx", "keras", "h5", "saved-model", "tflite", "tflite-int8")
SUFFIXES = {
    "onnx": ".onnx",
    "keras": ".keras",
    "h5": ".h5",
    "saved-model": "",
    "tflite": ".tflite",
    "tflite-int8": ".tflite",
}
CALIBRATION_IMAGES = 200


def convert_model(
    model: Path,
    fmt: str,
    target: Path,
    dataset: Dataset | None = None,
) -> Path:
    """Write the network of ``model`` to ``target``.

    Every format but ``tflite-int8`` gives the network's probabilities; it is compared before it is written.

    Args:
        model: folder of a model that ``fer finetune`` made.
        fmt: one of :data:`FORMATS`.
        target: file, or folder for ``saved-model``, to make.
        dataset: for ``tflite-int8``: images such as the training saw, cropped as they were there.

    Returns:
        ``target``.

    Raises:
        ModelError: the model has no network, the target exists, or the format does not reproduce the network.
        DependencyError: a package that the format needs is not installed.
    """
    found = read_model(model)
    if fmt not in FORMATS:
        raise ModelError(f"expected one of {', '.join(FORMATS)} as format, found {fmt!r}")
    if NETWORK_KERAS not in found.files:
        raise ModelError(f"{model} is of kind {found.kind} and has no Keras network to convert")
    if target.exists():
        raise ModelError(f"{target} exists; choose another place or remove it")
    if fmt in ("onnx", "keras"):
        content = found.file(NETWORK_ONNX if fmt == "onnx" else NETWORK_KERAS).read_bytes()
        write_atomically(target, lambda file: file.write(content))
        return target

    from ferkit.classifiers.finetune.backend import open_keras

    open_keras()
    import keras

    from ferkit.classifiers.finetune import export

    network = keras.saving.load_model(found.file(NETWORK_KERAS), compile=False)
    if fmt == "saved-model":
        export.to_saved_model(network, target)
        return target
    if fmt == "h5":
        content = export.to_keras(network, ".h5")
    elif fmt == "tflite":
        content = export.to_tflite(network)
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
        content = export.to_tflite(network, crops.astype(np.float32))
    write_atomically(target, lambda file: file.write(content))
    return target
