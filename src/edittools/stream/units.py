"""The kinds of input a command can read, one class each. A unit is what becomes one shard of work.

Every unit knows its columns and its number of rows before it is read, and reads any range of its rows, so
that `edit shard` can cut shards anew and array tasks can share the work.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import EditError
from edittools.record import IMAGE, STORED_IMAGE, is_hf_image, is_image
from edittools.stream import columns, files, images
from edittools.stream.batch import Reject, image_array, image_leaves, leaf_positions, map_images, map_type
from edittools.stream.history import History, digest
from edittools.stream.pack import unpack_rows
from edittools.stream.rowjson import plain_array, plain_type
from edittools.stream.shards import is_shard, read_footer, read_rows, shard_index, shard_name
from edittools.stream.tar import Member, TarNote, TarReader, samples, unquote_key
from edittools.stream.wire import arrow_errors, check_names

Part = tuple[pa.RecordBatch, list[Reject]]
IMAGE_ENDINGS = {"jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "avif", "heic", "heif"}
_IMAGE_FIELDS = tuple(field.name for field in IMAGE)
_STUB = {"member", "width", "height", "format"}  # a picture in the JSON of our own tars
_ROLES = ("source", "target", "mask", "turn")
_TEXT_LIMIT = 16 << 20  # bytes of a sidecar or of one JSON line


class Unit(Protocol):
    """Rows of one input. Some also have `foreign_ids`: whether their data bring ids of their own."""

    name: str
    schema: pa.Schema
    history: History
    digest: str

    @property
    def rows(self) -> int: ...

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        """Rows start..stop, and what fell out while reading them."""

    def row_sizes(self) -> np.ndarray:
        """Bytes of pictures per row."""


def reference(**known: Any) -> dict[str, Any]:
    """An IMAGE value with the given fields."""
    return {name: known.get(name) for name in _IMAGE_FIELDS}


class ShardUnit:
    """One shard of a shard set."""

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


class TarUnit:
    """One plain tar: our own (a note in front says its columns) or any webdataset."""

    def __init__(self, path: str) -> None:
        self.name = path
        self.tag = files.etag(path)
        self.digest = digest("tar", self.tag)
        self.reader = files.RangeReader(path)
        self.note: TarNote | None = self._tar().read_note()
        self.history = self.note.history if self.note else History()
        self.foreign_ids = False
        if self.note:
            self.schema = self.note.schema
        else:
            observed = columns.ObservedSchema()
            for key, row in self._foreign():
                observed.observe(row)
                self.foreign_ids |= row["id"] != unquote_key(key)
            observed.observe({"id": "", "provenance": None})
            self.schema = observed.schema()

    def _tar(self) -> TarReader:
        return TarReader(self.reader.read, self.name)

    @cached_property
    def index(self) -> list[tuple[str, list[tuple[str, Member]]]]:
        groups = list(samples(self._tar().members()))
        if self.note:
            return groups
        return [(key, [m for m in group if m[0]]) for key, group in groups]

    @cached_property
    def rows(self) -> int:
        return len(self.index)

    def row_sizes(self) -> np.ndarray:
        sizes = [sum(m.size for ending, m in group if ending != "json") for _, group in self.index]
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

    def _foreign(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, group in self.index:
            yield key, foreign_row(key, group, self.reader.read, self.picture, self.name)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        if self.note:
            position = 0
            for rows in unpack_rows(self._tar(), self.schema, self.picture, batch_rows):
                first, last = max(start - position, 0), min(stop - position, rows.num_rows)
                position += rows.num_rows
                if first < last:
                    yield rows.slice(first, last - first), []
            return
        for begin in range(start, min(stop, self.rows), batch_rows):
            rows = [
                foreign_row(key, group, self.reader.read, self.picture, self.name)
                for key, group in self.index[begin : min(begin + batch_rows, stop)]
            ]
            yield columns.to_batch(rows, self.schema), []


def foreign_row(key: str, group: list[tuple[str, Member]], read: Any, picture: Any, name: str) -> dict[str, Any]:
    """A sample of any webdataset tar as a row.

    Pictures named by a role (`source.jpg`, `target.png`) take it; a picture without a role is the row's picture;
    `txt` is the caption, `json` an object of columns; anything else is a column of its own.
    """
    row: dict[str, Any] = {}
    named = dict(group)
    taken: set[str] = set()

    def stored(known: dict[str, Any]) -> dict[str, Any]:
        member = named.get(known["member"])
        if member is None:
            return reference(file=f"{name}/{known['member']}", etag=files.MISSING)
        taken.add(known["member"])
        return picture(member, known)

    if "json" in named:
        fields = _sidecar(read(named["json"].offset, min(named["json"].size, _TEXT_LIMIT)), stored)
        if fields is not None:
            row.update(fields)
            taken.add("json")
    for ending, member in group:
        if ending in taken:
            continue
        parts = ending.split(".")
        text = None
        head = read(member.offset, min(member.size, 64))
        if images.sniff(head) is not None or parts[-1].lower() in IMAGE_ENDINGS:
            _place_picture(row, parts[:-1], picture(member, {}))
            continue
        data = read(member.offset, min(member.size, _TEXT_LIMIT))
        try:
            text = data.decode()
        except UnicodeDecodeError:
            row["_".join(parts) or "data"] = bytes(data)
            continue
        row["caption" if parts == ["txt"] else "_".join(parts) or "data"] = text.strip("\n")
    return _finish(row, unquote_key(key), f"{os.path.basename(name)}/{key}")


def _sidecar(data: bytes, stored: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any] | None:
    """The fields of a JSON sidecar; None where it is not an object.

    In the tars of edittools a picture is {member, width, height, format} there: `stored` finds it among the files.
    """

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(item) for item in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("member"), str) and value.keys() <= _STUB:
            return stored(value)
        return {key: resolve(item) for key, item in value.items()}

    try:
        fields = resolve(json.loads(data))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _place_picture(row: dict[str, Any], parts: list[str], value: dict[str, Any]) -> None:
    """Put a picture into the column that its role names; without a role it is the target."""
    if not parts:
        row.setdefault("target", value)
    elif parts[0] == "source":
        row.setdefault("source", []).append(value)
    elif parts[0] in ("target", "mask") and len(parts) == 1:
        row[parts[0]] = value
    else:
        row["_".join(parts)] = value


def _finish(row: dict[str, Any], identity: str, path: str) -> dict[str, Any]:
    """Give a foreign row an id, its place in the source, and a task where the pictures tell it."""
    row = columns.normalise(row)
    if not row.get("id"):
        row["id"] = identity
    if not row.get("task") and row.get("target") and not row.get("source") and "instruction" not in row:
        row["task"] = "t2i"
    provenance = {**(row.get("provenance") or {})}
    provenance.setdefault("path", path)
    row["provenance"] = provenance
    return row


class ParquetUnit:
    """A foreign Parquet file: Hugging Face pictures, plain binary pictures, any other columns."""

    def __init__(self, path: str, label: str | None = None, content: str | None = None) -> None:
        """`label` and `content` (a digest) stand for the name and the tag of a file that is only a copy."""
        self.name = path
        self.label = label or os.path.basename(path)
        self.tag = files.etag(path)
        self.digest = digest("parquet", content or self.tag)
        self.history = History()
        import pyarrow.parquet as pq

        with arrow_errors(path):
            self.file = pq.ParquetFile(files.open_read(path))
            check_names(self.file.schema_arrow, path)
            self.stored = pa.schema(
                [(c.name, c.type) for c in self.file.schema_arrow], metadata=self.file.schema_arrow.metadata
            )
            if image_leaves(self.stored, STORED_IMAGE):
                raise EditError(
                    f"{label or path}: a shard's Parquet file under another name: its pictures are in the shard's tar",
                    hint="name the shard, or the folder it is in",
                )
            self.rows = self.file.metadata.num_rows
            metadata = self.stored.metadata or {}
            try:
                self.history = History.from_json(metadata.get(b"edit.history"))
            except ValueError:
                self.history = History()
            self.pictures = {c.name for c in self.stored if is_hf_image(c.type) or self._holds_pictures(c)}
        self.foreign_ids = "id" in self.stored.names and not self.history.nodes
        fields = []
        for column in self.stored:
            kind = IMAGE if column.name in self.pictures else self._inline_type(plain_type(column.type))
            if column.name == "id" and (pa.types.is_integer(kind) or pa.types.is_large_string(kind)):
                kind = pa.string()
            fields.append((column.name, kind))
        if "id" not in self.stored.names:
            fields.append(("id", pa.string()))
        if "provenance" not in self.stored.names:
            fields.append(("provenance", columns.COLUMNS["provenance"]))
        self.schema = pa.schema(fields)

    def _inline_type(self, kind: pa.DataType) -> pa.DataType:
        for inner in _hf_types(kind):
            kind = map_type(kind, inner, IMAGE)
        return kind

    def _holds_pictures(self, column: pa.Field) -> bool:
        """Whether the first value of a binary column is a picture."""
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)) or not self.rows:
            return False
        first = next(self.file.iter_batches(batch_size=1, columns=[column.name]), None)
        value = first.column(0)[0].as_py() if first is not None else None
        return value is not None and images.sniff(value) is not None

    def row_sizes(self) -> np.ndarray:
        import pyarrow.compute as pc

        sizes = [np.zeros(0, np.int64)]
        names = sorted(self.pictures)
        for rows in self.file.iter_batches(batch_size=64, columns=names):
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
            if column.name not in self.pictures:
                wanted.append(column.name)
            else:
                wanted.append(f"{column.name}.path" if pa.types.is_struct(column.type) else column.name)
        position = 0
        with arrow_errors(self.name):
            for rows in self.file.iter_batches(batch_size=batch_rows, columns=wanted):
                first, last = max(start - position, 0), min(stop - position, rows.num_rows)
                if first < last:
                    yield self._convert(rows.slice(first, last - first), position + first), []
                position += rows.num_rows
                if position >= stop:
                    break
            if position < min(stop, self.rows):  # pyarrow stops without a word where a page says it is empty
                raise EditError(f"{self.name}: damaged: {position} rows can be read, its index says {self.rows}")

    def _convert(self, rows: pa.RecordBatch, first: int) -> pa.RecordBatch:
        count = rows.num_rows
        numbers = pa.array(range(first, first + count), pa.int64())
        result: dict[str, pa.Array] = {}
        for name in self.stored.names:
            column = rows.column(name)
            if name in self.pictures:
                mask = column.is_null()
                result[name] = image_array(count, mask=mask, file=self.name, row=numbers, column=name, etag=self.tag)
            else:
                result[name] = _inline(plain_array(column))
        if "id" not in result:
            keys = [digest(self.label, str(first + k))[:20] for k in range(count)]
            result["id"] = pa.array(keys, pa.string())
        if "provenance" not in result:
            places = [{"path": f"{self.label}/{first + k}"} for k in range(count)]
            result["provenance"] = pa.array(places, type=columns.COLUMNS["provenance"])
        return pa.record_batch([result[c.name].cast(c.type) for c in self.schema], schema=self.schema)


def _hf_types(kind: pa.DataType) -> Iterable[pa.DataType]:
    """Hugging Face pictures below the top level of a column."""
    if is_hf_image(kind):
        return [kind]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _hf_types(kind.value_type)
    if pa.types.is_struct(kind) and not is_image(kind):
        return [inner for field in kind for inner in _hf_types(field.type)]
    return []


def _inline(array: pa.Array) -> pa.Array:
    """Nested Hugging Face pictures as inline bytes: a reference names only a top-level column."""
    for kind in _hf_types(array.type):

        def convert(values: pa.StructArray) -> pa.StructArray:
            children = dict(zip([field.name for field in values.type], values.flatten()))
            mask = values.is_null() if values.null_count else None
            return image_array(len(values), mask=mask, bytes=children["bytes"].cast(pa.binary()))

        array = map_images(array, kind, convert)
    return array


class FolderUnit:
    """A run of loose files: pictures with `.txt` and `.json` sidecars, or roles in the names."""

    def __init__(self, root: str, groups: list[FileGroup], schema: pa.Schema, place: str = "") -> None:
        self.name = root
        self.place = place  # of several folders, which: what stands before the paths of its files
        self.groups = groups
        self.schema = schema
        self.history = History()
        self.rows = len(groups)
        self.digest = digest("files", *filter(None, [place]), *(part for g in groups for part in g.identity()))

    def row_sizes(self) -> np.ndarray:
        return np.array([group.size() for group in self.groups], np.int64)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        stop = min(stop, len(self.groups))
        for begin in range(start, stop, batch_rows):
            rows = [group.row(self.place) for group in self.groups[begin : min(begin + batch_rows, stop)]]
            yield columns.to_batch(rows, self.schema), []


class FileGroup:
    """The files of one row: each a (path inside the folder, full path, size, mtime in ns)."""

    def __init__(self, key: str, members: list[tuple[list[str], LooseFile]]) -> None:
        self.key = key
        self.members = members  # the role's parts and the file; sidecars have the part `.txt` or `.json`

    def identity(self) -> Iterator[str]:
        for _, file in self.members:
            yield f"{file.inside}\0{file.etag}"

    def size(self) -> int:
        return sum(file.size for parts, file in self.members if parts[-1:] not in ([".txt"], [".json"]))

    def has_picture(self) -> bool:
        return any(file.inside.rpartition(".")[2].lower() in IMAGE_ENDINGS for _, file in self.members)

    def row(self, place: str = "") -> dict[str, Any]:
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

        for parts, file in self.members:
            if parts == [".json"]:
                fields = _sidecar(_read_text(file.path), stored)
                row.update(fields if fields is not None else {"sidecar": _decoded(file.path)})
        for parts, file in self.members:
            if parts == [".txt"]:
                row.setdefault("caption", _decoded(file.path).strip("\n"))
            elif parts != [".json"] and file.inside not in taken:
                _place_picture(row, parts, reference(file=file.path, offset=0, length=file.size, etag=file.etag))
        brought = row.pop("id", None)
        if brought is not None and row.get("user_id") is None:
            row["user_id"] = brought
        inside = self.members[0][1].inside
        if not place:
            return _finish(row, digest("place", self.key)[:20], inside)
        return _finish(row, digest("place", place, self.key)[:20], f"{place}/{inside}")


class LooseFile:
    """One file of a crawl."""

    def __init__(self, inside: str, path: str, size: int, tag: str) -> None:
        self.inside, self.path, self.size, self.etag = inside, path, size, tag
        self.readable = not tag.startswith(files.NOTHING)


def _read_text(path: str) -> bytes:
    with files.open_read(path) as file:
        return file.read(_TEXT_LIMIT)


def _decoded(path: str) -> str:
    return _read_text(path).decode("utf-8", "replace")


def _walk(root: str) -> Iterator[LooseFile]:
    """Every file below a folder, sorted by its path inside it; hidden files and folders are passed over.

    What cannot be read has an etag that says why: its row is rejected for this reason.
    """
    if files.is_url(root):
        system, inner = files.filesystem(root)
        protocol = root.partition("://")[0]
        found = system.find(inner, detail=True)
        for path in sorted(found):
            facts = found[path]
            full = f"{protocol}://{path.lstrip('/')}" if protocol != "memory" else f"memory://{path}"
            yield LooseFile(path[len(inner) :].lstrip("/"), full, int(facts["size"]), files.etag(full))
        return
    pending = [""]
    found_local: list[tuple[str, os.DirEntry]] = []
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                inside = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(inside)
                else:
                    found_local.append((inside, entry))
    for inside, entry in sorted(found_local, key=lambda item: item[0]):
        size, tag = 0, files.MISSING
        with contextlib.suppress(OSError):  # a dangling link
            facts = entry.stat()
            size, tag = facts.st_size, f"{facts.st_size}-{facts.st_mtime_ns}"
            if entry.is_dir():
                size, tag = 0, f"{files.NOTHING}link to a folder"  # which may lead back here
            elif not entry.is_file():
                size, tag = 0, f"{files.NOTHING}not a regular file"  # a pipe or a device would block
        if _clean(inside) != inside:
            size, tag = 0, f"{files.NOTHING}name is not UTF-8"
        yield LooseFile(_clean(inside), _clean(os.path.join(root, inside)), size, tag)


def _clean(path: str) -> str:
    """A path as valid UTF-8; file systems allow any bytes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def folder_groups(root: str) -> list[FileGroup]:
    """The rows of a folder of loose files.

    `ID.source.jpg` and `ID.target.jpg` make one row; any other file is a row of its own, whatever its name says,
    except a `.txt` or `.json` beside a picture of the same stem, which belongs to that row.
    """
    every = list(_walk(root))
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
        elif ending.lower() in ("txt", "json") and file.readable and _has_picture(stems[stem], stem, keyed):
            continue  # a sidecar: its picture takes it along
        elif ending.lower() in IMAGE_ENDINGS:
            groups.append(FileGroup(file.inside, [([], file), *_sidecars(stems[stem])]))
        else:
            groups.append(FileGroup(file.inside, [([], file)]))
    return groups


def _sidecars(siblings: list[LooseFile]) -> list[tuple[list[str], LooseFile]]:
    endings = {"txt": ".txt", "json": ".json"}
    found = []
    for file in siblings:
        ending = file.inside.rpartition(".")[2].lower()
        if ending in endings and file.readable:
            found.append(([endings[ending]], file))
    return found


def _has_picture(siblings: list[LooseFile], stem: str, keyed: dict) -> bool:
    return stem in keyed or any(f.inside.rpartition(".")[2].lower() in IMAGE_ENDINGS for f in siblings)


def folder_schema(groups: list[FileGroup]) -> pa.Schema:
    """The columns of a folder: JSON sidecars are read once beforehand to know theirs."""
    observed = columns.ObservedSchema()
    observed.observe({"id": "", "task": "", "target": None, "provenance": None})
    for group in groups:
        if len(group.members) > 1 or group.members[0][0]:
            observed.observe(group.row())
    return observed.schema()


def _line_id(number: int) -> str:
    return digest("line", str(number))[:20]


class LinesUnit:
    """JSON lines. Strings in `source`, `target`, `mask`, `image` and `file_name` are paths beside the file, and so are
    those in `result` that end as a picture's name does. In `result_NAME` a picture is {"file": PATH}.
    """

    def __init__(self, path: str, data: bytes | None = None) -> None:
        self.name = path
        self.history = History()
        self.data = data
        # References have to hold in a process that was started elsewhere.
        self.base = os.path.dirname(path) if data is None else os.getcwd()
        pictures = xxhash.xxh3_128()  # the lines only name them: they may change while the lines stay
        observed = columns.ObservedSchema()
        observed.observe({"id": "", "provenance": None})
        self.rows = 0
        self.foreign_ids = False
        for number, line in self._lines():
            self.rows += 1
            row = self._row(number, line)
            pictures.update(_tags(row).encode("utf-8", "backslashreplace"))
            if isinstance(row, dict):
                observed.observe(row)
                self.foreign_ids |= row["id"] != _line_id(number)
        self.schema = observed.schema()
        self.digest = digest("lines", data if data is not None else files.etag(path), pictures.hexdigest())

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        import io

        opened: BinaryIO = files.open_read(self.name) if self.data is None else io.BytesIO(self.data)
        with opened as file:
            number = 0
            while line := file.readline(_TEXT_LIMIT):
                if line.strip():
                    yield number, line
                number += 1

    def _row(self, number: int, line: bytes) -> dict[str, Any] | str:
        """The row, or why there is none."""
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"not JSON: {error}"
        if not isinstance(fields, dict):
            return "not a JSON object"
        row: dict[str, Any] = {}
        try:
            for name, value in fields.items():
                if name in ("image", "file_name") and isinstance(value, str):
                    row["target"] = self._picture(value)
                elif name == "source" and isinstance(value, list):
                    row[name] = [self._picture_of(name, item) for item in value]
                else:
                    row[name] = self._picture_of(name, value)
        except OSError as error:
            return f"missing file: {error.filename or error}"
        return _finish(row, _line_id(number), f"{os.path.basename(self.name)}/{number}")

    def _picture_of(self, name: str, value: Any) -> Any:
        """The picture that a path, or a reference that is only a path, names in this column; else the value."""
        path, by_reference = value, False
        if isinstance(value, dict) and value.keys() <= {"file", "width", "height", "format"}:
            path, by_reference = value.get("file"), True
        if not isinstance(path, str):
            return value
        shown = os.path.splitext(path)[1][1:].lower() in IMAGE_ENDINGS  # `result` may be a word, as may its siblings
        if name in ("source", "target", "mask") or (
            shown and (name == "result" or (by_reference and name.startswith("result_")))
        ):
            return self._picture(path)
        return value

    def _picture(self, path: str) -> dict[str, Any]:
        full = path if os.path.isabs(path) or files.is_url(path) else files.join(self.base, path)
        try:
            return reference(file=full, offset=0, length=files.size(full), etag=files.etag(full))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(2, "missing", path) from error

    def row_sizes(self) -> np.ndarray:
        return np.concatenate(
            [np.zeros(0, np.int64)] + [picture_bytes(rows) for rows, _ in self.read(0, self.rows, 256)]
        )

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        rows: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        taken = 0
        for position, (number, line) in enumerate(self._lines()):
            if position < start:
                continue
            if position >= stop:
                break
            row = self._row(number, line)
            if isinstance(row, dict):
                rows.append(row)
            else:
                place = f"{os.path.basename(self.name)}/{number}"
                reason, _, detail = row.partition(": ")
                rejects.append(Reject(_line_id(number), "read", reason, detail, True, place))
            taken += 1
            if taken == batch_rows:
                yield columns.to_batch(rows, self.schema), rejects
                rows, rejects, taken = [], [], 0
        if taken:
            yield columns.to_batch(rows, self.schema), rejects


def _tags(row: dict[str, Any] | str) -> str:
    """The etags of a row's pictures, or why there is no row."""
    if isinstance(row, str):
        return f"{row}\n"
    sources = row.get("source")
    named = [row.get("target"), row.get("mask"), *(sources if isinstance(sources, list) else [])]
    named += [value for name, value in row.items() if name.startswith("result")]
    return " ".join(str(picture.get("etag")) for picture in named if isinstance(picture, dict)) + "\n"


def unit_for_file(path: str) -> Unit:
    """The unit a single file is, by its first bytes. Raises EditError for what no unit reads."""
    with files.open_read(path) as file:
        head = file.read(1024)
    if head[:4] == b"PAR1":
        folder, name = os.path.split(path)
        index = shard_index(name)
        if index is None or not is_shard(path):
            return ParquetUnit(path)
        return ShardUnit(folder, index)  # its pictures are in the tar beside it
    if head[257:262] == b"ustar" or (len(head) >= 512 and not head[:512].strip(b"\0")):
        return TarUnit(path)
    if head.lstrip()[:1] == b"{":
        return LinesUnit(path)
    if images.sniff(head) is not None:
        return _single_picture(path)
    raise EditError(
        f"{path}: neither a shard set, a tar, a Parquet file, JSON lines, an Arrow stream nor a picture",
        hint="a compressed tar must be unpacked first" if head[:2] in (b"\x1f\x8b", b"BZ", b"\x28\xb5") else None,
    )


def _single_picture(path: str) -> FolderUnit:
    file = LooseFile(os.path.basename(path), path, files.size(path), files.etag(path))
    group = FileGroup(file.inside, [([], file)])
    return FolderUnit(path, [group], folder_schema([group]))
