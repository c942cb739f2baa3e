"""Ranges of the rows of inputs: how they are cut into shards, and which of them are an earlier run's shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edittools.stream.counted import Counted
from edittools.stream.history import digest
from edittools.stream.input_reader import Growing, InputReader, row_keys
from edittools.stream.readers.folder import FILES_PER_SHARD, FolderReader


@dataclass(frozen=True)
class Slice:
    """Rows start..stop of an input; without `stop` to its end, which only reading the input tells."""

    reader: InputReader
    start: int = 0
    stop: int | None = None

    @property
    def end(self) -> int:
        return self.reader.rows if self.stop is None else self.stop

    def digest(self) -> str:
        if self.start == 0 and self.stop is None:
            return self.reader.digest
        if isinstance(self.reader, Growing):
            return self.reader.digest_of([(self.start, self.end)])
        whole = self.start == 0 and self.stop == self.reader.rows
        return self.reader.digest if whole else digest(self.reader.digest, str(self.start), str(self.stop))


def cuts(
    piece: Slice, filled: int, limit: int, sizes: dict[InputReader, np.ndarray] | None
) -> Iterator[tuple[int, int]]:
    """Where a slice is cut, and how full the shard is that begins there; last its end, and how full the shard is there.

    `filled` is how full the shard is in which the slice begins: in rows, or in bytes where there are `sizes` to note
    those of every input's rows in.
    """
    if sizes is not None:
        if piece.reader not in sizes:
            sizes[piece.reader] = piece.reader.row_sizes()
        of_rows = sizes[piece.reader]
        for row in range(piece.start, piece.end):
            weight = int(of_rows[row])
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


def whole_shards(reader: InputReader | None) -> Iterator[list[Slice] | None]:
    """The shards that an input is where nobody cuts it otherwise."""
    if not isinstance(reader, FolderReader):
        yield None if reader is None else [Slice(reader)]
        return
    for start in range(0, max(reader.rows, 1), FILES_PER_SHARD):
        yield [Slice(reader, start, min(start + FILES_PER_SHARD, reader.rows))]


def opened(slices: list[Slice]) -> list[Slice]:
    return [
        replace(piece, reader=piece.reader.reader) if isinstance(piece.reader, Counted) else piece for piece in slices
    ]


def slice_keys(slices: list[Slice]) -> np.ndarray:
    found = [row_keys(piece.reader, piece.start, piece.end) for piece in slices]
    return np.concatenate([np.zeros(0, np.uint64), *found])


def grown(slices: list[Slice], kept: list[np.ndarray]) -> tuple[list[list[Slice] | None], list[Slice]] | str:
    """The slices that are the shards of an earlier run, and those that are left; or which of its rows are gone."""
    keys, wanted = slice_keys(slices), np.concatenate(kept)
    order = np.argsort(keys)
    places = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)] if len(keys) else wanted[:0]
    gone = np.flatnonzero(keys[places] != wanted) if len(places) else np.arange(len(wanted))
    if len(gone):
        ends = np.cumsum([len(shard) for shard in kept])
        shard = int(np.searchsorted(ends, gone[0], side="right"))
        row = int(gone[0] - (ends[shard - 1] if shard else 0))
        return f"{len(gone)} of its {len(wanted)} rows are gone or changed, row {row} of shard {shard} is the first"
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
        found.append(Slice(piece.reader, piece.start + first, piece.start + first + len(run)))
    return found
