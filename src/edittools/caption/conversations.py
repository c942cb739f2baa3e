"""Conversations of many rows with a model, side by side: every row's kinds ask, wait for the reply, ask again.

Questions of a row that look at the same images at the same moment go out as one, so that images are sent once. A reply
that is no valid answer is asked for again with the reason; one that was cut off, with more room. Everything asked is
decided by the row, the settings and the replies before, so that a run that is repeated finds all its replies stored.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edittools.caption.kind import Conversation, Eliminated, Kind, Look, NotAsked, Question, Row
from edittools.caption.schemas import form, read_answer, record, strict
from edittools.errors import EditError, RowError
from edittools.vlm import CUT_OFF, EncodedImage, Reply, Request, json_format
from edittools.vlm.refusals import MOST_TOKENS

Encode = Callable[[Row, Look], EncodedImage]

_MOST_BATCHES = 64  # that are under way, or complete and wait for the caller, who looks when a reply arrives
_MOST_TOKENS = 8192  # that a reply which was cut off is given room for, at most, or four times the user's own limit


@dataclass
class Outcome:
    """What became of one kind of one row. `state`: ok, missing (nothing to ask), or why there is no answer."""

    state: str
    values: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    models: list[str] = field(default_factory=list)  # the snapshots that answered, in order, each once
    endpoint: str | None = None
    calls: int = 0
    prompts: list[str] = field(default_factory=list)  # the texts of what was asked


@dataclass
class _Talk:
    """One kind's conversation about one row."""

    name: str
    kind: Kind
    conversation: Conversation
    outcome: Outcome
    question: Question | None = None  # that waits for its answer
    problem: str | None = None  # of its last reply
    tries: int = 0
    room: int = 0  # tokens for the answer, where more than the question's own


@dataclass
class _Asked:
    """What one request asks: one question, or several about the same images."""

    row: _Open
    talks: list[_Talk]
    read: dict[str, Any] | None = None  # answers by kind, or the ValueError that says what is wrong with one


@dataclass
class _Open:
    """A row whose conversations are going on."""

    batch: int
    number: int
    row: Row
    waiting: dict[str, Kind]  # kinds that begin when those which they read from have ended
    running: dict[str, _Talk] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    eliminated: RowError | None = None
    flying: int = 0  # requests on their way

    @property
    def ended(self) -> bool:
        return not self.waiting and not self.running and not self.flying


@dataclass(frozen=True)
class Manner:
    """How questions are sent."""

    model: str
    parameters: Mapping[str, Any]  # replace those of a question; None leaves one out
    structured: bool  # by JSON schema, where the backend can
    bounded: bool  # whether the schema is sent with its bounds on lengths
    attempts: int  # replies at most that are asked for in one place
    encode: Encode
    examples: Callable[[str, Row], str]  # the user's examples of a kind, as text


class Conversations:
    """All rows of a run. `requests` is drawn from by the asking side in threads of its own; `answer` takes what comes
    back, and `finished` hands over the batches that are complete, in order.
    """

    def __init__(self, batches: Iterator[tuple[Any, list[Row]]], kinds: Mapping[str, Kind], manner: Manner) -> None:
        """`batches` are (whatever the caller knows it by, its rows)."""
        self.batches, self.kinds, self.manner = batches, kinds, manner
        self.condition = threading.Condition()
        self.queue: deque[_Asked] = deque()  # questions of rows that are under way
        self.asked: dict[int, _Asked] = {}
        self.open: dict[int, tuple[Any, list[_Open]]] = {}  # by batch
        self.unfinished: dict[int, int] = {}  # batch -> rows that are under way
        self.order: deque[int] = deque()
        self.tags = 0
        self.closed = False

    # ------------------------------------------------------------ asking (threads of the asking side)

    def requests(self) -> Iterator[tuple[int, Callable[[], Request]]]:
        """(tag, what makes the request). Waits for replies where only they can lead to more questions."""
        fresh, more = self._rows(), True
        while True:
            with self.condition:
                # Nothing to ask but of further rows: not while the head of the line holds up too many batches.
                while not self.queue and self.asked and not self.closed and (not more or self._full):
                    self.condition.wait()
                if self.closed:
                    return
                item = self.queue.popleft() if self.queue else None
            if item is not None:
                yield self._tagged(item)
            elif not more:
                return
            elif (row := next(fresh, None)) is None:
                more = False
            else:
                self._enqueue(row, self._begin(row))
                if row.ended:
                    self._ended(row)
                if self._full and not self.asked and not self.queue:
                    yield self._tagged(_Asked(row, []))  # about nothing: has the caller take them

    @property
    def _full(self) -> bool:
        """Whether as many batches as may are under way, or wait for the caller."""
        return len(self.unfinished) > _MOST_BATCHES

    def _tagged(self, item: _Asked) -> tuple[int, Callable[[], Request]]:
        with self.condition:
            self.tags += 1
            self.asked[self.tags] = item
            return self.tags, lambda: self._request(item)

    def _rows(self) -> Iterator[_Open]:
        for number, (batch, rows) in enumerate(self.batches):
            opened = [_Open(number, k, row, dict(self.kinds)) for k, row in enumerate(rows)]
            with self.condition:
                self.open[number] = batch, opened
                self.unfinished[number] = len(opened)
                self.order.append(number)
            yield from opened

    def _enqueue(self, row: _Open, groups: list[list[_Talk]]) -> None:
        with self.condition:
            for group in groups:
                row.flying += 1
                self.queue.append(_Asked(row, group))
            self.condition.notify_all()

    def _request(self, item: _Asked) -> Request:
        """Raises RowError for an image that cannot be read."""
        questions = [(talk, talk.question) for talk in item.talks if talk.question is not None]
        if not questions:  # the row was eliminated meanwhile
            raise RowError("nothing to ask")
        first = questions[0][1]
        parts: list[str | EncodedImage] = []
        for number, look in enumerate(first.looks, start=1):
            label = f" ({look.label})" if look.label else ""
            parts += [f"Image {number}{label}:", self.manner.encode(item.row.row, look)]
        text = self._text(item.row.row, questions)
        parts.append(text)
        schema = first.schema if len(questions) == 1 else record(**{talk.name: q.schema for talk, q in questions})
        tokens = sum(talk.room or question.max_tokens for talk, question in questions)
        parameters: dict[str, Any] = {"max_tokens": min(tokens, _MOST_TOKENS)}
        if self.manner.structured:
            name = "_".join(re.sub(r"\W", "_", talk.name) for talk, _ in questions)[:64]
            form_ = schema if self.manner.bounded else strict(schema)
            parameters["response_format"] = json_format(name, form_)
        parameters |= self.manner.parameters
        if room := questions[0][0].room:  # such a question is asked alone
            parameters |= {name: room for name in MOST_TOKENS if parameters.get(name) is not None}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        request = Request(first.model or self.manner.model, tuple(parts), parameters)
        for talk, _ in questions:
            talk.outcome.prompts.append(text)
            talk.outcome.calls += 1
        return request

    def _text(self, row: Row, questions: list[tuple[_Talk, Question]]) -> str:
        if len(questions) == 1:
            talk, question = questions[0]
            again = f"\n\nYour last answer could not be used: {talk.problem}. Answer anew, completely."
            return (
                f"{question.text}{self._examples(row, talk, question)}\n\nAnswer with one JSON object and nothing "
                f"else, of this form:\n{form(question.schema)}{again if talk.problem else ''}"
            )
        tasks = [
            f"Task `{talk.name}`\n{question.text}{self._examples(row, talk, question)}" for talk, question in questions
        ]
        whole = form(record(**{talk.name: question.schema for talk, question in questions}))
        return (
            f"There are {len(tasks)} tasks about what is shown. Do each for itself.\n\n"
            + "\n\n".join(tasks)
            + f"\n\nAnswer with one JSON object and nothing else, a key for each task, of this form:\n{whole}"
        )

    def _examples(self, row: Row, talk: _Talk, question: Question) -> str:
        return self.manner.examples(talk.name, row) if question.examples else ""

    # ------------------------------------------------------------ conversations

    def _begin(self, row: _Open) -> list[list[_Talk]]:
        """Begin the kinds of a row that wait for no other one. Returns the groups of questions to be asked."""
        talks: list[_Talk] = []
        progress = True
        while progress and row.eliminated is None:  # a kind that asks nothing may set another one free
            progress = False
            for name, kind in list(row.waiting.items()):
                if any(other in row.waiting or other in row.running for other in self._before(kind)):
                    continue
                del row.waiting[name]
                progress = True
                talk = _Talk(name, kind, kind.converse(row.row), Outcome("missing"))
                row.running[name] = talk
                if self._step(row, talk, functools.partial(next, talk.conversation)):
                    talks.append(talk)
        return self._grouped(talks)

    def _before(self, kind: Kind) -> list[str]:
        """The kinds of this run that have to end before this one begins; `*` are all that write something."""
        if "*" in kind.after:
            return [name for name, other in self.kinds.items() if "*" not in other.after]
        return [name for name in kind.after if name in self.kinds]

    def _grouped(self, talks: list[_Talk]) -> list[list[_Talk]]:
        """Questions about the same images, to the same model, together; each without images, and each one that is asked
        again, for itself."""
        groups: dict[Any, list[_Talk]] = {}
        for talk in talks:
            question = talk.question
            assert question is not None
            alone = not question.looks or talk.problem is not None or talk.room
            key = (talk.name,) if alone else (tuple(replace(look, label="") for look in question.looks), question.model)
            groups.setdefault(key, []).append(talk)
        return list(groups.values())

    def _step(self, row: _Open, talk: _Talk, advance: Callable[[], Question]) -> bool:
        """Let a conversation go on. Returns whether it has a question; otherwise it has ended."""
        try:
            talk.question = advance()
            talk.problem, talk.tries, talk.room = None, 0, 0
            return True
        except StopIteration as end:
            self._end(row, talk, "ok", values=end.value or {})
        except NotAsked as error:
            self._end(row, talk, "missing", str(error))
        except Eliminated as error:
            self._end(row, talk, "eliminated", str(error))
            row.eliminated = row.eliminated or error
            for other in list(row.running.values()):  # nothing more is paid for about this row
                self._end(row, other, "missing", "the row was eliminated")
            row.waiting.clear()
        except RowError as error:
            self._end(row, talk, "failed", str(error))
        return False

    def _end(
        self, row: _Open, talk: _Talk, state: str, error: str | None = None, values: Mapping[str, Any] | None = None
    ) -> None:
        talk.conversation.close()
        talk.question = None
        outcome = talk.outcome
        outcome.state, outcome.error, outcome.values = state, error, values or {}
        row.outcomes[talk.name] = outcome
        row.running.pop(talk.name, None)
        if values:
            row.row.values.update(values)

    # ------------------------------------------------------------ answers (the caller's thread)

    def check(self, tag: int, text: str) -> None:
        """Read a reply, once. Raises ValueError where some question in it has no valid answer."""
        item = self.asked[tag]
        item.read = {}
        for talk in item.talks:
            if talk.question is not None:
                item.read[talk.name] = _read(text, talk, alone=len(item.talks) == 1)
        for value in item.read.values():
            if isinstance(value, ValueError):
                raise value

    def answer(self, tag: int, reply: Reply) -> None:
        """Take a reply; what it leads to is asked next."""
        with self.condition:
            item = self.asked[tag]
        row = item.row
        if not item.talks:
            with self.condition:
                del self.asked[tag]
                self.condition.notify_all()
            return
        if item.read is None and reply.text and reply.state == "ok":
            with contextlib.suppress(ValueError):
                self.check(tag, reply.text)
        talks = [talk for talk in item.talks if talk.question is not None]
        going = [talk for talk in talks if self._take(row, talk, reply, (item.read or {}).get(talk.name))]
        if row.eliminated is None:
            begun = [talk for group in self._begin(row) for talk in group] if row.waiting else []
            self._enqueue(row, self._grouped([talk for talk in [*going, *begun] if talk.question is not None]))
        with self.condition:
            del self.asked[tag]
            row.flying -= 1
        if row.ended:
            self._ended(row)

    def _ended(self, row: _Open) -> None:
        with self.condition:
            self.unfinished[row.batch] -= 1
            self.condition.notify_all()

    def _take(self, row: _Open, talk: _Talk, reply: Reply, value: Any) -> bool:
        """Give a conversation its answer, if there is one. Returns whether it has a question, the same or the next."""
        question, outcome = talk.question, talk.outcome
        assert question is not None
        if reply.model and reply.model not in outcome.models:
            outcome.models.append(reply.model)
        outcome.endpoint = reply.client or outcome.endpoint
        if reply.state == "unparsed" and (reply.error or "").startswith(CUT_OFF):
            return self._ask_again(row, talk, "the answer was cut off", 2 * (talk.room or self._limit(question)))
        if isinstance(value, ValueError):
            return self._ask_again(row, talk, str(value))
        if reply.state not in ("ok", "unparsed") or value is None:
            self._end(row, talk, reply.state, reply.error)
            return False
        return self._step(row, talk, functools.partial(talk.conversation.send, value))

    def _limit(self, question: Question) -> int:
        """Tokens that an answer may have at first: the user's number, or else the question's own."""
        given = self.manner.parameters
        return next((given[name] for name in MOST_TOKENS if given.get(name) is not None), question.max_tokens)

    def _ask_again(self, row: _Open, talk: _Talk, problem: str, room: int = 0) -> bool:
        talk.tries += 1
        assert talk.question is not None
        most = max(_MOST_TOKENS, 4 * self._limit(talk.question))
        if talk.tries >= self.manner.attempts or room > most:
            self._end(row, talk, "unparsed", problem)
            return False
        talk.problem, talk.room = None if room else problem, room or talk.room
        return True

    def finished(self) -> Iterator[tuple[Any, list[_Open]]]:
        """The batches at the head of the line whose rows have all ended, with their outcomes."""
        while True:
            with self.condition:
                if not self.order or self.unfinished[self.order[0]]:
                    return
                number = self.order.popleft()
                del self.unfinished[number]
                self.condition.notify_all()
                done = self.open.pop(number)
            yield done

    def close(self) -> None:
        """Wake whoever waits for replies: there will be none."""
        with self.condition:
            self.closed = True
            self.queue.clear()
            self.condition.notify_all()


def _read(text: str, talk: _Talk, *, alone: bool) -> Any:
    """The answer to a question in a reply, or the ValueError that says why there is none. Of a common reply one task's
    part is looked at, whatever the others are.
    """
    question = talk.question
    assert question is not None
    try:
        return read_answer(text, question.schema, question.check, part=None if alone else talk.name)
    except ValueError as error:
        return error


def sampled(rows: Iterable[Row], kinds: Mapping[str, Kind], manner: Manner) -> Iterator[tuple[str, Request]]:
    """(kinds asked, request) of what rows would ask if every answer were the smallest that the schema takes."""
    from edittools.caption.schemas import specimen

    talks = Conversations(iter([(None, list(rows))]), kinds, manner)
    for tag, make in talks.requests():
        try:
            request = make()
        except RowError as error:
            talks.answer(tag, Reply("failed", error=str(error)))
            continue
        item = talks.asked[tag]
        names = [talk.name for talk in item.talks]
        answers = {talk.name: specimen(talk.question.schema) for talk in item.talks if talk.question is not None}
        yield "+".join(names), request
        text = json.dumps(answers if len(names) > 1 else answers[names[0]])
        with contextlib.suppress(EditError, ValueError):
            for talk in item.talks:
                if talk.question is not None:
                    talk.question = replace(talk.question, check=None)
            talks.answer(tag, Reply("ok", text))
        talks.asked.pop(tag, None)
