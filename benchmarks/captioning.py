"""Captions by a model: how near conversations of several kinds come to the endpoint's own pace, and memory.

    python benchmarks/captioning.py [--rows N] [--in-flight N] [--seconds S] [--json FILE]

A server on loopback, in a process of its own, answers every call after 0.2 s with JSON that every kind here takes.
Each row has two images and three kinds: two that share one call, and a rewording that waits for them: two calls. The
ideal is that all places in flight are busy from the first call to the last: calls * seconds / in flight. The store is
then read by a second run, which asks nobody.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
from vlm_requests import loopback, noise

from edittools.caption.config import CaptionConfig
from edittools.caption.kind import Conversation, Kind, Question, Row
from edittools.caption.model_stage import ModelCaptionStage
from edittools.caption.schemas import record, text
from edittools.record import IMAGE
from edittools.stream.batch import Batch, Shard
from edittools.vlm.backends.endpoint import EndpointClient
from edittools.vlm.requests import RequestPolicy, RequestStats, request_all
from edittools.vlm.store import ReplyStore

BAR = 0.95
ANSWER = {"seen": "a", "place": "b", "said": "c", "one": {"seen": "a"}, "two": {"place": "b"}}


def kinds() -> dict[str, Kind]:
    """Two kinds that look at the same images, and one that rewords what the first has said."""

    def look(name: str, row: Row) -> Conversation:
        answer = yield Question(row.pair(), f"Say `{name}` of {row.id}.", open_to_more(name))
        return {name: answer[name]}

    def reword(row: Row) -> Conversation:
        answer = yield Question((), f"Reword {row.values['seen']} of {row.id}.", open_to_more("said"))
        return {"said": answer["said"]}

    def kind(name: str, converse: Any, after: tuple[str, ...] = ()) -> Kind:
        return Kind(name, "pair", {name: pa.string()}, converse, after=after)

    return {
        "one": kind("seen", functools.partial(look, "seen")),
        "two": kind("place", functools.partial(look, "place")),
        "three": kind("said", reword, ("one", "two")),
    }


def open_to_more(name: str) -> dict[str, Any]:
    """A schema for one text that lets the server's fixed answer have other keys beside it."""
    return record(**{name: text(name)}) | {"additionalProperties": True}


def batches(rows: int, side: int) -> Iterator[Batch]:
    """Rows of two out of 16 images, 256 to a batch."""
    rng = np.random.default_rng(0)
    files = [simplejpeg.encode_jpeg(noise(rng, side), quality=90) for _ in range(16)]
    images = [{"bytes": file, "width": side, "height": side, "format": "jpeg"} for file in files]
    for start in range(0, rows, 256):
        numbers = range(start, min(start + 256, rows))
        columns = {
            "id": pa.array([f"r{k}" for k in numbers]),
            "source": pa.array([[images[k % 16]] for k in numbers], pa.list_(IMAGE)),
            "target": pa.array([images[(k + 1) % 16] for k in numbers], IMAGE),
        }
        batch = pa.record_batch(list(columns.values()), names=list(columns))
        yield Batch(batch, Shard(0, 1, "x"), last=numbers[-1] == rows - 1, seen=len(numbers))


def run(address: str, folder: str, rows: int, side: int, in_flight: int) -> tuple[float, RequestStats]:
    """Seconds and counts of one pass over the rows."""
    stats, store = RequestStats(), ReplyStore(folder)
    policy = RequestPolicy(concurrency=in_flight, repeats=0)

    def ask(requests: Any, check: Any) -> Any:
        return request_all(requests, EndpointClient(address), store, policy, check=check, stats=stats)

    config = CaptionConfig(kinds="one,two,three", model="loopback", structured=False)
    stage = ModelCaptionStage(config, ask, kinds=kinds())
    started = time.perf_counter()
    written = sum(batch.rows.num_rows for batch in stage(batches(rows, side)))
    seconds = time.perf_counter() - started
    store.close()
    assert written == rows, f"{rows - written} rows were rejected"
    return seconds, stats


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1212)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.2, help="until the server answers")
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--json", help="write the numbers here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, loopback(options.seconds, json.dumps(ANSWER)) as (address, seen):
        arguments = (address, folder, options.rows, options.side, options.in_flight)
        seconds, stats = run(*arguments)
        calls = seen().calls
        again, second = run(*arguments)
        asked_again = seen().calls - calls
    ideal = calls * options.seconds / options.in_flight
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10 if sys.platform != "darwin" else 1 << 20)
    numbers: dict[str, Any] = {
        "rows": options.rows,
        "calls": calls,
        "seconds": round(seconds, 3),
        "share of the ideal": round(ideal / seconds, 4),
        "peak memory, MiB": round(memory, 1),
        "places that waited for a request, share": round(stats.starved_share, 4),
        "second run: calls": asked_again,
        "second run: seconds": round(again, 3),
        "second run: replies from the store": second.stored,
    }
    for name, value in numbers.items():
        print(f"{name:42} {value}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(numbers, file, indent=2)
    return 0 if numbers["share of the ideal"] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
