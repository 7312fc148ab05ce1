import copy
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from ferkit.classifiers.finetune import export
from ferkit.classifiers.finetune.export import SUFFIXES, convert_model
from ferkit.classifiers.finetune.networks import build_core, whole_network
from ferkit.classifiers.finetune.recipe import NetworkSettings
from ferkit.classifiers.kinds import NetworkClassifier, save_network_model
from ferkit.classifiers.model import ModelRecord, load_classifier
from ferkit.core.errors import DataError, ModelError
from ferkit.core.labels import LabelSet
from ferkit.datasets.load import load_dataset

SETTINGS = NetworkSettings(backbone="plain", input_size_wh=(32, 24), color="rgb")
LABELS = LabelSet(("angry", "happy", "sad"))
CROPS = np.random.default_rng(0).integers(0, 256, (40, 24, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return whole_network(build_core(SETTINGS, 3), SETTINGS, 3)


@pytest.fixture(scope="module")
def model(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "net"
    files = {"network.onnx": export.to_onnx(network), "network.keras": export.to_keras(network)}
    save_network_model(
        folder, files, ModelRecord(kind="network", labels=LABELS.names, input_size_wh=(32, 24))
    )
    return folder


def test_the_classifier_agrees_with_keras_at_any_batch(network: keras.Model, model: Path) -> None:
    classifier = load_classifier(model)
    assert classifier.input_size_wh == (32, 24)
    assert classifier.labels.names == LABELS.names
    expected = network.predict_on_batch(CROPS.astype(np.float32))
    for n in (1, 31, 40):
        found = classifier.predict_proba(CROPS[:n])
        assert found.dtype == np.float32
        assert found == pytest.approx(expected[:n], abs=1e-5)
        assert found.sum(axis=1) == pytest.approx(np.ones(n), abs=1e-5)
    assert classifier.predict_proba(CROPS[:0]).shape == (0, 3)


def test_flip_is_the_mean_of_both_sides(model: Path) -> None:
    content = (model / "network.onnx").read_bytes()
    plain, flipped = NetworkClassifier(content, LABELS), NetworkClassifier(content, LABELS, flip=True)
    mirrored = np.ascontiguousarray(CROPS[:, :, ::-1])
    both = (plain.predict_proba(CROPS) + plain.predict_proba(mirrored)) / 2
    assert flipped.predict_proba(CROPS) == pytest.approx(both, abs=1e-6)
    assert flipped.predict_proba(mirrored) == pytest.approx(flipped.predict_proba(CROPS), abs=1e-6)


def test_a_sigmoid_column_becomes_two() -> None:
    settings = replace(SETTINGS, output="sigmoid")
    network = whole_network(build_core(settings, 2), settings, 2)
    classifier = NetworkClassifier(export.to_onnx(network), LabelSet(("non-teasing", "teasing")))
    found = classifier.predict_proba(CROPS)
    assert found[:, 1:] == pytest.approx(network.predict_on_batch(CROPS.astype(np.float32)), abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-6)


def test_wrong_crops_labels_and_files_are_refused(model: Path) -> None:
    content = (model / "network.onnx").read_bytes()
    with pytest.raises(DataError, match=r"shape \(n, 24, 32, 3\), found uint8 \(40, 32, 24, 3\)"):
        NetworkClassifier(content, LABELS).predict_proba(CROPS.transpose(0, 2, 1, 3))
    with pytest.raises(DataError, match="found float32"):
        NetworkClassifier(content, LABELS).predict_proba(CROPS.astype(np.float32))
    with pytest.raises(ModelError, match="network of 2 classes, found one of 3"):
        NetworkClassifier(content, LabelSet(("a", "b")))
    with pytest.raises(ModelError, match="cannot be loaded"):
        NetworkClassifier(b"no network", LABELS)
    with pytest.raises(ModelError, match="carries its own weights"):
        load_classifier(model, weights=model / "network.onnx")


def test_classifiers_can_be_copied_and_pickled(model: Path) -> None:
    classifier = load_classifier(model)
    for twin in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert (twin.predict_proba(CROPS) == classifier.predict_proba(CROPS)).all()


def test_an_export_that_differs_is_not_accepted(network: keras.Model) -> None:
    alike = export._exported(network, "x", Path.touch, lambda path, images: np.full((len(images), 3), 1 / 3))
    with pytest.raises(ModelError, match=r"differ by 0\.\d+, more than 0.0001"), alike:
        pass
    fewer = export._exported(network, "x", Path.touch, lambda path, images: np.zeros((len(images), 2)))
    with pytest.raises(ModelError, match=r"expected finite \(5, 3\), found \(5, 2\)"), fewer:
        pass


def test_sums_and_products_outside_layers_survive_an_h5_file(tmp_path: Path) -> None:
    images = keras.Input((24, 32, 3))
    x = keras.layers.LayerNormalization((1, 2, 3), center=False, scale=False)(images)  # as in ferkit2
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    x = keras.layers.ReLU(6.0)(x + 3.0) * (1 / 6)  # as in MobileNetV3
    inner = keras.Model(images, x + keras.layers.Conv2D(4, 1)(images) * x, name="backbone")  # as in ConvNeXt
    outer = keras.Input((24, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inner(outer))
    network = keras.Model(outer, keras.layers.Dense(3, "softmax")(pooled))
    (tmp_path / "network.h5").write_bytes(export.to_keras(network, ".h5"))
    found = keras.saving.load_model(tmp_path / "network.h5", compile=False).predict_on_batch(CROPS[:4] / 255)
    assert found == pytest.approx(network.predict_on_batch(CROPS[:4] / 255), abs=1e-6)


def test_a_converter_that_fails_is_one_sentence_and_its_noise_goes_to_the_log(
    network: keras.Model, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def write(path: Path) -> None:
        os.write(1, b"converting\n")
        os.write(2, b"W0000 loud\n")
        raise KeyError("Einsum\nTraceback (most recent call last)")

    caplog.set_level("INFO", "ferkit")
    failing = export._exported(network, "x.h5", write, lambda path, images: None)
    expected = r"^x\.h5 could not be made of this network \(KeyError: .*\); choose another"
    with pytest.raises(ModelError, match=expected), failing:
        pass
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records] == ["x.h5: converting", "x.h5: W0000 loud"]
    assert all(record.log_only for record in caplog.records)  # type: ignore[attr-defined]


@pytest.mark.parametrize("fmt", [fmt for fmt in SUFFIXES if fmt != "tflite-int8"])
def test_every_format_is_made_from_a_model_folder(model: Path, tmp_path: Path, fmt: str) -> None:
    target = convert_model(model, fmt, tmp_path / f"out.{fmt}")
    assert target.exists()
    assert (target / "saved_model.pb").exists() == (fmt == "saved-model")
    if fmt == "h5":
        expected = load_classifier(model).predict_proba(CROPS)
        found = keras.saving.load_model(target, compile=False).predict_on_batch(CROPS.astype(np.float32))
        assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ModelError, match="exists; choose another place"):
        convert_model(model, fmt, target)


def test_int8_needs_images_and_is_smaller(
    model: Path, tmp_path: Path, write_folder: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match="give --data"):
        convert_model(model, "tflite-int8", tmp_path / "none.tflite")
    dataset = load_dataset(write_folder({"train": {"angry": 30, "happy": 30}}))
    small = convert_model(
        model,
        "tflite-int8",
        tmp_path / "small.tflite",
        dataset=dataset,
    )
    large = convert_model(model, "tflite", tmp_path / "large.tflite")
    assert small.stat().st_size < 0.45 * large.stat().st_size
