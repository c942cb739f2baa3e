"""Asking an endpoint: throughput at 64 calls in flight, memory, and what making images costs.

    python benchmarks/vlm_requests.py [--calls N] [--in-flight N] [--seconds S] [--side N] [--encode] [--json FILE]

A server on loopback, in a process of its own, answers every call 0.2 s after its header has arrived. Every request
has two images; with --encode they are made JPEG when the request is about to be sent. The ideal is that all places
in flight are busy from the first call to the last: calls * seconds / in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from edittools.vlm import EncodedImage, Request
from edittools.vlm.backends.endpoint import EndpointClient
from edittools.vlm.requests import RequestPolicy, RequestStats, request_all
from edittools.vlm.store import ReplyStore

SHARE_BAR, MEMORY_BAR = 0.95, 300


@dataclass
class Seen:
    """What the server has seen: calls answered, and when the first arrived and the last was answered, in seconds."""

    calls: int = 0
    first: float = 0.0
    last: float = 0.0


class Answering(asyncio.BufferedProtocol):
    """One connection to the server. It keeps nothing of what it is sent: the two processes share the machine."""

    def __init__(self, seconds: float, reply: bytes, seen: Seen) -> None:
        self.seconds, self.reply, self.seen = seconds, reply, seen
        self.buffer = memoryview(bytearray(1 << 20))
        self.head = b""
        self.left = 0  # bytes of the body that is being read

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        if not self.left:
            self.head += bytes(self.buffer[:count])
            head, end, rest = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            self.arrived, self.head, count = time.perf_counter(), b"", len(rest)
            self.seen.first = self.seen.first or self.arrived
            fields = dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:])
            self.left = int(fields[b"content-length"])
        self.left -= count
        if not self.left:
            passed = time.perf_counter() - self.arrived
            asyncio.get_running_loop().call_later(max(0.0, self.seconds - passed), self.answer)

    def answer(self) -> None:
        self.seen.calls += 1
        self.seen.last = time.perf_counter()
        self.transport.write(self.reply)


def serve(pipe: Connection, seconds: float, said: str = "echo") -> None:
    """The server's process. Sends its port, then for every message what it has seen."""
    import uvloop

    seen = Seen()
    body = json.dumps(
        {
            "model": "loopback-1",
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
            "usage": {"prompt_tokens": 700, "completion_tokens": 1},
        }
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: Answering(seconds, (head + body).encode(), seen), "127.0.0.1"
        )
        pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            pipe.send(seen)

    with contextlib.suppress(EOFError):
        uvloop.run(main())


@contextlib.contextmanager
def loopback(seconds: float, said: str = "echo") -> Iterator[tuple[str, Callable[[], Seen]]]:
    """The server while the block runs: its address, and a function that asks it what it has seen."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, seconds, said), daemon=True)
    server.start()

    def seen() -> Seen:
        ours.send(True)
        return ours.recv()

    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1", seen
    finally:
        server.terminate()


def noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """A square that packs like a photograph: coarse noise with fine noise over it, uint8 (side, side, 3)."""
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def requests(count: int, side: int, encode: bool) -> list[tuple[int, Callable[[], Request]]]:
    """Two of 16 images per request: the bytes of JPEG files, or pixels that are made JPEG for every request."""
    rng = np.random.default_rng(0)
    pixels = [noise(rng, side) for _ in range(16)]
    files = [simplejpeg.encode_jpeg(array, quality=90) for array in pixels]
    print(f"images of {sum(map(len, files)) / len(files) / 1024:.0f} KiB")

    def image(k: int) -> EncodedImage:
        return EncodedImage(
            simplejpeg.encode_jpeg(pixels[k % 16], quality=90) if encode else files[k % 16], "image/jpeg"
        )

    def make(k: int) -> Request:
        parts = (f"Question {k}: what changed?", image(k), image(k + 1))
        return Request("loopback", parts, {"max_tokens": 16})

    return [(k, functools.partial(make, k)) for k in range(count)]


def stolen() -> float:
    """Seconds of this machine's cores that its host gave to others, where the kernel tells (Linux)."""
    try:
        with open("/proc/stat") as file:
            return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2424)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.2, help="until the server answers")
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--encode", action="store_true", help="write the JPEG files anew for every request")
    parser.add_argument("--json", help="write the numbers here")
    options = parser.parse_args()

    stats = RequestStats()
    with loopback(options.seconds) as (address, seen), tempfile.TemporaryDirectory() as folder:
        client, store = EndpointClient(address), ReplyStore(folder)
        asked = requests(options.calls, options.side, options.encode)
        started, cpu, before = time.perf_counter(), time.process_time(), stolen()
        replies = request_all(asked, client, store, RequestPolicy(concurrency=options.in_flight), stats=stats)
        states = [reply.state for _, reply in replies]
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        taken = (stolen() - before) / (seconds * (os.cpu_count() or 1))
        store.close()
        answered = seen().calls
    ideal = options.calls * options.seconds / options.in_flight
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10 if sys.platform != "darwin" else 1 << 20)
    numbers: dict[str, Any] = {
        "calls": answered,
        "seconds": round(seconds, 3),
        "calls per second": round(options.calls / seconds, 1),
        "share of the ideal": round(ideal / seconds, 4),
        "peak memory, MiB": round(memory, 1),
        "CPU seconds per call": round(cpu / options.calls, 6),
        "making requests, thread seconds": round(stats.preparing, 3),
        "cores taken by other machines, share": round(taken, 4),
        "places that waited for a request, share": round(stats.starved_share, 4),
    }
    for name, value in numbers.items():
        print(f"{name:42} {value}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(numbers, file, indent=1)
    assert answered == options.calls and set(states) == {"ok"}
    met = numbers["share of the ideal"] >= SHARE_BAR and memory <= MEMORY_BAR
    print(f"bars: share of the ideal >= {SHARE_BAR}, peak memory <= {MEMORY_BAR} MiB:", "met" if met else "MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
