"""The page at ``/docs``: the API's description, drawn here, since the usual page is fetched from elsewhere."""

import functools
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).parent / "api.html"

STREAM = (
    ("you", '{"type": "start", "purpose": "personal", "model": null, "token": null, "fps": 10}'),
    ("server", '{"type": "ready", "model": "ferkit", "labels": [{"name", "en", "ko", "color"}, …]}'),
    (
        "you",
        "binary: frame number (uint32, little-endian), time of capture in ms (float64, little-endian), JPEG",
    ),
    (
        "server",
        '{"type": "result", "frame", "captured_ms", "age_ms", "dropped", "width", "height", "neutral_left_s", '
        '"faces": [{"id", "box", "confidence", "quality", "label", "probabilities": […], "raw": […]}, …]}',
    ),
    ("you", '{"type": "neutral", "seconds": 5}'),
    ("you", '{"type": "reset"}'),
    ("you", '{"type": "model", "name": "mlp"}'),
    (
        "server",
        '{"type": "error", "code", "message", "fatal"}; if it is fatal, closed with 4000 + the HTTP status',
    ),
)
"""What is said on ``/v1/stream``, which OpenAPI has no words for."""


@functools.cache
def _template() -> Any:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def api_page(openapi: dict[str, Any]) -> str:
    """HTML of an OpenAPI description; without scripts."""
    operations = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation.get("summary", ""),
            "parameters": operation.get("parameters", []),
            "body": list(operation.get("requestBody", {}).get("content", {})),
            "answers": [
                (status, answer.get("description", ""), _schema_name(answer))
                for status, answer in sorted(operation["responses"].items())
                if status < "400"
            ],
            "refusals": sorted(status for status in operation["responses"] if status >= "400"),
        }
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = {
        name: [
            (field, _type(value), value.get("description", ""))
            for field, value in schema["properties"].items()
        ]
        for name, schema in openapi["components"]["schemas"].items()
        if "properties" in schema
    }
    return str(
        _template().render(info=openapi["info"], operations=operations, schemas=schemas, stream=STREAM)
    )


def _type(value: dict[str, Any]) -> str:
    """A field's type in words."""
    if "anyOf" in value:
        return " or ".join(_type(one) for one in value["anyOf"])
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "additionalProperties" in value:
        return f"object of {_type(value['additionalProperties'])}"
    return (
        f"array of {_type(value['items'])}" if value.get("type") == "array" else str(value.get("type", "any"))
    )


def _schema_name(answer: dict[str, Any]) -> str:
    for content in answer.get("content", {}).values():
        if "$ref" in content.get("schema", {}):
            return str(content["schema"]["$ref"]).rpartition("/")[2]
    return ""
