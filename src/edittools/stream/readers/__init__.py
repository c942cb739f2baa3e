"""The kinds of input a command can read, one per file here. The file names are the registry.

A reader has `claim(path, head)`: how sure it is, by its name and its first kilobyte, that a file is its own (the surest
reads it; 1: by its name alone, 2: its first bytes say so, 3: and more than they; 0: it is not), and
`open_file(path, label, mapping)`, which makes the input's reader. `TABLES`, if it has it, are the endings of names by
which files of a folder without images are tables of rows; other files are read where they are named.
"""

from __future__ import annotations

import functools
from typing import Any

from edittools.errors import DamagedError
from edittools.registry import Registry
from edittools.stream import files
from edittools.stream.input_reader import InputReader
from edittools.stream.mapping import Mapping

READERS = Registry("edittools.stream.readers", "edittools.readers")
HEAD = 1024  # bytes by which a file is known


@functools.cache
def _readers() -> list[Any]:
    return [READERS.load(name) for name in READERS.names]


@functools.cache
def table_endings() -> frozenset[str]:
    """What the names of tables end with, by which a folder's are known."""
    return frozenset(ending for reader in _readers() for ending in getattr(reader, "TABLES", ()))


def reader_for_file(path: str, label: str | None = None, mapping: Mapping | None = None) -> InputReader:
    """The input a single file is. Raises DamagedError for what no reader reads.

    `label` is what stands before the places of its rows; by default the file's name.
    """
    with files.open_read(path) as file:
        head = file.read(HEAD)
    surest = max(_readers(), key=lambda reader: reader.claim(path, head))
    if not surest.claim(path, head):
        raise DamagedError(
            f"{path}: neither a shard set, a tar, a Parquet file, JSON, CSV, an Arrow stream nor an image",
            hint="unpack it first" if head[:2] in (b"\x1f\x8b", b"BZ", b"\x28\xb5", b"\xfd7", b"Ra", b"7z") else None,
        )
    found: InputReader = surest.open_file(path, label, mapping or Mapping())
    return found
