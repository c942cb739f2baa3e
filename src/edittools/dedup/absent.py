"""The proof that nothing private is left in a set: no image, no stretch of a file, no name, no words.

Compared are all images of the set's rows with all images of the private rows, by their bytes and by the perceptual
signature (as they are, turned and mirrored); all text of the rows, of members of archives and of files beside, and the
history, with the private rows' ids, paths, hashes, instructions and captions; and every file of the set with pieces of
every private file, so that a copied stretch of 1 KiB is found wherever it lies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.dedup.hamming import distance
from edittools.dedup.nearest import LookedAt, copies
from edittools.dedup.private_words import INSIDE, PrivateWords, texts_in_file, texts_of
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
    signatures: list[np.ndarray] = field(default_factory=list)
    places: list[str] = field(default_factory=list)  # of each image: its row
    words: PrivateWords = field(default_factory=PrivateWords)
    pieces: dict[bytes, str] = field(default_factory=dict)  # 32 bytes of a file -> its row


def private_of(source: Source, max_pixels: int, texts: bool = True) -> Private:
    """`texts`: whether instructions and captions are private. Raises EditError for an image that cannot be read: it
    could not be looked for."""
    found, fetcher = Private(), Fetcher()
    for batch in source.batches(lambda shard: True):
        found.words.add(batch.rows)
        for reference in images_of(batch.rows):
            try:
                data = bytes(fetcher.get(reference))
                signature = signature_of(data, max_pixels)
            except RowError as error:
                raise EditError(f"--absent: an image cannot be read: {error}") from error
            found.digests.append(hashlib.sha256(data).digest())
            found.words.add_name(found.digests[-1].hex(), "an image", 64)
            found.signatures.append(signature)
            found.places.append(hashlib.sha256(data).hexdigest()[:12])
            for start in range(_body(data), len(data) - _PIECE, _STRIDE):
                piece = data[start : start + _PIECE]
                if len(set(piece)) > _PIECE // 2:  # not a run of equal bytes, which any file may have
                    found.pieces[piece] = found.places[-1]
    if not found.digests:
        raise EditError("--absent: there is no image in it")
    found.words.finish(texts)
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
    index = LookedAt([{}] * len(private.digests), private.digests, np.stack(private.signatures), {})
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
        said = [list(texts_of(row)) for row in rows.to_pylist()]
        if private.words.find(text for texts in said for text in texts):
            for identity, texts in zip(column_values(rows, "id"), said):
                found += [f"row {identity}: {trace}" for trace in private.words.find(texts)]
    found += [f"the history: {trace}" for trace in private.words.find(texts_of(json.loads(made.history.to_json())))]
    for path in files:
        for place, texts in texts_in_file(path):
            found += [f"{place}: {trace}" for trace in private.words.find(texts)]
        found += _pieces_in(path, private)
    return list(dict.fromkeys(found))


def files_below(path: str) -> list[str]:
    """The files of a local set: all of its folder, the rejects and what else lies there."""
    if os.path.isfile(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


def _pieces_in(path: str, private: Private) -> list[str]:
    """Pieces of private files, and private names and texts as they are spelled, in the bytes of a file."""
    found: dict[str, None] = {}
    needles = {piece: f"bytes of the private {place}" for piece, place in private.pieces.items()}
    needles |= {name.encode(): f"{name}, as it is" for name in private.words.names}
    spelled = {text.encode(): key for text, key in private.words.spelled.items()}
    needles |= {raw: f"{raw.decode()!r}, as it is" for raw, key in spelled.items() if len(key.encode()) >= INSIDE}
    short = [raw for raw in needles if len(raw) < _WORD]
    by_word: dict[int, list[bytes]] = defaultdict(list)
    for raw in needles.keys() - set(short):
        by_word[int.from_bytes(raw[:_WORD], "little")].append(raw)
    wanted = np.array(sorted(by_word), np.uint64)
    longest = max(map(len, needles), default=_WORD)
    with open(path, "rb") as file:
        before = b""
        while block := file.read(_BLOCK):
            data = before + block
            found |= dict.fromkeys(f"{path}: {needles[raw]}" for raw in short if raw in data)
            for shift in range(_WORD) if len(wanted) else ():
                words = np.frombuffer(data, np.uint64, (len(data) - shift) // _WORD, shift)
                for place in np.flatnonzero(np.isin(words, wanted)).tolist():
                    start = shift + _WORD * place
                    for raw in by_word[int(words[place])]:
                        if data.startswith(raw, start):
                            found[f"{path}: {needles[raw]}"] = None
            before = data[-longest:]
    return list(found)
