"""The network that ships with the package: there, small, repeatable, one graph with two outputs, and good enough."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferkit.classifiers.finetune.recipe import RecipeSettings, from_mapping, load_recipe
from ferkit.classifiers.model import load_classifier, read_model
from ferkit.core.errors import SettingsMismatchError
from ferkit.core.files import file_sha256
from ferkit.core.labels import LabelSet
from ferkit.core.weights import BUNDLED, NETWORK_KERAS, NETWORK_ONNX, bundled_folder, verify, weights_file
from ferkit.embedder.embedders import load_embedder, open_embedder
from ferkit.embedder.onnx_network import list_layers

LARGEST_MB = 8


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    smooth = np.random.default_rng(0).integers(0, 256, (6, 6, 6, 3)).astype(np.uint8)
    return smooth.repeat(8, axis=1).repeat(8, axis=2)


def test_it_is_a_whole_and_small_model_folder() -> None:
    artifact = read_model(bundled_folder())
    assert artifact.kind == "network"
    assert artifact.labels == LabelSet.named("fer2013")
    assert {NETWORK_ONNX, NETWORK_KERAS, "MODEL_CARD.md"} <= set(artifact.files)
    assert sum(path.stat().st_size for path in bundled_folder().iterdir()) <= LARGEST_MB * 1e6
    assert "FER2013" in artifact.record.licence


def test_its_recipe_is_the_one_in_the_package() -> None:
    recipe = from_mapping(RecipeSettings, read_model(bundled_folder()).record.parts["recipe"])
    assert recipe == load_recipe("ferkit")


def test_its_card_is_the_one_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs" / "model-card.md"
    card = (bundled_folder() / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == docs.read_text(encoding="utf-8")
    figures = read_model(bundled_folder()).report
    assert f"{figures['accuracy']['value']:.1%}" in card
    for image in (line.split("(")[1].split(")")[0] for line in card.splitlines() if line.startswith("![")):
        assert (docs.parent / image).is_file()


def test_the_two_outputs_agree_with_classifier_and_embedder(crops: np.ndarray) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession((bundled_folder() / NETWORK_ONNX).read_bytes())
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": crops.astype(np.float32)}), strict=True))
    classifier, embedder = load_classifier(bundled_folder()), open_embedder(BUNDLED)
    assert classifier.predict_proba(crops) == pytest.approx(found["probabilities"], abs=1e-6)
    assert embedder.embed(crops) == pytest.approx(found["embedding"], abs=1e-5)
    assert embedder.dim == 192
    assert found["probabilities"].sum(axis=1) == pytest.approx(np.ones(len(crops)), abs=1e-5)


def test_it_repeats_itself_and_does_not_care_about_mirrors_and_batches(crops: np.ndarray) -> None:
    classifier = load_classifier(bundled_folder(), threads=1)
    proba = classifier.predict_proba(crops)
    assert (load_classifier(bundled_folder(), threads=1).predict_proba(crops) == proba).all()
    assert classifier.predict_proba(np.ascontiguousarray(crops[:, :, ::-1])) == pytest.approx(proba, abs=1e-5)
    assert classifier.predict_proba(crops[:1]) == pytest.approx(proba[:1], abs=1e-5)


def test_light_and_contrast_hardly_matter(crops: np.ndarray) -> None:
    classifier = load_classifier(bundled_folder())
    darker = (crops * 0.4 + 10).astype(np.uint8)
    assert classifier.predict_proba(darker) == pytest.approx(classifier.predict_proba(crops), abs=0.05)


def test_it_is_a_backbone_with_taps_and_a_hash(crops: np.ndarray, tmp_path: Path) -> None:
    import onnx

    embedder = open_embedder(BUNDLED)
    assert embedder.settings.weights_sha256 == file_sha256(weights_file(BUNDLED))
    assert verify(BUNDLED).hash_known == "published"
    assert (load_embedder(embedder.settings).embed(crops) == embedder.embed(crops)).all()
    taps = list_layers(onnx.load(bundled_folder() / NETWORK_ONNX), (48, 48))
    assert taps[-1].tensor == "embedding"
    assert not any("mirrored" in tap.tensor for tap in taps)
    inner = open_embedder(BUNDLED, layer="stage4")
    turned = inner.embed(np.ascontiguousarray(crops[:, :, ::-1]))
    assert turned != pytest.approx(
        inner.embed(crops), abs=0.01
    )  # maps, unlike the embedding, have a left and a right
    other = tmp_path / "other.onnx"
    other.write_bytes(embedder.weights_path.read_bytes() + b"\0")
    with pytest.raises(SettingsMismatchError, match="expected the weights of ferkit"):
        load_embedder(embedder.settings, weights=other)


@pytest.mark.slow
def test_its_keras_twin_says_the_same_and_starts_other_trainings(crops: np.ndarray) -> None:
    keras = pytest.importorskip("keras")
    from ferkit.classifiers.finetune.networks import build_backbone, input_shape
    from ferkit.classifiers.finetune.recipe import NetworkSettings

    twin = keras.saving.load_model(bundled_folder() / NETWORK_KERAS, compile=False)
    light = read_model(bundled_folder()).record.parts["light"]
    gray = crops.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    mean, spread = gray.mean((1, 2)), np.sqrt(gray.var((1, 2)) + 1)
    lit = (crops - mean[:, None, None, None]) * (light["spread"] / spread)[:, None, None, None] + light[
        "mean"
    ]
    logits = [np.log(twin.predict_on_batch(view)) for view in (lit, lit[:, :, ::-1])]
    mean_logits = (
        logits[0] - logits[0].mean(1, keepdims=True) + logits[1] - logits[1].mean(1, keepdims=True)
    ) / 2
    odds = np.exp(mean_logits)
    expected = odds / odds.sum(axis=1, keepdims=True)
    assert load_classifier(bundled_folder()).predict_proba(crops) == pytest.approx(expected, abs=0.01)
    settings = NetworkSettings(backbone=BUNDLED)
    assert input_shape(settings) == (48, 48, 1)
    backbone, preprocessing = build_backbone(settings)
    assert backbone.output_shape[-1] == 192
    assert (preprocessing.scale, preprocessing.offset) == (1 / 64, -2.0)


@pytest.mark.shared
def test_it_is_as_accurate_as_its_card_says(shared: Path) -> None:
    classifier = load_classifier(bundled_folder())
    with zipfile.ZipFile(shared / "data" / "fer2013-train-public.zip") as archive:
        table = next(name for name in archive.namelist() if name.endswith("labels.csv"))
        rows = csv.DictReader(io.TextIOWrapper(archive.open(table), "utf-8"))
        tests = [row for row in rows if row["path"].startswith("test/")][::9]
        root = table.removesuffix("labels.csv")
        images = [Image.open(archive.open(root + row["path"])).convert("RGB") for row in tests]
    y = np.array([row["label"] for row in tests])
    found = np.array(classifier.labels.names)[classifier.predict_proba(np.stack(images)).argmax(axis=1)]
    expected = read_model(bundled_folder()).report["accuracy"]["value"]
    assert len(y) > 350
    assert (found == y).mean() == pytest.approx(expected, abs=0.06)


@pytest.mark.shared
def test_smiles_in_a_photograph_are_happy(shared: Path) -> None:
    from ferkit.classifiers.model import read_model
    from ferkit.faces.cropping import crop_faces, cropping_as_trained
    from ferkit.faces.detectors import open_detector

    model = read_model(bundled_folder())
    weights = shared / "models" / "face_detection_yunet_640.onnx"
    rgb = np.asarray(Image.open(shared / "media" / "selfie-many-people.jpg").convert("RGB"))
    faces = open_detector("yunet", weights).detect(rgb).largest_first()[:3]
    settings = cropping_as_trained(model.crops, "yunet", weights).settings
    found = crop_faces(
        rgb, faces, (48, 48), align=settings.align, margin=settings.margin, resize=model.resize
    )
    proba = model.classifier.predict_proba(found)
    assert [model.labels.names[i] for i in proba.argmax(axis=1)] == ["happy"] * 3


def test_the_wheel_takes_its_files_along() -> None:
    from setuptools import Distribution

    root = Path(__file__).parents[2]
    if not (root / "setup.cfg").is_file():
        pytest.skip("needs the project's source")
    distribution = Distribution({"package_dir": {"": str(root)}})
    distribution.parse_config_files([str(root / "setup.cfg")])
    patterns = distribution.package_data["ferkit.core"]
    taken = {path.name for pattern in patterns for path in (root / "ferkit" / "core").glob(pattern)}
    assert {NETWORK_ONNX, NETWORK_KERAS, "model.json", "MODEL_CARD.md"} <= taken
