"""Engines: what is offered, what falls back, and that every engine gives the same embeddings."""

import dataclasses
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from networks import small_network

from ferkit.core.errors import DataError, DependencyError, WeightsError
from ferkit.core.files import fingerprint, settings_dict
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import write_dataset
from ferkit.embedder import engines
from ferkit.embedder.embedders import load_embedder, open_embedder
from ferkit.embedder.engines import (
    CPU,
    Engine,
    available_devices,
    cosines,
    open_session,
    requested_engine,
    requested_engines,
    resolve_engines,
)
from ferkit.embedder.extract import StoreOptions, embed_dataset, open_for_store
from ferkit.embedder.settings import EmbedderSettings
from ferkit.embedder.store import EmbeddingStore
from ferkit.faces.cropping import Cropping

needs_openvino = pytest.mark.skipif(
    "openvino" not in available_devices(), reason="needs the extra 'openvino'"
)
FLOAT32, BFLOAT16 = Engine("openvino"), Engine("openvino", "bfloat16")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return small_network(tmp_path / "net.onnx")


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def test_a_device_that_is_not_here_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available_devices", lambda: ["cpu"])
    with pytest.raises(DependencyError, match=r"cuda is not offered here, only cpu; .*onnxruntime-gpu"):
        resolve_engines("cuda:1")
    with pytest.raises(DependencyError, match=r"expected a device of auto, cpu, .* found gpu"):
        resolve_engines("gpu")
    with pytest.raises(DependencyError, match=r"expected a precision of auto, .* found half"):
        resolve_engines("cpu", "half")
    with pytest.raises(DependencyError, match="bfloat16 cannot be run by cpu here; it needs OpenVINO"):
        resolve_engines("auto", "bfloat16")


def test_auto_takes_accelerators_first_and_openvino_only_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "available_devices", lambda: ["cuda", "openvino", "cpu"])
    monkeypatch.setattr(engines, "has_bfloat16", lambda: True)
    assert resolve_engines() == [Engine("cuda"), CPU]
    assert resolve_engines("auto", "bfloat16") == [BFLOAT16]
    assert resolve_engines("auto", "auto") == [Engine("cuda", "float16"), BFLOAT16, CPU]
    assert resolve_engines("cuda:1") == [Engine("cuda", index=1)]
    monkeypatch.setattr(engines, "has_bfloat16", lambda: False)
    assert resolve_engines("openvino", "auto") == [FLOAT32]


def test_what_a_command_asks_for_holds_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested_engines(own=FLOAT32) == [FLOAT32]
    with requested_engine("cpu"):
        assert requested_engines(own=FLOAT32) == [CPU]
    assert requested_engines(own=FLOAT32) == [FLOAT32]
    monkeypatch.setenv("FER_DEVICE", "cpu")
    assert requested_engines(own=FLOAT32) == [CPU]


def test_an_engine_that_fails_is_passed_over_in_one_sentence(
    network: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    # A provider that the wheel offers and whose library is not there, as on a machine without a graphics card.
    monkeypatch.setattr(engines, "available_devices", lambda: ["cuda", "cpu"])
    session = open_session(network, "net.onnx", [Engine("cuda"), CPU])
    assert session.engine == CPU
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "net.onnx is run by ONNX Runtime, float32: ONNX Runtime on cuda, float32 cannot ("
    )
    with pytest.raises(WeightsError, match=r"net.onnx cannot be loaded by ONNX Runtime on cuda"):
        open_session(network, "net.onnx", Engine("cuda"))


def test_settings_of_0_1_keep_their_digest_and_others_have_their_own() -> None:
    settings = EmbedderSettings("ferkit", "00", (48, 48))
    old = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("engine", "precision")}
    assert settings_dict(settings) == json.loads(json.dumps(old))
    assert fingerprint(settings) == fingerprint(old)
    assert EmbedderSettings.from_dict(json.loads(json.dumps(old))) == settings
    other = dataclasses.replace(settings, engine="openvino", precision="bfloat16")
    assert fingerprint(other) != fingerprint(settings)
    assert EmbedderSettings.from_dict(json.loads(json.dumps(settings_dict(other)))) == other


def test_cosines() -> None:
    a = np.array([[1.0, 0], [0, 0], [1, 1], [0, 0]])
    b = np.array([[2.0, 0], [0, 0], [1, -1], [1, 0]])
    assert cosines(a, b).tolist() == [1, 1, 0, 0]


@needs_openvino
def test_openvino_gives_what_onnx_runtime_gives_from_any_thread(network: Path, crops: np.ndarray) -> None:
    exact = open_embedder(f"onnx:{network}", engines=[CPU])
    embedder = open_embedder(f"onnx:{network}", engines=[FLOAT32])
    assert (embedder.settings.engine, embedder.settings.precision) == ("openvino", "float32")
    assert embedder.fingerprint != exact.fingerprint
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: embedder.embed(crops[: i + 1])}))
        for i in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(5):
        np.testing.assert_allclose(found[i], exact.embed(crops[: i + 1]), rtol=1e-3, atol=1e-4)
    assert embedder.cosine == pytest.approx(1, abs=1e-6)


@needs_openvino
def test_a_precision_that_is_too_coarse_is_refused(
    network: Path, crops: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferkit.embedder.onnx_network.LEAST_COSINE", 1.1)
    with pytest.raises(DataError, match=r"at least 1.1 .* take float32"):
        open_embedder(f"onnx:{network}", engines=[FLOAT32]).embed(crops)


@needs_openvino
def test_a_store_goes_on_with_what_made_it(tmp_path: Path, network: Path) -> None:
    write_dataset(tmp_path / "faces", n_per_class=2, n_persons=3, size=32, seed=0, splits={"train": 1.0})
    dataset = load_dataset(tmp_path / "faces")

    def embed(device: str | None = None, precision: str | None = None) -> EmbeddingStore:
        embedder = open_for_store(
            f"onnx:{network}", "faces", tmp_path / "cache", device=device, precision=precision
        )
        return embed_dataset(dataset, embedder, Cropping.ask("none"), StoreOptions(tmp_path / "cache"))[0]

    plain = embed("cpu")
    assert plain.view().cosine is None
    assert embed().folder == plain.folder  # the first one decides
    other = embed("openvino")
    assert other.folder != plain.folder
    assert other.view().cosine == pytest.approx(1, abs=1e-6)
    assert embed("cpu").folder == plain.folder
    assert embed("openvino").folder == other.folder
    assert embed("openvino").view().cosine is not None  # also where nothing was left to do


def test_a_model_says_which_engine_it_took_where_its_own_is_not_here(
    network: Path, crops: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = open_embedder(f"onnx:{network}", engines=[CPU])
    settings = dataclasses.replace(exact.settings, engine="openvino", precision="bfloat16")
    monkeypatch.setattr(engines, "available_devices", lambda: ["cpu"])
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    caplog.set_level(logging.INFO)
    embedder = load_embedder(settings, weights=network)
    assert embedder.engine == CPU
    assert embedder.fingerprint == fingerprint(settings)  # still that of the model's embeddings
    assert "run by ONNX Runtime, float32: OpenVINO, bfloat16 cannot (not installed here" in caplog.text
    assert np.array_equal(embedder.embed(crops), exact.embed(crops))


def test_ferkit_opens_sessions_in_one_place() -> None:
    root = Path(engines.__file__).parents[1]
    users = [
        path.name for path in root.rglob("*.py") if "InferenceSession" in path.read_text(encoding="utf-8")
    ]
    assert users == ["engines.py"]
