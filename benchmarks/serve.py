"""The server under load, on loopback: how old answers are, what is dropped, whether memory grows.

    python benchmarks/serve.py --image photo.jpg
    python benchmarks/serve.py --image photo.jpg --clients 8 16 32 --seconds 60
    python benchmarks/serve.py --image photo.jpg --clients --cycles 2000
    python benchmarks/serve.py --image photo.jpg --clients --requests 1 16 -- --detector none

The server runs in a process of its own, on as many cores as ``--cores`` says; so do the clients.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


@dataclass
class Client:
    """What one client saw.

    Attributes:
        age_ms: by the server: from receipt to answer.
        round_ms: by the client: from sending to the answer.
        sent, dropped: frames.
        errors: anything but an answer.
    """

    age_ms: list[float] = field(default_factory=list)
    round_ms: list[float] = field(default_factory=list)
    sent: int = 0
    dropped: int = 0
    errors: list[str] = field(default_factory=list)


@contextlib.contextmanager
def server(cores: list[int], options: list[str]) -> Iterator[tuple[int, psutil.Process]]:
    """``fer serve`` on a free port, bound to ``cores``; gives the port and the process."""
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "ferkit", "serve", "--port", "0", "--rate", "0", *options]
        process = subprocess.Popen(command, stderr=said, stdout=said)
        watched = psutil.Process(process.pid)
        watched.cpu_affinity(cores)
        try:
            while True:
                said.seek(0)
                text = said.read()
                if "ferkit is at http" in text:
                    break
                assert process.poll() is None, text
                time.sleep(0.1)
            yield int(text.partition("ferkit is at http://")[2].split()[0].rpartition(":")[2]), watched
        finally:
            process.terminate()
            process.wait(30)


async def stream(url: str, frames: list[bytes], fps: float, seconds: float, late_s: float) -> Client:
    """Send ``fps`` frames a second, whatever comes back."""
    seen = Client()
    await asyncio.sleep(late_s)
    async with connect(url, compression=None, max_queue=64) as socket:
        await socket.send(json.dumps({"type": "start", "purpose": "research", "fps": fps}))
        assert json.loads(await socket.recv())["type"] == "ready"
        reading = asyncio.create_task(_read(socket, seen))
        began_s = time.perf_counter()
        while (now_s := time.perf_counter()) - began_s < seconds:
            header = struct.pack("<Id", seen.sent, now_s * 1000)
            await socket.send(header + frames[seen.sent % len(frames)])
            seen.sent += 1
            await asyncio.sleep(max(0.0, began_s + seen.sent / fps - time.perf_counter()))
        await asyncio.sleep(1.0)
        reading.cancel()
    return seen


async def _read(socket: ClientConnection, seen: Client) -> None:
    try:
        async for text in socket:
            answer = json.loads(text)
            if answer["type"] != "result":
                seen.errors.append(text)
                continue
            seen.age_ms.append(answer["age_ms"])
            seen.round_ms.append(time.perf_counter() * 1000 - answer["captured_ms"])
            seen.dropped = answer["dropped"]
    except ConnectionClosed as closed:
        seen.errors.append(str(closed))


async def load(url: str, frames: list[bytes], n: int, fps: float, seconds: float) -> list[Client]:
    """``n`` clients at once, begun evenly over the time of a frame."""
    return await asyncio.gather(*(stream(url, frames, fps, seconds, i / n / fps) for i in range(n)))


async def cycles(url: str, frame: bytes, n: int) -> None:
    """Come and go ``n`` times, eight at a time: a third without a word, a third before the answer."""
    turn = asyncio.Semaphore(8)

    async def one(i: int) -> None:
        async with turn, connect(url, compression=None) as socket:
            if i % 3 == 0:
                return
            await socket.send(json.dumps({"type": "start", "purpose": "research"}))
            await socket.recv()
            await socket.send(struct.pack("<Id", 0, 0.0) + frame)
            if i % 3 == 1:
                socket.transport.abort()
                return
            await socket.recv()

    await asyncio.gather(*(one(i) for i in range(n)))


async def requests(url: str, image: bytes, n: int, seconds: float) -> float:
    """Images a second that ``n`` clients get answered, each of which waits for its answer before it asks again."""
    answered = 0

    async def ask(http: httpx.AsyncClient, end_s: float) -> None:
        nonlocal answered
        while time.perf_counter() < end_s:
            (await http.post("/v1/predict?purpose=research", content=image)).raise_for_status()
            answered += 1

    async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=n), timeout=60) as http:
        end_s = time.perf_counter() + seconds
        await asyncio.gather(*(ask(http, end_s) for _ in range(n)))
    return answered / seconds


def batches(url: str) -> tuple[float, float]:
    """Faces read so far, and batches they were read in."""
    values = dict(
        line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines() if line[0] != "#"
    )
    return float(values["ferkit_batch_faces_sum"]), float(values["ferkit_batch_faces_count"])


def moving_frames(image_: Path, size_wh: tuple[int, int], n: int = 40) -> list[bytes]:
    """JPEG frames as of a camera that is moved slowly over a photo."""
    with Image.open(image_) as opened:
        image = opened.convert("RGB")
    scale = 1.15 * max(size_wh[0] / image.width, size_wh[1] / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    frames = []
    for i in range(n):
        share = (1 - np.cos(2 * np.pi * i / n)) / 2
        x, y = (image.width - size_wh[0]) * share, (image.height - size_wh[1]) * share
        file = io.BytesIO()
        image.crop((int(x), int(y), int(x) + size_wh[0], int(y) + size_wh[1])).save(file, "JPEG", quality=80)
        frames.append(file.getvalue())
    return frames


def row(seen: list[Client], seconds: float, memory_mb: tuple[float, float], used_s: float) -> str:
    """A line of the table."""
    age = np.concatenate([client.age_ms for client in seen])
    round_ms = np.concatenate([client.round_ms for client in seen])
    dropped = sum(client.dropped for client in seen) / sum(client.sent for client in seen)
    p50, p95, p99 = np.percentile(age, [50, 95, 99])
    return (
        f"{len(seen):7d}  {len(age) / len(seen) / seconds:15.1f}  {dropped:7.1%}  {p50:6.0f}  {p95:6.0f}  {p99:6.0f}  "
        f"{np.percentile(round_ms, 95):9.0f}  {sum(len(client.errors) for client in seen):6d}  "
        f"{memory_mb[0]:9.0f} / {memory_mb[1]:.0f} MB  {used_s / seconds:.2f}"
    )


def megabytes(process: psutil.Process) -> float:
    """Memory of the server and its workers; what they share counts once a process."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6


def cpu_s(process: psutil.Process) -> float:
    """Seconds that the server and its workers computed."""
    family = (process, *process.children(recursive=True))
    return float(sum(sum(one.cpu_times()[:2]) for one in family))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="*", default=[8])
    parser.add_argument("--fps", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--size", type=int, nargs=2, default=[640, 480])
    parser.add_argument("--cycles", type=int, default=0)
    parser.add_argument("--requests", type=int, nargs="*", default=[], help="clients that send single images")
    parser.add_argument("--cores", type=int, nargs="*", default=sorted(os.sched_getaffinity(0))[:2])
    parser.add_argument("options", nargs="*", help="of fer serve, after --")
    wanted = parser.parse_args()
    frames = moving_frames(wanted.image, tuple(wanted.size))
    width, height = wanted.size
    kb = len(frames[0]) / 1000
    print(f"{width}x{height} at {wanted.fps:g}/s, {kb:.0f} kB a frame, cores {wanted.cores}")
    limits = ["--max-streams", str(4 * max(wanted.clients or [8])), "--max-connections", "1000"]
    with server(wanted.cores, [*limits, *wanted.options]) as (port, process):
        url, base = f"ws://127.0.0.1:{port}/v1/stream", f"http://127.0.0.1:{port}"
        for n in wanted.requests:
            before = batches(base)
            rate = asyncio.run(requests(base, frames[0], n, wanted.seconds))
            faces, count = np.subtract(batches(base), before)
            print(f"{n} clients: {rate:.0f} images/s, {faces / count:.1f} faces a batch", flush=True)
        if wanted.clients:
            asyncio.run(load(url, frames, 4, wanted.fps, 5))
            print(
                "clients  answered/s each  dropped  p50 ms  p95 ms  p99 ms  round p95  errors  memory before/after  CPU"
            )
        for n in wanted.clients:
            before_mb, before_s = megabytes(process), cpu_s(process)
            seen = asyncio.run(load(url, frames, n, wanted.fps, wanted.seconds))
            used_s = cpu_s(process) - before_s
            print(row(seen, wanted.seconds, (before_mb, megabytes(process)), used_s), flush=True)
        if wanted.cycles:
            asyncio.run(cycles(url, frames[0], 100))
            time.sleep(1)
            before = process.num_threads(), process.num_fds(), megabytes(process)
            began_s = time.perf_counter()
            asyncio.run(cycles(url, frames[0], wanted.cycles))
            took_s = time.perf_counter() - began_s
            time.sleep(1)
            after = process.num_threads(), process.num_fds(), megabytes(process)
            print(f"{wanted.cycles} connections in {took_s:.0f} s; threads, files, MB: {before} -> {after}")


if __name__ == "__main__":
    main()
