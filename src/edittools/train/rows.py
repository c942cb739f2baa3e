"""Training rows by number: what is known of a row without its pictures, and the pictures when they are wanted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from edittools.errors import EditError, RowError, UsageError
from edittools.models.shapes import Shape
from edittools.stream import images
from edittools.stream.fetch import Fetcher, kept_reference
from edittools.stream.history import digest
from edittools.stream.pictures import list_slots, picture_references, target_references, whole_list
from edittools.stream.rows import column_values
from edittools.stream.source import Source
from edittools.train.rejects import Rejects, Unusable

TARGET = -1  # the number of a row's target among its pictures; sources count from 0

CAPTIONS = {"original": "caption", "structured": "caption_structured", "instructive": "instruction"}
"""Kinds of text of a text-to-image row, and their columns [SPEC C7]."""

EDIT_CAPTIONS = {"original": ["instruction"], "structured": ["detailed"], "instructive": ["concise", "user_like"]}
"""What the same kinds are of an edit: styles of its instruction (FireRed 2.5.2), as `edit caption` calls them."""


def check_kinds(captions: dict[str, float], columns: list[str]) -> None:
    """Raises UsageError for a share of a kind of caption that there is no such thing as."""
    for kind, share in captions.items():
        if share and kind not in CAPTIONS and kind not in columns:
            hint = f"kinds: {', '.join(CAPTIONS)}, or a column"
            raise UsageError(f"`captions`: {kind}: neither a kind of caption nor a column of the input", hint=hint)


def wording_column(kind: str) -> str:
    """The column of a style of instruction: `instruction` itself, or what `edit caption` made [SPEC C2]."""
    return "instruction" if kind == "instruction" else f"instruction_{kind}"


Landmarks = tuple[tuple[float, float], ...]
"""Of a face: left eye, right eye, nose, left and right corner of the mouth, x and y as shares of width and height."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row without its pixels."""

    id: str
    task: str
    template: str
    texts: dict[tuple[str, str], str]  # (kind, language) -> text
    sources: list[tuple[int, int]]  # height and width of every source
    target: tuple[int, int]
    cluster: str | None = None
    origin: str = ""  # the data set or crawl that it is from
    synthetic: bool = False  # a template or a model made it
    boxes: Sequence[tuple[float, float, float, float]] = ()  # of objects: x0, y0, x1, y1, shares
    faces: Sequence[Landmarks] = ()  # of the target


class Rows(Protocol):
    """Training rows, by number. `picture` and `content` may be called from several threads."""

    data_id: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def picture(self, index: int, which: int, shape: Shape) -> np.ndarray:
        """A picture of a row, uint8 (h, w, 3): a source by its number, or TARGET; large enough to cover `shape`."""
        ...

    def mask(self, index: int) -> np.ndarray | None:
        """A row's mask of the edited region, uint8 (h, w, 3), 128 and above inside; None where it has none."""
        ...

    def place(self, index: int, which: int) -> str:
        """Where a picture lies, in words that change when its content does; costs nothing."""
        ...

    def content(self, index: int, which: int) -> str:
        """A hash of a picture's bytes, the same wherever it lies; reads them."""
        ...


class ShardRows:
    """The rows of a source that have a target and a text: edits, and text-to-image rows without sources.

    References and texts are kept, some 2 KB a row.
    """

    def __init__(
        self, source: Source, columns: dict[str, str], languages: tuple[str, ...], cluster: str, max_pixels: int,
        masks: bool = False, faces: bool = False, rejects: Rejects | None = None,
    ) -> None:  # fmt: skip
        """columns: kinds of text and the columns they are in. cluster: a column's name, or "". masks, faces: keep
        them. Raises TooManyFailed where `rejects` says so."""
        if "target" not in source.schema.names:
            raise UsageError("the input has no `target` column: nothing to learn")
        if cluster not in ("", "task", *source.schema.names):  # a row without a task is of task ""
            hint = "`edit dedup` makes `cluster`" if cluster == "cluster" else "`balance`"
            raise UsageError(f"the input has no `{cluster}` column to balance by", hint=hint)
        self.columns = {kind: name for kind, name in columns.items() if name in source.schema.names}
        if not self.columns:
            raise UsageError(f"the input has none of the columns {', '.join(columns.values())}: nothing to learn")
        self.instructions = {kind for kind, name in self.columns.items() if name.startswith("instruction")}
        self.languages, self.cluster, self.max_pixels = languages, cluster, max_pixels
        self.faces = faces
        self.fetcher = Fetcher()
        self.rejects = Rejects() if rejects is None else rejects
        self.left_out: Counter[str] = Counter()  # rows that are none for this, by reason
        self.captioned = 0  # edits without an instruction, whose caption is the text
        self.files: set[str] = set()  # that pictures lie in
        self.rows: list[Row] = []
        self.pictures: list[list[dict[str, Any]]] = []  # sources, then the target
        self.masks: list[dict[str, Any] | None] | None = [] if masks else None
        self.shards: list[str] = []  # the digest of the shard that a row is in
        digests = []
        for batch in source.batches(lambda shard: True):
            if batch.last:
                digests.append(batch.shard.digest)
            self._add(batch.rows, batch.shard.digest)
        self.rejects.rows = len(self.rows) + len(self.rejects) + sum(self.left_out.values())
        if not self.rows:
            why = ", ".join(filter(None, [self.rejects.summary(), *(f"{n} {why}" for why, n in self.left_out.items())]))
            raise EditError(
                f"no row has a target and a text in {' or '.join(languages)}" + (f": {why}" if why else ""),
                hint=f"texts: {', '.join(self.columns.values())}",
            )
        self.rejects.check()
        if self.masks is not None and not any(self.masks):
            raise UsageError("`mask_weight`: no row has a `mask`")
        self.data_id = digest(source.history.hash, *digests)

    def _add(self, rows: pa.RecordBatch, shard: str) -> None:
        ids, tasks = column_values(rows, "id"), column_values(rows, "task")
        origins, objects = column_values(rows, "provenance"), column_values(rows, "objects")
        texts = {kind: column_values(rows, name) for kind, name in self.columns.items()}
        clusters = column_values(rows, self.cluster) if self.cluster else [None] * rows.num_rows
        if self.cluster == "task":
            clusters = [task or "" for task in tasks]
        faces = column_values(rows, "faces") if self.faces else [None] * rows.num_rows
        masks = picture_references(rows, "mask") if self.masks is not None else []
        for k, (slots, target) in enumerate(zip(list_slots(rows, "source"), target_references(rows))):
            said = {
                (kind, language): text
                for kind, values in texts.items()
                if values[k]
                for language, text in (values[k] if isinstance(values[k], dict) else {"en": values[k]}).items()
                if isinstance(text, str) and text.strip() and language in self.languages
            }
            if target is None or not said:
                self.left_out["without a target" if target is None else "without a text"] += 1
                continue
            try:
                sources = whole_list(slots, "source")
                if not sources and tasks[k] != "t2i" and all(self.columns[kind] == "instruction" for kind, _ in said):
                    raise RowError("an instruction without a source", "the task of a caption is t2i")
                pictures = [kept for item in [*sources, target] if (kept := kept_reference(item)) is not None]
                sizes = [self._size(item) for item in pictures]
                found = landmarks(faces[k])
            except RowError as error:
                self.rejects.add(ids[k], str(error))
                continue
            self.captioned += bool(sources) and not any(kind in self.instructions for kind, _ in said)
            origin = origins[k] or {}
            boxes = [tuple(item["box"]) for item in objects[k] or [] if item.get("box") and len(item["box"]) == 4]
            task = tasks[k] or ""
            cluster = None if clusters[k] is None else str(clusters[k])
            template = origin.get("template") or task
            made = bool(origin.get("template") or origin.get("model"))
            named = (cluster, sys.intern(origin.get("origin") or ""), made)
            self.rows.append(Row(ids[k], task, template, said, sizes[:-1], sizes[-1], *named, boxes, found))
            self.pictures.append(pictures)
            if self.masks is not None:
                self.masks.append(kept_reference(masks[k]) if masks[k] is not None else None)
            self.files.update(item["file"] for item in pictures if item["file"])
            self.shards.append(shard)

    def _size(self, item: dict[str, Any]) -> tuple[int, int]:
        """Height and width of a picture, from its first bytes where its row does not say. Raises RowError."""
        if item["width"] and item["height"]:
            return item["height"], item["width"]
        header = images.probe(self.fetcher.get(item), self.max_pixels)
        return header.height, header.width

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def picture(self, index: int, which: int, shape: Shape) -> np.ndarray:
        """At the least of libjpeg's scales that covers the shape.

        Raises Unusable for a picture that cannot be decoded.
        """
        try:
            data = self.fetcher.get(self.pictures[index][which])
            return images.decode(data, images.Raster(cover=shape), self.max_pixels)
        except RowError as error:
            raise Unusable(self.rows[index].id, error) from error

    def mask(self, index: int) -> np.ndarray | None:
        item = self.masks[index] if self.masks is not None else None
        if item is None:
            return None
        try:
            return images.decode(self.fetcher.get(item), max_pixels=self.max_pixels)
        except RowError as error:
            raise Unusable(self.rows[index].id, error) from error

    def place(self, index: int, which: int) -> str:
        item = self.pictures[index][which]
        if item["bytes"] is not None:
            return xxhash.xxh3_128_hexdigest(item["bytes"])
        # within a tar the shard's digest and the offset say it all, wherever the set lies; a loose file has offset 0
        file = "" if item["offset"] else item["file"]
        return "/".join(map(str, (self.shards[index], file, item["column"], item["row"], item["offset"])))

    def content(self, index: int, which: int) -> str:
        try:
            return xxhash.xxh3_128_hexdigest(self.fetcher.get(self.pictures[index][which]))
        except RowError as error:
            raise Unusable(self.rows[index].id, error) from error


def landmarks(faces: Any) -> list[Landmarks]:
    """The `faces` of a row: each five points, or a table with such `landmarks`. Raises RowError."""
    found = []
    for face in faces or []:
        try:
            points = np.array((face.get("landmarks") if isinstance(face, dict) else face) or (), np.float64)
        except (TypeError, ValueError):  # words, or lists of several lengths
            points = np.zeros(0)
        if points.size != 10 or not np.isfinite(points).all() or np.abs(points - 0.5).max() > 1.5:
            raise RowError("a face has five landmarks, x and y as shares of width and height")
        found.append(tuple((x, y) for x, y in points.reshape(5, 2).tolist()))
    return found
