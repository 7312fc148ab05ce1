"""The second network that comes along: small, one graph, a longer embedding, and the first beside it."""

from pathlib import Path

import numpy as np
import pytest

from ferkit.classifiers.model import choose_model, load_classifier, read_model
from ferkit.core.errors import ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.weights import (
    BUNDLED,
    EDITIONS,
    NETWORK_ONNX,
    SECOND_EDITION,
    bundled_folder,
    entry_of,
    known_weights,
    verify,
)
from ferkit.embedder.embedders import load_embedder, open_embedder

LARGEST_MB = 8


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    smooth = np.random.default_rng(0).integers(0, 256, (6, 6, 6, 3)).astype(np.uint8)
    return smooth.repeat(8, axis=1).repeat(8, axis=2)


def test_it_is_a_whole_and_small_model_folder_beside_the_first() -> None:
    artifact = read_model(bundled_folder(SECOND_EDITION))
    assert artifact.kind == "network"
    assert artifact.labels == LabelSet.named("fer2013")
    assert {NETWORK_ONNX, "MODEL_CARD.md"} <= set(artifact.files)
    assert (artifact.folder / NETWORK_ONNX).stat().st_size <= LARGEST_MB * 1e6
    assert "FER2013" in artifact.record.licence
    first = read_model(bundled_folder(BUNDLED)).record.metrics
    assert artifact.record.metrics["accuracy"]["value"] > first["accuracy"]["value"] + 0.03
    assert artifact.record.metrics["ece"]["value"] <= 0.03
    assert list(known_weights())[:2] == list(EDITIONS)
    assert {verify(name).hash_known for name in EDITIONS} == {"published"}
    card = (artifact.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{artifact.record.metrics['accuracy']['value']:.1%}" in card


def test_the_graph_says_what_it_is() -> None:
    import onnx

    model = onnx.load(bundled_folder(SECOND_EDITION) / NETWORK_ONNX)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["labels"].split(",") == list(LabelSet.named("fer2013").names)
    assert facts["input_size_wh"] == "48,48"
    assert facts["color"].startswith("RGB")
    assert facts["licence"] == entry_of(SECOND_EDITION).licence
    assert facts["version"] == "2.0"
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "n"


def test_classifier_and_embedder_are_its_two_outputs(crops: np.ndarray) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession((bundled_folder(SECOND_EDITION) / NETWORK_ONNX).read_bytes())
    embedding, proba = session.run(["embedding", "probabilities"], {"images": crops.astype(np.float32)})
    classifier, embedder = load_classifier(bundled_folder(SECOND_EDITION)), open_embedder(SECOND_EDITION)
    assert classifier.predict_proba(crops) == pytest.approx(proba, abs=1e-6)
    assert embedder.embed(crops) == pytest.approx(embedding, abs=1e-4)
    assert embedder.dim == 512
    assert proba.sum(axis=1) == pytest.approx(np.ones(len(crops)), abs=1e-5)
    assert (load_embedder(embedder.settings).embed(crops) == embedder.embed(crops)).all()
    with pytest.raises(ModelError, match="no model is called 'ferkit3'"):
        choose_model("ferkit3", Path("models"))


def test_light_hardly_matters_and_batches_do_not(crops: np.ndarray) -> None:
    classifier = load_classifier(bundled_folder(SECOND_EDITION), threads=1)
    proba = classifier.predict_proba(crops)
    assert classifier.predict_proba((crops * 0.4 + 10).astype(np.uint8)) == pytest.approx(proba, abs=0.05)
    assert classifier.predict_proba(crops[:1]) == pytest.approx(proba[:1], abs=1e-5)
    assert choose_model(SECOND_EDITION, Path("models")).name == SECOND_EDITION


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [("stage2", 64 * 49), ("stage2+stage3+last", (64 + 112) * 16 + 512), ("stage5", 256 * 9)],
)
def test_its_stages_are_layers_and_can_be_joined(crops: np.ndarray, layers: str, numbers: int) -> None:
    embedder = open_embedder(SECOND_EDITION, layer=layers)
    assert embedder.embed(crops).shape == (len(crops), numbers)
    assert (load_embedder(embedder.settings).embed(crops) == embedder.embed(crops)).all()
