"""What the frozen encoders say about the pictures and texts of rows: computed on the way, or stored beforehand.

A store is a folder of safetensors files, each whole as soon as it has its name; they are read by mapping them into
memory. A key says all that its value depends on: the pictures by the hash of their bytes, the shape, the text, the
encoders' weights and libraries. Several processes may add to one store, and one that covers a part is completed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from edittools.errors import EditError, RowError
from edittools.models.pictures import Box, crop_box, fit, to_tensor
from edittools.models.shapes import Shape
from edittools.models.systems.base import Conditions, System
from edittools.stream import images
from edittools.train.plan import Sample, crops
from edittools.train.rejects import Rejects, Unusable
from edittools.train.rows import TARGET, Row, Rows

_TYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
_FILE_BYTES = 512 << 20  # a writer starts another file above this
_KEPT_BYTES = 1 << 30  # of features that are computed on the way


@dataclass(frozen=True)
class Features:
    """One sample, ready for a batch."""

    target: Tensor  # latents (C, h, w)
    references: list[Tensor]
    conditions: Conditions


@dataclass(frozen=True)
class Shown:
    """A picture of a row as a sample has it."""

    which: int
    shape: Shape
    box: Box


def shows(row: Row, sample: Sample) -> list[Shown]:
    """The target and the references of a sample."""
    which = (TARGET, *sample.references)
    return [Shown(*each) for each in zip(which, sample.shapes, crops(row, sample))]


def placed(pictures: list[Shown]) -> Conditions:
    """{"crops": (1 + R, 4)}: which parts of their pictures the target and the references are."""
    return {"crops": torch.tensor([shown.box for shown in pictures])}


def picture_size(row: Row, which: int) -> tuple[int, int]:
    return row.target if which == TARGET else row.sources[which]


ENCODING = threading.Lock()  # encoders hold what they are at while they work


class Encoder:
    """Computes features from a row's pictures and text; keeps them while they fit into 1 GiB.

    Several threads may ask: they read and cut pictures at once, and encode one after the other.
    """

    def __init__(self, system: System, rows: Rows) -> None:
        self.system, self.rows = system, rows
        self._kept: dict[object, Conditions] = {}
        self._size = 0

    def latents(self, row: int, shown: Shown) -> Tensor:
        def compute() -> Conditions:
            picture = to_tensor(self._cut(row, shown))[None]
            with ENCODING:
                return {"latents": self.system.latents(picture)[0]}

        return self._once((row, shown), compute)["latents"]

    def _cut(self, row: int, shown: Shown) -> np.ndarray:
        picture = self.rows.picture(row, shown.which, shown.shape)
        return fit(picture, *shown.shape, shown.box, picture_size(self.rows[row], shown.which))

    def conditions(self, sample: Sample) -> Conditions:
        """The encoders see the references as they are cut for the network."""

        def compute() -> Conditions:
            cut = [self._cut(sample.row, shown) for shown in shows(self.rows[sample.row], sample)[1:]]
            try:
                with ENCODING:
                    return self.system.conditions(cut, sample.text)
            except RowError as error:
                raise Unusable(self.rows[sample.row].id, error) from error

        return self._once(sample, compute)

    def _once(self, key: object, compute: Callable[[], Conditions]) -> Conditions:
        found = self._kept.get(key)
        if found is None:
            found = {name: value.cpu() for name, value in compute().items()}
            size = sum(value.nbytes for value in found.values())
            if self._size + size <= _KEPT_BYTES:
                self._kept[key] = found
                self._size += size
        return found

    def __call__(self, sample: Sample) -> Features:
        pictures = shows(self.rows[sample.row], sample)
        target, *references = (self.latents(sample.row, shown) for shown in pictures)
        return Features(target, references, self.conditions(sample) | placed(pictures))


# What is made of the same file changes with the way it is decoded.
_LATENTS, _CONDITIONS = (f"{kind} {images.VERSION}" for kind in ("latents", "conditions"))


class Keys:
    """The keys of a sample's features."""

    def __init__(self, encoding: dict[str, str], rows: Rows, contents: dict[str, str], dtype: str = "") -> None:
        """encoding: see System.encoding(). contents: the content hash of pictures by their place, as a store remembers
        them. dtype: of the encoders, and of what they make as it is stored."""
        self.encoding = {name: f"{value}, {dtype}" for name, value in encoding.items()}
        self.rows, self.contents = rows, contents

    def content(self, row: int, which: int) -> str:
        place = self.rows.place(row, which)
        if place not in self.contents:
            self.contents[place] = self.rows.content(row, which)
        return self.contents[place]

    def latents(self, row: int, shown: Shown) -> str:
        return _key(_LATENTS, self.encoding["latents"], *self._picture(row, shown))

    def conditions(self, sample: Sample) -> str:
        pictures = [" ".join(self._picture(sample.row, shown)) for shown in shows(self.rows[sample.row], sample)[1:]]
        return _key(_CONDITIONS, self.encoding["conditions"], *pictures, sample.text)

    def _picture(self, row: int, shown: Shown) -> list[str]:
        named = [self.content(row, shown.which), *map(str, shown.shape)]
        size = picture_size(self.rows[row], shown.which)
        # the middle of it needs no name: its size and the shape say it
        return named if shown.box == crop_box(*size, *shown.shape) else [*named, *map(repr, shown.box)]

    def all(self, sample: Sample) -> list[str]:
        pictures = shows(self.rows[sample.row], sample)
        return [self.conditions(sample), *(self.latents(sample.row, shown) for shown in pictures)]


def _key(*parts: str) -> str:
    # the lengths keep parts apart whatever they hold
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Store:
    """A folder of features, by key."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.entries: dict[str, list[tuple[str, int, str, tuple[int, ...], int, int]]] = {}
        self.contents: dict[str, str] = {}
        self.rejected: dict[str, str] = {}  # rows that have no features, by id: why
        self._maps: list[np.ndarray] = []
        self._files: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have added."""
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            # what another process is writing has a name that begins with a dot
            if path.name.startswith(".") or path.name in self._files:
                continue
            try:
                if path.suffix == ".safetensors":
                    self._open(path)
                elif path.suffix == ".parquet":
                    table = pq.read_table(path, columns=["place", "content"])
                    self.contents.update(zip(table["place"].to_pylist(), table["content"].to_pylist()))
                elif path.suffix == ".jsonl":
                    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
                    self.rejected.update((row["id"], row["reason"]) for row in rows)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException) as error:
                raise EditError(
                    f"{path}: damaged features: {error}", hint="remove the file and precompute again"
                ) from error
            self._files.add(path.name)

    def _open(self, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError("the header is cut off")
            header = json.loads(file.read(length))
        found = []
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            (start, end), kind, shape = entry["data_offsets"], entry["dtype"], tuple(entry["shape"])
            if end > size - 8 - length:
                raise ValueError("the data is cut off")
            if kind not in _TYPES or end - start != math.prod(shape) * _TYPES[kind].itemsize:
                raise ValueError(f"{name} is no tensor that is stored here")
            found.append((name, kind, shape, 8 + length + start, 8 + length + end))
        self._maps.append(np.asarray(np.memmap(path, np.uint8, "r")))
        for name, kind, shape, start, end in found:
            key, _, part = name.partition("/")
            self.entries.setdefault(key, []).append((part, len(self._maps) - 1, kind, shape, start, end))

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def length(self, key: str) -> int:
        """Tokens of the states of a key, as the files' headers say; 0 if it has none."""
        return next((shape[0] for part, _, _, shape, _, _ in self.entries[key] if part == "states"), 0)

    def get(self, key: str) -> Conditions:
        """The tensors of a key by name, as views of the mapped file: do not write to them."""
        found = {}
        for part, number, kind, shape, start, end in self.entries[key]:
            dtype = _TYPES[kind]
            if start == end:
                found[part] = torch.empty(shape, dtype=dtype)
                continue
            count = (end - start) // dtype.itemsize
            found[part] = torch.frombuffer(self._maps[number], dtype=dtype, count=count, offset=start).view(shape)
        return found


class Writer:
    """Adds features to a store's folder; a file gets its name when it is whole."""

    def __init__(self, folder: str | Path, dtype: torch.dtype) -> None:
        self.folder, self.dtype = Path(folder), dtype
        self.folder.mkdir(parents=True, exist_ok=True)
        self.held: dict[str, Tensor] = {}
        self.size = 0

    def add(self, key: str, values: Conditions) -> None:
        for name, value in values.items():
            kept = value.detach().cpu()
            kept = kept.to(self.dtype) if kept.is_floating_point() and name != "ids" else kept
            self.held[f"{key}/{name}"] = kept.contiguous()
            self.size += kept.nbytes
        if self.size >= _FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        from safetensors.torch import save_file

        if not self.held:
            return
        # named by what it holds: a process that does the same work again writes the same file
        name = _key(*sorted(self.held)) + ".safetensors"
        temporary = self.folder / f".tmp-{os.getpid()}-{name}"
        save_file(self.held, temporary)
        _rename(temporary, self.folder / name)
        self.held, self.size = {}, 0

    def remember(self, contents: dict[str, str]) -> None:
        """Store the content hashes of pictures by their place."""
        if not contents:
            return
        places = sorted(contents)
        path = self.folder / (_key(*places) + ".parquet")
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        pq.write_table(pa.table({"place": places, "content": [contents[p] for p in places]}), temporary)
        _rename(temporary, path)


    def reject(self, reasons: dict[str, str]) -> None:
        """Store which rows have no features, and why."""
        if not reasons:
            return
        path = self.folder / (_key(*sorted(reasons)) + ".jsonl")
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        lines = [json.dumps({"id": identity, "reason": reasons[identity]}) for identity in sorted(reasons)]
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
        _rename(temporary, path)


def _rename(temporary: Path, path: Path) -> None:
    temporary.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes files for their owner alone
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)


class Stored:
    """Reads features from a store."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store, self.keys = store, keys

    def check(self, samples: Iterable[Sample]) -> None:
        """Raises EditError if any feature of these samples is missing, but of rows that could not be encoded."""
        total, missing = 0, 0
        for sample in samples:
            if self.keys.rows[sample.row].id in self.store.rejected:
                continue
            keys = self.keys.all(sample)
            total += len(keys)
            missing += sum(key not in self.store for key in keys)
        if missing:
            raise EditError(
                f"{self.store.folder} lacks {missing} of {total} features of these rows",
                hint="`edit train --precompute` with the same recipe, data and --encoder-dtype completes it",
            )

    def lengths(self, samples: Iterable[Sample]) -> np.ndarray:
        """Tokens of every sample's text, (N,); zeros where the conditions are no sequence."""
        rejected, rows = self.store.rejected, self.keys.rows
        return np.array(
            [0 if rows[s.row].id in rejected else self.store.length(self.keys.conditions(s)) for s in samples]
        )

    def __call__(self, sample: Sample) -> Features:
        row = self.keys.rows[sample.row]
        if row.id in self.store.rejected:
            raise Unusable(row.id, RowError(self.store.rejected[row.id]))
        pictures = shows(row, sample)
        keys = (self.keys.latents(sample.row, shown) for shown in pictures)
        target, *references = (self.store.get(key)["latents"] for key in keys)
        return Features(target, references, self.store.get(self.keys.conditions(sample)) | placed(pictures))


def precompute(
    encoder: Encoder, keys: Keys, samples: list[Sample], store: Store, writer: Writer, rejects: Rejects | None = None
) -> Iterable[int]:
    """Compute what the store lacks for these samples; yields how many features each sample added.

    Raises TooManyFailed where `rejects` says so; what is done is stored.
    """
    known = set(keys.contents)
    rejects = Rejects() if rejects is None else rejects
    rejects.rows = rejects.rows or len(keys.rows)
    done: set[str] = set()
    try:
        for sample in samples:
            added = 0
            try:
                for key, compute in wanted(encoder, keys, sample):
                    if key not in store and key not in done:
                        writer.add(key, compute())
                        done.add(key)
                        added += 1
            except Unusable as error:
                rejects.add(error.identity, error.reason)
                rejects.check()
            yield added
    finally:  # what is done stays done, whatever stops the rest
        writer.flush()
        writer.remember({place: content for place, content in keys.contents.items() if place not in known})
        writer.reject(rejects.reasons)


def wanted(encoder: Encoder, keys: Keys, sample: Sample) -> Iterator[tuple[str, Callable[[], Conditions]]]:
    """The features of a sample: their keys, and how they are computed."""
    for shown in shows(keys.rows[sample.row], sample):
        yield keys.latents(sample.row, shown), lambda shown=shown: {"latents": encoder.latents(sample.row, shown)}  # type: ignore[misc]
    yield keys.conditions(sample), lambda: encoder.conditions(sample)
