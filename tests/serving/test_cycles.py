"""Clients that come and go: nothing of them stays."""

import asyncio
import gc
import json
import threading

import psutil
from websockets.asyncio.client import connect

from tests.serving.running import Running, frame, image, until

CYCLES = 300
"""benchmarks/serve.py does 2,000 and more."""
POOLS = ("AnyIO worker thread", "ferkit-worker")
"""Threads of pools of a fixed size, which grow to it as the load happens to fall and are used again."""


async def come_and_go(url: str, number: int) -> None:
    async with connect(url, compression=None) as socket:
        if number % 3 == 0:
            return  # without a word
        await socket.send(json.dumps({"type": "start", "purpose": "art"}))
        await socket.recv()
        if number % 3 == 1:
            await socket.send(frame(0, image()))
            socket.transport.abort()  # without waiting for the answer
            return
        await socket.send(frame(0, image()))
        await socket.recv()


async def many(url: str, n: int) -> None:
    turn = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with turn:
            await come_and_go(url, number)

    await asyncio.gather(*(one(number) for number in range(n)))


def counts(server: Running) -> dict[str, int]:
    gc.collect()
    loop = server.server.servers[0].get_loop()
    return {
        "tasks": len(asyncio.all_tasks(loop)),
        "threads": sum(not thread.name.startswith(POOLS) for thread in threading.enumerate()),
        "files": psutil.Process().num_fds(),
        "connections": len(server.server.server_state.connections),
    }


def test_clients_that_come_and_go_leave_nothing(server: Running) -> None:
    asyncio.run(many(server.stream_url, 20))
    assert until(lambda: not server.service.streams)
    assert until(lambda: counts(server)["connections"] == 0)
    before = counts(server)
    asyncio.run(many(server.stream_url, CYCLES))
    assert until(lambda: not server.service.streams)
    assert until(lambda: all(now <= before[what] for what, now in counts(server).items())), (
        before,
        counts(server),
    )
    assert server.metric("ferkit_streams") == 0
