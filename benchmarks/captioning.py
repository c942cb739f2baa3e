"""Captions by a model: how near conversations of several kinds come to the endpoint's own pace, and memory.

    python benchmarks/captioning.py [--rows N] [--in-flight N] [--seconds S] [--side N] [--json FILE]

A server on loopback, in a process of its own, answers every call after 0.2 s with JSON that every kind here takes.
Each row has two images in one file of 16, as rows of a shard have, and three kinds: two that share one call about the
images, and a rewording that waits for them: two calls a row. The ideal is that all places in flight are busy from the
first call to the last: calls * seconds / in flight, 312.5 s for 50,000 rows. The same is then run again with the store,
and asks nobody. Memory is the greatest that this process had, after a tenth of the rows, and at the end: it is flat
where both are alike. CPU is that of this process, of all its threads, beside the server's.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from edittools.stream import files
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


def batches(rows: int, side: int, folder: str) -> Iterator[Batch]:
    """Rows of two out of 16 images, 256 to a batch."""
    rng = np.random.default_rng(0)
    path, images = os.path.join(folder, "images"), []
    with open(path, "wb") as file:
        file.write(bytes(512))  # an image that begins with its file would be one of its own
        for _ in range(16):
            data = simplejpeg.encode_jpeg(noise(rng, side), quality=90)
            size = {"width": side, "height": side, "format": "jpeg"}
            images.append({"file": path, "offset": file.tell(), "length": len(data), **size})
            file.write(data)
    images = [image | {"etag": files.etag(path)} for image in images]
    for start in range(0, rows, 256):
        numbers = range(start, min(start + 256, rows))
        columns = {
            "id": pa.array([f"r{k}" for k in numbers]),
            "source": pa.array([[images[k % 16]] for k in numbers], pa.list_(IMAGE)),
            "target": pa.array([images[(k + 1) % 16] for k in numbers], IMAGE),
        }
        batch = pa.record_batch(list(columns.values()), names=list(columns))
        yield Batch(batch, Shard(0, 1, "x"), last=numbers[-1] == rows - 1, seen=len(numbers))


def peak() -> float:
    """The most memory that this process had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10 if sys.platform != "darwin" else 1 << 20)


@dataclass
class Run:
    """One pass over the rows."""

    seconds: float
    cpu: float  # seconds of all threads
    early: float  # peak memory after a tenth of the rows, MiB
    late: float  # and at the end
    stats: RequestStats


def run(address: str, folder: str, rows: int, side: int, in_flight: int) -> Run:
    stats, store = RequestStats(), ReplyStore(os.path.join(folder, "replies"))
    policy = RequestPolicy(concurrency=in_flight, repeats=0)

    def ask(requests: Any, check: Any) -> Any:
        return request_all(requests, EndpointClient(address), store, policy, check=check, stats=stats)

    config = CaptionConfig(kinds="one,two,three", model="loopback", structured=False)
    stage = ModelCaptionStage(config, ask, kinds=kinds())
    started, cpu, written, early = time.perf_counter(), time.process_time(), 0, 0.0
    for batch in stage(batches(rows, side, folder)):
        written += batch.rows.num_rows
        early = early or (peak() if written >= rows / 10 else 0.0)
    found = Run(time.perf_counter() - started, time.process_time() - cpu, early, peak(), stats)
    store.close()
    assert written == rows, f"{rows - written} rows were rejected"
    return found


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
        first = run(*arguments)
        calls = seen().calls
        second = run(*arguments)
        asked_again = seen().calls - calls
    ideal = calls * options.seconds / options.in_flight
    numbers: dict[str, Any] = {
        "rows": options.rows,
        "calls": calls,
        "seconds": round(first.seconds, 3),
        "share of the ideal": round(ideal / first.seconds, 4),
        "CPU ms per call": round(1e3 * first.cpu / calls, 3),
        "places that waited for a request, share": round(first.stats.starved_share, 4),
        "peak memory after a tenth of the rows, MiB": round(first.early, 1),
        "peak memory after all rows, MiB": round(first.late, 1),
        "second run: calls": asked_again,
        "second run: seconds": round(second.seconds, 3),
        "second run: CPU ms per reply": round(1e3 * second.cpu / calls, 3),
        "second run: replies from the store": second.stats.stored,
    }
    for name, value in numbers.items():
        print(f"{name:44} {value}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(numbers, file, indent=2)
    return 0 if numbers["share of the ideal"] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
