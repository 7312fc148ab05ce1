"""ONNX networks of all shapes as embedders."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from networks import GraphBuilder, small_network

from ferkit.core.errors import DataError, FerkitError, SettingsMismatchError, WeightsError
from ferkit.core.files import settings_dict
from ferkit.embedder.embedders import InputOptions, known_backbones, load_embedder, open_embedder
from ferkit.embedder.onnx_network import pool_features
from ferkit.embedder.settings import EmbedderSettings
from ferkit.faces.cropping import fit_to


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), np.uint8)


def reference(path: Path, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": np.ascontiguousarray(values, np.float32)})[0]


def test_channels_last_raw_rgb_is_the_default(tmp_path: Path, crops: np.ndarray) -> None:
    path = small_network(tmp_path / "net.onnx")
    embedder = open_embedder(f"onnx:{path}")
    assert (embedder.input_size_wh, embedder.dim, embedder.resize) == ((32, 24), 8, "stretch")
    assert embedder.settings.backbone == "onnx:net.onnx"
    found = embedder.embed(crops)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(path, crops), rtol=1e-4)
    assert embedder.embed(crops[:0]).shape == (0, 8)


def test_channels_first_bgr_scaled_by_channel(tmp_path: Path, crops: np.ndarray) -> None:
    path = small_network(tmp_path / "net.onnx", channels_first=True)
    options = InputOptions(channels="bgr", scale=(0.5, 0.25, 0.125), offset=(-1, 0, 1))
    found = open_embedder(f"onnx:{path}", options=options).embed(crops)
    values = crops[..., ::-1] * np.float32([0.5, 0.25, 0.125]) + np.float32([-1, 0, 1])
    np.testing.assert_allclose(found, reference(path, values.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_size_is_respected(tmp_path: Path, crops: np.ndarray, batch: int) -> None:
    fixed = open_embedder(f"onnx:{small_network(tmp_path / 'fixed.onnx', batch=batch)}")
    free = open_embedder(f"onnx:{small_network(tmp_path / 'free.onnx')}")
    np.testing.assert_allclose(fixed.embed(crops), free.embed(crops), rtol=1e-4)


def test_one_channel_is_gray(tmp_path: Path, crops: np.ndarray) -> None:
    path = small_network(tmp_path / "net.onnx", n_channels=1)
    embedder = open_embedder(f"onnx:{path}")
    assert embedder.settings.channels == "gray"
    gray = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops])[..., None]
    np.testing.assert_allclose(embedder.embed(crops), reference(path, gray), rtol=1e-4)


def test_a_graph_of_any_size_needs_one(tmp_path: Path, crops: np.ndarray) -> None:
    path = small_network(tmp_path / "net.onnx", size_wh=("w", "h"))
    with pytest.raises(WeightsError, match="say which with --input-size"):
        open_embedder(f"onnx:{path}")
    embedder = open_embedder(f"onnx:{path}", options=InputOptions(size_wh=(64, 48)))
    assert embedder.input_size_wh == (64, 48)
    large = np.stack([fit_to(crop, (64, 48)) for crop in crops])
    np.testing.assert_array_equal(embedder.embed(crops), embedder.embed(large))


def test_settings_survive_json_and_rebuild_the_embedder(tmp_path: Path, crops: np.ndarray) -> None:
    path = small_network(tmp_path / "net.onnx")
    first = open_embedder(
        f"onnx:{path}", layer="stage2", options=InputOptions(scale=1 / 255, offset=(0, 0, -0.5))
    )
    stored = json.loads(json.dumps(settings_dict(first.settings)))
    settings = EmbedderSettings.from_dict(stored)
    assert settings == first.settings
    again = load_embedder(settings, weights=path)
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.embed(crops), first.embed(crops))
    with pytest.raises(SettingsMismatchError, match="unknown moustache; update ferkit"):
        EmbedderSettings.from_dict({**stored, "moustache": True})


def test_other_weights_are_refused(tmp_path: Path) -> None:
    settings = open_embedder(f"onnx:{small_network(tmp_path / 'net.onnx')}").settings
    other = small_network(tmp_path / "other.onnx", dim=9)
    with pytest.raises(
        SettingsMismatchError, match=rf"SHA-256 {settings.weights_sha256}, found .*other\.onnx with"
    ):
        load_embedder(settings, weights=other)


def test_weights_of_a_file_are_also_found_in_the_weights_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path))
    settings = open_embedder(f"onnx:{small_network(tmp_path / 'net.onnx')}").settings
    assert load_embedder(settings).weights_path == tmp_path / "net.onnx"
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(WeightsError, match="put a copy there"):
        load_embedder(settings)


def _no_onnx(path: Path) -> None:
    path.write_text("a text")


def _truncated(path: Path) -> None:
    path.write_bytes(small_network(path).read_bytes()[:1500])


def _vectors_in(path: Path) -> None:
    g = GraphBuilder()
    g.save(path, g.add("Relu", "input"), 4, ["n", 4])


def _unknown_operator(path: Path) -> None:
    model = onnx.load(small_network(path))
    model.graph.node[1].op_type = "Frobnicate"
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: None, "found none; correct the path"),
        (Path.touch, "expected an ONNX network"),
        (_no_onnx, "expected an ONNX network"),
        (_truncated, "expected an ONNX network"),
        (_vectors_in, "four dimensions, found input of shape"),
        (_unknown_operator, "cannot be loaded: .*Frobnicate"),
    ],
)
def test_unusable_files_give_one_sentence(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match=message) as caught:
        open_embedder(f"onnx:{tmp_path / 'net.onnx'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": InputOptions(size_wh=(48, 48))}, "takes 32x24 pixels, the settings say 48x48"),
        ({"options": InputOptions(channels="gray")}, "takes 3 colour channels, the settings say gray"),
        ({"options": InputOptions(scale=(1, 2))}, "expected scale to be one number or 3"),
        ({"pool_hw": (2, 2)}, "leave --pool out"),
        ({"layer": "stage9"}, "layers: stage2 "),
        ({"layer": "stage3", "pool_hw": (9, 9)}, "expected at least 9 rows and columns"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(FerkitError, match=message):
        open_embedder(f"onnx:{small_network(tmp_path / 'net.onnx')}", **arguments)


@pytest.mark.parametrize(
    "wrong", [np.zeros((24, 32, 3), np.uint8), np.zeros((1, 24, 32, 3), np.float32), [[1]]]
)
def test_wrong_crops_are_named(tmp_path: Path, wrong: np.ndarray) -> None:
    embedder = open_embedder(f"onnx:{small_network(tmp_path / 'net.onnx')}")
    for refuses in (embedder, open_embedder("raw")):
        with pytest.raises(DataError, match=r"expected uint8 RGB crops of shape \(n, H, W, 3\), found"):
            refuses.embed(wrong)


def test_every_backbone_has_weights_and_settings() -> None:
    backbones = known_backbones()
    assert set(backbones) == {
        "ferkit", "ferkit2", "arcface", "facenet", "facenet512", "vgg-face", "ghostfacenet", "sface", "openface",
        "deepid", "fbdeepface", "buffalo_l", "mediapipe-landmarks", "mediapipe-blendshapes", "raw",
    }  # fmt: skip
    assert backbones["deepid"].settings.input_size_wh == (47, 55)
    with pytest.raises(DataError, match="no backbone is called 'arcfac'; known: ferkit, ferkit2, arcface"):
        open_embedder("arcfac")
    with pytest.raises(DataError, match="for onnx:FILE"):
        open_embedder("raw", options=InputOptions(scale=2))


def test_raw_sees_gradients_and_not_brightness() -> None:
    embedder = open_embedder("raw")
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None], (1, 64))
    crops = np.stack([np.repeat(image[..., None], 3, axis=2) for image in (ramp, ramp + 100, ramp.T)])
    found = embedder.embed(crops)
    assert found.shape == (3, embedder.dim) == (3, 1568)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 0.2


def test_letterbox_keeps_proportions_and_stretch_fills() -> None:
    wide = np.full((10, 40, 3), 255, np.uint8)
    boxed = fit_to(wide, (20, 21), "letterbox")
    assert boxed.shape == (21, 20, 3)
    assert np.flatnonzero(boxed[:, 0, 0]).tolist() == list(range(8, 13))
    assert fit_to(wide, (20, 21), "stretch").min() == 255
    assert fit_to(np.zeros((1, 300, 3), np.uint8), (20, 20), "letterbox").shape == (20, 20, 3)


def test_pooling_covers_every_cell_also_of_odd_sizes() -> None:
    maps = np.random.default_rng(0).random((2, 3, 10, 14), np.float32)
    halves = pool_features(maps, (5, 7))
    np.testing.assert_allclose(halves, maps.reshape(2, 3, 5, 2, 7, 2).mean((3, 5)).reshape(2, -1), rtol=1e-5)
    thirds = pool_features(maps, (3, 14)).reshape(2, 3, 3, 14)
    np.testing.assert_allclose(thirds[:, :, 0], maps[:, :, 0:4].mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(thirds[:, :, 2], maps[:, :, 6:10].mean(axis=2), rtol=1e-5)
