"""What a rubric is: the calls that it makes of a case, how the reply to each is read, how the numbers become scores.

Ours stand in `judge/rubrics/`, those of a public benchmark in its own file in `suites/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edittools.rubric.calls import Call, JudgedEdit, Prompts
from edittools.rubric.parsing import Scores, Unparsed
from edittools.rubric.prompts import PromptLayout
from edittools.vlm.images import Encoding

Numbers = Mapping[str, Mapping[str, float]]
"""Numbers of a reply: call -> label -> number."""

NOT_ASKED = "the rubric does not ask for it here"


@dataclass(frozen=True)
class Dimension:
    """One score, between `low` and `high`: `value` makes it from the numbers of those of `calls` that were made.

    It exists only where each of these calls was answered and read.
    """

    name: str
    calls: tuple[str, ...]
    value: Callable[[Numbers], float]
    low: float
    high: float
    meaning: str = ""  # for people who rate by it


@dataclass(frozen=True)
class Rubric:
    """A way to judge. `ask` makes the calls of a case; `read` parses the reply to one, given the call's name.

    One with a `layout` has the texts of a benchmark, which the user's checkout of it holds; the others are our wording.
    """

    name: str
    summary: str
    dimensions: tuple[Dimension, ...]
    ask: Callable[[JudgedEdit, Prompts, Encoding], list[Call]]
    read: Callable[[str, str, JudgedEdit, Prompts], Scores | Unparsed]
    ratings: tuple[int, ...]  # V of the soft score: the ratings that a token may say
    layout: PromptLayout | None = None  # where its texts are found
    suite: str | None = None  # of a benchmark that has no rubric for it: this one, ours, is
    images: tuple[str, ...] = ("source", "edited")
    instructed: bool = True  # whether it speaks of instruction and task, which rows then have to have
    tasks: tuple[str, ...] | None = None  # canonical tasks it has words for; None: any
    schemas: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # JSON schema of each call's reply
    number: str = ""  # label of the one number that is its whole reply, where it is

    @property
    def benchmark(self) -> str | None:
        """Whose texts it needs."""
        return None if self.layout is None else self.layout.benchmark

    def labels(self, call: str) -> tuple[str, ...]:
        """Labels of the numbers that the reply to a call has; none where only `read` knows them."""
        if self.number:
            return (self.number,)
        properties = self.schemas.get(call, {}).get("properties", {})
        return tuple(name for name, kind in properties.items() if kind["type"] == "integer")

    def reply(self, call: str, numbers: Mapping[str, int]) -> str:
        """The reply to a call that says these numbers, by `labels`, without reasons: what a judge can be taught."""
        said = {label: numbers[label] for label in self.labels(call)}
        return str(said[self.number]) if self.number else json.dumps(said)


def scores_schema(keys: tuple[str, ...], low: int, high: int) -> dict[str, Any]:
    """The JSON schema of a reply: the rationale first, then an integer per key."""
    ratings: dict[str, Any] = {key: {"type": "integer", "enum": list(range(low, high + 1))} for key in keys}
    properties = {"rationale": {"type": "string"}, **ratings}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def number_of(call: str, label: str) -> Callable[[Numbers], float]:
    """The number itself as a score."""
    return lambda numbers: numbers[call][label]


def capped(call: str, label: str, first: str) -> Callable[[Numbers], float]:
    """A number that does not exceed the first one of its reply."""
    return lambda numbers: min(numbers[call][label], numbers[call][first])
