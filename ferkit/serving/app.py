"""The application: ``uvicorn ferkit.serving.app:app``, with settings from the environment and ``.env``."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ferkit.serving.api import ApiError
from ferkit.serving.routes import Service, router
from ferkit.serving.security import Middleware
from ferkit.serving.settings import ServeSettings
from ferkit.serving.teach_routes import router as teach_router

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
    ("you", '{"type": "start", …, "teach": "<id of POST /v1/teach>"}: results have "taught" too'),
    (
        "you",
        '{"type": "collect", "label": "smirk", "take": "2", "from_ms": 0, "face": null}; '
        '{"type": "collect", "until_ms": 9} ends it',
    ),
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
    if isinstance(value.get("additionalProperties"), dict):  # True where anything may stand
        return f"object of {_type(value['additionalProperties'])}"
    return (
        f"array of {_type(value['items'])}" if value.get("type") == "array" else str(value.get("type", "any"))
    )


def _schema_name(answer: dict[str, Any]) -> str:
    for content in answer.get("content", {}).values():
        if "$ref" in content.get("schema", {}):
            return str(content["schema"]["$ref"]).rpartition("/")[2]
    return ""


STATIC = Path(__file__).parent / "static"
DOCS_STYLE = Path(__file__).parent / "docs.css"


def create_app(settings: ServeSettings, console: bool = True) -> FastAPI:
    """A new application, independent of all others.

    Args:
        settings: the server's.
        console: whether to log to standard error.

    Raises:
        FerkitError: the log cannot be written, or there is no such model.
    """
    service = Service(settings, console)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.open()
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="ferkit",
        version=metadata.version("ferkit"),
        summary="Facial expressions in images, videos and streams.",
        lifespan=lifespan,
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(teach_router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))

    @app.get("/docs.css", include_in_schema=False)
    async def docs_style() -> FileResponse:
        return FileResponse(DOCS_STYLE)

    if settings.allowed_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in settings.allowed_origin],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Ferkit-Purpose"],
        )

    @app.exception_handler(ApiError)
    async def refuse(request: Request, refused: ApiError) -> JSONResponse:
        service.metrics.refused.labels(refused.code).inc()
        return JSONResponse(refused.body, refused.status, refused.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"code": "invalid", "message": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        body = {"code": f"http_{error.status_code}", "message": str(error.detail)}
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(app, request.scope))
        return JSONResponse(body, error.status_code, headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return JSONResponse({"code": "gone", "message": "The client went away."}, 400)

    app.add_middleware(
        Middleware,
        access=service.access,
        limits=settings.limits,
        metrics=service.metrics,
        log=service.log,
        root_path=settings.root_path,
    )
    return app


def _allowed(app: FastAPI, scope: Scope) -> list[str]:
    """The methods of a path, on whichever routes."""
    found = [
        method
        for method in ("GET", "POST", "DELETE")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    ]
    return ["HEAD", *found] if "GET" in found else found


def __getattr__(name: str) -> Any:
    if name == "app":  # made when a server asks for it, not when something else is imported from here
        from dotenv import load_dotenv

        load_dotenv(".env")
        return create_app(ServeSettings.from_environment())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
