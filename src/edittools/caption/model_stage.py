"""The stage that has models write captions and instructions: any number of kinds, a conversation per kind and row."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from edittools.caption.checks import load_check
from edittools.caption.config import GRAMMAR, CaptionConfig
from edittools.caption.conversations import Conversations, Manner, Outcome, sampled
from edittools.caption.examples import Examples
from edittools.caption.kind import Kind, Look, Row
from edittools.caption.load import load_kind
from edittools.caption.near_copies import NearCopies
from edittools.caption.stage import CaptionStage
from edittools.errors import EditError, RowError, UsageError
from edittools.record import COLUMNS, is_image
from edittools.rounding import rounded
from edittools.stream import files
from edittools.stream.batch import Batch, Reject
from edittools.stream.fetch import Fetcher
from edittools.stream.history import History
from edittools.stream.row_images import column_references, list_slots
from edittools.stream.rows import column_values, row_paths
from edittools.stream.schemas import align, can_align
from edittools.stream.scores import add_scores, scores_schema
from edittools.stream.shards import REJECTS
from edittools.stream.source import Source
from edittools.vlm import CUT_OFF, Begin, EncodedImage, Reply, Request, VlmClient, prompt_hash
from edittools.vlm.images import Encoding
from edittools.vlm.session import Session

COLUMN = "annotations"

ANNOTATION = pa.struct(
    [
        ("kind", pa.string()),  # of caption or check
        ("state", pa.string()),  # ok, missing, unparsed, refused, filtered, failed
        ("error", pa.string()),  # why there is no caption
        ("model", pa.string()),  # who answered, as the endpoint names it; of several, joined by commas
        ("endpoint", pa.string()),  # where
        ("calls", pa.int32()),  # replies that were asked for
        ("prompt_hash", pa.string()),  # SHA-256 of the texts sent; of several calls, of their hashes
    ]
)
_READABLE = pa.list_(pa.struct([(f.name, pa.int64() if f.name == "calls" else f.type) for f in ANNOTATION]))

Ask = Callable[[Iterable[tuple[int, Callable[[], Request]]], Callable[[int, str], None]], Iterator[tuple[int, Reply]]]


def load_kinds(config: CaptionConfig) -> dict[str, Kind]:
    """The kinds and checks of the settings, by their names. Raises UsageError, EditError."""
    kinds = {name_of(name): load_kind(name) for name in config.kinds if name != GRAMMAR}
    return kinds | {f"check {name}": load_check(name) for name in config.check}


def caption_stages(config: CaptionConfig, whom: Callable[[], Session]) -> tuple[list[Any], Session | None]:
    """What the settings come to: the grammar first, then everything that is asked or counted; and the session that is
    asked, which `whom` opens where some kind asks anybody. Raises UsageError, EditError.
    """
    stages: list[Any] = [CaptionStage(config)] if GRAMMAR in config.kinds else []
    kinds = load_kinds(config)
    if not any(kind.asks for kind in kinds.values()):
        return [*stages, *([ModelCaptionStage(config, None, kinds=kinds)] if kinds else [])], None
    session = whom()
    session.client = CutIsUnparsed(session.client)
    recorded = {"endpoint": session.endpoint}
    return [*stages, ModelCaptionStage(config, session, recorded, kinds=kinds, bounded=session.bounded)], session


class CutIsUnparsed:
    """A client whose replies that were cut off are kept as such: they are asked for again with more room, by another
    request, and not anew by every run.
    """

    def __init__(self, client: VlmClient) -> None:
        self.client, self.name = client, client.name

    def draws(self, request: Request) -> bool:
        return self.client.draws(request)

    def prepare(self, request: Request) -> None:
        self.client.prepare(request)

    async def ask(self, request: Request, begin: Begin) -> Reply:
        reply = await self.client.ask(request, begin)
        cut = reply.state == "failed" and (reply.error or "").startswith(
            CUT_OFF
        )  # an endpoint adds its own word for it
        return replace(reply, state="unparsed") if cut else reply

    async def close(self) -> None:
        await self.client.close()


class ModelCaptionStage:
    """Stage: the columns of every kind, and `annotations`, which says of each kind what became of it.

    Rows stay in order. A row about which some kind has no valid answer is rejected with its state and reason (kept with
    `keep_failed`); what a kind eliminates is rejected, too. A kind that has nothing to ask about a row leaves null.
    """

    name = "caption"
    VERSION = 2  # JPEG, PNG and WebP are sent as they are where they fit

    def __init__(
        self,
        config: CaptionConfig,
        ask: Ask | None,
        recorded: dict[str, Any] | None = None,
        *,
        kinds: Mapping[str, Kind] | None = None,
        bounded: bool = False,
    ) -> None:
        """`ask` is the session; None where no kind asks anybody. `kinds` are those of the settings, where they are
        loaded. `bounded`: schemas are sent with bounds on lengths. Raises UsageError, EditError for what is no kind.
        """
        self.config, self.ask = config, ask
        self.kinds = load_kinds(config) if kinds is None else kinds
        if not self.kinds:
            raise UsageError("--kinds: grammar asks no model", hint="`edit caption --list` names those that do")
        asking = [name for name, kind in self.kinds.items() if kind.asks]
        if asking and ask is None:
            raise UsageError(f"--model NAME says whom to ask about {asking[0]}")
        self.examples = Examples(config)
        self.recorded = recorded or {}
        self.fetcher = Fetcher()
        self.unasked: dict[str, int] = {}  # rows of this run about which a kind had nothing to ask
        self.manner = Manner(
            model=config.model[0] if config.model else "",
            parameters=config.parameters,
            structured=config.structured,
            bounded=bounded,
            attempts=config.attempts,
            encode=self._encode,
            examples=self.examples,
        )
        self.encoding = Encoding("original", max_side=config.max_side, max_pixels=config.max_pixels)

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """What the history records: own kinds and examples by their content."""
        said: dict[str, Any] = {"examples": self.examples.digest} if self.config.examples else {}
        own = [name for name in self.config.kinds if name_of(name) != name]
        if own:
            digests = {name: hashlib.sha256(_bytes(name)).hexdigest()[:16] for name in own}
            said["kinds"] = [f"{name_of(n)}:{digests[n]}" if n in digests else n for n in self.config.kinds]
        return self.config.recorded(styles=None, **said) | self.recorded

    def remark(self) -> str:
        """What a run has to say beside its counts."""
        return "; ".join(f"{name}: nothing to ask about {rows} rows" for name, rows in self.unasked.items())

    # ---------------------------------------------------------------- columns

    def columns(self) -> dict[str, pa.DataType]:
        """What the kinds write beside scores; of one that two write (`task`) the later's value stands. Raises
        UsageError where they mean different things by it.
        """
        types: dict[str, pa.DataType] = {}
        for name, kind in self.kinds.items():
            for column, kind_of_column in kind.writes(self.config).items():
                if types.setdefault(column, kind_of_column) != kind_of_column:
                    raise UsageError(f"--kinds {name}: another kind writes another `{column}`")
        return types

    def score_names(self) -> list[str]:
        return list(dict.fromkeys(name for kind in self.kinds.values() for name in kind.scores_of(self.config)))

    def schema(self, schema: pa.Schema) -> pa.Schema:
        written = self.columns()
        for name, kind in self.kinds.items():
            for column in kind.needs:
                if column not in schema.names and column not in written:
                    raise UsageError(f"the input has no `{column}` column, which {name} reads")
        replaced = {column for kind in self.kinds.values() for column in kind.needs}  # who reads it writes it anew
        for column in written:
            if column in schema.names and column not in COLUMNS and column not in replaced:
                raise UsageError(f"the input has a column `{column}` already")
        if COLUMN in schema.names and not can_align(schema.field(COLUMN).type, _READABLE):
            raise UsageError(f"column `{COLUMN}` holds something else already")
        for column, kind_of_column in written.items():
            at, new = schema.get_field_index(column), pa.field(column, kind_of_column)
            schema = schema.append(new) if at < 0 else schema.set(at, new)
        at, new = schema.get_field_index(COLUMN), pa.field(COLUMN, pa.list_(ANNOTATION))
        schema = schema.append(new) if at < 0 else schema.set(at, new)
        return scores_schema(schema, self.score_names()) if self.score_names() else schema

    # ---------------------------------------------------------------- rows

    def rows_of(self, batch: Batch) -> list[Row]:
        """The rows of a batch as kinds see them."""
        columns = {field.name: field.type for field in batch.rows.schema}
        values = {name: column_values(batch.rows, name) for name, kind in columns.items() if not _has_images(kind)}
        objects = _without_masks(batch.rows) if "objects" in columns else None
        shown = {
            name: list_slots(batch.rows, name)
            if pa.types.is_list(kind) or name == "source"
            else [[item] for item in column_references(batch.rows, name)]
            for name, kind in columns.items()
            if is_image(kind) or (pa.types.is_list(kind) and is_image(kind.value_type))
        }
        return [
            Row(
                {name: column[k] for name, column in values.items()} | ({"objects": objects[k]} if objects else {}),
                {name: column[k] for name, column in shown.items()},
                self.config,
                self._read_bytes,
            )
            for k in range(batch.rows.num_rows)
        ]

    def _read_bytes(self, row: Row, look: Look) -> bytes:
        references = row.images.get(look.column) or []
        reference = references[look.number] if look.number < len(references) else None
        if reference is None:
            raise RowError(f"no {look.column} image")
        return bytes(self.fetcher.get(reference))

    def _encode(self, row: Row, look: Look) -> EncodedImage:
        """An image as it is sent. Raises RowError for one that cannot be read."""
        data = self._read_bytes(row, look)
        if look.box is None and not look.mirrored:
            return self.encoding.image(data)
        return self.encoding.part(data, look.box, mirrored=look.mirrored)

    # ---------------------------------------------------------------- asking

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        talks = Conversations(((batch, self.rows_of(batch)) for batch in batches), self.kinds, self.manner)
        copies = _Copies(self.kinds, self.config.max_copies)
        with contextlib.ExitStack() as stack:
            stack.callback(talks.close)
            replies = self.ask(talks.requests(), talks.check) if self.ask is not None else iter(())
            stack.callback(getattr(replies, "close", lambda: None))
            for tag, reply in replies if self.ask is not None else _nobody(talks):
                talks.answer(tag, reply)
                yield from self._finished(talks, copies)
        yield from self._finished(talks, copies)
        if talks.order:
            raise EditError("the model stopped before every row was asked about")

    def _finished(self, talks: Conversations, copies: _Copies) -> Iterator[Batch]:
        for batch, rows in talks.finished():
            yield self._finish(batch, [(row.outcomes, row.eliminated) for row in rows], copies)

    def first_question(self, batch: Batch) -> tuple[tuple[str | EncodedImage, ...], Callable[[str], None]]:
        """The message that is sent first about the one row of a batch, and what raises ValueError for no answer to it.

        Raises RowError where there is nothing to ask, or an image cannot be read.
        """
        talks = Conversations(iter([(batch, self.rows_of(batch))]), self.kinds, self.manner)
        with contextlib.closing(talks):
            for tag, make in talks.requests():
                return make().parts, functools.partial(talks.check, tag)
        raise RowError("there is nothing to ask about the row")

    def requests(self, source: Source, rows: int) -> Iterator[tuple[str, Request]]:
        """(kinds, request) of what the first rows ask at least, without asking anybody."""
        left = rows
        for batch in source.batches(lambda shard: True):
            batch = batch.slice(0, left)
            left -= batch.rows.num_rows
            yield from sampled(self.rows_of(batch), self.kinds, self.manner)
            if left <= 0:
                return

    def _finish(self, batch: Batch, ended: list[tuple[dict[str, Outcome], RowError | None]], copies: _Copies) -> Batch:
        rows, schema = batch.rows, self.schema(batch.rows.schema)
        rejects: dict[int, Reject] = {}
        ids, paths = column_values(rows, "id"), row_paths(rows)
        annotations, before = [], _annotations(rows)
        for k, (by_end, eliminated) in enumerate(ended):
            # not by which ended first
            outcomes = {name: by_end[name] for name in self.kinds if name in by_end} | by_end
            reject = self._reject(outcomes, eliminated)
            if reject is None and (copy := copies.of_an_earlier_row(batch.shard.index, str(ids[k]), outcomes)):
                reject = "eliminated: near copy", copy, False
            if reject is not None:
                reason, value, failed = reject
                rejects[k] = Reject(str(ids[k]), self.name, reason, value, failed, paths[k])
            for name, outcome in outcomes.items():
                if outcome.state == "missing":
                    self.unasked[name] = self.unasked.get(name, 0) + 1
            mine = [_annotation(name, outcome) for name, outcome in outcomes.items()]
            annotations.append([one for one in before[k] if one["kind"] not in outcomes] + mine)
        beside: dict[str, pa.Array] = {COLUMN: pa.array(annotations, pa.list_(ANNOTATION))}
        for column, kind_of_column in self.columns().items():
            old = column_values(rows, column)
            new = [self._written(column, outcomes, old[k]) for k, (outcomes, _) in enumerate(ended)]
            beside[column] = pa.array(new, kind_of_column)
        names = self.score_names()
        if names:
            scores = [
                {name: rounded(value) for o in outcomes.values() for name, value in o.values.get("scores", {}).items()}
                for outcomes, _ in ended
            ]
            made = add_scores(rows, schema, names, scores, beside)
        else:
            arrays = [beside[f.name] if f.name in beside else rows.column(f.name) for f in schema]
            made = pa.record_batch(arrays, schema=schema)
        if not rejects:
            return batch.replace(made)
        keep = pa.array([k not in rejects for k in range(made.num_rows)])
        return batch.replace(made.filter(keep), list(rejects.values()))

    def _written(self, column: str, outcomes: Mapping[str, Outcome], before: Any) -> Any:
        """What the kinds of a row have written into a column: who read what another one wrote has the last word, else
        the last of --kinds; what was there, where none has written.
        """
        writers = [name for name in self.kinds if name in outcomes and column in outcomes[name].values]
        for name in reversed(writers):
            if not any(name in self.kinds[other].after for other in writers):
                return outcomes[name].values[column]
        return before

    def _reject(self, outcomes: Mapping[str, Outcome], eliminated: RowError | None) -> tuple[str, object, bool] | None:
        """(reason, value, whether it failed) of a row that does not go on."""
        if eliminated is not None:
            return f"eliminated: {eliminated.reason}", eliminated.value, False
        if self.config.keep_failed:
            return None
        for name, outcome in outcomes.items():
            if outcome.state not in ("ok", "missing"):
                return f"{name}: {outcome.state}", outcome.error, outcome.state in ("failed", "unparsed")
        return None

    def has_state(self, path: str, states: Set[str]) -> bool:
        """Whether the shard of a Parquet file rejected a row, or kept one, that is in one of these states."""
        import pyarrow.parquet as pq

        folder, _, name = path.rpartition("/")
        with contextlib.suppress(FileNotFoundError), files.open_read(f"{folder}/{REJECTS}/{name[:-8]}.jsonl") as file:
            for line in file.read().splitlines():
                reject = json.loads(line)
                if reject["stage"] == self.name and reject["reason"].rpartition(": ")[2] in states:
                    return True
        with files.open_read(path) as file:
            column = pq.read_table(file, columns=[COLUMN]).column(COLUMN)
        found = pc.list_flatten(column).combine_chunks().field("state")
        return pc.any(pc.is_in(found, pa.array(sorted(states)))).as_py() or False


class _Copies:
    """What kinds with a `distinct` text have said of the rows of a shard before."""

    def __init__(self, kinds: Mapping[str, Kind], most: int) -> None:
        self.columns = {name: kind.distinct for name, kind in kinds.items() if kind.distinct and most}
        self.most, self.shard = most, -1
        self.said: dict[str, NearCopies] = {}

    def of_an_earlier_row(self, shard: int, row_id: str, outcomes: Mapping[str, Outcome]) -> str | None:
        """The first row of the shard that this one nearly copies, where there are too many. Rows come in order."""
        if shard != self.shard:
            self.shard, self.said = shard, {name: NearCopies(self.most) for name in self.columns}
        for name, column in self.columns.items():
            texts = outcomes[name].values.get(column) if name in outcomes else None
            if texts and (copy := self.said[name].first_like(row_id, texts.get("en") or next(iter(texts.values())))):
                return copy
        return None


def _nobody(talks: Conversations) -> Iterator[tuple[int, Reply]]:
    """Lets conversations that ask nobody run; a question is a mistake of its kind."""
    for tag, make in talks.requests():
        with contextlib.suppress(RowError):
            make()
            raise EditError("a kind that asks nobody has a question")
        yield tag, Reply("failed", error="nothing to ask")


def name_of(kind: str) -> str:
    """What a kind is called: a user's own file by its name without folder and ending."""
    return kind.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] if "." in kind else kind


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _has_images(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _has_images(kind.value_type)
    if is_image(kind):
        return True
    return pa.types.is_struct(kind) and any(_has_images(field.type) for field in kind)


def _without_masks(rows: pa.RecordBatch) -> list[list[dict[str, Any]]]:
    """`objects` of every row, without their masks."""
    column = rows.column("objects")
    if pa.types.is_null(column.type):
        return [[] for _ in range(rows.num_rows)]
    return [
        [{k: v for k, v in item.items() if k != "mask"} for item in items or () if item] for items in column.to_pylist()
    ]


def _annotations(rows: pa.RecordBatch) -> list[list[dict[str, Any]]]:
    """What earlier runs said of every row."""
    if COLUMN not in rows.schema.names:
        return [[] for _ in range(rows.num_rows)]
    written = align(rows.select([COLUMN]), pa.schema([(COLUMN, pa.list_(ANNOTATION))])).column(0).to_pylist()
    return [items or [] for items in written]


def _annotation(name: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "kind": name,
        "state": outcome.state,
        "error": outcome.error,
        "model": ", ".join(outcome.models) or None,
        "endpoint": outcome.endpoint,
        "calls": outcome.calls,
        "prompt_hash": prompt_hash(outcome.prompts) if outcome.prompts else None,
    }
