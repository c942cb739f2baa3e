"""The stage that edits rows with a model."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from edittools.errors import RowError, UsageError
from edittools.nets.editor import Editor, EditRequest, Work
from edittools.nets.images import resize
from edittools.record import IMAGE
from edittools.sample.candidates import (
    SEED,
    candidate_schema,
    candidates,
    check_added,
    following,
    lost_rows,
    prompts,
    with_added,
)
from edittools.sample.config import SampleConfig, Size, parse_size
from edittools.stream import codec
from edittools.stream.batch import Batch
from edittools.stream.fetch import Fetcher
from edittools.stream.groups import GROUP, whole_groups
from edittools.stream.history import History
from edittools.stream.row_images import check_columns, image_value, list_slots, whole_list
from edittools.stream.rows import column_values, drop_failed, in_language, instructions
from edittools.weights.digest import model_digest

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
    seed: int
    sources: list[np.ndarray]
    texts: list[str]  # one, or one per turn
    parents: list[int] | None  # of a dialogue: the turn that each turn edits, -1 the sources
    images: list[np.ndarray] = field(default_factory=list)
    values: list[Future[dict[str, Any]]] = field(default_factory=list)  # the same as IMAGE values

    def request(self, size: Size) -> EditRequest:
        turn, whole = len(self.images), size == "source"
        height, width = (None, None) if size is None or size == "source" else size
        if self.parents is None:
            return EditRequest(self.sources, self.texts[0], row_seed(self.seed, self.identity), height, width, whole)
        sources = self.sources if self.parents[turn] < 0 else [self.images[self.parents[turn]]]
        seed = row_seed(self.seed, turn_identity(self.identity, turn + 1))
        return EditRequest(sources, self.texts[turn], seed, height, width, whole)


@dataclass
class _Window:
    """Rows that are edited together."""

    batch: Batch
    texts: list[str | None]
    edits: dict[int, _Edit] = field(default_factory=dict)  # by row
    failed: dict[int, RowError] = field(default_factory=dict)
    groups: list[pa.RecordBatch] | None = None  # candidates that were there before, which are passed on


def _encoded(image: np.ndarray) -> dict[str, Any]:
    return image_value(np.ascontiguousarray(image))


def _now(function: Callable[..., _Window], *arguments: Any) -> Future[_Window]:
    """As an executor has it, in this thread."""
    done: Future[_Window] = Future()
    done.set_result(function(*arguments))
    return done


class SampleStage:
    """Stage: the editor's image in a column of its own; sources and target stay as they are.

    A dialogue is sampled turn by turn, each from the result of the turn that it edits (ImgEdit 3.1): the last turn's
    image is the column's, all of them are in COLUMN_turns.

    With `shuffle` every row is edited by the instruction of another row of its shard, one that is worded otherwise:
    a model that reads its instructions does clearly worse then.

    With `candidates` every row is edited several times; each candidate is what the row is with the candidate's seed.

    size   of the results: None as the model makes them, "source" scaled to the first source's, or height and width
    """

    name = "sample"
    VERSION = 1

    def __init__(self, config: SampleConfig, editor: Editor | None = None) -> None:
        """`editor` instead of the config's model, which is loaded when the first row comes."""
        self.config, self._editor = config, editor
        self.column, self.language, self.seed = config.column, config.language, config.seed
        self.shuffle, self.max_pixels, self.size = config.shuffle, config.max_pixels, parse_size(config.size)
        self.fetcher = Fetcher()
        self.captioned = 0  # rows without an instruction, whose caption was the text

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: which weights they are, not where they lie."""
        resolved: dict[str, Any] = {"model": model_digest(self.config.model)}
        if self.config.lora:
            from edittools.nets.lora import lora_digest

            resolved["lora"] = [lora_digest(spec) for spec in self.config.lora]
        return self.config.recorded(**resolved)

    @cached_property
    def model(self) -> str:
        """What the provenance of a candidate calls the model."""
        parts = [model_digest(self.config.model)]
        if self.config.lora:
            from edittools.nets.lora import lora_digest

            parts += [lora_digest(spec) for spec in self.config.lora]
        return " + ".join(parts)

    @property
    def editor(self) -> Editor:
        if self._editor is None:
            from edittools.nets.load import load_editor

            self._editor = load_editor(self.config.model, self.config.device, self.config.dtype, **self.config.editor)
        return self._editor

    @property
    def work(self) -> Work:
        """Counters of the editor."""
        return self._editor.work if self._editor is not None else Work()

    def schema(self, schema: pa.Schema) -> pa.Schema:
        if "source" not in schema.names:
            raise UsageError("the input has no `source` column: nothing to edit")
        if not {"instruction", "caption", "turns"} & {*schema.names}:
            raise UsageError("the input has no `instruction` column: nothing to edit")
        check_columns(schema, "source", "instruction", "caption", "turns")
        self.turns = "turns" in schema.names
        if self.config.add:
            check_added(schema, self.column)
            self._schema = schema
            return schema
        if self.column in schema.names:
            raise UsageError(f"--column {self.column}: the input has such a column already")
        if self.config.candidates is not None:
            schema = candidate_schema(schema)
        schema = schema.append(pa.field(self.column, IMAGE))
        return schema.append(pa.field(f"{self.column}_turns", pa.list_(IMAGE))) if self.turns else schema

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Images are encoded by other threads while the model goes on; where it works in several processes, each has
        a window of rows. What is edited and not yet passed on are no more than as many windows again."""
        at_once = self.editor.at_once
        encoding = ThreadPoolExecutor(max(2, at_once), "encode")
        editing = ThreadPoolExecutor(at_once, "edit") if at_once > 1 else None
        under_way: deque[Future[_Window]] = deque()
        try:
            for window in self._windows(batches):
                submit = editing.submit if editing is not None else _now
                under_way.append(submit(self._edit, window, encoding))
                while len(under_way) > 2 * at_once - 1:
                    yield self._finished(under_way.popleft().result())
            while under_way:
                yield self._finished(under_way.popleft().result())
        finally:  # at an error there is no time to lose
            for pool in (editing, encoding):
                if pool is not None:
                    pool.shutdown(wait=False, cancel_futures=True)

    def _windows(self, batches: Iterator[Batch]) -> Iterator[_Window]:
        # More rows than go through the network together, so that those of equal shape find each other.
        few = WINDOW * self.editor.batch_size
        made = [self.column, f"{self.column}_turns"]
        regrouped = whole_groups(batches) if self.config.add else _whole_shards(batches) if self.shuffle else batches
        for batch in regrouped:
            groups = None
            if self.config.add:
                rows, groups = prompts(batch.rows, made)
                batch = batch.replace(rows)
            total = batch.rows.num_rows
            texts = self._instructions(batch.rows)
            several = self.config.candidates or 1
            for start in range(0, max(total, 1), max(1, few // several)):
                stop = min(start + max(1, few // several), total)
                piece, before = batch.slice(start, stop), groups and groups[start:stop]
                if self.config.candidates is not None:
                    numbers = before and [following(group, self.seed) for group in before]
                    piece = candidates(piece, several, self.seed, self.model, numbers)
                yield _Window(piece, [text for text in texts[start:stop] for _ in range(several)], groups=before)

    def _instructions(self, rows: pa.RecordBatch) -> list[str | None]:
        texts = instructions(rows, self.language)
        captions = [in_language(item or {}, self.language) for item in column_values(rows, "caption")]
        dialogues = column_values(rows, "turns") if self.turns else [None] * len(texts)
        for k, caption in enumerate(captions):  # the same text as in training
            if not texts[k] and caption and not dialogues[k]:
                texts[k] = caption
                self.captioned += 1
        return _exchanged(texts) if self.shuffle else texts

    def _edit(self, window: _Window, encoding: Executor) -> _Window:
        rows, failed, edits = window.batch.rows, window.failed, window.edits
        alone = self.config.candidates is None
        ids = column_values(rows, "id" if alone else GROUP)
        seeds = [self.seed] * len(ids) if alone else column_values(rows, SEED)
        dialogues = column_values(rows, "turns") if self.turns else [None] * len(ids)
        for row, slots in enumerate(list_slots(rows, "source")):
            try:
                before = edits.get(row - 1)
                if before is not None and (before.identity, before.seed + 1) == (ids[row], seeds[row]):  # of one row
                    edits[row] = _Edit(ids[row], seeds[row], before.sources, before.texts, before.parents)
                    continue
                references = whole_list(slots, "source")
                edits[row] = self._opened(ids[row], seeds[row], references, window.texts[row], dialogues[row])
            except RowError as error:
                failed[row] = error
        open_rows = list(edits)
        while open_rows:
            results = self.editor.edit([edits[row].request(self.size) for row in open_rows])
            for row, image in zip(open_rows, results):
                if isinstance(image, RowError):
                    failed[row] = image
                else:
                    sized = self._sized(image, edits[row])
                    edits[row].images.append(sized)
                    edits[row].values.append(encoding.submit(_encoded, sized))
            open_rows = [
                row for row in open_rows if row not in failed and len(edits[row].images) < len(edits[row].texts)
            ]
        for edit in edits.values():
            edit.sources, edit.images = [], []
        return window

    def _finished(self, window: _Window) -> Batch:
        rows, edits, failed = window.batch.rows, window.edits, window.failed
        done = [edits[row] if row in edits and row not in failed else None for row in range(rows.num_rows)]
        images = [[value.result() for value in edit.values] if edit else [] for edit in done]
        rows = rows.append_column(self.column, pa.array([few[-1] if few else None for few in images], IMAGE))
        if self.turns:
            spoken = [few if edit and edit.parents is not None else None for few, edit in zip(images, done)]
            rows = rows.append_column(f"{self.column}_turns", pa.array(spoken, pa.list_(IMAGE)))
        finished = drop_failed(window.batch, rows, failed, self.name)
        if self.config.candidates is None:
            return finished
        before = len(window.batch.rejects)
        if window.groups is not None:
            finished = finished.replace(with_added(window.groups, finished.rows, self._schema))
        return replace(
            finished, rejects=finished.rejects[:before] + lost_rows(finished.rejects[before:], self.config.candidates)
        )

    def _opened(
        self,
        identity: str,
        seed: int,
        references: list[dict[str, Any]],
        text: str | None,
        turns: list[dict[str, Any]] | None,
    ) -> _Edit:
        """Raises RowError."""
        if not references and not getattr(self.editor, "from_text", False):
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
        sources = [codec.decode(self.fetcher.get(r), codec.FULL, self.max_pixels) for r in references]
        return _Edit(identity, seed, sources, texts, parents)  # type: ignore[arg-type]

    def _sized(self, image: np.ndarray, edit: _Edit) -> np.ndarray:
        there = self.size == "source" and edit.sources
        return resize(image, *edit.sources[0].shape[:2]) if there else image


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
    """Give every row the text of another row, chosen by a hash: of the next row whose text differs (for --shuffle).

    A row keeps its own text only if no other row has a different one.
    """
    order = sorted(range(len(texts)), key=lambda k: hashlib.sha256(f"{k}\0{texts[k]}".encode()).digest())
    result: list[str | None] = list(texts)
    for position, row in enumerate(order):
        for step in range(1, len(order)):
            other = texts[order[(position + step) % len(order)]]
            if other is not None and other != texts[row]:
                result[row] = other
                break
    return result
