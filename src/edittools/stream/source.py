"""Where batches come from: shards made of slices of files, by the protocol that pipes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa

from edittools.errors import DamagedError
from edittools.stream import columns, files, text
from edittools.stream.batch import Batch, Shard, empty_batch
from edittools.stream.counted import Counted
from edittools.stream.history import History, digest
from edittools.stream.input_reader import Growing, InputReader, Part
from edittools.stream.readers.parquet import ParquetReader
from edittools.stream.readers.shard import ShardReader
from edittools.stream.schemas import align, unify
from edittools.stream.slices import Slice, cuts, grown, opened, slice_keys, whole_shards

BATCH_ROWS = 8192  # rows read from files at a time; the stream between commands cuts them smaller

Select = Callable[[Shard], bool]


class Source(Protocol):
    """Where batches come from."""

    history: History
    replayable: bool

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


class FileSource:
    """Shards made of slices of inputs: one whole input each, or 1000 loose files, unless they were cut anew.

    An input is looked through for its columns and rows only when they are asked for: of many tars an array task reads
    its own.
    """

    replayable = True

    def __init__(
        self,
        readers: list[InputReader | None],
        items: list[list[Slice] | None] | None = None,
        history: History | None = None,
    ) -> None:
        """An input that is None is a shard that is missing: the others keep their numbers (`--partial`)."""
        self.readers = [reader for reader in readers if reader is not None]
        self.every = items if items is not None else [item for reader in readers for item in whole_shards(reader)]
        self.items = [item for item in self.every if item is not None]
        self.count = len(self.every)
        self.changed = ""  # why shards that were cut before cannot stay
        self.whole = self  # with the shards of all tasks
        self.history = history if history is not None else History()
        for reader in self.readers if history is None else ():
            self.history = self.history.merge(reader.history)

    @cached_property
    def shards(self) -> list[Shard]:
        return [Shard(k, self.count, self._digest(item)) for k, item in enumerate(self.every) if item is not None]

    @cached_property
    def digests(self) -> list[str]:
        """Readers of the shards of all tasks."""
        return [shard.digest for shard in self.whole.shards]

    @staticmethod
    def _digest(item: list[Slice]) -> str:
        if len(item) == 1:
            return item[0].digest()
        reader = item[0].reader if item else None
        if isinstance(reader, Growing) and all(piece.reader is reader for piece in item):
            return reader.digest_of([(piece.start, piece.end) for piece in item])
        return digest(*(piece.digest() for piece in item))

    def row_keys(self, index: int) -> np.ndarray:
        """What names the rows of a shard, see input_reader.row_keys."""
        item = self.every[index]
        assert item is not None
        return slice_keys(item)

    @cached_property
    def used(self) -> list[InputReader]:
        """The inputs whose rows are read; all where none is, but of those that other tasks read."""
        read = list(dict.fromkeys(piece.reader for item in self.items for piece in item))
        others = [reader for reader in self.readers if not isinstance(reader, Counted)]
        return read or others or [reader.reader for reader in self.readers[:1] if isinstance(reader, Counted)]

    @cached_property
    def _marked(self) -> pa.Schema:
        """The columns, of which one may be for what stands under rare names."""
        sets: dict[object, list[pa.Schema]] = {}
        for reader in self.used:
            declared = isinstance(reader, ParquetReader) or not reader.renamed
            together = reader.folder if isinstance(reader, ShardReader) else reader if declared else "observed"
            sets.setdefault(together, []).append(reader.schema)
        # Of values that declare no type every input has its own idea, and so has every shard that a task made of one.
        return unify([unify(schemas, as_text=True) for schemas in sets.values()])

    @cached_property
    def schema(self) -> pa.Schema:
        return columns.unmarked(self._marked)

    @cached_property
    def rows(self) -> int | None:
        return sum(piece.end - piece.start for item in self.items for piece in item)

    @property
    def foreign_ids(self) -> bool:
        """Whether the data bring ids of their own."""
        return any(getattr(reader, "foreign_ids", False) for reader in self.used)

    def of_task(self, task: tuple[int, int]) -> FileSource:
        """The shards of one task of an array (its number, how many there are): the others are as if they were missing.

        The columns are those of its own inputs; readers of the finished set bring the shards together.
        """
        items = [opened(item) if k % task[1] == task[0] and item else None for k, item in enumerate(self.every)]
        made = FileSource([*self.readers], items, self.history)
        made.whole, made.changed = self.whole, self.changed
        return made

    def batches(self, select: Select) -> Iterator[Batch]:
        for shard, item in zip(self.shards, self.items):
            if not select(shard):
                continue
            for piece in item:
                for rows, rejects in self._read(piece):
                    aligned = align(rows, self._marked)
                    yield Batch(aligned, shard, False, rows.num_rows + len(rejects), rejects)
            yield Batch(empty_batch(self.schema), shard, last=True)

    def _read(self, piece: Slice) -> Iterator[Part]:
        """The rows of a slice. Where a table of several turns out to be damaged, its other rows have failed."""
        position, most = piece.start, max(1, min(BATCH_ROWS, piece.end - piece.start))
        try:
            for rows, rejects in piece.reader.read(piece.start, piece.end, most):
                position += rows.num_rows + len(rejects)
                yield rows, rejects
        except DamagedError as error:
            if len(self.readers) == 1 or not isinstance(piece.reader, ParquetReader) or files.is_url(piece.reader.name):
                raise
            yield piece.reader.damaged(position, piece.end, error)

    @property
    def unrenamed(self) -> list[str]:
        """The columns of inputs that declare them, which `--map` has not renamed yet."""
        return list(dict.fromkeys(name for reader in self.used if not reader.renamed for name in reader.schema.names))

    def remark(self) -> str:
        """Which texts were not UTF-8, and what they were read as."""
        guesses = text.Guesses()
        for reader in {*self.readers}:
            guesses.update(getattr(reader, "guesses", ()))
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
                shorten = getattr(piece.reader, "shorten", None)
                if shorten is not None:
                    shorten(piece.start + max(left, 1))
                stop = min(piece.end, piece.start + left)
                if stop > piece.start or piece.start == piece.end:
                    kept.append(Slice(piece.reader, piece.start, stop))
                left -= stop - piece.start
            items.append(kept)
        return FileSource([*self.readers], items, self.history)

    def resharded(self, rows: int | None, size: int | None, kept: list[np.ndarray] | None = None) -> FileSource:
        """The same rows cut into shards of `rows` rows, or of at most `size` bytes of images.

        `kept` are the keys of the rows of shards that were cut before: they stay as they are, if all of their rows are
        still there, and the shards of the others come after them.
        """
        slices = [piece for item in self.items for piece in item]
        items: list[list[Slice] | None] = []
        longer = grown(slices, kept) if kept else None
        if isinstance(longer, str):
            self.changed = longer
        elif longer is not None:
            items, slices = longer
            if not slices:
                return FileSource([*self.readers], items, self.history)
        current: list[Slice] = []
        filled = 0
        limit = size if size is not None else rows
        assert limit is not None
        sizes: dict[InputReader, np.ndarray] | None = {} if size is not None else None
        for piece in slices:
            start = piece.start
            for stop, weight in cuts(piece, filled, limit, sizes):
                if stop > start:
                    current.append(Slice(piece.reader, start, stop))
                start, filled = stop, weight
                if stop < piece.end:
                    items.append(current)
                    current = []
        if current or not items:
            items.append(current)
        made = FileSource([*self.readers], items, self.history)
        made.changed = self.changed
        return made
