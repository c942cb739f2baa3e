"""The stage that edits rows with a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.models.editors import Editor, EditRequest
from edittools.models.pictures import resize
from edittools.record import IMAGE
from edittools.stream import images
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.pictures import check_columns, list_slots, picture_value, whole_list
from edittools.stream.rows import column_values, drop_failed, in_language, instructions

WINDOW = 4  # batches' worth of rows that are read before the first is edited


def row_seed(seed: int, identity: str) -> int:
    """The seed of a row: a function of the run's seed and the row's id only."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{identity}".encode()).digest()[:7], "little")


def turn_identity(identity: str, turn: int) -> str:
    """What a turn's seed is made of, counted from 1: turn 2 of row `a` draws the noise of a row `a-turn-2`."""
    return f"{identity}-turn-{turn}"


@dataclass
class _Edit:
    """A row on its way: what is to be done next, and what has been made."""

    identity: str
    sources: list[np.ndarray]
    texts: list[str]  # one, or one per turn
    parents: list[int] | None  # of a dialogue: the turn that each turn edits, -1 the sources
    made: list[np.ndarray] = field(default_factory=list)

    def request(self, seed: int, size: tuple[int, int] | None) -> EditRequest:
        turn = len(self.made)
        height, width = size or (None, None)
        if self.parents is None:
            return EditRequest(self.sources, self.texts[0], row_seed(seed, self.identity), height, width)
        sources = self.sources if self.parents[turn] < 0 else [self.made[self.parents[turn]]]
        return EditRequest(
            sources, self.texts[turn], row_seed(seed, turn_identity(self.identity, turn + 1)), height, width
        )


class SampleStage:
    """Stage: the editor's picture in a column of its own; sources and target stay as they are.

    A dialogue is sampled turn by turn, each from the result of the turn that it edits [SPEC R4]: the last turn's
    picture is the column's, all of them are in COLUMN_turns.

    With `shuffle` every row is edited by the instruction of another row of its shard, one that is worded otherwise:
    a model that reads its instructions does clearly worse then.

    size   of the results: None as the model makes them, "source" scaled to the first source's, or height and width
    """

    name = "sample"
    version = images.VERSION

    def __init__(
        self,
        editor: Editor,
        *,
        column: str,
        language: str | None,
        seed: int,
        shuffle: bool,
        max_pixels: int,
        size: tuple[int, int] | Literal["source"] | None = None,
    ) -> None:
        self.editor, self.column, self.language, self.seed = editor, column, language, seed
        self.shuffle, self.max_pixels, self.size = shuffle, max_pixels, size
        self.fetcher = Fetcher()
        self.captioned = 0  # rows without an instruction, whose caption was the text

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if "source" not in schema.names:
            raise UsageError("the input has no `source` column: nothing to edit")
        if not {"instruction", "caption", "turns"} & {*schema.names}:
            raise UsageError("the input has no `instruction` column: nothing to edit")
        check_columns(schema, "source", "instruction", "caption", "turns")
        if self.column in schema.names:
            raise UsageError(f"--column {self.column}: the input has such a column already")
        self.turns = "turns" in schema.names
        schema = schema.append(pa.field(self.column, IMAGE))
        return schema.append(pa.field(f"{self.column}_turns", pa.list_(IMAGE))) if self.turns else schema

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        # More rows than go through the network together, so that those of equal shape find each other.
        few = WINDOW * self.editor.batch_size
        for batch in _whole_shards(batches) if self.shuffle else batches:
            total = batch.rows.num_rows
            texts = self._instructions(batch.rows)
            for start in range(0, max(total, 1), few):
                stop = min(start + few, total)
                yield self._edit(batch.slice(start, stop), texts[start:stop])

    def _instructions(self, rows: pa.RecordBatch) -> list[str | None]:
        texts = instructions(rows, self.language)
        captions = [in_language(item or {}, self.language) for item in column_values(rows, "caption")]
        dialogues = column_values(rows, "turns") if self.turns else [None] * len(texts)
        for k, caption in enumerate(captions):  # the same text as in training
            if not texts[k] and caption and not dialogues[k]:
                texts[k] = caption
                self.captioned += 1
        return _exchanged(texts) if self.shuffle else texts

    def _edit(self, batch: Batch, texts: list[str | None]) -> Batch:
        rows = batch.rows
        ids = column_values(rows, "id")
        failed: dict[int, RowError] = {}
        edits: dict[int, _Edit] = {}
        dialogues = column_values(rows, "turns") if self.turns else [None] * len(ids)
        for row, slots in enumerate(list_slots(rows, "source")):
            try:
                references = whole_list(slots, "source")
                edits[row] = self._opened(ids[row], references, texts[row], dialogues[row])
            except RowError as error:
                failed[row] = error
        open_rows = list(edits)
        while open_rows:
            size = None if self.size == "source" else self.size
            found = self.editor.edit([edits[row].request(self.seed, size) for row in open_rows])
            for row, picture in zip(open_rows, found):
                if isinstance(picture, RowError):
                    failed[row] = picture
                else:
                    edits[row].made.append(self._sized(picture, edits[row]))
            open_rows = [row for row in open_rows if row not in failed and len(edits[row].made) < len(edits[row].texts)]
        done = [edits[row] if row in edits and row not in failed else None for row in range(len(ids))]
        pictures = [[picture_value(np.ascontiguousarray(made)) for made in edit.made] if edit else [] for edit in done]
        rows = rows.append_column(self.column, pa.array([few[-1] if few else None for few in pictures], IMAGE))
        if self.turns:
            spoken = [few if edit and edit.parents is not None else None for few, edit in zip(pictures, done)]
            rows = rows.append_column(f"{self.column}_turns", pa.array(spoken, pa.list_(IMAGE)))
        return drop_failed(batch, rows, failed, self.name)

    def _opened(
        self, identity: str, references: list[dict[str, Any]], text: str | None, turns: list[dict[str, Any]] | None
    ) -> _Edit:
        """Raises RowError."""
        if not references:
            raise RowError("no source picture")
        missing = "no instruction" if self.language is None else f"no instruction in {self.language}"
        texts, parents = [text], None
        if turns:
            if self.shuffle:
                raise RowError("a dialogue has no instruction that could be exchanged")
            texts = [in_language(turn["instruction"] or {}, self.language) for turn in turns]
            parents = [k - 1 if turn["parent"] is None else turn["parent"] for k, turn in enumerate(turns)]
            for turn, parent in enumerate(parents):
                if not -1 <= parent < turn:
                    raise RowError(f"turn {turn + 1} edits a turn that is not before it", parent)
        if None in texts:
            raise RowError(missing)
        sources = [images.decode(self.fetcher.get(r), images.FULL, self.max_pixels) for r in references]
        return _Edit(identity, sources, texts, parents)  # type: ignore[arg-type]

    def _sized(self, picture: np.ndarray, edit: _Edit) -> np.ndarray:
        return resize(picture, *edit.sources[0].shape[:2]) if self.size == "source" else picture


def _whole_shards(batches: Iterator[Batch]) -> Iterator[Batch]:
    """One batch per shard, so that what a row is exchanged with does not depend on how the rows arrive."""
    gathered: list[Batch] = []
    for batch in batches:
        gathered.append(batch)
        if batch.last:
            rows = pa.concat_batches([part.rows for part in gathered])
            rejects = [reject for part in gathered for reject in part.rejects]
            yield Batch(rows, batch.shard, True, sum(part.seen for part in gathered), rejects)
            gathered = []
    yield from gathered


def _exchanged(texts: list[str | None]) -> list[str | None]:
    """Every text at another row's place: sorted by a hash, then moved on to the next that differs."""
    order = sorted(range(len(texts)), key=lambda k: hashlib.sha256(f"{k}\0{texts[k]}".encode()).digest())
    result: list[str | None] = list(texts)
    for position, row in enumerate(order):
        for step in range(1, len(order)):
            other = texts[order[(position + step) % len(order)]]
            if other is not None and other != texts[row]:
                result[row] = other
                break
    return result
