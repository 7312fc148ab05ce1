"""Who may ask: the name that is called, the page that asks, the token that is shown, and how often."""

import hmac
import ipaddress
import re
import socket
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from ferkit.serving.errors import Refused
from ferkit.serving.settings import LOOPBACK, ServeSettings, is_loopback

OPEN = ("/health", "/ready", "/docs", "/docs.css", "/openapi.json", "/favicon.ico", "/v1/info")
"""Paths that need no token: they tell nothing about anybody."""

READING = ("GET", "HEAD", "OPTIONS")
_MAX_CLIENTS = 10_000
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@?#\[\]\\]+)(:\d{1,5})?")

MAX_WRONG = 20
LOCKED_S = 60.0
"""After so many wrong tokens within this time a client's tokens are not looked at for as long."""


class Access:
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
            Refused: it may not: 400 (host), 401 (token), 403 (origin, or reachable without a token), 429.
        """
        headers = Headers(scope=scope)
        self._check_reach(scope)
        if not is_page(path_of(scope)):  # of many small files
            self._rate.count(client_of(scope))
        host = headers.get("host", "")
        if not self._knows(host):
            raise Refused(
                400,
                "unknown_host",
                "The server is not called by this name; whoever runs it adds --allowed-host.",
            )
        if scope["type"] == "websocket" or scope["method"] not in READING:
            self._check_origin(headers, host)
        asks = scope["type"] == "http" and scope["method"] != "OPTIONS" and needs_token(path_of(scope))
        if asks and not self.may_enter(bearer(headers), client_of(scope)):
            raise Refused(401, "no_token", "Expected the server's token: Authorization: Bearer <token>.")

    def may_enter(self, shown: str | None, client: str) -> bool:
        """Whether a token is the right one, in a time that does not depend on how much of it is right.

        Raises:
            Refused: the client showed too many wrong ones (429).
        """
        if self._token is None:
            return True
        if shown is None:
            return False
        now_s = time.monotonic()
        wrong = [then_s for then_s in self._wrong.get(client, ()) if now_s - then_s < LOCKED_S]
        if len(wrong) >= MAX_WRONG:
            left_s = max(1, round(LOCKED_S - (now_s - wrong[-1])))
            raise Refused(429, "locked_out", f"Too many wrong tokens; wait {left_s} s.", left_s)
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
            raise Refused(
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
            raise Refused(
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


def _foreign() -> Refused:
    return Refused(403, "foreign_origin", "The request came from another site's page.")


def _hostname(host: str) -> str | None:
    """The name in a Host header; None for what is none, such as one with a user part."""
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]") if match else None


def _netloc(netloc: str) -> str:
    for port in (":80", ":443"):
        netloc = netloc.removesuffix(port)
    return netloc
