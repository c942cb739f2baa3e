"""The stage that has a model judge rows by a rubric.

Nothing here knows how a model is reached: `ask` takes (tag, request) and gives back (tag, reply), in any order; with
`check` it may find out which replies cannot be read, and ask for these again. A score exists only where a reply was
read; everything else is a state with the reply beside it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from edittools.errors import EditError, RowError, UsageError
from edittools.judge.config import JudgeConfig
from edittools.judge.expected_score import soft_score, soft_values
from edittools.judge.judgements import ENDINGS, score_name
from edittools.judge.rubrics import load_rubric
from edittools.metrics.intervals import MIN_CASES, student_half
from edittools.rounding import rounded, significant
from edittools.rubric import NOT_ASKED, Dimension, Numbers, Rubric
from edittools.rubric.calls import Call, JudgedEdit, JudgedTurn, Prompts
from edittools.rubric.names import ENSEMBLE, ending_of
from edittools.rubric.parsing import Scores, Unparsed
from edittools.rubric.prompts import read_prompts
from edittools.stream import files
from edittools.stream.batch import Batch, Shard
from edittools.stream.fetch import Fetcher, image_references
from edittools.stream.history import History
from edittools.stream.ipc import Counts
from edittools.stream.row_images import (
    check_columns,
    check_instructions,
    edited_column,
    list_references,
    row_images,
    source_references,
)
from edittools.stream.rows import column_values, instructions
from edittools.stream.schemas import align, can_align
from edittools.stream.scores import add_scores, scores_schema
from edittools.stream.source import Source
from edittools.suites import benchmarks
from edittools.vlm import Reply, Request, json_format, prompt_hash
from edittools.vlm.images import Encoding
from edittools.vlm.session import Session

COLUMN = "judgements"
STATES = ("ok", "unparsed", "refused", "filtered", "failed", "missing")

JUDGEMENT = pa.struct(
    [
        ("rubric", pa.string()),  # the rubric's name
        ("judge", pa.string()),  # the judge's name; null where it was given none
        ("dimension", pa.string()),  # which of the rubric's scores this is
        ("score", pa.float64()),  # the rating; null unless the state is ok
        ("state", pa.string()),  # ok, unparsed, refused, filtered, failed or missing
        ("error", pa.string()),  # why there is no score
        ("reply", pa.string()),  # what the model wrote; where a score takes several calls, JSON of call -> text
        ("model", pa.string()),  # the snapshot that answered, as the endpoint names it
        ("endpoint", pa.string()),  # who answered, in this run or when the reply was stored
        ("prompt_hash", pa.string()),  # SHA-256 of the texts sent; of several calls, of their hashes
        ("image_encoding", pa.string()),  # how the images were sent: format, quality, size
        ("pass", pa.int32()),  # which repetition, from 0
        ("soft", pa.float64()),  # the expectation under the token probabilities, where they are known
    ]
)

# JSON lines have one kind of integers.
_READABLE = pa.list_(pa.struct([(f.name, pa.int64() if f.name == "pass" else f.type) for f in JUDGEMENT]))

Tag = tuple[int, int, int, str]
"""Batch, row in it, pass, call."""

Check = Callable[[Tag, str], None]
"""Raises ValueError for a reply, by its text, that no score can be read from."""

Ask = Callable[[Iterable[tuple[Tag, Request]], Check], Iterator[tuple[Tag, Reply]]]


@dataclass
class _Row:
    """State of one row while its replies come in."""

    missing: str | None = None  # why there was nothing to ask
    case: JudgedEdit | None = None  # without its images once the calls are made
    calls: dict[str, Call] = field(default_factory=dict)  # without their images
    replies: dict[tuple[int, str], Reply] = field(default_factory=dict)


@dataclass
class _Waiting:
    batch: Batch
    rows: list[_Row]
    answered: int = 0
    asked: int | None = None  # how many calls it takes; None while they are being made


@dataclass
class JudgedCounts(Counts):
    """Also the rows about which something was asked, and those of them that have a score."""

    asked: int = 0
    scored: int = 0


def judge_stage(config: JudgeConfig, session: Session, jobs: int = 1) -> VlmJudgeStage:
    """The stage that judges by the config's rubric. Raises UsageError for settings that the rubric has no use for."""
    if config.rubric is None:
        raise UsageError("--rubric NAME says what to ask a model")
    for other in ("ratings", "calibrate", "ensemble"):
        if getattr(config, other):
            raise UsageError(f"--{other} asks nobody: it goes without --rubric")
    rubric = load_rubric(config.rubric)
    if config.prompts and rubric.benchmark is None:
        raise UsageError(f"--prompts: rubric `{rubric.name}` has words of its own")
    prompts = read_prompts(config.prompts, rubric.layout) if config.prompts and rubric.layout else None
    return VlmJudgeStage(
        rubric,
        session,
        model=session.model,
        endpoint=session.client.name,
        prompts=None if prompts is None else prompts.texts,
        passes=config.repeats,
        parameters=session.parameters,
        encoding=Encoding(max_side=config.max_side, max_pixels=config.max_pixels),
        language=config.language,
        instruction=config.instruction or "instruction",
        edited=config.column,
        other=config.other_column,
        soft=config.soft,
        structured=config.structured,
        judge=config.judge,
        jobs=jobs,
        recorded=config.recorded(prompts=None if prompts is None else prompts.digest, endpoint=session.endpoint),
    )


class VlmJudgeStage:
    """Stage: a column `judgements`, and the scores `judge_RUBRIC_DIMENSION` in `scores`.

    A judge with a name (`judge`) has columns of its own, `judge_RUBRIC_DIMENSION__NAME`, beside those of other judges.
    What the same judge said of a row by the same rubric before is replaced, all of it.

    Rows stay, in order, and a batch goes on as soon as its last reply is there. Every row is asked about `passes`
    times; the score is the mean over the passes that gave one, and with several passes `_low` and `_high` beside it
    are its 95% interval (Student's t, within the scale; null below five scores). With `soft` also `_soft`, the mean of
    the passes' expected ratings, null unless every pass has one. A score that no reply gives is null. The edited
    image is `edited`: `result` where `sample` left one, otherwise the target. `counts` has the rows that went on,
    and how many of them have a reply that is missing or cannot be read. `parameters` replace those that the rubric
    sends; None leaves one out.
    """

    name = "judge"
    VERSION = 1

    def __init__(
        self,
        rubric: Rubric,
        ask: Ask,
        *,
        model: str,
        endpoint: str,
        prompts: Prompts | None = None,
        passes: int = 1,
        parameters: Mapping[str, Any] | None = None,
        encoding: Encoding | None = None,
        language: str | None = None,
        instruction: str = "instruction",
        edited: str | None = None,
        other: str | None = None,
        soft: bool = False,
        structured: bool = False,
        judge: str | None = None,
        jobs: int = 1,
        recorded: dict[str, Any] | None = None,
    ) -> None:
        """`recorded` is what the history says of it. Raises UsageError for what the rubric has no use for."""
        self.recorded = recorded or {}
        if passes < 1:
            raise UsageError("--repeats must be at least 1")
        if rubric.benchmark is not None and prompts is None:
            raise UsageError(
                f"rubric `{rubric.name}` has the texts of a benchmark, which are not part of edittools",
                hint="--prompts FILE names them in your checkout of the benchmark",
            )
        if soft and not rubric.ratings:
            raise UsageError(f"rubric `{rubric.name}` has no ratings to take an expectation of")
        if "other" in rubric.images and other is None:
            raise UsageError(f"rubric `{rubric.name}` compares two results: name the second one's column")
        if "other" not in rubric.images and other is not None:
            raise UsageError(f"rubric `{rubric.name}` judges one result and has no use for a second one")
        self.rubric, self.ask, self.model, self.endpoint = rubric, ask, model, endpoint
        self.prompts: Prompts = prompts or {}
        self.passes, self.parameters = passes, dict(parameters or {})
        self.encoding = encoding or Encoding()
        self.language, self.instruction, self.edited, self.other = language, instruction, edited, other
        self.soft, self.structured, self.judge, self.jobs = soft, structured, judge, jobs
        self.fetcher = Fetcher()
        self.counts = JudgedCounts()
        self.unasked, self.unasked_why = 0, ""  # rows of this run about which there was nothing to ask; the first's why
        self.replaced = 0  # rows that this judge had judged before

    def settings(self, schema: pa.Schema, history: History) -> dict[str, Any]:
        """The settings that the history records."""
        return self.recorded

    def remark(self) -> str:
        """A remark on the earlier judgements that this run replaced."""
        if not self.replaced:
            return ""
        who = "a judge without a name" if self.judge is None else f"`{self.judge}`"
        return (
            f"{self.replaced} rows were judged by `{self.rubric.name}` and {who} before: replaced; --judge NAME keeps "
            "judges side by side"
        )

    def requests(
        self, source: Source, select: Callable[[Shard], bool] = lambda shard: True, rows: int | None = None
    ) -> Iterator[tuple[Request, Callable[[str], None]]]:
        """The requests of all rows, or of the first `rows`, without asking anybody; each with what raises ValueError
        for a text that it cannot read.
        """
        left = rows
        for batch in source.batches(select):
            if left is not None:
                batch = batch.slice(0, left)
                left -= batch.rows.num_rows
            entry = _Waiting(batch, [_Row() for _ in range(batch.rows.num_rows)])
            for (_, row, _, call), request in self._calls(0, entry):
                yield request, functools.partial(self._check, entry.rows[row], call)
            if left == 0:
                return

    def calls(self, batch: Batch) -> Iterator[tuple[list[Call], str | None]]:
        """What would be asked about each row, with its images; or none and why there is nothing to ask."""
        return ((calls, row.missing) for _, row, calls in self._prepared(batch))

    # ---------------------------------------------------------------- columns

    def score_names(self) -> list[str]:
        endings = ["", *(("_low", "_high") if self.passes > 1 else ()), *(("_soft",) if self.soft else ())]
        return self._names(endings, self.judge)

    def _names(self, endings: Iterable[str], judge: str | None) -> list[str]:
        return [
            score_name(self.rubric.name, dimension.name, judge, ending)
            for dimension in self.rubric.dimensions
            for ending in endings
        ]

    def schema(self, schema: pa.Schema) -> pa.Schema:
        needed = ["source", edited_column(schema, self.edited), *([self.other] if self.other else [])]
        needed += [self.instruction] if self.rubric.instructed else []
        for name in needed:
            if name not in schema.names:
                raise UsageError(f"the input has no `{name}` column: nothing to judge")
        check_columns(schema, "source", "provenance")
        check_instructions(schema, self.instruction)
        if COLUMN in schema.names and not can_align(schema.field(COLUMN).type, _READABLE):
            raise UsageError(f"column `{COLUMN}` holds something else already")
        old = [name for judge in (self.judge, ENSEMBLE) for name in self._names(ENDINGS, judge)]
        return scores_schema(schema, self.score_names(), {COLUMN: pa.list_(JUDGEMENT)}, without=old)

    # ---------------------------------------------------------------- asking

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        waiting: dict[int, _Waiting] = {}
        order: deque[int] = deque()
        drained = False

        def requests() -> Iterator[tuple[Tag, Request]]:
            # `ask` may draw from this in other threads, one at a time: it writes `asked`, the loop below `answered`.
            nonlocal drained
            for number, batch in enumerate(batches):
                entry = waiting[number] = _Waiting(batch, [_Row() for _ in range(batch.rows.num_rows)])
                order.append(number)
                count, held = 0, None
                for item in self._calls(number, entry):
                    if held is not None:
                        yield held
                    count, held = count + 1, item
                entry.asked = count  # before the last one leaves, so that its reply finds the batch complete
                if held is not None:
                    yield held
            drained = True

        def check(tag: Tag, text: str) -> None:
            number, row, _, call = tag
            self._check(waiting[number].rows[row], call, text)

        def finished() -> Iterator[Batch]:
            while order and waiting[order[0]].asked == waiting[order[0]].answered:
                yield self._finish(waiting.pop(order.popleft()))

        with contextlib.ExitStack() as stack:
            replies = self.ask(requests(), check)
            stack.callback(getattr(replies, "close", lambda: None))
            for (number, row, turn, call), reply in replies:
                waiting[number].rows[row].replies[turn, call] = reply
                waiting[number].answered += 1
                yield from finished()
        yield from finished()
        if order or not drained:
            raise EditError("the judge stopped before every row was asked about")

    def _calls(self, number: int, entry: _Waiting) -> Iterator[tuple[Tag, Request]]:
        self._refuse_namesakes(entry.batch.rows)
        for row, prepared, calls in self._prepared(entry.batch):
            entry.rows[row] = prepared
            if prepared.missing is not None:
                self.unasked += 1
                self.unasked_why = self.unasked_why or prepared.missing
            for turn in range(self.passes):
                for call in calls:
                    yield (number, row, turn, call.name), self._request(call, turn)

    def _refuse_namesakes(self, rows: pa.RecordBatch) -> None:
        """Raises UsageError where another judge's scores stand in the columns of this one, as SQL reads them."""
        if COLUMN not in rows.schema.names:
            return
        found = _as_written(rows).flatten()
        names = found.field("judge").filter(pc.equal(found.field("rubric"), self.rubric.name)).unique().to_pylist()
        mine = ending_of(self.judge).casefold()
        for name in names:
            if name != self.judge and ending_of(name).casefold() == mine:
                raise UsageError(
                    f"--judge {self.judge}: `{name}` has judged these rows, and its columns have the same names",
                    hint="choose a name that differs in more than `-`, `.`, `_` and capitals",
                )

    def _request(self, call: Call, turn: int) -> Request:
        parameters: dict[str, Any] = {"logprobs": True, "top_logprobs": 20} if self.soft else {}
        schema = self.rubric.schemas.get(call.name) if self.structured else None
        if schema is not None:
            parameters["response_format"] = json_format(f"{self.rubric.name}_{call.name}", schema)
        parameters |= {**call.parameters, **self.parameters}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        return Request(self.model, call.parts, parameters, turn)

    def _prepared(self, batch: Batch) -> Iterator[tuple[int, _Row, list[Call]]]:
        """The calls of each row, in order; images are read and encoded in threads, a few rows ahead."""
        rows = batch.rows
        edited = list(image_references(row_images(rows, edited_column(rows.schema, self.edited))))
        other = list(image_references(row_images(rows, self.other))) if self.other else [None] * rows.num_rows
        sources = source_references(rows)
        texts = instructions(rows, self.language, self.instruction)
        tasks, origins = column_values(rows, "task"), column_values(rows, "provenance")
        cases = column_values(rows, "case")
        spoken = self._spoken(rows)

        def prepare(row: int) -> tuple[int, _Row, list[Call]]:
            try:
                text = texts[row]
                if text is None and self.rubric.instructed:
                    raise RowError("no instruction" if self.language is None else f"no instruction in {self.language}")
                case = JudgedEdit(
                    task=self._task(tasks[row], origins[row] or {}, cases[row]),
                    instruction=text or "",
                    sources=tuple(self._bytes(item, "source") for item in sources[row]),
                    edited=self._bytes(edited[row], "edited"),
                    other=self._bytes(other[row], "second") if self.other else None,
                    turns=tuple(self._turns(*spoken[row])) if spoken else (),
                    facts=_facts(cases[row] or {}),
                )
                calls = self.rubric.ask(case, self.prompts, self.encoding)
            except RowError as error:
                return row, _Row(missing=str(error)), []
            slim = JudgedEdit(case.task, case.instruction, (), b"", facts=case.facts)
            bare = {c.name: Call(c.name, (c.text,), c.encoding, c.parameters) for c in calls}
            return row, _Row(case=slim, calls=bare), calls

        if self.jobs < 2:
            yield from map(prepare, range(rows.num_rows))
            return
        with ThreadPoolExecutor(self.jobs) as pool:
            ahead: deque[Future[tuple[int, _Row, list[Call]]]] = deque()
            for row in range(rows.num_rows):
                ahead.append(pool.submit(prepare, row))
                if len(ahead) > 2 * self.jobs:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _spoken(self, rows: pa.RecordBatch) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
        """The turns of every row and the images that came of them, where the rubric is about dialogues."""
        if "turns" not in self.rubric.images:
            return []
        made = list_references(rows, f"{edited_column(rows.schema, self.edited)}_turns")
        return [(turns or [], shown) for turns, shown in zip(column_values(rows, "turns"), made)]

    def _turns(self, turns: list[dict[str, Any]], shown: list[dict[str, Any]]) -> Iterator[JudgedTurn]:
        if len(turns) != len(shown):
            raise RowError("no picture of some turn", f"{len(shown)} images of {len(turns)} turns")
        for turn, image in zip(turns, shown):
            said = turn["instruction"] or {}
            text = said.get(self.language) if self.language else next((text for text in said.values() if text), None)
            if text is None:
                raise RowError("no instruction of some turn")
            parent = -1 if turn["parent"] is None else turn["parent"]
            yield JudgedTurn(text, turn["kind"], parent, self._bytes(image, "turn"))

    def _bytes(self, reference: dict[str, Any] | None, which: str) -> bytes:
        if reference is None:
            raise RowError(f"no {which} picture")
        return bytes(self.fetcher.get(reference))

    def _task(self, task: str | None, origin: Mapping[str, Any], case: Mapping[str, Any] | None) -> str:
        """The name under which the rubric knows a row's task: canonical, or the benchmark's own."""
        if case is not None and self.rubric.benchmark is not None:
            return str(case["task"])
        if task is None:
            if not self.rubric.instructed:
                return ""
            raise RowError("no task")
        if self.rubric.tasks is not None and task not in self.rubric.tasks:
            raise RowError(NOT_ASKED, task)
        if self.rubric.benchmark is None:
            return task
        native = origin.get("native_task")
        if native is not None and native in self.prompts:
            return native
        named = benchmarks()[self.rubric.benchmark].canonical if self.rubric.benchmark in benchmarks() else {}
        known = [name for name, canonical in named.items() if canonical == task and name in self.prompts]
        return known[0] if known else native or task

    # ---------------------------------------------------------------- reading

    def _finish(self, entry: _Waiting) -> Batch:
        schema = self.schema(entry.batch.rows.schema)
        made = [self._judge(row) for row in entry.rows]
        for judgements, _ in made:
            self._count(self.counts, judgements)
        rows = entry.batch.rows
        lists = [self._others(before) + judgements for before, (judgements, _) in zip(judgements_of(rows), made)]
        beside = {COLUMN: pa.array(lists, pa.list_(JUDGEMENT))}
        scores = [scores for _, scores in made]
        return entry.batch.replace(add_scores(rows, schema, self.score_names(), scores, beside))

    def _others(self, judgements: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A row's judgements by other judges and rubrics; the rest is about to be replaced. An ensemble of judges that
        this one was not among, or whose scores it had before, is none any more.
        """
        mine, rubric = (self.rubric.name, self.judge), self.rubric.name
        self.replaced += any((one["rubric"], one["judge"]) == mine for one in judgements)
        return [one for one in judgements if one["rubric"] != rubric or one["judge"] not in (self.judge, ENSEMBLE)]

    def recount(self, batches: Iterator[Batch]) -> JudgedCounts:
        """`counts` of rows that such a stage wrote, in this run or in an earlier one."""
        counts = JudgedCounts()
        for batch in batches:
            for judgements in column_values(batch.rows, COLUMN):
                self._count(counts, judgements[-self.passes * len(self.rubric.dimensions) :])
        return counts

    def has_state(self, path: str, states: Set[str]) -> bool:
        """Whether a Parquet file of judged rows has a judgement by this rubric and judge in one of the states."""
        import pyarrow.parquet as pq

        with files.open_read(path) as file:
            column = pq.read_table(file, columns=[COLUMN]).column(COLUMN)
        found = pc.list_flatten(column).combine_chunks()
        named = found.field("judge")
        mine = pc.and_(
            pc.equal(found.field("rubric"), self.rubric.name),
            named.is_null() if self.judge is None else pc.fill_null(pc.equal(named, self.judge), False),
        )
        return pc.any(pc.and_(mine, pc.is_in(found.field("state"), pa.array(sorted(states))))).as_py() or False

    def _count(self, counts: JudgedCounts, judgements: list[dict[str, Any]]) -> None:
        counts.rows += 1
        counts.asked += any(one["state"] != "missing" for one in judgements)
        counts.scored += any(one["score"] is not None for one in judgements)
        counts.failed += any(one["state"] in ("failed", "unparsed") for one in judgements)

    def _judge(self, row: _Row) -> tuple[list[dict[str, Any]], dict[str, float | None]]:
        """The judgements of a row, by pass and dimension, and its scores by column name."""
        judgements = [one for turn in range(self.passes) for one in self._pass(row, turn)]
        scores: dict[str, float | None] = {}
        for dimension in self.rubric.dimensions:
            name = functools.partial(score_name, self.rubric.name, dimension.name, self.judge)
            mine = [one for one in judgements if one["dimension"] == dimension.name]
            values = [one["score"] for one in mine if one["score"] is not None]
            scores[name()] = rounded(math.fsum(values) / len(values)) if values else None
            if self.passes > 1:
                bounds = mean_interval(values, dimension.low, dimension.high)
                scores[name("_low")], scores[name("_high")] = bounds or (None, None)
            if self.soft:
                scores[name("_soft")] = rounded(soft_score([one["soft"] for one in mine]))
        return judgements, scores

    def _pass(self, row: _Row, turn: int) -> Iterator[dict[str, Any]]:
        read: dict[str, Scores] = {}
        soft: dict[str, Mapping[str, float]] = {}
        wrong: dict[str, tuple[str, str | None]] = {}
        for name in row.calls:
            reply = row.replies.get((turn, name)) or Reply("failed", error="no reply")
            parsed = self._read(row, name, reply)
            if not isinstance(parsed, Scores):
                wrong[name] = parsed
                continue
            read[name] = parsed
            if self.soft and reply.text is not None:
                expected = soft_values(reply.text, reply.logprobs, parsed.spans, self.rubric.ratings)
                known = {label: value for label, value in expected.items() if value is not None}
                if set(known) == set(parsed.values):
                    soft[name] = known
        numbers = {name: scores.values for name, scores in read.items()}
        for dimension in self.rubric.dimensions:
            yield self._judgement(row, turn, dimension, numbers, soft, wrong)

    def _read(self, row: _Row, name: str, reply: Reply) -> Scores | tuple[str, str | None]:
        if reply.state not in ("ok", "unparsed"):
            return reply.state, reply.error
        parsed = self._parsed(row, name, reply.text or "")
        return ("unparsed", parsed.reason) if isinstance(parsed, Unparsed) else parsed

    def _check(self, row: _Row, name: str, text: str) -> None:
        """Raises ValueError for a reply, by its text, that no score can be read from."""
        parsed = self._parsed(row, name, text)
        if isinstance(parsed, Unparsed):
            raise ValueError(parsed.reason)

    def _parsed(self, row: _Row, name: str, text: str) -> Scores | Unparsed:
        assert row.case is not None
        return self.rubric.read(text, name, row.case, self.prompts)

    def _judgement(
        self,
        row: _Row,
        turn: int,
        dimension: Dimension,
        numbers: Numbers,
        soft: Numbers,
        wrong: Mapping[str, tuple[str, str | None]],
    ) -> dict[str, Any]:
        result: dict[str, Any] = {child.name: None for child in JUDGEMENT}
        result.update(rubric=self.rubric.name, judge=self.judge, dimension=dimension.name)
        result.update(endpoint=self.endpoint, model=self.model)
        result["pass"] = turn
        made = [name for name in dimension.calls if name in row.calls]
        if not made:
            reason = row.missing or NOT_ASKED
            result.update(state="missing", error=reason)
            return result
        replies = {name: row.replies.get((turn, name)) for name in made}
        answered = [reply for reply in replies.values() if reply is not None]
        texts = {name: reply.text for name, reply in replies.items() if reply is not None}
        result["reply"] = texts.get(made[0]) if len(made) == 1 else json.dumps(texts, ensure_ascii=False)
        result["model"] = next((reply.model for reply in answered if reply.model), self.model)
        result["endpoint"] = next((reply.client for reply in answered if reply.client), self.endpoint)
        result["prompt_hash"] = prompt_hash([row.calls[name].text for name in made])
        result["image_encoding"] = row.calls[made[0]].encoding
        failures = [wrong[name] for name in made if name in wrong]
        if failures:
            result["state"], result["error"] = failures[0]
            return result
        mine = {name: numbers[name] for name in made}
        try:
            result["score"] = rounded(dimension.value(mine))
        except KeyError:  # a number that this call was not asked for
            result.update(state="missing", error=NOT_ASKED)
            return result
        result["state"] = "ok"
        if all(name in soft for name in made):
            result["soft"] = rounded(dimension.value({name: soft[name] for name in made}))
        return result


def _as_written(rows: pa.RecordBatch) -> pa.ListArray:
    """The column `judgements` as it is written today: files from before judges had names lack that field."""
    schema = pa.schema([(COLUMN, pa.list_(JUDGEMENT))])
    return align(rows.select([COLUMN]), schema).column(0)


def judgements_of(rows: pa.RecordBatch) -> list[list[dict[str, Any]]]:
    """Earlier judgements of each row; none where the column is missing or null."""
    said = _as_written(rows).to_pylist() if COLUMN in rows.schema.names else [None] * rows.num_rows
    return [judgements or [] for judgements in said]


_REFERENCES = ("reference_img", "gt_img")  # facts that name an image


def _facts(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a benchmark's case says beyond its instruction (bench/case_list.py); images are read. Raises RowError."""
    facts = json.loads(case.get("facts") or "{}")
    if case:
        facts["category"] = case["task"]
    for name in _REFERENCES:
        if isinstance(facts.get(name), str):
            try:
                facts[name] = Path(facts[name]).read_bytes()
            except OSError as error:
                raise RowError("no reference picture", f"{facts[name]}: {error.strerror}") from None
    return facts


def mean_interval(values: list[float], low: float, high: float) -> tuple[float, float] | None:
    """The 95% interval of the mean of repeated passes, within the scale; None for fewer than MIN_CASES.

    It speaks of the judge's own scatter only, not of other rows or other judges.
    """
    count = len(values)
    if count < MIN_CASES:
        return None
    mean = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_half(spread, count)
    return significant(max(low, mean - half)), significant(min(high, mean + half))


def calls_of(rubric: Rubric, rows: int, passes: int = 1) -> int:
    """How many calls judging takes, at most."""
    return len({name for dimension in rubric.dimensions for name in dimension.calls}) * rows * passes
