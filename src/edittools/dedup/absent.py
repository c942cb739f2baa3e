"""The proof that nothing private is left in a set: no image, no stretch of a file, no name.

Compared are all images of the set's rows with all images of the private rows, by their bytes and by the perceptual
signature (as they are, turned and mirrored); all text of the rows, and the history, with the private rows' ids, paths
and hashes; and every file of the set with pieces of every private file, so that a copied stretch of 1 KiB is found
wherever it lies.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.dedup.hamming import distance
from edittools.dedup.nearest import LookedAt, copies
from edittools.dedup.signature import DETAIL, ORIENTATIONS, all_signatures
from edittools.errors import EditError, RowError
from edittools.record import IMAGE
from edittools.stream import codec
from edittools.stream.batch import image_columns, map_batch_images
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.rows import column_values
from edittools.stream.source import Source

_PIECE = 32
_STRIDE = 1024 - _PIECE + 1  # of the pieces of a private file: one lies whole in every KiB of it
_WORD = 8
_BLOCK = 1 << 24


@dataclass
class Private:
    """What must not be found again."""

    digests: list[bytes] = field(default_factory=list)
    words: list[np.ndarray] = field(default_factory=list)
    places: list[str] = field(default_factory=list)  # of each image: its row
    names: dict[str, str] = field(default_factory=dict)  # id, path or hash -> its row
    pieces: dict[bytes, str] = field(default_factory=dict)  # 32 bytes of a file -> its row


def private_of(source: Source, max_pixels: int) -> Private:
    """Raises EditError for an image that cannot be read: it could not be looked for."""
    found, fetcher = Private(), Fetcher()
    for batch in source.batches(lambda shard: True):
        ids = [str(identity) for identity in column_values(batch.rows, "id")]
        for identity, origin in zip(ids, column_values(batch.rows, "provenance")):
            told = origin if isinstance(origin, dict) else {}
            for name, shortest in ((identity, 6), (told.get("path"), 12), (told.get("sha256"), 64)):
                # `1` and `001.png` are found everywhere, and so is what has few digits and nothing else
                if isinstance(name, str) and len(name) >= (12 if name.isdecimal() else shortest):
                    found.names.setdefault(name, identity)
        for reference in images_of(batch.rows):
            try:
                data = bytes(fetcher.get(reference))
                words = signature_of(data, max_pixels)
            except RowError as error:
                raise EditError(f"--absent: an image cannot be read: {error}") from error
            found.digests.append(hashlib.sha256(data).digest())
            found.names.setdefault(found.digests[-1].hex(), "an image")
            found.words.append(words)
            found.places.append(hashlib.sha256(data).hexdigest()[:12])
            for start in range(_body(data), len(data) - _PIECE, _STRIDE):
                piece = data[start : start + _PIECE]
                if len(set(piece)) > _PIECE // 2:  # not a run of equal bytes, which any file may have
                    found.pieces[piece] = found.places[-1]
    if not found.digests:
        raise EditError("--absent: there is no image in it")
    return found


def images_of(rows: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Every image of a batch, however deep it lies."""
    gathered: list[dict[str, Any]] = []

    def gather(path: tuple[str, ...], values: pa.StructArray) -> pa.StructArray:
        gathered.extend(one for one in image_references(values) if one is not None)
        return values

    if image_columns(rows.schema):
        map_batch_images(rows, IMAGE, gather)
    yield from gathered


def signature_of(data: codec.Buffer, max_pixels: int) -> np.ndarray:
    """The signatures (8,) of an encoded image, zeros where it is flat. Raises RowError."""
    words = all_signatures()["phash"].words
    assert words is not None
    found = words(codec.decode(data, DETAIL, max_pixels)[None])[0]
    return np.zeros(ORIENTATIONS, np.uint64) if found is None else found


def _body(data: bytes) -> int:
    """Where an image's own bytes begin: tables and profiles that many files share stand before."""
    marks = {"jpeg": b"\xff\xda", "png": b"IDAT"}
    place = data.find(marks.get(codec.sniff(data) or "", b"\0" * _PIECE))
    return place + 16 if place >= 0 else min(512, len(data) // 4)


def remains(made: Source, files: Iterable[str], private: Private, bits: int, max_pixels: int) -> list[str]:
    """What of the private rows is left in a set, in words; empty where nothing is."""
    found: list[str] = []
    index = LookedAt([{}] * len(private.digests), private.digests, np.stack(private.words), {})
    fetcher = Fetcher()
    for batch in made.batches(lambda shard: True):
        rows = batch.rows
        for reference in images_of(rows):
            try:
                data = fetcher.get(reference)
                digest, words = hashlib.sha256(data).digest(), signature_of(data, max_pixels)
            except RowError as error:
                found.append(f"an image that cannot be read, and so not compared: {error}")
                continue
            for place in np.flatnonzero(copies(digest, words, index, bits))[:1]:
                same = private.digests[place] == digest
                apart = "the same file" if same else f"{distance(words[:1], index.words[place]).min()} bits apart"
                found.append(f"an image is the private {private.places[place]}: {apart}")
        texts = ["\n".join(_texts(row)) for row in rows.to_pylist()]
        together = "\n".join(texts)
        named = [name for name in private.names if name in together]
        for identity, text in zip(column_values(rows, "id"), texts if named else ()):
            found += [f"row {identity}: {name} of the private rows" for name in named if name in text]
    found += [f"the history names {name}" for name in private.names if name in made.history.to_json()]
    for path in files:
        found += _pieces_in(path, private)
    return found


def _texts(value: Any) -> Iterator[str]:
    """All text of a row; of an image none but the file that it is in."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("bytes", "etag"):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def files_below(path: str) -> list[str]:
    """The files of a local set: all of its folder, the rejects and what else lies there."""
    if os.path.isfile(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


def _pieces_in(path: str, private: Private) -> list[str]:
    """Pieces of private files, and private names, in the bytes of a file."""
    found: dict[str, None] = {}
    by_word: dict[int, list[bytes]] = defaultdict(list)
    for piece in private.pieces:
        by_word[int.from_bytes(piece[:_WORD], "little")].append(piece)
    wanted = np.array(sorted(by_word), np.uint64)
    names = [(name.encode(), name) for name in private.names]
    with open(path, "rb") as file:
        before = b""
        while block := file.read(_BLOCK):
            data = before + block
            found |= dict.fromkeys(f"{path}: {name}, as it is" for raw, name in names if raw in data)
            for shift in range(_WORD) if len(wanted) else ():
                words = np.frombuffer(data, np.uint64, (len(data) - shift) // _WORD, shift)
                for place in np.flatnonzero(np.isin(words, wanted)).tolist():
                    start = shift + _WORD * place
                    for piece in by_word[int(words[place])]:
                        if data[start : start + _PIECE] == piece:
                            found[f"{path}: bytes of the private {private.pieces[piece]}"] = None
            before = data[-max(_PIECE, *(len(raw) for raw, _ in names)) :]
    return list(found)
