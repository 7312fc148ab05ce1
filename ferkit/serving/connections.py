"""Connections under watch, by public means: a protocol around Uvicorn's own, and a layer around the application."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

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
