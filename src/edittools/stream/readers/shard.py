"""A shard of a shard set."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from edittools.stream import files
from edittools.stream.history import digest
from edittools.stream.input_reader import Part, image_bytes
from edittools.stream.mapping import Mapping
from edittools.stream.shards import is_shard, read_footer, read_rows, shard_index, shard_name


def claim(path: str, head: bytes) -> int:
    return 3 if head[:4] == b"PAR1" and shard_index(os.path.basename(path)) is not None and is_shard(path) else 0


def open_file(path: str, label: str | None, mapping: Mapping) -> ShardReader:
    """The images are in the tar beside it."""
    folder, name = os.path.split(path)
    index = shard_index(name)
    assert index is not None
    return ShardReader(folder, index)


class ShardReader:
    """One shard of a shard set."""

    renamed = False

    def __init__(self, folder: str, index: int) -> None:
        self.folder, self.index = folder, index
        self.name = files.join(folder, shard_name(index))
        footer = read_footer(self.name + ".parquet")
        self.schema, self.history, self.rows = footer.schema, footer.history, footer.rows
        self.digest = digest(footer.tar_digest)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        for rows in read_rows(self.folder, self.index, start, stop, batch_rows):
            yield rows, []

    def row_sizes(self) -> np.ndarray:
        sizes = []
        for rows, _ in self.read(0, self.rows, 1 << 16):
            sizes.append(image_bytes(rows))
        return np.concatenate(sizes) if sizes else np.zeros(0, np.int64)
