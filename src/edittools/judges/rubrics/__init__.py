"""Rubrics, one per file: the file name is the registry.

A rubric is a module with `RUBRIC`. It says which calls it makes of a case, how the reply to each is read, and how
the numbers become scores. Those without a `benchmark` are our own wording; the others are a benchmark's
and take its texts from the user's checkout of it (`benchmark` says of which).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from edittools.errors import UsageError
from edittools.judges.parsing import Scores, Unparsed
from edittools.judges.protocols import Call, Case, Encoding, Prompts

Numbers = Mapping[str, Mapping[str, float]]
"""What was read: call -> label -> number."""


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


@dataclass(frozen=True)
class Rubric:
    """A way to judge. `ask` makes the calls of a case; `read` parses the reply to one, given the call's name."""

    name: str
    summary: str
    dimensions: tuple[Dimension, ...]
    ask: Callable[[Case, Prompts, Encoding], list[Call]]
    read: Callable[[str, str, Case, Prompts], Scores | Unparsed]
    ratings: tuple[int, ...]  # V of the soft score: the ratings that a token may say
    benchmark: str | None = None  # whose prompts it needs
    suite: str | None = None  # of a benchmark that has no rubric for it: this one, ours, is
    pictures: tuple[str, ...] = ("source", "edited")
    tasks: tuple[str, ...] | None = None  # canonical tasks it has words for; None: any
    schemas: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # JSON schema of each call's reply


@lru_cache(maxsize=1)
def rubric_names() -> tuple[str, ...]:
    """All rubrics, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load_rubric(name: str) -> Rubric:
    if name not in rubric_names():
        raise UsageError(f"no rubric `{name}`", hint="there are: " + ", ".join(rubric_names()))
    return importlib.import_module(f"{__name__}.{name}").RUBRIC


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
