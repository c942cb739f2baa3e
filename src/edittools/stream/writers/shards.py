"""A folder of shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, UsageError
from edittools.stream import files
from edittools.stream.batch import Batch, Reject, Shard
from edittools.stream.counted import COUNTS
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.ipc import Counts
from edittools.stream.rows import referenced_files
from edittools.stream.shards import (
    DECISIONS,
    END,
    REJECTS,
    VERSION,
    ShardWriter,
    is_shard_set,
    output_hash,
    read_footer,
    shard_name,
    shard_numbers,
)
from edittools.stream.sink import require_id

TO = "folder"


def open_sink(path: str, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> ShardSetSink:
    return ShardSetSink(path, overwrite)


class ShardSetSink:
    """A folder of shards; finished shards of the same making are skipped, unless `again` says of one that it is to be
    made anew.
    """

    packs = True

    def __init__(self, folder: str, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.again: Callable[[str], bool] = lambda path: False  # of a finished Parquet file: is it to be made anew?
        self.fetcher = Fetcher()
        self.writer: ShardWriter | None = None
        self.skipping: int | None = None
        self.unknown = False
        self.highest = -1
        self.stated: int | None = None
        self.changed = ""  # how the input is another one than before, where that is known
        self.made_of: Callable[[int], np.ndarray] | None = None  # the keys of the rows that a shard is cut out of

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        require_id(schema)
        self.schema, self.history = schema, history
        self.refuse_others()
        files.make_dirs(self.folder)

    def refuse_others(self) -> None:
        """Raises EditError where something else than a shard set is there."""
        if files.exists(self.folder) and not files.is_url(self.folder) and not os.path.isdir(self.folder):
            raise EditError(f"{self.folder}: exists and is not a folder")
        own = (DECISIONS, COUNTS)
        names = [n for n in files.listdir(self.folder) if not n.startswith(files.TEMPORARY) and n not in own]
        if names and not is_shard_set(self.folder):
            raise EditError(f"{self.folder}: not empty, and not a shard set", hint="choose another -o")

    def refuse_inputs(self, sets: Iterable[str], crawls: Iterable[str] = ()) -> None:
        """Raises UsageError where the output is a set that is read, or lies in a folder whose files are all read.

        It would eat its own input, now or when it is run again.
        """
        own = files.real(self.folder)
        if any(files.real(folder) == own for folder in set(sets)):
            raise UsageError(f"-o {self.folder}: the input is read from there", hint="choose another -o")
        for folder in map(files.real, crawls):
            if own == folder or own.startswith(folder.rstrip("/") + "/"):
                raise UsageError(
                    f"-o {self.folder}: lies in {folder}, whose files are the input", hint="choose an -o outside"
                )

    def done(self, shard: Shard) -> Counts | None:
        """The counts of a shard that is finished already. Refuses one that was made otherwise."""
        path = files.join(self.folder, f"{shard_name(shard.index)}.parquet")
        if not files.exists(path):
            return None
        footer = read_footer(path)
        same = bool(shard.digest) and footer.hash == output_hash(self.history, shard.digest)
        if same and not self.again(path):
            return footer.counts
        if not same and not self.overwrite:
            change = self.history.difference(footer.history) or self.changed or "other input"
            raise EditError(
                f"{path}: exists, and was made from other input or with other settings ({change})",
                hint="choose another -o, or replace it with --overwrite",
            )
        # The Parquet file goes first, so that at no moment it stands beside another tar; the end record goes
        # because the set is no longer complete.
        files.remove(path)
        files.remove(files.join(self.folder, END))
        return None

    def write(self, batch: Batch) -> list[Reject]:
        shard = batch.shard
        self.highest = max(self.highest, shard.index)
        self.stated = shard.count
        if self.skipping == shard.index:
            self.skipping = None if batch.last else self.skipping
            return []
        if self.overwrite:  # of a pipe it shows only now where the images lie
            self.refuse_inputs(os.path.dirname(file) for file in referenced_files(batch.rows))
        if self.writer is None:
            # Of a pipe the shards are known only as they come, and some only when they have come whole.
            self.unknown = not shard.digest
            if not self.unknown and self.done(shard) is not None:
                self.skipping = None if batch.last else shard.index
                return []
            made_of = self.made_of(shard.index) if self.made_of is not None else None
            self.writer = ShardWriter(self.folder, shard.index, shard.count, self.schema, self.history, made_of)
        found = self.writer.write(batch.rows, self.fetcher, "write") if batch.rows.num_rows else []
        self.writer.rejects += batch.rejects + found
        self.writer.counts.rows += batch.seen
        self.writer.counts.failed += sum(reject.failed for reject in batch.rejects + found)
        if batch.last:
            if self.unknown and self.done(shard) is not None:
                self.writer.discard()
            else:
                self.writer.commit(output_hash(self.history, shard.digest))
            self.writer = None
        return found

    def finish(self, counts: Counts) -> None:
        """Write the end record if this process completed the set."""
        if self.stated is None and self.highest < 0:
            return  # the stream of an array task that had no shard: it does not say how many there are
        total = self.stated if self.stated is not None else self.highest + 1
        numbers = shard_numbers(self.folder)
        if set(range(total)) - set(numbers):
            return
        footers = [read_footer(files.join(self.folder, f"{shard_name(k)}.parquet")) for k in range(total)]
        if any(footer.history.hash != self.history.hash for footer in footers):
            return  # an older set is being replaced by array tasks, and they are not done
        for extra in (n for n in numbers if n >= total):
            self._remove_extra(extra)
        record = {
            "version": VERSION,
            "shards": total,
            "rows": sum(footer.counts.rows for footer in footers),
            "kept": sum(footer.counts.kept for footer in footers),
            "failed": sum(footer.counts.failed for footer in footers),
            "hash": digest(*(footer.hash for footer in footers)),
        }
        files.write_bytes(files.join(self.folder, END), (canonical_json(record) + "\n").encode())
        files.remove_tree(files.join(self.folder, COUNTS))
        for folder in (self.folder, files.join(self.folder, REJECTS)):
            files.remove_abandoned(folder)

    def _remove_extra(self, index: int) -> None:
        if not self.overwrite:
            raise EditError(
                f"{self.folder}: holds shard {shard_name(index)} of an earlier, larger set",
                hint="choose another -o, or replace it with --overwrite",
            )
        for name in (f"{shard_name(index)}.parquet", f"{shard_name(index)}.tar"):
            files.remove(files.join(self.folder, name))
        files.remove(files.join(self.folder, REJECTS, f"{shard_name(index)}.jsonl"))

    def abort(self) -> None:
        if self.writer is not None:
            self.writer.discard()
