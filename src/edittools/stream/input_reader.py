"""The interface of input readers, which the stream takes its rows from, and what they share.

Every input knows its columns and its number of rows before it is read, and reads any range of its rows, so that
`edit shard` can cut shards anew and array tasks can share the work. The readers are in `readers/`, one kind of input
each.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import EditError, RowError, describe
from edittools.record import IMAGE
from edittools.stream import columns, files, joined, text
from edittools.stream.batch import Reject, image_positions, map_images
from edittools.stream.history import History, digest
from edittools.stream.mapping import Mapping

Part = tuple[pa.RecordBatch, list[Reject]]
IMAGE_ENDINGS = {"jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl"}
VIDEO_ENDINGS = {"mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "ogv", "flv"}
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "file", "memory")  # that rows may name
_IMAGE_FIELDS = tuple(field.name for field in IMAGE)
IMAGE_FIELDS = frozenset(_IMAGE_FIELDS)
_STUB = {"member", "width", "height", "format"}  # an image in the JSON of our own tars
TEXT_LIMIT = 256 << 20  # bytes of a sidecar or of one JSON line
_LONGEST_NAME = 255  # characters of a file
_MOST_INLINE = 256 << 20  # bytes of an image in base64
_BASE64 = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD")  # JPEG, PNG, WebP, GIF
_BATCH_BYTES = 64 << 20  # of sidecars, at which a batch is full
IMG2DATASET = {"key", "status", "error_message"}  # columns of the Parquet file that it writes beside a tar


class InputReader(Protocol):
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
        """Bytes of images per row."""


@runtime_checkable
class Growing(Protocol):
    """An input that gets further rows while those that are there stay the same: its parts have digests of their own."""

    def digest_of(self, ranges: list[tuple[int, int]]) -> str:
        """Digest of some of the rows, whatever other rows there are."""

    def row_keys(self, start: int, stop: int) -> np.ndarray:
        """A 64-bit key per row."""


def reference(**known: Any) -> dict[str, Any]:
    """An IMAGE value with the given fields."""
    return {name: known.get(name) for name in _IMAGE_FIELDS}


def row_keys(reader: InputReader, start: int, stop: int) -> np.ndarray:
    """A 64-bit key for each of the rows start..stop: a hash of its files or its record, or its number in one file."""
    if isinstance(reader, Growing):
        return reader.row_keys(start, stop)
    first = np.uint64(xxhash.xxh3_64_intdigest(reader.digest.encode()))
    return first + np.arange(start, stop, dtype=np.uint64)


def unchanged(path: str, tag: str) -> None:
    """Raises EditError for a file of rows that is another one than when it was opened: its rows are not known any
    more."""
    if joined.etag(path) != tag:
        raise EditError(
            f"{path}: the file changed while it was read", hint="run the command again when nothing writes to it"
        )


def image_bytes(rows: pa.RecordBatch) -> np.ndarray:
    """Bytes of images in each row, inline or referred to."""
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
        for places, values in zip(image_positions(column), list(lengths)):
            for place, length in zip(places, values.to_pylist()):
                if place is not None:
                    total[place[0]] += length
    return total


def parts(rows: Iterable[dict[str, Any] | Reject], schema: pa.Schema, batch_rows: int) -> Iterator[Part]:
    """Rows and rejects as parts of at most `batch_rows` of both, less where they are large."""
    held: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    size = 0
    known = set(schema.names) if columns.rare_column(schema) is None else None
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
        elif known is not None and not row.keys() <= known:
            rejects.append(_refused(row, "file changed while it was read", ", ".join(sorted(row.keys() - known))))
        else:
            held.append(row)
            size += sum(map(_size, row.values()))
        if len(held) + len(rejects) == batch_rows or size >= _BATCH_BYTES:
            yield _part(held, rejects, schema)
            held, rejects, size = [], [], 0
    if held or rejects:
        yield _part(held, rejects, schema)


def _size(value: Any) -> int:
    """Bytes of text and images in a value, about."""
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


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


def other_label(path: str, label: str | None) -> list[str]:
    """What a digest holds of a label: paths, and ids made of them, are other ones than by the file's name."""
    return [label] if label is not None and label != os.path.basename(path) else []


def sidecar_fields(
    content: str, named: Container[str], stored: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any] | None:
    """The fields of a JSON sidecar; None where it is not an object.

    In the tars of edittools an image is {member, width, height, format} there: `stored` finds it among the files,
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


def text_column(row: dict[str, Any]) -> str:
    """Where the text beside images belongs: a pair's says what to do, a single image's what is on it."""
    return "instruction" if row.get("source") and row.get("target") else "caption"


def place_image(row: dict[str, Any], parts: list[str], value: dict[str, Any]) -> None:
    """Put an image into the column that its role names; without a role it is the target.

    `parts` are those of its name after the key, the ending last. A second image of a role has a column of its own.
    """
    role = "_".join(parts[:-1]) or "target"
    if parts[0] == "source" and len(parts) > 1:
        row.setdefault("source", []).append(value)
    elif role in row:
        columns.put(row, "_".join(parts), value)
    else:
        row[role] = value


def finish(row: dict[str, Any], fields: dict[str, Any], identity: str, path: str, mapping: Mapping) -> dict[str, Any]:
    """Give a foreign row the fields that are written beside it, its names, an id, its place in the source, and a task
    where the images tell it. Raises RowError where --map cannot be carried out."""
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


def image_at(base: str, path: str) -> dict[str, Any]:
    """The reference to a file that is named from a folder on, or the image that stands in place of a name, in base64.

    Raises RowError where there is no such file, and for an address of the web, which `edit shard --fetch` alone asks.
    """
    if is_inline(path):
        return reference(bytes=_inline_bytes(path))
    path = files.local(path.strip() if files.is_url(path) else path)
    if files.is_url(path) and not _in_a_store(path):  # whoever wrote a list must not make this machine ask what it says
        raise RowError("not fetched", path[:200])
    try:
        return loose_image(full_path(base, path), path)
    except RowError as error:
        for other in _spelled_otherwise(path) if error.reason == "missing file" else ():
            with contextlib.suppress(RowError):
                return loose_image(full_path(base, other), path)
        raise


def _in_a_store(address: str) -> bool:
    """Whether an address is one of a store; not one that fsspec reads through another (`zip://a.png::http://...`)."""
    return "::" not in address and address.partition("://")[0] in _STORES


def _spelled_otherwise(path: str) -> list[str]:
    """What a path may mean that names nothing as it stands: without the spaces round it, without what follows the name
    in an address (`?x=1`, `#top`), with the slashes of Windows, `%20` as a space, its accents in one sign or in two
    (macOS), and all of these together."""
    if files.is_url(path):
        return []
    found = [path]
    for spell in (str.strip, _without_query, lambda name: name.replace("\\", "/"), unquote):
        found += map(spell, [*found])
    found += [unicodedata.normalize(form, name) for name in found for form in ("NFC", "NFD")]
    return [name for name in dict.fromkeys(found) if name not in ("", path)]


def _without_query(path: str) -> str:
    return re.split(r"[?#]", path, maxsplit=1)[0].rstrip()


def full_path(base: str, path: str) -> str:
    """The path that a name means from a folder on."""
    return path if os.path.isabs(path) or files.is_url(path) else files.join(base, path)


def is_inline(text: str) -> bool:
    """Whether a text is an image in base64: a `data:` URI, or the bytes alone where they begin as images do."""
    return text.startswith("data:") or (len(text) > _LONGEST_NAME and text.startswith(_BASE64))


def _inline_bytes(text: str) -> bytes:
    """Raises RowError for what is no base64, or too large."""
    head, comma, body = text.partition(",") if text.startswith("data:") else ("data:;base64", ",", text)
    if not comma or not head.endswith(";base64"):
        raise RowError("data: URI without base64", head[:80])
    if len(body) > _MOST_INLINE // 3 * 4:
        raise RowError("file too large", f"{len(body)} characters of base64")
    try:
        return base64.b64decode("".join(unquote(body).split()), validate=True)
    except ValueError as error:
        raise RowError("damaged base64", str(error)) from None


def beside(base: str, path: str | None) -> dict[str, Any] | None:
    """The image that a path names, from a folder on; None for none. Why it cannot be read is in its etag."""
    if not path:
        return None
    try:
        return image_at(base, path)
    except RowError as error:
        full = f"{path[:80]}..." if is_inline(path) else full_path(base, path)
        return reference(file=text.valid(full), etag=f"{files.NOTHING}{error.reason}")


def loose_image(path: str, shown: str) -> dict[str, Any]:
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


def named_as_image(path: str) -> bool:
    """Whether a string ends as the name of an image does, or is one in base64."""
    if path.startswith("data:image/") or (is_inline(path) and not path.startswith("data:")):
        return True
    return any(os.path.splitext(name)[1][1:].lower() in IMAGE_ENDINGS for name in (path.strip(), _without_query(path)))


class DamagedReader:
    """A file of several that cannot be read as what it is: one row that failed, which says why."""

    renamed = True
    rows = 1

    def __init__(self, path: str, label: str, why: str) -> None:
        self.name, self.label = path, label
        self.why = why.removeprefix(f"{path}: ")
        self.history, self.schema = History(), pa.schema([("id", pa.string())])
        self.digest = digest("damaged", files.etag(path), label)

    def row_sizes(self) -> np.ndarray:
        return np.zeros(1, np.int64)

    def read(self, start: int, stop: int, batch_rows: int) -> Iterator[Part]:
        if start < stop:
            rejected = Reject(digest("place", self.label)[:20], "read", "damaged file", self.why, True, self.label)
            yield columns.to_batch([], self.schema), [rejected]
