"""Folders of loose files: images with `.txt` and `.json` sidecars, or roles in the names."""

from __future__ import annotations

import itertools
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import RowError
from edittools.stream import codec, columns, files, text
from edittools.stream.batch import Reject
from edittools.stream.history import History, digest
from edittools.stream.input_reader import (
    IMAGE_ENDINGS,
    TEXT_LIMIT,
    Part,
    finish,
    image_at,
    parts,
    place_image,
    reference,
    sidecar_fields,
    text_column,
)
from edittools.stream.listing import Listing, LooseFile
from edittools.stream.mapping import Mapping
from edittools.stream.packed import Packed
from edittools.stream.tar import split_name

FILES_PER_SHARD = 1000  # loose files that make one unit of work
_ROLES = ("source", "target", "rejected", "mask", "turn")
_SIDECARS = {"txt": ".txt", "caption": ".txt", "json": ".json"}  # beside an image of the same stem: a text, or fields
_TEXT = struct.Struct("<IQ")  # of a sidecar: its place among the files of its row, and its bytes
_MOST_KEPT = 1 << 30  # bytes of sidecars, in TMPDIR
_PLAIN, _OF_ROLES, _PASSED_OVER = 0, 1, 2


def claim(path: str, head: bytes) -> int:
    return 2 if codec.sniff(head) is not None else 0


def open_file(path: str, label: str | None, mapping: Mapping) -> FolderReader:
    """One image."""
    listing = Listing(path)
    listing.add(label or os.path.basename(path), *files.facts(path))
    groups = folder_groups(listing)
    return FolderReader(path, groups, folder_schema(groups, mapping), mapping=mapping)


class FileGroup:
    """The files of one row."""

    def __init__(
        self,
        key: str,
        members: list[tuple[list[str], LooseFile]],
        passed_over: bool = False,
        texts: dict[int, bytes] | None = None,
    ) -> None:
        self.key = key
        self.members = members  # the role's parts and the file; sidecars have the part `.txt` or `.json`
        self.passed_over = passed_over  # nobody expects an image here: no failure
        self.texts = texts or {}  # of its sidecars, by their place among the members, as far as they have been read

    def _text(self, place: int) -> bytes:
        """A sidecar, which is read once."""
        if place not in self.texts:
            self.texts[place] = _read_text(self.members[place][1])
        return self.texts[place]

    def identity(self) -> Iterator[str]:
        for _, file in self.members:
            yield f"{file.inside}\0{file.etag}"

    def size(self) -> int:
        return sum(file.size for part, file in self.members if part[-1:] not in ([".txt"], [".json"]))

    def has_image(self) -> bool:
        return any(file.is_image() for _, file in self.members)

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
        for place, (part, file) in enumerate(self.members):
            if part == [".json"]:
                content = text.decode(self._text(place), guesses)
                found = sidecar_fields(content, named, stored)
                for name, value in (found if found is not None else {"sidecar": content}).items():
                    if name in mapping.images:
                        value = self._named(value, file)
                    columns.put(fields, name, value)
        for place, (part, file) in enumerate(self.members):
            if part == [".txt"]:
                plain.append(text.lines(self._text(place), guesses))
            elif part != [".json"] and file.inside not in taken:
                image = reference(file=file.path, offset=0, length=file.size, etag=file.etag)
                place_image(row, [*part, file.ending()], image)
        for said in plain:
            columns.put(row, text_column(row), said)
        brought = fields.pop("id", None)
        if brought is not None and fields.get("user_id") is None:
            fields["user_id"] = brought
        if mapping.arrangement is not None:
            row, fields = mapping.arrangement.row({**fields, **row}, os.path.dirname(self.members[0][1].path)), {}
        return finish(row, fields, identity, path, mapping)

    def _named(self, value: Any, sidecar: LooseFile) -> Any:
        """The images that a field of a sidecar names, which is told to hold some; paths are beside the sidecar."""
        if isinstance(value, list):
            return [self._named(item, sidecar) for item in value]
        if not isinstance(value, str):
            return value
        return image_at(sidecar.path.rpartition("/")[0], value) if value else None


class Groups:
    """The rows of a crawl in order: 9 bytes of memory each, and 4 for each of its files beside those of the listing;
    8 more where sidecars have been read, whose texts are kept (packed) until their rows are."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._texts, self._kept = Packed(), 0
        self._members, self._starts, self._kinds = array("I"), array("Q", [0]), bytearray()

    def add(self, numbers: Iterable[int], of_roles: bool = False) -> None:
        """The next row, of these files of the listing; `of_roles`: their names say what each of them is."""
        self._members.extend(numbers)
        self._starts.append(len(self._members))
        self._kinds.append(_OF_ROLES if of_roles else _PLAIN)

    def pass_over(self, number: int) -> None:
        """Nobody expects an image in this row: it is no failure."""
        self._kinds[number] |= _PASSED_OVER

    def keep_texts(self, number: int, group: FileGroup) -> None:
        """Keep what has been read of a row's sidecars, in the order of the rows, unless that is very much by now."""
        packed = b"".join(_TEXT.pack(place, len(data)) + data for place, data in group.texts.items())
        if packed and self._kept + len(packed) <= _MOST_KEPT:
            self._kept += len(packed)
            while len(self._texts) < number:
                self._texts.append(b"")
            self._texts.append(packed)

    def _texts_of(self, number: int) -> dict[int, bytes]:
        packed = self._texts[number] if number < len(self._texts) else b""
        found, at = dict[int, bytes](), 0
        while at < len(packed):
            place, size = _TEXT.unpack_from(packed, at)
            at += _TEXT.size + size
            found[place] = packed[at - size : at]
        return found

    def __len__(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[FileGroup]:
        return self.some(0, len(self))

    def some(self, start: int, stop: int) -> Iterator[FileGroup]:
        """Groups start..stop."""
        return map(self.__getitem__, range(start, stop))

    def __getitem__(self, number: int) -> FileGroup:
        kind = self._kinds[number]
        found = [self.listing[k] for k in self._members[self._starts[number] : self._starts[number + 1]]]
        key = split_name(found[0].inside)[0] if kind & _OF_ROLES else found[0].inside
        members = [(_part_of(file, bool(kind & _OF_ROLES), k > 0), file) for k, file in enumerate(found)]
        return FileGroup(key, members, bool(kind & _PASSED_OVER), self._texts_of(number))


def _part_of(file: LooseFile, of_roles: bool, beside: bool) -> list[str]:
    """What a file is in its row: the parts of its role; `.txt` or `.json` of what stands beside an image."""
    role = _role(file) if of_roles else None
    return role if role is not None else [_SIDECARS[file.ending()]] if beside else []


def _role(file: LooseFile) -> list[str] | None:
    """The parts of the role in an image's name (`ID.source.0.jpg`); None where it has none."""
    found = split_name(file.inside)[1].split(".")
    return found[:-1] if len(found) >= 2 and found[0] in _ROLES and found[-1].lower() in IMAGE_ENDINGS else None


def folder_groups(listing: Listing, wanted: Iterable[int] | None = None) -> Groups:
    """The rows of loose files, sorted by their paths; `wanted` are the numbers of those that are meant.

    `ID.source.jpg` and `ID.target.jpg` make one row; any other file is a row of its own, whatever its name says,
    except a `.txt` or `.json` beside an image of the same stem, which belongs to that row. All of these begin with
    the same `ID.`, so that they stand together in the listing.
    """
    groups = Groups(listing)
    numbers = range(len(listing)) if wanted is None else wanted
    numbered = ((number, listing[number]) for number in numbers)
    for _, run in itertools.groupby(numbered, key=lambda item: _named_alike(item[1].inside)):
        _group_alike(list(run), groups)
    return groups


def _named_alike(inside: str) -> str:
    """What a name has in common with those that may belong to the same row; one without a dot belongs to none."""
    key = split_name(inside)[0]
    return f"{key}." if key != inside else f"{inside}/"


def _group_alike(every: list[tuple[int, LooseFile]], groups: Groups) -> None:
    """Add the rows of files whose names begin alike."""
    if len(every) == 1 and _role(every[0][1]) is None:
        groups.add([every[0][0]])
        return
    stems: dict[str, list[tuple[int, LooseFile]]] = {}
    for number, file in every:
        stems.setdefault(_stem(file), []).append((number, file))
    roles = [(parts, number, file) for number, file in every if (parts := _role(file)) is not None]
    key = split_name(every[0][1].inside)[0]
    used: set[int] = set()
    for number, file in every:
        if number in used:
            continue
        beside = [k for k, other in stems.get(_stem(file), []) if other.readable and other.ending() in _SIDECARS]
        if _role(file) is not None:
            chosen, doubled = _one_of_each(roles)
            for k in doubled:
                groups.add([k])
            beside = [k for k, other in stems.get(key, []) if other.readable and other.ending() in _SIDECARS]
            groups.add([*chosen, *beside], of_roles=True)
            used.update([*chosen, *doubled, *beside])
        elif number in beside and ((_stem(file) == key and roles) or _has_image(stems[_stem(file)])):
            continue  # a sidecar: its image takes it along
        elif file.is_image():
            groups.add([number, *beside])
        else:
            groups.add([number])


def _has_image(siblings: list[tuple[int, LooseFile]]) -> bool:
    """Whether one of the files of a stem is an image that takes sidecars along; those of roles have theirs at `ID`."""
    return any(file.is_image() and _role(file) is None for _, file in siblings)


def _stem(file: LooseFile) -> str:
    return file.inside.rpartition(".")[0]


def _one_of_each(roles: list[tuple[list[str], int, LooseFile]]) -> tuple[list[int], list[int]]:
    """The files of a row by their roles, and those whose role another one has: `x.target.jpg` beside `x.target.png`."""
    chosen, doubled = [], []
    taken: set[tuple[str, ...]] = set()
    for parts_of, number, _ in sorted(roles, key=lambda item: (item[0][0], len(item[2].inside), item[2].inside)):
        if parts_of[0] != "source" and tuple(parts_of) in taken:
            doubled.append(number)
        else:
            chosen.append(number)
            taken.add(tuple(parts_of))
    return chosen, doubled


class FolderReader:
    """A run of loose files: images with `.txt` and `.json` sidecars, or roles in the names."""

    renamed = True

    def __init__(
        self, root: str, groups: Groups, schema: pa.Schema, place: str = "", mapping: Mapping | None = None
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
        """Digest of some of the rows, whatever other files the folder has."""
        groups = (group for start, stop in ranges for group in self.groups.some(start, stop))
        return digest("files", *filter(None, [self.place]), *(part for group in groups for part in group.identity()))

    def row_keys(self, start: int, stop: int) -> np.ndarray:
        named = ("\0".join([self.place, *group.identity()]) for group in self.groups.some(start, stop))
        return np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in named), np.uint64, stop - start)

    def row_sizes(self) -> np.ndarray:
        return np.fromiter((group.size() for group in self.groups), np.int64, len(self.groups))

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        rows = (group.row(self.mapping, self.place, self.guesses) for group in self.groups.some(start, stop))
        yield from parts(rows, self.schema, batch_rows)


def folder_schema(groups: Groups, mapping: Mapping) -> pa.Schema:
    """The columns of a folder: sidecars are read beforehand to know theirs, and kept."""
    observed = columns.ObservedSchema()
    observed.observe({"id": "", "task": "", **mapping.rename({"target": None}), "provenance": None})
    for number, group in enumerate(groups):
        if len(group.members) > 1 or group.members[0][0] or mapping.renames:
            row = group.row(mapping)
            groups.keep_texts(number, group)
            if isinstance(row, dict):
                observed.observe(row)
    return observed.schema()


def _read_text(file: LooseFile) -> bytes:
    """A sidecar. Raises RowError for one that is no text any more."""
    if file.size > TEXT_LIMIT:
        raise RowError("file too large", f"{file.inside}: {file.size} bytes")
    return files.read_bytes(file.path)
