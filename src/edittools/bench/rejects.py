"""Rows that fell out on the way to a set: they are cases too, and a report has to count them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from edittools.stream import files
from edittools.stream.batch import Reject
from edittools.stream.readers.shard import ShardReader
from edittools.stream.shards import REJECTS, shard_name
from edittools.stream.source import FileSource, Source


def stored_rejects(source: Source) -> Iterator[Reject]:
    """Out of the `_rejects/` of the shards that are read; a stream has them in its batches."""
    for reader in source.readers if isinstance(source, FileSource) else ():
        if isinstance(reader, ShardReader):
            path = files.join(reader.folder, REJECTS, f"{shard_name(reader.index)}.jsonl")
            if files.exists(path):
                yield from (Reject.from_dict(json.loads(line)) for line in files.read_bytes(path).splitlines())
