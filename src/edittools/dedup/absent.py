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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.dedup.hamming import distance
from edittools.dedup.nearest import LookedAt, copies
from edittools.dedup.needles import Needles
from edittools.dedup.private_words import PrivateWords, instructions_of, texts_of
from edittools.dedup.searched import pieces_of
from edittools.dedup.signature import DETAIL, ORIENTATIONS, all_signatures
from edittools.errors import EditError, RowError, describe
from edittools.record import IMAGE
from edittools.stream import codec
from edittools.stream.batch import image_columns, map_batch_images
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.rows import column_values
from edittools.stream.source import Source

_PIECE = 32
_STRIDE = 1024 - _PIECE + 1  # of the pieces of a private file: one lies whole in every KiB of it


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


def remains(made: Source, files: Iterable[tuple[str, str]], private: Private, bits: int, max_pixels: int) -> list[str]:
    """What of the private rows is left in a set, in words, and what could not be searched; empty where nothing is.
    `files` come with their paths within the set: the folders that it lies in are none of its."""
    found: list[str] = []
    files = list(files)
    above = tuple({os.path.abspath(path).removesuffix(name) for path, name in files} - {"/", ""})
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
        said = [(list(_texts(row, above)), [*_instructions(row)]) for row in rows.to_pylist()]
        together = [[text for pair in said for text in pair[k]] for k in range(2)]
        if private.words.find(*together):
            for identity, texts in zip(column_values(rows, "id"), said):
                found += [f"row {identity}: {trace}" for trace in private.words.find(*texts)]
    found += [f"the history: {trace}" for trace in private.words.find(texts_of(json.loads(made.history.to_json())))]
    needles = Needles(private.pieces, private.words)
    for path, name in files:
        found += _in_file(path, name, private.words, needles)
    return list(dict.fromkeys(found))


def _texts(row: dict[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    for text in texts_of(row):
        yield next((text.removeprefix(folder) for folder in above if text.startswith(folder)), text)


def _instructions(row: dict[str, Any]) -> Iterator[str]:
    for column, value in row.items():
        yield from instructions_of(column, value)


def _in_file(path: str, name: str, words: PrivateWords, needles: Needles) -> Iterator[str]:
    for piece in pieces_of(path, name):
        if piece.problem:
            yield f"{piece.place}: could not be searched: {piece.problem}"
        for trace in words.find(piece.texts) if piece.texts else ():
            yield f"{piece.place}: {trace}"
        for trace in needles.find(piece.data) if piece.data is not None else ():
            yield f"{piece.place}: {trace}"
    if os.path.isfile(path):  # else it was said
        try:
            with open(path, "rb") as file:
                for trace in needles.find(file):
                    yield f"{path}: {trace}"
        except OSError as error:
            yield f"{path}: could not be searched: {describe(error)}"


def files_below(path: str) -> list[tuple[str, str]]:
    """The files of a local set, each with its path within it: all of its folder, the rejects and what else lies there.
    Links to folders are among them, though nobody follows them."""
    if os.path.isfile(path):
        return [(path, os.path.basename(path))]
    found: list[str] = []
    for folder, folders, names in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [os.path.join(folder, name) for name in (*names, *links)]
    return [(file, os.path.relpath(file, path)) for file in sorted(found)]
