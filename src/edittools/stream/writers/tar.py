"""One tar with the bytes of every row."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa

from edittools.stream.batch import Batch, Reject
from edittools.stream.history import History
from edittools.stream.ipc import Counts
from edittools.stream.pack import pack_rows
from edittools.stream.sink import FileSink, require_id
from edittools.stream.tar import TarWriter

ENDING = ".tar"


def open_sink(path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> TarSink:
    return TarSink(path, stdout, overwrite)


class TarSink(FileSink):
    packs = True

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        require_id(schema)
        target = self._target()
        target.flush()
        self.tar = TarWriter(target, history, schema)
        self.ids: set[str] = set()

    def write(self, batch: Batch) -> list[Reject]:
        if not batch.rows.num_rows:
            return []
        ids = batch.rows.column("id").to_pylist()
        doubled = []
        if len(self.ids.union(ids)) != len(self.ids) + len(ids):
            keep = []
            for identity in ids:
                keep.append(identity not in self.ids)
                if not keep[-1]:
                    doubled.append(Reject(identity, "write", "id twice in one tar", failed=True))
                self.ids.add(identity)
            batch = batch.replace(batch.rows.filter(pa.array(keep)))
        self.ids.update(ids)
        _, rejects = pack_rows(batch.rows, self.fetcher, self.tar, "write")
        return doubled + rejects

    def finish(self, counts: Counts) -> None:
        self.tar.end()
        self._commit()
