"""Plain tars: our own (a note in front says their columns) and any webdataset."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import DamagedError, IncompleteError, RowError
from edittools.stream import codec, columns, files, joined, text
from edittools.stream.batch import Reject
from edittools.stream.history import History, digest
from edittools.stream.input_reader import (
    IMAGE_ENDINGS,
    TEXT_LIMIT,
    VIDEO_ENDINGS,
    Part,
    finish,
    other_label,
    parts,
    place_image,
    reference,
    sidecar_fields,
    text_column,
    unchanged,
)
from edittools.stream.ipc import arrow_errors
from edittools.stream.mapping import Mapping
from edittools.stream.pack import unpack_rows
from edittools.stream.packed import NameSet
from edittools.stream.samples import Read, Sample, Samples
from edittools.stream.tar import (
    Entry,
    Link,
    Member,
    Odd,
    TarNote,
    TarReader,
    follow,
    plain_name,
    samples,
    split_name,
    unquote_key,
)

_APPLE_DOUBLE = b"\0\x05\x16\x07"  # what `._NAME` begins with, where macOS keeps what it knows of NAME
_LOOK_BYTES = 128  # of every file, by which its entry is known again; of tars of other tasks they are read too

TABLES = ("tar",)


def claim(path: str, head: bytes) -> int:
    return 2 if head[257:262] == b"ustar" or (len(head) >= 512 and not head[:512].strip(b"\0")) else 0


def open_file(path: str, label: str | None, mapping: Mapping) -> TarFileReader:
    return TarFileReader(path, label, mapping)


class TarFileReader:
    """One plain tar: our own (a note in front says its columns) or any webdataset."""

    def __init__(
        self, path: str, label: str | None = None, mapping: Mapping | None = None, table: str | None = None
    ) -> None:
        """`label` is what stands before the keys in the paths of its rows; by default the file's name. `table` is the
        Parquet file of img2dataset that says by `key` what is known of each image, and of those that are not here.
        """
        self.name = path
        self.label = label or os.path.basename(path)
        self.mapping = mapping or Mapping()
        self.table = table
        self.guesses = text.Guesses()
        self.tag = joined.etag(path)
        self.table_tag = [files.etag(table)] if table else []
        self.most: int | None = None
        self.whole = True  # whether its end is required, see `beside_others`
        with self._reading() as read:
            self.note: TarNote | None = TarReader(read, self.name).read_note()
        self.history = self.note.history if self.note else History()
        self.renamed = self.note is None

    def digest_of(self, ranges: list[tuple[int, int]]) -> str:
        """Digest of some of the rows, the same when more has been appended behind them."""
        held = [self.index.marks(start, stop).tobytes() for start, stop in ranges]
        return digest("entries", *other_label(self.name, self.label), *self.table_tag, *held)

    def row_keys(self, start: int, stop: int) -> np.ndarray:
        """A row is named by its entries' headers and the first bytes of its files, in tars of ours by all that its JSON
        says, and by the tar's label."""
        label = "".join([*other_label(self.name, self.label), *self.table_tag])
        return self.index.marks(start, stop) + np.uint64(xxhash.xxh3_64_intdigest(label.encode()))

    @property
    def digest(self) -> str:
        first = [f"first {self.most}"] if self.most is not None else []
        return digest("tar", self.tag, *other_label(self.name, self.label), *self.table_tag, *first)

    def shorten(self, most: int) -> None:
        """Only the first `most` rows are wanted, so that the rest is not looked at: their files stand together."""
        self.most = most

    def beside_others(self) -> None:
        """One of several: where it is cut off or damaged, what is whole before that is read, and the rest is a reject.
        Of a tar of ours the end is required all the same: what lacks it was not finished."""
        self.whole = self.note is not None

    @property
    def schema(self) -> pa.Schema:
        return self.note.schema if self.note else self._observed[0]

    @property
    def foreign_ids(self) -> bool:
        return self.note is None and self._observed[1]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Read]:
        """Reads byte ranges. The file is open only for so long: there may be many tars."""
        unchanged(self.name, self.tag)
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
        """The table's rows, by key."""
        if self.table is None:
            return {}
        import pyarrow.parquet as pq

        with arrow_errors(self.table), files.open_read(self.table) as file:
            return {str(row["key"]): row for row in pq.read_table(file).to_pylist()}

    @cached_property
    def index(self) -> Samples:
        with self._reading() as read:
            if self.note:
                return _own_samples(read, self.name, self.most)
            index = foreign_samples(read, self.name, self.most, self.whole)
        if self.table is not None and self.most is None:
            there = NameSet(sample.key for sample in index)
            for key, row in self._known().items():
                if key not in there:  # not fetched, and the table says why
                    why = row["status"] or "not in the tar"
                    index.add_whole(Sample(key, (), why, row["error_message"], failed=False))
        return index.finish()

    @cached_property
    def rows(self) -> int:
        return len(self.index)

    def row_sizes(self) -> np.ndarray:
        sizes = [sum(m.size for ending, m in sample.files if ending != "json") for sample in self.index]
        return np.array(sizes, np.int64)

    def image(self, member: Member, facts: dict[str, Any]) -> dict[str, Any]:
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
            if self.mapping.arrangement is not None:
                row, fields = self.mapping.arrangement.row({**fields, **row}, os.path.dirname(self.name)), {}
            return finish(row, fields, identity, path, self.mapping)
        except RowError as error:
            return Reject(identity, "read", error.reason, error.value, True, path)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        with self._reading() as read:
            if self.note:
                position = 0
                for rows in unpack_rows(TarReader(read, self.name), self.schema, self.image, batch_rows):
                    first, last = max(start - position, 0), min(stop - position, rows.num_rows)
                    position += rows.num_rows
                    if first < last:
                        yield rows.slice(first, last - first), []
                    if position >= stop:
                        break
                return
            known = self._known()
            read_rows = (
                self._row(sample, read, known, self.guesses)
                for sample in map(self.index.__getitem__, range(start, stop))
            )
            yield from parts(read_rows, self.schema, batch_rows)


def _own_samples(read: Read, name: str, most: int | None) -> Samples:
    """The rows of a tar of ours: files of one key stand together."""
    own = Samples()
    for key, group in itertools.islice(samples(TarReader(read, name).members()), most):
        for ending, member in group:  # whose headers say nothing but their names and sizes
            look = member.size if ending == "json" else min(member.size, _LOOK_BYTES)
            own.add(key, ending, member, f"{member.size} ".encode() + read(member.offset, look))
    return own.finish()


def _first(entries: Iterable[Entry], most: int) -> Iterator[Entry]:
    """The entries of the first `most` keys."""
    keys: set[str] = set()
    for entry in entries:
        keys.add(split_name(plain_name(entry.name))[0])
        if len(keys) > most:
            return
        yield entry


def foreign_samples(read: Read, name: str, most: int | None = None, whole: bool = True) -> Samples:
    """The rows of a tar that others wrote, every entry in one of them, in the order in which they begin; `most`: those
    of the first keys only.

    Files of one key make a row, wherever they stand and however their paths are spelled; a second file of the same name
    begins another row. A link is the file it leads to. What macOS adds of its own to every file, `._NAME`, belongs to
    that file and says nothing here.
    """

    def entries(reader: TarReader) -> Iterable[Entry]:
        return reader.entries() if most is None else _first(reader.entries(), most)

    foreign, reader = Samples(), TarReader(read, name)
    try:
        _gather(foreign, reader, entries)
    except (DamagedError, IncompleteError) as error:
        if whole:
            raise
        foreign.break_off(os.path.basename(name), str(error).removeprefix(f"{name}: "), read)
    foreign.close()
    return foreign


def _gather(foreign: Samples, reader: TarReader, entries: Callable[[TarReader], Iterable[Entry]]) -> None:
    """Add the entries of a tar to its samples."""
    read, named = reader.read, None
    for entry in entries(reader):
        mark, name = reader.header, plain_name(entry.name)
        member: Member | Odd
        if isinstance(entry, Link):
            if named is None:
                named = _led_to(entries, read, reader.name)
            member = follow(entry, named) or Odd(entry.name, "link to nothing in the tar")
        else:
            member = entry
        if isinstance(member, Odd):
            foreign.add_whole(Sample(name, (), member.reason, member.value), mark)
            continue
        base = name.rpartition("/")[2]
        beginning = read(member.offset, min(member.size, _LOOK_BYTES))
        if base.startswith("._") and beginning[:4] == _APPLE_DOUBLE:
            continue
        if base.startswith("."):
            foreign.add_whole(Sample(name, (), "hidden file", failed=False), mark)
        else:
            foreign.add(*split_name(name), member, mark + beginning)


def _as_far_as_readable(entries: Iterable[Entry]) -> Iterator[Entry]:
    with contextlib.suppress(DamagedError, IncompleteError):
        yield from entries


def _led_to(entries: Callable[[TarReader], Iterable[Entry]], read: Read, name: str) -> dict[str, Entry]:
    """The entries that links lead to, by their normalised names: the last of each."""
    every = [_as_far_as_readable(entries(TarReader(read, name))) for _ in range(2)]
    wanted = {entry.target for entry in every[0] if isinstance(entry, Link)}
    there = ((plain_name(entry.name), entry) for entry in every[1])
    return {path: entry for path, entry in there if path in wanted}


def _foreign_row(
    reader: TarFileReader, sample: Sample, read: Read, guesses: text.Guesses | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sample of any webdataset tar as a row, and the fields that its JSON adds.

    Images named by a role (`source.jpg`, `target.png`) take it; an image without a role is the row's image;
    `txt` is the caption, of a pair the instruction, `json` an object of columns; anything else is a column of its own.
    """
    row: dict[str, Any] = {}
    named = dict(sample.files)
    taken: set[str] = set()

    def stored(known: dict[str, Any]) -> dict[str, Any]:
        member = named.get(known["member"])
        if member is None:
            return reference(file=f"{reader.name}/{known['member']}", etag=files.MISSING)
        taken.add(known["member"])
        return reader.image(member, known)

    def content(member: Member) -> bytes:
        if member.size > TEXT_LIMIT:
            raise RowError("file too large", f"{member.name}: {member.size} bytes")
        return read(member.offset, member.size)

    fields = None
    sidecar = next((ending for ending in named if ending.lower() == "json"), None)
    if sidecar is not None:
        fields = sidecar_fields(text.decode(content(named[sidecar]), guesses), named, stored)
        if fields is not None:
            taken.add(sidecar)
    others: list[tuple[list[str], Member]] = []
    videos: list[tuple[list[str], Member]] = []
    for ending, member in sample.files:
        if ending in taken:
            continue
        parts = ending.split(".")
        head = read(member.offset, min(member.size, 64))
        if codec.sniff(head) is not None or parts[-1].lower() in IMAGE_ENDINGS:
            place_image(row, parts, reader.image(member, {}))
        else:
            (videos if parts[-1].lower() in VIDEO_ENDINGS else others).append((parts, member))
    if videos and not row:  # a clip, until --frames makes pairs of it; beside images it is what it says
        place_image(row, videos[0][0], reader.image(videos[0][1], {}))
        videos = videos[1:]
    others = [*videos, *others]
    for parts, member in others:  # after the images, whose names come first
        if parts[-1].lower() == "txt":
            name = text_column(row) if len(parts) == 1 else "_".join(parts)
            columns.put(row, name, text.lines(content(member), guesses))
        else:
            columns.put(row, "_".join(parts) or "data", _text_or_bytes(content(member)))
    return row, fields or {}


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8-sig").strip("\n")
    except UnicodeDecodeError:
        return data
