"""Keep out what may not come in: tokens, hosts, origins, rates and sizes."""

import asyncio
import hmac
import ipaddress
import json
import re
import socket
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ferkit.serving.api import ApiError, internal_error
from ferkit.serving.monitoring import EventLog, Metrics
from ferkit.serving.settings import LOOPBACK, Limits, ServeSettings, is_loopback

OPEN = ("/health", "/ready", "/docs", "/docs.css", "/openapi.json", "/favicon.ico", "/v1/info")
"""Paths that need no token: they tell nothing about anybody."""

READING = ("GET", "HEAD", "OPTIONS")
_MAX_CLIENTS = 10_000
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@?#\[\]\\]+)(:\d{1,5})?")

MAX_WRONG = 20
LOCKED_S = 60.0
"""After so many wrong tokens within this time a client's tokens are not looked at for as long."""


class Auth:
    """Decides before anything of a request's body is read.

    Args:
        settings: the server's.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._token = settings.token
        self._loopback = is_loopback(settings.host)
        names = {*LOOPBACK, settings.host.strip("[]"), *settings.allowed_host}
        if not self._loopback:
            names |= {socket.gethostname()}
        self._names = {name.lower() for name in names}
        self._origins = {origin.rstrip("/").lower() for origin in settings.allowed_origin}
        self._rate = _Rate(settings.limits.rate)
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, scope: Scope) -> None:
        """Let a request or handshake pass.

        Raises:
            ApiError: it may not: 400 (host), 401 (token), 403 (origin, or reachable without a token), 429.
        """
        headers = Headers(scope=scope)
        self._check_reach(scope)
        if not is_page(path_of(scope)):  # of many small files
            self._rate.count(client_of(scope))
        host = headers.get("host", "")
        if not self._knows(host):
            raise ApiError(
                400,
                "unknown_host",
                "The server is not called by this name; whoever runs it adds --allowed-host.",
            )
        if scope["type"] == "websocket" or scope["method"] not in READING:
            self._check_origin(headers, host)
        asks = scope["type"] == "http" and scope["method"] != "OPTIONS" and needs_token(path_of(scope))
        if asks and not self.may_enter(bearer(headers), client_of(scope)):
            raise ApiError(401, "no_token", "Expected the server's token: Authorization: Bearer <token>.")

    def may_enter(self, shown: str | None, client: str) -> bool:
        """Whether a token is the right one, in a time that does not depend on how much of it is right.

        Raises:
            ApiError: the client showed too many wrong ones (429).
        """
        if self._token is None:
            return True
        if shown is None:
            return False
        now_s = time.monotonic()
        wrong = [then_s for then_s in self._wrong.get(client, ()) if now_s - then_s < LOCKED_S]
        if len(wrong) >= MAX_WRONG:
            left_s = max(1, round(LOCKED_S - (now_s - wrong[-1])))
            raise ApiError(429, "locked_out", f"Too many wrong tokens; wait {left_s} s.", left_s)
        right = hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), self._token.encode())
        if not right:
            self._wrong.pop(client, None)
            self._wrong[client] = [*wrong, now_s]
            if len(self._wrong) > _MAX_CLIENTS:
                self._wrong.popitem(last=False)
        return right

    def _check_reach(self, scope: Scope) -> None:
        # Another program than 'fer serve' may have bound the address.
        server = scope.get("server")
        if self._token is None and server and server[1] is not None and not is_loopback(server[0]):
            raise ApiError(
                403,
                "token_needed",
                "This address can be reached by others, so the server needs FER_SERVE_TOKEN.",
            )

    def _knows(self, host: str) -> bool:
        name = _hostname(host)
        if name is None:
            return False
        if name in self._names:
            return True
        if self._loopback:
            return False
        try:  # numbers cannot be made to point elsewhere, as names can
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_origin(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                raise _foreign()
            return
        origin = origin.lower()
        if origin in self._origins:
            return
        try:
            netloc = urlsplit(origin).netloc
        except ValueError:
            raise _foreign() from None
        if _netloc(netloc) != _netloc(host.lower()):
            raise _foreign()


class _Rate:
    """A bucket for each client that fills steadily, and holds ten seconds' worth."""

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(10.0, 10 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, client: str) -> None:
        if self._rate == 0:
            return
        now_s = time.monotonic()
        left, then_s = self._buckets.pop(client, (self._most, now_s))
        left = min(self._most, left + (now_s - then_s) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now_s)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise ApiError(
                429,
                "too_many",
                f"At most {self._rate:g} requests a second are taken from one client.",
                retry_after_s=1,
            )


def client_of(scope: Scope) -> str:
    """The client's address; of an IPv6 one the network, since one client has many of these."""
    client = scope.get("client")
    if not client:
        return "local"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return str(client[0])
    if address.version == 6 and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def bearer(headers: Headers) -> str | None:
    """The token in the head of a request."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def path_of(scope: Scope) -> str:
    """The path as the server's own routes have it, without the prefix under which a proxy offers them."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def needs_token(path: str) -> bool:
    """Whether a path is for those with the token; the page itself and its files are for everybody."""
    return path not in OPEN and not is_page(path)


def is_page(path: str) -> bool:
    """Whether a path is the page's or one of its files'."""
    return path == "/" or path.startswith("/static/")


def _foreign() -> ApiError:
    return ApiError(403, "foreign_origin", "The request came from another site's page.")


def _hostname(host: str) -> str | None:
    """The name in a Host header; None for what is none, such as one with a user part."""
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]") if match else None


def _netloc(netloc: str) -> str:
    for port in (":80", ":443"):
        netloc = netloc.removesuffix(port)
    return netloc


VIDEO_PATH = "/v1/video"

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


class Middleware:
    """ASGI middleware.

    Args:
        app: what is behind.
        access, limits, metrics, log: the server's.
        root_path: the prefix under which a proxy offers the server, whether it passes it on or not.
    """

    def __init__(
        self, app: ASGIApp, access: Auth, limits: Limits, metrics: Metrics, log: EventLog, root_path: str = ""
    ) -> None:
        self._app, self._access, self._limits = app, access, limits
        self._metrics, self._log, self._root_path = metrics, log, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root_path and scope["type"] in ("http", "websocket"):
            path = scope["path"].removeprefix(self._root_path)
            scope = {**scope, "root_path": self._root_path, "path": self._root_path + path}
        if scope["type"] == "http":
            await self._http(scope, receive, send)
            return
        if scope["type"] == "websocket":
            try:
                self._access.check(scope)
            except ApiError as refused:
                self._note_refusal(scope, refused)
                await receive()
                if "websocket.http.response" in scope.get("extensions", {}):
                    await _refusal(refused)(scope, receive, send)
                else:
                    await send(
                        {"type": "websocket.close", "code": refused.close_code, "reason": refused.code}
                    )
                return
        await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s, method = time.perf_counter(), _method(scope)
        scope.setdefault("state", {})["note"] = {}  # what a route wants to have in the log
        body = _Body(receive, self._limits, _body_limit(scope, self._limits))
        answer = _Answer(send, body, is_page(path_of(scope)))
        try:
            self._access.check(scope)
            body.check_length(Headers(scope=scope))
        except ApiError as refused:
            self._note_refusal(scope, refused)
            await _refusal(refused)(scope, receive, answer.send)
        else:
            if scope["method"] == "HEAD":  # like GET, whose body the server then leaves out
                scope = {**scope, "method": "GET"}
            try:
                await self._app(scope, body.receive, answer.send)
            except Exception as error:
                fault = internal_error(self._log.fault(error))
                if answer.status == 0:
                    await _refusal(fault)(scope, receive, answer.send)
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

    def _note_refusal(self, scope: Scope, refused: ApiError) -> None:
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
        """Refuse by what the head says, before anything has come. Raises ApiError."""
        text = headers.get("content-length", "0")
        if text.isdigit() and int(text) > self._max_bytes:
            raise self._too_large()
        if text == "0" and "transfer-encoding" not in headers:
            self.complete = True

    async def receive(self) -> Message:
        """The next piece. Raises ApiError."""
        if self.complete:
            return await self._receive()  # waits for the client to go
        allowed_s = 10 * self._limits.body_timeout_s + self.n_bytes / 100_000
        left_s = min(self._limits.body_timeout_s, self._began_s + allowed_s - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "slow", "The body of the request came too slowly.") from None
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

    def _too_large(self) -> ApiError:
        return ApiError(413, "too_large", f"At most {self._max_bytes} bytes are taken here; send less.")


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
            # The page's files are asked for again, but sent again only if they changed.
            headers.setdefault("Cache-Control", "no-cache" if self._is_page else "no-store")
            if not self._body.complete:
                # The rest of the body would be taken for the next request.
                self._cut_short = True
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body" and self._cut_short and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._body.drop_rest()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)


def _refusal(refused: ApiError) -> Response:
    return Response(json.dumps(refused.body), refused.status, refused.headers, "application/json")


def route_of(scope: Scope) -> str:
    """The route's pattern, so that neither metrics nor logs hold what clients write into paths."""
    route = scope.get("route")
    return str(getattr(route, "path", "")) or "other"


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in (*READING, "POST", "DELETE", "PUT", "PATCH") else "other"


def _body_limit(scope: Scope, limits: Limits) -> int:
    if scope["method"] in READING:
        return 0
    return limits.max_film_bytes if path_of(scope) == VIDEO_PATH else limits.max_bytes
