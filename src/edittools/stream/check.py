"""`edit cat --check`: is a data set whole, and is every id in it unique?"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import xxhash

from edittools.errors import EditError, RowError
from edittools.stream import codec, files
from edittools.stream.fetch import Fetcher
from edittools.stream.readers.shard import ShardReader
from edittools.stream.rows import column_values, visit_images
from edittools.stream.run import RunOptions, open_input
from edittools.stream.shards import read_footer
from edittools.stream.source import FileSource


def check_inputs(paths: list[str], options: RunOptions) -> None:
    """Read everything once; print one line. Raises EditError at the first thing that is not as it should be."""
    source = open_input(paths, options)
    tars = 0
    if isinstance(source, FileSource):
        for reader in source.readers:
            if isinstance(reader, ShardReader):
                _check_tar(reader)
                tars += 1
    fetcher = Fetcher()
    seen: list[np.ndarray] = []
    rows = images = 0

    def visit(row: int, place: tuple[int, ...], reference: dict[str, Any]) -> dict[str, Any]:
        nonlocal images
        header = codec.probe(fetcher.get(reference))
        stated = (reference["width"], reference["height"], reference["format"])
        if None not in stated and stated != (header.width, header.height, header.format):
            raise RowError("header disagrees", f"{stated} stated, {header.width}×{header.height} {header.format}")
        images += 1
        return reference

    for batch in source.batches(lambda shard: True):
        ids = column_values(batch.rows, "id")
        _, failed = visit_images(batch.rows, visit)
        for number, error in sorted(failed.items()):
            raise EditError(f"row {ids[number]}: {error}")
        for reject in batch.rejects:
            raise EditError(f"row {reject.id}: {reject.reason}: {reject.value}")
        rows += batch.rows.num_rows
        seen.append(np.array([xxhash.xxh3_64_intdigest(str(i).encode()) for i in ids], np.uint64))
    every = np.sort(np.concatenate(seen)) if seen else np.zeros(0, np.uint64)
    doubles = int((every[1:] == every[:-1]).sum())
    if doubles:
        raise EditError(f"{doubles} ids occur more than once", hint="`edit dedup` names exact copies")
    print(f"{rows} rows, {images} images, {tars} tars verified, ids unique", file=sys.stderr)


def _check_tar(reader: ShardReader) -> None:
    """Compare a shard's tar with the digest in its Parquet file."""
    footer = read_footer(reader.name + ".parquet")
    if not footer.tar_size:
        return
    state = xxhash.xxh3_128()
    with files.open_read(reader.name + ".tar") as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    if state.hexdigest() != footer.tar_digest:
        raise EditError(f"{reader.name}.tar: its digest is not the one in {reader.name}.parquet: the bytes changed")
