"""Rows that fell out on the way to a set: they are cases too, and a report has to count them."""

from __future__ import annotations

import json

from edittools.stream import files
from edittools.stream.batch import Reject
from edittools.stream.shards import REJECTS, shard_name
from edittools.stream.source import FileSource, Source
from edittools.stream.units import ShardUnit


def stored_rejects(source: Source) -> list[Reject]:
    """Out of the `_rejects/` of the shards that are read; a stream has them in its batches."""
    found = []
    for unit in source.units if isinstance(source, FileSource) else ():
        if isinstance(unit, ShardUnit):
            path = files.join(unit.folder, REJECTS, f"{shard_name(unit.index)}.jsonl")
            if files.exists(path):
                found += [Reject.from_dict(json.loads(line)) for line in files.read_bytes(path).splitlines()]
    return found
