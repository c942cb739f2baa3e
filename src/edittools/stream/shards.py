"""A shard set on disk: a folder of `NNNNN.tar` beside `NNNNN.parquet`.

FORMAT

`NNNNN.tar` is a plain tar with webdataset's names: `ID.source.jpg`, `ID.target.png`, `ID.rejected.png`,
`ID.mask.png`, `ID.json`; several references are `ID.source.0.jpg`, `ID.source.1.jpg`; the turns of a dialogue
`ID.turn.0.target.png`. An id holds no dot; where a foreign key holds a dot, a slash, a percent sign or a control
character, it is percent-encoded. `ID.json` is the whole row, with {member, width, height, format} where an image
stands. A global PAX header in front holds the history and the Arrow schema as a comment, which other programs skip.
Members have mtime 0 and no owner. The two zero blocks at the end are the end record: a tar without them is
incomplete.

`NNNNN.parquet` has every column of the rows, with {offset, length, width, height, format} where an image stands;
offsets are into the tar of the same number. Its footer holds `edit.version`, `edit.history`, `edit.hash` (what made
this shard: the history and the digest of the input shard), `edit.tar` {size, digest}, `edit.shard` {index, count} and
`edit.counts` {rows, kept, failed}; of what `edit shard` cuts out of files also `edit.made-of`, 64 bits in base64 per
row of the input: a set that has grown keeps the shards that it has. Commands that need no pixels read only this file.
A set whose columns hold no images (fingerprints, say) has no tars.

`_rejects/NNNNN.jsonl` has one line per row that fell out: {id, stage, reason, value, failed}. `_verdict/` holds
what a two-pass command decided, `_counts/` what array tasks know of their input's rows (see `counted`) until the set is
complete. `_end.json` says that it is: {version, shards, rows, kept, failed, hash}. Everything is written under a name
that begins with `.tmp-`, flushed to disk and renamed: first the rejects, then the tar, last the Parquet file, which
commits the shard.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from edittools.errors import EditError, IncompleteError, describe
from edittools.record import IMAGE, STORED_IMAGE
from edittools.stream import files
from edittools.stream.batch import Reject, image_array, image_columns, map_batch_images, map_schema
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History, digest
from edittools.stream.ipc import Counts, arrow_errors
from edittools.stream.pack import pack_rows
from edittools.stream.tar import TarWriter

if TYPE_CHECKING:
    import pyarrow.parquet as pq

VERSION = 1
END = "_end.json"
REJECTS = "_rejects"
DECISIONS = "_verdict"
_MOST_SHARDS = 10_000_000
_PARQUET = re.compile(r"^(\d{5,})\.parquet$")


def shard_name(index: int) -> str:
    return f"{index:05d}"


@dataclass(frozen=True)
class Footer:
    """Metadata in the footer of a shard's Parquet file."""

    history: History
    hash: str
    tar_size: int
    tar_digest: str
    index: int
    count: int | None
    counts: Counts
    rows: int
    schema: pa.Schema  # with IMAGE images, as the stream has them


def _open_parquet(path: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(files.open_read(path), pre_buffer=files.is_url(path))


def write_parquet(table: pa.Table, file: BinaryIO) -> None:
    """Write a shard's Parquet file. Compression finds repeated values itself, and reading is faster without
    dictionaries, which columns that differ in every row only carry along."""
    import pyarrow.parquet as pq

    pq.write_table(table, file, compression="zstd", use_dictionary=False)


def read_footer(path: str) -> Footer:
    """The footer of one shard. Raises EditError where the file is damaged or not a shard's."""
    with arrow_errors(path), _open_parquet(path) as parquet:
        return _footer(parquet, path)


def _footer(parquet: pq.ParquetFile, path: str) -> Footer:
    schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    notes = schema.metadata or {}
    if b"edit.hash" not in notes:
        raise EditError(f"{path}: not a shard of edittools", hint="`edit shard` makes shards of any Parquet file")
    try:
        tar = json.loads(notes[b"edit.tar"])
        shard = json.loads(notes[b"edit.shard"])
        return Footer(
            History.from_json(notes[b"edit.history"]),
            notes[b"edit.hash"].decode(),
            int(tar["size"]),
            str(tar["digest"]),
            int(shard["index"]),
            shard["count"],
            Counts(**json.loads(notes[b"edit.counts"])),
            rows,
            map_schema(schema.remove_metadata(), STORED_IMAGE, IMAGE),
        )
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise EditError(f"{path}: damaged footer: {describe(error)}") from error


def is_shard(path: str) -> bool:
    """Whether a Parquet file is one of ours."""
    with arrow_errors(path), _open_parquet(path) as parquet:
        return b"edit.hash" in (parquet.schema_arrow.metadata or {})


def shard_index(name: str) -> int | None:
    """The number of a shard, by the name of its Parquet file."""
    match = _PARQUET.match(name)
    return int(match[1]) if match else None


def shard_numbers(folder: str) -> list[int]:
    """The committed shards of a set."""
    found = map(shard_index, files.listdir(folder))
    return sorted(index for index in found if index is not None)


def is_shard_set(folder: str) -> bool:
    """Whether a folder is a shard set, complete or not: it has an end record, or a shard of ours."""
    names = files.listdir(folder)
    if END in names or REJECTS in names:
        return True
    pairs = (name for name in names if _PARQUET.match(name) and name[: -len("parquet")] + "tar" in names)
    return any(is_shard(files.join(folder, name)) for name in itertools.islice(pairs, 1))  # img2dataset names them so


def read_end(folder: str) -> dict[str, Any] | None:
    """The end record of a set, or None. Raises EditError if it is damaged."""
    path = files.join(folder, END)
    if not files.exists(path):
        return None
    try:
        record: dict[str, Any] = json.loads(files.read_bytes(path))
        for name in ("shards", "rows", "kept"):
            if not isinstance(record[name], int) or record[name] < 0:
                raise ValueError(f"{name}: {record[name]}")
        return record
    except (ValueError, KeyError, TypeError) as error:
        raise EditError(f"{path}: damaged end record: {describe(error)}") from error


def set_shards(folder: str, partial: bool) -> tuple[list[int], int]:
    """The shards of a set, and how many it has in all. Raises IncompleteError unless all are there.

    With `partial`, of a set that was cut while it came through a pipe, one more than are there.
    """
    numbers, end = shard_numbers(folder), read_end(folder)
    unknown = False
    if end is not None:
        count = end["shards"]
        if numbers and numbers[-1] >= count and not partial:
            raise EditError(
                f"{folder}: {END} says {count} shards, but there is a {shard_name(numbers[-1])}.parquet",
                hint="a set that grows is whole when the command that writes it has ended; --partial reads the first",
            )
        numbers = [n for n in numbers if n < count]
    else:
        stated = [read_footer(files.join(folder, f"{shard_name(n)}.parquet")).count for n in numbers[-1:]]
        unknown = stated == [None]
        count = next((n for n in stated if n is not None), (numbers[-1] + 1) if numbers else 0)
    # Not a set of all numbers up to `count`: a damaged record may say any number.
    missing = next((k for k, number in enumerate([*numbers, None]) if k != number), 0)
    if (end is None or missing < count) and not partial:
        what = f"shard {shard_name(missing)} is missing" if missing < count else f"no {END}: it was not finished"
        raise IncompleteError(
            f"{folder}: incomplete shard set: {what}",
            hint="run the command that writes it again; or read what is there with --partial",
        )
    if count > _MOST_SHARDS:
        raise EditError(f"{folder}: {count} shards: a damaged record, or a file with a strange name")
    return numbers, count + unknown


def check_end(folder: str, rows: int) -> None:
    """Compare the rows that the shards of a complete set hold with what its end record says."""
    end = read_end(folder)
    if end is not None and end["kept"] != rows:
        raise EditError(f"{folder}: its shards hold {rows} rows, {END} says {end['kept']}")


def _tar_tag(tar: str, stated: int) -> str:
    """The etag of a shard's tar. Raises IncompleteError where it is gone or has another size than stated."""
    try:
        tag, size = files.etag(tar), files.size(tar)
    except OSError as error:
        raise IncompleteError(f"{tar}: {error.strerror or error}: the shard has lost its tar") from error
    if size != stated:
        raise IncompleteError(
            f"{tar}: {size} bytes, its Parquet file says {stated}",
            hint="copy the set again; or remove this Parquet file and run the command that writes it again",
        )
    return tag


def read_rows(folder: str, index: int, start: int, stop: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Rows start..stop of a shard, their images as references into its tar; reads the Parquet file only."""
    stem = files.join(folder, shard_name(index))
    tar = stem + ".tar"

    def refer(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        stored = dict(zip([field.name for field in values.type], values.flatten()))
        mask = values.is_null() if values.null_count else None
        return image_array(len(values), mask=mask, file=tar, etag=tag, **stored)

    with arrow_errors(stem + ".parquet"), _open_parquet(stem + ".parquet") as parquet:
        footer = _footer(parquet, stem + ".parquet")
        tag = _tar_tag(tar, footer.tar_size) if footer.tar_size else ""
        position = 0
        # One thread: the other commands of a pipe need the other cores.
        for rows in parquet.iter_batches(batch_size=batch_rows, use_threads=False):
            first, last = max(start - position, 0), min(stop - position, rows.num_rows)
            position += rows.num_rows
            if first < last:
                piece = rows.slice(first, last - first)
                plain = piece.replace_schema_metadata(None)
                yield map_batch_images(plain, STORED_IMAGE, refer)
            if position >= stop:
                break
        if position < min(stop, footer.rows):  # pyarrow stops without a word where a page says it is empty
            raise EditError(f"{stem}.parquet: damaged: {position} rows can be read, its index says {footer.rows}")


def rows_made_of(folder: str) -> list[np.ndarray] | None:
    """The keys of the rows that each shard of a complete set was made of; None where it is not, or does not say."""
    end = read_end(folder) if is_shard_set(folder) else None
    if end is None or not end["shards"]:
        return None
    found = []
    for index in range(end["shards"]):
        path = files.join(folder, f"{shard_name(index)}.parquet")
        if not files.exists(path):
            return None
        with arrow_errors(path), _open_parquet(path) as parquet:
            noted = (parquet.schema_arrow.metadata or {}).get(b"edit.made-of")
        if noted is None:
            return None
        found.append(np.frombuffer(base64.b64decode(noted), "<u8"))
    return found


class ShardWriter:
    """Writes one shard of a set. Nothing has a final name before `commit`."""

    def __init__(
        self,
        folder: str,
        index: int,
        count: int | None,
        schema: pa.Schema,
        history: History,
        made_of: np.ndarray | None = None,
    ) -> None:
        """`made_of` are the keys of the input's rows that it is made of, where a later run wants to know them."""
        self.made_of = made_of
        self.folder, self.index, self.count = folder, index, count
        self.history, self.schema = history, schema
        self.counts = Counts()
        self.rejects: list[Reject] = []
        self.stem = files.join(folder, shard_name(index))
        self.tables: list[pa.RecordBatch] = []
        self.ids: set[str] = set()
        self.pending: files.AtomicFile | None = None
        self.tar: TarWriter | None = None
        if image_columns(schema):
            self.pending = files.AtomicFile(self.stem + ".tar")
            try:
                with files.writing(self.pending.path):
                    self.tar = TarWriter(self.pending.file, history, schema)
            except BaseException:
                self.pending.discard()
                raise

    def write(self, rows: pa.RecordBatch, fetcher: Fetcher, stage: str) -> list[Reject]:
        """Append rows; returns those that could not be written (also kept for the rejects file)."""
        rows, doubled = self._unique(rows, stage)
        stored, rejects = rows, list[Reject]()
        if self.tar is not None:
            with files.writing(self.stem + ".tar"):
                stored, rejects = pack_rows(rows, fetcher, self.tar, stage)
        self.tables.append(stored)
        self.counts.kept += stored.num_rows
        return doubled + rejects

    def _unique(self, rows: pa.RecordBatch, stage: str) -> tuple[pa.RecordBatch, list[Reject]]:
        """An id names one sample of a tar: a second row with it would be read as part of the first."""
        keep, rejects = [], []
        for identity in rows.column("id").to_pylist():
            keep.append(identity not in self.ids)
            if not keep[-1]:
                rejects.append(Reject(identity, stage, "id twice in one shard", failed=True))
            self.ids.add(identity)
        return (rows.filter(pa.array(keep, pa.bool_())), rejects) if rejects else (rows, [])

    def commit(self, made: str) -> None:
        """Rename the parts, the Parquet file last: it commits the shard. `made` is its `output_hash`."""
        tar = {"size": 0, "digest": made}
        if self.tar is not None and self.pending is not None:
            with files.writing(self.pending.path):
                self.tar.end()
            self.pending.finish()
            tar = {"size": self.tar.offset, "digest": self.tar.digest}
        stored = map_schema(self.schema, IMAGE, STORED_IMAGE)
        notes = {
            "edit.version": str(VERSION),
            "edit.history": self.history.to_json(),
            "edit.hash": made,
            "edit.tar": json.dumps(tar),
            "edit.shard": json.dumps({"index": self.index, "count": self.count}),
            "edit.counts": json.dumps(self.counts.to_dict()),
        }
        if self.made_of is not None:
            notes["edit.made-of"] = base64.b64encode(self.made_of.astype("<u8").tobytes()).decode()
        table = pa.Table.from_batches(self.tables, schema=stored).replace_schema_metadata(notes)
        lines = b"".join(reject.line() for reject in self.rejects)
        files.make_dirs(files.join(self.folder, REJECTS))
        files.write_bytes(files.join(self.folder, REJECTS, f"{shard_name(self.index)}.jsonl"), lines)
        parquet = files.AtomicFile(self.stem + ".parquet")
        try:
            with files.writing(parquet.path):
                write_parquet(table, parquet.file)
            parquet.finish()
            if self.pending is not None:
                self.pending.commit()
            parquet.commit()
        except BaseException:
            parquet.discard()
            raise

    def discard(self) -> None:
        if self.pending is not None:
            self.pending.discard()


def output_hash(history: History, shard_digest: str) -> str:
    """Digest of an output shard's origin: the commands with their settings, and the input shard."""
    return digest(history.hash, shard_digest)
