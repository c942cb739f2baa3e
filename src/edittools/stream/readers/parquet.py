"""Parquet files that others wrote."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import DamagedError, EditError
from edittools.record import COLUMNS, IMAGE, STORED_IMAGE, is_hf_image, is_image
from edittools.stream import columns, files, text
from edittools.stream.batch import Reject, image_array, image_columns, map_images, map_type
from edittools.stream.history import History, digest
from edittools.stream.input_reader import (
    IMAGE_ENDINGS,
    IMG2DATASET,
    Part,
    beside,
    image_bytes,
    other_label,
    reference,
    unchanged,
)
from edittools.stream.ipc import arrow_errors, check_names
from edittools.stream.mapping import Mapping
from edittools.stream.packed import NameSet
from edittools.stream.parquet_columns import ParquetColumns, is_list
from edittools.stream.rowjson import dump_rows, plain_array, plain_type
from edittools.stream.rows import row_paths

_MARK_BYTES = 4096  # of a column's part of a row group, at either end, by which it is known
_BUFFER = 1 << 18
_ARRANGED_ROWS = 512
_FEW_ROWS = 64  # with their images in memory
_MARK_ROWS = 1 << 12

TABLES = ("parquet",)


def claim(path: str, head: bytes) -> int:
    return 2 if head[:4] == b"PAR1" else 0


def open_file(path: str, label: str | None, mapping: Mapping) -> ParquetReader:
    return ParquetReader(path, label, mapping=mapping)


class ParquetReader:
    """A foreign Parquet file: Hugging Face images, plain binary images, paths of images, any other columns.

    A column of text holds paths where --map or --image says so, or where it has one of the names that JSON lines may
    have for it and its first values end as names of images do. Paths are beside the file.
    """

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
        self.named_images = NameSet()  # what a folder of images has beyond these
        # A copy loses its name at once; other files are opened when they are read, for there may be many.
        self.held = files.open_read(path) if content is not None else None
        self._hollows: dict[tuple[int, str], np.ndarray | None] = {}
        with arrow_errors(path), self._opened() as file:
            check_names(file.schema_arrow, path)
            self.stored = pa.schema([(c.name, c.type) for c in file.schema_arrow], metadata=file.schema_arrow.metadata)
            if image_columns(self.stored, STORED_IMAGE):
                raise EditError(
                    f"{label or path}: a shard's Parquet file under another name: its images are in the shard's tar",
                    hint="name the shard, or the folder it is in",
                )
            self.metadata = file.metadata
            self.rows = file.metadata.num_rows
            try:
                self.history = History.from_json((self.stored.metadata or {}).get(b"edit.history"))
            except ValueError:
                self.history = History()
            looked = ParquetColumns(path, file, self.stored, self.mapping)
            self.images, self.by_path = looked.images(), looked.by_path()
            self.fetched = bool(self.images) and IMG2DATASET <= set(self.stored.names)
        self.foreign_ids = "id" in self.stored.names and not self.history.nodes
        self.own = self.schema = pa.schema(list(self._columns()))
        self.arrangement = self.mapping.arrangement
        self.renamed = self.arrangement is not None
        self.placed: list[str] = []  # columns of text whose paths the arrangement finds
        if self.arrangement is not None:
            self.schema = self.arrangement.schema(self.own, self.name)
            self.placed = self.arrangement.by_path(self.own, self.name)
        self.names_files = bool(self.by_path or self.placed)
        self._marks = self._row_marks() if self.names_files else np.zeros(0, np.uint64)
        named = [xxhash.xxh3_128_hexdigest(self._marks.tobytes())] if self.names_files else []
        self.digest = digest("parquet", content or self.tag, *other_label(path, label), *named)

    def digest_of(self, ranges: list[tuple[int, int]]) -> str:
        """Digest of some of the rows, the same when row groups have come behind theirs."""
        held = [self.row_keys(start, stop).tobytes() for start, stop in ranges]
        return digest("row groups", *other_label(self.name, self.label), *held)

    def row_keys(self, start: int, stop: int) -> np.ndarray:
        """A row is named by its number in its row group, and the group by where its columns lie and their first and
        last bytes, and by the files that it names; a row without images inside the file by all that it says."""
        if self.held is not None:
            whole = np.uint64(xxhash.xxh3_64_intdigest(self.digest.encode()))
            return whole + np.arange(start, stop, dtype=np.uint64)
        label = "".join(other_label(self.name, self.label)).encode()
        if self.names_files and not self.images:
            return self._marks[start:stop] + np.uint64(xxhash.xxh3_64_intdigest(label))
        found, position = [np.zeros(0, np.uint64)], 0
        for mark in self._group_marks:
            count = self.metadata.row_group(len(found) - 1).num_rows
            first, last = max(start - position, 0), min(stop - position, count)
            named = np.uint64(xxhash.xxh3_64_intdigest(mark + label))
            found.append(named + np.arange(first, max(first, last), dtype=np.uint64))
            position += count
        keys = np.concatenate(found)
        return keys ^ self._marks[start:stop] if self.names_files else keys

    @cached_property
    def _group_marks(self) -> list[bytes]:
        """A digest per row group."""
        marks = []
        with arrow_errors(self.name), files.open_read(self.name) as file:
            for k in range(self.metadata.num_row_groups):
                about, state = self.metadata.row_group(k), xxhash.xxh3_128(str(self.stored).encode())
                for leaf in map(about.column, range(about.num_columns)):
                    at = min(filter(None, [leaf.dictionary_page_offset, leaf.data_page_offset]))
                    size = leaf.total_compressed_size
                    state.update(f"{leaf.path_in_schema} {at} {size} {leaf.num_values} ".encode())
                    for place in (at, max(at, at + size - _MARK_BYTES)):
                        file.seek(place)
                        state.update(file.read(min(size, _MARK_BYTES)))
                marks.append(state.digest())
        return marks

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow.parquet as pq

        known = getattr(self, "metadata", None)
        if self.held is not None:
            yield pq.ParquetFile(self.held, metadata=known)
            return
        unchanged(self.name, self.tag)
        with files.open_read(self.name) as source:  # by the buffer, not a whole column of a row group at once
            yield pq.ParquetFile(source, metadata=known, buffer_size=_BUFFER)

    def _columns(self) -> Iterator[tuple[str, pa.DataType]]:
        for column in self.stored:
            kind = IMAGE if column.name in self.images else self._inline_type(plain_type(column.type))
            if column.name in self.by_path and column.name not in self.images:
                kind = pa.list_(IMAGE) if is_list(column.type) else IMAGE
            if column.name == "id" and (pa.types.is_integer(kind) or pa.types.is_large_string(kind)):
                kind = pa.string()
            yield self._name(column.name), kind
        if "id" not in self.stored.names:
            yield "id", pa.string()
        if "provenance" not in self.stored.names:
            yield "provenance", COLUMNS["provenance"]

    def _name(self, stored: str) -> str:
        """What a column is called: one of paths has the names that JSON lines have for images, and the images that
        img2dataset fetched are targets."""
        if self.fetched and stored in self.images and stored in IMAGE_ENDINGS and "target" not in self.stored.names:
            return stored if stored in self.mapping.renames else "target"
        alone = stored in ("image", "file_name") and stored in self.by_path - self.images - self.mapping.images
        taken = {"target", "image"} - {stored}
        return "target" if alone and not taken & {*self.stored.names} and stored not in self.mapping.renames else stored

    def _inline_type(self, kind: pa.DataType) -> pa.DataType:
        for inner in hf_types(kind):
            kind = map_type(kind, inner, IMAGE)
        return kind

    def _row_marks(self) -> np.ndarray:
        """64 bits per row that are others where one of the files that it names is, or where the row says something else
        and no image lies in this file: the rows only name their images, which may change while this file stays."""
        marks, first = np.zeros(self.rows, np.uint64), 0
        wanted = sorted({*self.by_path, *self.placed}) if self.images else self.stored.names
        most = _FEW_ROWS if self.images else _MARK_ROWS
        with self._opened() as file:
            for group in range(file.num_row_groups):
                at = first
                with self._past_damage_of_groups():
                    for rows in file.iter_batches(batch_size=most, row_groups=[group], columns=wanted):
                        for number, said in enumerate(self._said(rows, at), at):
                            marks[number] = xxhash.xxh3_64_intdigest(b"%d\0" % number + said)
                        at += rows.num_rows
                first += file.metadata.row_group(group).num_rows
        return marks

    def _said(self, rows: pa.RecordBatch, first: int) -> list[bytes]:
        """What rows say, where no image lies in this file, and the etags of the files that they name."""
        said = [b""] * rows.num_rows
        if not self.images:
            plain = [text.valid_array(plain_array(column)) for column in rows.columns]
            said = dump_rows(pa.record_batch(plain, rows.schema.names))
        numbers = pa.array(range(first, first + rows.num_rows), pa.int64())
        for name in sorted(self.by_path):
            tags = self._tags(self._from_paths(name, rows.column(name), numbers))
            said = [whole + b"\0" + tag.encode() for whole, tag in zip(said, tags)]
        if self.arrangement is not None and self.placed:
            tags = self.arrangement.named_images(rows.select(self.placed), self.base, self.own, self.name)
            said = [whole + b"\0" + tag.encode() for whole, tag in zip(said, tags)]
        return said

    @contextlib.contextmanager
    def _past_damage_of_groups(self) -> Iterator[None]:
        """What is looked up beforehand may be missing for a row group that is damaged: its rows will have failed."""
        try:
            with arrow_errors(self.name):
                yield
        except DamagedError:
            if files.is_url(self.name):  # it may be the store that failed
                raise

    def _tags(self, found: pa.Array) -> Iterator[str]:
        """The etags of the files that each row names, which are noted."""
        lists = pa.types.is_list(found.type)
        values = found.flatten() if lists else found
        tags = values.field("etag").to_pylist()
        for k, path in enumerate(values.field("file").to_pylist()):
            if path == self.name:
                tags[k] = ""  # in this file: the row group says which image it is
            elif path is not None:
                self.named_images.add(os.path.normpath(path))
        if not lists:
            yield from (str(tag) for tag in tags)
            return
        ends = np.cumsum(found.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        for start, stop in itertools.pairwise([0, *ends.tolist()]):
            yield "\n".join(map(str, tags[start:stop]))

    def row_sizes(self) -> np.ndarray:
        """Of the images of columns by these alone; of nested ones, and of other files, as rows are read."""
        sizes = self._column_sizes()
        if self.by_path or any(len(path) > 1 for path in image_columns(self.schema)):
            first = 0
            for rows, rejects in self.read(0, self.rows, _FEW_ROWS):
                sizes[first : first + rows.num_rows] += image_bytes(rows)
                first += rows.num_rows + len(rejects)
        return sizes

    def _column_sizes(self) -> np.ndarray:
        import pyarrow.compute as pc

        sizes, first = np.zeros(self.rows, np.int64), 0
        with self._opened() as file:
            for group in range(file.num_row_groups if self.images else 0):
                at = first
                with self._past_damage_of_groups():
                    for rows in file.iter_batches(
                        batch_size=_FEW_ROWS, row_groups=[group], columns=sorted(self.images)
                    ):
                        for column in rows.columns:
                            data = column.field("bytes") if pa.types.is_struct(column.type) else column
                            known = pc.fill_null(pc.binary_length(data).cast(pa.int64()), 0)
                            sizes[at : at + rows.num_rows] += known.to_numpy()
                        at += rows.num_rows
                first += file.metadata.row_group(group).num_rows
        return sizes

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        """Of several row groups, of which some are damaged, the rows of these have failed."""
        position = start
        try:
            for part in self._read(start, stop, batch_rows):
                position += part[0].num_rows + len(part[1])
                yield part
        except DamagedError:
            if files.is_url(self.name) or self.metadata.num_row_groups == 1:  # it may be the store that failed
                raise
            yield from self._past_damage(position, stop, batch_rows)

    def _past_damage(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        """Rows start..stop by row groups, each as far as it can be read."""
        groups, first = self._groups(start, stop)
        position = start
        for group in groups:
            first += self.metadata.row_group(group).num_rows
            end = min(stop, first)
            try:
                for part in self._read(position, end, batch_rows):
                    position += part[0].num_rows + len(part[1])
                    yield part
            except DamagedError as error:
                yield self.damaged(position, end, error)
                position = end

    def damaged(self, start: int, stop: int, error: DamagedError) -> Part:
        """Rows start..stop as rejects."""
        why = str(error).removeprefix(f"{self.name}: ")
        return columns.to_batch([], self.schema), [
            Reject(f"{row}", "read", "damaged file", why, True, f"{self.label}/{row}") for row in range(start, stop)
        ]

    def _read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        # The bytes of an image are read where they are used; here only whether there is one.
        wanted = []
        for column in self.stored:
            if column.name not in self.images or column.name in self.by_path:
                wanted.append(column.name)
            else:
                wanted.append(f"{column.name}.path" if pa.types.is_struct(column.type) else column.name)
        groups, position = self._groups(start, stop)
        if self.by_path & self.images:  # where images lie inside too, their bytes are read
            batch_rows = min(batch_rows, _FEW_ROWS)
        if self.arrangement is not None:  # which makes Python's values of rows
            batch_rows = min(batch_rows, _ARRANGED_ROWS)
        with arrow_errors(self.name):
            for group, name in itertools.product(groups, sorted(self.images - self.by_path)):
                self._hollow(group, name)  # which opens the file once more, and so before it is read
        with arrow_errors(self.name), self._opened() as file:
            for rows in file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=wanted):
                first, last = max(start - position, 0), min(stop - position, rows.num_rows)
                if first < last:
                    part = rows.slice(first, last - first)
                    converted = self._convert(part, position + first)
                    yield self._arranged(self._without_unfetched(converted, part) if self.fetched else (converted, []))
                position += rows.num_rows
                if position >= stop:
                    break
            if position < min(stop, self.rows):  # pyarrow stops without a word where a page says it is empty
                raise DamagedError(f"{self.name}: damaged: {position} rows can be read, its index says {self.rows}")

    def _arranged(self, part: Part) -> Part:
        if self.arrangement is None:
            return part
        rows, rejects = self.arrangement.part(part[0], self.base, self.schema, self.name)
        return rows, part[1] + rejects

    def _without_unfetched(self, rows: pa.RecordBatch, stored: pa.RecordBatch) -> Part:
        """The rows less those whose image img2dataset could not fetch, each with its reason."""
        rejects, keep = [], []
        valid = (rows.column(self._name(name)).is_valid().to_pylist() for name in self.images)
        there = [any(values) for values in zip(*valid)]
        told = zip(stored.column("status").to_pylist(), stored.column("error_message").to_pylist())
        names = zip(rows.column("id").to_pylist(), row_paths(rows))
        for has_image, (status, message), (identity, path) in zip(there, told, names):
            keep.append(has_image or status == "success")
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
            elif name in self.images:
                mask = self._without_image(name, column, first)
                made = image_array(count, mask=mask, file=self.name, row=numbers, column=name, etag=self.tag)
            else:
                made = text.valid_array(inline_images(plain_array(column), self.base))
            result[self._name(name)] = made
        if "id" not in result:
            keys = [digest(self.label, str(first + k))[:20] for k in range(count)]
            result["id"] = pa.array(keys, pa.string())
        if "provenance" not in result:
            places = [{"path": f"{self.label}/{first + k}"} for k in range(count)]
            result["provenance"] = pa.array(places, type=COLUMNS["provenance"])
        return pa.record_batch([result[c.name].cast(c.type) for c in self.own], schema=self.own)

    def _without_image(self, name: str, column: pa.Array, first: int) -> pa.Array:
        """Which values of a column of images are none: null, or a Hugging Face image that has neither bytes nor path
        (of which `column` has the path alone)."""
        mask = column.is_null()
        if not pa.types.is_struct(column.type):
            return mask
        hollow = np.zeros(len(column), np.bool_)
        groups, start = self._groups(first, first + len(column))
        for group in groups:
            end = start + self.metadata.row_group(group).num_rows
            found = self._hollow(group, name)
            if found is not None:
                low, high = max(first, start), min(first + len(column), end)
                hollow[low - first : high - first] = found[low - start : high - start]
            start = end
        return pa.array(hollow | mask.to_numpy(zero_copy_only=False)) if hollow.any() else mask

    def _hollow(self, group: int, name: str) -> np.ndarray | None:
        """Which values of a row group are there and have no bytes; None where none are, which statistics tell without
        reading an image."""
        plain = not pa.types.is_struct(self.stored.field(name).type)
        if (group, name) not in self._hollows and not plain:
            about = self.metadata.row_group(group)
            leaves = {leaf.path_in_schema: leaf.statistics for leaf in map(about.column, range(about.num_columns))}
            known = leaves.get(f"{name}.bytes")
            found = None
            if known is None or not known.has_null_count or known.null_count:
                with self._opened() as file:
                    nulls = file.read_row_group(group, columns=[f"{name}.path"]).column(0).null_count
                    if known is None or not known.has_null_count or known.null_count > nulls:
                        parts = file.iter_batches(batch_size=_FEW_ROWS, row_groups=[group], columns=[f"{name}.bytes"])
                        found = np.concatenate([_lacks_bytes(rows.column(0)) for rows in parts])
            self._hollows[group, name] = found
        return self._hollows.get((group, name))

    def _from_paths(self, name: str, column: pa.Array, numbers: pa.Array) -> pa.Array:
        """References to the files that a column names, or, where a Hugging Face image has bytes, to these."""
        if is_list(column.type):
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


def _lacks_bytes(values: pa.StructArray) -> np.ndarray:
    """Which structs are there without bytes."""
    lacking, null = (found.is_null().to_numpy(zero_copy_only=False) for found in (values.field("bytes"), values))
    return np.asarray(lacking & ~null)


def hf_types(kind: pa.DataType) -> Iterable[pa.DataType]:
    """Hugging Face images below the top level of a column."""
    if is_hf_image(kind):
        return [kind]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return hf_types(kind.value_type)
    if pa.types.is_struct(kind) and not is_image(kind):
        return [inner for field in kind for inner in hf_types(field.type)]
    return []


def inline_images(array: pa.Array, base: str) -> pa.Array:
    """Nested Hugging Face images as inline bytes: a reference names only a top-level column. Those that are only
    paths are files, from the folder `base` on."""
    for kind in hf_types(array.type):

        def convert(values: pa.StructArray) -> pa.StructArray:
            children = dict(zip([field.name for field in values.type], values.flatten()))
            mask = values.is_null() if values.null_count else None
            if children["bytes"].null_count == values.null_count:  # each is null, or has bytes
                return image_array(len(values), mask=mask, bytes=children["bytes"].cast(pa.binary()))
            pairs = zip(children["bytes"].to_pylist(), children["path"].to_pylist(), values.is_valid().to_pylist())
            found = [
                None if not valid else reference(bytes=data) if data is not None else beside(base, path or None)
                for data, path, valid in pairs
            ]
            return pa.array(found, type=IMAGE)

        array = map_images(array, kind, convert)
    return array
