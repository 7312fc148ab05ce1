"""The outermost layer: who may ask, how much and how slowly a body may come, and what every answer carries."""

import asyncio
import json
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ferkit.serving.access import READING, Access, client_of, is_page, path_of
from ferkit.serving.errors import Refused, own_fault
from ferkit.serving.log import EventLog
from ferkit.serving.metrics import Metrics
from ferkit.serving.settings import Limits

FILM_PATH = "/v1/video"

LINGER_S = 1.0
LINGER_BYTES = 8_000_000
"""So much of a refused body is taken in still, so that its sender comes to read the answer."""

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _PAGE_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Gate:
    """ASGI middleware.

    Args:
        app: what is behind.
        access, limits, metrics, log: the server's.
        root_path: the prefix under which a proxy offers the server, whether it passes it on or not.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        limits: Limits,
        metrics: Metrics,
        log: EventLog,
        root_path: str = "",
    ) -> None:
        self._app, self._access, self._limits = app, access, limits
        self._metrics, self._log, self._root_path = metrics, log, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root_path and scope["type"] in ("http", "websocket"):
            path = scope["path"].removeprefix(self._root_path)
            scope = {**scope, "root_path": self._root_path, "path": self._root_path + path}
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            try:
                self._access.check(scope)
            except Refused as refused:
                self._note_refusal(scope, refused)
                await receive()
                await _deny(scope, send, refused)
                return
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s, method = time.perf_counter(), _method(scope)
        scope.setdefault("state", {})["note"] = {}  # what a route wants to have in the log
        body = _Body(receive, self._limits, _body_limit(scope, self._limits))
        answer = _Answer(send, body, is_page(path_of(scope)))
        try:
            self._access.check(scope)
            body.check_length(Headers(scope=scope))
        except Refused as refused:
            self._note_refusal(scope, refused)
            await answer.refuse(refused)
        else:
            if scope["method"] == "HEAD":  # like GET, whose body the server then leaves out
                scope = {**scope, "method": "GET"}
            try:
                await self._app(scope, body.receive, answer.send)
            except Exception as error:
                fault = own_fault(self._log.fault(error))
                if answer.status == 0:
                    await answer.refuse(fault)
        seconds = time.perf_counter() - began_s
        route = route_of(scope)
        self._metrics.requests.labels(route, method, str(answer.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        note = scope["state"]["note"]
        self._log.write(
            "request",
            client=client_of(scope),
            method=method,
            route=route,
            status=answer.status,
            ms=round(seconds * 1000, 1),
            bytes_in=body.n_bytes,
            **note,
        )

    def _note_refusal(self, scope: Scope, refused: Refused) -> None:
        self._metrics.refused.labels(refused.code).inc()
        self._log.write("refused", client=client_of(scope), code=refused.code, kind=scope["type"])


class _Body:
    """A request's body, counted and timed while it comes."""

    def __init__(self, receive: Receive, limits: Limits, max_bytes: int) -> None:
        self._receive, self._limits, self._max_bytes = receive, limits, max_bytes
        self._began_s = time.monotonic()
        self.n_bytes = 0
        self.complete = False

    def check_length(self, headers: Headers) -> None:
        """Refuse by what the head says, before anything has come. Raises Refused."""
        text = headers.get("content-length", "0")
        if text.isdigit() and int(text) > self._max_bytes:
            raise self._too_large()
        if text == "0" and "transfer-encoding" not in headers:
            self.complete = True

    async def receive(self) -> Message:
        """The next piece. Raises Refused."""
        if self.complete:
            return await self._receive()  # waits for the client to go
        allowed_s = 10 * self._limits.body_timeout_s + self.n_bytes / 100_000
        left_s = min(self._limits.body_timeout_s, self._began_s + allowed_s - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, "slow", "The body of the request came too slowly.") from None
        if message["type"] == "http.request":
            self.n_bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.n_bytes > self._max_bytes:
                raise self._too_large()
        return message

    async def drop_rest(self) -> None:
        """Take in some of what still comes, and forget it."""
        try:
            async with asyncio.timeout(LINGER_S):
                n_bytes = 0
                while n_bytes < LINGER_BYTES:
                    message = await self._receive()
                    n_bytes += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"At most {self._max_bytes} bytes are taken here; send less.")


class _Answer:
    """An answer on its way out."""

    def __init__(self, send: Send, body: _Body, is_page: bool) -> None:
        self._send, self._body, self._is_page = send, body, is_page
        self.status = 0
        self._cut_short = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if "cache-control" not in headers:
                # The page's files are asked for again, but sent again only if they changed.
                headers["Cache-Control"] = "no-cache" if self._is_page else "no-store"
            if not self._body.complete:
                # The rest of the body would be taken for the next request.
                self._cut_short = True
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body" and self._cut_short and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._body.drop_rest()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        content = json.dumps(refused.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **refused.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refused.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": content})


async def _deny(scope: Scope, send: Send, refused: Refused) -> None:
    """Answer a handshake with a plain refusal."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": refused.close_code, "reason": refused.code})
        return
    content = json.dumps(refused.body).encode()
    headers = [(b"content-type", b"application/json")]
    headers += [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
    await send({"type": "websocket.http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": content})


def route_of(scope: Scope) -> str:
    """The route's pattern, so that neither metrics nor logs hold what clients write into paths."""
    route = scope.get("route")
    return str(getattr(route, "path", "")) or "other"


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in (*READING, "POST", "DELETE", "PUT", "PATCH") else "other"


def _body_limit(scope: Scope, limits: Limits) -> int:
    if scope["method"] in READING:
        return 0
    return limits.max_film_bytes if path_of(scope) == FILM_PATH else limits.max_bytes
