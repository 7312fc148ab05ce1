"""The server under mixed traffic for long: memory, descriptors, tasks and ages at the start and at the end.

    python benchmarks/soak.py --image photo.jpg --minutes 30
    python benchmarks/soak.py --image photo.jpg --minutes 5 -- --detector yunet

Streams, single images, damaged images, videos, clients that leave at any point and requests that are none, at rates
that keep two cores busy. A line is printed for each tenth of the time; the last lines compare the first tenth with the
last.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image
from serve import server, stream
from websockets.asyncio.client import connect


@dataclass
class Seen:
    """What the clients saw in a part of the time."""

    age_ms: list[float] = field(default_factory=list)
    predict_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


async def streams(url: str, frames: list[bytes], seen: list[Seen], end_s: float) -> None:
    """One client after the other, for five to fifteen seconds each."""
    while time.monotonic() < end_s:
        client = await stream(url, frames, 4.0, random.uniform(5, 15), 0.0)
        seen[-1].age_ms += client.age_ms
        seen[-1].faults += client.errors


async def predicts(http: httpx.AsyncClient, frames: list[bytes], seen: list[Seen], end_s: float) -> None:
    """Images, every fifth of them damaged."""
    while time.monotonic() < end_s:
        content = bytearray(random.choice(frames))
        if random.random() < 0.2:
            content[random.randrange(100, len(content))] ^= 255
            content = content[: random.randrange(100, len(content))]
        began_s = time.perf_counter()
        answer = await http.post("/v1/predict", params={"purpose": "research"}, content=bytes(content))
        seen[-1].statuses[answer.status_code] += 1
        if answer.status_code >= 500:
            seen[-1].faults.append(answer.text)
        seen[-1].predict_ms.append(1000 * (time.perf_counter() - began_s))
        await asyncio.sleep(0.5)


async def leavers(url: str, frames: list[bytes], end_s: float) -> None:
    """Clients that go at any point, without a word."""
    while time.monotonic() < end_s:
        with contextlib.suppress(Exception):
            async with connect(url, compression=None, close_timeout=0.2) as socket:
                if random.random() < 0.7:
                    await socket.send(json.dumps({"type": "start", "purpose": "research"}))
                    await socket.send(b"\0" * 12 + frames[0][: random.randrange(len(frames[0]))])
                socket.transport.abort()
        await asyncio.sleep(0.2)


async def noise(port: int, end_s: float) -> None:
    """What is no request at all."""
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(os.urandom(200) + b"\r\n\r\n")
            writer.close()
        await asyncio.sleep(0.3)


async def videos(http: httpx.AsyncClient, content: bytes, seen: list[Seen], end_s: float) -> None:
    """A video a time, removed when it is done."""
    while time.monotonic() < end_s:
        job = await http.post(
            "/v1/video", params={"purpose": "research", "annotated": False}, content=content
        )
        seen[-1].statuses[job.status_code] += 1
        link = job.json().get("links", {}).get("self")
        while link and (await http.get(link)).json()["status"] in ("queued", "running"):
            await asyncio.sleep(1)
        if link:
            await http.delete(link)
        await asyncio.sleep(20)


async def figures(http: httpx.AsyncClient, process: psutil.Process) -> dict[str, float]:
    """What the server holds now."""
    text = (await http.get("/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    family = [process, *process.children(recursive=True)]
    held = 0
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a video's, which has ended meanwhile
            held += one.memory_info().rss
    return {
        "memory_mb": round(held / 1e6),
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "processes": len(family),
        "streams": float(lines["ferkit_streams"]),
    }


async def soak(
    port: int, process: psutil.Process, frames: list[bytes], video: bytes | None, minutes: float
) -> None:
    url, seen = f"ws://127.0.0.1:{port}/v1/stream", [Seen()]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        before = await figures(http, process)
        print("before", json.dumps(before), flush=True)
        end_s = time.monotonic() + 60 * minutes
        tasks = [asyncio.create_task(streams(url, frames, seen, end_s)) for _ in range(4)]
        tasks += [asyncio.create_task(predicts(http, frames, seen, end_s)) for _ in range(2)]
        tasks += [asyncio.create_task(leavers(url, frames, end_s)), asyncio.create_task(noise(port, end_s))]
        if video is not None:
            tasks.append(asyncio.create_task(videos(http, video, seen, end_s)))
        parts = []
        for _ in range(10):
            await asyncio.sleep(6 * minutes)
            part = seen[-1]
            seen.append(Seen())
            parts.append(
                {
                    **await figures(http, process),
                    "age_p95_ms": p95(part.age_ms),
                    "predict_p95_ms": p95(part.predict_ms),
                    "frames": len(part.age_ms),
                    "statuses": dict(part.statuses),
                    "faults": part.faults[:3],
                }
            )
            print(json.dumps(parts[-1]), flush=True)
        await asyncio.gather(*tasks)
        await asyncio.sleep(3)
        after = await figures(http, process)
    print("after", json.dumps(after))
    for name in ("memory_mb", "descriptors", "threads", "age_p95_ms", "predict_p95_ms"):
        print(f"{name}: {parts[0][name]} in the first tenth, {parts[-1][name]} in the last")
    assert after["streams"] == 0
    assert after["descriptors"] <= before["descriptors"] + 2


def p95(values: list[float]) -> float | None:
    return round(float(np.percentile(values, 95)), 1) if values else None


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("options", nargs="*", help="of fer serve, after --")
    asked = parser.parse_args()
    frames = []
    for turn in (0, 2, -2, 4):
        file = io.BytesIO()
        Image.open(asked.image).convert("RGB").resize((640, 480)).rotate(turn).save(file, "JPEG", quality=80)
        frames.append(file.getvalue())
    with server(sorted(os.sched_getaffinity(0)), asked.options) as (port, process):
        video = asked.video.read_bytes() if asked.video else None
        asyncio.run(soak(port, process, frames, video, asked.minutes))


if __name__ == "__main__":
    main()
