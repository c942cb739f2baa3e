"""The kinds of input a command can read, one class each. A unit is what becomes one shard of work.

Every unit knows its columns and its number of rows before it is read, and reads any range of its rows, so
that `edit shard` can cut shards anew and array tasks can share the work.
"""

from __future__ import annotations

import array
import contextlib
import io
import itertools
import json
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import EditError, RowError, UsageError, describe
from edittools.record import COLUMNS, IMAGE, STORED_IMAGE, is_hf_image, is_image
from edittools.stream import columns, files, images, records, text
from edittools.stream.batch import Reject, image_array, image_leaves, leaf_positions, map_images, map_type
from edittools.stream.history import History, digest
from edittools.stream.mapping import PICTURES, Mapping
from edittools.stream.pack import unpack_rows
from edittools.stream.rowjson import plain_array, plain_type
from edittools.stream.rows import row_paths
from edittools.stream.shards import is_shard, read_footer, read_rows, shard_index, shard_name
from edittools.stream.tar import (
    Entry,
    Link,
    Member,
    Odd,
    TarNote,
    TarReader,
    follow,
    samples,
    split_name,
    unquote_key,
)
from edittools.stream.wire import arrow_errors, check_names

Part = tuple[pa.RecordBatch, list[Reject]]
IMAGE_ENDINGS = {"jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl"}
_IMAGE_FIELDS = tuple(field.name for field in IMAGE)
_PICTURE_FIELDS = frozenset(_IMAGE_FIELDS)
_STUB = {"member", "width", "height", "format"}  # a picture in the JSON of our own tars
_ROLES = ("source", "target", "mask", "turn")
_SIDECARS = {"txt": ".txt", "caption": ".txt", "json": ".json"}  # beside a picture of the same stem: a text, or fields
_TEXT_LIMIT = 256 << 20  # bytes of a sidecar or of one JSON line
FILES_PER_SHARD = 1000  # loose files that make one unit of work
_BATCH_BYTES = 64 << 20  # of sidecars, at which a batch is full
_LOOK_ROWS = 16  # of a column that are read to learn what is in it
IMG2DATASET = {"key", "status", "error_message"}  # columns of the Parquet file that it writes beside a tar
_APPLE_DOUBLE = b"\0\x05\x16\x07"  # what `._NAME` begins with, where macOS keeps what it knows of NAME


class Unit(Protocol):
    """Rows of one input. Some also have `foreign_ids`: whether their data bring ids of their own."""

    name: str
    renamed: bool  # whether its rows come under the names that --map gives
    history: History

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def digest(self) -> str: ...

    @property
    def rows(self) -> int: ...

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        """Rows start..stop, and what fell out while reading them."""

    def row_sizes(self) -> np.ndarray:
        """Bytes of pictures per row."""


def reference(**known: Any) -> dict[str, Any]:
    """An IMAGE value with the given fields."""
    return {name: known.get(name) for name in _IMAGE_FIELDS}


def row_keys(unit: Unit, start: int, stop: int) -> np.ndarray:
    """What names rows start..stop of a unit, 64 bits each: its files or its record, or its number in one file."""
    if isinstance(unit, GROWING):
        return unit.row_keys(start, stop)
    first = np.uint64(xxhash.xxh3_64_intdigest(unit.digest.encode()))
    return first + np.arange(start, stop, dtype=np.uint64)


def _unchanged(path: str, tag: str) -> None:
    """Raises EditError for a file of rows that is another one than when it was opened: its rows are not known any
    more."""
    if files.etag(path) != tag:
        raise EditError(
            f"{path}: the file changed while it was read", hint="run the command again when nothing writes to it"
        )


class ShardUnit:
    """One shard of a shard set."""

    renamed = False

    def __init__(self, folder: str, index: int) -> None:
        self.folder, self.index = folder, index
        self.name = files.join(folder, shard_name(index))
        footer = read_footer(self.name + ".parquet")
        self.schema, self.history, self.rows = footer.schema, footer.history, footer.rows
        self.digest = digest(footer.tar_digest)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        for rows in read_rows(self.folder, self.index, start, stop, batch_rows):
            yield rows, []

    def row_sizes(self) -> np.ndarray:
        sizes = []
        for rows, _ in self.read(0, self.rows, 1 << 16):
            sizes.append(picture_bytes(rows))
        return np.concatenate(sizes) if sizes else np.zeros(0, np.int64)


def picture_bytes(rows: pa.RecordBatch) -> np.ndarray:
    """Bytes of pictures in each row, inline or referred to."""
    import pyarrow.compute as pc

    total = np.zeros(rows.num_rows, np.int64)
    lengths: list[pa.Array] = []

    def collect(values: pa.StructArray) -> pa.StructArray:
        children = dict(zip([field.name for field in values.type], values.flatten()))
        inline = pc.binary_length(children["bytes"]).cast(pa.int64())
        lengths.append(pc.fill_null(pc.coalesce(inline, children["length"]), 0))
        return values

    for column in rows.columns:
        lengths.clear()
        map_images(column, IMAGE, collect)
        for places, values in zip(leaf_positions(column), list(lengths)):
            for place, length in zip(places, values.to_pylist()):
                if place is not None:
                    total[place[0]] += length
    return total


Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Sample:
    """The files of a tar that make one row, by their endings; or why there is none."""

    key: str
    files: tuple[tuple[str, Member], ...]
    reason: str | None = None
    value: Any = None
    failed: bool = True


class TarUnit:
    """One plain tar: our own (a note in front says its columns) or any webdataset."""

    def __init__(
        self, path: str, label: str | None = None, mapping: Mapping | None = None, table: str | None = None
    ) -> None:
        """`label` is what stands before the keys in the paths of its rows; by default the file's name. `table` is the
        Parquet file of img2dataset that says by `key` what is known of each picture, and of those that are not here.
        """
        self.name = path
        self.label = label or os.path.basename(path)
        self.mapping = mapping or Mapping()
        self.table = table
        self.guesses = text.Guesses()
        self.tag = files.etag(path)
        self.table_tag = [files.etag(table)] if table else []
        self.most: int | None = None
        with self._reading() as read:
            self.note: TarNote | None = TarReader(read, self.name).read_note()
        self.history = self.note.history if self.note else History()
        self.renamed = self.note is None

    @property
    def digest(self) -> str:
        first = [f"first {self.most}"] if self.most is not None else []
        return digest("tar", self.tag, *_other_label(self.name, self.label), *self.table_tag, *first)

    def shorten(self, most: int) -> None:
        """Only the first `most` rows are wanted, so that the rest is not looked at: their files stand together."""
        self.most = most

    @property
    def schema(self) -> pa.Schema:
        return self.note.schema if self.note else self._observed[0]

    @property
    def foreign_ids(self) -> bool:
        return self.note is None and self._observed[1]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Read]:
        """Reads byte ranges. The file is open only for so long: there may be many tars."""
        _unchanged(self.name, self.tag)
        reader = files.RangeReader(self.name)
        try:
            yield reader.read
        finally:
            reader.close()

    @cached_property
    def _observed(self) -> tuple[pa.Schema, bool]:
        """The columns, and whether there are ids of its own, which only reading all sidecars tells."""
        observed = columns.ObservedSchema()
        known = self._known()
        foreign_ids = False
        with self._reading() as read:
            for sample in self.index:
                row = self._row(sample, read, known, None)
                if isinstance(row, dict):
                    observed.observe(row)
                    foreign_ids |= row["id"] != unquote_key(sample.key)
        observed.observe({"id": "", "provenance": None})
        return observed.schema(), foreign_ids

    def _known(self) -> dict[str, dict[str, Any]]:
        """What the table says, by key."""
        if self.table is None:
            return {}
        import pyarrow.parquet as pq

        with arrow_errors(self.table), files.open_read(self.table) as file:
            return {str(row["key"]): row for row in pq.read_table(file).to_pylist()}

    @cached_property
    def index(self) -> list[Sample]:
        with self._reading() as read:
            reader = TarReader(read, self.name)
            if self.note:
                own = itertools.islice(samples(reader.members()), self.most)
                return [Sample(key, tuple(group)) for key, group in own]
            entries = reader.entries() if self.most is None else _first(reader.entries(), self.most)
            found = foreign_samples(entries, lambda member: read(member.offset, 4) == _APPLE_DOUBLE)
        there = {sample.key for sample in found}
        for key, row in self._known().items():
            if key not in there and self.most is None:  # not fetched, and the table says why
                found.append(Sample(key, (), row["status"] or "not in the tar", row["error_message"], failed=False))
        return found

    @cached_property
    def rows(self) -> int:
        return len(self.index)

    def row_sizes(self) -> np.ndarray:
        sizes = [sum(m.size for ending, m in sample.files if ending != "json") for sample in self.index]
        return np.array(sizes, np.int64)

    def picture(self, member: Member, facts: dict) -> dict:
        return reference(
            file=self.name,
            offset=member.offset,
            length=member.size,
            etag=self.tag,
            width=facts.get("width"),
            height=facts.get("height"),
            format=facts.get("format"),
        )

    def _row(
        self, sample: Sample, read: Read, known: dict[str, dict[str, Any]], guesses: text.Guesses | None
    ) -> dict[str, Any] | Reject:
        """A sample as a row, or why there is none."""
        identity, path = unquote_key(sample.key), f"{self.label}/{sample.key}"
        if sample.reason is not None:
            return Reject(identity, "read", sample.reason, sample.value, sample.failed, path)
        try:
            row, fields = _foreign_row(self, sample, read, guesses)
            for name, value in known.get(sample.key, {}).items():
                columns.put(fields, name, value)
            return _finish(row, fields, identity, path, self.mapping)
        except RowError as error:
            return Reject(identity, "read", error.reason, error.value, True, path)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        with self._reading() as read:
            if self.note:
                position = 0
                for rows in unpack_rows(TarReader(read, self.name), self.schema, self.picture, batch_rows):
                    first, last = max(start - position, 0), min(stop - position, rows.num_rows)
                    position += rows.num_rows
                    if first < last:
                        yield rows.slice(first, last - first), []
                    if position >= stop:
                        break
                return
            known = self._known()
            made = (self._row(sample, read, known, self.guesses) for sample in self.index[start:stop])
            yield from parts(made, self.schema, batch_rows)


def _first(entries: Iterable[Entry], most: int) -> Iterator[Entry]:
    """The entries of the first `most` keys."""
    keys: set[str] = set()
    for entry in entries:
        keys.add(split_name(entry.name)[0])
        if len(keys) > most:
            return
        yield entry


def foreign_samples(entries: Iterable[Entry], is_apple_double: Callable[[Member], bool]) -> list[Sample]:
    """The rows of a tar that others wrote, every entry in one of them, in the order in which they begin.

    Files of one key make a row, wherever they stand; a second file of the same name begins another row. A link is the
    file it leads to. What macOS adds of its own to every file, `._NAME`, belongs to that file and says nothing here.
    """
    every = list(entries)
    named: dict[str, Entry] = {}
    if any(isinstance(entry, Link) for entry in every):
        named = {posixpath.normpath(entry.name): entry for entry in every}
    groups: dict[str, dict[str, Member]] = {}
    made: list[tuple[str, dict[str, Member]] | Sample] = []
    times: Counter[str] = Counter()
    for entry in every:
        member = follow(entry, named) if isinstance(entry, Link) else entry
        base = entry.name.rpartition("/")[2]
        if member is None:
            made.append(Sample(entry.name, (), "link to nothing in the tar"))
        elif isinstance(member, Odd):
            made.append(Sample(entry.name, (), member.reason))
        elif base.startswith("._") and is_apple_double(member):
            continue
        elif base.startswith("."):
            made.append(Sample(entry.name, (), "hidden file", failed=False))
        else:
            key, ending = split_name(entry.name)
            if ending in groups.get(key, (ending,)):
                times[key] += 1
                groups[key] = {}
                made.append((key if times[key] == 1 else f"{key}#{times[key]}", groups[key]))
            groups[key][ending] = member
    return [item if isinstance(item, Sample) else Sample(item[0], tuple(item[1].items())) for item in made]


def _foreign_row(
    unit: TarUnit, sample: Sample, read: Read, guesses: text.Guesses | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sample of any webdataset tar as a row, and the fields that its JSON adds.

    Pictures named by a role (`source.jpg`, `target.png`) take it; a picture without a role is the row's picture;
    `txt` is the caption, of a pair the instruction, `json` an object of columns; anything else is a column of its own.
    """
    row: dict[str, Any] = {}
    named = dict(sample.files)
    taken: set[str] = set()

    def stored(known: dict[str, Any]) -> dict[str, Any]:
        member = named.get(known["member"])
        if member is None:
            return reference(file=f"{unit.name}/{known['member']}", etag=files.MISSING)
        taken.add(known["member"])
        return unit.picture(member, known)

    def content(member: Member) -> bytes:
        if member.size > _TEXT_LIMIT:
            raise RowError("file too large", f"{member.name}: {member.size} bytes")
        return read(member.offset, member.size)

    fields = None
    sidecar = next((ending for ending in named if ending.lower() == "json"), None)
    if sidecar is not None:
        fields = _sidecar(text.decode(content(named[sidecar]), guesses), named, stored)
        if fields is not None:
            taken.add(sidecar)
    others: list[tuple[list[str], Member]] = []
    for ending, member in sample.files:
        if ending in taken:
            continue
        parts = ending.split(".")
        head = read(member.offset, min(member.size, 64))
        if images.sniff(head) is not None or parts[-1].lower() in IMAGE_ENDINGS:
            _place_picture(row, parts, unit.picture(member, {}))
        else:
            others.append((parts, member))
    for parts, member in others:  # after the pictures, whose names come first
        if parts[-1].lower() == "txt":
            name = _text_column(row) if len(parts) == 1 else "_".join(parts)
            columns.put(row, name, text.lines(content(member), guesses))
        else:
            columns.put(row, "_".join(parts) or "data", _text_or_bytes(content(member)))
    return row, fields or {}


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8-sig").strip("\n")
    except UnicodeDecodeError:
        return data


def parts(rows: Iterable[dict[str, Any] | Reject], schema: pa.Schema, batch_rows: int) -> Iterator[Part]:
    """Rows and rejects as parts of at most `batch_rows` of both, less where they are large."""
    held: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    size = 0
    known = set(schema.names)
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
        elif not row.keys() <= known:
            rejects.append(_refused(row, "file changed while it was read", ", ".join(sorted(row.keys() - known))))
        else:
            held.append(row)
            size += sum(len(value) for value in row.values() if isinstance(value, (bytes, str)))
        if len(held) + len(rejects) == batch_rows or size >= _BATCH_BYTES:
            yield _part(held, rejects, schema)
            held, rejects, size = [], [], 0
    if held or rejects:
        yield _part(held, rejects, schema)


def _part(rows: list[dict[str, Any]], rejects: list[Reject], schema: pa.Schema) -> Part:
    """The rows as a batch; one with a value that Arrow does not take is a reject instead of an end of the run."""
    try:
        return columns.to_batch(rows, schema), rejects
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        kept = [columns.to_batch([], schema)]
        for row in rows:
            try:
                kept.append(columns.to_batch([row], schema))
            except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError) as error:
                rejects.append(_refused(row, "cannot be a row", describe(error)))
        return pa.concat_batches(kept), rejects


def _refused(row: dict[str, Any], reason: str, value: str) -> Reject:
    return Reject(str(row.get("id")), "read", reason, value, True, (row.get("provenance") or {}).get("path"))


def _other_label(path: str, label: str | None) -> list[str]:
    """What a digest holds of a label: paths, and ids made of them, are other ones than by the file's name."""
    return [label] if label is not None and label != os.path.basename(path) else []


def _sidecar(
    content: str, named: Container[str], stored: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any] | None:
    """The fields of a JSON sidecar; None where it is not an object.

    In the tars of edittools a picture is {member, width, height, format} there: `stored` finds it among the files,
    whose names are `named`.
    """

    def is_stub(value: dict[str, Any]) -> bool:
        name = value.get("member")
        if not isinstance(name, str) or value.keys() != _STUB:
            return False
        return name in named or name.rpartition(".")[2] in IMAGE_ENDINGS

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(item) for item in value]
        if not isinstance(value, dict):
            return value
        if is_stub(value):
            return stored(value)
        return {key: resolve(item) for key, item in value.items()}

    try:
        fields = resolve(text.load_json(content))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _text_column(row: dict[str, Any]) -> str:
    """Where the text beside pictures belongs: a pair's says what to do, a single picture's what is on it."""
    return "instruction" if row.get("source") and row.get("target") else "caption"


def _place_picture(row: dict[str, Any], parts: list[str], value: dict[str, Any]) -> None:
    """Put a picture into the column that its role names; without a role it is the target.

    `parts` are those of its name after the key, the ending last. A second picture of a role has a column of its own.
    """
    role = "_".join(parts[:-1]) or "target"
    if parts[0] == "source" and len(parts) > 1:
        row.setdefault("source", []).append(value)
    elif role in row:
        columns.put(row, "_".join(parts), value)
    else:
        row[role] = value


def _finish(
    row: dict[str, Any], fields: dict[str, Any], identity: str, path: str, mapping: Mapping
) -> dict[str, Any]:
    """Give a foreign row the fields that are written beside it, its names, an id, its place in the source, and a task
    where the pictures tell it. Raises RowError where --map cannot be carried out."""
    for name, value in fields.items():
        columns.put(row, name, value)
    row = mapping.rename(row)
    mapping.refuse_unfit(row)
    row = columns.normalise(row)
    if not row.get("id"):
        row["id"] = identity
    if not row.get("task") and row.get("target") and not row.get("source") and "instruction" not in row:
        row["task"] = "t2i"
    provenance = {**(row.get("provenance") or {})}
    if not provenance.get("path"):
        provenance["path"] = path
    row["provenance"] = provenance
    return row


class ParquetUnit:
    """A foreign Parquet file: Hugging Face pictures, plain binary pictures, paths of pictures, any other columns.

    A column of text holds paths where --map or --image says so, or where it has one of the names that JSON lines may
    have for it and its first values end as names of pictures do. Paths are beside the file.
    """

    renamed = False

    def __init__(
        self, path: str, label: str | None = None, content: str | None = None, mapping: Mapping | None = None
    ) -> None:
        """`label` stands for the name of the file, `content` (a digest) for the tag of one that is only a copy."""
        self.name = path
        self.label = label or os.path.basename(path)
        self.mapping = mapping or Mapping()
        self.tag = files.etag(path)
        self.history = History()
        self.base = os.path.dirname(path) if content is None else os.getcwd()
        self.named_pictures: set[str] = set()  # what a folder of pictures has beyond these
        # A copy loses its name at once; other files are opened when they are read, for there may be many.
        self.held = files.open_read(path) if content is not None else None
        with arrow_errors(path), self._opened() as file:
            check_names(file.schema_arrow, path)
            self.stored = pa.schema([(c.name, c.type) for c in file.schema_arrow], metadata=file.schema_arrow.metadata)
            if image_leaves(self.stored, STORED_IMAGE):
                raise EditError(
                    f"{label or path}: a shard's Parquet file under another name: its pictures are in the shard's tar",
                    hint="name the shard, or the folder it is in",
                )
            self.metadata = file.metadata
            self.rows = file.metadata.num_rows
            try:
                self.history = History.from_json((self.stored.metadata or {}).get(b"edit.history"))
            except ValueError:
                self.history = History()
            self.pictures = {c.name for c in self.stored if is_hf_image(c.type) or self._holds_pictures(file, c)}
            self.by_path = {c.name for c in self.stored if self._holds_paths(file, c)}
            self.fetched = bool(self.pictures) and IMG2DATASET <= set(self.stored.names)
        self.foreign_ids = "id" in self.stored.names and not self.history.nodes
        self.schema = pa.schema(list(self._columns()))
        tags = xxhash.xxh3_128()  # the rows only name these: they may change while the file stays
        for row in self._named_files():
            tags.update(row.encode())
        self.digest = digest("parquet", content or self.tag, *_other_label(path, label), *self._digest_of(tags))

    def _digest_of(self, tags: Any) -> list[str]:
        return [tags.hexdigest()] if self.by_path else []

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow.parquet as pq

        known = getattr(self, "metadata", None)
        if self.held is not None:
            yield pq.ParquetFile(self.held, metadata=known)
            return
        _unchanged(self.name, self.tag)
        with files.open_read(self.name) as source:
            yield pq.ParquetFile(source, metadata=known)

    def _columns(self) -> Iterator[tuple[str, pa.DataType]]:
        for column in self.stored:
            kind = IMAGE if column.name in self.pictures else self._inline_type(plain_type(column.type))
            if column.name in self.by_path and column.name not in self.pictures:
                kind = pa.list_(IMAGE) if _is_list(column.type) else IMAGE
            if column.name == "id" and (pa.types.is_integer(kind) or pa.types.is_large_string(kind)):
                kind = pa.string()
            yield self._name(column.name), kind
        if "id" not in self.stored.names:
            yield "id", pa.string()
        if "provenance" not in self.stored.names:
            yield "provenance", columns.COLUMNS["provenance"]

    def _name(self, stored: str) -> str:
        """What a column is called: one of paths has the names that JSON lines have for pictures, and the pictures that
        img2dataset fetched are targets."""
        if self.fetched and stored in self.pictures and stored in IMAGE_ENDINGS and "target" not in self.stored.names:
            return stored if stored in self.mapping.renames else "target"
        alone = stored in ("image", "file_name") and stored in self.by_path - self.pictures - self.mapping.images
        taken = {"target", "image"} - {stored}
        return "target" if alone and not taken & {*self.stored.names} and stored not in self.mapping.renames else stored

    def _inline_type(self, kind: pa.DataType) -> pa.DataType:
        for inner in _hf_types(kind):
            kind = map_type(kind, inner, IMAGE)
        return kind

    def _first_values(self, file: Any, name: str) -> list[Any]:
        """Some values of a column that are there, by row groups: those that only hold nulls are passed by."""
        leaf = self.stored.names.index(name)
        plain = file.metadata.num_columns == len(self.stored)
        found: list[Any] = []
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            facts = about.column(leaf).statistics if plain else None
            if facts is not None and facts.has_null_count and facts.null_count == about.num_rows:
                continue
            for rows in file.iter_batches(batch_size=_LOOK_ROWS, row_groups=[group], columns=[name]):
                found += [value for value in rows.column(0).to_pylist() if value not in (None, b"", "", [])]
                if found:
                    return found
        return found

    def _holds_pictures(self, file: Any, column: pa.Field) -> bool:
        """Whether a binary column holds pictures: by its first values, if nobody says so."""
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            return False
        if column.name in self.mapping.images:
            return True
        return any(images.sniff(value) is not None for value in self._first_values(file, column.name))

    def _holds_paths(self, file: Any, column: pa.Field) -> bool:
        """Whether a column names pictures in other files, in some of its rows at least."""
        if is_hf_image(column.type):
            return self._lacks_bytes(file, column.name)
        if not _is_text(column.type.value_type if _is_list(column.type) else column.type):
            return False
        if column.name in self.mapping.images:
            return True
        if column.name in self.mapping.renames or column.name not in (*PICTURES, "image", "file_name", "result"):
            return False
        values = self._first_values(file, column.name)
        flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
        return any(isinstance(item, str) and _shown(item) for item in flat)

    def _lacks_bytes(self, file: Any, name: str) -> bool:
        """Whether a Hugging Face picture somewhere has a path and no bytes: there are more paths than pictures."""
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            leaves = {leaf.path_in_schema: leaf.statistics for leaf in map(about.column, range(about.num_columns))}
            facts = [leaves.get(f"{name}.{field}") for field in ("bytes", "path")]
            nulls = [known.null_count for known in facts if known is not None and known.has_null_count]
            if len(nulls) < 2:
                column = file.read_row_group(group, columns=[name]).column(0).combine_chunks()
                nulls = [column.field(field).null_count for field in ("bytes", "path")]
            if nulls[0] > nulls[1]:
                return True
        return False

    def _named_files(self) -> Iterator[str]:
        """The etags of the files that the rows name."""
        if not self.by_path:
            return
        for rows, _ in self.read(0, self.rows, 1 << 12):
            for name in sorted(self.by_path):
                for places in (rows.column(self._name(name)),):
                    values = places.flatten() if pa.types.is_list(places.type) else places
                    for file, tag in zip(values.field("file").to_pylist(), values.field("etag").to_pylist()):
                        if file is not None and file != self.name:
                            self.named_pictures.add(os.path.normpath(file))
                            yield f"{tag}\n"

    def row_sizes(self) -> np.ndarray:
        import pyarrow.compute as pc

        sizes = [np.zeros(0, np.int64)]
        names = sorted(self.pictures)
        with self._opened() as file:
            for rows in file.iter_batches(batch_size=64, columns=names):
                total = np.zeros(rows.num_rows, np.int64)
                for column in rows.columns:
                    data = column.field("bytes") if pa.types.is_struct(column.type) else column
                    total += pc.fill_null(pc.binary_length(data).cast(pa.int64()), 0).to_numpy()
                sizes.append(total)
        return np.concatenate(sizes)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        # The bytes of a picture are read where they are used; here only whether there is one.
        wanted = []
        for column in self.stored:
            if column.name not in self.pictures or column.name in self.by_path:
                wanted.append(column.name)
            else:
                wanted.append(f"{column.name}.path" if pa.types.is_struct(column.type) else column.name)
        groups, position = self._groups(start, stop)
        if self.by_path & self.pictures:  # where pictures lie inside too, their bytes are read
            batch_rows = min(batch_rows, 64)
        with arrow_errors(self.name), self._opened() as file:
            for rows in file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=wanted):
                first, last = max(start - position, 0), min(stop - position, rows.num_rows)
                if first < last:
                    part = rows.slice(first, last - first)
                    converted = self._convert(part, position + first)
                    yield self._without_unfetched(converted, part) if self.fetched else (converted, [])
                position += rows.num_rows
                if position >= stop:
                    break
            if position < min(stop, self.rows):  # pyarrow stops without a word where a page says it is empty
                raise EditError(f"{self.name}: damaged: {position} rows can be read, its index says {self.rows}")

    def _without_unfetched(self, rows: pa.RecordBatch, stored: pa.RecordBatch) -> Part:
        """The rows less those whose picture img2dataset could not fetch, each with its reason."""
        rejects, keep = [], []
        valid = (rows.column(self._name(name)).is_valid().to_pylist() for name in self.pictures)
        there = [any(values) for values in zip(*valid)]
        told = zip(stored.column("status").to_pylist(), stored.column("error_message").to_pylist())
        names = zip(rows.column("id").to_pylist(), row_paths(rows))
        for has_picture, (status, message), (identity, path) in zip(there, told, names):
            keep.append(has_picture or status == "success")
            if not keep[-1]:
                rejects.append(Reject(str(identity), "read", str(status), message, False, path))
        return rows.filter(pa.array(keep)), rejects

    def _groups(self, start: int, stop: int) -> tuple[list[int], int]:
        """The row groups that hold rows of a range, and the first row of the first of them."""
        bounds = np.cumsum([0] + [self.metadata.row_group(k).num_rows for k in range(self.metadata.num_row_groups)])
        found = [k for k in range(len(bounds) - 1) if bounds[k] < stop and bounds[k + 1] > start]
        return found, int(bounds[found[0]]) if found else start

    def _convert(self, rows: pa.RecordBatch, first: int) -> pa.RecordBatch:
        count = rows.num_rows
        numbers = pa.array(range(first, first + count), pa.int64())
        result: dict[str, pa.Array] = {}
        for name in self.stored.names:
            column = rows.column(name)
            if name in self.by_path:
                made = self._from_paths(name, column, numbers)
            elif name in self.pictures:
                mask = column.is_null()
                made = image_array(count, mask=mask, file=self.name, row=numbers, column=name, etag=self.tag)
            else:
                made = text.valid_array(_inline(plain_array(column), self.base))
            result[self._name(name)] = made
        if "id" not in result:
            keys = [digest(self.label, str(first + k))[:20] for k in range(count)]
            result["id"] = pa.array(keys, pa.string())
        if "provenance" not in result:
            places = [{"path": f"{self.label}/{first + k}"} for k in range(count)]
            result["provenance"] = pa.array(places, type=columns.COLUMNS["provenance"])
        return pa.record_batch([result[c.name].cast(c.type) for c in self.schema], schema=self.schema)

    def _from_paths(self, name: str, column: pa.Array, numbers: pa.Array) -> pa.Array:
        """References to the files that a column names, or, where a Hugging Face picture has bytes, to these."""
        if _is_list(column.type):
            values = column.to_pylist()
            made = [None if value is None else [self._named(path) for path in value] for value in values]
            return pa.array(made, type=pa.list_(IMAGE))
        if not pa.types.is_struct(column.type):
            return pa.array([self._named(path) for path in column.to_pylist()], type=IMAGE)
        inside = column.field("bytes").is_valid().to_pylist()
        paths = column.field("path").to_pylist()
        found = []
        for number, has_bytes, path, valid in zip(numbers.to_pylist(), inside, paths, column.is_valid().to_pylist()):
            here = reference(file=self.name, row=number, column=name, etag=self.tag)
            found.append(None if not valid else here if has_bytes else self._named(path))
        return pa.array(found, type=IMAGE)

    def _named(self, path: str | None) -> dict[str, Any] | None:
        return beside(self.base, path)


def beside(base: str, path: str | None) -> dict[str, Any] | None:
    """The picture that a path names, from a folder on; None for none. Why it cannot be read is in its etag."""
    if not path:
        return None
    full = path if os.path.isabs(path) or files.is_url(path) else files.join(base, path)
    try:
        return loose_picture(full, path)
    except RowError as error:
        return reference(file=text.valid(full), etag=f"{files.NOTHING}{error.reason}")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _hf_types(kind: pa.DataType) -> Iterable[pa.DataType]:
    """Hugging Face pictures below the top level of a column."""
    if is_hf_image(kind):
        return [kind]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _hf_types(kind.value_type)
    if pa.types.is_struct(kind) and not is_image(kind):
        return [inner for field in kind for inner in _hf_types(field.type)]
    return []


def _inline(array: pa.Array, base: str) -> pa.Array:
    """Nested Hugging Face pictures as inline bytes: a reference names only a top-level column. Those that are only
    paths are files, from the folder `base` on."""
    for kind in _hf_types(array.type):

        def convert(values: pa.StructArray) -> pa.StructArray:
            children = dict(zip([field.name for field in values.type], values.flatten()))
            mask = values.is_null() if values.null_count else None
            if children["bytes"].null_count == values.null_count:
                return image_array(len(values), mask=mask, bytes=children["bytes"].cast(pa.binary()))
            pairs = zip(children["bytes"].to_pylist(), children["path"].to_pylist(), values.is_valid().to_pylist())
            found = [
                None if not valid else reference(bytes=data) if data is not None or not path else beside(base, path)
                for data, path, valid in pairs
            ]
            return pa.array(found, type=IMAGE)

        array = map_images(array, kind, convert)
    return array


class FolderUnit:
    """A run of loose files: pictures with `.txt` and `.json` sidecars, or roles in the names."""

    renamed = True

    def __init__(
        self, root: str, groups: list[FileGroup], schema: pa.Schema, place: str = "", mapping: Mapping | None = None
    ) -> None:
        self.name = root
        self.place = place  # of several folders, which: what stands before the paths of its files
        self.groups = groups
        self.schema = schema
        self.mapping = mapping or Mapping()
        self.guesses = text.Guesses()
        self.history = History()
        self.rows = len(groups)

    @cached_property
    def digest(self) -> str:
        return self.digest_of([(0, self.rows)])

    def digest_of(self, ranges: list[tuple[int, int]]) -> str:
        """Of some of the rows: whatever other files the folder has, theirs is the same."""
        groups = (group for start, stop in ranges for group in self.groups[start:stop])
        return digest("files", *filter(None, [self.place]), *(part for group in groups for part in group.identity()))

    def row_keys(self, start: int, stop: int) -> np.ndarray:
        named = ("\0".join([self.place, *group.identity()]) for group in self.groups[start:stop])
        return np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in named), np.uint64, stop - start)

    def row_sizes(self) -> np.ndarray:
        return np.array([group.size() for group in self.groups], np.int64)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        rows = (group.row(self.mapping, self.place, self.guesses) for group in self.groups[start:stop])
        yield from parts(rows, self.schema, batch_rows)


class FileGroup:
    """The files of one row: each a (path inside the folder, full path, size, mtime in ns)."""

    def __init__(self, key: str, members: list[tuple[list[str], LooseFile]], passed_over: bool = False) -> None:
        self.key = key
        self.members = members  # the role's parts and the file; sidecars have the part `.txt` or `.json`
        self.passed_over = passed_over  # nobody expects a picture here: no failure

    def identity(self) -> Iterator[str]:
        for _, file in self.members:
            yield f"{file.inside}\0{file.etag}"

    def size(self) -> int:
        return sum(file.size for parts, file in self.members if parts[-1:] not in ([".txt"], [".json"]))

    def has_picture(self) -> bool:
        return any(file.is_picture() for _, file in self.members)

    def row(self, mapping: Mapping, place: str = "", guesses: text.Guesses | None = None) -> dict[str, Any] | Reject:
        """The row, or why there is none."""
        inside = self.members[0][1].inside
        path = f"{place}/{inside}" if place else inside
        identity = digest("place", *filter(None, [place]), self.key)[:20]
        if self.passed_over:
            return Reject(identity, "read", "neither a picture nor a table", None, False, path)
        try:
            return self._row(mapping, identity, path, guesses)
        except RowError as error:
            return Reject(identity, "read", error.reason, error.value, True, path)
        except OSError as error:  # it was there when the folder was looked through
            gone = isinstance(error, FileNotFoundError)
            reason = "missing file" if gone else "cannot read"
            return Reject(identity, "read", reason, f"{error.filename}: {error.strerror}", True, path)

    def _row(self, mapping: Mapping, identity: str, path: str, guesses: text.Guesses | None) -> dict[str, Any]:
        row: dict[str, Any] = {}
        named = {file.inside.rpartition("/")[2].partition(".")[2]: file for _, file in self.members}
        taken: set[str] = set()

        def stored(known: dict[str, Any]) -> dict[str, Any]:
            file = named.get(known["member"])
            if file is None:
                return reference(file=known["member"], etag=files.MISSING)
            taken.add(file.inside)
            size = {name: known.get(name) for name in ("width", "height", "format")}
            return reference(file=file.path, offset=0, length=file.size, etag=file.etag, **size)

        fields: dict[str, Any] = {}
        plain: list[str] = []
        for parts, file in self.members:
            if parts == [".json"]:
                content = text.decode(_read_text(file), guesses)
                found = _sidecar(content, named, stored)
                for name, value in (found if found is not None else {"sidecar": content}).items():
                    if name in mapping.images:
                        value = self._named(value, file)
                    columns.put(fields, name, value)
        for parts, file in self.members:
            if parts == [".txt"]:
                plain.append(text.lines(_read_text(file), guesses))
            elif parts != [".json"] and file.inside not in taken:
                picture = reference(file=file.path, offset=0, length=file.size, etag=file.etag)
                _place_picture(row, [*parts, file.ending()], picture)
        for said in plain:
            columns.put(row, _text_column(row), said)
        brought = fields.pop("id", None)
        if brought is not None and fields.get("user_id") is None:
            fields["user_id"] = brought
        return _finish(row, fields, identity, path, mapping)

    def _named(self, value: Any, sidecar: LooseFile) -> Any:
        """The pictures that a field of a sidecar names, which is told to hold some; paths are beside the sidecar."""
        if isinstance(value, list):
            return [self._named(item, sidecar) for item in value]
        if not isinstance(value, str):
            return value
        folder = sidecar.path.rpartition("/")[0]
        return loose_picture(value if os.path.isabs(value) else files.join(folder, value), value) if value else None


class LooseFile:
    """One file of a crawl."""

    def __init__(self, inside: str, path: str, size: int, tag: str) -> None:
        self.inside, self.path, self.size, self.etag = inside, path, size, tag
        self.readable = not tag.startswith(files.NOTHING)

    def ending(self) -> str:
        return self.inside.rpartition("/")[2].rpartition(".")[2].lower()

    def is_picture(self) -> bool:
        return self.ending() in IMAGE_ENDINGS


def _read_text(file: LooseFile) -> bytes:
    """A sidecar. Raises RowError for one that is no text any more."""
    if file.size > _TEXT_LIMIT:
        raise RowError("file too large", f"{file.inside}: {file.size} bytes")
    return files.read_bytes(file.path)


def walk(root: str) -> Iterator[LooseFile]:
    """Every file below a folder, sorted by its path inside it; hidden files and folders are passed over.

    What cannot be read has an etag that says why: its row is rejected for this reason.
    """
    if files.is_url(root):
        system, inner = files.filesystem(root)
        protocol = root.partition("://")[0]
        found = system.find(inner, detail=True)
        for path in sorted(found):
            inside = path[len(inner) :].lstrip("/")
            full = f"{protocol}://{path.lstrip('/')}" if protocol != "memory" else f"memory://{path}"
            if not any(part.startswith(".") for part in inside.split("/")):
                yield LooseFile(inside, full, int(found[path]["size"]), files.object_tag(found[path]))
        return
    pending = [""]
    found_local: list[tuple[str, str, os.DirEntry | None]] = []
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    inside = os.path.join(folder, entry.name)
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(inside)
                    else:
                        found_local.append((inside, "", entry))
        except OSError as error:
            if not folder:
                raise
            found_local.append((folder, f"{files.NOTHING}cannot read: {error.strerror}", None))
    for inside, tag, entry_or_none in sorted(found_local, key=lambda item: item[0]):
        size = 0
        if entry_or_none is not None:
            size, tag = _local_facts(entry_or_none)
        if _clean(inside) != inside:
            size, tag = 0, f"{files.NOTHING}name is not UTF-8"
        yield LooseFile(_clean(inside), _clean(os.path.join(root, inside)), size, tag)


def _local_facts(entry: os.DirEntry) -> tuple[int, str]:
    """Size and etag of what is no folder."""
    try:
        found = entry.stat()
    except FileNotFoundError:  # a dangling link
        return 0, files.MISSING
    except OSError as error:
        return 0, f"{files.NOTHING}cannot read: {error.strerror}"
    if entry.is_dir():
        return 0, f"{files.NOTHING}link to a folder"  # which may lead back here
    if not entry.is_file():
        return 0, f"{files.NOTHING}not a regular file"  # a pipe or a device would block
    return found.st_size, f"{found.st_size}-{found.st_mtime_ns}"


def _clean(path: str) -> str:
    """A path as valid UTF-8; file systems allow any bytes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def folder_groups(every: list[LooseFile]) -> list[FileGroup]:
    """The rows of loose files, sorted by their paths.

    `ID.source.jpg` and `ID.target.jpg` make one row; any other file is a row of its own, whatever its name says,
    except a `.txt` or `.json` beside a picture of the same stem, which belongs to that row.
    """
    stems: dict[str, list[LooseFile]] = {}
    for file in every:
        stems.setdefault(file.inside.rpartition(".")[0], []).append(file)
    keyed: dict[str, list[tuple[list[str], LooseFile]]] = {}
    roles: set[str] = set()
    for file in every:
        folder, _, base = file.inside.rpartition("/")
        stem, _, rest = base.partition(".")
        parts = rest.split(".")
        if len(parts) >= 2 and parts[0] in _ROLES and parts[-1].lower() in IMAGE_ENDINGS:
            key = f"{folder}/{stem}" if folder else stem
            keyed.setdefault(key, []).append((parts[:-1], file))
            roles.add(file.inside)
    groups: list[FileGroup] = []
    used: set[str] = set()
    for file in every:
        stem, _, ending = file.inside.rpartition(".")
        if file.inside in used:
            continue
        if file.inside in roles:
            folder, _, base = file.inside.rpartition("/")
            key = (f"{folder}/" if folder else "") + base.partition(".")[0]
            members, roles_of = [], set()
            for parts, member in sorted(keyed[key], key=lambda item: (item[0][0], len(item[1].inside), item[1].inside)):
                if parts[0] != "source" and tuple(parts) in roles_of:  # x.target.jpg and x.target.png
                    groups.append(FileGroup(member.inside, [([], member)]))
                    used.add(member.inside)
                else:
                    members.append((parts, member))
                    roles_of.add(tuple(parts))
            members = members + _sidecars(stems.get(key, []))
            used.update(member.inside for _, member in members)
            groups.append(FileGroup(key, members))
        elif ending.lower() in _SIDECARS and file.readable and _has_picture(stems[stem], stem, keyed):
            continue  # a sidecar: its picture takes it along
        elif ending.lower() in IMAGE_ENDINGS:
            groups.append(FileGroup(file.inside, [([], file), *_sidecars(stems[stem])]))
        else:
            groups.append(FileGroup(file.inside, [([], file)]))
    return groups


def _sidecars(siblings: list[LooseFile]) -> list[tuple[list[str], LooseFile]]:
    readable = [file for file in siblings if file.readable]
    return [([_SIDECARS[file.ending()]], file) for file in readable if file.ending() in _SIDECARS]


def _has_picture(siblings: list[LooseFile], stem: str, keyed: dict) -> bool:
    return stem in keyed or any(f.inside.rpartition(".")[2].lower() in IMAGE_ENDINGS for f in siblings)


def folder_schema(groups: list[FileGroup], mapping: Mapping) -> pa.Schema:
    """The columns of a folder: JSON sidecars are read once beforehand to know theirs."""
    observed = columns.ObservedSchema()
    observed.observe({"id": "", "task": "", **mapping.rename({"target": None}), "provenance": None})
    for group in groups:
        if len(group.members) > 1 or group.members[0][0] or mapping.renames:
            row = group.row(mapping)
            if isinstance(row, dict):
                observed.observe(row)
    return observed.schema()


class LinesUnit:
    """JSON lines, a JSON array or object of records, or CSV.

    Paths are beside the file. In `image` and `file_name` a string is one; in `source`, `target`, `mask` and `result` if
    it ends as a picture's name does or a file is there, for it may be a word too, and so in the turns and objects of a
    record; in columns that --map or --image says are pictures, always. A picture may be {"file": PATH} too, also in
    `result_NAME`.
    """

    renamed = True

    def __init__(
        self, path: str, data: bytes | None = None, label: str | None = None, mapping: Mapping | None = None
    ) -> None:
        self.name = path
        self.label = label or os.path.basename(path)
        self.mapping = mapping or Mapping()
        self.guesses = text.Guesses()
        self.history = History()
        self.data = data
        self.tag = files.etag(path) if data is None else ""
        # References have to hold in a process that was started elsewhere.
        self.base = os.path.dirname(path) if data is None else os.getcwd()
        observed = columns.ObservedSchema()
        observed.observe({"id": "", "provenance": None})
        self.foreign_ids = False
        self.named_pictures: set[str] = set()  # what a folder of pictures has beyond these
        keys = array.array("Q")
        for number, record in self._records(text.Guesses()):
            row = self._row(number, record)
            # The records only name their pictures, which may change while the records stay.
            whole = f"{number}\0{record!r}\0{_tags(row)}"
            keys.append(xxhash.xxh3_64_intdigest(whole.encode("utf-8", "backslashreplace")))
            if isinstance(row, dict):
                observed.observe(row)
                self.foreign_ids |= row["id"] != self._id(number)
        self.schema = observed.schema()
        self.keys = np.array(keys, np.uint64)
        self.rows = len(keys)
        self._open: tuple[int, Iterator[tuple[int, Any]]] | None = None

    @cached_property
    def digest(self) -> str:
        return self.digest_of([(0, self.rows)])

    def digest_of(self, ranges: list[tuple[int, int]]) -> str:
        """Of some of the rows: whatever other rows have come behind them, theirs is the same."""
        held = [self.keys[start:stop].tobytes() for start, stop in ranges]
        return digest("lines", *_other_label(self.name, self.label), *held)

    def row_keys(self, start: int, stop: int) -> np.ndarray:
        """A row is named by its number, its record and its pictures, and by the file's label."""
        label = np.uint64(xxhash.xxh3_64_intdigest("".join(_other_label(self.name, self.label)).encode()))
        return self.keys[start:stop] + label

    def _records(self, guesses: text.Guesses) -> Iterator[records.Record]:
        if self.data is None:
            _unchanged(self.name, self.tag)
        opened: BinaryIO = files.open_read(self.name) if self.data is None else io.BytesIO(self.data)
        with opened as file:
            head = file.read(1024)
            file.seek(0)
            read = records.reader_for(self.name, head) or records.line_records
            try:
                yield from read(file, guesses)
            except UsageError as error:
                raise UsageError(f"{self.name}: {error}", error.hint) from None

    def _id(self, number: int) -> str:
        return digest("line", str(number), *_other_label(self.name, self.label))[:20]

    def _row(self, number: int, record: dict[str, Any] | RowError) -> dict[str, Any] | Reject:
        """The row, or why there is none."""
        path = f"{self.label}/{number}"
        try:
            if isinstance(record, RowError):
                raise record
            row: dict[str, Any] = {}
            for name, value in record.items():
                place, value = self._column(name, value, record)
                columns.put(row, place, value)
            return _finish(row, {}, self._id(number), path, self.mapping)
        except RowError as error:
            return Reject(self._id(number), "read", error.reason, error.value, True, path)

    def _column(self, name: str, value: Any, record: dict[str, Any]) -> tuple[str, Any]:
        """Where a value of a record goes, and what it is there: the pictures that it names, or itself."""
        if name in self.mapping.images:
            return name, self._pictures(value)
        if name in self.mapping.renames:
            return name, value
        if name in ("image", "file_name"):
            others = [record.get(other) for other in ("target", "image") if other != name]
            free = not any(isinstance(other, (str, dict)) and other for other in others)
            if isinstance(value, str) or _path_alone(value) is not None:
                return "target" if free else name, self._pictures(value)
            if isinstance(value, list) and value and all(isinstance(item, str) and _shown(item) for item in value):
                made = self._pictures(value)
                return ("target", made[0]) if free and len(made) == 1 else (name, made)
            return name, value
        if name in COLUMNS:
            return name, self._in_record(value, COLUMNS[name])
        named = _path_alone(value) if name == "result" or name.startswith("result_") else None
        if name == "result" and isinstance(value, str):
            named = value
        return name, self._pictures(value) if isinstance(named, str) and _shown(named) else value

    def _in_record(self, value: Any, kind: pa.DataType) -> Any:
        """A value of the record with the paths in it, where its type has pictures, as pictures."""
        if isinstance(value, list):
            inner = kind.value_type if pa.types.is_list(kind) else kind
            return [self._in_record(item, inner) for item in value]
        if pa.types.is_list(kind):  # one where there may be several
            kind = kind.value_type
        if kind == IMAGE:
            path = _path_alone(value)
            if path is not None or (isinstance(value, str) and (not value or self._is_path(value))):
                return self._pictures(value)
        elif isinstance(value, dict) and pa.types.is_struct(kind):
            types = {field.name: field.type for field in kind}
            return {key: self._in_record(item, types[key]) if key in types else item for key, item in value.items()}
        return value

    def _is_path(self, value: str) -> bool:
        """Whether a string that may be a word is the path of a picture."""
        if _shown(value):
            return True
        try:
            return not files.is_url(value) and os.path.isfile(files.join(self.base, value))
        except ValueError:
            return False

    def _pictures(self, value: Any) -> Any:
        """What a path, a reference that is only a path, or a list of them names. Raises RowError for anything else."""
        if isinstance(value, list):
            return [self._pictures(item) for item in value]
        path = value if isinstance(value, str) else _path_alone(value)
        if value is None or path == "":  # an empty cell of a table
            return None
        if path is None:
            if isinstance(value, dict) and value.keys() <= _PICTURE_FIELDS and isinstance(value.get("file"), str):
                return value  # a reference, as `edit cat -f jsonl` shows it
            raise RowError("not a path", json.dumps(value, ensure_ascii=False)[:80])
        full = path if os.path.isabs(path) or files.is_url(path) else files.join(self.base, path)
        self.named_pictures.add(os.path.normpath(full))
        return loose_picture(full, path)

    def row_sizes(self) -> np.ndarray:
        return np.concatenate(
            [np.zeros(0, np.int64)] + [picture_bytes(rows) for rows, _ in self.read(0, self.rows, 256)]
        )

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        """Shards are mostly read in order: the next one begins where the one before ended, not at the file's first
        byte."""
        position, found = self._open or (0, self._records(self.guesses))
        if position > start:
            position, found = 0, self._records(self.guesses)
        self._open = None
        for _ in itertools.islice(found, start - position):
            pass
        rows = (self._row(number, record) for number, record in itertools.islice(found, stop - start))
        yield from parts(rows, self.schema, batch_rows)
        if stop < self.rows:
            self._open = stop, found


def loose_picture(path: str, shown: str) -> dict[str, Any]:
    """The reference to a file that a record names. Raises RowError where there is no such file."""
    path = files.local(path)
    try:
        size, tag = files.facts(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RowError("missing file", shown[:200]) from None
    except (OSError, ValueError, EditError) as error:
        raise RowError("cannot read", f"{shown[:200]}: {getattr(error, 'strerror', None) or describe(error)}") from None
    except Exception as error:
        if not files.is_url(path):
            raise
        raise RowError("cannot read", f"{shown[:200]}: {describe(error)}") from None  # stores have errors of their own
    return reference(file=path, offset=0, length=size, etag=tag)


def _path_alone(value: Any) -> str | None:
    """The path of {"file": PATH} with what may be known of the picture; `path` is what `datasets` calls it."""
    if not isinstance(value, dict) or not value.keys() <= {"file", "path", "bytes", "width", "height", "format"}:
        return None
    path = value.get("file") or value.get("path")
    return path if isinstance(path, str) and value.get("bytes") is None else None


def _shown(path: str) -> bool:
    """Whether a string ends as the name of a picture does."""
    return os.path.splitext(path)[1][1:].lower() in IMAGE_ENDINGS


def _tags(row: dict[str, Any] | Reject) -> str:
    """The etags of a row's pictures, or why there is no row."""
    if isinstance(row, Reject):
        return f"{row.reason}: {row.value}\n"
    return " ".join(_etags(list(row.values()))) + "\n"


def _etags(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if value.keys() == _PICTURE_FIELDS:
            yield str(value["etag"])
        else:
            yield from _etags(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                yield from _etags(item)


# Inputs that get further rows while those that are there stay the same: their parts have digests of their own.
GROWING = (FolderUnit, LinesUnit)


def unit_for_file(path: str, label: str | None = None, mapping: Mapping | None = None) -> Unit:
    """The unit a single file is, by its first bytes. Raises EditError for what no unit reads.

    `label` is what stands before the places of its rows; by default the file's name.
    """
    with files.open_read(path) as file:
        head = file.read(1024)
    if head[:4] == b"PAR1":
        folder, name = os.path.split(path)
        index = shard_index(name)
        if index is None or not is_shard(path):
            return ParquetUnit(path, label, mapping=mapping)
        return ShardUnit(folder, index)  # its pictures are in the tar beside it
    if head[257:262] == b"ustar" or (len(head) >= 512 and not head[:512].strip(b"\0")):
        return TarUnit(path, label, mapping)
    if images.sniff(head) is not None:
        return _single_picture(path, label, mapping or Mapping())
    if records.reader_for(path, head) is not None:
        return LinesUnit(path, label=label, mapping=mapping)
    raise EditError(
        f"{path}: neither a shard set, a tar, a Parquet file, JSON, CSV, an Arrow stream nor a picture",
        hint="a compressed tar must be unpacked first" if head[:2] in (b"\x1f\x8b", b"BZ", b"\x28\xb5") else None,
    )


def _single_picture(path: str, label: str | None, mapping: Mapping) -> FolderUnit:
    file = LooseFile(label or os.path.basename(path), path, files.size(path), files.etag(path))
    group = FileGroup(file.inside, [([], file)])
    return FolderUnit(path, [group], folder_schema([group], mapping), mapping=mapping)
