"""Outputs: a shard set, one tar, one Parquet file, an Arrow stream, JSON lines, or a table on a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, UsageError
from edittools.record import HF_IMAGE, IMAGE
from edittools.stream import files, images, rowjson
from edittools.stream.batch import (
    Batch,
    Reject,
    Shard,
    image_leaves,
    leaf_positions,
    map_batch_images,
    map_schema,
)
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History, canonical_json, digest
from edittools.stream.pack import pack_rows, role
from edittools.stream.rows import inline_rows, referenced_files
from edittools.stream.shards import (
    END,
    REJECTS,
    VERDICT,
    VERSION,
    ShardWriter,
    is_shard_set,
    output_hash,
    read_footer,
    shard_name,
    shard_numbers,
)
from edittools.stream.tar import TarWriter
from edittools.stream.wire import Counts, Outlet, WireWriter

FORMATS = ("shards", "tar", "parquet", "arrows", "jsonl", "table")
_INLINE_ROWS = 32


class Sink(Protocol):
    """Where batches go. `write` returns the rejects that the sink itself found."""

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None: ...
    def done(self, shard: Shard) -> Counts | None: ...
    def write(self, batch: Batch) -> list[Reject]: ...
    def finish(self, counts: Counts) -> None: ...
    def abort(self) -> None: ...


def require_id(schema: pa.Schema) -> None:
    """A row's members in a tar are named by its id. Raises EditError where there is none."""
    if schema.get_field_index("id") < 0 or schema.field("id").type != pa.string():
        raise EditError("the rows have no column `id` of text", hint="name one: `edit shard --map id=COLUMN`")


class ShardSetSink:
    """A folder of shards; finished shards of the same making are skipped, unless `again` says of one that it is to be
    made anew.
    """

    def __init__(self, folder: str, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.again: Callable[[str], bool] = lambda path: False  # of a finished Parquet file: is it to be made anew?
        self.fetcher = Fetcher()
        self.writer: ShardWriter | None = None
        self.skipping: int | None = None
        self.unknown = False
        self.highest = -1
        self.stated: int | None = None
        self.made_of: Callable[[int], np.ndarray] | None = None  # the keys of the rows that a shard is cut out of

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        require_id(schema)
        self.schema, self.history = schema, history
        if files.exists(self.folder) and not files.is_url(self.folder) and not os.path.isdir(self.folder):
            raise EditError(f"{self.folder}: exists and is not a folder")
        names = [n for n in files.listdir(self.folder) if not n.startswith(files.TEMPORARY) and n != VERDICT]
        if names and not is_shard_set(self.folder):
            raise EditError(f"{self.folder}: not empty, and not a shard set", hint="choose another -o")
        files.make_dirs(self.folder)

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
            change = self.history.difference(footer.history) or "other input"
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
        if self.overwrite:  # of a pipe it shows only now where the pictures lie
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


class FileSink:
    """One file, or standard output: what tar, Parquet, streams and lines have in common."""

    def __init__(self, path: str | None, stdout: BinaryIO | None, overwrite: bool) -> None:
        self.path, self.stdout = path, stdout
        self.fetcher = Fetcher()
        self.pending: files.Pending | None = None
        if path is not None:
            files.refuse_existing(path, overwrite)

    def _target(self) -> BinaryIO:
        if self.path is None:
            assert self.stdout is not None
            return self.stdout
        self.pending = files.Pending(self.path)
        return self.pending.file

    def done(self, shard: Shard) -> Counts | None:
        return None

    def _commit(self) -> None:
        if self.pending is not None:
            self.pending.commit()
        elif self.stdout is not None:
            self.stdout.flush()

    def abort(self) -> None:
        if self.pending is not None:
            self.pending.discard()


class TarSink(FileSink):
    """One tar with the bytes of every row."""

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


class ArrowSink(FileSink):
    """The Arrow stream of `wire`, with references, or with everything inline."""

    def __init__(self, path: str | None, stdout: BinaryIO | None, overwrite: bool, inline: bool) -> None:
        super().__init__(path, stdout, overwrite)
        self.inline = inline

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        self.wire = WireWriter(self._target(), schema, history, rows)

    def write(self, batch: Batch) -> list[Reject]:
        if not self.inline or not batch.rows.num_rows:
            self.wire.write(batch)
            return []
        found: list[Reject] = []
        for start in range(0, batch.rows.num_rows, _INLINE_ROWS):
            piece = batch.slice(start, min(start + _INLINE_ROWS, batch.rows.num_rows))
            rows, rejects = inline_rows(piece.rows, self.fetcher, "write")
            self.wire.write(piece.replace(rows, rejects))
            found += rejects
        return found

    def finish(self, counts: Counts) -> None:
        self.wire.end()
        self._commit()


class ParquetSink(FileSink):
    """One Parquet file with the pictures inside, in the Hugging Face convention."""

    _GROUP_BYTES = 64 << 20
    outlet: Outlet | None = None

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
        pictures = {column.name for column in schema if image_leaves(pa.schema([column]))}
        plain = {column.name for column in schema} - pictures
        # Compression and dictionaries cost time on pictures and save nothing; other columns gain.
        paths = _leaf_columns(stored)
        self.outlet = Outlet(self._target())
        self.writer = pq.ParquetWriter(
            self.outlet,
            self.stored,
            compression={p: "zstd" if p.split(".")[0] in plain else "none" for p in paths},
            use_dictionary=[p for p in paths if p.split(".")[0] in plain],
        )
        self.group: list[pa.RecordBatch] = []
        self.bytes = 0

    def write(self, batch: Batch) -> list[Reject]:
        found: list[Reject] = []
        for start in range(0, batch.rows.num_rows, _INLINE_ROWS):
            rows, rejects = inline_rows(batch.rows.slice(start, _INLINE_ROWS), self.fetcher, "write")
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
        if self.outlet is not None:
            self.outlet.shut = True
        super().abort()


def _leaf_columns(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of the leaf columns."""
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.ParquetWriter(buffer, schema).close()
    buffer.seek(0)
    stored = pq.ParquetFile(buffer).schema
    return [stored.column(k).path for k in range(len(stored))]


def _hf_feature(kind: pa.DataType) -> dict | None:
    """How `datasets` is told that a column shows pictures."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind) and kind.value_type == IMAGE:
        return {"feature": {"_type": "Image"}, "_type": "List"}
    return None


def _to_hf(rows: pa.RecordBatch, ids: list[Any]) -> pa.RecordBatch:
    orders = {name: iter(leaf_positions(column)) for name, column in zip(rows.schema.names, rows.columns)}

    def convert(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        fields = dict(zip([field.name for field in values.type], values.flatten()))
        kinds = fields["format"].to_pylist()
        names = [
            None
            if place is None or kind is None
            else f"{ids[place[0]]}.{role(path, place, False)}.{images.extension(kind)}"
            for place, kind in zip(next(orders[path[0]]), kinds)
        ]
        mask = values.is_null() if values.null_count else None
        children = [fields["bytes"], pa.array(names, pa.string())]
        return pa.StructArray.from_arrays(children, fields=list(HF_IMAGE), mask=mask)

    return map_batch_images(rows, IMAGE, convert)


class LinesSink(FileSink):
    """JSON lines: a view, with references where pictures are (inline bytes are left out)."""

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        self.file = self._target()

    def write(self, batch: Batch) -> list[Reject]:
        if batch.rows.num_rows:
            rows = map_batch_images(batch.rows, IMAGE, lambda path, values: _view(values))
            self.file.write(b"".join(line + b"\n" for line in rowjson.dump_rows(rows)))
            if self.pending is None:
                self.file.flush()  # whoever reads the lines must not wait for a megabyte of them
        return []

    def finish(self, counts: Counts) -> None:
        self._commit()


_VIEW = pa.struct([field for field in IMAGE if field.name != "bytes"])


def _view(values: pa.StructArray) -> pa.StructArray:
    children = dict(zip([field.name for field in values.type], values.flatten()))
    mask = values.is_null() if values.null_count else None
    return pa.StructArray.from_arrays([children[f.name] for f in _VIEW], fields=list(_VIEW), mask=mask)


class TableSink:
    """The first rows, for a person at a terminal."""

    ROWS = 12

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.total = 0

    def open(self, schema: pa.Schema, history: History, rows: int | None) -> None:
        self.schema = schema

    def done(self, shard: Shard) -> Counts | None:
        return None

    def write(self, batch: Batch) -> list[Reject]:
        self.total += batch.rows.num_rows
        wanted = self.ROWS - len(self.rows)
        if wanted > 0 and batch.rows.num_rows:
            view = map_batch_images(batch.rows.slice(0, wanted), IMAGE, lambda p, v: _view(v))
            self.rows += view.to_pylist()
        return []

    def finish(self, counts: Counts) -> None:
        from rich.console import Console
        from rich.table import Table

        shown = [n for n in self.schema.names if any(row[n] not in (None, [], {}) for row in self.rows)]
        table = Table(*shown, caption=f"{self.total} rows" + (f", the first {len(self.rows)}" if self.total else ""))
        for row in self.rows:
            table.add_row(*(_cell(row[name]) for name in shown))
        Console().print(table)

    def abort(self) -> None:
        return


def _cell(value: Any) -> str:
    """A value as a short piece of text for a table."""
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_cell(item) for item in value[:3])
    if isinstance(value, dict):
        if value.keys() >= {"width", "height", "format"}:
            size = f"{value['width']}×{value['height']}" if value["width"] else "picture"
            return f"{size} {value['format'] or ''}".strip()
        shown = {key: item for key, item in value.items() if item is not None and key != "sha256"}  # of provenance
        return "\n".join(f"{key}: {_cell(item)}" for key, item in shown.items())[:200]
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape(str(value))[:80]


def make_sink(
    output: str | None,
    format: str | None,
    *,
    overwrite: bool,
    inline: bool,
    stdout_kind: Callable[[], str],
) -> Sink:
    """The sink for `-o` and `-f`; without `-o`, what standard output is decides (DESIGN 4)."""
    if output in (None, "-"):
        kind = stdout_kind()
        chosen = format or {"terminal": "table", "file": "tar", "pipe": "arrows"}[kind]
        if chosen == "shards":
            raise UsageError("a shard set is a folder: name it with -o DIR/")
        if chosen == "table":
            return TableSink()
        if kind == "terminal" and chosen != "jsonl":
            raise UsageError(f"{chosen} is binary and would go to the terminal", hint="add -o FILE or a pipe")
        path: str | None = None
        stdout: BinaryIO | None = open(1, "wb", buffering=1 << 20, closefd=False)
    else:
        assert output is not None
        chosen = format or _format_of(output)
        path, stdout = files.local(output), None
        if chosen == "shards":
            return ShardSetSink(path, overwrite)
        if chosen == "table":
            raise UsageError("a table goes to the terminal only")
    if chosen == "tar":
        return TarSink(path, stdout, overwrite)
    if chosen == "parquet":
        return ParquetSink(path, stdout, overwrite)
    if chosen == "arrows":
        return ArrowSink(path, stdout, overwrite, inline)
    return LinesSink(path, stdout, overwrite)


def _format_of(output: str) -> str:
    endings = {".tar": "tar", ".parquet": "parquet", ".arrows": "arrows", ".jsonl": "jsonl"}
    name = output.rstrip("/").rsplit("/", 1)[-1]
    if output.endswith("/") or "." not in name:
        return "shards"
    for ending, chosen in endings.items():
        if name.endswith(ending):
            return chosen
    raise UsageError(
        f"{output}: what to write there is not clear from its name",
        hint="end it with / for a shard set, or with .tar, .parquet, .arrows or .jsonl; or say -f FORMAT",
    )
