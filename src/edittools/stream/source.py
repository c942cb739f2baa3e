"""Inputs: what the command line names, opened as one source of batches."""

from __future__ import annotations

import io
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import EditError, IncompleteError, UsageError
from edittools.record import COLUMNS, IMAGE, TEXT
from edittools.stream import files, records, rowgroups, text
from edittools.stream.batch import Batch, Shard, empty_batch
from edittools.stream.columns import in_its_language
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History, digest
from edittools.stream.mapping import Mapping
from edittools.stream.pack import unpack_rows
from edittools.stream.rowjson import to_json
from edittools.stream.rows import inline_rows
from edittools.stream.shards import check_end, is_shard_set, set_shards
from edittools.stream.tar import Member, TarReader, Window
from edittools.stream.tree import folder_units
from edittools.stream.units import (
    FILES_PER_SHARD,
    GROWING,
    FolderUnit,
    LinesUnit,
    ParquetUnit,
    ShardUnit,
    Unit,
    reference,
    row_keys,
    unit_for_file,
)
from edittools.stream.wire import WireReader

_INLINE_ROWS = 32  # rows whose pictures are in memory together
BATCH_ROWS = 8192  # rows read from files at a time; the stream between commands cuts them smaller

Select = Callable[[Shard], bool]


class Source(Protocol):
    """Where batches come from."""

    history: History
    rewindable: bool

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def rows(self) -> int | None:
        """An upper bound, where known."""

    @property
    def shards(self) -> list[Shard] | None:
        """None where only reading tells."""

    def batches(self, select: Select) -> Iterator[Batch]:
        """The batches of the selected shards, in order; a pipe cannot skip and yields all."""


@dataclass(frozen=True)
class Slice:
    """Rows start..stop of a unit; without `stop` to its end, which only reading the unit tells."""

    unit: Unit
    start: int = 0
    stop: int | None = None

    @property
    def end(self) -> int:
        return self.unit.rows if self.stop is None else self.stop

    def digest(self) -> str:
        if isinstance(self.unit, GROWING):
            return self.unit.digest_of([(self.start, self.end)])
        whole = self.start == 0 and (self.stop is None or self.stop == self.unit.rows)
        return self.unit.digest if whole else digest(self.unit.digest, str(self.start), str(self.stop))


class FileSource:
    """Shards made of slices of units: one whole unit each, or 1000 loose files, unless they were cut anew.

    A unit is looked through for its columns and rows only when they are asked for: of many tars an array task reads
    its own.
    """

    rewindable = True

    def __init__(
        self, units: list[Unit | None], items: list[list[Slice] | None] | None = None, history: History | None = None
    ) -> None:
        """A unit that is None is a shard that is missing: the others keep their numbers (`--partial`)."""
        self.units = [unit for unit in units if unit is not None]
        self.every = items if items is not None else [item for unit in units for item in _whole(unit)]
        self.items = [item for item in self.every if item is not None]
        self.count = len(self.every)
        self.history = history if history is not None else History()
        for unit in self.units if history is None else ():
            self.history = self.history.merge(unit.history)
        self.shards: list[Shard] | None = [
            Shard(k, self.count, self._digest(item)) for k, item in enumerate(self.every) if item is not None
        ]
        self.digests = [shard.digest for shard in self.shards]  # of the shards of all tasks

    @staticmethod
    def _digest(item: list[Slice]) -> str:
        if len(item) == 1:
            return item[0].digest()
        unit = item[0].unit if item else None
        if isinstance(unit, GROWING) and all(piece.unit is unit for piece in item):
            return unit.digest_of([(piece.start, piece.end) for piece in item])
        return digest(*(piece.digest() for piece in item))

    def row_keys(self, index: int) -> np.ndarray:
        """What names the rows of a shard, see units.row_keys."""
        item = self.every[index]
        assert item is not None
        return _row_keys(item)

    @cached_property
    def used(self) -> list[Unit]:
        """The units whose rows are read; all where none is."""
        return list(dict.fromkeys(piece.unit for item in self.items for piece in item)) or self.units

    @cached_property
    def schema(self) -> pa.Schema:
        sets: dict[object, list[pa.Schema]] = {}
        for unit in self.used:
            declared = isinstance(unit, ParquetUnit) or not unit.renamed
            together = unit.folder if isinstance(unit, ShardUnit) else unit if declared else "observed"
            sets.setdefault(together, []).append(unit.schema)
        # Of values that declare no type every input has its own idea, and so has every shard that a task made of one.
        return unify([unify(schemas, as_text=True) for schemas in sets.values()])

    @cached_property
    def rows(self) -> int | None:
        return sum(piece.end - piece.start for item in self.items for piece in item)

    @property
    def foreign_ids(self) -> bool:
        """Whether the data bring ids of their own."""
        return any(getattr(unit, "foreign_ids", False) for unit in self.used)

    def of_task(self, task: tuple[int, int]) -> FileSource:
        """The shards of one task of an array (its number, how many there are): the others are as if they were missing.

        The columns are those of its own inputs; readers of the finished set bring the shards together.
        """
        items = [item if k % task[1] == task[0] else None for k, item in enumerate(self.every)]
        made = FileSource([*self.units], items, self.history)
        made.digests = self.digests
        return made

    def batches(self, select: Select) -> Iterator[Batch]:
        assert self.shards is not None
        for shard, item in zip(self.shards, self.items):
            if not select(shard):
                continue
            for piece in item:
                wanted = piece.end - piece.start
                for rows, rejects in piece.unit.read(piece.start, piece.end, max(1, min(BATCH_ROWS, wanted))):
                    aligned = align(rows, self.schema)
                    yield Batch(aligned, shard, False, rows.num_rows + len(rejects), rejects)
            yield Batch(empty_batch(self.schema), shard, last=True)

    @property
    def unrenamed(self) -> list[str]:
        """The columns of inputs that declare them, which `--map` has not renamed yet."""
        return list(dict.fromkeys(name for unit in self.used if not unit.renamed for name in unit.schema.names))

    def remark(self) -> str:
        """Which texts were not UTF-8, and what they were read as."""
        guesses = text.Guesses()
        for unit in {*self.units}:
            guesses.update(getattr(unit, "guesses", ()))
        named = ", ".join(f"{count} as {name}" for name, count in guesses.most_common())
        return f"{guesses.total()} texts are not UTF-8, and were read by a guess: {named}" if named else ""

    def limited(self, limit: int) -> FileSource:
        """The first `limit` rows; shards after them are left out, all but an empty first one."""
        items: list[list[Slice] | None] = []
        left = limit
        for item in self.items:
            if left <= 0 and items:
                break
            kept = []
            for piece in item:
                shorten = getattr(piece.unit, "shorten", None)
                if shorten is not None:
                    shorten(piece.start + max(left, 1))
                stop = min(piece.end, piece.start + left)
                if stop > piece.start or piece.start == piece.end:
                    kept.append(Slice(piece.unit, piece.start, stop))
                left -= stop - piece.start
            items.append(kept)
        return FileSource([*self.units], items, self.history)

    def resharded(self, rows: int | None, size: int | None, kept: list[np.ndarray] | None = None) -> FileSource:
        """The same rows cut into shards of `rows` rows, or of at most `size` bytes of pictures.

        `kept` are the keys of the rows of shards that were cut before: they stay as they are, if all of their rows are
        still there, and the shards of the others come after them.
        """
        slices = [piece for item in self.items for piece in item]
        items: list[list[Slice] | None] = []
        grown = _grown(slices, kept) if kept else None
        if grown is not None:
            items, slices = grown
            if not slices:
                return FileSource([*self.units], items, self.history)
        current: list[Slice] = []
        filled = 0
        limit = size if size is not None else rows
        assert limit is not None
        for piece in slices:
            start = piece.start
            for stop, weight in _cuts(piece, filled, limit, by_size=size is not None):
                if stop > start:
                    current.append(Slice(piece.unit, start, stop))
                start, filled = stop, weight
                if stop < piece.end:
                    items.append(current)
                    current = []
        if current or not items:
            items.append(current)
        return FileSource([*self.units], items, self.history)


def _cuts(piece: Slice, filled: int, limit: int, by_size: bool) -> Iterator[tuple[int, int]]:
    """Where a slice is cut, and how full the shard is that begins there; last its end, and how full the shard is there.

    `filled` is how full the shard is in which the slice begins.
    """
    if by_size:
        sizes = piece.unit.row_sizes()
        for row in range(piece.start, piece.end):
            weight = int(sizes[row])
            if filled and filled + weight > limit:
                yield row, 0
                filled = 0
            filled += weight
    else:
        start = piece.start
        while piece.end - start > limit - filled:
            start, filled = start + limit - filled, 0
            yield start, 0
        filled += piece.end - start
    yield piece.end, filled


def _whole(unit: Unit | None) -> Iterator[list[Slice] | None]:
    """The shards that a unit is where nobody cuts it otherwise."""
    if not isinstance(unit, FolderUnit):
        yield None if unit is None else [Slice(unit)]
        return
    for start in range(0, max(unit.rows, 1), FILES_PER_SHARD):
        yield [Slice(unit, start, min(start + FILES_PER_SHARD, unit.rows))]


def _row_keys(slices: list[Slice]) -> np.ndarray:
    found = [row_keys(piece.unit, piece.start, piece.end) for piece in slices]
    return np.concatenate([np.zeros(0, np.uint64), *found])


def _grown(slices: list[Slice], kept: list[np.ndarray]) -> tuple[list[list[Slice] | None], list[Slice]] | None:
    """The slices that are the shards of an earlier run, and those that are left; None where some rows are gone."""
    keys, wanted = _row_keys(slices), np.concatenate(kept)
    order = np.argsort(keys)
    places = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)] if len(keys) else wanted[:0]
    if len(places) < len(wanted) or (keys[places] != wanted).any():
        return None
    ends = np.cumsum([0, *(len(shard) for shard in kept)])
    items: list[list[Slice] | None] = [_pieces(slices, places[a:b]) for a, b in itertools.pairwise(ends)]
    new = np.ones(len(keys), bool)
    new[places] = False
    return items, _pieces(slices, np.flatnonzero(new))


def _pieces(slices: list[Slice], places: np.ndarray) -> list[Slice]:
    """The rows at some places of joined slices, as slices."""
    if not len(places):
        return []
    starts = np.cumsum([0, *(piece.end - piece.start for piece in slices)])
    which = np.searchsorted(starts, places, side="right") - 1
    cuts = np.flatnonzero((np.diff(places) != 1) | (np.diff(which) != 0)) + 1
    found = []
    for run in np.split(np.arange(len(places)), cuts):
        piece, first = slices[which[run[0]]], int(places[run[0]] - starts[which[run[0]]])
        found.append(Slice(piece.unit, piece.start + first, piece.start + first + len(run)))
    return found


class WireSource:
    """An Arrow stream, from a pipe or a file."""

    shards = None

    def __init__(self, reader: WireReader, rewindable: bool = False) -> None:
        self.reader = reader
        self.schema, self.history, self.rows = reader.schema, reader.history, reader.rows
        self.rewindable = False

    def batches(self, select: Select) -> Iterator[Batch]:
        return self.reader.batches()


class WireFileSource:
    """Arrow streams in files, which can be read twice; the columns of several are aligned."""

    shards = None
    rewindable = True

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        readers = [self._reader(path) for path in paths]
        self.schema = unify([reader.schema for reader in readers])
        self.history = History()
        for reader in readers:
            self.history = self.history.merge(reader.history)
        known = [reader.rows for reader in readers if reader.rows is not None]
        self.rows = sum(known) if len(known) == len(readers) else None

    def _reader(self, path: str) -> WireReader:
        file: Any = files.open_read(path)
        if not hasattr(file, "peek"):
            file = io.BufferedReader(file)
        return WireReader(file, path)

    def batches(self, select: Select) -> Iterator[Batch]:
        base = 0
        for path in self.paths:
            highest = -1
            for batch in self._reader(path).batches():
                highest = max(highest, batch.shard.index)
                count = batch.shard.count if len(self.paths) == 1 else None
                shard = replace(batch.shard, index=base + batch.shard.index, count=count)
                yield replace(batch, rows=align(batch.rows, self.schema), shard=shard)
            base += highest + 1


class TarPipeSource:
    """A tar of ours through a pipe; pictures are inline bytes, for there is no file to refer to."""

    shards = None
    rewindable = False

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.content = xxhash.xxh3_128()
        self.window = Window(file, self.content.update)
        self.reader = TarReader(self.window.read, name, self.window.forget)
        note = self.reader.read_note()
        if note is None:
            raise UsageError(
                f"{name}: a tar that edittools did not write cannot be read from a pipe",
                hint="its columns are known only after reading all of it: give the file's name",
            )
        self.schema, self.history = note.schema, note.history
        self.rows: int | None = None

    def _picture(self, member: Member, facts: dict) -> dict:
        data = self.window.read(member.offset, member.size)
        known = {name: facts.get(name) for name in ("width", "height", "format")}
        return reference(bytes=data, **known)

    def batches(self, select: Select) -> Iterator[Batch]:
        for rows in unpack_rows(self.reader, self.schema, self._picture, 64):
            yield Batch(rows, Shard(0, 1, ""), False, rows.num_rows)
        yield Batch(empty_batch(self.schema), Shard(0, 1, digest("tar", self.content.hexdigest())), last=True)


class Inlined:
    """A source whose pictures are made inline bytes, because what they refer to is gone when this process is."""

    shards = None
    rewindable = False

    def __init__(self, source: Source, fetcher: Fetcher) -> None:
        self.source, self.fetcher = source, fetcher
        self.schema, self.history, self.rows = source.schema, source.history, source.rows

    def batches(self, select: Select) -> Iterator[Batch]:
        for batch in self.source.batches(select):
            for start in range(0, max(batch.rows.num_rows, 1), _INLINE_ROWS):
                piece = batch.slice(start, min(start + _INLINE_ROWS, batch.rows.num_rows))
                rows, rejects = inline_rows(piece.rows, self.fetcher, "read")
                yield piece.replace(rows, rejects)


class Limited:
    """The first rows of a pipe."""

    shards = None
    rewindable = False

    def __init__(self, source: Source, limit: int) -> None:
        self.source, self.limit = source, limit
        self.schema, self.history = source.schema, source.history
        self.rows = min(limit, source.rows) if source.rows is not None else limit

    def batches(self, select: Select) -> Iterator[Batch]:
        left = self.limit
        for batch in self.source.batches(select):
            shard = replace(batch.shard, count=None)  # of the shards that the stream speaks of some do not come
            if batch.rows.num_rows >= left:
                yield Batch(batch.rows.slice(0, left), shard, True, left, batch.rejects)
                return
            left -= batch.rows.num_rows
            yield replace(batch, shard=shard)


class Regrouped:
    """A pipe cut into shards anew, by rows or by bytes of pictures, as it goes."""

    shards = None
    rewindable = False

    def __init__(self, source: Source, rows: int | None, size: int | None) -> None:
        self.source, self.per_shard, self.size = source, rows, size
        self.schema, self.history, self.rows = source.schema, source.history, source.rows

    def batches(self, select: Select) -> Iterator[Batch]:
        from edittools.stream.units import picture_bytes

        index, filled = 0, 0
        limit = self.size if self.size is not None else self.per_shard
        assert limit is not None
        parts = _Parts()
        for batch in self.source.batches(select):
            count = batch.rows.num_rows
            parts.begin(batch)
            weights = picture_bytes(batch.rows).tolist() if self.size is not None else [1] * count
            start, seen, rejects = 0, batch.seen, batch.rejects
            for k, weight in enumerate(weights):
                if filled and filled + weight > limit:
                    parts.take(k - start)
                    shard = Shard(index, None, parts.digest())
                    yield Batch(batch.rows.slice(start, k - start), shard, True, seen, rejects)
                    index, filled, start, seen, rejects = index + 1, 0, k, 0, []
                filled += weight
            parts.take(count - start)
            yield Batch(batch.rows.slice(start), Shard(index, None, ""), False, seen, rejects)
        yield Batch(empty_batch(self.schema), Shard(index, None, parts.digest()), last=True)


class _Parts:
    """Which rows of which shards make a shard that is cut anew: [their digest, first row, row after the last]."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int, int]] = []
        self.shard, self.position = -1, 0

    def begin(self, batch: Batch) -> None:
        """The rows that are taken next are those of this batch."""
        if batch.shard.index != self.shard:
            self.shard, self.position = batch.shard.index, 0
        self.held = batch.shard.digest
        if not self.held:  # of what is known only when it has been read whole
            self.held = xxhash.xxh3_128(batch.rows.serialize()).hexdigest()

    def take(self, count: int) -> None:
        held, first = self.held, self.position
        if self.parts and self.parts[-1][0] == held and self.parts[-1][2] == first:  # batches end anywhere
            first = self.parts.pop()[1]
        self.position += count
        self.parts.append((held, first, self.position))

    def digest(self) -> str:
        """Of the parts so far; the next ones are another shard's."""
        made = digest("regrouped", *(f"{held} {first} {stop}" for held, first, stop in self.parts if stop > first))
        self.parts = []
        return made


# ---------------------------------------------------------------- schemas of several inputs


def _unify_types(name: str, a: pa.DataType, b: pa.DataType, as_text: bool) -> pa.DataType:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if COLUMNS.get(name) == TEXT and all(kind == TEXT or _is_text(kind) for kind in (a, b)):
        return TEXT
    if pa.types.is_struct(a) and pa.types.is_struct(b) and IMAGE not in (a, b):
        names = [f.name for f in a] + [f.name for f in b if a.get_field_index(f.name) < 0]
        fields = []
        for inner in names:
            left = a.field(inner).type if a.get_field_index(inner) >= 0 else pa.null()
            right = b.field(inner).type if b.get_field_index(inner) >= 0 else pa.null()
            fields.append((inner, _unify_types(f"{name}.{inner}", left, right, as_text)))
        return pa.struct(fields)
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(_unify_types(name, a.value_type, b.value_type, as_text))
    try:
        one, two = pa.schema([("x", a)]), pa.schema([("x", b)])
        return pa.unify_schemas([one, two], promote_options="permissive").field(0).type
    except pa.ArrowException:
        if as_text and IMAGE not in (a, b):
            return pa.string()
        raise EditError(f"column `{name}` is {a} in one input and {b} in another", hint="read them apart") from None


def unify(schemas: list[pa.Schema], as_text: bool = False) -> pa.Schema:
    """The columns of all inputs together. Where one column has types that do not meet, raises EditError, or makes the
    values text (JSON)."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for column in schema:
            known = types.get(column.name, column.type)
            types[column.name] = _unify_types(column.name, known, column.type, as_text)
    return pa.schema(list(types.items()))


def align(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with the columns of `schema`, null where they have none."""
    if rows.schema.equals(schema):
        return rows
    columns = []
    for column in schema:
        index = rows.schema.get_field_index(column.name)
        columns.append(
            align_array(rows.column(index), column.type) if index >= 0 else pa.nulls(rows.num_rows, column.type)
        )
    return pa.record_batch(columns, schema=schema)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def align_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if kind == TEXT and _is_text(array.type):
        return pa.array([in_its_language(text) for text in array.to_pylist()], type=TEXT)
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        known = dict(zip([f.name for f in array.type], array.flatten()))
        children = [
            align_array(known[f.name], f.type) if f.name in known else pa.nulls(len(array), f.type) for f in kind
        ]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if pa.types.is_list(kind) and pa.types.is_list(array.type):
        offsets = np.asarray(array.offsets)
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        mask = array.is_null() if array.null_count else None
        starts = pa.array(offsets - offsets[0], type=pa.int32())
        return pa.ListArray.from_arrays(starts, align_array(values, kind.value_type), mask=mask)
    if pa.types.is_string(kind) and pa.types.is_nested(array.type):
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in to_json(array)]
        return pa.array(texts, kind)
    return array.cast(kind)


def can_align(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether `align_array` makes a `wanted` of any array of type `kind`, and loses nothing."""
    if kind == wanted or pa.types.is_null(kind):
        return True
    if pa.types.is_struct(kind) and pa.types.is_struct(wanted):
        inner = {field.name: field.type for field in wanted}
        return all(field.name in inner and can_align(field.type, inner[field.name]) for field in kind)
    if pa.types.is_list(kind) and pa.types.is_list(wanted):
        return can_align(kind.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return pa.types.is_large_string(kind) or pa.types.is_integer(kind)
    if pa.types.is_floating(wanted):
        return pa.types.is_floating(kind)
    integers = pa.types.is_signed_integer(kind) and pa.types.is_signed_integer(wanted)
    return integers and kind.bit_width <= wanted.bit_width


# ---------------------------------------------------------------- opening


class _Prefixed(io.RawIOBase):
    """A file whose first bytes have been read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self.head, self.file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.head:
            count = min(len(buffer), len(self.head))
            buffer[:count] = self.head[:count]
            self.head = self.head[count:]
            return count
        # What is there now, not a full buffer: a slow producer's rows must not wait for a megabyte of them.
        return self.file.readinto1(buffer)  # type: ignore[attr-defined]


def _spooled_parquet(file: BinaryIO, name: str, mapping: Mapping | None) -> Source:
    """A Parquet file through a pipe. It keeps its index at the end, so it has to be a file while it is read."""
    state = xxhash.xxh3_128()
    with tempfile.NamedTemporaryFile(prefix="edittools-", suffix=".parquet") as spool:
        while piece := file.read(1 << 20):
            spool.write(piece)
            state.update(piece)
        spool.flush()
        # The file goes at once, whatever happens later; what is open stays readable.
        unit = ParquetUnit(spool.name, label=name, content=state.hexdigest(), mapping=mapping)
        rowgroups.shared().adopt(spool.name)
    return Inlined(FileSource([unit]), Fetcher())


def stdin_has_data() -> bool:
    """Whether standard input is a pipe, a socket or a regular file (not a terminal, not /dev/null)."""
    import stat

    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def open_pipe(file: BinaryIO, name: str = "standard input", mapping: Mapping | None = None) -> Source:
    """The source that comes through an open file, known by its first bytes."""
    head = b""
    while len(head) < 1024:
        piece = file.read(1024 - len(head))
        if not piece:
            break
        head += piece
    if not head:
        raise IncompleteError(f"{name}: empty: the command before this one wrote nothing")
    whole = io.BufferedReader(_Prefixed(head, file), buffer_size=1 << 20)
    if head[:4] == b"\xff\xff\xff\xff":
        return WireSource(WireReader(whole, name))
    if head[257:262] == b"ustar":
        return TarPipeSource(whole, name)
    if head[:4] == b"PAR1":
        return _spooled_parquet(whole, name, mapping)
    if records.reader_for(name, head) is not None:
        return FileSource([LinesUnit(name, whole.read(), mapping=mapping)])
    if len(head) < 8 and b"\xff\xff\xff\xff".startswith(head[:4]):
        raise IncompleteError(f"{name}: the stream was cut off in its first bytes")
    raise EditError(f"{name}: not an Arrow stream, a tar, a Parquet file or JSON")


def open_source(
    paths: list[str], *, partial: bool = False, stdin: BinaryIO | None = None, mapping: Mapping | None = None
) -> Source:
    """Open what the command line names; nothing, or `-`, is standard input. `mapping` is what it says of columns."""
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
    if all(map(_is_stream, expanded)):
        return WireFileSource(expanded)
    placed = zip(expanded, _places(expanded))
    mapping = mapping or Mapping()
    return FileSource([unit for path, place in placed for unit in open_units(path, partial, place, mapping)])


def _places(paths: list[str]) -> list[str]:
    """What tells the files of inputs that are read together apart: nothing where there is one, else their names."""
    if len(paths) == 1:
        return [""]
    names = [os.path.basename(os.path.normpath(path)) for path in paths]
    times = Counter(names)
    return [name if times[name] == 1 else f"{number}-{name}" for number, name in enumerate(names)]


def _is_stream(path: str) -> bool:
    if files.is_dir(path) or not files.exists(path):
        return False
    with files.open_read(path) as file:
        return file.read(4) == b"\xff\xff\xff\xff"


def open_units(path: str, partial: bool, place: str, mapping: Mapping) -> list[Unit | None]:
    """The units of one path: the shards of a set (None for a missing one), the files in a folder, or the file.

    `place` stands before the paths of the files of a folder, and for the name of a file.
    """
    if text.valid(path) != path:
        raise EditError(f"{path}: the name is not UTF-8", hint="rename it: rows say where their pictures are")
    if not files.exists(path):
        raise EditError(f"{path}: no such file or folder")
    if not files.is_url(path):
        path = os.path.abspath(path)  # references have to hold in a process that was started elsewhere
    if not files.is_dir(path):
        if _is_stream(path):
            raise UsageError(
                f"{path}: an Arrow stream cannot be mixed with inputs of other kinds",
                hint=f"`edit cat {path} -o folder/` first",
            )
        return [unit_for_file(path, place or None, mapping)]
    if is_shard_set(path):
        numbers, count = set_shards(path, partial)
        shards: dict[int, Unit] = {number: ShardUnit(path, number) for number in numbers}
        if not partial:
            check_end(path, sum(unit.rows for unit in shards.values()))
        return [shards.get(number) for number in range(count)] if shards else []
    return list(folder_units(path, place, mapping))
