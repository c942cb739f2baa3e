"""Inputs: what the command line names, opened as one source of batches."""

from __future__ import annotations

import functools
import io
import os
from collections import Counter

from edittools.errors import DamagedError, EditError, UsageError
from edittools.stream import files, text
from edittools.stream.arranged import paired_archive
from edittools.stream.counted import Counted, RowCounts
from edittools.stream.input_reader import DamagedReader, InputReader
from edittools.stream.joined import parts_of
from edittools.stream.layouts import Arrangement
from edittools.stream.mapping import Mapping
from edittools.stream.pipes import IpcFileSource, open_pipe, stdin_has_data
from edittools.stream.readers import HEAD, archive, arrow, reader_for_file
from edittools.stream.readers.shard import ShardReader
from edittools.stream.readers.tar import TarFileReader
from edittools.stream.shards import check_end, is_shard_set, set_shards
from edittools.stream.source import FileSource, Source
from edittools.stream.tree import folder_readers


def open_source(
    paths: list[str],
    *,
    partial: bool = False,
    stdin: io.BufferedIOBase | None = None,
    mapping: Mapping | None = None,
    counts: RowCounts | None = None,
) -> Source:
    """Open what the command line names; nothing, or `-`, is standard input. `mapping` is what it says of columns,
    `counts` what the tasks of an array know of the files' rows."""
    if not paths:
        if not stdin_has_data():
            raise UsageError("no INPUT", hint="name a shard set, a folder or a file, or pipe a stream in")
        paths = ["-"]
    if paths.count("-") > 1:
        raise UsageError("standard input (`-`) can be read only once")
    if "-" in paths:
        if len(paths) > 1:
            raise UsageError("`-` cannot be mixed with other inputs", hint="write the stream to a file first")
        return open_pipe(stdin or open(0, "rb", closefd=False), "standard input", mapping)
    expanded: list[str] = []
    for path in map(files.local, paths):
        found = files.expand(path)
        if not found:
            raise EditError(f"{path}: nothing matches")
        expanded += found
    expanded = _wholes(expanded)
    if all(map(_is_stream, expanded)):
        return IpcFileSource(expanded)
    placed = zip(expanded, _places(expanded))
    mapping = mapping or Mapping()
    readers: list[InputReader | None] = []
    damaged: list[DamagedError] = []
    for path, place in placed:
        try:
            readers += open_readers(path, partial, place, mapping, counts)
        except DamagedError as error:  # of several: it costs its rows
            damaged.append(error)
            if len(damaged) == len(expanded) or files.is_dir(path):
                raise damaged[0] from None
            readers.append(DamagedReader(path, place or os.path.basename(path), str(error)))
    counted = [reader for reader in readers if isinstance(reader, Counted)]
    for reader in readers if len(readers) > 1 else ():
        if isinstance(reader, Counted):
            reader.several = True
        elif isinstance(reader, TarFileReader):
            reader.beside_others()
    if counts is not None:
        counts.count(counted)
    return FileSource(readers)


def _wholes(paths: list[str]) -> list[str]:
    """The paths, of the parts of one file only the first one, whichever of them were named."""
    found: list[str] = []
    known: set[str] = set()  # parts of what was found: their folder is not listed again
    for path in paths:
        if path not in known:
            parts = parts_of(path)
            if len(parts) == 1 or parts[0] not in known:
                found.append(parts[0])
            known.update(parts if len(parts) > 1 else ())
    return found


def _places(paths: list[str]) -> list[str]:
    """What tells the files of inputs that are read together apart: nothing where there is one, else their names."""
    if len(paths) == 1:
        return [""]
    names = [os.path.basename(os.path.normpath(path)) for path in paths]
    times = Counter(names)
    return [name if times[name] == 1 else f"{number}-{name}" for number, name in enumerate(names)]


def _is_stream(path: str) -> bool:
    """Whether a file is an Arrow stream of ours."""
    if files.is_dir(path) or not files.exists(path):
        return False
    with files.open_read(path) as file:
        if file.read(4) != b"\xff\xff\xff\xff":
            return False
    return not arrow.is_foreign(path)


def open_readers(
    path: str, partial: bool, place: str, mapping: Mapping, counts: RowCounts | None
) -> list[InputReader | None]:
    """The inputs of one path: the shards of a set (None for a missing one), the files in a folder, or the file.

    `place` stands before the paths of the files of a folder, and for the name of a file.
    """
    if text.valid(path) != path:
        raise EditError(f"{path}: the name is not UTF-8", hint="rename it: rows say where their images are")
    if not files.exists(path):
        raise EditError(f"{path}: no such file or folder")
    if not files.is_url(path):
        path = os.path.abspath(path)  # references have to hold in a process that was started elsewhere
    if not files.is_dir(path):
        if counts is not None and path.endswith((".tar", ".parquet")):
            label = place or os.path.basename(path)
            return [Counted(path, label, (files.etag(path),), functools.partial(_open_file, path, place, mapping))]
        return [_open_file(path, place, mapping)]
    if is_shard_set(path):
        numbers, count = set_shards(path, partial)
        shards: dict[int, InputReader] = {number: ShardReader(path, number) for number in numbers}
        if not partial:
            check_end(path, sum(reader.rows for reader in shards.values()))
        return [shards.get(number) for number in range(count)] if shards else []
    return list(folder_readers(path, place, mapping, lazily=counts is not None))


def _open_file(path: str, place: str, mapping: Mapping) -> InputReader:
    if _is_stream(path):
        raise UsageError(
            f"{path}: an Arrow stream cannot be mixed with inputs of other kinds",
            hint=f"`edit cat {path} -o folder/` first",
        )
    if isinstance(mapping.arrangement, Arrangement) and mapping.arrangement.pair is not None and _is_archive(path):
        return paired_archive([path], place or os.path.basename(path), mapping.arrangement)
    return reader_for_file(path, place or None, mapping)


def _is_archive(path: str) -> bool:
    with files.open_read(path) as file:
        head = file.read(HEAD)
    return head[257:262] == b"ustar" or archive.claim(path, head) > 0
