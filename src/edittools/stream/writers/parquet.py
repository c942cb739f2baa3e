"""One Parquet file with the images inside, in the Hugging Face convention."""

from __future__ import annotations

import io
import json
from typing import Any, BinaryIO

import pyarrow as pa

from edittools.record import HF_IMAGE, IMAGE
from edittools.stream import codec
from edittools.stream.batch import Batch, Reject, image_columns, image_positions, map_batch_images, map_schema
from edittools.stream.history import History
from edittools.stream.ipc import Counts, GuardedFile
from edittools.stream.pack import role
from edittools.stream.rows import inline_rows
from edittools.stream.sink import INLINE_ROWS, FileSink

ENDING = ".parquet"


def open_sink(path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> ParquetSink:
    return ParquetSink(path, stdout, overwrite)


class ParquetSink(FileSink):
    packs = True
    _GROUP_BYTES = 64 << 20
    guarded: GuardedFile | None = None

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        import pyarrow.parquet as pq

        self.schema = schema
        stored = map_schema(schema, IMAGE, HF_IMAGE)
        features = {column.name: _hf_feature(column.type) for column in schema if _hf_feature(column.type)}
        notes = {
            "edit.history": history.to_json(),
            "huggingface": json.dumps({"info": {"features": features}}),
        }
        self.stored = stored.with_metadata(notes)
        images = {column.name for column in schema if image_columns(pa.schema([column]))}
        plain = {column.name for column in schema} - images
        # Compression and dictionaries cost time on images and save nothing; other columns gain.
        paths = _leaf_columns(stored)
        self.guarded = GuardedFile(self._target())
        self.writer = pq.ParquetWriter(
            self.guarded,
            self.stored,
            compression={p: "zstd" if p.split(".")[0] in plain else "none" for p in paths},
            use_dictionary=[p for p in paths if p.split(".")[0] in plain],
        )
        self.group: list[pa.RecordBatch] = []
        self.bytes = 0

    def write(self, batch: Batch) -> list[Reject]:
        found: list[Reject] = []
        for start in range(0, batch.rows.num_rows, INLINE_ROWS):
            rows, rejects = inline_rows(batch.rows.slice(start, INLINE_ROWS), self.fetcher, "write")
            found += rejects
            ids = rows.column("id").to_pylist() if "id" in rows.schema.names else [""] * rows.num_rows
            self.group.append(_to_hf(rows, ids))
            self.bytes += rows.nbytes
            if self.bytes > self._GROUP_BYTES:
                self._flush()
        return found

    def _flush(self) -> None:
        if self.group:
            table = pa.Table.from_batches(self.group).replace_schema_metadata(self.stored.metadata)
            self.writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.group, self.bytes = [], 0

    def finish(self, counts: Counts) -> None:
        self._flush()
        self.writer.close()
        self._commit()

    def abort(self) -> None:
        if self.guarded is not None:
            self.guarded.shut = True
        super().abort()


def _leaf_columns(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of the leaf columns."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.ParquetWriter(buffer, schema).close()
    buffer.seek(0)
    stored = pq.ParquetFile(buffer).schema
    return [stored.column(k).path for k in range(len(stored))]


def _hf_feature(kind: pa.DataType) -> dict[str, Any] | None:
    """How `datasets` is told that a column shows images."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind) and kind.value_type == IMAGE:
        return {"feature": {"_type": "Image"}, "_type": "List"}
    return None


def _to_hf(rows: pa.RecordBatch, ids: list[Any]) -> pa.RecordBatch:
    orders = {name: iter(image_positions(column)) for name, column in zip(rows.schema.names, rows.columns)}

    def convert(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        fields = dict(zip([field.name for field in values.type], values.flatten()))
        kinds = fields["format"].to_pylist()
        names = [
            None
            if place is None or kind is None
            else f"{ids[place[0]]}.{role(path, place, False)}.{codec.extension(kind)}"
            for place, kind in zip(next(orders[path[0]]), kinds)
        ]
        mask = values.is_null() if values.null_count else None
        children = [fields["bytes"], pa.array(names, pa.string())]
        return pa.StructArray.from_arrays(children, fields=list(HF_IMAGE), mask=mask)

    return map_batch_images(rows, IMAGE, convert)
