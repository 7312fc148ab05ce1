"""Requests of every kind that the API's own description allows, and of kinds that it does not."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

schemathesis = pytest.importorskip("schemathesis")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.running import PATIENCE_S, Running, frame, image, running  # noqa: E402

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
JSON = st.dictionaries(
    st.sampled_from(["type", "seconds", "name", "model"]),
    st.one_of(
        st.none(), st.floats(), st.text(max_size=5), st.sampled_from(["neutral", "reset", "model", "start"])
    ),
)
OPERATIONS = [
    ("GET", "/v1/info"),
    ("GET", "/v1/models"),
    ("POST", "/v1/predict"),
    ("POST", "/v1/video"),
    ("GET", "/v1/jobs/{id}"),
    ("DELETE", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}/{file}"),
    ("POST", "/v1/teach"),
    ("GET", "/v1/teach/{id}"),
    ("DELETE", "/v1/teach/{id}"),
    ("POST", "/v1/teach/{id}/examples"),
    ("POST", "/v1/teach/{id}/changes"),
    ("POST", "/v1/teach/{id}/save"),
    ("GET", "/v1/teach/{id}/zip"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
]
FUZZED = [(method, path, GenerationMode.POSITIVE) for method, path in OPERATIONS] + [
    # Nothing is wrong with any other request: paths take every word.
    (method, path, GenerationMode.NEGATIVE)
    for method, path in OPERATIONS
    if method == "POST"
]


@pytest.fixture(scope="module")
def fuzzed(models_dir: Path) -> Iterator[Running]:
    # With a default purpose, so that requests get further than to its absence.
    with running(models_dir, purpose="research", body_timeout_s=1.0) as found:
        yield found


@pytest.fixture(scope="module")
def api(fuzzed: Running) -> Any:
    loaded = schemathesis.openapi.from_dict(fuzzed.http.get("/openapi.json", timeout=PATIENCE_S).json())
    loaded.config.update(base_url=str(fuzzed.http.base_url))
    return loaded


def test_every_operation_of_the_description_is_asked(api: Any) -> None:
    found = [operation.ok() for operation in api.get_all_operations()]
    assert {(o.method.upper(), o.path) for o in found} == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path", "mode"), FUZZED)
def test_no_request_makes_the_server_fail(
    api: Any, fuzzed: Running, method: str, path: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=30 if method == "POST" else 10, deadline=None, derandomize=True, phases=[Phase.generate],
        database=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(api[path][method].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.validate_response(case.call(), checks=CHECKS)

    ask()
    assert fuzzed.metric("ferkit_requests_total", route=path, method=method, status="500") == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_no_damaged_image_makes_the_server_fail(fuzzed: Running, kind: str) -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(image(kind=kind), np.uint8)
    statuses = set()
    for _ in range(8):
        files = []
        for i in range(8):
            damaged = whole[: rng.integers(16, len(whole) + 1)].copy()
            damaged[rng.integers(4, len(damaged), rng.integers(1, 6))] = rng.integers(0, 256)
            files.append(("images", (f"{i}", damaged.tobytes())))
        statuses.add(fuzzed.http.post("/v1/predict", files=files).status_code)
    assert statuses <= {200, 413, 415, 422}


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100), JSON.map(json.dumps)))
def test_no_message_makes_a_stream_fail(fuzzed: Running, message: bytes | str) -> None:
    if isinstance(message, str):
        message = message.encode("utf-8", "replace").decode()
    with fuzzed.stream() as stream:
        stream.send(message)
        with contextlib.suppress(ConnectionClosed):
            stream.send(frame(1, image()))
            while json.loads(stream.recv(PATIENCE_S))["type"] != "result":
                pass
        assert stream.close_code in (None, 4400, 4415, 4422)


def test_nothing_of_all_this_was_a_fault_of_the_server(fuzzed: Running) -> None:
    failed = [
        sample.labels
        for metric in fuzzed.service.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "ferkit_requests_total" and sample.labels["status"].startswith("5")
    ]
    assert failed == []
