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
from ferkit.core.weights import EDITIONS, NETWORK_ONNX, bundled_folder
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import write_dataset
from ferkit.embedder import engines, onnx_graph
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
from ferkit.embedder.settings import Embedder, EmbedderSettings
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


def test_auto_takes_accelerators_first_then_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available_devices", lambda: ["cuda", "openvino", "cpu"])
    monkeypatch.setattr(engines, "has_bfloat16", lambda: True)
    assert resolve_engines() == [Engine("cuda"), FLOAT32, CPU]
    assert resolve_engines("auto", "int8") == [Engine("openvino", "int8"), Engine("onnxruntime", "int8")]
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


def test_a_model_of_its_own_is_opened_without_openvino_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available_devices", lambda: ["cuda", "openvino", "cpu"])
    assert requested_engines() == [Engine("cuda"), CPU]
    with requested_engine("auto"):
        assert requested_engines() == [Engine("cuda"), FLOAT32, CPU]
    with pytest.raises(DependencyError), requested_engine("tensorrt"):
        pass
    assert requested_engines() == [Engine("cuda"), CPU]  # also after a refusal


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
    old = {
        "backbone": "ferkit", "weights_sha256": "00", "input_size_wh": [48, 48], "channels": "rgb", "scale": 1.0,
        "offset": 0.0, "resize": "stretch", "l2_normalize": False, "tap": None, "pool_hw": None,
    }  # fmt: skip
    assert settings_dict(settings) == old
    assert fingerprint(settings) == fingerprint(old)
    assert EmbedderSettings.from_dict(old) == settings
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


@needs_openvino
def test_openvino_reads_the_networks_that_come_along_in_batches_of_any_size() -> None:
    # Not so in the graphs as they are: some constants have to be computed, and OpenVINO then errs in small batches.
    crops = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)
    for name in EDITIONS:
        exact, embedder = (open_embedder(name, engines=[engine]) for engine in (CPU, FLOAT32))
        for n in (1, 2, 5):
            assert cosines(exact.embed(crops[:n]), embedder.embed(crops[:n])).min() > 0.9999


@needs_openvino
def test_an_engine_that_computes_something_else_is_passed_over(
    network: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(engines, "WORKS_COSINE", 1.1)
    assert open_session(network, "net.onnx", [FLOAT32, CPU]).engine == CPU
    assert "OpenVINO, float32 cannot (its " in caplog.text


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    write_dataset(tmp_path / "faces", n_per_class=2, n_persons=3, size=32, seed=0, splits={"train": 1.0})
    return load_dataset(tmp_path / "faces")


def opened(dataset: Dataset, network: Path, **engine: str) -> Embedder:
    options = StoreOptions(dataset.root.parent / "cache")
    return open_for_store(f"onnx:{network}", dataset, Cropping.ask("none"), options, **engine)


def embedded(dataset: Dataset, network: Path, **engine: str) -> EmbeddingStore:
    options = StoreOptions(dataset.root.parent / "cache", rows_per_shard=5, batch_size=2)
    return embed_dataset(dataset, opened(dataset, network, **engine), Cropping.ask("none"), options)[0]


@needs_openvino
def test_embeddings_too_far_from_float32_are_refused_and_by_auto_made_otherwise(
    dataset: Dataset, network: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("ferkit.embedder.extract.LEAST_COSINE", 1.1)
    with pytest.raises(DataError, match=r"at least 1.1 .* take float32"):
        opened(dataset, network, device="openvino")
    assert opened(dataset, network).settings.engine == "onnxruntime"
    assert "at least 1.1" in caplog.text
    assert "ONNX Runtime, float32 is taken" in caplog.text
    monkeypatch.setattr("ferkit.embedder.extract.INT8_COSINE", 1.1)
    with pytest.raises(DataError, match=r"int8 with a cosine of at least 1.1"):
        opened(dataset, network, precision="int8")


@pytest.mark.parametrize("device", available_devices())
def test_int8_is_calibrated_on_the_images_and_stands_in_the_settings(
    dataset: Dataset, network: Path, device: str
) -> None:
    store = embedded(dataset, network, device=device, precision="int8")
    settings = store.settings.embedder
    assert settings.precision == "int8"
    assert settings.ranges
    assert 0.98 < store.view().cosine < 1
    X = store.load().X
    crops = np.stack([dataset.read(sample) for sample in dataset.samples])
    assert np.array_equal(load_embedder(settings, weights=network).embed(crops[:2]), X[:2])
    # With other images it would have other ranges: the embeddings that there are decide.
    more = dataset.subset(dataset.samples[:3])
    assert opened(more, network).fingerprint == fingerprint(settings)
    assert EmbeddingStore.open(store.folder).settings == store.settings


def test_int8_needs_images(network: Path) -> None:
    with pytest.raises(WeightsError, match="int8 is calibrated on images"):
        open_embedder(f"onnx:{network}", engines=[Engine("onnxruntime", "int8")])


@pytest.mark.parametrize("device", available_devices())
def test_a_resumed_run_writes_the_same_bytes_by_every_engine(
    dataset: Dataset, network: Path, device: str
) -> None:
    def shards(store: EmbeddingStore) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in store.folder.glob("shard-*")}

    store = embedded(dataset, network, device=device)
    whole = shards(store)
    assert len(whole) == 2 * 3
    for shard in store.shards()[1:]:
        shard.remove()
    assert shards(embedded(dataset, network, device=device)) == whole


@needs_openvino
def test_a_store_goes_on_with_what_made_it(dataset: Dataset, network: Path) -> None:
    plain = embedded(dataset, network, device="cpu")
    assert plain.view().cosine is None
    assert embedded(dataset, network).folder == plain.folder  # the first one decides
    other = embedded(dataset, network, device="openvino")
    assert other.folder != plain.folder
    assert other.view().cosine == pytest.approx(1, abs=1e-6)
    assert embedded(dataset, network, device="cpu").folder == plain.folder
    assert embedded(dataset, network, device="openvino").view().cosine is not None


@needs_openvino
def test_auto_makes_first_embeddings_by_openvino(dataset: Dataset, network: Path) -> None:
    store = embedded(dataset, network)
    assert (store.settings.embedder.engine, store.settings.embedder.precision) == ("openvino", "float32")


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


def test_what_is_kept_of_a_graph_gives_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_folder", lambda: tmp_path)
    content = (bundled_folder() / NETWORK_ONNX).read_bytes()
    crops = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8).astype(np.float32)

    def run() -> np.ndarray:
        session = open_session(content, "net.onnx")
        return session.run(None, {session.inputs[0].name: crops})[0]

    first = run()
    (kept,) = tmp_path.glob("*.onnx")
    made = kept.stat().st_ino
    assert np.array_equal(run(), first)
    assert kept.stat().st_ino == made
    kept.write_bytes(kept.read_bytes()[:1000])  # whatever became of it
    assert np.array_equal(run(), first)
    monkeypatch.setattr(onnx_graph, "processor", lambda: "another")
    monkeypatch.setattr(engines, "processor", lambda: "another")
    monkeypatch.setattr(onnx_graph, "CACHE_BYTES", 1)
    assert np.array_equal(run(), first)
    assert not list(tmp_path.iterdir())  # the oldest goes where there is too much
