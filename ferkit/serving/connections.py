"""Uvicorn's connections with time limits: those that stay silent, or do not take what they asked for, are cut."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ferkit.serving.settings import Limits

HEAD_S = 10.0
"""The head of a request must be complete so soon after the connection is made, or after the head's first byte."""

STALL_S = 20.0
"""An answer must move within this time, and a connection that is to be closed be gone."""


class _Stall(asyncio.Protocol):
    """Looks every now and then whether what was written is taken."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _timer: asyncio.TimerHandle | None = None
    _stalled = False
    _paused = False

    def watch(self) -> None:
        self._timer = self.loop.call_later(STALL_S, self._look)

    def unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        self._paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused = self._stalled = False
        super().resume_writing()

    def _look(self) -> None:
        stalls = self._paused or self.transport.is_closing()
        if stalls and self._stalled:  # for at least one whole period
            self.transport.abort()
            return
        self._stalled = stalls
        self.watch()


class ImpatientHttp(_Stall, H11Protocol):
    """HTTP/1.1 with limits; :func:`http_protocol` sets how many connections there may be."""

    max_connections: int
    max_of_one: int
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        of_one = sum(_host(other) == _host(self) for other in self.connections)
        if len(self.connections) > self.max_connections or of_one > self.max_of_one:
            transport.abort()
            return
        self._deadline = self.loop.call_later(HEAD_S, self._give_up)
        self.watch()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self._between_requests:
            self._deadline = self.loop.call_later(HEAD_S, self._give_up)
        super().data_received(data)
        if not self._between_requests:
            self._cancel_deadline()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel_deadline()
        self.unwatch()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self.unwatch()
        super().connection_lost(exc)

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        self.transport.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class ImpatientWebSocket(_Stall, WebSocketsSansIOProtocol):
    """A WebSocket that is cut when its client takes nothing any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.unwatch()
        super().connection_lost(exc)


def _host(connection: object) -> str | None:
    client = getattr(connection, "client", None)
    return client[0] if client else None


def http_protocol(limits: Limits, behind_proxy: bool) -> type[ImpatientHttp]:
    """The protocol with these limits; a proxy may have all connections, any other address half of them."""
    most = limits.max_connections
    of_one = most if behind_proxy else max(1, most // 2)
    return type("ServerHttp", (ImpatientHttp,), {"max_connections": most, "max_of_one": of_one})
