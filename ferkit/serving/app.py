"""The application: ``uvicorn ferkit.serving.app:app``, with settings from the environment and ``.env``."""

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

from ferkit.serving.describe import api_page
from ferkit.serving.errors import Refused
from ferkit.serving.gate import Gate
from ferkit.serving.routes import router
from ferkit.serving.service import Service
from ferkit.serving.settings import ServeSettings

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
        summary="Facial expressions in pictures, films and streams.",
        lifespan=lifespan,
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(router)
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

    @app.exception_handler(Refused)
    async def refuse(request: Request, refused: Refused) -> JSONResponse:
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
        Gate,
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
