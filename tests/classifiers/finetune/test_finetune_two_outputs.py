"""A run's network becomes one graph with probabilities and embedding, and computes what it promises."""

import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime as ort
import pytest

from ferkit.classifiers.finetune.export import to_onnx
from ferkit.classifiers.finetune.networks import build_core, whole_network
from ferkit.classifiers.finetune.recipe import NetworkSettings
from ferkit.core.errors import ModelError

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
from two_outputs import LastLayer, Light, with_embedding

SETTINGS = NetworkSettings(backbone="plain", input_size_wh=(24, 24))
CROPS = np.random.default_rng(0).uniform(0, 255, (4, 24, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def core() -> keras.Model:
    keras.utils.set_random_seed(0)
    core = build_core(SETTINGS, 3)
    logits = core.get_layer("logits")
    logits.set_weights([logits.get_weights()[0], np.array([0.1, -0.2, 0.1])])  # zeros would be optimised away
    return core


@pytest.fixture(scope="module")
def exported(core: keras.Model) -> bytes:
    return to_onnx(whole_network(core, SETTINGS, 3))


def run(network: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(network)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def features(core: keras.Model, images: np.ndarray) -> np.ndarray:
    gray = images @ np.array([[0.299], [0.587], [0.114]], np.float32)
    return keras.Model(core.input, core.get_layer("features").output).predict_on_batch(gray)


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def test_the_embedding_is_the_mean_of_a_crop_and_its_mirror_image(core: keras.Model, exported: bytes) -> None:
    found = run(with_embedding(exported), CROPS)
    expected = (features(core, CROPS) + features(core, CROPS[:, :, ::-1])) / 2
    assert found["embedding"] == pytest.approx(expected, abs=0.01)  # weights are stored in half precision
    matrix, bias = core.get_layer("logits").get_weights()
    assert found["probabilities"] == pytest.approx(softmax(expected @ matrix + bias), abs=0.005)


def test_another_last_layer_changes_the_probabilities_alone(exported: bytes) -> None:
    plain = run(with_embedding(exported), CROPS)
    random = np.random.default_rng(1)
    layer = LastLayer(random.normal(size=(plain["embedding"].shape[1], 3)), np.array([0.5, 0.0, -0.5]))
    found = run(with_embedding(exported, layer / 2), CROPS)
    assert (plain["embedding"] == found["embedding"]).all()
    expected = softmax((plain["embedding"] @ layer.matrix + layer.biases) / 2)
    assert found["probabilities"] == pytest.approx(expected, abs=0.005)
    with pytest.raises(ModelError, match="expected a last layer of shape"):
        with_embedding(exported, LastLayer(layer.matrix[:5], layer.biases))


def test_light_undoes_dark_and_flat_images(exported: bytes) -> None:
    network = with_embedding(exported, light=Light(128.0, 50.0))
    lit, dark = run(network, CROPS), run(network, CROPS * 0.3 + 20)
    assert dark["probabilities"] == pytest.approx(lit["probabilities"], abs=0.01)
    even = run(network, np.full_like(CROPS, 90))
    assert even["probabilities"] == pytest.approx(
        run(with_embedding(exported), np.full_like(CROPS, 128))["probabilities"], abs=1e-4
    )


def test_a_network_with_another_ending_is_refused() -> None:
    settings = NetworkSettings(backbone="plain", input_size_wh=(24, 24), output="sigmoid")
    network = to_onnx(whole_network(build_core(settings, 2), settings, 2))
    with pytest.raises(ModelError, match="dense layer with biases and a softmax"):
        with_embedding(network)
