"""Checks of painted edits: what is measured on a finished one, and the bound that it has to keep.

A check is one file of checks/; what it declares as literals is read without importing it:

    HELP     what the manual says of it
    LEAST    the number that an edit has to reach, or
    MOST     the one that it may not exceed
    WEIGHTS  of one that asks a model: what it is told where nothing is named; "" of one that has to be told

`load(told, **placed)` makes a Check; `placed` are device and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edittools.errors import UsageError
from edittools.metrics.boxes import mask_box
from edittools.rounding import significant
from edittools.synth.painting import Plan
from edittools.synth.registry import CHECKS


@dataclass(frozen=True)
class Painted:
    """A finished edit."""

    source: np.ndarray  # uint8 HxWx3
    target: np.ndarray  # the same shape
    paint: np.ndarray  # bool HxW: where any paint was laid
    plan: Plan

    @property
    def box(self) -> tuple[int, int, int, int]:
        """About the paint: left, top, right, bottom in pixels."""
        box = mask_box(self.paint)
        assert box is not None
        left, top, right, bottom = (int(side) for side in box)
        return left, top, right, bottom


class Check(Protocol):
    def measure(self, edits: Sequence[Painted]) -> list[float | None]:
        """A number of every edit; None where it has nothing to say. Safe in threads."""


@dataclass(frozen=True)
class CheckOption:
    """A check as the user asks for it: NAME[=TOLD][:BOUND]."""

    name: str
    told: str
    bound: float
    lowest: bool  # whether the bound is the least or the most

    @classmethod
    def parse(cls, spec: str) -> CheckOption:
        """Raises UsageError."""
        head, colon, tail = spec.rpartition(":")
        bound = _number(tail) if colon else None
        name, _, told = (spec if bound is None else head).partition("=")
        if (plain := name.partition(":")[0]) in CHECKS.names and plain != name:
            raise UsageError(f"--check {spec}: its bound is no number")
        if name not in CHECKS.names:
            raise UsageError(f"--check {spec}: there is no such check", hint=f"there are: {', '.join(CHECKS.names)}")
        least, most = CHECKS.declared("LEAST")[name], CHECKS.declared("MOST")[name]
        told = told or CHECKS.declared("WEIGHTS", "")[name]
        usual = least if least is not None else most
        return cls(name, told, usual if bound is None else bound, least is not None)

    def kept(self, value: float | None) -> bool:
        """Whether an edit of this value passes; what a check has nothing to say of does."""
        return value is None or (value >= self.bound if self.lowest else value <= self.bound)

    def good(self, value: float | None) -> float:
        """The higher the better."""
        return -math.inf if value is None else value if self.lowest else -value

    @property
    def described(self) -> str:
        """What the history records: name, what it is told by content, and the bound."""
        from edittools.weights.digest import model_digest

        if not self.told:
            return f"{self.name}:{self.bound:g}"
        inner, equals, weights = self.told.partition("=")
        told = f"{inner}={model_digest(weights)}" if equals else model_digest(inner)
        return f"{self.name}={told}:{self.bound:g}"


@dataclass(frozen=True)
class CheckResult:
    """What the checks say of one edit."""

    values: dict[str, float | None]
    failed: CheckOption | None  # the first check that it failed

    @property
    def reason(self) -> str:
        assert self.failed is not None
        return f"check {self.failed.name}"

    @property
    def value(self) -> float | None:
        return None if self.failed is None else self.values[self.failed.name]


class Checks:
    """All checks of a run."""

    def __init__(self, asked: Sequence[CheckOption], **placed: str) -> None:
        self.asked = asked
        self.loaded = {one.name: CHECKS.load(one.name).load(one.told, **placed) for one in asked}

    def __call__(self, edits: Sequence[Painted]) -> list[CheckResult]:
        """The verdict on every edit. What failed one check is not shown to those behind it, which may be dear."""
        values: list[dict[str, float | None]] = [{} for _ in edits]
        failed: list[CheckOption | None] = [None] * len(edits)
        for one in self.asked:
            open_ones = [k for k, why in enumerate(failed) if why is None]
            for k, value in zip(open_ones, self.loaded[one.name].measure([edits[k] for k in open_ones])):
                values[k][one.name] = None if value is None else significant(value)
                failed[k] = None if one.kept(value) else one
        return [CheckResult(*each) for each in zip(values, failed)]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
