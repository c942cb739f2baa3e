"""What `edit shard` does to a row: its images are opened, measured and hashed, and it gets its final id."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.ingest.config import ShardConfig
from edittools.record import COLUMNS, IMAGE, PROVENANCE
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.mapping import refusal
from edittools.stream.rows import column_values, drop_failed, map_chunks, visit_images
from edittools.stream.schemas import align_array, can_align
from edittools.suites import load_benchmark


class Ingest:
    """Stage: check every image's header, record size, format and hash, make ids and provenance.

    A row's id is made from the hash of its images and its place in the source, so that it is the same on every
    machine and two identical files are two rows. Rows of a shard set keep theirs. With `foreign_ids` the id that
    a row had is kept as `user_id`; a column that is renamed to `id` gives the ids. A later row of a shard with the id
    of another one is called ID#2.
    """

    name = "shard"
    VERSION = 1

    def __init__(
        self,
        config: ShardConfig | None = None,
        *,
        rename: dict[str, str] | None = None,
        jobs: int = 1,
        foreign_ids: bool = False,
        given_ids: bool = False,
    ) -> None:
        """`rename` is {old: new} for what the reader has not renamed; `given_ids`, whether a column gives the ids."""
        self.config = config = config or ShardConfig()
        self.rename = dict(rename or {})
        self.replaces_ids = "id" in self.rename.values()
        self.given_ids = given_ids or self.replaces_ids
        if self.replaces_ids and foreign_ids:
            self.rename.setdefault("id", "user_id")
        self.foreign_ids = foreign_ids and not self.given_ids
        published = config.published
        self.origin = config.origin or (published.title if published else None)
        self.license = config.license or (published.license if published else None)
        self.names = load_benchmark(config.task_names) if config.task_names else None
        self.verify, self.max_pixels, self.jobs = config.verify, config.max_pixels, jobs
        self.fetcher = Fetcher()
        self.doubled = 0  # rows whose id another row of their shard had

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return self.config.recorded()

    def schema(self, schema: pa.Schema) -> pa.Schema:
        types: dict[str, pa.DataType] = {"id": pa.string()}
        named: dict[str, str] = {}
        for column in schema:
            if self._replaced(column):
                continue
            name = self._name(column)
            if name in named:
                other = column.name if column.name not in self.rename else named[name]
                raise UsageError(
                    f"columns `{named[name]}` and `{column.name}`: both would be called `{name}`",
                    hint=f"call one of them otherwise: --map NEW={other}",
                )
            named[name] = column.name
            types[name] = COLUMNS.get(name, column.type)
        types.setdefault("task", pa.string())
        types["provenance"] = PROVENANCE
        if self._keeps_ids(schema):
            types["user_id"] = pa.string()
        own = [(name, types.pop(name)) for name in COLUMNS if name in types]
        return pa.schema(own + list(types.items()))

    def _keeps_ids(self, schema: pa.Schema) -> bool:
        return self.foreign_ids and "user_id" not in map(self._name, schema)

    def _replaced(self, column: pa.Field) -> bool:
        """Whether a column holds ids that only the reader gave, where another one is to be the id."""
        return self.replaces_ids and column.name == "id" and "id" not in self.rename

    def _name(self, column: pa.Field) -> str:
        """What a column is called from here on. One that has a name of the record, but not its type, is the user's.

        Raises UsageError where it was told to have this name.
        """
        name = self.rename.get(column.name, column.name)
        fits = name not in COLUMNS or can_align(column.type, COLUMNS[name])
        if name == "source":
            fits = fits or column.type == IMAGE
        elif name in ("instruction", "caption"):
            fits = fits or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not fits and column.name in self.rename:
            raise refusal(name, column.name, str(column.type))
        return name if fits else f"user_{name}"

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        first = next(batches, None)
        if first is None:
            return
        schema = self.schema(first.rows.schema)

        def all_batches() -> Iterator[Batch]:
            yield first
            yield from batches

        cheap = not self.verify
        yield from self._told_apart(map_chunks(all_batches(), self._work, lambda _: schema, self.jobs, cheap))

    def _told_apart(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same rows, of which a later one with the id of another row of its shard is called ID#2, ID#3 ..."""
        shard, times = -1, Counter[str]()
        for batch in batches:
            if batch.shard.index != shard:
                shard, times = batch.shard.index, Counter()
            ids = column_values(batch.rows, "id")
            made = []
            for name in ids:
                new = name
                while name and new in times:
                    times[name] += 1
                    new = f"{name}#{times[name]}"
                times[new] = 1
                made.append(new)
            if made != ids:
                self.doubled += sum(new != name for new, name in zip(made, ids))
                place = batch.rows.schema.get_field_index("id")
                batch = batch.replace(batch.rows.set_column(place, "id", pa.array(made, pa.string())))
            yield batch

    def remark(self) -> str:
        """How many rows had the id of another one."""
        return (
            f"{self.doubled} rows had the id of another row of their shard: they are ID#2, ID#3 ..."
            if self.doubled
            else ""
        )

    def _shape(self, rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """The rows under the record's names and types."""
        known = {
            self._name(field): column for field, column in zip(rows.schema, rows.columns) if not self._replaced(field)
        }
        columns = []
        for column in schema:
            array = known.get(column.name)
            if array is None:
                array = pa.nulls(rows.num_rows, column.type)
            elif column.name == "source" and array.type != column.type:
                offsets = pa.array(range(rows.num_rows + 1), pa.int32())
                array = pa.ListArray.from_arrays(offsets, array)
            columns.append(align_array(array, column.type))
        return pa.record_batch(columns, schema=schema)

    def _work(self, batch: Batch, schema: pa.Schema) -> Batch:
        keeps_ids = self._keeps_ids(batch.rows.schema)
        rows = self._shape(batch.rows, schema)
        batch = batch.replace(rows)  # rejects are named by the columns as they are called from here on
        hashes: list[list[str]] = [[] for _ in range(rows.num_rows)]

        def visit(row: int, place: tuple[int, ...], reference: dict[str, Any]) -> dict[str, Any]:
            data = self.fetcher.get(reference)
            header = codec.probe(data, self.max_pixels)
            if self.verify:
                codec.decode(data, codec.Raster(short_side=32), self.max_pixels)
            hashes[row].append(hashlib.sha256(data).hexdigest())
            return {**reference, "width": header.width, "height": header.height, "format": header.format}

        rows, failed = visit_images(rows, visit)
        ids = column_values(rows, "id")
        before = list(ids)
        tasks = column_values(rows, "task")
        provenance = column_values(rows, "provenance")
        for row in range(rows.num_rows):
            known = {key: value for key, value in (provenance[row] or {}).items() if value is not None}
            if row not in failed and not hashes[row] and not known.get("sha256"):
                failed[row] = RowError("no picture")
                continue
            if not known.get("sha256"):
                content = hashes[row][0] if len(hashes[row]) == 1 else _sha256("".join(hashes[row]))
                known["sha256"] = content
                if not self.given_ids or not ids[row]:
                    ids[row] = _sha256(f"{content}\0{known.get('path') or ids[row]}")[:20]
            if self.origin:
                known["origin"] = self.origin
            if self.license:
                known["license"] = self.license
            if self.names and tasks[row] is not None:
                try:
                    known.setdefault("native_task", tasks[row])
                    tasks[row] = self.names.canonical_task(tasks[row])
                except ValueError as error:
                    failed.setdefault(row, RowError("unknown task", str(error)))
            provenance[row] = {field.name: known.get(field.name) for field in PROVENANCE}
        changed = [("id", ids), ("task", tasks), ("provenance", provenance)]
        if keeps_ids:
            changed.append(("user_id", before))
        for name, values in changed:
            index = rows.schema.get_field_index(name)
            rows = rows.set_column(index, rows.schema.field(index), pa.array(values, schema.field(name).type))
        return drop_failed(batch, rows, failed, self.name)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
