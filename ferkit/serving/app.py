"""The application, ``uvicorn ferkit.serving.app:app`` with settings from environment and ``.env``, and its server."""

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from ferkit.core.errors import FerkitError
from ferkit.serving.api import ApiError
from ferkit.serving.monitoring import EventLog
from ferkit.serving.routes import Service, router
from ferkit.serving.security import Middleware
from ferkit.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

_TEMPLATE = Path(__file__).parent / "api.html"


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
    return str(_template().render(info=openapi["info"], operations=operations, schemas=schemas))


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


HEAD_S = 10.0
"""A connection that waits for so long without the whole head of a request is cut."""

STALL_S = 20.0
"""An answer must move within this time, and a connection that is to be closed be gone."""


class Connections:
    """Knows which connections are in use, and cuts those that hold one for nothing.

    Args:
        app: the application, around which it is put.
        most: connections there may be.
        most_of_one: connections of one address.
    """

    def __init__(self, app: ASGIApp, most: int, most_of_one: int) -> None:
        self._app, self._most, self._most_of_one = app, most, most_of_one
        self._open: dict[tuple[Any, Any], _Watched] = {}

    def protocol(self, **options: Any) -> asyncio.Protocol:
        """A new connection's protocol, for ``uvicorn.Config(http=…)``."""
        return _Watched(H11Protocol(**options), self._enter, self._leave)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watched = None
        if scope["type"] in ("http", "websocket"):
            watched = self._open.get((_pair(scope.get("client")), _pair(scope.get("server"))))
        if watched is None:
            await self._app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(STALL_S):
                    await send(message)
            except TimeoutError:
                watched.cut()
                raise

        watched.cut_after(None)
        try:
            await self._app(scope, receive, send_in_time)
        finally:
            watched.cut_after(HEAD_S if scope["type"] == "http" else STALL_S)

    def _enter(self, watched: "_Watched") -> bool:
        host = watched.key[0] and watched.key[0][0]
        here = [other for other in self._open.values() if not other.is_closing]
        of_one = sum(other.key[0][0] == host for other in here if other.key[0])
        if len(here) >= self._most or of_one >= self._most_of_one:
            return False
        self._open[watched.key] = watched
        return True

    def _leave(self, watched: "_Watched") -> None:
        if self._open.get(watched.key) is watched:
            del self._open[watched.key]


class _Watched(asyncio.Protocol):
    """Passes everything on to Uvicorn's protocol, and can cut the connection."""

    key: tuple[Any, Any]
    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None
    _is_in = False

    def __init__(
        self,
        inner: asyncio.Protocol,
        enter: "Callable[[_Watched], bool]",
        leave: "Callable[[_Watched], None]",
    ) -> None:
        self._inner, self._enter, self._leave = inner, enter, leave

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def cut(self) -> None:
        """End the connection at once; what was not taken is lost."""
        self._leave(self)
        self._transport.abort()

    def cut_after(self, seconds: float | None) -> None:
        """Cut the connection when so much time is over; None takes that back."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.cut)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.key = _pair(transport.get_extra_info("peername")), _pair(transport.get_extra_info("sockname"))
        self._is_in = self._enter(self)
        if not self._is_in:
            transport.abort()
            return
        self.cut_after(HEAD_S)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_in:
            self.cut_after(None)
            self._leave(self)
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def _pair(address: Any) -> tuple[str, int] | None:
    """Host and port, as Uvicorn tells them to the application."""
    return (str(address[0]), int(address[1])) if isinstance(address, (tuple, list)) else None


KEEP_ALIVE_S = 10
GRACE_S = 10


def run_server(app: FastAPI, settings: ServeSettings) -> None:
    """Serve an application of :func:`ferkit.serving.app.create_app` until SIGINT or SIGTERM.

    Raises:
        FerkitError: the address cannot be listened on.
    """
    with listen(settings.host, settings.port) as listening, stopping_is_no_failure():
        serve_on(listening, uvicorn.Server(uvicorn_config(app, settings)), app)


def serve_on(listening: socket.socket, server: uvicorn.Server, app: FastAPI) -> None:
    """Serve on a bound socket; what libraries warn of goes into the application's log."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    complaints = Complaints(app.state.service.log)
    logging.getLogger().addHandler(complaints)
    listening.listen(128)  # from now on clients can come; they are answered when all is ready
    logger.info("ferkit is at http://%s:%s  (stop: Ctrl+C)", shown, port)
    try:
        server.run([listening])
    finally:
        logging.getLogger().removeHandler(complaints)
        app.state.service.workers.close()  # in whichever way the server ended


def uvicorn_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How the application is served."""
    limits = settings.limits
    most, behind_proxy = limits.max_connections, bool(settings.trusted_proxy)
    # Inside: whoever the proxy speaks for; outside: the connection itself.
    inner: Any = ProxyHeadersMiddleware(cast(Any, app), list(settings.trusted_proxy)) if behind_proxy else app
    watched = Connections(inner, most, most if behind_proxy else max(1, most // 2))
    return uvicorn.Config(
        cast(Any, watched),
        host=settings.host,
        port=settings.port,
        http=cast(Any, watched.protocol),
        ws="websockets-sansio",
        # Frames that are too large are to be answered as such, not only cut off.
        ws_max_size=4 * limits.max_frame_bytes,
        ws_per_message_deflate=False,  # images are compressed already, and what is small could unfold to much
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=32_768,
        lifespan="on",
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address.

    Raises:
        FerkitError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        listening.close()
        raise FerkitError(
            f"{host} port {port} cannot be listened on: {error.strerror or error}; "
            "choose another with --port or --host, or stop the program that has it"
        ) from None
    return listening


@contextlib.contextmanager
def stopping_is_no_failure() -> Iterator[None]:
    """Let the process end well after a signal to stop, which Uvicorn raises once more at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


class Complaints(logging.Handler):
    """Takes what libraries warn of into the log of events."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self.addFilter(lambda record: not record.name.startswith("python_multipart"))  # of what clients send

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._log.write("warning", source=record.name, message=text)
