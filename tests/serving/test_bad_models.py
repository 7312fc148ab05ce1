"""One bad model must not hurt another."""

import contextlib
import copy
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferkit.classifiers.model import list_models, load_classifier, read_model
from ferkit.cli.main import main
from ferkit.core.errors import FerkitError, ModelError
from tests.inference.tiny_model import write_tiny_model
from tests.serving import bad_models as bad
from tests.serving.running import Running, frame, held, image, running, until
from tests.serving.test_stream import ask, close_code

BROKEN = {
    "no-files": lambda folder: bad.write_record(folder, without(bad.read_values(folder), "files")),
    "no-kind": lambda folder: bad.write_record(folder, without(bad.read_values(folder), "kind")),
    "no-labels": lambda folder: bad.write_record(folder, bad.read_values(folder) | {"labels": 7}),
    "same-labels": lambda folder: bad.write_record(folder, bad.read_values(folder) | {"labels": ["a", "a"]}),
    "odd-faces": lambda folder: bad.write_record(folder, bad.read_values(folder) | {"faces": {"x": 1}}),
    "odd-licence": lambda folder: bad.write_record(folder, bad.read_values(folder) | {"licence": ["MIT"]}),
    "surrogate": lambda folder: bad.write_record(folder, bad.read_values(folder) | {"licence": "\ud800"}),
    "outside": lambda folder: bad.write_record(
        folder, bad.read_values(folder) | {"files": {"../tiny/head.onnx": {"sha256": "0"}}}
    ),
    "null-name": lambda folder: bad.write_record(
        folder, bad.read_values(folder) | {"files": {"a\0b": {"sha256": "0"}}}
    ),
    "no-head": lambda folder: (folder / "head.skops").unlink(),
    "altered": lambda folder: (folder / "head.onnx").write_bytes(b"x"),
    "deep": lambda folder: (folder / "model.json").write_text('{"format": ' + "[" * 100_000),
    "cut": lambda folder: (folder / "model.json").write_text('{"format": 1'),
    "list": lambda folder: (folder / "model.json").write_text("[]"),
    "bytes": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"),
    "no-parts": lambda folder: bad.write_record(folder, bad.read_values(folder) | {"parts": {}}),
    "no-graph": lambda folder: ((folder / "head.onnx").write_bytes(b"no graph"), bad.seal(folder)),
}
AT_OPENING = {"altered", "no-parts", "no-graph"}
"""What shows only when the files are read, or used."""


def without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one good model and many bad ones."""
    folder = tmp_path_factory.mktemp("crowd") / "models"
    write_tiny_model(folder / "tiny")
    for name, harm in BROKEN.items():
        shutil.copytree(folder / "tiny", folder / name)
        harm(folder / name)
    bad.ensemble_model(folder / "members-outside", ["../tiny", "../../models/tiny"])
    bad.ensemble_model(folder / "member-itself", [".", "."])
    bad.network_model(folder / "nan", bad.nan_network())
    bad.network_model(folder / "raw", bad.raw_network())
    bad.network_model(folder / "endless", bad.endless_network(above=-1))
    bad.network_model(folder / "endless-if-bright", bad.endless_network(above=100))
    bad.network_model(folder / "external", bad.raw_network())
    (folder / "external" / "network.onnx").write_bytes(bad.external_network("data.bin"))
    bad.seal(folder / "external")
    return folder


@pytest.fixture(scope="module")
def crowded(crowd: Path) -> Iterator[Running]:
    with running(crowd) as server:
        yield server


def test_bad_models_are_listed_as_broken_and_the_others_work(crowded: Running, crowd: Path) -> None:
    answer = crowded.http.get("/v1/models")
    assert answer.status_code == 200
    listed = {model["name"]: model["broken"] for model in answer.json()["models"]}
    assert listed["tiny"] is listed["ferkit"] is None
    for name in BROKEN.keys() - AT_OPENING | {"altered", "external"}:
        assert listed[name], name
        assert str(crowd) not in listed[name]
        refused = crowded.http.post("/v1/predict", params={"model": name}, content=image())
        assert (refused.status_code, refused.json()["code"]) == (503, "model_unusable"), name
    assert crowded.http.post("/v1/predict", params={"model": "tiny"}, content=image()).status_code == 200


@pytest.mark.parametrize("name", ["no-parts", "no-graph", "members-outside", "member-itself"])
def test_what_cannot_be_opened_is_refused_and_broken_from_then_on(crowded: Running, name: str) -> None:
    refused = crowded.http.post("/v1/predict", params={"model": name}, content=image())
    assert (refused.status_code, refused.json()["code"]) == (503, "model_unusable")
    listed = {model["name"]: model["broken"] for model in crowded.http.get("/v1/models").json()["models"]}
    assert name in listed[name]
    assert crowded.http.post("/v1/predict", content=image()).status_code == 200


def test_what_is_no_probability_is_never_told(crowded: Running) -> None:
    for name in ("nan", "raw"):
        answer = crowded.http.post("/v1/predict", params={"model": name}, content=image())
        assert (answer.status_code, answer.json()["code"]) == (500, "bad_model")
        assert name in answer.json()["message"]
    with crowded.stream(model="raw") as stream:
        said = ask(stream, frame(0, image()))
        assert (said["code"], said["fatal"]) == ("bad_model", True)
        assert close_code(stream) == 4500


def test_a_graph_that_loops_for_ever_ends_with_its_worker(
    crowded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the clock twenty times as long may pass, so that other work on this machine does not count.
    monkeypatch.setattr("ferkit.serving.predict.WORK_S", 1.0)
    monkeypatch.setattr("ferkit.serving.predict.OPEN_S", 2.0)
    monkeypatch.setattr("ferkit.serving.predict.PATIENCE", 20)
    dark, bright = image(30), image(225)
    asked = {"model": "endless-if-bright"}
    assert crowded.http.post("/v1/predict", params=asked, content=dark).status_code == 200
    with crowded.stream() as other:
        for model in ("endless", "endless-if-bright"):
            stuck = crowded.http.post("/v1/predict", params={"model": model}, content=bright, timeout=120)
            assert (stuck.status_code, stuck.json()["code"]) == (503, "model_stuck")
            again = crowded.http.post("/v1/predict", params={"model": model}, content=bright, timeout=60)
            assert (again.status_code, again.json()["code"]) == (503, "model_unusable")
            assert again.headers["Retry-After"]
        assert ask(other, frame(0, dark))["type"] == "result"
    assert crowded.http.post("/v1/predict", content=bright).status_code == 200
    listed = {model["name"]: model["broken"] for model in crowded.http.get("/v1/models").json()["models"]}
    assert "took longer" in listed["endless"]


def test_a_machine_that_is_slow_makes_no_model_a_stuck_one(
    crowded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferkit.serving.predict.WORK_S", 1.0)
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(crowded.http.post("/v1/predict", content=image()).status_code)
    )
    workers = crowded.service.workers.all
    assert until(lambda: not any(worker.n_waiting for worker in workers))
    with held(crowded):
        thread.start()
        assert until(lambda: workers[0].n_waiting == 1)
        time.sleep(1.5)  # longer by the clock than the work may take
    thread.join()
    assert found == [200]


def test_a_model_that_is_mended_or_replaced_works_without_a_restart(crowded: Running, crowd: Path) -> None:
    shutil.copytree(crowd / "cut", crowd / "mended")
    asked = {"params": {"model": "mended"}, "content": image()}
    assert crowded.http.post("/v1/predict", **asked).status_code == 503
    shutil.copy(crowd / "tiny" / "model.json", crowd / "mended" / "model.json")
    assert crowded.http.post("/v1/predict", **asked).status_code == 200


def test_the_command_lists_bad_models_with_their_reasons(crowd: Path) -> None:
    for options in ([], ["--json"]):
        result = CliRunner().invoke(main, ["models", "list", "--models-dir", str(crowd), *options])
        assert result.exit_code == 0, result.output
        for name in BROKEN.keys() - AT_OPENING:
            assert name in result.stdout
        assert "tiny" in result.stdout


def test_external_data_is_refused_wherever_it_is_said_to_lie(tmp_path: Path) -> None:
    elsewhere = tmp_path / "data.bin"
    elsewhere.write_bytes(np.zeros(3, np.float32).tobytes())
    for place in ("data.bin", str(elsewhere), "../data.bin", "network.onnx"):
        folder = bad.network_model(tmp_path / "models" / "net", bad.raw_network())
        (folder / "network.onnx").write_bytes(bad.external_network(place))
        bad.seal(folder)
        with pytest.raises(ModelError, match="other files"):
            load_classifier(folder)
        shutil.rmtree(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(values: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in JSON."""
    if here:
        yield here
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in inner:
        yield from places(value, (*here, key))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_record_makes_the_list_fail_or_opens_as_anything_but_a_model(
    crowd: Path, data: st.DataObject
) -> None:
    folder = crowd.parent / "mutants" / "mutant"
    if not folder.exists():
        shutil.copytree(crowd / "tiny", folder)
        shutil.copytree(crowd / "tiny", folder.parent / "good")
    values = copy.deepcopy(bad.read_values(crowd / "tiny"))
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(list(places(values))))
        inner = values
        for key in way:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[last] = data.draw(JSON)
        else:
            del inner[last]
        if not list(places(values)):
            break
    text = json.dumps(values)
    if data.draw(st.booleans()):
        bad.write_record(folder, values)
    else:
        (folder / "model.json").write_text(text[: data.draw(st.integers(0, len(text)))])
    listed = {entry.name: entry for entry in list_models(folder.parent)}
    assert listed["good"].model is not None
    assert (listed["mutant"].model is None) == bool(listed["mutant"].problem)
    try:
        classifier = load_classifier(folder)
    except FerkitError:
        return
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        return  # the server makes a reason of it
    assert classifier.predict_proba(np.zeros((1, *classifier.input_size_wh[::-1], 3), np.uint8)).shape[0] == 1


def test_a_mutant_does_not_hurt_the_rest_of_the_server(crowded: Running) -> None:
    assert until(lambda: crowded.http.get("/ready").status_code == 200)
    assert crowded.http.post("/v1/predict", content=image()).status_code == 200


@pytest.mark.parametrize("name", ["parts", "head", "embedder", "metrics", "split"])
@pytest.mark.parametrize(
    "value", [3, "x", None, {}, ["a"], {"settings": {"backbone": [], "tap": [], "channels": 3}}]
)
def test_a_record_with_other_things_in_it_is_said_to_be_broken_in_one_line(
    models_dir: Path, tmp_path: Path, name: str, value: object
) -> None:
    """Whoever lists models, and whoever opens this one, gets a sentence."""
    folder = tmp_path / "odd"
    shutil.copytree(models_dir / "tiny", folder)
    values = bad.read_values(folder)
    (values["parts"] if name in ("head", "embedder") else values)[name] = value
    bad.write_record(folder, values)
    listed = CliRunner().invoke(main, ["models", "list", "--models-dir", str(tmp_path)])
    assert (listed.exit_code, "odd" in listed.output) == (0, True)
    with contextlib.suppress(FerkitError):
        read_model(folder).input_size_wh
